/** The targets of the benchmark, and whether a run meets them. All times are ratios within one run. */
import type { Results } from './main.ts'
import type { Row } from './measure.ts'
import type { ContenderName } from './workers.ts'

export interface Target {
  name: string
  target: string
  measured: string
  /** Null: this run has not measured it. */
  isMet: boolean | null
}

/** Both share our Redis. The better one is the one that our figure looks worst beside. */
const PEERS: readonly ContenderName[] = ['straightforward', 'cachified']

const READS = ['batch of 20', 'hot feed', 'session check', 'mixed, Zipf']
const WRITES = ['like', 'heartbeat']

/** Compares the results with the targets. */
export function targetsOf({ rows, loneWrites, billed, bundles }: Omit<Results, 'targets'>): Target[] {
  const latencies = [...new Set(rows.map((row) => row.latencyMs))]
  const scenarios = [...new Set(rows.map((row) => row.scenario))]
  const rowOf = (scenario: string, latencyMs: number, contender: ContenderName): Row => {
    const isIt = (row: Row) => row.scenario === scenario && row.latencyMs === latencyMs && row.contender === contender
    const row = rows.find(isIt)
    if (!row) throw new Error(`${scenario} of ${contender} at ${latencyMs} ms was not measured`)
    return row
  }
  const at = latencies.map((ms) => `${ms}`).join(' / ')

  /** A line with one figure per latency. */
  function perLatency(
    name: string,
    target: string,
    figureOf: (latencyMs: number) => number,
    isMet: (figure: number, latencyMs: number) => boolean,
  ): Target {
    const figures = latencies.map((latencyMs) => ({ latencyMs, figure: figureOf(latencyMs) }))
    return {
      name,
      target,
      measured: figures.map(({ figure }) => figure.toFixed(2)).join(' / '),
      isMet: figures.every(({ figure, latencyMs }) => isMet(figure, latencyMs)),
    }
  }
  /** A line with one figure. */
  const line = (name: string, figure: number | undefined, most: number, unit: string, digits = 1): Target => ({
    name,
    target: `≤ ${most}${unit}`,
    measured: figure === undefined ? 'not measured: there is no redis-server' : `${figure.toFixed(digits)}${unit}`,
    isMet: figure === undefined ? null : figure <= most,
  })

  const toPeers = (scenario: string) => (latencyMs: number) =>
    Math.min(...PEERS.map((peer) => rowOf(scenario, latencyMs, 'ours').times[peer] ?? NaN))
  const p99ToPeers = (scenario: string) => (latencyMs: number) =>
    rowOf(scenario, latencyMs, 'ours').p99Ms / Math.min(...PEERS.map((peer) => rowOf(scenario, latencyMs, peer).p99Ms))
  const commandsOf = (scenario: string) =>
    billed?.find((bill) => bill.scenario === scenario && bill.contender === 'ours')?.usage.commands
  const bundleOf = (contender: ContenderName) => bundles.find((bundle) => bundle.contender === contender)
  const coldStart = (bundleOf('ours')?.coldStartMs ?? NaN) / (bundleOf('bare')?.coldStartMs ?? NaN)

  return [
    perLatency(
      `hot profile: requests/s relative to bare, Redis ${at} ms away`,
      '≥ 0.45',
      (latencyMs) => rowOf('hot profile', latencyMs, 'ours').times.bare ?? NaN,
      (figure) => figure >= 0.45,
    ),
    perLatency(
      'hot profile: CPU relative to bare',
      '≤ 2.2 ×',
      (latencyMs) =>
        rowOf('hot profile', latencyMs, 'ours').cpuMsPerRequest /
        rowOf('hot profile', latencyMs, 'bare').cpuMsPerRequest,
      (figure) => figure <= 2.2,
    ),
    ...READS.map((scenario) =>
      perLatency(
        `${scenario}: requests/s relative to the better peer`,
        '≥ 1.5, at 25 ms ≥ 2.5',
        toPeers(scenario),
        (figure, latencyMs) => figure >= (latencyMs >= 25 ? 2.5 : 1.5),
      ),
    ),
    ...WRITES.map((scenario) =>
      perLatency(
        `${scenario}: requests/s relative to the better peer`,
        '≥ 1.2',
        toPeers(scenario),
        (figure) => figure >= 1.2,
      ),
    ),
    ...loneWrites.map(({ scenario, latencyMs, p50Ms, roundTrips }): Target => ({
      name: `${scenario}, alone, Redis ${latencyMs} ms away`,
      target: '≤ 32 ms, one round trip',
      measured: `${p50Ms.toFixed(1)} ms, ${roundTrips}`,
      isMet: latencyMs === 25 ? p50Ms <= 32 && roundTrips <= 1 : null,
    })),
    ...scenarios.map((scenario) =>
      perLatency(`${scenario}: p99 relative to the better peer`, '≤ 1', p99ToPeers(scenario), (figure) => figure <= 1),
    ),
    line('hot profile: billed commands', commandsOf('hot profile'), 1.5, '', 2),
    line('post, signed in: billed commands', commandsOf('post, signed in'), 4, '', 2),
    line('mixed, Zipf: billed commands', commandsOf('mixed, Zipf'), 3.5, '', 2),
    line('like, with all that follows: billed commands', commandsOf('like'), 18, ''),
    line('cold start relative to bare', coldStart, 2.5, ' ×'),
    line('bundle, gzipped', (bundleOf('ours')?.gzipBytes ?? NaN) / 1_024, 110, ' KiB'),
  ]
}
