import { Hono, type MiddlewareHandler } from 'hono'
import { cors } from 'hono/cors'
import { methodNotAllowed } from 'hono/method-not-allowed'
import { TrieRouter } from 'hono/router/trie-router'
import { Problem } from './errors.ts'
import type { Mount } from './feature.ts'
import { features } from './features.ts'
import { EXPOSED_HEADERS } from './http/answer.ts'
import { checkBody } from './http/body.ts'
import { readConstraint } from './http/bookmark.ts'
import type { AppEnv } from './http/context.ts'
import { follow } from './http/log.ts'
import { logError, renderError, renderProblem } from './http/problem.ts'
import { rememberMatches } from './http/router.ts'
import { beginInvocation, type Isolate } from './platform.ts'
import { traceparentOf } from './trace.ts'

/** The section that a path belongs to: `/v1/users`, `/dashboard`. The routes of a mount are all in the section of its path. */
const sectionOf = (path: string) => /^\/(v1\/)?[^/]*/.exec(path)?.[0] ?? '/'

/**
 * The HTTP side of one isolate: middleware in order, the routes of all features, errors rendered. The first request to a
 * section mounts its routes, because an isolate starts sooner without those of all sections.
 */
export function createApp(isolateOf: (env: Env) => Isolate) {
  const unmounted = new Set<Mount>([
    ...features.flatMap(({ routes = [] }) => routes),
    ...features.flatMap(({ dashboard = [] }) =>
      dashboard.map(([path, routes]): Mount => [`/dashboard${path}`, routes]),
    ),
  ])
  const sections = Map.groupBy(unmounted, ([path]) => sectionOf(path))
  const mount = (mounts: Iterable<Mount>) => {
    for (const mounted of mounts) if (unmounted.delete(mounted)) app.route(mounted[0], mounted[1]())
  }
  const mountSection = (path: string) => mount(sections.get(sectionOf(path)) ?? sections.get('/') ?? [])
  const app = new Hono<AppEnv>({ router: rememberMatches(new TrieRouter(), mountSection) })
  /** Created at the first request that no route answers: it reads the routes only once, and so needs those of all sections. */
  let refuseMethod: MiddlewareHandler | undefined
  const createMethodRefusal = () => {
    mount(unmounted)
    return methodNotAllowed({
      app,
      onMethodNotAllowed: (c, methods) => {
        const allowed = methods.join(', ')
        const response = renderProblem(new Problem('method-not-allowed', `This route supports ${allowed}`), c)
        response.headers.set('Allow', allowed)
        return response
      },
    })
  }
  app.onError(renderError)
  app.notFound(async (c) => {
    c.res = renderProblem(new Problem('no-such-route', `There is no ${c.req.path}`), c)
    refuseMethod ??= createMethodRefusal()
    await refuseMethod(c, async () => {})
    return c.res
  })

  app.use(follow)
  for (const { unconfiguredRoutes } of features) if (unconfiguredRoutes) app.route('/', unconfiguredRoutes())

  const preflight = cors({
    origin: (origin, c) => (c.get('config').corsOrigins.includes(origin) ? origin : null),
    credentials: true,
    exposeHeaders: EXPOSED_HEADERS,
    maxAge: 600,
  })
  app.use(async (c, next) => {
    const isolate = isolateOf(c.env) // throws `ConfigError`
    const { method } = c.req
    const isRead = method === 'GET' || method === 'HEAD'
    const { platform, end } = beginInvocation(
      isolate,
      c.env,
      c.executionCtx,
      (during, error) => logError(error, c, during),
      traceparentOf(c.get('trace')),
      isolate.config.readsReplicas ? { isWrite: !isRead, constraint: () => readConstraint(c) } : undefined,
    )
    c.set('config', isolate.config)
    c.set('platform', platform)
    c.set('use', platform.use)
    c.set('defer', platform.defer)
    c.set('onAnswered', end)
    if (isRead) return next()
    return method === 'OPTIONS' ? preflight(c, next) : checkBody(c, next)
  })
  return {
    fetch: app.fetch,
    /** The app with the routes of all sections. */
    whole() {
      mount(unmounted)
      return app
    },
  }
}
