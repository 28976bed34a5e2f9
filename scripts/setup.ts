/**
 * `npm run setup` for the top level of wrangler.toml, `npm run setup -- --env staging` for an environment: creates what it
 * needs and Cloudflare does not have, and writes the new ids and the URL of Redis into wrangler.toml. It is safe to repeat: it continues after an interruption and
 * changes nothing when everything exists. `--dry-run` prints the plan without contacting Cloudflare.
 */
import {
  commandFor,
  type Environment,
  findInvalid,
  findRedisProblem,
  inspect,
  jurisdictionFlag,
  listDatabases,
  MADE_SECRETS,
  makeSecrets,
  Obstacle,
  putSecrets,
  readArguments,
  readEnvironment,
  readInput,
  run,
  wrangler,
  writeDatabaseId,
  writeRedisUrl,
} from './environment.ts'

await run(async () => {
  const { env, 'dry-run': isDryRun } = readArguments({ 'dry-run': { type: 'boolean', default: false } })
  if (isDryRun) printPlan(readEnvironment(env))
  else await setUp(env)
})

function printPlan({ name, worker, databases, queues, buckets, secrets, redisUrl }: Environment): void {
  const lines = [
    `Plan for ${name === '' ? 'the top level' : name}, the Worker ${worker}. This changes nothing.`,
    redisUrl
      ? `  Variable UPSTASH_REDIS_REST_URL: is ${redisUrl}`
      : '  Variable UPSTASH_REDIS_REST_URL: ask for it, write it into wrangler.toml',
    ...databases.map((database) =>
      database.id
        ? `  D1 database ${database.name}: has the id ${database.id}`
        : `  D1 database ${database.name}: create it unless it exists, write its id into wrangler.toml`,
    ),
    ...queues.map((queue) => `  Queue ${queue}: create it unless it exists`),
    ...buckets.map((bucket) => `  R2 bucket ${bucket.name}: create it unless it exists`),
    ...secrets.map((secret) => `  Secret ${secret}: ask for it unless the Worker has it`),
    ...MADE_SECRETS.map((secret) => `  Secret ${secret}: make it unless the Worker has it`),
  ]
  console.log(lines.join('\n'))
}

async function setUp(env: string): Promise<void> {
  const environment = readEnvironment(env)
  const { databases, queues, buckets, secrets, worker } = environment
  // Before anything is created: whether the values in the environment variables are valid.
  for (const name of ['UPSTASH_REDIS_REST_URL', ...secrets, ...MADE_SECRETS]) requireValid(env, name, process.env[name])
  // A new URL needs its token, whatever Cloudflare has.
  const isFirst = environment.redisUrl === undefined
  const checked = isFirst ? await checkRedis(environment, false) : undefined

  const present = await inspect(environment)
  const ids = new Set(present.databases.values())
  for (const { name, id } of databases) {
    if (id === undefined || ids.has(id)) continue
    throw new Obstacle(
      `wrangler.toml has the id ${id} for ${name}, but this Cloudflare account has no such database: sign in to the account that has it`,
    )
  }
  const { url, token } = checked ?? (await checkRedis(environment, present.secrets.has('UPSTASH_REDIS_REST_TOKEN')))
  const isNewUrl = url !== environment.redisUrl
  if (isNewUrl) await writeRedisUrl(env, url)
  report('Variable', 'UPSTASH_REDIS_REST_URL', !isNewUrl, isNewUrl ? ', in wrangler.toml' : '')

  const absent = databases.filter(({ name }) => !present.databases.has(name))
  for (const { name } of absent) await wrangler(env, ['d1', 'create', name])
  const known = absent.length > 0 ? await listDatabases(env) : present.databases
  for (const { binding, name, id: written } of databases) {
    const id = known.get(name)
    if (id === undefined) throw new Obstacle(`D1 database ${name} was created but is not listed yet: run this again`)
    if (id !== written) await writeDatabaseId(env, binding, id)
    report('D1 database', name, present.databases.has(name), id === written ? '' : ', its id is in wrangler.toml now')
  }
  for (const queue of queues) {
    if (!present.queues.has(queue)) await wrangler(env, ['queues', 'create', queue])
    report('Queue', queue, present.queues.has(queue))
  }
  for (const { name, jurisdiction } of buckets) {
    if (!present.buckets.has(name)) {
      await wrangler(env, ['r2', 'bucket', 'create', name, ...jurisdictionFlag(jurisdiction)])
    }
    report('R2 bucket', name, present.buckets.has(name))
  }

  const missing = secrets.filter((secret) => !present.secrets.has(secret))
  const given = makeSecrets(present.secrets)
  for (const secret of missing) {
    const isChecked = secret === 'UPSTASH_REDIS_REST_TOKEN' && token !== undefined
    given[secret] = isChecked ? token : await requireInput(env, secret, true)
  }
  if (Object.keys(given).length > 0) await putSecrets(env, given)
  for (const secret of [...secrets, ...MADE_SECRETS]) report('Secret', secret, present.secrets.has(secret))

  console.log(
    `${worker} has all it needs. Commit wrangler.toml if it changed, then: ${commandFor(env, 'npm run deploy')}`,
  )
}

/**
 * Checks that Redis accepts the token before its URL is written into wrangler.toml. A URL in the environment variable takes
 * precedence over the one in the file. The token is required only if the Worker has none or the URL is new.
 */
async function checkRedis(
  { name: env, worker, redisUrl: written }: Environment,
  hasToken: boolean,
): Promise<{ url: string; token: string | undefined }> {
  const isGiven = written === undefined || Boolean(process.env['UPSTASH_REDIS_REST_URL'])
  const url = isGiven ? await requireInput(env, 'UPSTASH_REDIS_REST_URL', false) : written
  const isNew = url !== written
  // A token takes effect at once, a URL with the next deployment: until then the Worker would have no Redis.
  if (isNew && written !== undefined && hasToken) {
    throw new Obstacle(
      `UPSTASH_REDIS_REST_URL is ${url}, but ${worker} has a token for ${written}: unset the variable; or to move, change the URL in wrangler.toml, then ${commandFor(env, 'npx wrangler secret put UPSTASH_REDIS_REST_TOKEN')}, and deploy`,
    )
  }
  const token = isNew || !hasToken ? await requireInput(env, 'UPSTASH_REDIS_REST_TOKEN', true) : undefined
  const problem = token === undefined ? undefined : await findRedisProblem(url, token)
  if (problem) {
    const where = isNew ? 'is not stored: give another' : 'is in wrangler.toml: change it there, or give another'
    throw new Obstacle(`${problem}; the URL ${where} in UPSTASH_REDIS_REST_URL`)
  }
  return { url, token }
}

/** Reads a value that is required and that the Worker accepts. */
async function requireInput(env: string, name: string, isSecret: boolean): Promise<string> {
  const value = await readInput(name, { isSecret })
  if (value === undefined)
    throw new Obstacle(`${name} is missing: set it in the environment, or run this on a terminal`)
  requireValid(env, name, value)
  return value
}

function requireValid(env: string, name: string, value: string | undefined): void {
  const expected = value ? findInvalid(env, { [name]: value })[name] : undefined
  if (expected) throw new Obstacle(`${name} cannot be used: ${expected}`)
}

function report(kind: string, name: string, existed: boolean, note = ''): void {
  console.log(`${kind} ${name}: ${existed ? 'exists' : 'added'}${note}`)
}
