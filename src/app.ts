import { Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { except } from 'hono/combine'
import { cors } from 'hono/cors'
import { etag, RETAINED_304_HEADERS } from 'hono/etag'
import { methodNotAllowed } from 'hono/method-not-allowed'
import { requestId } from 'hono/request-id'
import { secureHeaders } from 'hono/secure-headers'
import { Problem } from './errors.ts'
import { comments } from './comments/routes.ts'
import { docs } from './docs/routes.ts'
import { events, listeners } from './events/routes.ts'
import { feed } from './feed/routes.ts'
import type { AppEnv } from './http/context.ts'
import { follow } from './http/log.ts'
import { measure } from './http/measure.ts'
import { logError, renderError, renderProblem } from './http/problem.ts'
import { beginInvocation, type State } from './invocation.ts'
import { locks } from './locks/routes.ts'
import { likesOf } from './likes/routes.ts'
import { notifications } from './notifications/routes.ts'
import { health, monitoring, readiness } from './monitoring/routes.ts'
import { posts } from './posts/routes.ts'
import { presence } from './presence/routes.ts'
import { rateLimit } from './rate-limit/routes.ts'
import { recommendations } from './recommendations/routes.ts'
import { search } from './search/routes.ts'
import { sessions } from './sessions/routes.ts'
import { streams } from './streams/routes.ts'
import { traceparentOf } from './trace.ts'
import { users } from './users/routes.ts'
import { deliveries, webhooks } from './webhooks/routes.ts'

/** What a 304 says too: without the first, a browser of another origin may not see it. */
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

/** The HTTP side of one isolate: middleware in order, features mounted, errors rendered. */
export function createApp(stateOf: (env: Env) => State) {
  const app = new Hono<AppEnv>()
  app.onError(renderError)
  app.notFound((c) => renderProblem(new Problem('no-such-route', `There is no ${c.req.path}`), c))

  app.use(requestId(), follow)
  // An entity tag is a hash of the whole body: a stream would never be answered.
  const tagged = etag({ retainedHeaders: [...RETAINED_304_HEADERS, ...OWN_HEADERS] })
  app.use(secureHeaders(), except('/v1/events/stream', tagged))
  app.use(
    methodNotAllowed({
      app,
      onMethodNotAllowed: (c, methods) => {
        const allowed = methods.join(', ')
        const response = renderProblem(new Problem('method-not-allowed', `This route has ${allowed}`), c)
        response.headers.set('Allow', allowed)
        return response
      },
    }),
  )

  // These answer however little is configured.
  app.route('/', health)
  app.route('/', docs(app))

  app.use(async (c, next) => {
    c.set('config', stateOf(c.env).config) // throws what is missing
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
  app.use((c, next) =>
    bodyLimit({
      maxSize: c.var.config.maxBodyBytes,
      onError: () => {
        throw new Problem('body-too-large', `A body has at most ${c.var.config.maxBodyBytes} bytes`)
      },
    })(c, next),
  )
  app.use(async (c, next) => {
    const invocation = beginInvocation(
      stateOf(c.env),
      c.env,
      (work) => c.executionCtx.waitUntil(work),
      (of, error) => logError(error, c, of),
      traceparentOf(c.var.trace),
    )
    c.set('meter', invocation.meter)
    c.set('cacheEvents', invocation.cacheEvents)
    c.set('defer', invocation.defer)
    c.set('services', invocation.services)
    c.set('onAnswered', (outcome) => invocation.end(outcome))
    await next()
  })
  app.use(measure)

  app.route('/', readiness)
  app.route('/', monitoring)
  app.route('/v1/users', users)
  app.route('/v1/sessions', sessions)
  app.route('/v1/posts', posts)
  app.route('/v1/presence', presence)
  app.route('/v1/locks', locks)
  app.route('/v1/comments', comments)
  app.route('/v1/posts', likesOf('p'))
  app.route('/v1/comments', likesOf('c'))
  app.route('/v1/feed', feed)
  app.route('/v1/notifications', notifications)
  app.route('/v1/recommendations', recommendations)
  app.route('/v1/search', search)
  app.route('/v1/rate-limit', rateLimit)
  app.route('/v1/events', events)
  app.route('/v1/events', streams)
  app.route('/v1/listeners', listeners)
  app.route('/v1/webhooks', webhooks)
  app.route('/v1/deliveries', deliveries)
  return app
}
