import { Hono } from 'hono'
import * as v from 'valibot'
import { revalidate } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, id, idsQuery, pageOf, pageQuery, Time } from '../http/input.ts'
import { limit } from '../http/limit.ts'
import { doc, valid } from '../http/openapi.ts'
import { Post } from '../posts/routes.ts'

const tag = 'Users'

const User = v.pipe(
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

const UserId = v.object({ id: id('u') })
const Username = v.object({
  username: v.pipe(v.string(), v.regex(/^\w{1,30}$/, 'must be 1 to 30 letters, digits or underscores')),
})

export const users = new Hono<AppEnv>()
  .get(
    '/',
    doc({
      tag,
      summary: 'Read users by ids',
      description: 'In the order asked; ids that nobody has are left out.',
      answer: pageOf(User),
      problems: ['invalid-request'],
    }),
    limit('reads'),
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
    limit('reads'),
    valid('param', Username),
    async (c) => {
      const user = await c.var.services.users.getByUsername(c.req.valid('param').username)
      revalidate(c, user.version, user.followersCount, user.followingsCount, user.postsCount)
      return c.json(user)
    },
  )
  .get(
    '/:id',
    doc({ tag, summary: 'Read a user', answer: User, problems: ['invalid-request', 'not-found'] }),
    limit('reads'),
    valid('param', UserId),
    async (c) => {
      const user = await c.var.services.users.get(c.req.valid('param').id)
      revalidate(c, user.version, user.followersCount, user.followingsCount, user.postsCount)
      return c.json(user)
    },
  )
  .get(
    '/:id/posts',
    doc({
      tag,
      summary: 'Read the posts of a user, newest first',
      answer: pageOf(Post),
      problems: ['invalid-request', 'not-found'],
    }),
    limit('reads'),
    valid('param', UserId),
    valid('query', pageQuery('p')),
    async (c) => {
      const author = c.req.valid('param').id
      const page = c.req.valid('query')
      const { users, posts } = c.var.services
      const [answer] = await Promise.all([posts.byAuthor(author, page.limit, page.cursor), users.get(author)])
      revalidate(c)
      return c.json(answer)
    },
  )
  .get(
    '/:id/followers',
    doc({
      tag,
      summary: 'Read who follows a user, latest first',
      answer: pageOf(User),
      problems: ['invalid-request', 'not-found'],
    }),
    limit('reads'),
    valid('param', UserId),
    valid('query', pageQuery('f')),
    async (c) => {
      const user = c.req.valid('param').id
      const page = c.req.valid('query')
      const { users, follows } = c.var.services
      const [answer] = await Promise.all([follows.followers(user, page.limit, page.cursor), users.get(user)])
      revalidate(c)
      return c.json(answer)
    },
  )
  .get(
    '/:id/followings',
    doc({
      tag,
      summary: 'Read whom a user follows, latest first',
      answer: pageOf(User),
      problems: ['invalid-request', 'not-found'],
    }),
    limit('reads'),
    valid('param', UserId),
    valid('query', pageQuery('f')),
    async (c) => {
      const user = c.req.valid('param').id
      const page = c.req.valid('query')
      const { users, follows } = c.var.services
      const [answer] = await Promise.all([follows.followings(user, page.limit, page.cursor), users.get(user)])
      revalidate(c)
      return c.json(answer)
    },
  )
