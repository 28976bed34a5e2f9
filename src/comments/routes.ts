import { Hono } from 'hono'
import { admit } from '../http/admit.ts'
import { allowedVersions, answerCacheable, etagOf } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { pageQuery, pageSchema } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { createOnce } from '../idempotency/create-once.ts'
import { postsService } from '../posts/posts.ts'
import { PostId, Writing } from '../posts/schema.ts'
import { commentsService } from './comments.ts'
import { Comment, CommentId, NewComment, Thread } from './schema.ts'

const tag = 'Posts'

const tagOf = ({ version, likesCount, repliesCount }: Comment) => etagOf(version, likesCount, repliesCount)

/** The authors of comments and of the replies below them. */
const authorsIn = (threads: Thread[]) =>
  threads.flatMap(({ authorId, replies }) => [authorId, ...replies.items.map((reply) => reply.authorId)]).filter(isSome)
const isSome = (id: string | null) => id !== null

/** The comments on a post, below `/v1/posts`. */
export const commentsOnPost = new Hono<AppEnv>()
  .get(
    '/:id/comments',
    doc({
      id: 'listComments',
      tag,
      summary: 'List the comments on a post, newest first',
      description:
        'Each with its first replies, oldest first. `replies.nextCursor` continues them at ' +
        '`GET /v1/comments/{id}/replies`. A deleted comment with replies keeps its place, without text and author.',
      answer: pageSchema(Thread),
      headers: ['X-D1-Bookmark'],
      sends: ['ETag', 'X-D1-Bookmark'],
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('param', PostId),
    valid('query', pageQuery('c')),
    async (c) => {
      const { id } = c.req.valid('param')
      const { limit, cursor } = c.req.valid('query')
      const { use } = c.var
      const [page] = await c.var.caller.browse((viewer) =>
        Promise.all([
          use(commentsService).ofPost(id, limit, cursor, viewer?.userId),
          use(postsService).requireVisible(id, viewer),
        ]),
      )
      return answerCacheable(c, page, () => [id, ...authorsIn(page.items)])
    },
  )
  .post(
    '/:id/comments',
    doc({
      id: 'createComment',
      tag,
      summary: 'Comment on a post, or reply to a comment on it',
      description:
        'At most 500 characters. With `parentId` it is a reply, at any depth. Works without Redis. Then the count follows later.',
      answer: Comment,
      status: 201,
      headers: ['Idempotency-Key'],
      sends: ['ETag', 'Location', 'Idempotent-Replayed'],
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
    admit('comments', { session: 'required' }),
    requireJson,
    valid('param', PostId),
    valid('json', NewComment),
    async (c) => {
      const { id } = c.req.valid('param')
      const comment = c.req.valid('json')
      const { use, userId } = c.var
      return createOnce(
        c,
        userId,
        (alongside) => use(commentsService).create(id, userId, comment, alongside),
        (created: Comment) => ({ location: `/v1/comments/${created.id}`, etag: tagOf(created) }),
      )
    },
  )

export const comments = new Hono<AppEnv>()
  .get(
    '/:id/replies',
    doc({
      id: 'listReplies',
      tag,
      summary: 'List the replies to a comment, oldest first',
      description: 'Each with its own first replies.',
      answer: pageSchema(Thread),
      headers: ['X-D1-Bookmark'],
      sends: ['ETag', 'X-D1-Bookmark'],
      problems: ['invalid-request', 'not-found'],
    }),
    admit('reads', { session: 'optional', check: 'alongside' }),
    valid('param', CommentId),
    valid('query', pageQuery('c')),
    async (c) => {
      const { id } = c.req.valid('param')
      const { limit, cursor } = c.req.valid('query')
      const { use, caller } = c.var
      const page = await caller.browse((viewer) => use(commentsService).repliesTo(id, limit, cursor, viewer?.userId))
      return answerCacheable(c, page, () => [...page.items.map(({ postId }) => postId), ...authorsIn(page.items)])
    },
  )
  .patch(
    '/:id',
    doc({
      id: 'updateComment',
      tag,
      summary: 'Edit my comment',
      description: 'Works without Redis. With `If-Match`, a repeated change succeeds too.',
      answer: Comment,
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
    admit('comments', { session: 'required' }),
    requireJson,
    valid('param', CommentId),
    valid('json', Writing),
    async (c) => {
      const { id } = c.req.valid('param')
      const { text } = c.req.valid('json')
      const comment = await c.var.use(commentsService).update(id, c.var.userId, text, allowedVersions(c))
      c.header('ETag', tagOf(comment))
      return c.json(comment)
    },
  )
  .delete(
    '/:id',
    doc({
      id: 'deleteComment',
      tag,
      summary: 'Delete a comment',
      description:
        'Deletes my comment, or a comment on my post. With replies it keeps its place, without text and author. Works without Redis. Then the count of comments follows later.',
      status: 204,
      headers: ['If-Match'],
      problems: ['invalid-request', 'not-signed-in', 'not-yours', 'not-found', 'version-changed'],
    }),
    admit('comments', { session: 'required' }),
    valid('param', CommentId),
    async (c) => {
      await c.var.use(commentsService).remove(c.req.valid('param').id, c.var.userId, allowedVersions(c))
      return c.body(null, 204)
    },
  )
