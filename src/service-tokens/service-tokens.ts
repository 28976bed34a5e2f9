import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { desc, eq, lt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { repeatOnce } from '../db/repeat.ts'
import { serviceTokens } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { newId } from '../ids.ts'
import { type Page, pageOf } from '../page.ts'
import type { BoundedMap } from '../redis/bounded-map.ts'
import { service } from '../service.ts'
import type { NewServiceToken, ServiceToken } from './schema.ts'

/** The back end behind a request. */
export interface ServiceCaller {
  /** `st_…`, or `root`: `SERVICE_TOKEN`. */
  id: string
  name: string
  /** The root token may do everything. */
  scopes: readonly string[] | 'all'
  /** Differs after a rotation of the token. */
  stamp: string
  /** The people of this tenant use a portal: only its endpoints exist for them. Absent: a back end. */
  tenant?: string
}

/** `SERVICE_TOKEN`. */
export const ROOT: ServiceCaller = { id: 'root', name: 'root', scopes: 'all', stamp: '' }

type Row = typeof serviceTokens.$inferSelect

/** A token as this isolate read it from D1. */
interface Held {
  /** Undefined: this isolate changed the token at `readAt`, so what was read before is out of date. */
  row: Row | undefined
  /** When the read began (Unix ms). */
  readAt: number
  isRefreshing: boolean
}

/** The tokens that an isolate has read, by id. */
export type ServiceTokenMemory = BoundedMap<Held>
export const serviceTokenMemory = service<ServiceTokenMemory>('service token memory')

export type ServiceTokens = ReturnType<typeof createServiceTokens>
export const serviceTokensService = service<ServiceTokens>('service tokens')

/** `<id>.<secret>`. The secret has 256 random bits, so a plain SHA-256 protects it. */
const TOKEN = /^(st_[a-z0-9]{1,40})\.[\w-]{43}$/

/** How many previous secrets may work. The answers of as many rotations in a row may be lost. */
const MAX_PREVIOUS = 5
/** How much later than its use D1 learns of it, at most. */
const USED_MS = 600_000
/** How long an isolate trusts a token that D1 cannot confirm. */
const OUTAGE_MS = 600_000

/**
 * Service tokens: who they belong to, and what they may do. D1 has their hashes. An isolate trusts what it has read for
 * `trustMs`, so a revoked token stops within that time everywhere. One D1 query per isolate and token in that time, in the
 * background while the token is in use. No Redis.
 *
 * Without D1: tokens that an isolate has read within ten minutes keep working there. The others cannot be checked, so
 * `identify` throws.
 */
export function createServiceTokens(
  db: DrizzleD1Database,
  memory: ServiceTokenMemory,
  trustMs: number,
  defer: (work: () => Promise<unknown>) => void,
) {
  async function load(id: string, now: number): Promise<Row | undefined> {
    const [row] = await db.select().from(serviceTokens).where(eq(serviceTokens.id, id))
    const held = memory.get(id)
    const isLater = held && (held.row ? held.readAt > now : held.readAt >= now)
    const isOutdated = isLater && held.readAt - now < trustMs // more: the clock was set back
    if (!row) memory.delete(id)
    else if (!isOutdated) memory.set(id, { row, readAt: now, isRefreshing: false })
    return row
  }

  /** Makes this isolate forget a token that it has changed, and what a read in flight will return. */
  const forget = (id: string, now: number) => memory.set(id, { row: undefined, readAt: now, isRefreshing: false })

  /** Records a use: one write in ten minutes, whatever the number of isolates. Safe to repeat. */
  function noteUse(row: Row, now: number): void {
    if (Math.abs(now - (row.lastUsedAt ?? 0)) < USED_MS) return
    row.lastUsedAt = now // this isolate has noted it
    defer(() =>
      db
        .update(serviceTokens)
        .set({ lastUsedAt: now })
        .where(sql`${serviceTokens.id} = ${row.id} AND coalesce(last_used_at, 0) <= ${now - USED_MS}`),
    )
  }

  async function find(
    id: string,
    accepts: (row: Row) => boolean,
    beforeGuess: () => void,
    now: number,
  ): Promise<ServiceCaller | undefined> {
    const row = await findRow(id, accepts, beforeGuess, now)
    if (!row) return undefined
    noteUse(row, now)
    return { id, name: row.name, scopes: row.scopes, stamp: stampOf(row) }
  }

  async function findRow(
    id: string,
    accepts: (row: Row) => boolean,
    beforeGuess: () => void,
    now: number,
  ): Promise<Row | undefined> {
    const held = memory.get(id)
    const known = held?.row && accepts(held.row) ? held.row : undefined
    const age = held ? Math.abs(now - held.readAt) : Infinity // the clock may have been set back
    if (held && known && age < trustMs) {
      if (age > trustMs / 2 && !held.isRefreshing) {
        held.isRefreshing = true
        defer(() => load(id, now))
      }
      return known
    }
    if (!known) beforeGuess()
    const row = await load(id, now).catch((error: unknown) => {
      if (known && age < OUTAGE_MS) return known
      throw error
    })
    return row && accepts(row) ? row : undefined
  }

  return {
    /**
     * The back end that `token` belongs to. Undefined: it is no token, or not any more. `beforeGuess` is called before D1
     * is asked about a token that this isolate does not know; it may throw. D1 errors are thrown.
     */
    async identify(token: string, beforeGuess: () => void, now = Date.now()): Promise<ServiceCaller | undefined> {
      const id = TOKEN.exec(token)?.[1]
      if (id === undefined) return undefined
      const digest = digestOf(token)
      return find(id, (row) => matches(row, digest, now), beforeGuess, now)
    },

    /**
     * The back end with this id that had this stamp before. Undefined: its token was revoked or rotated since. D1 is asked as
     * by `identify`, and its errors are thrown.
     */
    async recall(id: string, stamp: string, now = Date.now()): Promise<ServiceCaller | undefined> {
      return id === ROOT.id
        ? ROOT
        : find(
            id,
            (row) => stampOf(row) === stamp,
            () => {},
            now,
          )
    },

    /**
     * Adds a token, and returns it with its secret, this once. Throws `taken` if another token has the name: so it is
     * safe to repeat: a repeated request adds nothing. A lost reply of D1 is resolved by repeating the batch. If the
     * answer was lost, rotate the token or revoke it. One D1 round trip.
     */
    async create({ name, scopes }: NewServiceToken, now = Date.now()) {
      const id = newId('st', now)
      const token = newToken(id)
      const [, [row]] = await repeatOnce(() =>
        db.batch([
          db
            .insert(serviceTokens)
            .values({ id, name, scopes, hash: hashOf(token), previous: [], createdAt: now })
            .onConflictDoNothing(),
          db.select().from(serviceTokens).where(eq(serviceTokens.name, name)),
        ]),
      )
      if (row?.id !== id) {
        const errors = [{ in: 'body', field: 'name', message: 'is taken' }]
        throw new Problem('taken', 'Another service token has this name', { errors })
      }
      return { ...shown(row, now), token }
    },

    /** A page of tokens, the newest first. */
    async list(limit: number, cursor = 'st_~', now = Date.now()): Promise<Page<ServiceToken>> {
      const rows = await db
        .select()
        .from(serviceTokens)
        .where(lt(serviceTokens.id, cursor))
        .orderBy(desc(serviceTokens.id))
        .limit(limit + 1)
      return pageOf(
        rows,
        limit,
        (row) => row.id,
        (row) => shown(row, now),
      )
    },

    /**
     * Replaces the secret, and returns the new one, this once. The previous ones work for `overlapMs`, or for what is left
     * of an earlier overlap. Repeating a request is safe: the secrets of lost answers count as previous ones, and at most
     * `MAX_PREVIOUS` work. A lost reply of D1 is resolved by repeating the query, which then changes nothing. One D1 query.
     */
    async rotate(id: string, overlapMs: number, now = Date.now()) {
      const token = newToken(id)
      const hash = hashOf(token)
      const until = now + overlapMs
      const previous = sql`iif(${serviceTokens.hash} = ${hash}, ${serviceTokens.previous}, (SELECT json_group_array(json_object('hash', hash, 'until', until)) FROM (
        SELECT ${serviceTokens.hash} AS hash, ${until} AS until
        UNION ALL SELECT value ->> 'hash', min(value ->> 'until', ${until}) FROM json_each(${serviceTokens.previous})
        LIMIT ${MAX_PREVIOUS}) WHERE until > ${now}))`
      const [row] = await repeatOnce(() =>
        db.update(serviceTokens).set({ hash, previous, rotatedAt: now }).where(eq(serviceTokens.id, id)).returning(),
      )
      forget(id, Date.now())
      return { ...shown(row ?? unknownToken(id), now), token }
    },

    /** Revokes a token: at once in this isolate, within `trustMs` in the others. Safe to repeat: then `not-found`. */
    async revoke(id: string): Promise<void> {
      const remove = () => db.delete(serviceTokens).where(eq(serviceTokens.id, id)).returning({ id: serviceTokens.id })
      const removed = await remove().catch(async () => {
        await remove() // the first may have been executed: what counts is that there is none now
        return [{ id }]
      })
      forget(id, Date.now())
      if (removed.length === 0) unknownToken(id)
    },
  }
}

/** Whether the token with this digest is the current one, or a previous one that still works. */
const matches = ({ hash, previous }: Row, digest: Buffer, now: number): boolean =>
  [{ hash, until: Infinity }, ...previous].some(
    (secret) => now < secret.until && timingSafeEqual(Buffer.from(secret.hash, 'base64url'), digest),
  )

/** Part of the hash: nobody finds the token by it. */
const stampOf = ({ hash }: Row): string => hash.slice(0, 16)

const newToken = (id: string) => `${id}.${randomBytes(32).toString('base64url')}`
const digestOf = (token: string) => createHash('sha256').update(token).digest()
const hashOf = (token: string) => digestOf(token).toString('base64url')

function unknownToken(id: string): never {
  throw new Problem('not-found', `There is no service token ${id}`)
}

function shown(row: Row, now: number): ServiceToken {
  const untils = row.previous.map(({ until }) => until).filter((until) => until > now)
  return {
    id: row.id,
    name: row.name,
    scopes: row.scopes,
    createdAt: timeOf(row.createdAt),
    rotatedAt: row.rotatedAt === null ? null : timeOf(row.rotatedAt),
    previousUntil: untils.length === 0 ? null : timeOf(Math.max(...untils)),
    lastUsedAt: row.lastUsedAt === null ? null : timeOf(row.lastUsedAt),
  }
}

const timeOf = (ms: number) => new Date(ms).toISOString()
