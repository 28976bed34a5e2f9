import { eq, lt } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { removeSome } from '../db/remove.ts'
import { dashboardSignOuts } from '../db/schema.ts'
import { newId } from '../ids.ts'
import type { BoundedMap } from '../redis/bounded-map.ts'
import { within } from '../redis/within.ts'
import { service } from '../service.ts'
import type { ServiceCaller, ServiceTokens } from '../service-tokens/service-tokens.ts'
import { MAX_LINK_SECONDS } from './schema.ts'
import { type Claims, createDashboardTokens } from './tokens.ts'

/** How long a session lasts. */
const SESSION_MS = 14_400_000
/** How long a request waits for D1 to say whether its session was ended. */
const PATIENCE_MS = 1_000

/** A session of the dashboard. */
export interface DashboardSession {
  caller: ServiceCaller
  /** Unix ms. */
  expiresAt: number
}

/** When this isolate last read that a session was not ended (Unix ms), or `ENDED`, by its id. */
export type CheckedSessions = BoundedMap<number>
export const checkedSessions = service<CheckedSessions>('checked dashboard sessions')

/** This isolate has ended the session: a read that began before must not bring it back. */
const ENDED = -Infinity

export type Dashboard = ReturnType<typeof createDashboard>
export const dashboardService = service<Dashboard>('dashboard')

/**
 * Sessions of the dashboard. The cookie states who uses it, and cannot be forged: see `createDashboardTokens`. A session ends
 * when it expires, when it is signed out, and when its service token is revoked or rotated. D1 knows the last two; an
 * isolate trusts what it has read for `trustMs`. So a request costs one D1 query or two in that time, and no Redis command.
 *
 * Without D1, sessions of `SERVICE_TOKEN` work, also one that was signed out, if somebody has its cookie. Sessions of other
 * tokens work in isolates that know the token.
 */
export function createDashboard(dependencies: {
  db: DrizzleD1Database
  key: string
  serviceTokens: Pick<ServiceTokens, 'recall'>
  checked: CheckedSessions
  trustMs: number
}) {
  const { db, key, serviceTokens, checked, trustMs } = dependencies
  const tokens = createDashboardTokens(key)

  async function isSignedOut({ id }: Claims, now: number): Promise<boolean> {
    const checkedAt = checked.get(id)
    if (checkedAt === ENDED) return true
    if (checkedAt !== undefined && Math.abs(now - checkedAt) < trustMs) return false // the clock may have been set back
    const query = db.select().from(dashboardSignOuts).where(eq(dashboardSignOuts.sessionId, id))
    const found = await within(
      query.catch(() => undefined),
      PATIENCE_MS,
    )
    if (checked.get(id) === ENDED) return true
    if (found?.length === 0) checked.set(id, now)
    return found !== undefined && found.length > 0
  }

  /** The session of these claims. Undefined: it has ended. D1 errors are thrown if only D1 knows the service token. */
  async function resume(claims: Claims, now: number): Promise<DashboardSession | undefined> {
    const { tokenId, stamp, expiresAt, tenant } = claims
    const [caller, isOver] = await Promise.all([serviceTokens.recall(tokenId, stamp, now), isSignedOut(claims, now)])
    if (!caller || isOver) return undefined
    return { caller: tenant === undefined ? caller : forTenant(caller, tenant), expiresAt }
  }

  function begin(claims: Claims, caller: ServiceCaller) {
    return { cookie: tokens.issue('session', claims), session: { caller, expiresAt: claims.expiresAt } }
  }

  return {
    /** Begins a session of a back end. Writes nothing, so it is safe to repeat. */
    signIn(caller: ServiceCaller, now = Date.now()) {
      const { id: tokenId, stamp } = caller
      return begin({ id: newId('s', now), tokenId, stamp, expiresAt: now + SESSION_MS }, caller)
    },

    /**
     * The token of a link to the endpoints of `tenant`, for its people, on behalf of `caller`. Whoever has the link may use it
     * until `expiresAt`, or until the service token is revoked or rotated. Writes nothing.
     */
    link({ id: tokenId, stamp }: ServiceCaller, tenant: string, expiresAt: number): string {
      return tokens.issue('link', { id: newId('s'), tokenId, stamp, expiresAt, tenant })
    },

    /** Begins a session from the token of a link. It lasts as long as the link. Undefined: the link has expired or ended. */
    async enter(link: string, now = Date.now()) {
      const claims = tokens.read('link', link, now)
      const own = claims && { ...claims, id: newId('s', now) } // each of its users signs out alone
      const session = own && (await resume(own, now))
      return session && begin(own, session.caller)
    },

    /** The session of a cookie. Undefined: there is none, or it has ended. */
    async find(cookie: string, now = Date.now()): Promise<DashboardSession | undefined> {
      const claims = tokens.read('session', cookie, now)
      return claims && resume(claims, now)
    },

    /**
     * Ends the session of a cookie: at once in this isolate, within `trustMs` in the others. Safe to repeat, and repeated
     * once. If D1 refuses, the session goes on. One D1 query.
     */
    async signOut(cookie: string, now = Date.now()): Promise<void> {
      const claims = tokens.read('session', cookie, now)
      if (!claims) return
      const record = () => db.insert(dashboardSignOuts).values({ sessionId: claims.id }).onConflictDoNothing()
      await record().catch(record)
      checked.set(claims.id, ENDED)
    },

    /** Deletes at most `most` records of sessions that have expired. Answers how many. For the cron. Safe to repeat. */
    purge(most: number, now: number): Promise<number> {
      const oldest = newId('s', Math.max(0, now - MAX_LINK_SECONDS * 1_000)) // ids sort by time
      return removeSome(db, dashboardSignOuts, lt(dashboardSignOuts.sessionId, oldest), most)
    },
  }
}

/** A tenant's people, who use the portal through a link of `caller`. */
const forTenant = (caller: ServiceCaller, tenant: string): ServiceCaller => ({
  ...caller,
  scopes: ['webhooks:manage'],
  tenant,
})
