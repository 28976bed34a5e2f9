/** How an endpoint answers a request. */
export interface Plan {
  /** 200 unless given. */
  status?: number
  headers?: Record<string, string>
  /** `thanks` unless given; to a challenge, the right answer. */
  body?: string
  delayMs?: number
  /** It answers when it gets another plan. */
  isHeld?: boolean
  /** It never answers. */
  isHanging?: boolean
  /** It closes the connection. */
  isDropping?: boolean
  /** It sends the body as fast as it can, without end. */
  isEndless?: boolean
  /** It sends the headers at once, then one byte of the body per second, without end. */
  isDripping?: boolean
}

export interface Received {
  /** Unix ms. */
  at: number
  method: string
  /** Names are in lower case. */
  headers: Record<string, string>
  body: string
}

/** A new endpoint on the server of test/receiver.setup.ts. */
export function newReceiver(base: string) {
  const path = `/${crypto.randomUUID()}`
  const all = async () => (await fetch(`${base}/_${path}`)).json() as Promise<Received[]>
  return {
    url: `${base}${path}`,
    /** Sets how the next requests are answered. The last plan stays in effect. */
    plan: async (...plans: Plan[]) =>
      void (await (await fetch(`${base}/_${path}`, { method: 'PUT', body: JSON.stringify(plans) })).text()),
    /** Every request it received. */
    all,
    /** Every request it received, except challenges. */
    events: async () => (await all()).filter(({ body }) => !body.includes('endpoint.challenge')),
  }
}
export type Receiver = ReturnType<typeof newReceiver>
