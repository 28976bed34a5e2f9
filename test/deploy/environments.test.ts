import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseEnv } from 'node:util'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { unstable_readConfig } from 'wrangler'

const configPath = fileURLToPath(new URL('../../wrangler.toml', import.meta.url))

/** The part of wrangler's configuration that these tests read. wrangler ships no types for it. */
interface Config {
  [setting: string]: unknown
  name: string
  vars: Record<string, unknown>
  build: { watch_dir?: string }
  d1_databases: { binding: string; database_name: string; database_id?: string }[]
  queues: {
    producers: { binding: string; queue: string }[]
    consumers: { queue: string; dead_letter_queue: string; max_concurrency: number | null }[]
  }
}

/** The settings in which environments may differ: their name, addresses, limits and logs. */
const OWN = 'targetEnvironment route routes workers_dev preview_urls observability logpush placement limits'.split(' ')

/** The configuration as wrangler reads it, without `OWN` and the ids that `npm run setup` fills in. */
function configOf(env?: string, path = configPath): Config {
  const config = unstable_readConfig({ config: path, ...(env ? { env } : {}) }, { hideWarnings: true }) as Config
  for (const setting of OWN) delete config[setting]
  for (const database of config.d1_databases) delete database.database_id
  // wrangler makes it relative to the working folder, and for an environment once more: the result depends on the folder.
  delete config.build.watch_dir
  return config
}

/** Expects everything the top level has, under the environment's own names. It may add variables and change their values. */
function expectSame(env: string, path = configPath): void {
  const own = (name: string) => `${name}-${env}`
  const expected = configOf(undefined, path)
  expected.name = own(expected.name)
  for (const database of expected.d1_databases) database.database_name = own(database.database_name)
  for (const end of [...expected.queues.producers, ...expected.queues.consumers]) end.queue = own(end.queue)
  for (const consumer of expected.queues.consumers) consumer.dead_letter_queue = own(consumer.dead_letter_queue)
  const found = configOf(env, path)
  expect(Object.keys(found.vars)).toEqual(expect.arrayContaining(Object.keys(expected.vars)))
  expect({ ...found, vars: expected.vars }).toEqual(expected)
}

// An environment inherits neither variables nor bindings, and wrangler only warns. A missing one makes the Worker fail.
test.each(['staging', 'production'])('%s has everything the top level has, under its own names', (env) => {
  expectSame(env)
})

test('an environment may add variables and a domain, but must lack nothing', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-'))
  const path = join(folder, 'wrangler.toml')
  const config = await readFile(configPath, 'utf8')
  const own = `[env.production.vars]\nPRODUCTION_ONLY = "yes"`
  const domain = `[[env.production.routes]]\npattern = "api.example"\ncustom_domain = true\n`
  await writeFile(path, `${config.replace('[env.production.vars]', own)}\n${domain}`)
  expectSame('production', path)

  const changes: [string, string][] = [
    ['UPSTASH_REDIS_REST_URL', 'ANOTHER'],
    ['required = ["UPSTASH_REDIS_REST_TOKEN", "SERVICE_TOKEN"]', 'required = ["SERVICE_TOKEN"]'],
    ['binding = "EVENTS"', 'binding = "OTHERS"'],
    ['max_retries = 100', 'max_retries = 99'],
    ['max_concurrency = 4', 'max_concurrency = 5'],
    ['[env.production.vars]', '[env.production.triggers]\ncrons = []\n[env.production.vars]'],
    ['[env.production.vars]', '[env.production]\ncompatibility_flags = []\n[env.production.vars]'],
  ]
  const start = config.indexOf('[env.production.vars]')
  for (const [from, to] of changes) {
    await writeFile(path, config.slice(0, start) + config.slice(start).replace(from, to))
    expect(() => expectSame('production', path)).toThrow(/expected/)
  }
  await rm(folder, { recursive: true })
})

test('every queue has a dead-letter queue', () => {
  for (const consumer of configOf().queues.consumers) expect(consumer.dead_letter_queue).toBeTruthy()
})

// Without a bound Cloudflare runs up to 250 batches of a queue at once, and requests wait behind them for D1's one writer.
test.each([undefined, 'staging', 'production'])('every consumer writes to D1, so each is bounded (%s)', (env) => {
  const { consumers } = configOf(env).queues
  const bounds = consumers.map(({ queue, max_concurrency: most }) => ({ queue, most: most ?? Infinity }))
  expect(bounds.length).toBe(6)
  expect(bounds.filter(({ most }) => most > 16)).toEqual([])
  expect(bounds.filter(({ queue, most }) => queue.includes('-dead') && most > 1)).toEqual([])
})

test('the button "Deploy to Cloudflare" explains each value that it asks for', async () => {
  const read = (name: string) => readFile(fileURLToPath(new URL(`../../${name}`, import.meta.url)), 'utf8')
  const { cloudflare, scripts } = v.parse(
    v.object({
      cloudflare: v.object({ bindings: v.record(v.string(), v.object({ description: v.string() })) }),
      scripts: v.object({ deploy: v.string() }),
    }),
    JSON.parse(await read('package.json')),
  )
  const { d1_databases, queues, vars } = configOf()
  const asked = [
    ...d1_databases.map(({ binding }) => binding),
    ...queues.producers.map(({ binding }) => binding),
    ...Object.keys(vars),
    ...Object.keys(parseEnv(await read('.dev.vars.example'))),
  ]
  expect(Object.keys(cloudflare.bindings).sort()).toEqual(asked.sort())
  expect(scripts.deploy).toBe('exec node scripts/deploy.ts') // what Workers Builds runs
})
