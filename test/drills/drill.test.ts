import { isNull, sql } from 'drizzle-orm'
import { reset } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { expect, test } from 'vitest'
import withoutRedis from '../../docs/without-redis.json'
import type { Fault } from '../../emulator/control.ts'
import { effects } from '../../emulator/faults.ts'
import { idempotencyKeys } from '../../src/db/schema.ts'
import { type Document, errorsIn, type Operation, readOperations } from '../docs/document.ts'
import { migrate } from '../edge.ts'
import { db } from '../rows.ts'
import { type Call, calls } from './calls.ts'
import { type Failure, heal, inconsistencies, type Lab, newLab } from './lab.ts'

declare global {
  namespace Cloudflare {
    interface Env {
      /** `all`, or the names of the faults to drill. */
      DRILL_FAULTS: string
      SEED: string
    }
  }
}

/** What breaks. `redis`: every request to Redis meets the fault until it is cleared. */
interface Breakage {
  redis?: Fault
  database?: Failure
  /** Each call of D1 waits, then does what `database` says. */
  databaseWaits?: true
  queues?: Failure
  /** Redis loses all keys, or a random half of them, before the request and before its repetition. */
  loses?: 'all keys' | 'some keys'
}

/** Timeouts of the isolate that meets a Redis which answers late or never. */
const IMPATIENT = { REDIS_READ_TIMEOUT_MS: '60', REDIS_SOFT_TIMEOUT_MS: '30', REDIS_WRITE_TIMEOUT_MS: '120' }
const LATE_MS = 400
/** How long D1 hangs. It ends a query after 30 s. */
const HANGING_MS = 500
/** The most calls of D1 that a request waits for one after another while each hangs and fails: one, and its repetition. */
const MAX_HANGING = 2
/** They do work of the cron, step by step. */
const MANY_STEPS = new Set(['POST /v1/backup', 'POST /v1/maintenance'])

const breakages: Record<string, Breakage> = {
  nothing: {}, // every operation succeeds, so each fault meets all of its work
  ...Object.fromEntries(
    Object.entries(effects).map(([kind, { waits }]) => [
      kind,
      { redis: { kind: kind as Fault['kind'], ...(waits && { delayMs: LATE_MS }) } }, // the keys of `effects` are kinds
    ]),
  ),
  'status 429': { redis: { kind: 'status', status: 429 } },
  flush: { loses: 'all keys' },
  evict: { loses: 'some keys' },
  'D1 refuses': { database: 'refuses' },
  'D1 refuses writes': { database: 'refuses writes' },
  'D1 loses answers': { database: 'loses answers' },
  'D1 loses answers of writes': { database: 'loses answers of writes' },
  'D1 is slow': { databaseWaits: true },
  'D1 hangs': { database: 'refuses', databaseWaits: true },
  'D1 hangs and loses answers': { database: 'loses answers', databaseWaits: true },
  'queues refuse': { queues: 'refuses' },
  'queues lose answers': { queues: 'loses answers' },
}

const isLate = ({ redis }: Breakage) => redis !== undefined && ['hang', 'delay', 'delay-after'].includes(redis.kind)

async function breakDown(
  lab: Lab,
  { redis, database = 'none', databaseWaits, queues = 'none', loses }: Breakage,
): Promise<void> {
  if (redis) await lab.redis.fault(redis)
  if (loses === 'all keys') await lab.redis.flush()
  if (loses === 'some keys') await lab.redis.evict({ count: 100, seed: Number(env.SEED) })
  lab.database.failure = database
  lab.database.waitsMs = databaseWaits ? HANGING_MS : 0
  for (const queue of lab.queues) queue.failure = queues
}

async function repair(lab: Lab, { loses }: Breakage): Promise<void> {
  await breakDown(lab, loses ? { loses } : {})
  await lab.redis.clearFaults()
}

interface Cell {
  name: string
  operation: Operation
  call: Call
  /** A client that gives up after a refusal, or one that repeats the request. */
  isRepeated: boolean
  isAcknowledged: boolean
  answer: Record<string, string>
}

/** The most requests at a time. */
const PARALLEL = 8
async function inParallel<T>(items: T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items]
  const next = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item)
  }
  await Promise.all(Array.from({ length: PARALLEL }, next))
}

/** Sends the request of a cell. Answers the status, and what the document does not allow. */
async function send(document: Document, lab: Lab, { name, operation, call }: Cell, bindings = {}) {
  const edge = (call.lab ?? lab).newIsolate({ ...bindings, ...call.bindings })
  const [method = ''] = name.split(' ')
  const response = await edge.fetch(call.path, {
    method,
    headers: { ...call.headers, ...(call.body && { 'Content-Type': 'application/json' }) },
    ...(call.body && { body: JSON.stringify(call.body) }),
  })
  const { turns } = edge.waited
  const { status } = response
  const isDocumented = String(status) in operation.responses
  const text = status === 204 ? '' : await response.clone().text()
  const errors = status === 204 && isDocumented ? [] : await errorsIn(document, operation, response)
  const isProblem = response.headers.get('Content-Type') === 'application/problem+json'
  const isJson =
    text.startsWith('{') && response.headers.get('Content-Type')?.startsWith('application/x-ndjson') !== true
  const answer = isJson ? (JSON.parse(text) as Record<string, string>) : {}
  if (status === 503 && isProblem && !response.headers.has('Retry-After')) errors.push('no Retry-After')
  if (isProblem) {
    const type = answer['type']?.split('/').at(-1)
    if (!operation.responses[status]?.description.includes(`\`${type}\``))
      errors.push(`problem ${type} is not documented`)
  }
  await edge.settle()
  return { status, errors, answer, isSuccess: response.ok, detail: answer['detail'], turns }
}

/** The fault whose statuses are documented. With every other fault of Redis, no further operation may be unavailable. */
const RECORDED = 'refuse'

/** The documented status of each operation without Redis: README.md shows it. */
const documented = new Map(Object.values(withoutRedis).flatMap((statuses) => Object.entries<number>(statuses)))

/** Drills every operation under one breakage. Answers the statuses while it lasts, and everything that was wrong. */
async function drill(document: Document, operations: Map<string, Operation>, breakage: Breakage) {
  const isRecorded = breakage.redis?.kind === RECORDED
  await reset() // of earlier breakages
  await migrate()
  const lab = newLab()
  const wrong: string[] = []
  const statuses = new Map<string, number>()
  const cells: Cell[] = []
  // A read that is not repeated shows nothing that the first attempt of a repeated one does not.
  const wanted = [...operations].flatMap(([name, operation]) =>
    (name.startsWith('GET ') ? [true] : [true, false]).map((isRepeated) => ({ name, operation, isRepeated })),
  )
  await inParallel(wanted, async (cell) => {
    const call = await calls[cell.name]?.(lab)
    if (!call) throw new Error(`${cell.name} is not in calls.ts`)
    cells.push({ ...cell, call, isAcknowledged: false, answer: {} })
  })
  await lab.deliver()

  const labs = [lab, ...cells.flatMap(({ call }) => call.lab ?? [])]
  for (const some of labs) await breakDown(some, breakage)
  await inParallel(cells, async (cell) => {
    const { name, call } = cell
    const { status, errors, answer, isSuccess, detail, turns } = await send(
      document,
      lab,
      cell,
      isLate(breakage) ? IMPATIENT : {},
    )
    wrong.push(...errors.map((error) => `${name}: ${status} ${error}`))
    if (breakage.databaseWaits && breakage.database && turns > MAX_HANGING && !MANY_STEPS.has(name))
      wrong.push(`${name}: ${status} after ${turns} calls of D1 that hung`)
    const isRefusal =
      status === 503 &&
      (breakage.database || breakage.queues || (breakage.redis && (isRecorded || documented.get(name) === 503)))
    const isLost = breakage.loses !== undefined && call.isVolatile
    if (!isSuccess && !isRefusal && !isLost) wrong.push(`${name}: ${status} ${detail}`)
    statuses.set(name, status)
    Object.assign(cell, { isAcknowledged: isSuccess, answer })
  })
  // The cron and the consumers meet the same breakage. They may fail, and must lose nothing.
  const edge = lab.newIsolate(isLate(breakage) ? IMPATIENT : {})
  await edge.cron(Date.now()).catch(() => {})
  await edge.settle()
  await lab.deliver()

  for (const some of labs) await repair(some, breakage)
  await inParallel(
    cells.filter((cell) => cell.isRepeated),
    async (cell) => {
      let last = await send(document, lab, cell)
      if (last.status === 409 && last.answer['type']?.endsWith('idempotency-key-in-use')) {
        // The first attempt never learned that it holds the key. A minute later another may have it.
        await db
          .update(idempotencyKeys)
          .set({ createdAt: sql`created_at - 61000` })
          .where(isNull(idempotencyKeys.answer))
        last = await send(document, lab, cell)
      }
      const { status, errors, answer, isSuccess, detail } = last
      const isDone =
        isSuccess || status === cell.call.doneStatus || (breakage.loses !== undefined && cell.call.isVolatile === true)
      wrong.push(...errors.map((error) => `${cell.name}, repeated: ${status} ${error}`))
      if (!isDone) wrong.push(`${cell.name}, repeated: ${status} ${detail}`)
      cell.isAcknowledged ||= isDone
      if (isSuccess) cell.answer = answer
    },
  )
  await heal(lab).catch((error: unknown) =>
    wrong.push(`healing: ${String(error)} ${String((error as AggregateError).errors)}`),
  )
  await inParallel(cells, async ({ name, call, isAcknowledged, isRepeated, answer }) => {
    if (breakage.loses && call.isVolatile) return
    const who = `${name}, ${isRepeated ? 'repeated' : 'given up'}`
    const happened = await call
      .happened?.(answer)
      .catch((error: unknown) => void wrong.push(`${who}: ${String(error)}`))
    if (isAcknowledged && happened === false) wrong.push(`${who}: acknowledged, but it did not happen`)
  })
  wrong.push(...(await inconsistencies(lab)))
  return { wrong, statuses }
}

const all = Object.keys(breakages)
const drilled = env.DRILL_FAULTS === 'all' ? all : env.DRILL_FAULTS.split(',')

test.each(drilled)('no operation fails or is left half done: %s', { timeout: 600_000 }, async (name) => {
  const { document, operations } = await readOperations()
  expect(Object.keys(calls).sort()).toEqual([...operations.keys()].sort())
  const { wrong, statuses } = await drill(
    document,
    operations,
    breakages[name] ?? expect.fail(`no such fault: ${name}`),
  )
  expect([...new Set(wrong)].sort(), `SEED=${env.SEED}`).toEqual([])
  if (name === RECORDED) await expect(render(operations, statuses)).toMatchFileSnapshot(DOCUMENTED)
})

const DOCUMENTED = '../../docs/without-redis.json'

/** The statuses as JSON, by the tags and names of the operations. */
function render(operations: Map<string, Operation>, statuses: Map<string, number>): string {
  const byTag = Map.groupBy(operations, ([, { tags = [] }]) => tags[0] ?? '')
  const tags = [...byTag].map(([tag, some]) => [
    tag,
    Object.fromEntries(some.map(([name]) => [name, statuses.get(name)])),
  ])
  return `${JSON.stringify(Object.fromEntries(tags), null, 2)}\n`
}
