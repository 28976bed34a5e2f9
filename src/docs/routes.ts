import { Hono } from 'hono'
import { generateSpecs } from 'hono-openapi'
import * as v from 'valibot'
import { Problem, problems, type ProblemType } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { limitLocally } from '../http/limit.ts'
import { doc, valid } from '../http/openapi.ts'

const tag = 'Documentation'
const isProblem = (name: string): name is ProblemType => Object.hasOwn(problems, name)

/** Problems that the middleware of `app.ts`, or admission, reports on a route that writes. */
function problemsOfWrite({ security = [], 'x-rate-limit': limit }: Operation): ProblemType[] {
  const takesCookie = security.some((credentials) => 'cookie' in credentials)
  return [
    'body-too-large',
    'unsupported-media-type',
    ...(limit === undefined ? [] : (['cross-site'] as const)), // routes of services have no limit, and take no cookie
    ...(takesCookie ? (['not-signed-in'] as const) : []),
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
      continue
    }
    const content = responses['500']?.content // a problem document, as of every problem
    for (const type of problemsOfWrite(operation)) {
      const { status, title } = problems[type]
      const { description = '' } = responses[status] ?? {}
      if (description.includes(`\`${type}\``)) continue
      responses[status] = { description: `${description} \`${type}\`: ${title}.`.trim(), ...(content && { content }) }
    }
  }
}

const ProblemKind = v.object({ type: v.string(), title: v.string(), status: v.number() })

async function describe(app: Hono<AppEnv>): Promise<object> {
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
          serviceToken: { type: 'http', scheme: 'bearer', description: '`SERVICE_TOKEN` of the Worker.' },
        },
      },
    },
  })
  addCommonAnswers(document.paths as Record<string, Record<string, Operation>>) // as `doc` and the library made them
  return document
}

/** The OpenAPI document of the app. The page `/docs`, which shows it, is a static asset. */
export function docs(app: Hono<AppEnv>) {
  let document: object | undefined // built once per isolate
  return new Hono<AppEnv>()
    .get(
      '/openapi.json',
      doc({ tag, summary: 'Read this document (OpenAPI 3.1)', answer: v.looseObject({}) }),
      limitLocally(),
      async (c) => {
        document ??= await describe(app)
        c.header('Cache-Control', 'public, max-age=300')
        return c.json(document)
      },
    )
    .get(
      '/problems/:type',
      doc({ tag, summary: 'Read what a problem type means', answer: ProblemKind, problems: ['not-found'] }),
      limitLocally(),
      valid('param', v.object({ type: v.string() })),
      (c) => {
        const { type } = c.req.valid('param')
        if (!isProblem(type)) throw new Problem('not-found', `There is no problem ${type}`)
        return c.json({ type: new URL(c.req.path, c.req.url).href, ...problems[type] })
      },
    )
}
