import type { Hono } from 'hono'
import { generateSpecs } from 'hono-openapi'
import { problems, type ProblemType } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import type { Scope } from '../service-tokens/scopes.ts'

/** What each scope of a service token allows. */
const scopeMeanings: Record<Scope, string> = {
  backup: 'read a backup of everything, with password hashes',
  'cache:invalidate': 'invalidate caches',
  'events:publish': 'publish events',
  'events:read': 'stream all events, whatever their audience',
  locks: 'acquire, extend and release locks',
  maintenance: 'purge expired data, and rebuild the data of listeners',
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

interface Operation {
  'x-rate-limit'?: string
  security?: Record<string, string[]>[]
  responses?: Record<string, { description: string; content?: object }>
}

/** Adds the answers that no route declares, because middleware gives them. */
function addCommonAnswers(paths: Record<string, Record<string, Operation>>): void {
  for (const [method, operation] of Object.values(paths).flatMap(Object.entries<Operation>)) {
    const { responses = {} } = operation
    if (method === 'get') {
      const isStream = 'text/event-stream' in (responses['200']?.content ?? {})
      if (!isStream) responses['304'] = { description: 'The `ETag` in `If-None-Match` is current.' }
    }
    const content = responses['500']?.content // a problem document, as of every problem
    for (const type of problemsOf(operation, method !== 'get')) {
      const { status, title } = problems[type]
      const { description = '' } = responses[status] ?? {}
      if (description.includes(`\`${type}\``)) continue
      responses[status] = { description: `${description} \`${type}\`: ${title}.`.trim(), ...(content && { content }) }
    }
  }
}

/**
 * The OpenAPI 3.1 document of an app. The build writes it to public/openapi.json, which the platform serves: the Worker holds
 * neither descriptions nor the libraries that convert schemas.
 */
export async function describeApp(app: Hono<AppEnv>): Promise<object> {
  const description =
    '`SERVICE_TOKEN` of the Worker, the root token, which may do everything; or a token of `POST /v1/service-tokens` ' +
    'that has the scope of the route. Routes with the scope `root` require the root token.'
  const serviceToken = { type: 'http' as const, scheme: 'bearer', description, 'x-scopes': scopeMeanings }
  const document = await generateSpecs(app, {
    defaultValidationErrorResponse: false,
    excludeStaticFile: false,
    documentation: {
      openapi: '3.1.0',
      info: {
        title: 'threads-edge',
        version: '1',
        description:
          'The edge API of a Threads-like social app. Errors are RFC 9457 problem documents. Each answer states its ' +
          'cost in `Server-Timing` and the outcome of the caches in `Cache-Status`. Public reads with a token that is not ' +
          'valid, or whose session has ended, treat the caller as anonymous. Other routes that use tokens answer 401. ' +
          'Writes by cookie must come from the origin of the API or from an allowed origin.',
      },
      components: {
        securitySchemes: {
          bearer: { type: 'http', scheme: 'bearer', description: 'The `token` of a sign-in.' },
          cookie: { type: 'apiKey', in: 'cookie', name: '__Host-session' },
          serviceToken,
        },
      },
    },
  })
  addCommonAnswers(document.paths as Record<string, Record<string, Operation>>) // as `doc` and the library made them
  return document
}
