import { Hono } from 'hono'
import { admit } from '../http/admit.ts'
import { answerCacheable } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { pageQuery, pageSchema } from '../http/input.ts'
import { doc, valid } from '../http/openapi.ts'
import { User, UserId } from '../users/schema.ts'
import { relationsService } from './relations.ts'
import { Blocked, Muted } from './schema.ts'

const tag = 'Blocks and mutes'

const WHEN =
  'Holds for my next request; in answers that another isolate has in memory, and on open streams, some seconds later; ' +
  'within a minute where Redis missed it. Works without Redis. Repeated requests change nothing.'

const HIDES =
  'Neither of us sees the other: profiles, posts, comments, presence, events. Neither can follow, like or comment on the ' +
  'other, or is notified of the other. Follows between us end. What is hidden answers 404, for both of us. Likes and ' +
  'comments that exist stay, and count.'

/** My own list of the users of one kind. */
const relationList = (list: 'blocks' | 'mutes', id: string, summary: string) =>
  new Hono<AppEnv>().get(
    `/me/${list}`,
    doc({
      id,
      tag,
      summary,
      answer: pageSchema(User),
      sends: ['ETag'],
      problems: ['invalid-request', 'not-signed-in'],
    }),
    admit('reads', { session: 'required' }),
    valid('query', pageQuery('r')),
    async (c) => {
      const { limit, cursor } = c.req.valid('query')
      const kind = list === 'blocks' ? 'block' : 'mute'
      return answerCacheable(c, await c.var.use(relationsService).page(kind, c.var.userId, limit, cursor), () => [])
    },
  )

export const relations = new Hono<AppEnv>()
  .route('/', relationList('blocks', 'listBlocks', 'List the users whom I block, latest first'))
  .route('/', relationList('mutes', 'listMutes', 'List the users whom I mute, latest first'))
  .put(
    '/:id/block',
    doc({
      id: 'blockUser',
      tag,
      summary: 'Block a user',
      description: `${HIDES} ${WHEN}`,
      answer: Blocked,
      problems: ['invalid-request', 'not-signed-in', 'not-found'],
    }),
    admit('blocks', { session: 'required' }),
    valid('param', UserId),
    async (c) => {
      await c.var.use(relationsService).block(c.var.userId, c.req.valid('param').id)
      return c.json({ isBlocked: true })
    },
  )
  .delete(
    '/:id/block',
    doc({
      id: 'unblockUser',
      tag,
      summary: 'Unblock a user',
      description: `Follows do not come back. If the user blocks me too, we stay hidden from each other. ${WHEN}`,
      answer: Blocked,
      problems: ['invalid-request', 'not-signed-in', 'not-found'],
    }),
    admit('blocks', { session: 'required' }),
    valid('param', UserId),
    async (c) => {
      await c.var.use(relationsService).remove('block', c.var.userId, c.req.valid('param').id)
      return c.json({ isBlocked: false })
    },
  )
  .put(
    '/:id/mute',
    doc({
      id: 'muteUser',
      tag,
      summary: 'Mute a user',
      description:
        'I get no notifications of the user, and see no posts of the user in my feed, the hot feed, recommendations and ' +
        `new posts on streams. Profiles, searches and comments still show them. The user does not learn it. ${WHEN}`,
      answer: Muted,
      problems: ['invalid-request', 'not-signed-in', 'not-found'],
    }),
    admit('blocks', { session: 'required' }),
    valid('param', UserId),
    async (c) => {
      await c.var.use(relationsService).mute(c.var.userId, c.req.valid('param').id)
      return c.json({ isMuted: true })
    },
  )
  .delete(
    '/:id/mute',
    doc({
      id: 'unmuteUser',
      tag,
      summary: 'Unmute a user',
      description: WHEN,
      answer: Muted,
      problems: ['invalid-request', 'not-signed-in', 'not-found'],
    }),
    admit('blocks', { session: 'required' }),
    valid('param', UserId),
    async (c) => {
      await c.var.use(relationsService).remove('mute', c.var.userId, c.req.valid('param').id)
      return c.json({ isMuted: false })
    },
  )
