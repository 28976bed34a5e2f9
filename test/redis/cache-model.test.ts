import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createCache } from '../../src/redis/cache.ts'
import { createMemory } from '../../src/redis/memory.ts'
import { createWriteThrough } from '../../src/redis/write-through.ts'
import { InterceptedRedis, newKeyspace } from './setup.ts'

/** A state of the one thing there is. Its version is its place in the history. */
interface Thing {
  version: number
}

const MEMORY_MS = 1_000

/** What one invocation of an isolate does. `advance` lets time pass instead. */
interface Operation {
  isolate: 0 | 1
  does: 'read' | 'read twice' | 'read without D1' | 'write' | 'delete' | 'recreate' | 'advance'
}

/** How writes reach the cache. Only with `put` do values have versions. */
type Way = 'put' | 'invalidate' | 'drop' | 'expireAll'

/** What happens to a request: `lost`: Redis executes it, its reply is lost. */
type Fate = 'answered' | 'lost' | 'refused'

const operation = fc.record<Operation>({
  isolate: fc.constantFrom(0, 1),
  does: fc.constantFrom(
    ...(['read', 'read', 'read twice', 'read without D1', 'write', 'write', 'delete', 'recreate', 'advance'] as const),
  ),
})
const operations = fc.array(operation, { minLength: 2, maxLength: 8 })
const CHANGES = new Set<Operation['does']>(['write', 'delete', 'recreate'])
const ways = fc.constantFrom<Way>('put', 'put', 'invalidate', 'drop', 'expireAll')
/** Which of the steps that are possible comes next. */
const choices = fc.array(fc.nat(59), { minLength: 100, maxLength: 100 })
const fates = fc.array(fc.constantFrom<Fate>('answered', 'answered', 'answered', 'lost', 'refused'), {
  minLength: 30,
  maxLength: 30,
})

/**
 * Runs `operations` in two isolates over one Redis, in the order of `choices`: one step at a time, where a step is the
 * start of an operation, a request that Redis executes, a reply that arrives, a load that reads or returns, or deferred
 * work that starts. Returns what reads returned that they may not return.
 */
async function violations(way: Way, operations: Operation[], choices: number[], fates: Fate[]): Promise<string[]> {
  const { server } = newKeyspace()
  const found: string[] = []
  const trace: string[] = []
  let now = 1_700_000_000_000

  // The steps that are possible, and what is under way between two steps.
  const possible: { name: string; take: () => void }[] = []
  const step = (name: string) => new Promise<void>((take) => void possible.push({ name, take }))
  const underWay = { requests: 0 }
  let sent = 0

  const redis = new InterceptedRedis(server, async (send) => {
    const number = (sent += 1)
    await step(`request ${number}`)
    const fate = fates[number % fates.length] ?? 'answered'
    if (fate === 'refused') throw new Error('refused')
    underWay.requests += 1
    const reply = await send().finally(() => (underWay.requests -= 1))
    await step(`reply ${number} ${fate}`)
    if (fate === 'lost') throw new Error('lost')
    return reply
  })

  const history: (Thing | null)[] = [{ version: 1 }]
  const latest = () => history.at(-1) ?? null
  /** The changes that have returned: their place in the history, the isolate, and when. */
  const acknowledged: { place: number; isolate: number; at: number }[] = []
  const memories = [createMemory(1_000_000), createMemory(1_000_000)]

  async function run({ isolate, does }: Operation, number: number): Promise<void> {
    const name = `${number} ${does} in ${isolate}`
    trace.push(`${name} begins`)
    if (does === 'advance') return void (now += MEMORY_MS)

    const deferred: (() => Promise<unknown>)[] = []
    let isAnswered = false
    const runDeferred = async (work: () => Promise<unknown>) => {
      await step(`deferred by ${name}`)
      await work().catch(() => {})
    }
    const defer = (work: () => Promise<unknown>) => void (isAnswered ? runDeferred(work) : deferred.push(work))
    const cache = createCache<Thing>(
      { redis: () => redis, memory: memories[isolate] ?? createMemory(0), defer, onEvent: () => {}, now: () => now },
      {
        name: 'thing',
        key: (id) => `thing:${id}`,
        versionOf: (thing) => (way === 'put' ? thing.version : 0),
        ...(way === 'expireAll' ? { generationKey: 'generation:thing' } : {}),
        freshMs: 3_000,
        staleMs: 2_000,
        staleIfErrorMs: 60_000,
        negativeMs: 3_000,
        memoryMs: MEMORY_MS,
        softTimeoutMs: 60_000,
        leaseMs: 60_000,
        waitMs: 0, // waiting is by a timer, whose steps are not ours to choose
        maxValueBytes: 1_000,
      },
    )
    const writeThrough = createWriteThrough(defer, 0)

    async function read(): Promise<void> {
      const required = Math.max(
        0,
        ...acknowledged
          .filter((change) => change.isolate === isolate || (fates.length === 0 && now - change.at >= MEMORY_MS))
          .map((change) => change.place),
      )
      const value = await cache.get('a', async () => {
        await step(`load of ${name}`)
        if (does === 'read without D1') throw new Error('D1 is down')
        const loaded = latest()
        await step(`loaded by ${name}`)
        return loaded
      })
      const places = history.flatMap((thing, place) => (thing?.version === value?.version ? [place] : []))
      if (Math.max(...places) < required) {
        found.push(`${name} returned ${JSON.stringify(value)}, expected ${JSON.stringify(history.slice(required))}`)
      }
      trace.push(`${name} returned ${JSON.stringify(value)}`)
    }

    if (does === 'read without D1') {
      await read().catch(() => {})
    } else if (does === 'read' || does === 'read twice') {
      await read()
      if (does === 'read twice') await read()
    } else {
      const place = history.length
      const thing = { version: place + 1 }
      if (does === 'write' && latest() === null) return
      history.push(does === 'delete' ? null : thing)
      await step(`committed by ${name}`)
      const invalidate = () => [
        way === 'expireAll' ? cache.expireAll() : way === 'drop' ? cache.drop(['a']) : cache.invalidate(['a']),
      ]
      const isPut = way === 'put' && does === 'write'
      await writeThrough(isPut ? () => [cache.put('a', thing)] : invalidate, invalidate)
      acknowledged.push({ place, isolate, at: now })
      trace.push(`${name} acknowledged`)
    }
    isAnswered = true
    for (const work of deferred) void runDeferred(work)
  }

  /** Takes steps until none is possible. The start of the next operation is one of them. */
  async function proceed(operations: Operation[], from: number): Promise<void> {
    const running: Promise<void>[] = []
    for (let taken = 0; ; taken += 1) {
      do
        await new Promise((resolve) => setTimeout(resolve, 0)) // until everything waits for a step
      while (underWay.requests > 0)
      const next = operations[running.length]
      const count = possible.length + (next ? 1 : 0)
      if (count === 0) break
      now += 1
      const [taking] = possible.splice((choices[taken % choices.length] ?? 0) % count, 1)
      if (taking) {
        trace.push(taking.name)
        taking.take()
      } else if (next) {
        running.push(run(next, from + running.length))
      }
    }
    await Promise.all(running)
  }
  await proceed(operations, 0)
  for (const isolate of [0, 1, 0, 1] as const) await proceed([{ isolate, does: 'read' }], 100)
  return found.length === 0 ? [] : [...found, ...trace]
}

test('in every order of events no read returns what a write that has returned has replaced', async () => {
  await fc.assert(
    fc.asyncProperty(ways, operations, choices, async (way, operations, choices) => {
      expect(await violations(way, operations, choices, [])).toEqual([])
    }),
    { numRuns: 60, interruptAfterTimeLimit: 60_000 },
  )
}, 120_000)

test('nor when Redis loses requests and replies, in the isolate that wrote', async () => {
  await fc.assert(
    fc.asyncProperty(ways, operations, choices, fates, async (way, operations, choices, fates) => {
      // One change: the order of several that are in flight together is known to Redis alone.
      const first = operations.findIndex(({ does }) => CHANGES.has(does))
      const some = operations.filter(({ does }, i) => !CHANGES.has(does) || i === first)
      expect(await violations(way, some, choices, fates)).toEqual([])
    }),
    { numRuns: 60, interruptAfterTimeLimit: 60_000 },
  )
}, 120_000)
