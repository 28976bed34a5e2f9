/** The tables of a run, as text. */
import type { Results } from './main.ts'
import type { Row } from './measure.ts'
import { monthOf } from './prices.ts'

export function printReport({ machine, settings, bundles, rows, billed, targets, stampede }: Results): void {
  for (const [name, value] of Object.entries(machine)) console.log(`${name.padEnd(12)} ${value}`)

  for (const latencyMs of settings.latenciesMs) {
    console.log(`\nRedis ${latencyMs} ms away, ${settings.connections} connections, ${settings.rounds} rounds`)
    printTable(
      [
        'scenario',
        'who',
        'req/s',
        'ours is',
        'p50 ms',
        'p99 ms',
        'alone ms',
        'CPU ms',
        'commands',
        'trips',
        'D1',
        'objects',
      ],
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
          row.costs.objectCalls.toFixed(2),
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

  console.log(
    '\nThe bill, with what follows from a request: commands in scripts are counted. Dollars for a million requests',
  )
  if (billed) {
    printTable(
      [
        'scenario',
        'who',
        'commands',
        'D1 read',
        'D1 written',
        'objects',
        'rows written',
        'Redis $',
        'D1 $',
        'objects $',
        '$',
      ],
      billed
        .toSorted((a, b) => a.scenario.localeCompare(b.scenario))
        .map(({ scenario, contender, usage, dollarsPerMillion: { redis, d1, objects, total } }) => [
          contender === 'ours' ? scenario : '',
          contender,
          usage.commands.toFixed(2),
          usage.d1RowsRead.toFixed(1),
          usage.d1RowsWritten.toFixed(1),
          usage.objectCalls.toFixed(2),
          usage.objectRowsWritten.toFixed(2),
          redis.toFixed(2),
          d1.toFixed(2),
          objects.toFixed(2),
          total.toFixed(2),
        ]),
    )
  } else {
    console.log('Not measured: there is no redis-server on the PATH (apt-get install redis-server).')
  }

  const mixed = billed?.find(({ scenario, contender }) => scenario === 'mixed, Zipf' && contender === 'ours')
  if (mixed) {
    console.log('\nDollars a month for mixed requests, what the plan of Workers includes subtracted')
    printTable(
      ['requests', 'commands/s', 'Upstash, by command', 'fixed plan', 'Upstash, fixed', 'D1', 'Workers', 'in all'],
      [1e6, 100e6, 10e9].map((requests) => {
        const month = monthOf(mixed.usage, mixed.redisBytes, requests)
        const { plan, databases } = month.fixed
        const dollars = [month.payAsYouGo, month.fixed.dollars, month.d1, month.workers, month.total]
        const [payAsYouGo = '', fixed = '', ...others] = dollars.map((each) => each.toFixed(0))
        const chosen = databases > 1 ? `${databases} × ${plan}` : plan
        return [requests.toExponential(), month.commandsPerSecond.toFixed(1), payAsYouGo, chosen, fixed].concat(others)
      }),
    )
  }

  console.log('\nTargets')
  printTable(
    ['target', 'wanted', 'measured', 'met'],
    targets.map(({ name, target, measured, isMet }) => [
      name,
      target,
      measured,
      isMet === null ? 'unknown' : isMet ? 'met' : 'missed',
    ]),
  )
  const count = (isMet: boolean | null) => targets.filter((target) => target.isMet === isMet).length
  console.log(`${count(true)} met, ${count(false)} missed, ${count(null)} unknown`)
}

/** Our requests per second divided by this contender's, in the same rounds. */
function timesOurs(rows: Row[], { scenario, latencyMs, contender }: Row): number {
  const ours = rows.find((row) => row.scenario === scenario && row.latencyMs === latencyMs && row.contender === 'ours')
  return ours?.times[contender] ?? NaN
}

/** Aligns words left and numbers right. */
export function printTable(head: string[], lines: string[][]): void {
  const all = [head, ...lines]
  const widths = head.map((_, i) => Math.max(...all.map((line) => line[i]?.length ?? 0)))
  const isNumber = head.map((_, i) => lines.every((line) => /^[\d.,× ]*$/.test(line[i] ?? '')))
  for (const line of all) {
    const cells = line.map((cell, i) => (isNumber[i] ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
    console.log(cells.join('  ').trimEnd())
  }
}
