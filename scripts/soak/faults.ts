import { setTimeout as sleep } from 'node:timers/promises'
import type { SimpleFaker } from '@faker-js/faker'
import type { Fault } from '../../emulator/control.ts'
import type { Product } from './product.ts'

/** What can happen to Redis, beside flushes and evictions. */
const FAULTS: Fault[] = [
  { kind: 'refuse' },
  { kind: 'cut-before' },
  { kind: 'cut' },
  { kind: 'cut', match: ['EVAL', 'EVALSHA'] },
  { kind: 'cut-mid' },
  { kind: 'hang' },
  { kind: 'delay', delayMs: 1_500 },
  { kind: 'delay-after', delayMs: 3_500 },
  { kind: 'delay-after', delayMs: 3_500, match: ['EVAL', 'EVALSHA'] },
  { kind: 'status', status: 429 },
  { kind: 'status', status: 500 },
  { kind: 'html' },
  { kind: 'garbage' },
  { kind: 'wrongpass' },
  { kind: 'oom' },
  { kind: 'readonly' },
  { kind: 'loading' },
  { kind: 'noscript' },
]

/** A kill for each part of the soak this long. */
const KILL_EVERY_MS = 30_000

/**
 * Injects faults, one after the other, until `endsAt` (Unix ms): most for up to two seconds, with as long a rest.
 *
 * A like that D1 does not have yet is in Redis and in a queue, and so is one that Redis has lost and must get again from D1.
 * `wrangler dev` keeps its queues in memory, so a kill empties them; those of production are durable. So between a kill and a
 * loss of keys, in any order, the soak waits until the likes of before the first have arrived in D1 and in Redis.
 */
export async function injectFaults(
  product: Product,
  random: SimpleFaker,
  endsAt: number,
  hooks: { print: (words: string) => void; areLikesSettled: (until: number) => Promise<boolean> },
) {
  const { control } = product
  const counts: Record<string, number> = {}
  const note = (name: string) => (counts[name] = (counts[name] ?? 0) + 1)
  const begunAt = Date.now()
  const kills = Math.max(1, Math.round((endsAt - begunAt) / KILL_EVERY_MS))
  let killed = 0
  /** What the likes sent until `until` are missing from. */
  let missing: { from: 'queues' | 'Redis'; until: number } | undefined
  /** Whether likes may go missing from there too. */
  const mayLose = async (from: 'queues' | 'Redis') =>
    missing === undefined || missing.from === from || hooks.areLikesSettled(missing.until)

  for (; Date.now() < endsAt;) {
    // The same draws in every step, so that a seed repeats the decisions.
    const restMs = random.number.int({ min: 200, max: 2_000 })
    const lastsMs = random.number.int({ min: 200, max: 2_000 })
    const share = random.number.float()
    const fault = random.helpers.arrayElement(FAULTS)
    const keys = random.number.int({ min: 1, max: 200 })
    const seed = random.number.int()
    await sleep(restMs)

    const nextKillAt = begunAt + ((endsAt - begunAt) * (killed + 0.7)) / kills
    if (killed < kills && Date.now() > nextKillAt && (await mayLose('queues'))) {
      killed += 1
      note('kill -9')
      hooks.print('kill -9')
      await product.restart()
      missing = { from: 'queues', until: Date.now() }
    } else if (share < 0.25) {
      if (!(await mayLose('Redis'))) continue
      if (share < 0.1) await control.flush()
      else await control.evict({ count: keys, seed })
      missing = { from: 'Redis', until: Date.now() }
      note(share < 0.1 ? 'flush' : 'eviction')
    } else if (share < 0.3) {
      await control.latency(keys)
      await sleep(lastsMs)
      await control.latency(0)
      note('latency')
    } else {
      await control.fault(fault)
      await sleep(lastsMs)
      await control.clearFaults()
      note(fault.kind)
    }
  }
  await control.clearFaults()
  return counts
}
