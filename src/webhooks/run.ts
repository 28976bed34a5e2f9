import { type StoredEvent, toCloudEvent } from '../events/catalog.ts'
import type { Claimed, DeliveryClaims } from './claims.ts'
import { eventFor } from './fan-out.ts'
import { type CircuitPolicy, isSuspect, next, reasonToDisable, SLOW_MS, stateOf } from './circuit.ts'
import type { Task } from './lanes.ts'
import type { DeliveryOutcome, RecordResult, RunResult } from './outcomes.ts'
import { retryAt } from './retry.ts'
import { type Attempt, isSuccess, type Sender, type WebhookRow } from './sender.ts'

export interface DeliveryPolicy extends CircuitPolicy {
  /** The wait before each retry. */
  retryMs: number[]
  probeMs: number
}

/** What all runs of a batch share. */
export interface Batch {
  startedAt: number
  events: Map<string, StoredEvent>
  /** The row of an endpoint, read at most `FRESH_MS` ago. Undefined: it was deleted. */
  latest: (webhookId: string) => Promise<WebhookRow | undefined>
  /** When this isolate started the request in flight to each endpoint (Unix ms). */
  inFlight: Map<string, number>
  claimTest: DeliveryClaims['claimTest']
  record: RecordResult
  send: Sender
  policy: DeliveryPolicy
  /** The CloudEvents `source`. */
  source: string
  onAttempt: (isSuccess: boolean) => void
  onFailure: (origin: string, error: unknown) => void
  /** Keeps the invocation alive until this is done. */
  track: (work: Promise<void>) => void
}

/** A batch starts no request after this long: the platform ends its invocation 30 s after the batch. */
const SEND_WITHIN_MS = 10_000
/** Retry delay for deliveries this batch did not reach. */
const RELEASE_MS = 1_000
/** The same for an endpoint that blocks a connection of another batch. */
const RELEASE_SLOW_MS = 5_000
/** An invocation is over by then: a request that it left in `inFlight` is not. */
const GONE_MS = 60_000
const EVENT_GONE = 'not sent: its event is not kept any more'
const NOT_PUBLIC = 'not sent: its event is not public'

interface Run {
  batch: Batch
  /** The deliveries that are left, in the order of their events. */
  left: Claimed[]
  /** What is known so far of the endpoint at its present address. */
  result: RunResult
}

/** The deliveries of one endpoint in a batch, as a task that sends them one by one and in order. */
export function createRun(webhook: WebhookRow, claimed: Claimed[], batch: Batch): Task {
  const run: Run = { batch, left: [...claimed], result: newResult(webhook) }
  return {
    isSuspect: () => isSuspect(run.result.health ?? run.result.webhook),
    release: () => void end(run, Date.now()),
    step: () =>
      step(run).catch((error: unknown) => {
        batch.onFailure('deliveries', error)
        return end(run, Date.now() + RELEASE_MS)
      }),
  }
}

const newResult = (webhook: WebhookRow): RunResult => ({
  webhook,
  outcomes: [],
  hasSucceeded: false,
  failed: 0,
  disable: undefined,
})

/** Sends the next delivery if the endpoint may receive it now. Answers whether the run goes on. */
async function step(run: Run): Promise<boolean> {
  const { batch, result } = run
  const now = Date.now()
  if (now - batch.startedAt > SEND_WITHIN_MS) return end(run, now + RELEASE_MS)
  if (isBlockedElsewhere(batch.inFlight.get(result.webhook.id), result.webhook, now)) {
    return end(run, now + RELEASE_SLOW_MS)
  }
  const row = await batch.latest(result.webhook.id)
  if (!row) return end(run, null, 'dead')
  if (row.url !== result.webhook.url) startAnew(run, row)
  const state = stateOf(row, now)
  if (row.status !== 'enabled' || state === 'open') return end(run, null)
  if (state === 'half-open' && !(await batch.claimTest(row, now))) return end(run, null)
  const attempt = await attemptNext(run, row)
  return attempt === undefined ? run.left.length > 0 || end(run, null) : follow(run, attempt, state === 'half-open')
}

/** Whether another batch of this isolate waits for the endpoint. A slow endpoint has one request in flight at most. */
function isBlockedElsewhere(startedAt: number | undefined, { slowSince }: WebhookRow, now: number): boolean {
  if (startedAt === undefined || now - startedAt >= GONE_MS) return false
  return slowSince !== null || now - startedAt > SLOW_MS
}

/** The endpoint has moved: what its former address did says nothing about the new one. */
function startAnew(run: Run, row: WebhookRow): void {
  run.batch.track(run.batch.record(run.result))
  run.result = newResult(row)
}

/** Sends the next delivery and notes its outcome. Undefined: there was nothing to send. */
async function attemptNext(run: Run, row: WebhookRow): Promise<Attempt | undefined> {
  const { batch, result } = run
  const delivery = run.left.shift()
  if (!delivery) return undefined
  const stored = batch.events.get(delivery.eventId)
  const event = stored && eventFor(row, stored)
  if (!event) {
    result.outcomes.push({
      ...delivery,
      status: 'dead',
      nextAt: null,
      attempt: notSent(stored ? NOT_PUBLIC : EVENT_GONE),
    })
    return undefined
  }
  const attempt = await tracked(batch.inFlight, row.id, () => {
    const body = JSON.stringify(toCloudEvent(event, batch.source))
    const { id, traceparent } = event
    return batch.send(row, { id, contentType: 'application/cloudevents+json', body, traceparent })
  })
  batch.onAttempt(isSuccess(attempt))
  result.outcomes.push(outcomeOf(delivery, attempt, batch.policy.retryMs, Date.now()))
  return attempt
}

/** Runs a request while `inFlight` lists it, unless that of another batch is listed. */
async function tracked<T>(inFlight: Map<string, number>, id: string, request: () => Promise<T>): Promise<T> {
  const now = Date.now()
  const isListed = now - (inFlight.get(id) ?? 0) < GONE_MS
  if (!isListed) inFlight.set(id, now)
  try {
    return await request()
  } finally {
    if (!isListed) inFlight.delete(id)
  }
}

/** Updates what is known of the endpoint after an attempt. Answers whether the run goes on. */
function follow(run: Run, attempt: Attempt, isTest: boolean): boolean {
  const { result, batch } = run
  const now = Date.now()
  const health = next(result.health ?? result.webhook, attempt, batch.policy, now)
  result.health = health
  result.hasSucceeded ||= isSuccess(attempt)
  result.failed = isSuccess(attempt) ? 0 : result.failed + 1
  if (isSuccess(attempt)) {
    // That it has become slow is recorded at once: other batches keep it apart from then on.
    const isNews = isTest || (health.slowSince !== null && result.webhook.slowSince === null)
    return isNews || run.left.length === 0 ? end(run, now + RELEASE_MS) : true
  }
  result.disable = reasonToDisable(health, attempt, batch.policy, now)
  if (result.disable || health.openUntil !== null) return end(run, null)
  // An unreachable endpoint would block a connection again; one that failed before the batch is likely to fail again.
  const isHopeless = attempt.status === null || result.webhook.failures > 0
  return isHopeless || run.left.length === 0 ? end(run, now + RELEASE_MS) : true
}

/** Ends the run. What is left is attempted at `nextAt` (Unix ms). Null: it is parked until the endpoint wakes, or dead. */
function end({ batch, left, result }: Run, nextAt: number | null, status: 'pending' | 'dead' = 'pending'): false {
  for (const { id, turn } of left.splice(0)) result.outcomes.push({ id, turn, status, nextAt })
  batch.track(batch.record(result))
  return false
}

function outcomeOf({ id, turn, attempts }: Claimed, attempt: Attempt, retryMs: number[], now: number): DeliveryOutcome {
  if (isSuccess(attempt)) return { id, turn, status: 'delivered', nextAt: null, attempt }
  if (attempt.status === 410) return { id, turn, status: 'pending', nextAt: null, attempt } // sent when it is enabled
  const nextAt = retryAt(attempts, attempt.retryAfterMs, retryMs, now)
  return { id, turn, status: nextAt === null ? 'dead' : 'pending', nextAt, attempt }
}

const notSent = (error: string): Attempt => ({
  at: Date.now(),
  durationMs: 0,
  status: null,
  error,
  answer: null,
  answerHeaders: null,
  retryAfterMs: null,
})
