/** The tables of a run, as text. */
import type { Results } from './main.ts'
import type { Row } from './measure.ts'

export function printReport({ machine, settings, bundles, rows, stampede }: Results): void {
  for (const [name, value] of Object.entries(machine)) console.log(`${name.padEnd(12)} ${value}`)

  for (const latencyMs of settings.latenciesMs) {
    console.log(`\nRedis ${latencyMs} ms away, ${settings.connections} connections, ${settings.rounds} rounds`)
    printTable(
      ['scenario', 'who', 'req/s', 'ours is', 'p50 ms', 'p99 ms', 'alone ms', 'CPU ms', 'commands', 'trips', 'D1'],
      rows
        .filter((row) => row.latencyMs === latencyMs)
        .map((row) => [
          row.contender === 'ours' ? row.scenario : '',
          row.contender,
          row.requestsPerSecond.toFixed(0),
          row.contender === 'ours' ? '' : `${timesOurs(rows, row).toFixed(2)} ×`,
          row.p50Ms.toFixed(1),
          row.p99Ms.toFixed(1),
          row.alone.p50Ms.toFixed(1),
          row.cpuMsPerRequest.toFixed(2),
          row.costs.commands.toFixed(2),
          row.costs.roundTrips.toFixed(2),
          row.costs.d1Queries.toFixed(2),
        ]),
    )
  }

  console.log(`\nA stampede: ${settings.readers} readers of one cold key in ${settings.isolates} isolates`)
  printTable(
    ['who', 'loads from D1', 'p99 ms'],
    stampede.map(({ contender, loads, p99Ms }) => [contender, loads.join(', '), p99Ms.toFixed(0)]),
  )

  const bareMs = bundles.find(({ contender }) => contender === 'bare')?.coldStartMs ?? NaN
  console.log('\nSize and cold start')
  printTable(
    ['who', 'KiB', 'KiB gzipped', 'cold start ms', 'relative to bare'],
    bundles.map(({ contender, bytes, gzipBytes, coldStartMs }) => [
      contender,
      (bytes / 1_024).toFixed(0),
      (gzipBytes / 1_024).toFixed(1),
      coldStartMs.toFixed(1),
      (coldStartMs / bareMs).toFixed(1),
    ]),
  )
}

/** Our requests per second divided by this contender's, in the same rounds. */
function timesOurs(rows: Row[], { scenario, latencyMs, contender }: Row): number {
  const ours = rows.find((row) => row.scenario === scenario && row.latencyMs === latencyMs && row.contender === 'ours')
  return ours?.times[contender] ?? NaN
}

/** Aligns words left and numbers right. */
function printTable(head: string[], lines: string[][]): void {
  const all = [head, ...lines]
  const widths = head.map((_, i) => Math.max(...all.map((line) => line[i]?.length ?? 0)))
  const isNumber = head.map((_, i) => lines.every((line) => /^[\d.,× ]*$/.test(line[i] ?? '')))
  for (const line of all) {
    const cells = line.map((cell, i) => (isNumber[i] ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
    console.log(cells.join('  ').trimEnd())
  }
}
