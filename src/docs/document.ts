import type { Hono } from 'hono'
import { generateSpecs } from 'hono-openapi'
import { problems, type ProblemType } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import type { Scope } from '../service-tokens/scopes.ts'
import { describeWebhooks } from './events.ts'
import { headers } from './headers.ts'
import { explanations } from './problems.ts'

const INTRODUCTION = `The edge API of a Threads-like social app.

**Sign in** with \`POST /v1/sessions\`, and send the token as \`Authorization: Bearer\`. Browsers also get it as a cookie; writes by cookie \
must come from the origin of the API or from an allowed origin. Public reads with a token that is not valid, or whose session has \
ended, treat the caller as anonymous. Other routes that use tokens answer 401. **Services** send \`SERVICE_TOKEN\`, or a service token, in the same header.

**Errors** are problem documents (RFC 9457). Their \`type\` is a path that explains the problem. **Lists** answer \`{ items, nextCursor }\`, \
and \`Link\` with the next page. **Repeating a request is safe.** Each answer states its cost in \`Server-Timing\` and the outcome of \
the caches in \`Cache-Status\`.`

/** The tags in the order of the reference, by who uses them. */
const TAGS: Record<string, Record<string, string>> = {
  Members: {
    Users: 'Sign-up, profiles, and who follows whom.',
    Posts: 'Posts, their comments, and the hot feed.',
    Likes: 'Likes of posts and comments: exact, and counted once for each user.',
    Feed: 'Posts of the users I follow, and recommendations.',
    Search: 'Full text over posts and users.',
    Notifications: 'What happened to my content, and the posts of the users I follow.',
    'Blocks and mutes': 'Who does not see whom.',
    Presence: 'Who is online, and who may see it.',
    Sessions: 'Sign-in, devices, sign-out.',
    Credentials: 'Passwords and email addresses: change, reset, confirm.',
    'Rate limits': 'What remains of my limits.',
  },
  Services: {
    Events: 'Event streams for everyone, and publishing for services.',
    Webhooks: 'Endpoints that receive events, their deliveries, and what they receive.',
    Locks: 'Locks with fencing tokens.',
    Cache: 'Invalidation, for back ends that write the database themselves.',
    Monitoring: 'Health, figures, metrics, and the purge of expired data.',
    Moderation: 'Reports of members, and what moderators do about them.',
    'Service tokens': 'Tokens of back ends, with names and scopes.',
    Backup: 'What `npm run backup` and `npm run restore` use.',
  },
}

interface Header {
  $ref: string
}
interface Schema {
  $ref?: string
  description?: string
}
interface Answer {
  description: string
  headers?: Record<string, Header>
  content?: Record<string, { schema: Schema; example?: unknown }>
}
interface Operation {
  operationId: string
  tags: string[]
  security?: Record<string, string[]>[]
  'x-rate-limit'?: string
  parameters?: { in: string; name: string }[]
  requestBody?: { content: Record<string, { schema: Schema }> }
  responses: Record<string, Answer>
}
/** The bodies of answers by operation and status. `Problem` is one of a problem. */
export type Examples = Record<string, Record<string, unknown>>

interface Document {
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, Schema> }
}

/** What each scope of a service token allows. */
const scopeMeanings: Record<Scope, string> = {
  backup: 'read a backup of everything, with password hashes',
  'cache:invalidate': 'invalidate caches',
  'events:publish': 'publish events',
  'events:read': 'stream all events, whatever their audience',
  locks: 'acquire, extend and release locks',
  mail: 'receive messages to users: with `webhooks:manage`, webhooks on `mail_events`. They contain links that open accounts',
  maintenance: 'purge expired data, and rebuild the data of listeners',
  moderation: 'read reports, take contents down and restore them, suspend and reinstate accounts',
  'stats:read': 'read all figures',
  'webhooks:manage': 'manage webhooks, and read and replay their deliveries',
}

/** Problems that the middleware of `app.ts`, or admission, reports on an operation. */
function problemsOf({ security = [], 'x-rate-limit': limit }: Operation, isWrite: boolean): ProblemType[] {
  const takes = (scheme: string) => security.some((credentials) => scheme in credentials)
  const common: ProblemType[] = takes('serviceToken') ? ['scope-required'] : []
  if (!isWrite) return common
  return [
    ...common,
    'body-too-large',
    'unsupported-media-type',
    ...(limit === undefined ? [] : (['cross-site'] as const)), // routes of services have no limit, and take no cookie
    ...(takes('cookie') ? (['not-signed-in'] as const) : []),
  ]
}

/** Adds the answers that no route declares, because middleware or `answerCacheable` gives them. */
function addAnswers(method: string, operation: Operation): void {
  const { responses } = operation
  const isWrite = method !== 'get'
  if (!isWrite && responses['200']?.headers?.['ETag']) {
    responses['304'] = { description: 'The `ETag` in `If-None-Match` is current.' }
  }
  const content = responses['500']?.content // a problem document, as of every problem
  for (const type of problemsOf(operation, isWrite)) {
    const { status, title } = problems[type]
    const { description = '' } = responses[status] ?? {}
    if (description.includes(`\`${type}\``)) continue
    responses[status] = { description: `${description} \`${type}\`: ${title}.`.trim(), ...(content && { content }) }
  }
}

/** Limits whose figures only a 429 has, or that have none: `limitLocally` counts in the isolate. */
const QUIET_LIMITS = new Set(['local', 'sign-in'])

/** Adds the headers that middleware sends, by the status of the answer. */
function addHeaders(operation: Operation): void {
  const { responses, parameters = [], 'x-rate-limit': limit } = operation
  const add = (answer: Answer, ...names: (keyof typeof headers)[]) => {
    answer.headers ??= {}
    for (const name of names) answer.headers[name] = { $ref: `#/components/headers/${name}` }
  }
  const isPaged = parameters.some(({ name }) => name === 'cursor')
  for (const [status, answer] of Object.entries(responses)) {
    add(answer, 'X-Request-Id', 'Traceresponse')
    if (status < '400') {
      add(answer, 'Server-Timing', 'Cache-Status')
      if (isPaged) add(answer, 'Link')
      if (limit !== undefined && !QUIET_LIMITS.has(limit)) add(answer, 'RateLimit', 'RateLimit-Policy')
    }
    if (status === '304') add(answer, 'ETag')
    if (status === '401' || /`scope-required`/.test(answer.description)) add(answer, 'WWW-Authenticate')
    if (status === '401' && responses['204']?.headers?.['Set-Cookie']) add(answer, 'Set-Cookie') // `forgetCookie`
    if (status === '429' && limit !== 'local') add(answer, 'RateLimit', 'RateLimit-Policy')
    if (/`(rate-limited|unavailable|lock-held|idempotency-key-in-use)`/.test(answer.description)) {
      add(answer, 'Retry-After')
    }
  }
}

/** Describes successful answers as their schemas are described. */
function describeAnswers({ components: { schemas } }: Document, { responses }: Operation): void {
  for (const [status, answer] of Object.entries(responses)) {
    if (answer.description !== '') continue
    const [media] = Object.values(answer.content ?? {})
    const name = media?.schema.$ref?.split('/').at(-1) ?? ''
    const described = schemas[name]?.description ?? media?.schema.description
    answer.description = described ?? (status === '204' ? 'Done. The answer has no body.' : '')
  }
}

/** Adds real answers as examples. */
function addExamples({ operationId, responses }: Operation, examples: Examples): void {
  for (const [status, example] of Object.entries(examples[operationId] ?? {})) {
    for (const media of Object.values(responses[status]?.content ?? {})) media.example = example
  }
}

/** Headers that make a read conditional: every route whose answers have an `ETag` reads it. */
const IF_NONE_MATCH = {
  in: 'header',
  name: 'If-None-Match',
  required: false,
  description: 'The `ETag` of an answer that you have. If it is current, the API answers 304 without a body.',
  schema: { type: 'string' },
}

/**
 * The OpenAPI 3.1 document of an app. The build writes it to public/openapi.json, which the platform serves: the Worker holds
 * neither descriptions nor the libraries that convert schemas. `examples` are real answers by operation and status, and below
 * `webhooks` real deliveries by type.
 */
export async function describeApp(app: Hono<AppEnv>, examples: Examples = {}): Promise<object> {
  const groups = Object.entries(TAGS)
  const tags = groups.flatMap(([, group]) =>
    Object.entries(group).map(([name, description]) => ({ name, description })),
  )
  const description =
    'A service: `SERVICE_TOKEN` of the Worker, the root token, which may do everything; or a token of ' +
    '`POST /v1/service-tokens` that has the scope of the route. Routes with the scope `root` require the root token.'
  const serviceToken = { type: 'http' as const, scheme: 'bearer', description, 'x-scopes': scopeMeanings }
  const described = await generateSpecs(app, {
    defaultValidationErrorResponse: false,
    excludeStaticFile: false,
    exclude: /^\/dashboard\//, // the page alone uses these
    documentation: {
      openapi: '3.1.0',
      info: {
        title: 'threads-edge',
        version: '1',
        description: INTRODUCTION,
        license: { name: 'MIT', identifier: 'MIT' },
      },
      servers: [{ url: '/', description: 'This deployment' }],
      tags,
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer', description: 'A member: the `token` of a sign-in.' },
          cookie: {
            type: 'apiKey',
            in: 'cookie',
            name: '__Host-session',
            description: 'A member: browsers get it at the sign-in and send it on their own.',
          },
          serviceToken,
        },
        headers,
      },
    },
  })
  const document = described as unknown as Document // as `doc` and the library made it
  const { components } = document
  const types = components.schemas['ProblemType'] as Schema & { 'x-enum-descriptions'?: object }
  const [problem] = Object.values(examples['Problem'] ?? {})
  if (problem) Object.assign(components.schemas['Problem'] ?? {}, { examples: [problem] })
  types.description = 'Each leads to a page that explains it, for example `/problems/not-found`.'
  types['x-enum-descriptions'] = Object.fromEntries(
    Object.entries(explanations).map(([type, { meaning }]) => [`/problems/${type}`, meaning]),
  )
  for (const [method, operation] of Object.values(document.paths).flatMap((path) => Object.entries(path))) {
    addAnswers(method, operation)
    describeAnswers(document, operation)
    addHeaders(operation)
    if ('304' in operation.responses) (operation.parameters ??= []).push(IF_NONE_MATCH)
    addExamples(operation, examples)
  }
  const places = new Map(tags.map(({ name }, i) => [name, i]))
  const placeOf = (path: Record<string, Operation>) => places.get(Object.values(path)[0]?.tags[0] ?? '') ?? tags.length
  return {
    ...document,
    paths: Object.fromEntries(Object.entries(document.paths).sort(([, a], [, b]) => placeOf(a) - placeOf(b))),
    webhooks: describeWebhooks(examples['webhooks'] ?? {}),
    'x-tagGroups': groups.map(([name, group]) => ({ name, tags: Object.keys(group) })),
  }
}
