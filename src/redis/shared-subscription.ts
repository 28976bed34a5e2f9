import type { Subscribe } from './subscription.ts'
import { within } from './within.ts'

/** A follower, as other requests see it. They may call these functions: all they do is settle promises. */
interface Member<M> {
  /** `undefined`: messages were lost. `size` in UTF-16 units. */
  deliver: (message: M | undefined, size: number) => void
  end: () => void
  /** Asks its request to take the subscription over. Resolves with whether it has. */
  call: () => Promise<boolean>
}

/** What the followers of an isolate share. */
export interface SharedSubscription<M> {
  /** The newest last. */
  members: Set<Member<M>>
  /** The request that reads the subscription for all. */
  reader: symbol | undefined
  /** When that request was last alive (Unix ms). */
  aliveAt: number
  /** While nobody reads and a request is subscribing. Resolves with its error, or undefined. */
  opening: Promise<unknown> | undefined
  /** While two requests are subscribed, and a little longer: the messages that one of them has delivered. */
  delivered: Set<string> | undefined
  /** When a member last looked for lost messages (Unix ms). */
  checkedAt: number
}

export const newSharedSubscription = <M>(): SharedSubscription<M> => ({
  members: new Set(),
  reader: undefined,
  aliveAt: 0,
  opening: undefined,
  delivered: undefined,
  checkedAt: 0,
})

/** A follower's own end of the subscription. */
export interface Membership<M> {
  /** The messages from now on, each parsed once for all members. `undefined`: some were lost here. */
  messages: AsyncIterator<M | undefined, void>
  /** Call it every `beatMs`: a reader shows that it is alive; any other member replaces a reader that is not. */
  beat: () => void
  /** Whether this member should look for lost messages on behalf of all. True once per `everyMs` in the isolate. */
  claimCheck: (everyMs: number) => boolean
  /** Delivers a message to all members. */
  pass: (message: M) => void
}

export type Join<M> = (signal: AbortSignal) => Promise<Membership<M>>

/** How long a request has to take over, or to subscribe. */
const HANDOVER_MS = 5_000
/** For this long both requests listen, so that no message falls between them. */
const OVERLAP_MS = 500
/** How many members a reader that leaves asks to take over. */
const MAX_ASKED = 3
/** After so many silent beats a reader is dead. */
const SILENT_BEATS = 3
/** What may wait for one member (UTF-16 units). It loses what waits when it falls further behind. */
const MAX_WAITING = 1_000_000
/** After so many deliveries the reader hands over: Workers limits the CPU time of a request, to 30 s by default. */
const MAX_DELIVERIES = 1_000_000

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/**
 * One subscription of an isolate to `channel`, shared by all who follow it there.
 *
 * Workers binds a connection to the request that opened it: another request that reads from it gets an error. But requests
 * may settle each other's promises. So the request of one member, the reader, reads for all, and each member waits in its
 * own request. A reader that leaves calls the newest member, which subscribes in its own request before the reader stops.
 * Nothing is lost or repeated then, unless a message reaches this isolate `OVERLAP_MS` later by one connection than by the
 * other. A reader that dies silently is replaced after `SILENT_BEATS`. Then, and when a member falls far behind, messages
 * are lost, and the member is informed.
 *
 * One command and one round trip for the first member and for each handover; none for any other member. Throws what
 * `subscribe` throws. All members end when the connection ends, or when nobody can take over. `subscribe` and `defer`
 * belong to the request that joins; `state` belongs to the isolate.
 */
export function createSharedSubscription<M>(
  state: SharedSubscription<M>,
  subscribe: Subscribe,
  channel: string,
  beatMs: number,
  defer: (work: () => Promise<unknown>) => void,
): Join<M> {
  function deliverAll(message: M | undefined, size = 0): void {
    for (const member of state.members) member.deliver(message, size)
  }

  function endAll(): void {
    state.reader = undefined
    for (const member of state.members) member.end()
    state.members.clear()
  }

  return async function join(signal) {
    const { put, end, messages } = createInbox<M>()
    let call = Promise.withResolvers<((hasTakenOver: boolean) => void) | undefined>()
    const member: Member<M> = {
      deliver: put,
      end,
      call() {
        const answer = Promise.withResolvers<boolean>()
        call.resolve(answer.resolve)
        return answer.promise
      },
    }
    /** Set while this request is subscribed. */
    let reading: { id: symbol; stop: AbortController } | undefined
    let isHandingOver = false

    /** Subscribes in this request, which is then the reader. */
    async function takeOver(): Promise<void> {
      const stop = new AbortController()
      const texts = await subscribe(channel, stop.signal)
      reading = { id: Symbol('reader'), stop }
      state.reader = reading.id
      state.aliveAt = Date.now()
      const done = read(texts, reading)
      defer(() => done)
      if (signal.aborted) defer(handOver)
    }

    async function read(texts: AsyncIterator<string, void>, { id, stop }: { id: symbol; stop: AbortController }) {
      let deliveries = 0
      try {
        for (;;) {
          const next = await texts.next()
          if (next.done || (state.reader !== id && !isHandingOver)) return
          if (state.delivered?.has(next.value)) continue
          state.delivered?.add(next.value)
          deliverAll(JSON.parse(next.value) as M, next.value.length) // what was published is an `M`
          deliveries += state.members.size
          if (deliveries < MAX_DELIVERIES || isHandingOver) continue
          deliveries = 0
          defer(handOver)
        }
      } finally {
        if (state.reader === id) endAll()
        stop.abort()
      }
    }

    /** Calls other members until one has taken over, then stops reading. */
    async function handOver(): Promise<void> {
      if (!reading || state.reader !== reading.id || isHandingOver) return
      const { id, stop } = reading
      isHandingOver = true
      const asked = new Set([member])
      const delivered = new Set(state.delivered)
      while (state.reader === id && asked.size <= MAX_ASKED) {
        const heir = [...state.members].findLast((other) => !asked.has(other))
        if (!heir) break
        asked.add(heir)
        state.delivered = delivered
        if (await within(heir.call(), HANDOVER_MS)) await pause(OVERLAP_MS)
      }
      isHandingOver = false
      if (state.reader !== id || signal.aborted) {
        if (state.reader === id) endAll() // nobody could
        stop.abort()
      }
      await pause(OVERLAP_MS) // what this request has delivered is still on its way to the other
      if (state.delivered === delivered) state.delivered = undefined // else another handover has begun
    }

    /** Takes over when it is called, until it leaves. */
    async function answerCalls(): Promise<void> {
      while (!signal.aborted) {
        const answer = await call.promise
        call = Promise.withResolvers()
        if (!answer || signal.aborted) return answer?.(false)
        const hasTakenOver = await takeOver().then(
          () => true,
          () => false,
        )
        answer(hasTakenOver)
      }
    }

    function leave(): void {
      state.members.delete(member)
      end()
      call.resolve(undefined)
      defer(handOver)
    }

    /** Waits until a request of the isolate is subscribed: this one, if no other is about to be. */
    async function subscribed(): Promise<void> {
      while (!state.reader) {
        const { opening } = state
        if (opening) {
          const outcome = await within(
            opening.then((error) => ({ error })),
            HANDOVER_MS,
          )
          if (outcome?.error !== undefined) throw outcome.error
          if (state.opening === opening) state.opening = undefined // its request has died
          continue
        }
        const { promise, resolve } = Promise.withResolvers<unknown>()
        state.opening = promise
        const error = await takeOver().catch((error: unknown) => error)
        state.opening = undefined
        resolve(error)
        if (error !== undefined) throw error
      }
    }

    state.members.add(member)
    signal.addEventListener('abort', leave, { once: true })
    const calls = answerCalls()
    defer(() => calls)
    if (signal.aborted) leave()
    try {
      await subscribed()
    } catch (error) {
      leave()
      throw error
    }
    return {
      messages,
      beat() {
        const now = Date.now()
        if (reading && state.reader === reading.id) state.aliveAt = now
        else if (!isHandingOver) reading?.stop.abort() // another has taken over from this one
        if (!state.reader || state.aliveAt >= now - SILENT_BEATS * beatMs) return
        state.aliveAt = now // the others wait for this one
        defer(() =>
          takeOver().then(
            () => deliverAll(undefined),
            () => endAll(),
          ),
        )
      },
      claimCheck(everyMs) {
        const sinceMs = Date.now() - state.checkedAt
        if (sinceMs >= 0 && sinceMs < 0.9 * everyMs) return false // timers may be a little early
        state.checkedAt = Date.now()
        return true
      },
      pass: deliverAll,
    }
  }
}

/** What waits for one member, at most `MAX_WAITING`. */
function createInbox<M>() {
  let waiting: { message: M | undefined; size: number }[] = []
  let size = 0
  let hasEnded = false
  let wake = () => {}

  async function* messages(): AsyncGenerator<M | undefined, void> {
    for (;;) {
      const next = waiting.shift()
      if (next) {
        size -= next.size
        yield next.message
        continue
      }
      if (hasEnded) return
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }

  return {
    messages: messages(),
    put: (message: M | undefined, added: number): void => {
      if (hasEnded) return
      if (size + added > MAX_WAITING) {
        waiting = [{ message: undefined, size: 0 }]
        size = 0
      }
      waiting.push({ message, size: added })
      size += added
      wake()
    },
    end: (): void => {
      hasEnded = true
      wake()
    },
  }
}
