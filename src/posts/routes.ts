import { Hono } from 'hono'
import * as v from 'valibot'
import { Comment } from '../comments/routes.ts'
import { addressOf, admit, readAsViewer } from '../http/admit.ts'
import { revalidate } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, id, idsQuery, limitOf, pageOf, pageQuery, Time } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'

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

export const posts = new Hono<AppEnv>()
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
      const mine = post.likedByMe === undefined ? 'any' : Number(post.likedByMe)
      revalidate(c, post.version, post.likesCount, post.commentsCount, post.viewsCount, mine)
      return c.json(post)
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
