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

/** All that wrangler makes of the configuration, but for what `npm run setup` fills in and which environment it is. */
function configOf(env?: string): Config {
  const config = unstable_readConfig({ config: configPath, ...(env ? { env } : {}) }) as Config
  delete config['targetEnvironment']
  delete config.vars['UPSTASH_REDIS_REST_URL']
  for (const database of config.d1_databases) delete database.database_id
  return config
}

// wrangler hands down neither variables nor bindings, and only warns: a forgotten one would show as a failing Worker.
test.each(['staging', 'production'])('%s has all that the top level has, under names of its own', (env) => {
  const own = (name: string) => `${name}-${env}`
  const expected = configOf()
  expected.name = own(expected.name)
  for (const database of expected.d1_databases) database.database_name = own(database.database_name)
  for (const end of [...expected.queues.producers, ...expected.queues.consumers]) end.queue = own(end.queue)
  for (const consumer of expected.queues.consumers) consumer.dead_letter_queue = own(consumer.dead_letter_queue)
  expect(configOf(env)).toEqual(expected)
})

test('every queue keeps what cannot be handled', () => {
  for (const consumer of configOf().queues.consumers) expect(consumer.dead_letter_queue).toBeTruthy()
})
