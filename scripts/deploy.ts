/**
 * `npm run deploy -- --env staging`: checks that all is there, brings the tables up to date, deploys, and asks the
 * deployed Worker whether it is well. What is missing is said in one line before anything is changed. `--url` is where
 * to ask it, if it is not where wrangler says; `--patience` for how many seconds it may take to be there (60).
 */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import * as v from 'valibot'
import {
  type Environment,
  findMistakes,
  findRedisTrouble,
  inspect,
  obtain,
  Obstacle,
  readArguments,
  readEnvironment,
  run,
  wrangler,
} from './environment.ts'

/** The line about a deployment in what wrangler reports to programs. */
const Deployed = v.object({
  type: v.literal('deploy'),
  version_id: v.nullable(v.string()),
  targets: v.array(v.string()),
})

/** A problem document, or what `/readyz` says of each dependency. */
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
  await check(environment)
  console.log(`${environment.worker}: what it is bound to, its secrets and its Redis are there`)

  await migrate(environment)
  const deployed = await deploy(environment)
  const address = url ?? deployed
  if (address === undefined)
    throw new Obstacle('Deployed, but to no address of its own: say with --url where to ask it')
  await smokeTest(address, env, patienceSeconds)
})

/** Throws an obstacle that names what is missing: what this machine knows, then what Redis says, then what Cloudflare does. */
async function check(environment: Environment): Promise<void> {
  const { name: env, databases, queues, secrets, redisUrl } = environment
  const setup = `run npm run setup -- --env ${env}`
  const unset = databases.filter(({ id }) => id === undefined).map(({ name }) => `the id of D1 database ${name}`)
  if (redisUrl === undefined) unset.push('the URL of Redis')
  if (redisUrl === undefined || unset.length > 0) refuse(env, `wrangler.toml lacks ${unset.join(' and ')}: ${setup}`)

  const mistakes = Object.entries(findMistakes(env, {})).map(([name, expected]) => `${name} (${expected})`)
  if (mistakes.length > 0) refuse(env, `wrangler.toml cannot be used for ${mistakes.join(', ')}`)

  const token = await obtain('UPSTASH_REDIS_REST_TOKEN', { isSecret: true })
  if (token === undefined) {
    refuse(env, 'UPSTASH_REDIS_REST_TOKEN is not in the environment: Redis is tried with it before anything is changed')
  }
  const trouble = await findRedisTrouble(redisUrl, token)
  if (trouble !== undefined) refuse(env, trouble)

  const present = await inspect(environment)
  const absent = [
    ...databases.flatMap(({ name, id }) =>
      present.databases.get(name) === id ? [] : `D1 database ${name} with id ${id}`,
    ),
    ...queues.flatMap((queue) => (present.queues.has(queue) ? [] : `queue ${queue}`)),
    ...secrets.flatMap((secret) => (present.secrets.has(secret) ? [] : `secret ${secret}`)),
  ]
  if (absent.length > 0) refuse(env, `Cloudflare lacks ${absent.join(', ')}: ${setup}`)
}

function refuse(env: string, reason: string): never {
  throw new Obstacle(`Not deployed to ${env}: ${reason}`)
}

/** Before the code that needs them: migrations only add to what the code of before needs. */
async function migrate({ name: env, databases }: Environment): Promise<void> {
  for (const { binding, name, migrationsDir } of databases) {
    const listed = await wrangler(env, ['d1', 'migrations', 'list', binding, '--remote'])
    const pending = (await readdir(migrationsDir)).filter((file) => file.endsWith('.sql') && listed.includes(file))
    if (pending.length > 0) await wrangler(env, ['d1', 'migrations', 'apply', binding, '--remote'])
    console.log(`${name}: ${pending.length > 0 ? `applied ${pending.sort().join(', ')}` : 'no migration is pending'}`)
  }
}

/** Uploads the Worker; answers where it is, if it has an address of its own. */
async function deploy({ name: env, worker }: Environment): Promise<string | undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-'))
  try {
    const outputFile = join(folder, 'output')
    await wrangler(env, ['deploy', '--minify'], { outputFile })
    const lines = (await readFile(outputFile, 'utf8')).trim().split('\n')
    const deployed = lines.map((line) => v.safeParse(Deployed, JSON.parse(line))).find(({ success }) => success)?.output
    const { version_id, targets } = v.parse(Deployed, deployed)
    // The others are queues and schedules: 'Producer for likes'.
    const host = targets
      .map((target) => /^(?:https:\/\/)?([a-z0-9-]+(?:\.[a-z0-9-]+)+)/.exec(target)?.[1])
      .find(Boolean)
    console.log(`${worker}: deployed ${version_id ?? ''}`)
    return host && `https://${host}`
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Asks until the Worker is alive and ready: a new address takes a while to be known everywhere. */
async function smokeTest(url: string, env: string, patienceSeconds: number): Promise<void> {
  const deadline = Date.now() + patienceSeconds * 1_000
  for (const path of ['/healthz', '/readyz']) {
    for (let trouble = await ask(url, path); trouble !== undefined; trouble = await ask(url, path)) {
      if (Date.now() > deadline) {
        throw new Obstacle(`Deployed, but ${url}${path} ${trouble}; to go back: npx wrangler rollback --env ${env}`)
      }
      await sleep(1_000)
    }
  }
  console.log(`${url} is alive and ready`)
}

/** What is wrong there, or undefined. */
async function ask(url: string, path: string): Promise<string | undefined> {
  const response = await fetch(new URL(path, url), { signal: AbortSignal.timeout(10_000) }).catch(() => null)
  if (response?.ok) return undefined
  if (!response) return 'does not answer'
  const answer = v.safeParse(Answer, await response.json().catch(() => undefined))
  const said = answer.success ? answer.output : {}
  const down = Object.entries(said).flatMap(([name, state]) => (v.is(Down, state) ? [`${name} is down`] : []))
  return [`answers ${response.status}`, said.detail, ...down].filter(Boolean).join(', ')
}
