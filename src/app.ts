import { Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { except } from 'hono/combine'
import { cors } from 'hono/cors'
import { etag, RETAINED_304_HEADERS } from 'hono/etag'
import { methodNotAllowed } from 'hono/method-not-allowed'
import { requestId } from 'hono/request-id'
import { secureHeaders } from 'hono/secure-headers'
import type { Config } from './config.ts'
import { Problem } from './errors.ts'
import { comments } from './comments/routes.ts'
import { docs } from './docs/routes.ts'
import { events, listeners } from './events/routes.ts'
import { feed } from './feed/routes.ts'
import type { AppEnv } from './http/context.ts'
import { follow, traceparentOf } from './http/log.ts'
import { measure } from './http/measure.ts'
import { logError, renderError, renderProblem } from './http/problem.ts'
import { locks } from './locks/routes.ts'
import { likesOf } from './likes/routes.ts'
import { notifications } from './notifications/routes.ts'
import { health, monitoring, readiness } from './monitoring/routes.ts'
import { posts } from './posts/routes.ts'
import { presence } from './presence/routes.ts'
import { rateLimit } from './rate-limit/routes.ts'
import { newMeter } from './redis/client.ts'
import { createServices, type Isolate } from './services.ts'
import { sessions } from './sessions/routes.ts'
import { streams } from './streams/routes.ts'
import { users } from './users/routes.ts'

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
export function createApp(stateOf: (env: Env) => { config: Config; isolate: Isolate }) {
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
    const { config, isolate } = stateOf(c.env)
    const meter = newMeter()
    const watch = isolate.recorder.watch()
    const works: Promise<unknown>[] = []
    let waiting: (() => Promise<unknown>)[] | undefined = []
    const run = (work: () => Promise<unknown>) => {
      const done = work().catch((error: unknown) => logError(error, c, 'deferred'))
      works.push(done)
      c.executionCtx.waitUntil(done)
    }
    const defer = (work: () => Promise<unknown>) => (waiting ? void waiting.push(work) : run(work))
    const { onCacheEvent, onSent } = watch
    const traceparent = traceparentOf(c.var.trace)
    const onFailure = (of: string, error: unknown) => logError(error, c, of)
    const services = createServices(config, c.env, isolate, {
      meter,
      onCacheEvent,
      onSent,
      onFailure,
      defer,
      traceparent,
    })
    c.set('meter', meter)
    c.set('cacheEvents', watch.cacheEvents)
    c.set('defer', defer)
    c.set('services', services)
    c.set('onAnswered', (outcome) => {
      const deferred = waiting ?? []
      waiting = undefined
      for (const work of deferred) run(work)
      const count = async () => {
        for (const work of works) await work // and whatever they defer in turn: it is on the bill too
        watch.end({ ...outcome, meter })
        services.stats.reportSoon()
      }
      c.executionCtx.waitUntil(count())
    })
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
  app.route('/v1/rate-limit', rateLimit)
  app.route('/v1/events', events)
  app.route('/v1/events', streams)
  app.route('/v1/listeners', listeners)
  return app
}
