import { Hono } from 'hono'
import { admit } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { nextLink } from '../http/caching.ts'
import { pageQuery, pageSchema } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { requireService } from '../http/service-token.ts'
import { moderationService } from './moderation.ts'
import {
  Content,
  ContentParam,
  LogEntry,
  NewReport,
  Report,
  Reported,
  ReportsQuery,
  Resolution,
  Resolved,
  Ruling,
  UserParam,
} from './schema.ts'

const tag = 'Moderation'

const NO_REDIS = 'Works without Redis; then caches and sessions follow later.'
const SERVICE = ['invalid-request', 'service-token-required'] as const
const BODY = ['malformed-json', 'unsupported-media-type'] as const
const RULING = [...SERVICE, ...BODY, 'not-found'] as const

/**
 * A decision of a moderator about a content or an account, with a note for the log. `meaning` is no `doc(…)`: the build
 * removes those from all arguments, and the others would take their places.
 */
const ruling = (
  method: 'PUT' | 'DELETE',
  path: string,
  param: typeof ContentParam | typeof UserParam,
  rule: 'takeDown' | 'restore' | 'suspend' | 'reinstate',
  meaning: Parameters<typeof doc>[0],
) =>
  new Hono<AppEnv>().on(
    method,
    path,
    doc(meaning),
    requireService('moderation'),
    valid('param', param),
    requireJson,
    valid('json', Ruling),
    async (c) => {
      const decision = { by: c.var.service, note: c.req.valid('json').note }
      const answer = await c.var.use(moderationService)[rule](c.req.valid('param').id, decision)
      return answer ? c.json(answer) : c.body(null, 204)
    },
  )

export const reports = new Hono<AppEnv>().post(
  '/',
  doc({
    id: 'createReport',
    tag,
    summary: 'Report a post, a comment or a user',
    description:
      'For moderators. Each member reports a subject once: repeating the request answers the first report. Works without Redis.',
    answer: Reported,
    status: 201,
    problems: ['invalid-request', 'not-signed-in', 'not-found', ...BODY],
  }),
  admit('reports', { session: 'required' }),
  requireJson,
  valid('json', NewReport),
  async (c) => {
    const { id, subjectId, reason, createdAt } = await c.var
      .use(moderationService)
      .report(c.var.userId, c.req.valid('json'))
    c.header('Cache-Control', 'no-store')
    return c.json({ id, subjectId, reason, createdAt }, 201)
  },
)

export const moderation = new Hono<AppEnv>()
  .get(
    '/reports',
    doc({
      id: 'listReports',
      tag,
      summary: 'List reports',
      description: 'Newest first. Works without Redis.',
      answer: pageSchema(Report),
      problems: [...SERVICE],
    }),
    requireService('moderation'),
    valid('query', ReportsQuery),
    async (c) => {
      const { status, limit, cursor } = c.req.valid('query')
      c.header('Cache-Control', 'no-store')
      const page = await c.var.use(moderationService).reports(status, limit, cursor)
      c.header('Link', nextLink(c, page))
      return c.json(page)
    },
  )
  .post(
    '/reports/resolve',
    doc({
      id: 'resolveReports',
      tag,
      summary: 'Resolve the open reports about a subject',
      description: 'At most 500 at once. `hasMore`: repeat the request. Works without Redis.',
      answer: Resolved,
      problems: [...SERVICE, ...BODY],
    }),
    requireService('moderation'),
    requireJson,
    valid('json', Resolution),
    async (c) => c.json(await c.var.use(moderationService).resolve(c.req.valid('json'), c.var.service)),
  )
  .get(
    '/contents/:id',
    doc({
      id: 'getModeratedContent',
      tag,
      summary: 'Read a post or comment, also if it is taken down',
      description: 'Works without Redis.',
      answer: Content,
      problems: [...SERVICE, 'not-found'],
    }),
    requireService('moderation'),
    valid('param', ContentParam),
    async (c) => {
      c.header('Cache-Control', 'no-store')
      return c.json(await c.var.use(moderationService).read(c.req.valid('param').id))
    },
  )
  .route(
    '/',
    ruling('PUT', '/takedowns/:id', ContentParam, 'takeDown', {
      id: 'takeDownContent',
      tag,
      summary: 'Take a post or comment down',
      description:
        'It is gone from every answer, feed, search, count and stream, as if its author had deleted it. Isolates may show ' +
        'it from memory for some seconds. Everyone sees `post_deleted` or `comment_deleted`; services also ' +
        `\`content_taken_down\`. ${NO_REDIS}`,
      answer: Content,
      problems: [...RULING],
    }),
  )
  .route(
    '/',
    ruling('DELETE', '/takedowns/:id', ContentParam, 'restore', {
      id: 'restoreContent',
      tag,
      summary: 'Restore a post or comment that was taken down',
      description:
        'With its likes and comments, and exact counts. Everyone sees `post_created` or `comment_created` again; services ' +
        `also \`content_restored\`. ${NO_REDIS}`,
      answer: Content,
      problems: [...RULING],
    }),
  )
  .route(
    '/',
    ruling('PUT', '/suspensions/:id', UserParam, 'suspend', {
      id: 'suspendUser',
      tag,
      summary: 'Suspend an account',
      description: `Its sessions end, and it cannot sign in. What it wrote stays. ${NO_REDIS}`,
      status: 204,
      problems: [...RULING],
    }),
  )
  .route(
    '/',
    ruling('DELETE', '/suspensions/:id', UserParam, 'reinstate', {
      id: 'reinstateUser',
      tag,
      summary: 'Reinstate an account',
      description: 'It can sign in again. Succeeds if it is not suspended. Works without Redis.',
      status: 204,
      problems: [...RULING],
    }),
  )
  .get(
    '/log',
    doc({
      id: 'listModerationLog',
      tag,
      summary: 'List what moderators did',
      description: 'Newest first, with the token of each. Works without Redis.',
      answer: pageSchema(LogEntry),
      problems: [...SERVICE],
    }),
    requireService('moderation'),
    valid('query', pageQuery('ml')),
    async (c) => {
      const { limit, cursor } = c.req.valid('query')
      c.header('Cache-Control', 'no-store')
      const page = await c.var.use(moderationService).log(limit, cursor)
      c.header('Link', nextLink(c, page))
      return c.json(page)
    },
  )
