import { Hono } from 'hono'
import { except } from 'hono/combine'
import { cors } from 'hono/cors'
import { etag, RETAINED_304_HEADERS } from 'hono/etag'
import { methodNotAllowed } from 'hono/method-not-allowed'
import { requestId } from 'hono/request-id'
import { TrieRouter } from 'hono/router/trie-router'
import { secureHeaders } from 'hono/secure-headers'
import { Problem } from './errors.ts'
import type { Mount } from './feature.ts'
import { features } from './features.ts'
import { checkBody } from './http/body.ts'
import type { AppEnv } from './http/context.ts'
import { follow } from './http/log.ts'
import { measure } from './http/measure.ts'
import { logError, renderError, renderProblem } from './http/problem.ts'
import { beginInvocation, type Isolate } from './platform.ts'
import { traceparentOf } from './trace.ts'

/** Headers that a 304 keeps. Without the first, a browser on another origin cannot read it. */
const OWN_HEADERS = [
  'Access-Control-Allow-Origin',
  'Access-Control-Allow-Credentials',
  'Access-Control-Expose-Headers',
  'X-Request-Id',
  'RateLimit',
  'RateLimit-Policy',
  'Server-Timing',
  'Cache-Status',
  'Traceresponse',
]

/** The HTTP side of one isolate: middleware in order, the routes of all features, errors rendered. */
export function createApp(isolateOf: (env: Env) => Isolate) {
  // Hono would try its RegExpRouter first, which cannot match `/:id` beside other paths, and build both.
  const app = new Hono<AppEnv>({ router: new TrieRouter() })
  const mount = (mounts: Mount[] = []) => {
    for (const [path, routes] of mounts) app.route(path, routes)
  }
  app.onError(renderError)
  app.notFound((c) => renderProblem(new Problem('no-such-route', `There is no ${c.req.path}`), c))

  app.use(requestId(), follow)
  app.use(async (c, next) => {
    await next()
    // Answers are private unless their route says otherwise.
    if (!c.res.headers.has('Cache-Control')) c.header('Cache-Control', 'no-store')
  })
  // The entity tag hashes the whole body, and a stream has no end.
  const tagged = etag({ retainedHeaders: [...RETAINED_304_HEADERS, ...OWN_HEADERS] })
  app.use(secureHeaders(), except('/v1/events/stream', tagged))
  app.use(
    methodNotAllowed({
      app,
      onMethodNotAllowed: (c, methods) => {
        const allowed = methods.join(', ')
        const response = renderProblem(new Problem('method-not-allowed', `This route supports ${allowed}`), c)
        response.headers.set('Allow', allowed)
        return response
      },
    }),
  )

  for (const { unconfiguredRoutes } of features) mount(unconfiguredRoutes)

  app.use(async (c, next) => {
    c.set('config', isolateOf(c.env).config) // throws `ConfigError`
    await next()
  })
  app.use(
    cors({
      origin: (origin, c) => (c.get('config').corsOrigins.includes(origin) ? origin : null),
      credentials: true,
      exposeHeaders: [
        'ETag',
        'Idempotent-Replayed',
        'Location',
        'RateLimit',
        'RateLimit-Policy',
        'Retry-After',
        'Traceresponse',
        'X-Request-Id',
      ],
      maxAge: 600,
    }),
  )
  app.use(checkBody)
  app.use(async (c, next) => {
    const { platform, end } = beginInvocation(
      isolateOf(c.env),
      c.env,
      (work) => c.executionCtx.waitUntil(work),
      (during, error) => logError(error, c, during),
      traceparentOf(c.var.trace),
    )
    c.set('platform', platform)
    c.set('use', platform.use)
    c.set('meter', platform.meter)
    c.set('cacheEvents', platform.cacheEvents)
    c.set('defer', platform.defer)
    c.set('onAnswered', end)
    await next()
  })
  app.use(measure)

  for (const { routes } of features) mount(routes)
  return app
}
