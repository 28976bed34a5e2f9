import { Hono } from 'hono'
import * as v from 'valibot'
import { admit } from '../http/admit.ts'
import { allowedVersions, answerCacheable, etagOf } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, idsQuery, limitOf, pageQuery, pageSchema } from '../http/input.ts'
import { addressSubject } from '../http/limit.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { createOnce } from '../idempotency/create-once.ts'
import { UserId } from '../users/schema.ts'
import { usersService } from '../users/users.ts'
import { postsService } from './posts.ts'
import { idsIn, Post, PostId, Writing } from './schema.ts'
import { viewsService } from './views.ts'

const tag = 'Posts'

/** The parts of the entity tag of a post: everything in it that can change. */
const tagParts = (post: Post) => [
  post.version,
  post.likesCount,
  post.commentsCount,
  post.viewsCount,
  post.likedByMe === undefined ? 'any' : Number(post.likedByMe),
]

const describePost = (post: Post) => ({ location: `/v1/posts/${post.id}`, etag: etagOf(...tagParts(post)) })

export const posts = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      id: 'createPost',
      tag,
      summary: 'Write a post',
      description: 'At most 500 characters. Works without Redis. Then caches follow later.',
      answer: Post,
      status: 201,
      headers: ['Idempotency-Key'],
      sends: ['ETag', 'Location', 'Idempotent-Replayed'],
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'unsupported-media-type',
        'idempotency-key-in-use',
        'idempotency-key-reused',
      ],
    }),
    admit('posts', { session: 'required' }),
    requireJson,
    valid('json', Writing),
    async (c) => {
      const { text } = c.req.valid('json')
      const { use, userId } = c.var
      return createOnce(c, userId, (alongside) => use(postsService).create(userId, text, alongside), describePost)
    },
  )
  .get(
    '/',
    doc({
      id: 'getPosts',
      tag,
      summary: 'Read posts by ids',
      description: 'The answer keeps the order of the ids and omits unknown ids.',
      answer: pageSchema(Post),
      sends: ['ETag'],
      problems: ['invalid-request'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('query', idsQuery('p')),
    async (c) => {
      const { ids } = c.req.valid('query')
      const posts = c.get('use')(postsService)
      const items = await c.get('caller').read((viewer) => posts.getMany(ids, viewer))
      return answerCacheable(c, { items, nextCursor: null }, () => idsIn(items))
    },
  )
  .get(
    '/hot',
    doc({
      id: 'listHotPosts',
      tag,
      summary: 'Read the hot feed',
      description:
        'The posts of the last days with the most likes, comments and views, newer ones before older ones: twice as many ' +
        'are worth eight hours. Counts are current. A new post may take a minute to appear.',
      answer: pageSchema(Post),
      sends: ['ETag'],
      problems: ['invalid-request'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('query', v.object({ limit: limitOf(20, 100) })),
    async (c) => {
      const { limit } = c.req.valid('query')
      const posts = c.get('use')(postsService)
      const items = await c.get('caller').read((viewer) => posts.hot(limit, viewer))
      return answerCacheable(c, { items, nextCursor: null }, () => idsIn(items))
    },
  )
  .get(
    '/:id',
    doc({
      id: 'getPost',
      tag,
      summary: 'Read a post',
      answer: Post,
      sends: ['ETag'],
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('param', PostId),
    async (c) => {
      const { id } = c.req.valid('param')
      const posts = c.get('use')(postsService)
      const post = await c.get('caller').read((viewer) => posts.get(id, viewer))
      return answerCacheable(c, post, () => idsIn([post]), ...tagParts(post))
    },
  )
  .patch(
    '/:id',
    doc({
      id: 'updatePost',
      tag,
      summary: 'Edit my post',
      description:
        'Works without Redis. Then readers may see the old text for some minutes. With `If-Match`, a repeated change ' +
        'succeeds too.',
      answer: Post,
      headers: ['If-Match'],
      sends: ['ETag'],
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'not-yours',
        'not-found',
        'version-changed',
        'unsupported-media-type',
      ],
    }),
    admit('posts', { session: 'required' }),
    requireJson,
    valid('param', PostId),
    valid('json', Writing),
    async (c) => {
      const { id } = c.req.valid('param')
      const { text } = c.req.valid('json')
      const post = await c.var.use(postsService).update(id, c.var.userId, text, allowedVersions(c))
      c.header('ETag', etagOf(...tagParts(post)))
      return c.json(post)
    },
  )
  .delete(
    '/:id',
    doc({
      id: 'deletePost',
      tag,
      summary: 'Delete my post',
      description:
        'Deletes its likes and comments too. Works without Redis. Then readers may see the post for some minutes.',
      status: 204,
      headers: ['If-Match'],
      problems: ['invalid-request', 'not-signed-in', 'not-yours', 'not-found', 'version-changed'],
    }),
    admit('posts', { session: 'required' }),
    valid('param', PostId),
    async (c) => {
      await c.var.use(postsService).remove(c.req.valid('param').id, c.var.userId, allowedVersions(c))
      return c.body(null, 204)
    },
  )
  .post(
    '/:id/views',
    doc({
      id: 'recordView',
      tag,
      summary: 'Record that I saw a post',
      description: 'Each user, or else each address, counts once. The count is approximate. Without Redis: 503.',
      answer: v.pipe(v.object({ views: Count }), v.description('The count of viewers.')),
      problems: ['invalid-request', 'not-found', 'unavailable'],
    }),
    admit('views', { session: 'optional', check: 'within' }),
    valid('param', PostId),
    async (c) => {
      const { id } = c.req.valid('param')
      const { writer, use } = c.var
      const views = await writer.write(
        (userId, evaluate) => use(viewsService).add(id, userId ?? addressSubject(c), evaluate),
        id,
      )
      return c.json({ views })
    },
  )

/** The posts of a user, below `/v1/users`. */
export const postsByAuthor = new Hono<AppEnv>().get(
  '/:id/posts',
  doc({
    id: 'listUserPosts',
    tag: 'Users',
    summary: 'List the posts of a user, newest first',
    answer: pageSchema(Post),
    headers: ['X-D1-Bookmark'],
    sends: ['ETag', 'X-D1-Bookmark'],
    problems: ['invalid-request', 'not-found'],
  }),
  admit('reads', { session: 'optional', check: 'alongside' }),
  valid('param', UserId),
  valid('query', pageQuery('p')),
  async (c) => {
    const { id } = c.req.valid('param')
    const { limit, cursor } = c.req.valid('query')
    const { use, caller } = c.var
    const [page] = await caller.read((viewer) =>
      Promise.all([
        use(postsService).byAuthor(id, limit, cursor, viewer?.userId),
        use(usersService).get(id, viewer), // throws if the viewer may not see the author
      ]),
    )
    return answerCacheable(c, page, () => [id, ...idsIn(page.items)])
  },
)
