/** What an endpoint does with a request. */
export interface Plan {
  /** 200 unless given. */
  status?: number
  headers?: Record<string, string>
  /** `thanks` unless given; to a challenge, the right answer. */
  body?: string
  delayMs?: number
  /** It never answers. */
  isHanging?: boolean
  /** It closes the connection. */
  isDropping?: boolean
  /** Its body has no end. */
  isEndless?: boolean
}

export interface Received {
  /** Unix ms. */
  at: number
  method: string
  /** By their names in lower case. */
  headers: Record<string, string>
  body: string
}

/** An endpoint of its own at the server of test/receiver.setup.ts. */
export function newReceiver(base: string) {
  const path = `/${crypto.randomUUID()}`
  const all = async () => (await fetch(`${base}/_${path}`)).json() as Promise<Received[]>
  return {
    url: `${base}${path}`,
    /** What the next requests are answered, the last for ever. */
    plan: async (...plans: Plan[]) =>
      void (await (await fetch(`${base}/_${path}`, { method: 'PUT', body: JSON.stringify(plans) })).text()),
    /** Everything it was sent. */
    all,
    /** What it was sent, but challenges. */
    events: async () => (await all()).filter(({ body }) => !body.includes('endpoint.challenge')),
  }
}
export type Receiver = ReturnType<typeof newReceiver>
