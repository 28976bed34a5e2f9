import { Hono } from 'hono'
import * as v from 'valibot'
import { admit, isOwn, readAsViewer, requireUserId } from '../http/admit.ts'
import { allowedVersions, etagOf, revalidate } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, id, idsQuery, pageOf, pageQuery, Time, written } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { Post } from '../posts/routes.ts'
import { notReserved } from './reserved.ts'

const tag = 'Users'

export const User = v.pipe(
  v.object({
    id: v.string(),
    username: v.string(),
    displayName: v.string(),
    bio: v.string(),
    followersCount: Count,
    followingsCount: Count,
    postsCount: Count,
    createdAt: Time,
    version: Count,
  }),
  v.metadata({ ref: 'User' }),
)

/** As its owner sees it. */
export const OwnUser = v.pipe(v.object({ ...User.entries, email: v.string() }), v.metadata({ ref: 'OwnUser' }))

const DisplayName = written({ max: 50 })

const Account = v.object({
  username: v.pipe(
    v.string(),
    v.regex(/^\w{3,30}$/, 'must be 3 to 30 letters, digits or underscores'),
    v.toLowerCase(),
    notReserved,
  ),
  email: v.pipe(v.string(), v.trim(), v.email('must be an email address'), v.maxLength(254, 'is too long')),
  password: v.pipe(
    v.string(),
    v.minLength(8, 'must have at least 8 characters'),
    v.maxLength(200, 'must have at most 200 characters'),
  ),
  displayName: DisplayName,
})

const ProfileChanges = v.pipe(
  v.strictObject({
    displayName: v.exactOptional(DisplayName),
    bio: v.exactOptional(written({ max: 160, isLong: true, isOptional: true })),
  }),
  v.forward(
    v.check((changes) => Object.keys(changes).length > 0, 'must be given, or bio'),
    ['displayName'],
  ),
)

const Following = v.object({ isFollowing: v.boolean(), followersCount: Count })

const UserId = v.object({ id: id('u') })
const Username = v.object({
  username: v.pipe(v.string(), v.regex(/^\w{1,30}$/, 'must be 1 to 30 letters, digits or underscores')),
})

/** The users at one end of the follows of a user. */
const follows = (list: 'followers' | 'followings', summary: string) =>
  new Hono<AppEnv>().get(
    `/:id/${list}`,
    doc({ tag, summary, answer: pageOf(User), problems: ['invalid-request', 'not-found'] }),
    admit('reads', 'ignored'),
    valid('param', UserId),
    valid('query', pageQuery('f')),
    async (c) => {
      const user = c.req.valid('param').id
      const page = c.req.valid('query')
      const { users, follows } = c.var.services
      const [answer] = await Promise.all([follows[list](user, page.limit, page.cursor), users.get(user)])
      revalidate(c)
      return c.json(answer)
    },
  )

export const users = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      tag,
      summary: 'Sign up',
      answer: OwnUser,
      status: 201,
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'taken'],
    }),
    admit('sign-up', 'ignored'),
    requireJson,
    valid('json', Account),
    async (c) => {
      const { accounts, users } = c.var.services
      const id = await accounts.signUp(c.req.valid('json'))
      c.header('Location', `/v1/users/${id}`)
      c.header('Cache-Control', 'no-store')
      return c.json(await users.getOwn(id), 201)
    },
  )
  .get(
    '/',
    doc({
      tag,
      summary: 'Read users by ids',
      description: 'In the order asked; ids that nobody has are left out.',
      answer: pageOf(User),
      problems: ['invalid-request'],
    }),
    admit('reads', 'ignored'),
    valid('query', idsQuery('u')),
    async (c) => {
      const items = await c.var.services.users.getMany(c.req.valid('query').ids)
      revalidate(c)
      return c.json({ items, nextCursor: null })
    },
  )
  .get(
    '/by-username/:username',
    doc({
      tag,
      summary: 'Read a user by username',
      description: 'Upper and lower case are the same.',
      answer: User,
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', 'ignored'),
    valid('param', Username),
    async (c) => {
      const user = await c.var.services.users.getByUsername(c.req.valid('param').username)
      revalidate(c, user.version, user.followersCount, user.followingsCount, user.postsCount)
      return c.json(user)
    },
  )
  .get(
    '/:id',
    doc({
      tag,
      summary: 'Read a user',
      description: 'Its owner also sees `email`.',
      answer: v.union([OwnUser, User]),
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', 'ignored'),
    valid('param', UserId),
    async (c) => {
      const { id } = c.req.valid('param')
      const { users } = c.var.services
      const [anyones, isMine] = await Promise.all([users.get(id), isOwn(c, id)])
      const user = isMine ? await users.getOwn(id) : anyones
      revalidate(c, user.version, user.followersCount, user.followingsCount, user.postsCount, isMine ? 'own' : 'any')
      return c.json(user)
    },
  )
  .patch(
    '/me',
    doc({
      tag,
      summary: 'Change my profile',
      description:
        'Without Redis it is changed all the same, and caches follow: the old one may be read for some minutes.',
      answer: OwnUser,
      headers: ['If-Match'],
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'not-found',
        'version-changed',
        'unsupported-media-type',
      ],
    }),
    admit('profile', 'required'),
    requireJson,
    valid('json', ProfileChanges),
    async (c) => {
      const user = await c.var.services.users.update(requireUserId(c), c.req.valid('json'), allowedVersions(c))
      c.header('ETag', etagOf(user.version, user.followersCount, user.followingsCount, user.postsCount, 'own'))
      c.header('Cache-Control', 'no-store')
      return c.json(user)
    },
  )
  .put(
    '/:id/follow',
    doc({
      tag,
      summary: 'Follow a user',
      description:
        'As often as you like: it counts once. Without Redis it works all the same, and cached counts follow.',
      answer: Following,
      problems: ['invalid-request', 'not-signed-in', 'not-found'],
    }),
    admit('follows', 'required'),
    valid('param', UserId),
    async (c) => c.json(await c.var.services.follows.follow(requireUserId(c), c.req.valid('param').id)),
  )
  .delete(
    '/:id/follow',
    doc({
      tag,
      summary: 'Follow a user no more',
      description: 'Whether I did or not. Without Redis it works all the same, and cached counts follow.',
      answer: Following,
      problems: ['invalid-request', 'not-signed-in', 'not-found'],
    }),
    admit('follows', 'required'),
    valid('param', UserId),
    async (c) => c.json(await c.var.services.follows.unfollow(requireUserId(c), c.req.valid('param').id)),
  )
  .get(
    '/:id/posts',
    doc({
      tag,
      summary: 'Read the posts of a user, newest first',
      answer: pageOf(Post),
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', 'ignored'),
    valid('param', UserId),
    valid('query', pageQuery('p')),
    async (c) => {
      const author = c.req.valid('param').id
      const page = c.req.valid('query')
      const { users, posts } = c.var.services
      const reading = readAsViewer(c, (viewerId) => posts.byAuthor(author, page.limit, page.cursor, viewerId))
      const [answer] = await Promise.all([reading, users.get(author)])
      revalidate(c)
      return c.json(answer)
    },
  )
  .route('/', follows('followers', 'Read who follows a user, latest first'))
  .route('/', follows('followings', 'Read whom a user follows, latest first'))
