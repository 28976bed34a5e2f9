/**
 * `npm run setup -- --env staging`: creates what an environment of wrangler.toml needs and Cloudflare does not have, and
 * writes into wrangler.toml what that brings. Run again, it goes on where it was stopped, and changes nothing when all is
 * there. `--dry-run` prints what it would see to, and asks nobody.
 */
import {
  type Environment,
  findMistakes,
  findRedisTrouble,
  inspect,
  listDatabases,
  obtain,
  Obstacle,
  readArguments,
  readEnvironment,
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

function printPlan({ name, worker, databases, queues, secrets, redisUrl }: Environment): void {
  const lines = [
    `Plan for ${name}, the Worker ${worker}. Nothing is done now.`,
    redisUrl
      ? `  Variable UPSTASH_REDIS_REST_URL: is ${redisUrl}`
      : '  Variable UPSTASH_REDIS_REST_URL: ask for it, write it into wrangler.toml',
    ...databases.map((database) =>
      database.id
        ? `  D1 database ${database.name}: has the id ${database.id}`
        : `  D1 database ${database.name}: create it unless it exists, write its id into wrangler.toml`,
    ),
    ...queues.map((queue) => `  Queue ${queue}: create it unless it exists`),
    ...secrets.map((secret) => `  Secret ${secret}: ask for it unless the Worker has it`),
  ]
  console.log(lines.join('\n'))
}

async function setUp(env: string): Promise<void> {
  const environment = readEnvironment(env)
  const { databases, queues, secrets, worker } = environment
  const present = await inspect(environment)
  const ids = new Set(present.databases.values())
  for (const { name, id } of databases) {
    if (id === undefined || ids.has(id)) continue
    throw new Obstacle(
      `wrangler.toml has the id ${id} for ${name}, but this Cloudflare account has no such database: sign in to the account that has it`,
    )
  }
  const token = await setUpRedis(environment, present.secrets.has('UPSTASH_REDIS_REST_TOKEN'))
  const absent = databases.filter(({ name }) => !present.databases.has(name))
  for (const { name } of absent) await wrangler(env, ['d1', 'create', name])
  const known = absent.length > 0 ? await listDatabases(env) : present.databases
  for (const { binding, name, id: written } of databases) {
    const id = known.get(name)
    if (id === undefined) throw new Obstacle(`D1 database ${name} was created but is not listed yet: run this again`)
    if (id !== written) await writeDatabaseId(env, binding, id)
    say('D1 database', name, present.databases.has(name), id === written ? '' : ', its id is in wrangler.toml now')
  }
  for (const queue of queues) {
    if (!present.queues.has(queue)) await wrangler(env, ['queues', 'create', queue])
    say('Queue', queue, present.queues.has(queue))
  }

  const missing = secrets.filter((secret) => !present.secrets.has(secret))
  const given: Record<string, string> = {}
  for (const secret of missing) {
    const isChecked = secret === 'UPSTASH_REDIS_REST_TOKEN' && token !== undefined
    given[secret] = isChecked ? token : await demand(env, secret, true)
  }
  // All at once and through a pipe: no command line, file or terminal has them.
  if (missing.length > 0) await wrangler(env, ['secret', 'bulk'], { input: JSON.stringify(given) })
  for (const secret of secrets) say('Secret', secret, present.secrets.has(secret))

  console.log(`${worker} has all it needs. Commit wrangler.toml if it changed, then: npm run deploy -- --env ${env}`)
}

/**
 * Sees that Redis takes the token before its URL is written into wrangler.toml, so that what is there once answered. A URL
 * in the environment goes before the one in the file. Answers the token, which is asked for only if the Worker has none
 * or the URL is new.
 */
async function setUpRedis(
  { name: env, worker, redisUrl: written }: Environment,
  hasToken: boolean,
): Promise<string | undefined> {
  const isGiven = written === undefined || Boolean(process.env['UPSTASH_REDIS_REST_URL'])
  const url = isGiven ? await demand(env, 'UPSTASH_REDIS_REST_URL', false) : written
  const isNew = url !== written
  // A token takes effect at once, a URL when it is deployed: between the two the Worker would be without Redis.
  if (isNew && written !== undefined && hasToken) {
    throw new Obstacle(
      `UPSTASH_REDIS_REST_URL is ${url}, but ${worker} has a token for ${written}: unset the variable; or to move, change the URL in wrangler.toml, then npx wrangler secret put UPSTASH_REDIS_REST_TOKEN --env ${env}, and deploy`,
    )
  }
  const token = isNew || !hasToken ? await demand(env, 'UPSTASH_REDIS_REST_TOKEN', true) : undefined
  const trouble = token === undefined ? undefined : await findRedisTrouble(url, token)
  if (trouble) {
    const where = isNew ? 'is not stored: give another' : 'is in wrangler.toml: change it there, or give another'
    throw new Obstacle(`${trouble}; the URL ${where} in UPSTASH_REDIS_REST_URL`)
  }
  if (isNew) await writeRedisUrl(env, url)
  say('Variable', 'UPSTASH_REDIS_REST_URL', !isNew, isNew ? ', in wrangler.toml' : '')
  return token
}

/** A value that must be given, and that the Worker will take. */
async function demand(env: string, name: string, isSecret: boolean): Promise<string> {
  const value = await obtain(name, { isSecret })
  if (value === undefined)
    throw new Obstacle(`${name} is missing: set it in the environment, or run this on a terminal`)
  const mistake = findMistakes(env, { [name]: value })[name]
  if (mistake) throw new Obstacle(`${name} cannot be used: ${mistake}`)
  return value
}

function say(kind: string, name: string, wasThere: boolean, note = ''): void {
  console.log(`${kind} ${name}: ${wasThere ? 'is there' : 'added'}${note}`)
}
