import * as v from 'valibot'

/** A message of the queue `deliveries`. */
export const DeliveryMessage = v.variant('kind', [
  /** Attempt this delivery, if it is still at this turn. */
  v.object({ kind: v.literal('delivery'), id: v.string(), turn: v.number() }),
  /** Send the parked deliveries of this endpoint, or test whether it answers again. */
  v.object({ kind: v.literal('wake'), webhookId: v.string() }),
  /** Take the next step of a replay to this endpoint. */
  v.object({
    kind: v.literal('replay'),
    webhookId: v.string(),
    /** The last event of the previous step: its time (Unix ms) and its rowid. */
    after: v.tuple([v.number(), v.number()]),
    /** When the replay was requested (Unix ms): later events are not part of it. */
    until: v.number(),
    /** Whether delivered events are sent again too. */
    isAll: v.boolean(),
  }),
])
export type DeliveryMessage = v.InferOutput<typeof DeliveryMessage>

/** A message to enqueue, with its delay. */
export interface Outgoing {
  body: DeliveryMessage
  delaySeconds?: number
}

/** How long the queue has to deliver a message before the cron enqueues it again. */
export const PATIENCE_MS = 120_000
/** The longest delay of a queue. Deliveries due later are enqueued by the cron. */
export const MAX_DELAY_MS = 43_200_000

/** Whole seconds, as the queue requires; 0 if overdue. */
const delayOf = (delayMs: number) => Math.ceil(Math.min(Math.max(delayMs, 0), MAX_DELAY_MS) / 1_000)

/** The message that wakes an endpoint after a delay. */
export const wakeMessage = (webhookId: string, delayMs = 0): Outgoing => ({
  body: { kind: 'wake', webhookId },
  delaySeconds: delayOf(delayMs),
})

/** The message that attempts a delivery after a delay. */
export const deliveryMessage = ({ id, turn }: { id: string; turn: number }, delayMs = 0): Outgoing => ({
  body: { kind: 'delivery', id, turn },
  delaySeconds: delayOf(delayMs),
})
