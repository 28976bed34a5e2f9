/** The first request of a new isolate: compiling and running the code, and one answer. */
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { median } from './measure.ts'
import { type Bundle, type ContenderName, platform } from './workers.ts'

/** Each id is a new isolate. `/healthz` uses no binding. */
const SCRIPT = `export default {
  fetch(request, env) {
    const id = new URL(request.url).pathname
    const worker = env.LOADER.get(id, () => ({
      compatibilityDate: env.DATE,
      compatibilityFlags: env.FLAGS,
      mainModule: 'index.js',
      modules: { 'index.js': env.CODE },
      env: { LOG_REQUESTS: 'none' }, // as in all other measurements
    }))
    return worker.getEntrypoint().fetch('http://bench/healthz')
  },
}`

/** The median of `times` cold starts in ms, by contender. It includes what loading any Worker costs: see the bare one. */
export async function measureColdStarts(bundles: Bundle[], times: number): Promise<Map<ContenderName, number>> {
  const { compatibilityDate, compatibilityFlags } = platform()
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      workers: bundles.map(({ name, code }) => ({
        name,
        modules: true,
        script: SCRIPT,
        compatibilityDate,
        workerLoaders: { LOADER: {} },
        bindings: { CODE: code, DATE: compatibilityDate, FLAGS: compatibilityFlags },
        unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }],
      })),
    }),
  )
  try {
    const took = new Map<ContenderName, number[]>()
    for (let time = -1; time < times; time += 1) {
      for (const { name } of bundles) {
        const { origin } = await miniflare.unsafeGetDirectURL(name)
        const startedAt = performance.now()
        await (await fetch(`${origin}/${time}`)).text()
        const ms = performance.now() - startedAt
        if (time >= 0) took.set(name, [...(took.get(name) ?? []), ms]) // the first request opens the connection
      }
    }
    return new Map([...took].map(([name, all]) => [name, median(all)]))
  } finally {
    await miniflare.dispose()
  }
}
