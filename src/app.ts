import { Hono } from 'hono'
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

/** The HTTP side of one isolate: middleware in order, the routes of all features, errors rendered. */
export function createApp(isolateOf: (env: Env) => Isolate) {
  const app = new Hono<AppEnv>({ router: rememberMatches(new TrieRouter()) })
  const mount = (mounts: Mount[] = []) => {
    for (const [path, routes] of mounts) app.route(path, routes)
  }
  const refuseMethod = methodNotAllowed({
    app,
    onMethodNotAllowed: (c, methods) => {
      const allowed = methods.join(', ')
      const response = renderProblem(new Problem('method-not-allowed', `This route supports ${allowed}`), c)
      response.headers.set('Allow', allowed)
      return response
    },
  })
  app.onError(renderError)
  app.notFound(async (c) => {
    c.res = renderProblem(new Problem('no-such-route', `There is no ${c.req.path}`), c)
    await refuseMethod(c, async () => {})
    return c.res
  })

  app.use(follow)
  for (const { unconfiguredRoutes } of features) mount(unconfiguredRoutes)

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
  for (const { routes } of features) mount(routes)
  for (const { dashboard = [] } of features) mount(dashboard.map(([path, routes]) => [`/dashboard${path}`, routes]))
  return app
}
