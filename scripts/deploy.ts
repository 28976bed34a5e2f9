/**
 * `npm run deploy` for the top level of wrangler.toml, `npm run deploy -- --env staging` for an environment: checks that
 * everything the Worker needs exists, makes the secrets that nobody has to choose, applies migrations, deploys, and
 * checks that the deployed Worker is healthy. If something is missing, it says so in one line and changes nothing.
 * `--url` is the Worker's address, if wrangler does not report it. `--patience` is how many seconds it may take to
 * become healthy (60).
 */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import * as v from 'valibot'
import {
  commandFor,
  type Environment,
  findInvalid,
  findRedisProblem,
  inspect,
  MADE_SECRETS,
  makeSecrets,
  Obstacle,
  putSecrets,
  readArguments,
  readEnvironment,
  readInput,
  run,
  wrangler,
} from './environment.ts'

/** The line about a deployment in wrangler's output file. */
const Deployed = v.object({
  type: v.literal('deploy'),
  version_id: v.nullable(v.string()),
  targets: v.array(v.string()),
})

/** A problem document, or the answer of `/readyz`, which has the state of each dependency. */
const Answer = v.looseObject({ detail: v.optional(v.string()) })
const Down = v.object({ isUp: v.literal(false) })

await run(async () => {
  const { env, url, patience } = readArguments({
    url: { type: 'string' },
    patience: { type: 'string', default: '60' },
  })
  const patienceSeconds = Number(patience)
  if (!(patienceSeconds >= 0)) throw new Obstacle(`--patience is ${patience}: it must be a number of seconds`)
  const environment = readEnvironment(env)
  const made = makeSecrets(await requireAll(environment))
  console.log(`${environment.worker}: its bindings and secrets exist`)
  if (Object.keys(made).length > 0) {
    await putSecrets(env, made)
    console.log(`${environment.worker}: added ${Object.keys(made).join(', ')}`)
  }

  await migrate(environment)
  const deployed = await deploy(environment)
  const address = url ?? deployed
  if (address === undefined) throw new Obstacle('Deployed, but wrangler reports no address: pass it with --url')
  await smokeTest(address, env, patienceSeconds)
})

/**
 * Throws an obstacle that names what is missing: checks wrangler.toml first, then Redis, then Cloudflare. Returns the
 * names of the Worker's secrets.
 */
async function requireAll(environment: Environment): Promise<Set<string>> {
  const { name: env, databases, queues, buckets, secrets, redisUrl } = environment
  const setup = `run ${commandFor(env, 'npm run setup')}`
  const unset = databases.filter(({ id }) => id === undefined).map(({ name }) => `the id of D1 database ${name}`)
  if (redisUrl === undefined) unset.push('the URL of Redis')
  if (redisUrl === undefined || unset.length > 0) refuse(env, `wrangler.toml lacks ${unset.join(' and ')}: ${setup}`)

  const keys = MADE_SECRETS.flatMap((name) => (process.env[name] ? [[name, process.env[name]] as const] : []))
  const invalid = Object.entries(findInvalid(env, Object.fromEntries(keys))).map(
    ([name, expected]) => `${name} (${expected})`,
  )
  if (invalid.length > 0) refuse(env, `wrangler.toml has invalid values: ${invalid.join(', ')}`)

  const token = await readInput('UPSTASH_REDIS_REST_TOKEN', { isSecret: true })
  // Workers Builds deploys what the button "Deploy to Cloudflare" made, and gives no secret to the build.
  const isUnread = token === undefined && Boolean(process.env['WORKERS_CI'])
  if (token === undefined && !isUnread) {
    refuse(env, 'UPSTASH_REDIS_REST_TOKEN is not set: it is needed to check Redis before anything is changed')
  }
  const problem = token === undefined ? undefined : await findRedisProblem(redisUrl, token)
  if (problem !== undefined) refuse(env, problem)

  const present = await inspect(environment)
  const absent = [
    ...databases.flatMap(({ name, id }) =>
      present.databases.get(name) === id ? [] : `D1 database ${name} with id ${id}`,
    ),
    ...queues.flatMap((queue) => (present.queues.has(queue) ? [] : `queue ${queue}`)),
    ...buckets.flatMap(({ name }) => (present.buckets.has(name) ? [] : `R2 bucket ${name}`)),
    ...secrets.flatMap((secret) => (present.secrets.has(secret) ? [] : `secret ${secret}`)),
  ]
  if (absent.length > 0) refuse(env, `Cloudflare lacks ${absent.join(', ')}: ${setup}`)
  return present.secrets
}

function refuse(env: string, reason: string): never {
  throw new Obstacle(`Not deployed${env === '' ? '' : ` to ${env}`}: ${reason}`)
}

/** Applies pending migrations. This comes before the deployment: migrations keep working with the previous code. */
async function migrate({ name: env, databases }: Environment): Promise<void> {
  for (const { binding, name, migrationsDir } of databases) {
    const listed = await wrangler(env, ['d1', 'migrations', 'list', binding, '--remote'])
    const pending = (await readdir(migrationsDir)).filter((file) => file.endsWith('.sql') && listed.includes(file))
    if (pending.length > 0) await wrangler(env, ['d1', 'migrations', 'apply', binding, '--remote'])
    console.log(`${name}: ${pending.length > 0 ? `applied ${pending.sort().join(', ')}` : 'no migration is pending'}`)
  }
}

/** Uploads the Worker. Returns its address, if wrangler reports one. */
async function deploy({ name: env, worker }: Environment): Promise<string | undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-'))
  try {
    const outputFile = join(folder, 'output')
    await wrangler(env, ['deploy'], { outputFile })
    const lines = (await readFile(outputFile, 'utf8')).trim().split('\n')
    const deployed = lines.map((line) => v.safeParse(Deployed, JSON.parse(line))).find(({ success }) => success)?.output
    const { version_id, targets } = v.parse(Deployed, deployed)
    // Other targets are queues and schedules, such as 'Producer for likes'.
    const host = targets
      .map((target) => /^(?:https:\/\/)?([a-z0-9-]+(?:\.[a-z0-9-]+)+)/.exec(target)?.[1])
      .find(Boolean)
    console.log(`${worker}: deployed ${version_id ?? ''}`)
    return host && `https://${host}`
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Polls until the Worker is alive and ready. A new address takes a while to work everywhere. */
async function smokeTest(url: string, env: string, patienceSeconds: number): Promise<void> {
  const deadline = Date.now() + patienceSeconds * 1_000
  for (const path of ['/healthz', '/readyz']) {
    for (let problem = await check(url, path); problem !== undefined; problem = await check(url, path)) {
      if (Date.now() > deadline) {
        throw new Obstacle(
          `Deployed, but ${url}${path} ${problem}; to roll back: ${commandFor(env, 'npx wrangler rollback')}`,
        )
      }
      await sleep(1_000)
    }
  }
  console.log(`${url} is alive and ready`)
}

/** Requests a health check. Returns the problem, or undefined. */
async function check(url: string, path: string): Promise<string | undefined> {
  const response = await fetch(new URL(path, url), { signal: AbortSignal.timeout(10_000) }).catch(() => null)
  if (response?.ok) return undefined
  if (!response) return 'does not answer'
  const answer = v.safeParse(Answer, await response.json().catch(() => undefined))
  const answered = answer.success ? answer.output : {}
  const down = Object.entries(answered).flatMap(([name, state]) => (v.is(Down, state) ? [`${name} is down`] : []))
  return [`answers ${response.status}`, answered.detail, ...down].filter(Boolean).join(', ')
}
