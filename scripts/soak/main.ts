/**
 * `npm run soak`: thirty users and a service use the product as `npm start` runs it, while Redis fails in every way the
 * emulator knows, loses keys, and the product is killed and started again. A model records every acknowledged write.
 * After healing it is compared with D1, Redis, the API, search, notifications, sessions, presence, a webhook endpoint and
 * two streams. The exit code is 1 if anything is lost, wrong or missing.
 *
 *   --seconds 600   how long the traffic and the faults last; healing follows
 *   --seed 1        repeats the random decisions of a run. Their timing differs
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { SimpleFaker } from '@faker-js/faker'
import { readFlags, readNumber } from '../flags.ts'
import { areLikesSettled, compare, type Finding, isPresent } from './compare.ts'
import { injectFaults } from './faults.ts'
import { createModel } from './model.ts'
import { followStream, startReceiver } from './observers.ts'
import { createProduct, type Product } from './product.ts'
import { createTraffic, type Traffic } from './traffic.ts'

const flags = readFlags({ seconds: { type: 'string', default: '600' }, seed: { type: 'string' } })
const seconds = readNumber('seconds', flags.seconds, { min: 1 })
const seed = flags.seed === undefined ? Math.floor(Math.random() * 1_000_000) : readNumber('seed', flags.seed)

const USERS = 30
/** How long healing may take. What is still wrong then is reported. */
const HEAL_WITHIN_MS = 180_000
/** The cron also runs as of so much later: then it enqueues again what a killed product had enqueued, at once. */
const CRONS_AHEAD_MS = [0, 65_000, 3_700_000]
/** How many findings of a kind are printed. */
const SHOWN = 10
const KINDS = ['lost', 'ghosts', 'wrong counts', 'wrong answers', 'sequence gaps', 'failed reads'] as const

const startedAt = Date.now()
const print = (words: string) => console.log(`${((Date.now() - startedAt) / 1_000).toFixed(0).padStart(4)} s  ${words}`)

/** A source of random numbers for one actor. */
function randomOf(name: string): SimpleFaker {
  const random = new SimpleFaker()
  random.seed([seed, ...Buffer.from(name)])
  return random
}

/** What undoes what has been started, in the order of starting. */
const started: (() => unknown)[] = []
let isStopping = false

async function stop(code: number): Promise<void> {
  if (isStopping) return
  isStopping = true
  for (const undo of started.toReversed()) await undo()
  process.exit(code)
}
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.on(signal, () => void stop(code))

try {
  const findings = await soak()
  await stop(findings.length === 0 ? 0 : 1)
} catch (error) {
  if (!isStopping) {
    console.error(error)
    await stop(1)
  }
}

async function soak(): Promise<Finding[]> {
  console.log(`Soak of ${seconds} s, --seed ${seed}`)
  const product = await createProduct()
  started.push(() => product.close())
  const receiver = await startReceiver(randomOf('receiver'))
  started.push(() => receiver.close())
  const model = createModel()
  const traffic = createTraffic(product, model, randomOf)
  await traffic.createMembers(USERS)
  await product.start()
  print('started')
  await traffic.begin()
  const { status, body } = await traffic.subscribe(receiver.endpoint)
  if (status !== 201 || body['status'] !== 'enabled') throw new Error(`The webhook: ${JSON.stringify(body)}`)
  const readers = (['service', 'stranger'] as const).map((viewer) => followStream(product, viewer))
  for (const reader of readers) started.push(() => reader.close())
  await Promise.all(readers.map((reader) => reader.opened))
  print(`${USERS} users are signed in; faults begin`)

  const endsAt = Date.now() + seconds * 1_000
  const [faults] = await Promise.all([
    injectFaults(product, randomOf('faults'), endsAt, {
      print,
      areLikesSettled: (until) => areLikesSettled(product, model, until),
    }),
    traffic.run(endsAt),
  ])
  print('faults are off; healing')
  receiver.mend()
  const deadline = Date.now() + HEAL_WITHIN_MS
  await drain(product, deadline)
  await leaveOrStay(traffic)

  const losses = (faults['flush'] ?? 0) + (faults['eviction'] ?? 0)
  let found: Finding[]
  for (;;) {
    await drain(product, deadline)
    found = await compare(product, model, traffic, receiver, readers, losses)
    if (found.length === 0 || Date.now() > deadline) break
    print(`${found.length} differences are left`)
    await sleep(2_000)
  }
  found.push(...traffic.wrong.map(({ kind, what }) => ({ kind, what })))
  print('compared')

  console.log('\nacknowledged writes')
  let acknowledged = 0
  for (const [name, { done, refused, unknown }] of model.outcomes()) {
    acknowledged += done
    const others = [refused > 0 ? `${refused} refused` : '', unknown > 0 ? `${unknown} unknown` : ''].filter(Boolean)
    console.log(
      `  ${name.padEnd(20)} ${String(done).padStart(6)}${others.length > 0 ? `   (${others.join(', ')})` : ''}`,
    )
  }
  console.log(`  ${'all'.padEnd(20)} ${String(acknowledged).padStart(6)}`)
  console.log(
    `\nfaults: ${Object.entries(faults)
      .map(([name, times]) => `${times} ${name}`)
      .join(', ')}`,
  )
  const { deliveries, failures, duplicates, forgeries } = receiver.counts
  console.log(
    `webhook: ${receiver.events.size} events, ${deliveries} deliveries, ${failures} failed, ${duplicates} duplicates`,
  )
  for (const { viewer, counts } of readers) {
    console.log(
      `stream of a ${viewer}: ${counts.events} events, ${counts.hints} hints, ${counts.connections} connections, ` +
        `${counts.resets} resets`,
    )
  }
  if (forgeries > 0) found.push({ kind: 'wrong answers', what: `${forgeries} deliveries had no valid signature` })
  console.log('\nfindings (expected: 0 of each)')
  const byKind = Map.groupBy(found, ({ kind }) => kind)
  for (const kind of KINDS) {
    const some = byKind.get(kind) ?? []
    console.log(`  ${kind.padEnd(20)} ${String(some.length).padStart(6)}`)
    for (const { what } of some.slice(0, SHOWN)) console.log(`    ${what}`)
  }
  console.log(`\n--seed ${seed}`)
  return found
}

/** Runs the cron until nothing is pending, or until `deadline`. */
async function drain(product: Product, deadline: number): Promise<void> {
  while (Date.now() < deadline) {
    for (const aheadMs of CRONS_AHEAD_MS) await product.cron(Date.now() + aheadMs)
    const [row] = await product.rows<Record<string, number>>(`SELECT
      (SELECT count(*) FROM events WHERE due_at IS NOT NULL OR missed_at IS NOT NULL) AS events,
      (SELECT count(*) FROM deliveries WHERE status = 'pending') AS deliveries,
      (SELECT count(*) FROM unsettled_counts) AS counts,
      (SELECT count(*) FROM revocations) AS revocations`)
    const unwritten = await product.redis([
      ['ZCARD', 'likes-unwritten'],
      ['ZCOUNT', 'views-unwritten', '1', '+inf'],
    ])
    if ([...Object.values(row ?? {}), ...unwritten].every((pending) => pending === 0)) return
    await sleep(500)
  }
}

/** Half of the members come online, the others leave: then their status is known. */
async function leaveOrStay({ members, send }: Traffic): Promise<void> {
  await Promise.all(
    members.map(async ({ token }, i) => {
      for (const method of isPresent(i) ? ['POST'] : ['POST', 'DELETE']) {
        const path = method === 'POST' ? '/v1/presence/heartbeat' : '/v1/presence'
        for (let attempt = 0; (await send(method, path, token)).status !== 204 && attempt < 10; attempt += 1)
          await sleep(500)
      }
    }),
  )
}
