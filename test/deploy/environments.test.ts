import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { unstable_readConfig } from 'wrangler'

const configPath = fileURLToPath(new URL('../../wrangler.toml', import.meta.url))

/** The part of what wrangler answers that is told apart here: its own types are not installed with it. */
interface Config {
  [setting: string]: unknown
  name: string
  vars: Record<string, unknown>
  d1_databases: { database_name: string; database_id?: string }[]
  queues: { producers: { queue: string }[]; consumers: { queue: string; dead_letter_queue: string }[] }
}

/** Which environment it is, and what each may have of its own: where it is reached, and what it may use and tell. */
const OWN = 'targetEnvironment route routes workers_dev preview_urls observability logpush placement limits'.split(' ')

/** What wrangler makes of the configuration, but for `OWN` and the ids that `npm run setup` fills in. */
function configOf(env?: string, path = configPath): Config {
  const config = unstable_readConfig({ config: path, ...(env ? { env } : {}) }, { hideWarnings: true }) as Config
  for (const setting of OWN) delete config[setting]
  for (const database of config.d1_databases) delete database.database_id
  return config
}

/** Expects all that the top level has, under names of the environment's own. Variables may be more, and have any value. */
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

// wrangler hands down neither variables nor bindings, and only warns: a forgotten one would show as a failing Worker.
test.each(['staging', 'production'])('%s has all that the top level has, under names of its own', (env) => {
  expectSame(env)
})

test('an environment may have variables and a domain of its own, but may lack nothing', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-'))
  const path = join(folder, 'wrangler.toml')
  const config = await readFile(configPath, 'utf8')
  const own = `[env.production.vars]\nOF_PRODUCTION_ALONE = "yes"`
  const domain = `[[env.production.routes]]\npattern = "api.example"\ncustom_domain = true\n`
  await writeFile(path, `${config.replace('[env.production.vars]', own)}\n${domain}`)
  expectSame('production', path)

  const changes: [string, string][] = [
    ['UPSTASH_REDIS_REST_URL', 'ANOTHER'],
    ['required = ["UPSTASH_REDIS_REST_TOKEN", "SERVICE_TOKEN"]', 'required = ["SERVICE_TOKEN"]'],
    ['binding = "EVENTS"', 'binding = "OTHERS"'],
    ['max_retries = 100', 'max_retries = 99'],
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

test('every queue keeps what cannot be handled', () => {
  for (const consumer of configOf().queues.consumers) expect(consumer.dead_letter_queue).toBeTruthy()
})
