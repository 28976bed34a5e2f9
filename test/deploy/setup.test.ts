import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Emulator, startEmulator } from '../../emulator/server.ts'
import { type Cloudflare, startCloudflare } from './cloudflare.ts'
import { type Clone, environment, expectNoSecret, makeClone, REDIS_TOKEN, runScript, SERVICE_TOKEN } from './scripts.ts'

/** A file as a person could write it: values beside comments, in any order, in either quotes. */
const CONFIG = `# The app
name = "app"
main = "src/index.ts"
compatibility_date = "2026-10-01"

[env.production.vars]
UPSTASH_REDIS_REST_URL = "" # of production

[env.staging.vars] # of staging
LIMIT_READS = "10"
UPSTASH_REDIS_REST_URL  =  '' # [sic]

[env.staging.secrets]
required = ["UPSTASH_REDIS_REST_TOKEN", "SERVICE_TOKEN"]

[[env.staging.d1_databases]]
binding = "OTHER"
database_name = "other-staging"
database_id = "00000000-0000-0000-0000-000000000000"
migrations_dir = "migrations"

[[env.staging.d1_databases]] # the one we need
database_id = "00000000-0000-0000-0000-000000000000" # filled in
binding = "DB"
database_name = "app-staging"
migrations_dir = "migrations"

[[env.staging.queues.producers]]
binding = "LIKES"
queue = "likes-staging"

[[env.staging.queues.producers]]
binding = "EVENTS"
queue = "events-staging"

[[env.staging.queues.consumers]]
queue = "likes-staging"
dead_letter_queue = "likes-dead-staging"

[[env.staging.r2_buckets]]
binding = "BACKUPS"
bucket_name = "backups-staging"

[[env.staging.r2_buckets]]
binding = "OTHERS"
bucket_name = "others-staging"
jurisdiction = "eu"
`

let clone: Clone
let cloudflare: Cloudflare
let emulator: Emulator
let given: Record<string, string>
let original = ''

beforeAll(async () => {
  clone = await makeClone()
  original = await clone.readConfig()
  emulator = await startEmulator({ tokens: [REDIS_TOKEN] })
  given = { UPSTASH_REDIS_REST_URL: emulator.url, UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN, SERVICE_TOKEN }
})
afterAll(() => Promise.all([clone.remove(), emulator.close()]))

beforeEach(async () => {
  await clone.writeConfig(CONFIG)
  cloudflare = await startCloudflare()
  return () => cloudflare.close()
})

const setup = (variables: Record<string, string | undefined> = given) =>
  runScript(clone, cloudflare.apiUrl, ['setup', '--env', 'staging'], variables)

/** Creates the databases, queues and buckets of `CONFIG`, for tests about something else. */
function createResources(): void {
  for (const name of ['other-staging', 'app-staging']) cloudflare.createDatabase(name)
  for (const name of ['likes-staging', 'events-staging', 'likes-dead-staging']) cloudflare.createQueue(name)
  cloudflare.buckets.set('backups-staging', 'default').set('others-staging', 'eu')
}

const webhookKey = () => cloudflare.workers.get('app-staging')?.secrets.get('WEBHOOK_KEY')

const idOf = (name: string) => cloudflare.databases.get(name)?.uuid

test('the plan is printed without contacting Cloudflare', async () => {
  const signedOut = { CLOUDFLARE_API_TOKEN: undefined, CLOUDFLARE_ACCOUNT_ID: undefined }
  const { code, output } = await runScript(
    clone,
    'http://127.0.0.1:1',
    ['setup', '--dry-run', '--env', 'staging'],
    signedOut,
  )
  expect(output).toBe(`Plan for staging, the Worker app-staging. This changes nothing.
  Variable UPSTASH_REDIS_REST_URL: ask for it, write it into wrangler.toml
  D1 database other-staging: create it unless it exists, write its id into wrangler.toml
  D1 database app-staging: create it unless it exists, write its id into wrangler.toml
  Queue likes-staging: create it unless it exists
  Queue events-staging: create it unless it exists
  Queue likes-dead-staging: create it unless it exists
  R2 bucket backups-staging: create it unless it exists
  R2 bucket others-staging: create it unless it exists
  Secret UPSTASH_REDIS_REST_TOKEN: ask for it unless the Worker has it
  Secret SERVICE_TOKEN: ask for it unless the Worker has it
  Secret WEBHOOK_KEY: make it unless the Worker has it
`)
  expect(code).toBe(0)
  expect(await clone.readConfig()).toBe(CONFIG)
})

test('the plan for this project names everything production has', async () => {
  await clone.writeConfig(original)
  const { output } = await runScript(clone, cloudflare.apiUrl, ['setup', '--dry-run', '--env', 'production'])
  const names = [...original.matchAll(/"([a-z-]+-production)"/g)].map(([, name = '']) => name)
  expect(names.length).toBeGreaterThan(2)
  for (const name of names) expect(output).toContain(` ${name}: `)
})

test(
  'setup creates what is missing and writes the ids; a second run changes nothing',
  { timeout: 240_000 },
  async () => {
    cloudflare.queuesPerPage = 2 // the list has several pages
    const first = await setup()
    expect(first).toEqual({
      code: 0,
      output: `Variable UPSTASH_REDIS_REST_URL: added, in wrangler.toml
D1 database other-staging: added, its id is in wrangler.toml now
D1 database app-staging: added, its id is in wrangler.toml now
Queue likes-staging: added
Queue events-staging: added
Queue likes-dead-staging: added
R2 bucket backups-staging: added
R2 bucket others-staging: added
Secret UPSTASH_REDIS_REST_TOKEN: added
Secret SERVICE_TOKEN: added
Secret WEBHOOK_KEY: added
app-staging has all it needs. Commit wrangler.toml if it changed, then: npm run deploy -- --env staging
`,
    })
    expect([...cloudflare.queues.keys()]).toEqual(['likes-staging', 'events-staging', 'likes-dead-staging'])
    expect(Object.fromEntries(cloudflare.buckets)).toEqual({ 'backups-staging': 'default', 'others-staging': 'eu' })
    expect(Object.fromEntries(cloudflare.workers.get('app-staging')?.secrets ?? [])).toEqual({
      UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN,
      SERVICE_TOKEN,
      WEBHOOK_KEY: expect.stringMatching(/^[\w-]{43}$/),
    })
    expect(first.output).not.toContain(webhookKey())

    const config = await clone.readConfig()
    expect(config.split('\n').filter((line, i) => line !== CONFIG.split('\n')[i])).toEqual([
      `UPSTASH_REDIS_REST_URL  =  "${emulator.url}" # [sic]`,
      `database_id = "${idOf('other-staging')}"`,
      `database_id = "${idOf('app-staging')}" # filled in`,
    ])

    const changes = [...cloudflare.changes]
    const key = webhookKey()
    const second = await setup({ WEBHOOK_KEY: 'another key of the user' }) // without other input
    expect(second.code).toBe(0)
    expect(second.output.match(/exists$/gm)).toHaveLength(11)
    expect(webhookKey()).toBe(key)
    expect(cloudflare.changes).toEqual(changes)
    expect(await clone.readConfig()).toBe(config)
  },
)

test('setup continues where it was stopped', { timeout: 240_000 }, async () => {
  const stopped = await setup({ UPSTASH_REDIS_REST_URL: emulator.url, UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN })
  expect(stopped.code).toBe(1)
  expect(stopped.output).toMatch(/\nSERVICE_TOKEN is missing: set it in the environment, or run this on a terminal\n$/)
  expect(cloudflare.workers.size).toBe(0)

  cloudflare.queues.delete('events-staging')
  cloudflare.changes.length = 0
  await clone.writeConfig(CONFIG.replace("''", `"${emulator.url}"`)) // the ids are lost
  const { code, output } = await setup()
  expect(code).toBe(0)
  expect(output.match(/^.*added.*$/gm)).toEqual([
    'Queue events-staging: added',
    'Secret UPSTASH_REDIS_REST_TOKEN: added',
    'Secret SERVICE_TOKEN: added',
    'Secret WEBHOOK_KEY: added',
  ])
  expect(cloudflare.changes.filter((change) => !change.includes('/workers/'))).toEqual(['POST /queues'])
  expect(await clone.readConfig()).toContain(`database_id = "${idOf('app-staging')}" # filled in`)
})

test('setup refuses an account that lacks the database whose id is known', { timeout: 240_000 }, async () => {
  const id = crypto.randomUUID()
  await clone.writeConfig(CONFIG.replaceAll(/0{8}[0-]{28}/g, id))
  expect(await setup()).toEqual({
    code: 1,
    output: `wrangler.toml has the id ${id} for other-staging, but this Cloudflare account has no such database: sign in to the account that has it\n`,
  })
  expect(cloudflare.changes).toEqual([])
})

test('an invalid value is refused in one line before anything is created', { timeout: 240_000 }, async () => {
  const { url } = emulator
  const last = async (variables: Record<string, string>) => {
    const { code, output } = await setup({ ...given, ...variables })
    return [code, output.trim().split('\n').at(-1)]
  }
  expect(await last({ UPSTASH_REDIS_REST_URL: 'redis' })).toEqual([
    1,
    'UPSTASH_REDIS_REST_URL cannot be used: expected a URL',
  ])
  const nowhere = 'http://127.0.0.1:1'
  const advice = 'the URL is not stored: give another in UPSTASH_REDIS_REST_URL'
  expect(await last({ UPSTASH_REDIS_REST_URL: nowhere })).toEqual([
    1,
    `Redis at ${nowhere} cannot be reached; ${advice}`,
  ])
  expect(await last({ UPSTASH_REDIS_REST_TOKEN: 'wrong' })).toEqual([
    1,
    `Redis at ${url} does not accept this UPSTASH_REDIS_REST_TOKEN; ${advice}`,
  ])
  expect([await clone.readConfig(), cloudflare.changes]).toEqual([CONFIG, []])
  expect(await last({ SERVICE_TOKEN: 'short' })).toEqual([
    1,
    'SERVICE_TOKEN cannot be used: expected at least 16 characters',
  ])
  expect(cloudflare.workers.size).toBe(0)
})

test('a wrong URL in wrangler.toml is replaced by another that works', { timeout: 240_000 }, async () => {
  createResources()
  const nowhere = 'http://127.0.0.1:1'
  const wrong = CONFIG.replace("''", `"${nowhere}"`)
  await clone.writeConfig(wrong)
  expect(await setup({ ...given, UPSTASH_REDIS_REST_URL: undefined })).toEqual({
    code: 1,
    output: `Redis at ${nowhere} cannot be reached; the URL is in wrangler.toml: change it there, or give another in UPSTASH_REDIS_REST_URL\n`,
  })
  expect([await clone.readConfig(), cloudflare.changes]).toEqual([wrong, []])

  const fixed = await setup()
  expect(fixed).toEqual({ code: 0, output: expect.stringMatching(/^Variable \S+: added, in wrangler.toml\n/) })
  expect(await clone.readConfig()).toContain(`UPSTASH_REDIS_REST_URL  =  "${emulator.url}" # [sic]`)

  const config = await clone.readConfig()
  cloudflare.changes.length = 0
  const moved = await setup({ ...given, UPSTASH_REDIS_REST_URL: nowhere }) // the token belongs to the other URL
  expect(moved).toEqual({
    code: 1,
    output: `UPSTASH_REDIS_REST_URL is ${nowhere}, but app-staging has a token for ${emulator.url}: unset the variable; or to move, change the URL in wrangler.toml, then npx wrangler secret put UPSTASH_REDIS_REST_TOKEN --env staging, and deploy\n`,
  })
  expect([await clone.readConfig(), cloudflare.changes]).toEqual([config, []])
})

test('an unknown environment and a wrong flag are reported in one line', async () => {
  const outcomes = await Promise.all(
    [
      ['setup', '--env', 'nowhere'],
      ['deploy', '--env', 'nowhere'],
      ['setup', '--environment', 'staging'],
      ['deploy', '--env', 'staging', '--patience', 'long'],
    ].map((args) => runScript(clone, cloudflare.apiUrl, args)),
  )
  const unknown =
    'wrangler.toml has no environment nowhere: say --env production, --env staging, or nothing for its top level\n'
  expect(outcomes.map(({ code }) => code)).toEqual([1, 1, 1, 1])
  expect(outcomes.map(({ output }) => output).slice(0, 2)).toEqual([unknown, unknown])
  expect(outcomes[2]?.output).toMatch(/^Unknown option '--environment'.*\n$/)
  expect(outcomes[3]?.output).toBe('--patience is long: it must be a number of seconds\n')
})

test('on a terminal setup asks, and hides secrets as they are typed', { timeout: 240_000 }, async () => {
  createResources()
  const { UPSTASH_REDIS_REST_URL: url = '' } = given
  const command = `'${process.execPath}' '${join(clone.folder, 'scripts/setup.ts')}' --env staging`
  const terminal = spawn('script', ['--quiet', '--return', '--command', command, '/dev/null'], {
    cwd: clone.folder,
    env: environment(cloudflare.apiUrl),
  })
  let screen = ''
  const answers: [string, string][] = [
    ['UPSTASH_REDIS_REST_URL: ', url],
    ['UPSTASH_REDIS_REST_TOKEN (not shown): ', REDIS_TOKEN],
    ['SERVICE_TOKEN (not shown): ', SERVICE_TOKEN],
  ]
  terminal.stdout.on('data', (chunk: Buffer) => {
    screen += chunk.toString()
    const [question, answer] = answers[0] ?? []
    if (question === undefined || !screen.includes(question)) return
    answers.shift()
    terminal.stdin.write(`${answer}\r`)
  })
  const [code] = (await once(terminal, 'close')) as [number | null]
  expect([code, screen]).toEqual([0, expect.stringContaining('app-staging has all it needs')])
  expect(screen).toContain(url)
  expectNoSecret(screen)
  expect(cloudflare.workers.get('app-staging')?.secrets.get('SERVICE_TOKEN')).toBe(SERVICE_TOKEN)
})
