import { and, desc, eq, gt, gte, inArray, lt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { randomBytes } from 'node:crypto'
import { ulid } from 'ulid'
import * as v from 'valibot'
import { webhookHours, webhooks } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { service } from '../service.ts'
import { type CloudEvent, WEBHOOK_CHANNEL } from '../events/catalog.ts'
import type { Outbox } from '../events/outbox.ts'
import { type Page, pageOf } from '../page.ts'
import type { Filter } from './filter.ts'
import { type GuardPolicy, objectionTo } from './guard.ts'
import { type Attempt, isSuccess, type Sender, type WebhookRow } from './sender.ts'

/** What a back end says of an endpoint. */
export interface Subscription {
  url: string
  channels: string[]
  /** Null: every type of those channels. */
  types: string[] | null
  filter: Filter | null
  description: string
  headers: Record<string, string>
}

/** How long the secrets before the last rotation sign as well. */
const OVERLAP_MS = 86_400_000
/** How many of them. */
const MOST_PREVIOUS = 3
/** How many endpoints the dashboard shows, the newest, and up to how many deliveries of each it counts. */
const MOST_FIGURES = 100
const MOST_COUNTED = 1_000

export type Webhooks = ReturnType<typeof createWebhooks>
export const webhooksService = service<Webhooks>('webhooks')

/**
 * Endpoints. One is `unverified` until it has answered a challenge, and gets nothing else before; then `enabled`; `paused`
 * by whoever owns it: what happens meanwhile is stored, and sent when it is enabled again; `disabled` when it answered 410
 * or failed for long: what happens meanwhile is not stored, and can be replayed. No Redis.
 */
export function createWebhooks(dependencies: {
  db: DrizzleD1Database
  outbox: Outbox
  send: Sender
  /** Sees to what is parked for an endpoint. */
  wakeSoon: (webhookId: string) => void
  policy: GuardPolicy & { maxEndpoints: number }
  /** The CloudEvents `source` of samples. */
  source: string
}) {
  const { db, outbox, send, wakeSoon, policy, source } = dependencies

  async function find(id: string): Promise<WebhookRow> {
    const [row] = await db.select().from(webhooks).where(eq(webhooks.id, id))
    return row ?? unknown(id)
  }

  /** Refuses a URL that no endpoint may have; `host` is that of the request. */
  function requireAllowed(url: string, host: string): void {
    const objection = objectionTo(url, { ...policy, ownHosts: [...policy.ownHosts, host] })
    if (objection === undefined) return
    const errors = [{ in: 'body', field: 'url', message: objection }]
    throw new Problem('invalid-request', `url: ${objection}`, { errors })
  }

  /** Asks an endpoint to prove that it wants to be one. */
  async function challenge(row: WebhookRow): Promise<{ isAnswered: boolean; attempt: Attempt }> {
    const challenge = randomBytes(24).toString('base64url')
    const attempt = await send(row, {
      id: `ch_${ulid().toLowerCase()}`,
      contentType: 'application/json',
      body: JSON.stringify({ type: 'endpoint.challenge', challenge }),
    })
    if (attempt.status !== 200) return { isAnswered: false, attempt }
    if (readChallenge(attempt.answer) === challenge) return { isAnswered: true, attempt }
    return { isAnswered: false, attempt: { ...attempt, error: 'it was answered, but not with the challenge' } }
  }

  /**
   * Enables what answers the challenge, unless its status has changed meanwhile; undefined if it does not. What is parked
   * for it is on its way then. Who has just moved becomes what it was before, `former`: paused, if it was. If that was
   * disabled, an event says so. Two D1 statements, in one round trip.
   */
  async function challengeAndEnable(row: WebhookRow, reason: string, former = row.status) {
    const { isAnswered, attempt } = await challenge(row)
    if (!isAnswered) return { attempt, row: undefined }
    const now = Date.now()
    const staysPaused = row.status === 'unverified' && former === 'paused'
    // What proved itself was this URL, and whoever paused it meanwhile meant it.
    const isSame = sql`${webhooks.id} = ${row.id} AND ${webhooks.url} = ${row.url} AND ${webhooks.status} = ${row.status}`
    const enabling = db
      .update(webhooks)
      .set({ ...(staysPaused ? { status: 'paused' } : { status: 'enabled', wakeAt: now }), ...HEALTHY, updatedAt: now })
      .where(isSame)
      .returning()
    const isStill = sql`EXISTS (SELECT 1 FROM ${webhooks} WHERE ${isSame})`
    const transaction = outbox.transaction()
    const recording = () => transaction.record({ type: 'webhook_enabled', ...aboutWebhook(row, reason) }, isStill, now)
    const [enabled] = former === 'disabled' ? (await db.batch([recording(), enabling]))[1] : await enabling
    transaction.enqueue()
    if (enabled?.status === 'enabled') wakeSoon(row.id)
    return { attempt, row: enabled ?? (await find(row.id)) }
  }

  /**
   * A new secret, told this once. Those before sign as well for a day: after a rotation whose answer was lost, receivers
   * know but the one before that. Two D1 round trips.
   */
  async function rotate(id: string, now = Date.now()): Promise<ReturnType<typeof shown> & { secret: string }> {
    const before = await find(id)
    const isOverlapping = now < (before.previousSecretUntil ?? 0)
    const older = isOverlapping ? (before.previousSecret?.split(' ') ?? []) : []
    const previousSecret = [before.secret, ...older].slice(0, MOST_PREVIOUS).join(' ')
    const secret = newSecret()
    const [row] = await db
      .update(webhooks)
      .set({ secret, previousSecret, previousSecretUntil: now + OVERLAP_MS, updatedAt: now })
      .where(and(eq(webhooks.id, id), eq(webhooks.secret, before.secret)))
      .returning()
    return row ? { ...shown(row), secret } : rotate(id, now) // another was quicker
  }

  return {
    /**
     * Adds an endpoint and sends it the challenge: it is enabled if it answers. The secret is told this once; a back end
     * may bring its own, to be able to verify the challenge too. Where there are `maxEndpoints` already it is refused as
     * `too-many-webhooks`, by the statement that would have added it: of several at once none is too many.
     */
    async create(subscription: Subscription & { secret?: string | undefined }, host: string) {
      requireAllowed(subscription.url, host)
      const now = Date.now()
      const secret = subscription.secret ?? newSecret()
      const { url, channels, types, filter, description, headers } = subscription
      const json = (value: object | null) => value && JSON.stringify(value)
      const most = policy.maxEndpoints
      const [row] = await db
        .insert(webhooks)
        .select(
          // In the order of the table.
          sql`
            SELECT ${`wh_${ulid(now).toLowerCase()}`}, ${url}, ${json(channels)}, ${json(types)}, ${json(filter)},
              ${description}, ${json(headers)}, ${secret}, NULL, NULL, 'unverified', NULL, NULL, 0, NULL, NULL, ${now}, ${now}
            WHERE NOT EXISTS (SELECT 1 FROM ${webhooks} WHERE id > 'wh_' LIMIT 1 OFFSET ${most - 1})`,
        )
        .returning()
      if (!row) {
        const detail = `There are at most ${most} (WEBHOOK_MAX_ENDPOINTS): one has to be deleted first`
        throw new Problem('too-many-webhooks', detail)
      }
      const { attempt, row: enabled } = await challengeAndEnable(row, 'created')
      return { ...shown(enabled ?? row), secret, challenge: shownAttempt(attempt) }
    },

    read: async (id: string) => shown(await find(id)),

    /** The newest first. */
    async list(limit: number, cursor: string = 'wh_~'): Promise<Page<ReturnType<typeof shown>>> {
      const rows = await db
        .select()
        .from(webhooks)
        .where(lt(webhooks.id, cursor))
        .orderBy(desc(webhooks.id))
        .limit(limit + 1)
      return pageOf(rows, limit, (row) => row.id, shown)
    },

    /** Another URL has to prove itself again, and is sent the challenge at once. */
    async change(id: string, changes: Partial<Subscription>, host: string) {
      const before = await find(id)
      const isMoved = changes.url !== undefined && changes.url !== before.url
      if (changes.url !== undefined) requireAllowed(changes.url, host)
      const [row] = await db
        .update(webhooks)
        .set({
          ...changes,
          ...(isMoved ? { status: 'unverified', ...HEALTHY, wakeAt: null } : {}),
          updatedAt: Date.now(),
        })
        .where(eq(webhooks.id, id))
        .returning()
      if (!row) unknown(id)
      const moved = isMoved ? await challengeAndEnable(row, 'moved', before.status) : undefined
      return { ...shown(moved?.row ?? row), ...(moved ? { challenge: shownAttempt(moved.attempt) } : {}) }
    },

    /** Its deliveries end with it. */
    async remove(id: string): Promise<void> {
      const gone = await db.delete(webhooks).where(eq(webhooks.id, id)).returning({ id: webhooks.id })
      if (gone.length === 0) unknown(id)
    },

    rotate,

    /** From now on what happens is stored for it, not sent. Refused as `webhook-not-enabled`. */
    async pause(id: string) {
      const [row] = await db
        .update(webhooks)
        .set({ status: 'paused', updatedAt: Date.now() })
        .where(and(eq(webhooks.id, id), inArray(webhooks.status, ['enabled', 'paused'])))
        .returning()
      return shown(row ?? notEnabled(await find(id)))
    },

    /** Asks for the challenge, whatever its status, and enables it; refused as `challenge-failed`. */
    async enable(id: string) {
      const { row, attempt } = await challengeAndEnable(await find(id), 'enabled by request')
      if (row) return shown(row)
      throw new Problem('challenge-failed', attempt.error ?? `It answered ${attempt.status}`, {
        challenge: shownAttempt(attempt),
      })
    },

    /** Whether one that was disabled for failing has come back: then it is enabled. */
    async probe(row: WebhookRow): Promise<boolean> {
      return (await challengeAndEnable(row, 'it answers again')).row !== undefined
    },

    /** Sends a sample, once, and says what came of it. */
    async test(id: string) {
      const row = await find(id)
      if (row.status === 'unverified') notEnabled(row)
      const sample: CloudEvent = {
        specversion: '1.0',
        id: `ev_test_${ulid().toLowerCase()}`,
        source,
        type: 'webhook_test',
        subject: id,
        time: new Date().toISOString(),
        datacontenttype: 'application/json',
        channel: WEBHOOK_CHANNEL,
        sequence: 0,
        data: { webhookId: id },
      }
      const attempt = await send(row, {
        id: sample.id,
        contentType: 'application/cloudevents+json',
        body: JSON.stringify(sample),
      })
      return { ...shownAttempt(attempt), isDelivered: isSuccess(attempt), sample }
    },

    /** For the dashboard: how the newest endpoints do. One D1 round trip. */
    async figures(now = Date.now()) {
      const countOf = (status: string) =>
        sql<number>`(
          SELECT count(*) FROM (
            SELECT 1 FROM deliveries WHERE webhook_id = webhooks.id AND status = ${status} LIMIT ${MOST_COUNTED}
          )
        )`.as(status)
      const [rows, hours] = await db.batch([
        db
          .select({
            id: webhooks.id,
            url: webhooks.url,
            status: webhooks.status,
            pending: countOf('pending'),
            dead: countOf('dead'),
          })
          .from(webhooks)
          .where(gt(webhooks.id, 'wh_'))
          .orderBy(desc(webhooks.id))
          .limit(MOST_FIGURES),
        db
          .select()
          .from(webhookHours)
          .where(gte(webhookHours.hour, Math.floor(now / 3_600_000) - 23)),
      ])
      const byId = Map.groupBy(hours, (hour) => hour.webhookId)
      return rows.map(({ id, url, status, pending, dead }) => {
        const sum = (of: 'succeeded' | 'failed') => (byId.get(id) ?? []).reduce((total, hour) => total + hour[of], 0)
        const [succeeded, failed] = [sum('succeeded'), sum('failed')]
        const successRate = succeeded + failed === 0 ? null : succeeded / (succeeded + failed)
        return {
          id,
          host: new URL(url).host,
          isEnabled: status === 'enabled',
          succeeded,
          failed,
          successRate,
          pending,
          dead,
        }
      })
    },

    /** Forgets the hours of before yesterday; answers how many. For the cron. */
    async purge(most: number, now: number): Promise<number> {
      const hour = Math.floor(now / 3_600_000) - 48
      const old = db
        .select({ rowid: sql`rowid` })
        .from(webhookHours)
        .where(lt(webhookHours.hour, hour))
        .limit(most)
      const gone = await db
        .delete(webhookHours)
        .where(sql`rowid IN ${old}`)
        .returning({ hour: webhookHours.hour })
      return gone.length
    },
  }
}

/** What is forgotten when an endpoint has proved itself. */
const HEALTHY = { disabledReason: null, failingSince: null, failures: 0, openUntil: null } as const

/** What an event about an endpoint says; of its URL the origin, as the rest may hold a secret. */
export const aboutWebhook = ({ id, url }: WebhookRow, reason: string) => ({
  data: { webhookId: id, url: new URL(url).origin, reason },
  audience: 'services' as const,
})

const newSecret = () => `whsec_${randomBytes(32).toString('base64')}`

function readChallenge(answer: string | null): string | undefined {
  try {
    return v.parse(v.object({ challenge: v.string() }), JSON.parse(answer ?? '')).challenge
  } catch {
    return undefined
  }
}

function unknown(id: string): never {
  throw new Problem('not-found', `There is no webhook ${id}`)
}

export function notEnabled({ id, status }: WebhookRow): never {
  throw new Problem('webhook-not-enabled', `${id} is ${status}`)
}

const timeOf = (ms: number) => new Date(ms).toISOString()

/** An endpoint as services see it: without its secrets and the values of its headers, which may be such. */
const shown = (row: WebhookRow) => ({
  id: row.id,
  url: row.url,
  channels: row.channels,
  types: row.types,
  filter: row.filter,
  description: row.description,
  headerNames: Object.keys(row.headers),
  status: row.status,
  disabledReason: row.disabledReason,
  failingSince: row.failingSince === null ? null : timeOf(row.failingSince),
  previousSecretUntil: row.previousSecretUntil === null ? null : timeOf(row.previousSecretUntil),
  createdAt: timeOf(row.createdAt),
  updatedAt: timeOf(row.updatedAt),
})

export const shownAttempt = ({ at, durationMs, status, error, answer }: Omit<Attempt, 'retryAfterMs'>) => ({
  at: timeOf(at),
  durationMs,
  status,
  error,
  answer,
})
