import { listOf } from '../db/list.ts'
import { and, eq, inArray, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { deliveries, deliveryAttempts, events, webhookHours, webhooks } from '../db/schema.ts'
import { type StoredEvent, toCloudEvent } from '../events/catalog.ts'
import type { Outbox, Transaction } from '../events/outbox.ts'
import { MAX_DELAY_MS, messageOf, PATIENCE_MS, type Posted, wakeMessage } from './messages.ts'
import { type Attempt, isSuccess, type Sender, type WebhookRow } from './sender.ts'
import { aboutWebhook } from './webhooks.ts'

interface DeliveryPolicy {
  timeoutMs: number
  /** The wait before each retry. */
  retryMs: number[]
  circuitFailures: number
  circuitMs: number
  failingMs: number
  probeMs: number
}

/** How long a delivery that was taken up is left to who did. */
const LEASE_MS = 120_000
/** After so long a batch is done, though endpoints that are slow are still being waited for. */
const BATCH_MS = 100
/** An endpoint that has been waited for so long is not tried by others meanwhile, until who waits must be gone. */
const SLOW_MS = 1_000
const GONE_MS = 60_000
/** After so long nothing new is begun in a batch: the platform ends it 30 s after it is done. */
const BEGIN_WITHIN_MS = 10_000
/** What was not come to is tried again after that; what is for an endpoint that is being waited for, a little later. */
const RELEASE_MS = 1_000
const RELEASE_SLOW_MS = 5_000
/** Six connections an invocation may have: one is left for the queue, and endpoints that failed last time have two. */
const LANES = 3
const SUSPECT_LANES = 2
/** An open circuit stays open twice as long each time, up to so many times `circuitMs`. */
const MAX_CIRCUIT_FACTOR = 32

/** A delivery that was taken up. */
interface Claimed {
  id: string
  eventId: string
  webhookId: string
  attempts: number
  turn: number
}

/** What is to become of it. */
interface Fate {
  id: string
  turn: number
  status: 'pending' | 'delivered' | 'dead'
  /** When it is to be attempted; null: not before its endpoint wakes, or never. */
  nextAt: number | null
  attempt?: Attempt
}

/** The statements that note what became of deliveries, and the messages that follow from it. */
interface Outcome {
  statements: BatchItem<'sqlite'>[]
  messages: Posted[]
  /** The event that follows. */
  transaction: Transaction
}

export type Attempts = ReturnType<typeof createAttempts>

/**
 * Attempts: which endpoint is tried when, in what order, and what follows for it and for each delivery. One that is slow
 * or rests holds up no other. D1 round trips: two for a batch of the queue, then what came of it is written down as it
 * comes, several endpoints in one. No Redis.
 */
export function createAttempts(dependencies: {
  db: DrizzleD1Database
  outbox: Outbox
  send: Sender
  post: (messages: Posted[]) => Promise<unknown>
  /** Whether an endpoint that was disabled is back. */
  probe: (webhook: WebhookRow) => Promise<boolean>
  policy: DeliveryPolicy
  /** The CloudEvents `source`. */
  source: string
  onAttempt: (isSuccess: boolean) => void
  /** The endpoints that this isolate is waiting for, and since when (Unix ms). */
  awaited: Map<string, number>
  defer: (work: () => Promise<unknown>) => void
  /** Is told of a failure that is made up for later: whose it is, and what was thrown. */
  onFailure: (of: string, error: unknown) => void
}) {
  const { db, outbox, send, post, probe, policy, source, onAttempt, awaited, defer, onFailure } = dependencies

  /** Takes up what is still at the turn its message names: nobody else will then, for `LEASE_MS`. */
  async function claim(tickets: { id: string; turn: number }[], now: number): Promise<Claimed[]> {
    const given = JSON.stringify(tickets.map(({ id, turn }) => [id, turn]))
    return db.all<Claimed>(sql`
      UPDATE ${deliveries} SET turn = turn + 1, due_at = ${now + LEASE_MS}
      FROM json_each(${given}) AS ticket
      WHERE ${deliveries.id} = ticket.value ->> 0 AND turn = ticket.value ->> 1
        AND status = 'pending' AND due_at IS NOT NULL
      RETURNING ${deliveries.id} AS id, event_id AS eventId, webhook_id AS webhookId, attempts, turn`)
  }

  /** Attempts what the messages are about. What is claimed and then lost comes again when its lease is over. */
  async function deliver(tickets: { id: string; turn: number }[], now: number): Promise<void> {
    const claimed = await claim(tickets, now)
    if (claimed.length === 0) return
    const idsOf = (of: 'eventId' | 'webhookId') => listOf([...new Set(claimed.map((delivery) => delivery[of]))])
    const [endpoints, happened] = await db.batch([
      db
        .select()
        .from(webhooks)
        .where(inArray(webhooks.id, idsOf('webhookId'))),
      db
        .select({ event: events, place: sql<number>`rowid` })
        .from(events)
        .where(inArray(events.id, idsOf('eventId'))),
    ])
    const places = new Map(happened.map(({ event, place }) => [event.id, place]))
    const bodies = new Map(happened.map(({ event }) => [event.id, event]))
    claimed.sort((a, b) => (places.get(a.eventId) ?? 0) - (places.get(b.eventId) ?? 0))

    const byEndpoint = Map.groupBy(claimed, (delivery) => delivery.webhookId)
    const orphans = claimed.filter(({ webhookId }) => !endpoints.some(({ id }) => id === webhookId))
    const note = newNotebook()
    const notes: Promise<void>[] = []
    const run = (webhook: WebhookRow) => async () => {
      const own = byEndpoint.get(webhook.id) ?? []
      const isLate = Date.now() - now > BEGIN_WITHIN_MS
      const awaitedMs = Date.now() - (awaited.get(webhook.id) ?? 0)
      const isAwaited = awaitedMs < GONE_MS
      const leaveForMs = isAwaited && awaitedMs > SLOW_MS ? RELEASE_SLOW_MS : isLate ? RELEASE_MS : 0
      if (leaveForMs === 0 && !isAwaited) awaited.set(webhook.id, Date.now())
      try {
        notes.push(note(await deliverTo(webhook, own, bodies, leaveForMs)))
      } catch (error) {
        onFailure('deliveries', error)
      }
      if (leaveForMs === 0) awaited.delete(webhook.id)
    }
    const [suspects, healthy] = [true, false].map((isSuspect) =>
      endpoints.filter(({ failures }) => failures > 0 === isSuspect).map(run),
    )
    const work = async () => {
      await Promise.all([inLanes(healthy ?? [], LANES), inLanes(suspects ?? [], SUSPECT_LANES), bury(orphans)])
      await Promise.all(notes)
    }
    await within(work(), BATCH_MS)
  }

  /** Waits for `work`, but not longer than `ms`: the rest of it is waited for after the batch. */
  async function within(work: Promise<unknown>, ms: number): Promise<void> {
    defer(() => work)
    let timer: ReturnType<typeof setTimeout> | undefined
    await Promise.race([work, new Promise((resolve) => (timer = setTimeout(resolve, ms)))])
    clearTimeout(timer)
  }

  /** Deliveries of an endpoint that was deleted are over. */
  async function bury(orphans: Claimed[]): Promise<void> {
    if (orphans.length === 0) return
    await db
      .update(deliveries)
      .set({ status: 'dead', dueAt: null })
      .where(inArray(deliveries.id, listOf(orphans.map(({ id }) => id))))
  }

  /** Attempts deliveries of one endpoint, one after the other, in their order; answers what is to be noted of it. */
  async function deliverTo(
    webhook: WebhookRow,
    own: Claimed[],
    bodies: Map<string, StoredEvent>,
    leaveForMs: number,
  ): Promise<Outcome> {
    const startedAt = Date.now()
    const { openUntil } = webhook
    const rests = webhook.status !== 'enabled' || (openUntil !== null && openUntil > startedAt)
    const isLeft = leaveForMs > 0
    const isProbe = !rests && openUntil !== null && !isLeft && (await takeProbe(webhook, openUntil, startedAt))
    const most = isLeft || rests ? 0 : openUntil === null ? own.length : Number(isProbe)

    const fates: Fate[] = []
    let failures = webhook.failures
    let failed = 0 // of these, since one arrived
    let last: Attempt | undefined
    let hasSucceeded = false
    /** Until when the endpoint is to rest, if it is. */
    let restUntil: number | undefined
    for (const delivery of own.slice(0, most)) {
      const event = bodies.get(delivery.eventId)
      if (!event) {
        const error = 'not sent: its event is not kept any more'
        fates.push({ ...delivery, status: 'dead', nextAt: null, attempt: { ...NOT_SENT, at: Date.now(), error } })
        continue
      }
      const body = JSON.stringify(toCloudEvent(event, source))
      const { id, traceparent } = event
      last = await send(webhook, { id, contentType: 'application/cloudevents+json', body, traceparent })
      onAttempt(isSuccess(last))
      const now = Date.now()
      failures = isSuccess(last) ? 0 : failures + 1
      failed = isSuccess(last) ? 0 : failed + 1
      // To find out that nobody answers took long enough: that is not tried again soon.
      const isTimeout = last.status === null && last.durationMs >= policy.timeoutMs
      if (isTimeout) failures = Math.max(failures, policy.circuitFailures)
      hasSucceeded ||= isSuccess(last)
      fates.push(fateOf(delivery, last, now))
      if (isSuccess(last)) {
        if (now - startedAt > BEGIN_WITHIN_MS) break
        continue
      }
      if (last.status === 410) break
      if (isOverloaded(last)) restUntil = now + (last.retryAfterMs ?? 0)
      if (failures >= policy.circuitFailures) {
        const factor = Math.min(2 ** (failures - policy.circuitFailures), MAX_CIRCUIT_FACTOR)
        restUntil = Math.max(restUntil ?? 0, now + policy.circuitMs * factor)
      }
      // What could not be reached would take as long again; what failed before, and still does, is not pressed.
      if (restUntil !== undefined || last.status === null || webhook.failures > 0) break
    }

    const now = Date.now()
    const isFailing = failures > 0
    const failingSince = isFailing ? ((hasSucceeded ? null : webhook.failingSince) ?? now) : null
    const disabledReason =
      last?.status === 410
        ? 'gone'
        : isFailing && now - (failingSince ?? now) >= policy.failingMs
          ? 'failing'
          : undefined
    const isParking = rests || (openUntil !== null && !hasSucceeded) || restUntil !== undefined || last?.status === 410
    for (const delivery of own) {
      if (fates.some(({ id }) => id === delivery.id)) continue
      fates.push({
        ...delivery,
        status: 'pending',
        nextAt: isParking && !isLeft ? null : now + (leaveForMs || RELEASE_MS),
      })
    }
    const isWaking = hasSucceeded && openUntil !== null
    const changed = {
      ...(last
        ? { failures: hasSucceeded ? failures : sql`max(failures + ${failed}, ${failures})`, failingSince }
        : {}),
      ...(isWaking ? { openUntil: null, wakeAt: now } : {}),
      ...(restUntil === undefined ? {} : { openUntil: restUntil, wakeAt: restUntil }),
    }
    const isAsBefore = failures === webhook.failures && failingSince === webhook.failingSince && openUntil === null
    const isParked = fates.some(({ status, nextAt }) => status === 'pending' && nextAt === null)
    const statements: BatchItem<'sqlite'>[] = [...noteFates(webhook.id, fates, now)]
    if (last && (!isAsBefore || restUntil !== undefined)) {
      statements.push(db.update(webhooks).set(changed).where(eq(webhooks.id, webhook.id)))
    }
    if (isParked) {
      // An endpoint that is enabled again meanwhile finds them all the same.
      const wakeAt = sql`coalesce(wake_at, ${now + PATIENCE_MS})`
      statements.push(db.update(webhooks).set({ wakeAt }).where(eq(webhooks.id, webhook.id)))
    }
    const transaction = outbox.transaction()
    if (disabledReason) statements.push(...disable(webhook, disabledReason, now, transaction))
    const messages = fates.flatMap(({ id, turn, nextAt }) =>
      nextAt === null || nextAt - now > MAX_DELAY_MS ? [] : [messageOf({ id, turn }, nextAt - now)],
    )
    if (restUntil !== undefined) messages.push(wakeMessage(webhook.id, restUntil - now))
    else if (isWaking) messages.push(wakeMessage(webhook.id))
    return { statements, messages, transaction }
  }

  /**
   * Notes what came of deliveries, then sends what follows from it: at once, and together with what comes while another
   * note is being written. A failure is told and made up for: the lease ends.
   */
  function newNotebook() {
    let waiting: Outcome[] = []
    let writing: Promise<void> | undefined
    async function write(): Promise<void> {
      while (waiting.length > 0) {
        const noted = waiting
        waiting = []
        try {
          const [first, ...rest] = noted.flatMap(({ statements }) => statements)
          if (first) await db.batch([first, ...rest])
          for (const { transaction } of noted) transaction.enqueue()
          await post(noted.flatMap(({ messages }) => messages))
        } catch (error) {
          onFailure('deliveries', error)
        }
      }
      writing = undefined
    }
    return (outcome: Outcome): Promise<void> => {
      waiting.push(outcome)
      return (writing ??= write())
    }
  }

  /** What is to become of a delivery after an attempt. */
  function fateOf(delivery: Claimed, attempt: Attempt, now: number): Fate {
    const { id, turn } = delivery
    if (isSuccess(attempt)) return { id, turn, status: 'delivered', nextAt: null, attempt }
    if (attempt.status === 410) return { id, turn, status: 'pending', nextAt: null, attempt } // for when it is enabled
    const wait = policy.retryMs[delivery.attempts]
    if (wait === undefined) return { id, turn, status: 'dead', nextAt: null, attempt }
    const jittered = wait * (0.8 + 0.4 * Math.random())
    return { id, turn, status: 'pending', nextAt: now + Math.max(jittered, attempt.retryAfterMs ?? 0), attempt }
  }

  /** The statements that note what became of deliveries, the attempts, and the sums of the hour. */
  function noteFates(webhookId: string, fates: Fate[], now: number): BatchItem<'sqlite'>[] {
    const rows = fates.map(({ id, turn, status, nextAt, attempt }) => {
      const dueAt = nextAt === null ? null : nextAt - now > MAX_DELAY_MS ? nextAt : nextAt + PATIENCE_MS
      return [id, turn, status, dueAt === null ? null : Math.round(dueAt), attempt ? 1 : 0]
    })
    const attempts = fates.flatMap(({ id, attempt }) =>
      attempt ? [[id, attempt.at, attempt.durationMs, attempt.status, attempt.error, attempt.answer]] : [],
    )
    const succeeded = fates.filter(({ attempt }) => attempt && isSuccess(attempt)).length
    const noted: BatchItem<'sqlite'>[] = [
      // Whoever has taken it up since decides, unless it has arrived.
      db
        .update(deliveries)
        .set({
          status: sql`fate.value ->> 2`,
          dueAt: sql`fate.value ->> 3`,
          attempts: sql`${deliveries.attempts} + (fate.value ->> 4)`,
        })
        .from(sql`json_each(${JSON.stringify(rows)}) AS fate`)
        .where(
          sql`${deliveries.id} = fate.value ->> 0
            AND (${deliveries.turn} = fate.value ->> 1 OR fate.value ->> 2 = 'delivered')`,
        ),
    ]
    if (attempts.length === 0) return noted
    return [
      ...noted,
      db
        .insert(deliveryAttempts)
        .select(
          sql`
            SELECT deliveries.id, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
            FROM json_each(${JSON.stringify(attempts)}) CROSS JOIN ${deliveries} ON deliveries.id = value ->> 0
            WHERE true`,
        )
        .onConflictDoNothing(),
      db
        .insert(webhookHours)
        .values({
          hour: Math.floor(now / 3_600_000),
          webhookId,
          succeeded,
          failed: attempts.length - succeeded,
        })
        .onConflictDoUpdate({
          target: [webhookHours.hour, webhookHours.webhookId],
          set: { succeeded: sql`succeeded + excluded.succeeded`, failed: sql`failed + excluded.failed` },
        }),
    ]
  }

  /** The statements that disable an endpoint, and tell of it. */
  function disable(
    webhook: WebhookRow,
    disabledReason: 'gone' | 'failing',
    now: number,
    transaction: Transaction,
  ): BatchItem<'sqlite'>[] {
    const days = Math.round(policy.failingMs / 86_400_000)
    const reason = disabledReason === 'gone' ? 'it answered 410' : `it has been failing for ${days} days`
    const isEnabled = sql`EXISTS (SELECT 1 FROM ${webhooks} WHERE id = ${webhook.id} AND status = 'enabled')`
    return [
      transaction.record({ type: 'webhook_disabled', ...aboutWebhook(webhook, reason) }, isEnabled, now),
      db
        .update(webhooks)
        .set({
          status: 'disabled',
          disabledReason,
          wakeAt: disabledReason === 'gone' ? null : now + policy.probeMs,
          updatedAt: now,
        })
        .where(and(eq(webhooks.id, webhook.id), eq(webhooks.status, 'enabled'))),
    ]
  }

  /** Whether this is the one delivery that tries an endpoint whose circuit was open. */
  async function takeProbe(webhook: WebhookRow, openUntil: number, now: number): Promise<boolean> {
    const until = now + LEASE_MS
    const taken = await db
      .update(webhooks)
      .set({ openUntil: until, wakeAt: until })
      .where(and(eq(webhooks.id, webhook.id), eq(webhooks.openUntil, openUntil)))
      .returning({ id: webhooks.id })
    return taken.length > 0
  }

  return {
    deliver,

    /** Asks an endpoint that was disabled for failing whether it is back, unless another does: once in `probeMs`. */
    async probe(webhook: WebhookRow, now: number): Promise<void> {
      const taken = await db
        .update(webhooks)
        .set({ wakeAt: now + policy.probeMs })
        .where(and(eq(webhooks.id, webhook.id), sql`wake_at IS ${webhook.wakeAt}`))
        .returning({ id: webhooks.id })
      if (taken.length > 0) await within(probe(webhook), BATCH_MS)
    },
  }
}

const NOT_SENT: Attempt = { at: 0, durationMs: 0, status: null, error: null, answer: null, retryAfterMs: null }

/** It says itself how long it wants to be left alone, by everything. */
const isOverloaded = ({ status, retryAfterMs }: Attempt) => (status === 429 || status === 503) && retryAfterMs !== null

/** Runs works, `lanes` at a time. */
async function inLanes(works: (() => Promise<void>)[], lanes: number): Promise<void> {
  const waiting = works.values()
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      for (const work of waiting) await work()
    }),
  )
}
