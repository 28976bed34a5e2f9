import { Hono } from 'hono'
import * as v from 'valibot'
import { Comment } from '../comments/routes.ts'
import { addressOf, admit, readAsViewer, requireUserId } from '../http/admit.ts'
import { allowedVersions, etagOf, revalidate } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { createOnce } from '../http/idempotency.ts'
import { Count, id, idsQuery, limitOf, pageOf, pageQuery, Time, written } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'

const tag = 'Posts'

export const Post = v.pipe(
  v.object({
    id: v.string(),
    authorId: v.string(),
    text: v.string(),
    createdAt: Time,
    updatedAt: Time,
    version: Count,
    likesCount: Count,
    commentsCount: Count,
    viewsCount: Count,
    likedByMe: v.optional(v.boolean()),
  }),
  v.metadata({ ref: 'Post' }),
)

const PostId = v.object({ id: id('p') })
const Writing = v.strictObject({ text: written({ max: 500, isLong: true }) })

/** The parts of its entity tag: whatever can change of it. */
const partsOf = (post: v.InferOutput<typeof Post>) => [
  post.version,
  post.likesCount,
  post.commentsCount,
  post.viewsCount,
  post.likedByMe === undefined ? 'any' : Number(post.likedByMe),
]

const describePost = (post: v.InferOutput<typeof Post>) => ({
  location: `/v1/posts/${post.id}`,
  etag: etagOf(...partsOf(post)),
})
const describeComment = (comment: v.InferOutput<typeof Comment>) => ({ location: `/v1/comments/${comment.id}` })

export const posts = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      tag,
      summary: 'Write a post',
      description: 'At most 500 characters. Without Redis it is written all the same, and caches follow.',
      answer: Post,
      status: 201,
      headers: ['Idempotency-Key'],
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'unsupported-media-type',
        'idempotency-key-in-use',
        'idempotency-key-reused',
      ],
    }),
    admit('posts', 'required'),
    requireJson,
    valid('json', Writing),
    async (c) => {
      const { text } = c.req.valid('json')
      return createOnce(c, (alongside) => c.var.services.posts.create(requireUserId(c), text, alongside), describePost)
    },
  )
  .get(
    '/',
    doc({
      tag,
      summary: 'Read posts by ids',
      description: 'In the order asked; ids that no post has are left out.',
      answer: pageOf(Post),
      problems: ['invalid-request'],
    }),
    admit('reads', 'ignored'),
    valid('query', idsQuery('p')),
    async (c) => {
      const { ids } = c.req.valid('query')
      const items = await readAsViewer(c, (viewerId) => c.var.services.posts.getMany(ids, viewerId))
      revalidate(c)
      return c.json({ items, nextCursor: null })
    },
  )
  .get(
    '/hot',
    doc({
      tag,
      summary: 'Read the hot feed',
      description: 'The most liked posts of the last days. Counts are fresh; a new post may take a minute to appear.',
      answer: pageOf(Post),
      problems: ['invalid-request'],
    }),
    admit('reads', 'ignored'),
    valid('query', v.object({ limit: limitOf(20, 100) })),
    async (c) => {
      const { limit } = c.req.valid('query')
      const items = await readAsViewer(c, (viewerId) => c.var.services.posts.hot(limit, viewerId))
      revalidate(c)
      return c.json({ items, nextCursor: null })
    },
  )
  .get(
    '/:id',
    doc({ tag, summary: 'Read a post', answer: Post, problems: ['invalid-request', 'not-found'] }),
    admit('reads', 'ignored'),
    valid('param', PostId),
    async (c) => {
      const { id } = c.req.valid('param')
      const post = await readAsViewer(c, (viewerId) => c.var.services.posts.get(id, viewerId))
      revalidate(c, ...partsOf(post))
      return c.json(post)
    },
  )
  .patch(
    '/:id',
    doc({
      tag,
      summary: 'Edit a post of mine',
      description: 'Without Redis it is edited all the same, and caches follow: old text may be read for some minutes.',
      answer: Post,
      headers: ['If-Match'],
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
    admit('posts', 'required'),
    requireJson,
    valid('param', PostId),
    valid('json', Writing),
    async (c) => {
      const { id } = c.req.valid('param')
      const { text } = c.req.valid('json')
      const post = await c.var.services.posts.update(id, requireUserId(c), text, allowedVersions(c))
      c.header('ETag', etagOf(...partsOf(post)))
      return c.json(post)
    },
  )
  .delete(
    '/:id',
    doc({
      tag,
      summary: 'Delete a post of mine',
      description:
        'Its likes and comments go with it. Without Redis it is deleted all the same, and caches follow: it may be read ' +
        'for some minutes.',
      status: 204,
      headers: ['If-Match'],
      problems: ['invalid-request', 'not-signed-in', 'not-yours', 'not-found', 'version-changed'],
    }),
    admit('posts', 'required'),
    valid('param', PostId),
    async (c) => {
      await c.var.services.posts.remove(c.req.valid('param').id, requireUserId(c), allowedVersions(c))
      return c.body(null, 204)
    },
  )
  .get(
    '/:id/comments',
    doc({
      tag,
      summary: 'Read the comments on a post, newest first',
      answer: pageOf(Comment),
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', 'ignored'),
    valid('param', PostId),
    valid('query', pageQuery('c')),
    async (c) => {
      const post = c.req.valid('param').id
      const page = c.req.valid('query')
      const { posts, comments } = c.var.services
      const [answer] = await Promise.all([comments.ofPost(post, page.limit, page.cursor), posts.get(post)])
      revalidate(c)
      return c.json(answer)
    },
  )
  .post(
    '/:id/comments',
    doc({
      tag,
      summary: 'Comment on a post',
      description: 'At most 500 characters. Without Redis it is written all the same, and the count follows.',
      answer: Comment,
      status: 201,
      headers: ['Idempotency-Key'],
      problems: [
        'invalid-request',
        'malformed-json',
        'not-signed-in',
        'not-found',
        'unsupported-media-type',
        'idempotency-key-in-use',
        'idempotency-key-reused',
      ],
    }),
    admit('comments', 'required'),
    requireJson,
    valid('param', PostId),
    valid('json', Writing),
    async (c) => {
      const { id } = c.req.valid('param')
      const { text } = c.req.valid('json')
      return createOnce(
        c,
        (alongside) => c.var.services.comments.create(id, requireUserId(c), text, alongside),
        describeComment,
      )
    },
  )
  .post(
    '/:id/views',
    doc({
      tag,
      summary: 'Note that I saw a post',
      description: 'Each user, or else address, counts once; the count is approximate. Without Redis: 503.',
      answer: v.object({ views: Count }),
      problems: ['invalid-request', 'not-found', 'unavailable'],
    }),
    admit('views', 'optional'),
    valid('param', PostId),
    async (c) => {
      const viewer = c.var.userId ?? addressOf(c)
      return c.json({ views: await c.var.services.views.add(c.req.valid('param').id, viewer) })
    },
  )
