/** Options of every call. */
export interface CallOptions {
  /** Ends the call. It then throws the reason of the signal. */
  signal?: AbortSignal
  /** The browser sends the request even if the page closes meanwhile. */
  keepalive?: boolean
}

export interface Keyed {
  /** By which the API recognizes a repetition, for a day. By default random for each call: the client repeats with it. */
  idempotencyKey?: string
}

export interface Conditional {
  /** The API makes the change only if the resource has this version. Otherwise it refuses with `version-changed`. */
  ifMatch?: number | string
}

/**
 * The first page, by `await`; or all items of this page and the next ones, by `for await`, which loads each page when it is
 * needed.
 */
export type Pages<Item, Extra = unknown> = Promise<{ items: Item[]; nextCursor: string | null } & Extra> &
  AsyncIterable<Item>

/**
 * A request, before the client knows where to send it.
 * @internal
 */
export interface Call {
  method: string
  /** With the query. */
  path: string
  headers: Record<string, string>
  body: string | undefined
  isRepeatable: boolean
  /** What the operation says about its answer. */
  words: string[]
  options: CallOptions
}

/** The values of paths and queries. In bodies there are others too. */
type Input = Record<string, string | number | boolean | readonly string[] | null | undefined>
type Page = Awaited<Pages<unknown>>

/**
 * Makes a method for each operation of a table. An entry has the method, the path, and words:
 *
 * | word | meaning |
 * | --- | --- |
 * | `bare` | it takes no input |
 * | `body` | the input goes into the body, not the query |
 * | `key` | it takes an `Idempotency-Key` |
 * | `again` | the API does the same if it receives the request twice |
 * | `fill:id` | so it does if `id` is given: the client makes one |
 * | `pages` | the answer is a page of a list |
 * | `text` `bytes` | the answer is not JSON |
 * | `session` `end` | the caller has a session then, or none any more |
 *
 * @internal
 */
export function methodsOf(table: Record<string, string>, perform: (call: Call) => Promise<unknown>): object {
  return Object.fromEntries(
    Object.entries(table).map(([name, entry]) => {
      const isBare = entry.includes(' bare')
      const call = (first?: Input, second?: Input) => {
        const [input = {}, options = {}] = isBare ? [undefined, first] : [first, second]
        const load = async (more?: Input) => perform(toCall(entry, { ...input, ...more }, options))
        return entry.includes(' pages') ? pagesOf(load as () => Promise<Page>) : load() // as the document says
      }
      return [name, call]
    }),
  )
}

function pagesOf(load: (more?: Input) => Promise<Page>): Pages<unknown> {
  const first = load()
  return Object.assign(first, {
    async *[Symbol.asyncIterator]() {
      for (let page = await first; ; page = await load({ cursor: page.nextCursor })) {
        yield* page.items
        if (page.nextCursor === null) return
      }
    },
  })
}

function toCall(entry: string, input: Input, options: CallOptions & Keyed & Conditional): Call {
  const [method = '', template = '', ...words] = entry.split(' ')
  const rest = { ...input }
  const path = template.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    const value = String(rest[name] ?? '')
    delete rest[name]
    if (/^\.{0,2}$/.test(value)) throw new TypeError(`${name} is required`) // it would make another path
    return encodeURIComponent(value)
  })
  const filled = /fill:(\w+)/.exec(entry)?.[1]
  if (filled !== undefined) rest[filled] ??= newKey()

  const headers: Record<string, string> = {}
  const { idempotencyKey = newKey(), ifMatch } = options
  if (words.includes('key')) headers['Idempotency-Key'] = idempotencyKey
  if (ifMatch !== undefined) headers['If-Match'] = String(ifMatch)
  const isBody = words.includes('body')
  if (isBody) headers['Content-Type'] = 'application/json'
  return {
    method,
    path: isBody ? path : path + queryOf(rest),
    headers,
    body: isBody ? JSON.stringify(rest) : undefined,
    isRepeatable: filled !== undefined || /^(GET|PUT|DELETE)|key|again/.test([method, ...words].join(' ')),
    words,
    options,
  }
}

/**
 * Lists are separated by commas.
 * @internal
 */
export function queryOf(input: Input): string {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(input))
    if (value !== undefined && value !== null) query.set(name, String(value))
  return query.size === 0 ? '' : `?${query}`
}

/** 128 random bits. `crypto.randomUUID` needs a secure context. */
const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
