import type { Context, MiddlewareHandler } from 'hono'
import type { LimitName } from '../config.ts'
import { Problem } from '../errors.ts'
import { limitsService } from '../rate-limit/rate-limit.ts'
import type { Allowance, Taken } from '../redis/rate-limit.ts'
import { relationsService } from '../relations/relations.ts'
import type { Relations, Viewer } from '../relations/schema.ts'
import type { Evaluate, Script } from '../redis/script.ts'
import type { Claims, HeldSession } from '../redis/session.ts'
import type { Scope } from '../service-tokens/scopes.ts'
import { sessionStore } from '../sessions/sessions.ts'
import type { AppEnv } from './context.ts'
import { addressSubject, requireAllowed, requireOpen, setLimitHeaders, spend } from './limit.ts'
import { described } from './openapi.ts'
import { admitService } from './service-token.ts'
import {
  checkSession,
  hasCredential,
  readClaims,
  rememberLive,
  requireOwnSite,
  sessionEnded,
  wasLive,
} from './session.ts'

/** The caller of a route that checks the session in the same round trip as its work. */
export interface Caller<Reader> {
  /** What the token claims. Its session may have ended: use `read` before you answer anything private. */
  claims: Reader extends Viewer ? Claims : Claims | undefined
  /** The viewer, if the session is live now. One round trip; none without a token. */
  check: () => Promise<Viewer | undefined>
  /**
   * Runs `work` for the claimed user while the session check runs in the same round trip. If the session has ended: an
   * optional session runs `work` again without a viewer, a required one answers 401.
   */
  read: <T>(work: (viewer: Reader) => Promise<T>) => Promise<T>
  /**
   * As `read`, for an answer that is private in nothing but what it leaves out: where this isolate has checked a session
   * of the user within `MEMORY_SECONDS`, it takes no round trip.
   */
  browse: <T>(work: (viewer: Viewer | undefined) => Promise<T>) => Promise<T>
}

/** The caller of a route that checks session and limit in the script of its write. */
export interface Writer<UserId> {
  /** What the token claims. Its session may have ended: write for the user that `write` passes on. */
  claims: UserId extends string ? Claims : Claims | undefined
  /**
   * Runs `work` for the claimed user. The first script that `work` gives to `evaluate` runs only if the session is live and
   * the limit allows it, all in one round trip; otherwise `evaluate` throws the 401 or 429. If Redis does not know the
   * session, D1 is asked, and the script takes a second round trip.
   */
  write: <T>(work: (userId: UserId, evaluate: Evaluate) => Promise<T>, contentId?: string) => Promise<T>
}

/** How a route treats sessions: whether it needs one, and when it checks it. */
export type SessionRule =
  | { session: 'none' }
  | { session: 'optional' | 'required'; check?: 'before' }
  | { session: 'optional' | 'required'; check: 'alongside' | 'within' }

export interface AdmitOptions {
  /** Counts every request against the address, also those of users. */
  by?: 'address'
  /**
   * Accepts a service token with this scope too, as `c.get('service')`. Refuses a credential that is not valid, although the
   * route reads and needs none.
   */
  service?: Scope
}

/** What `admit` adds to the context, by the rule of the route. */
type Admitted<R extends SessionRule> = R extends { check: 'alongside' }
  ? { caller: Caller<R extends { session: 'required' } ? Viewer : Viewer | undefined> }
  : R extends { check: 'within' }
    ? { writer: Writer<R extends { session: 'required' } ? string : string | undefined> }
    : R extends { session: 'required' }
      ? { userId: string; claims: Claims }
      : R extends { session: 'optional' }
        ? { userId: string | undefined }
        : object

interface AdmittedEnv<R extends SessionRule> {
  Bindings: Env
  Variables: AppEnv['Variables'] & Admitted<R>
}

/** The most that a batch counts as. A batch has at most a hundred ids where each may cost commands. */
const MAX_COST = 100

/** What OpenAPI says of a route that reads a session if there is one. */
export const OPTIONAL_SESSION = [{}, { bearer: [] }, { cookie: [] }]

const SECURITY = {
  none: [],
  optional: OPTIONAL_SESSION,
  required: [{ bearer: [] }, { cookie: [] }],
} satisfies Record<SessionRule['session'], Record<string, string[]>[]>

/**
 * Admits a request to a route: applies the limit `name` and the session rule, both in one round trip.
 *
 * Limits count per user if the session is live, else per address. A strict policy is checked before the work; during an
 * outage it admits the request or answers 503, as configured, never 429. Other policies are counted after the answer: no
 * waiting, at the price of a few requests too many. A batch (`?ids=`) counts as many requests as it has ids. A caller that
 * this isolate knows to be over a limit gets 429 without a round trip.
 *
 * Sessions: `none` costs nothing and adds nothing. By default the check runs before the work: `c.get('userId')`, and 401
 * where a session is required. `check: 'alongside'` checks in the round trip of the work: `c.get('caller')`.
 * `check: 'within'` checks session and limit in the script of the write, strict or not: `c.get('writer')`.
 *
 * A credential that is not accepted: 401 on routes that write, need a session, or accept a `service` token too. Other reads
 * treat the caller as anonymous. Routes with `none` ignore credentials. Writes by cookie must come from our own site or from
 * `CORS_ORIGINS`.
 */
export function admit<R extends SessionRule>(
  name: LimitName,
  rule: R,
  { by, service }: AdmitOptions = {},
): MiddlewareHandler<AdmittedEnv<R>> {
  const { session } = rule
  const check = 'check' in rule ? rule.check : 'before'
  const middleware: MiddlewareHandler<AppEnv> = async (c, next) => {
    const use = c.get('use')
    const defer = c.get('defer')
    const { isStrict } = c.get('config').limits[name]
    const add = c.set as (name: 'caller' | 'writer' | 'userId', value: unknown) => void // `Admitted` types them
    const limits = use(limitsService)
    const claims = readClaims(c)
    const isRead = c.req.method === 'GET' || c.req.method === 'HEAD'
    const refuses = session === 'required' || service !== undefined || (session === 'optional' && !isRead)
    if (!isRead) requireOwnSite(c)
    if (!claims && session === 'required') throw new Problem('not-signed-in')
    const serviceCaller = claims || service === undefined ? undefined : await admitService(c, service)
    if (serviceCaller) c.set('service', serviceCaller)
    if (!claims && refuses && hasCredential(c) && !serviceCaller) {
      throw new Problem('not-signed-in', 'This token is not valid')
    }

    const checkNow = async () => claims && checkSession(c, claims)
    const checkOnce = once(checkNow)
    const address = addressSubject(c)
    let subject = claims && by !== 'address' ? claims.userId : address
    const known = limits.known(name, subject)
    requireAllowed(c, name, known)
    // Only live sessions escape the limit of their address.
    const blocked = subject === address ? undefined : limits.known(name, address)
    if (claims && blocked?.isAllowed === false && !wasLive(c, claims) && !(await checkOnce())) {
      requireAllowed(c, name, blocked)
    }

    const needsCheck = (session !== 'none' && check !== 'alongside') || (isStrict && subject !== address)
    /** Applies the limit and the session rule: throws 401 or 429. */
    async function decide(): Promise<void> {
      let allowance = known
      let isSignedIn = false
      // Sent in the same turn, both travel in one request.
      if (isStrict || needsCheck) {
        const [spent, relations] = await Promise.all([
          isStrict ? spend(c, name, subject) : known,
          needsCheck ? checkOnce() : undefined,
        ])
        allowance = spent
        isSignedIn = relations !== undefined
      }
      if (needsCheck && !isSignedIn && subject !== address) {
        allowance = await countAgainstAddress(c, name, subject, allowance)
        subject = address
      }
      requireAllowed(c, name, allowance)
      if (check !== 'alongside') {
        if (claims && isSignedIn && session !== 'none') add('userId', claims.userId)
        else if (session === 'required' || (claims && session !== 'none' && refuses)) throw sessionEnded()
      }
      setLimitHeaders(c, name, isStrict ? allowance : (allowance ?? limits.estimate(name, subject)))
    }

    if (check === 'within') {
      const guarded = createGuarded(c, name, subject, claims)
      add('writer', {
        claims,
        write: (work, contentId) => work(claims?.userId, guarded.evaluate(contentId)),
      } satisfies Writer<string | undefined>)
      setLimitHeaders(c, name, known)
      await next()
      // Work that failed before its script, because the input is not valid say, is counted and refused all the same.
      if (!guarded.isDecided()) await decide()
      return
    }
    // A read that needs no round trip stays synchronous.
    if (isStrict || needsCheck) await decide()
    else setLimitHeaders(c, name, known ?? limits.estimate(name, subject))
    if (check === 'alongside') add('caller', createCaller(c, claims, checkNow, session)) // a stream checks again and again
    await next()
    if (isStrict) return
    const note = (whose: string) => limits.note(name, whose, costOf(c))
    if (claims === undefined || subject === address || wasLive(c, claims)) {
      if (note(subject)) defer(() => limits.count())
    } else {
      defer(async () => {
        if (note((await checkOnce()) ? subject : address)) await limits.count()
      })
    }
  }
  const services = service === undefined ? [] : [{ serviceToken: [service] }]
  const spec = { 'x-rate-limit': name, security: [...SECURITY[session], ...services] }
  return described(spec, middleware) as unknown as MiddlewareHandler<AdmittedEnv<R>> // it added what `Admitted` says
}

/**
 * Admits a request by the first script of its work, which then carries the checks of the session, of blocks and of the
 * limit. What Redis does not know, D1 decides. Without Redis the policy says what becomes of requests that nobody counts; the
 * script runs alone.
 */
function createGuarded(c: Context<AppEnv>, name: LimitName, subject: string, claims: Claims | undefined) {
  const limits = c.get('use')(limitsService)
  let isDecided = false
  /** What D1 decides while the script loads what Redis lacks. */
  let visible: Promise<void> | undefined

  /** Throws the 401 of a session that has ended; the request counts against its address. */
  async function requireLive(session: Claims, held: Promise<HeldSession<Relations>> | undefined): Promise<Relations> {
    const relations = await checkSession(c, session, held)
    if (relations) return relations
    const allowance = await spend(c, name, addressSubject(c))
    requireAllowed(c, name, allowance)
    setLimitHeaders(c, name, allowance)
    throw sessionEnded()
  }

  /** Throws the 404 of a content that a block hides from the user. */
  const requireVisible = ({ userId }: Claims, contentId: string) =>
    c.get('use')(relationsService).requireVisible(userId, contentId)

  /** The script of a user, with what it must check: the session, and whether a block hides the content. */
  async function runAs<T>(session: Claims, contentId: string | undefined, script: Script): Promise<T> {
    const isLive = c.get('use')(sessionStore).guard(session)
    const isVisible = contentId === undefined ? [] : [c.get('use')(relationsService).guard(session.userId, contentId)]
    let taken = await limits.takeAndRun<T>(name, subject, [isLive, ...isVisible], script)
    if ('heldBack' in taken) {
      const [, ...held] = taken.heldBack
      const { hidden } = await requireLive(session, Promise.resolve(held as unknown as HeldSession<Relations>))
      taken = await limits.takeAndRun<T>(name, subject, hidden?.length === 0 ? [] : isVisible, script)
    }
    rememberLive(c, session)
    if (contentId !== undefined && 'reply' in taken && taken.isUndecided) {
      visible = requireVisible(session, contentId)
      visible.catch(() => {}) // nobody may wait for it: the content may not exist
    }
    return replyOf(taken)
  }

  function replyOf<T>(taken: Taken<T>): T {
    if ('heldBack' in taken) throw new Error('a guard refused that cannot')
    requireAllowed(c, name, taken.allowance)
    setLimitHeaders(c, name, taken.allowance)
    return taken.reply
  }

  const evaluate =
    (contentId?: string): Evaluate =>
    async <T>(script: Script, alone: () => Promise<T>) => {
      if (isDecided) {
        await visible
        return alone()
      }
      isDecided = true
      const preparing = claims && c.get('use')(sessionStore).prepare()
      if (preparing) await preparing // otherwise commands of the same turn share the request
      try {
        if (claims) return await runAs<T>(claims, contentId, script)
        return replyOf(await limits.takeAndRun<T>(name, subject, [], script))
      } catch (error) {
        if (error instanceof Problem) throw error
        // After an error reply, of a full database say, Redis may still answer reads.
        if (claims) {
          const { hidden } = await requireLive(claims, isUnanswered(error) ? Promise.reject(error) : undefined)
          if (contentId !== undefined && hidden?.length !== 0) await requireVisible(claims, contentId)
        }
        requireOpen(c, name, error)
        return alone()
      }
    }
  return { evaluate, isDecided: () => isDecided }
}

/** Whether Redis did not answer at all. */
const isUnanswered = (error: unknown) => error instanceof Error && error.name === 'RedisUnavailable'

/** Moves a request of an ended session from its user to its address. One round trip if the policy is strict. */
async function countAgainstAddress(
  c: Context<AppEnv>,
  name: LimitName,
  userId: string,
  spent: Allowance | undefined,
): Promise<Allowance | undefined> {
  const limits = c.get('use')(limitsService)
  const address = addressSubject(c)
  if (!c.get('config').limits[name].isStrict) return limits.known(name, address)
  if (spent?.isAllowed) c.get('defer')(() => limits.refund(name, userId))
  return spend(c, name, address)
}

/** The number of requests that this one counts as. */
function costOf(c: Context<AppEnv>): number {
  const ids = c.req.query('ids')
  return ids === undefined ? 1 : Math.min(MAX_COST, ids.split(',', MAX_COST).length)
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined
  return () => (result ??= work())
}

function createCaller(
  c: Context<AppEnv>,
  claims: Claims | undefined,
  check: () => Promise<Relations | undefined>,
  session: SessionRule['session'],
): Caller<Viewer | undefined> {
  const viewerOf = (userId: string, relations: () => Promise<Relations | undefined> | Relations) =>
    c.get('use')(relationsService).viewer(userId, relations)

  const caller: Caller<Viewer | undefined> = {
    claims,
    async check() {
      const relations = await check()
      return claims && relations && viewerOf(claims.userId, () => relations)
    },
    async read(work) {
      if (!claims) return work(undefined)
      const checking = check()
      const [answer, relations] = await Promise.all([work(viewerOf(claims.userId, () => checking)), checking])
      if (relations) return answer
      if (session === 'required') throw sessionEnded()
      return work(undefined)
    },
    async browse(work) {
      const known = claims && c.get('use')(sessionStore).known(claims.userId)
      return claims && known ? work(viewerOf(claims.userId, () => known)) : caller.read(work)
    },
  }
  return caller
}
