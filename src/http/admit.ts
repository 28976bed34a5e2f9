import { createMiddleware } from 'hono/factory'
import type { MiddlewareHandler } from 'hono'
import type { LimitName } from '../config.ts'
import { Problem } from '../errors.ts'
import { limitsService } from '../rate-limit/rate-limit.ts'
import type { Claims } from '../redis/session.ts'
import type { AppEnv } from './context.ts'
import { limitSubject, requireAllowed, setLimitHeaders, spend } from './limit.ts'
import { isLive, readClaims, sessionEnded } from './session.ts'

/** The caller of a route that checks the session in the same round trip as its work. */
export interface Caller<UserId> {
  /** What the token claims. Its session may have ended: use `read` before you answer anything private. */
  claims: UserId extends string ? Claims : Claims | undefined
  /** Whether the session is live. One round trip; none without a token. */
  isLive: () => Promise<boolean>
  /**
   * Runs `work` for the claimed user while the session check runs in the same round trip. If the session has ended: an
   * optional session runs `work` again for nobody, a required one answers 401.
   */
  read: <T>(work: (userId: UserId) => Promise<T>) => Promise<T>
}

/** How a route treats sessions: whether it needs one, and when it checks it. */
export type SessionRule =
  | { session: 'none' }
  | { session: 'optional' | 'required'; check?: 'before' }
  | { session: 'optional' | 'required'; check: 'alongside' }

/** What `admit` adds to the context, by the rule of the route. */
type Admitted<R extends SessionRule> = R extends { check: 'alongside' }
  ? { caller: Caller<R extends { session: 'required' } ? string : string | undefined> }
  : R extends { session: 'required' }
    ? { userId: string; claims: Claims }
    : R extends { session: 'optional' }
      ? { userId: string | undefined }
      : object

interface AdmittedEnv<R extends SessionRule> {
  Bindings: Env
  Variables: AppEnv['Variables'] & Admitted<R>
}

/**
 * Admits a request to a route: applies the limit `name` and the session rule, both in one round trip.
 *
 * Limits count per user of a genuine token, else per address. A strict policy is checked before the work; during an
 * outage it admits the request or answers 503, as configured, never 429. Other policies are counted after the answer: no
 * waiting, at the price of a few requests too many. A caller that this isolate knows to be over a limit gets 429 without
 * a round trip.
 *
 * Sessions: `none` costs nothing and adds nothing. By default the check runs before the work: `c.var.userId`, and 401
 * where a session is required. `check: 'alongside'` checks in the round trip of the work: `c.var.caller`.
 */
export function admit<R extends SessionRule>(name: LimitName, rule: R): MiddlewareHandler<AdmittedEnv<R>> {
  const { session } = rule
  const isAlongside = 'check' in rule && rule.check === 'alongside'
  const middleware = createMiddleware<AppEnv>(async (c, next) => {
    const { config, use, defer } = c.var
    const { isStrict } = config.limits[name]
    const add = c.set as (name: 'caller' | 'userId', value: unknown) => void // `Admitted` types them
    const limits = use(limitsService)
    const claims = readClaims(c)
    if (session === 'required' && !claims) throw new Problem('not-signed-in')
    const subject = limitSubject(c)
    const known = limits.known(name, subject)
    requireAllowed(c, name, known)

    // Sent in the same turn, both travel in one request.
    const [allowance, isSignedIn] = await Promise.all([
      isStrict ? spend(c, name, subject) : known,
      session !== 'none' && !isAlongside && claims ? isLive(c, claims) : false,
    ])
    requireAllowed(c, name, allowance)
    if (isAlongside) {
      add(
        'caller',
        createCaller(claims, async () => claims !== undefined && isLive(c, claims), session),
      )
    } else if (claims && isSignedIn) {
      add('userId', claims.userId)
    } else if (session === 'required') {
      throw sessionEnded()
    }

    await next()
    setLimitHeaders(c, name, allowance)
    if (!isStrict) defer(() => limits.takeLater(name, subject))
  })
  return middleware as unknown as MiddlewareHandler<AdmittedEnv<R>> // it added what `Admitted` says
}

function createCaller(
  claims: Claims | undefined,
  isLive: () => Promise<boolean>,
  session: SessionRule['session'],
): Caller<string | undefined> {
  return {
    claims,
    isLive,
    async read(work) {
      if (!claims) return work(undefined)
      const [answer, isSignedIn] = await Promise.all([work(claims.userId), isLive()])
      if (isSignedIn) return answer
      if (session === 'required') throw sessionEnded()
      return work(undefined)
    },
  }
}
