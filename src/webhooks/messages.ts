import * as v from 'valibot'

/** A message of the queue `deliveries`. */
export const DeliveryMessage = v.variant('kind', [
  /** This delivery is to be attempted, if it is still at this turn. */
  v.object({ kind: v.literal('delivery'), id: v.string(), turn: v.number() }),
  /** This endpoint has parked deliveries, or is to be probed. */
  v.object({ kind: v.literal('wake'), webhookId: v.string() }),
  /** The next step of replaying events to an endpoint. */
  v.object({
    kind: v.literal('replay'),
    webhookId: v.string(),
    /** The last event of the step before: its time (Unix ms) and row. */
    after: v.tuple([v.number(), v.number()]),
    until: v.number(),
    isAll: v.boolean(),
  }),
])
export type DeliveryMessage = v.InferOutput<typeof DeliveryMessage>

/** A message, and when it is to arrive. */
export interface Posted {
  body: DeliveryMessage
  delaySeconds?: number
}

/** How long the queue has to bring a message before the cron sends it again. */
export const PATIENCE_MS = 120_000
/** The longest delay of a queue; what is due later, the cron sends. */
export const MAX_DELAY_MS = 43_200_000

/** In whole seconds, as the queue wants it; what is overdue, at once. */
const delayOf = (delayMs: number) => Math.ceil(Math.min(Math.max(delayMs, 0), MAX_DELAY_MS) / 1_000)
/** Has an endpoint seen to, after a delay. */
export const wakeMessage = (webhookId: string, delayMs = 0): Posted => ({
  body: { kind: 'wake', webhookId },
  delaySeconds: delayOf(delayMs),
})
/** Has a delivery attempted, after a delay. */
export const messageOf = ({ id, turn }: { id: string; turn: number }, delayMs = 0): Posted => ({
  body: { kind: 'delivery', id, turn },
  delaySeconds: delayOf(delayMs),
})
