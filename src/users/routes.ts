import { Hono } from 'hono'
import * as v from 'valibot'
import { admit } from '../http/admit.ts'
import { allowedVersions, answerCacheable, etagOf } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { idsQuery, pageQuery, pageSchema } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { forgetCookie } from '../http/session.ts'
import { credentialsService } from '../credentials/credentials.ts'
import { accountsService } from '../sessions/sessions.ts'
import { followsService } from './follows.ts'
import { Confirmation, Following, NewAccount, OwnUser, ProfileChanges, User, UserId, Username } from './schema.ts'
import { usersService } from './users.ts'

const tag = 'Users'

/** The parts of the entity tag of a profile. */
const tagParts = (user: User) => [user.version, user.followersCount, user.followingsCount, user.postsCount]

/** A page of the followers or followings of a user. */
const followList = (list: 'followers' | 'followings', id: string, summary: string) =>
  new Hono<AppEnv>().get(
    `/:id/${list}`,
    doc({
      id,
      tag,
      summary,
      answer: pageSchema(User),
      headers: ['X-D1-Bookmark'],
      sends: ['ETag', 'X-D1-Bookmark'],
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('param', UserId),
    valid('query', pageQuery('f')),
    async (c) => {
      const { id } = c.req.valid('param')
      const { limit, cursor } = c.req.valid('query')
      const { use } = c.var
      const [page] = await c.var.caller.browse((viewer) =>
        Promise.all([use(followsService)[list](id, limit, cursor, viewer?.userId), use(usersService).get(id, viewer)]),
      )
      return answerCacheable(c, page, () => [id, ...page.items.map((user) => user.id)])
    },
  )

export const users = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      id: 'signUp',
      tag,
      summary: 'Sign up',
      description:
        'The password must not be a common one. The address receives a link to confirm it. Until then sign in with the ' +
        'username. The answer is the same if an account has the address already; the mail says so.',
      answer: OwnUser,
      status: 201,
      sends: ['Location'],
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'taken'],
    }),
    admit('sign-up', { session: 'none' }, { by: 'address' }),
    requireJson,
    valid('json', NewAccount),
    async (c) => {
      const { use } = c.var
      const account = c.req.valid('json')
      await use(credentialsService).refuseCommon(account.password)
      const id = await use(accountsService).signUp(account)
      c.header('Location', `/v1/users/${id}`)
      c.header('Cache-Control', 'no-store')
      return c.json(await use(usersService).getOwn(id), 201)
    },
  )
  .get(
    '/',
    doc({
      id: 'getUsers',
      tag,
      summary: 'Read users by ids',
      description:
        'The answer keeps the order of the ids and omits unknown ids. Counts as many requests as there are ids.',
      answer: pageSchema(User),
      sends: ['ETag'],
      problems: ['invalid-request'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('query', idsQuery('u')),
    async (c) => {
      const { ids } = c.req.valid('query')
      const users = c.get('use')(usersService)
      const items = await c.get('caller').browse((viewer) => users.getMany(ids, viewer))
      return answerCacheable(c, { items, nextCursor: null }, () => items.map((user) => user.id))
    },
  )
  .get(
    '/by-username/:username',
    doc({
      id: 'getUserByUsername',
      tag,
      summary: 'Read a user by username',
      description: 'Upper and lower case are equal.',
      answer: User,
      sends: ['ETag'],
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('param', Username),
    async (c) => {
      const { username } = c.req.valid('param')
      const users = c.var.use(usersService)
      const user = await c.var.caller.browse((viewer) => users.getByUsername(username, viewer))
      return answerCacheable(c, user, () => [user.id], ...tagParts(user))
    },
  )
  .get(
    '/:id',
    doc({
      id: 'getUser',
      tag,
      summary: 'Read a user',
      description: 'The owner also sees `email`.',
      answer: v.pipe(v.union([OwnUser, User]), v.description('The profile.')),
      sends: ['ETag'],
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('param', UserId),
    async (c) => {
      const { id } = c.req.valid('param')
      const caller = c.get('caller')
      const users = c.get('use')(usersService)
      const isOwner = caller.claims?.userId === id
      const [anyones, owner] = isOwner
        ? await Promise.all([users.get(id), caller.check()])
        : [await caller.browse((viewer) => users.get(id, viewer))]
      const isOwn = owner !== undefined
      const user = isOwn ? await users.getOwn(id) : anyones
      return answerCacheable(c, user, () => [id], ...tagParts(user), isOwn ? 'own' : 'any')
    },
  )
  .patch(
    '/me',
    doc({
      id: 'updateProfile',
      tag,
      summary: 'Change my profile',
      description:
        'Works without Redis. Then readers on other isolates may see the old profile for some minutes. With `If-Match`, a ' +
        'repeated change succeeds too.',
      answer: OwnUser,
      headers: ['If-Match'],
      sends: ['ETag'],
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'not-found',
        'version-changed',
        'unsupported-media-type',
      ],
    }),
    admit('profile', { session: 'required' }),
    requireJson,
    valid('json', ProfileChanges),
    async (c) => {
      const user = await c.var.use(usersService).update(c.var.userId, c.req.valid('json'), allowedVersions(c))
      c.header('ETag', etagOf(...tagParts(user), 'own'))
      c.header('Cache-Control', 'no-store')
      return c.json(user)
    },
  )
  .delete(
    '/me',
    doc({
      id: 'deleteAccount',
      tag,
      summary: 'Delete my account',
      description:
        'Requires the password. The account, its posts and its comments disappear from every answer at once, from caches ' +
        'within some seconds. Everything else that is stored about the user is then removed in steps, and the event ' +
        '`user_deleted` informs back ends. Username and email address are free again. It cannot be undone. Without Redis: ' +
        '503, because attempts cannot be counted.',
      status: 204,
      sends: ['Set-Cookie'],
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'wrong-password',
        'unsupported-media-type',
        'unavailable',
      ],
    }),
    forgetCookie,
    admit('credentials', { session: 'required' }),
    requireJson,
    valid('json', Confirmation),
    async (c) => {
      await c.var.use(accountsService).remove(c.var.userId, c.req.valid('json').password)
      return c.body(null, 204)
    },
  )
  .put(
    '/:id/follow',
    doc({
      id: 'followUser',
      tag,
      summary: 'Follow a user',
      description: 'Repeated requests count once. Works without Redis. Then cached counts follow later.',
      answer: Following,
      problems: ['invalid-request', 'not-signed-in', 'not-found'],
    }),
    admit('follows', { session: 'required' }),
    valid('param', UserId),
    async (c) => c.json(await c.var.use(followsService).follow(c.var.userId, c.req.valid('param').id)),
  )
  .delete(
    '/:id/follow',
    doc({
      id: 'unfollowUser',
      tag,
      summary: 'Unfollow a user',
      description: 'Succeeds if I do not follow the user. Works without Redis. Then cached counts follow later.',
      answer: Following,
      problems: ['invalid-request', 'not-signed-in', 'not-found'],
    }),
    admit('follows', { session: 'required' }),
    valid('param', UserId),
    async (c) => c.json(await c.var.use(followsService).unfollow(c.var.userId, c.req.valid('param').id)),
  )
  .route('/', followList('followers', 'listFollowers', 'List the followers of a user, latest first'))
  .route('/', followList('followings', 'listFollowings', 'List the users whom a user follows, latest first'))
