/**
 * `npm run bench -- --profile SCENARIO`: where the CPU time of a scenario goes, by the parts of the program, from V8's sampling
 * profiler. The bundle is the deployed one before it is minified.
 */
import { startLoadGenerator } from './load.ts'
import { openInspector } from './inspector.ts'
import { createTown } from './town.ts'
import { bundle, type ContenderName, prepareDatabase, startEmulator, startWorkers } from './workers.ts'

const WARM_UP_MS = 3_000
const PROFILED_MS = 5_000
const CONNECTIONS = 16
const SAMPLE_MICROSECONDS = 200

/** A profile of the Chrome DevTools Protocol. Times in microseconds. */
interface Profile {
  nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number } }[]
  samples: number[]
  timeDeltas: number[]
}

export interface ProfileFigures {
  scenario: string
  contender: ContenderName
  requests: number
  /** JavaScript and garbage collection, ms per request. */
  msPerRequest: number
  /** Its parts, the largest first. */
  parts: { part: string; msPerRequest: number }[]
}

/** The parts of a program, by the beginnings of their modules. The first that matches counts. */
const PARTS: [part: string, beginning: RegExp][] = [
  ['D1: runtime', /^cloudflare-internal:d1/],
  ['cryptography: runtime', /^node-internal:/],
  ['D1: drizzle', /^node_modules\/drizzle-orm|^src\/db\//],
  ['Redis: SDK', /^node_modules\/@upstash/],
  ['Redis: connection', /^src\/redis\/(client|script|latency)\.ts/],
  ['Redis: primitives', /^src\/redis\//],
  ['Hono', /^node_modules\/hono/],
  ['valibot', /^node_modules\/valibot/],
  ['HTTP: sessions, limits, headers', /^src\/(http|rate-limit|sessions|relations)\//],
  ['figures', /^src\/monitoring\//],
  ['platform', /^src\/[^/]+$/],
  ['features', /^src\//],
]
/** Functions of the runtime that are not in a module. */
const NATIVE: [part: string, name: RegExp][] = [
  ['garbage collection', /^\(garbage collector\)$/],
  ['runtime: fetch', /^(fetch|text|json|arrayBuffer|timeout|signal|AbortSignal)$/],
  ['runtime: Response and headers', /^(Response|Headers|Request|get|set|append|has|URL)$/],
]

export async function measureProfile(scenario: string, contender: ContenderName): Promise<ProfileFigures> {
  const town = createTown()
  const draw = Object.entries(town.scenarios).find(([name]) => name === scenario)?.[1]
  if (!draw) throw new Error(`--profile must be one of: ${Object.keys(town.scenarios).join(', ')}`)
  await using emulator = await startEmulator()
  await using prepared = await prepareDatabase(town)
  const bundled = await bundle(contender, { minify: false })
  const worker = await startWorkers(bundled, emulator, prepared.folder, 1, { BENCH_INSPECTOR: '1' })
  const load = startLoadGenerator()
  try {
    const asks = Array.from({ length: 2_000 }, draw)
    const under = { asks, connections: CONNECTIONS, origins: worker.urls }
    await load.run({ ...under, durationMs: WARM_UP_MS })
    const inspector = await openInspector(await worker.inspectorUrl())
    await inspector.call('Profiler.enable')
    await inspector.call('Profiler.setSamplingInterval', { interval: SAMPLE_MICROSECONDS })
    await inspector.call('Profiler.start')
    const { requests } = await load.run({ ...under, durationMs: PROFILED_MS })
    const { profile } = await inspector.call<{ profile: Profile }>('Profiler.stop')
    inspector.close()
    return { scenario, contender, requests, ...sumsOf(profile, bundled.code, requests) }
  } finally {
    await load.close()
    await worker.close()
  }
}

function sumsOf(profile: Profile, code: string, requests: number): Pick<ProfileFigures, 'msPerRequest' | 'parts'> {
  const moduleOf: string[] = []
  let module = 'src/index.ts'
  for (const line of code.split('\n')) {
    module = /^\/\/ ((?:src|node_modules|bench)\/\S+)$/.exec(line)?.[1] ?? module
    moduleOf.push(module)
  }
  const partOf = new Map(
    profile.nodes.map(({ id, callFrame: { functionName, url, lineNumber } }) => {
      const isOurs = url.endsWith('/index.js')
      const name = isOurs ? (moduleOf[lineNumber] ?? '') : url
      const [part] =
        PARTS.find(([, beginning]) => beginning.test(name)) ??
        (url === '' ? NATIVE.find(([, of]) => of.test(functionName)) : undefined) ??
        []
      return [id, functionName === '(idle)' ? undefined : (part ?? 'runtime: other')] as const
    }),
  )
  const sums = new Map<string, number>()
  for (const [i, id] of profile.samples.entries()) {
    const part = partOf.get(id)
    if (part !== undefined) sums.set(part, (sums.get(part) ?? 0) + (profile.timeDeltas[i] ?? 0))
  }
  const parts = [...sums].map(([part, microseconds]) => ({ part, msPerRequest: microseconds / 1_000 / requests }))
  return {
    msPerRequest: parts.reduce((sum, part) => sum + part.msPerRequest, 0),
    parts: parts.sort((a, b) => b.msPerRequest - a.msPerRequest),
  }
}

export function printProfile({ scenario, contender, requests, msPerRequest, parts }: ProfileFigures): void {
  console.log(
    `${scenario}, ${contender}: ${msPerRequest.toFixed(2)} ms of JavaScript per request, ${requests} requests`,
  )
  for (const { part, msPerRequest: ms } of parts) {
    console.log(`${((ms / msPerRequest) * 100).toFixed(0).padStart(4)} %  ${ms.toFixed(3)} ms  ${part}`)
  }
}
