/** Our Worker, and a way to run one job of its cron alone: its cost is not visible when all jobs run at once. */
import { readConfig } from '../src/config.ts'
import { features } from '../src/features.ts'
import { createWorker } from '../src/index.ts'
import { beginInvocation, createIsolate, type Isolate, type Platform } from '../src/platform.ts'

const PURGED = 1_000
const LOCK = 'bench'
/** The job that runs all purges. Here each purge is a step. */
const PURGE_JOB = 'purge expired data'

type Run = (platform: Platform, now: number) => Promise<unknown>

/** By name: each job, and each purge. */
const steps = new Map<string, Run>()
for (const { jobs = [], purges = {} } of features) {
  for (const job of jobs) {
    if (job.name === PURGE_JOB) continue
    const run: Run = job.isExclusive
      ? (platform, now) =>
          platform.locks.withLock(LOCK, { ttlMs: platform.config.lockTtlMs }, (signal, fence) =>
            job.run(platform, { now, signal, lock: { name: LOCK, fence } }),
          )
      : (platform, now) => job.run(platform, { now })
    steps.set(job.name, run)
  }
  for (const [name, purge] of Object.entries(purges)) {
    steps.set(`purge ${name}`, (platform, now) => purge(platform, PURGED, now))
  }
}

const worker = createWorker()
let isolate: Isolate | undefined

/** `GET /bench/steps` lists the steps. `POST` with the name of one as the body runs it. */
export default {
  ...worker,
  async fetch(request, env, context) {
    if (new URL(request.url).pathname !== '/bench/steps') return worker.fetch(request, env, context)
    if (request.method === 'GET') return Response.json([...steps.keys()])
    const name = await request.text()
    const run = steps.get(name)
    if (!run) return new Response(`There is no step ${name}`, { status: 404 })
    isolate ??= createIsolate(readConfig(env), features)
    const { platform, end } = beginInvocation(isolate, env, context, (during, error) => console.error(during, error))
    await run(platform, Date.now())
    end({ route: 'STEP', ms: 0 })
    return new Response(null, { status: 204 })
  },
} satisfies ExportedHandler<Env>
