import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Emulator, startEmulator } from '../../emulator/server.ts'
import { ACCOUNT, API_TOKEN, type Cloudflare, startCloudflare } from './cloudflare.ts'
import { type Clone, makeClone, REDIS_TOKEN, runScript, SERVICE_TOKEN } from './scripts.ts'

// One account, set up once. Each test removes something and restores it.
const READ_ONLY_TOKEN = `read-only-${crypto.randomUUID()}`
let clone: Clone
let cloudflare: Cloudflare
let emulator: Emulator
let config = ''

const deploy = (variables: Record<string, string | undefined> = {}, patience = '30') =>
  runScript(
    clone,
    cloudflare.apiUrl,
    ['deploy', '--env', 'staging', '--url', cloudflare.workerUrl, '--patience', patience],
    { UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN, ...variables },
  )

/** The queues of staging. */
const queuesOf = (toml: string) =>
  new Set([...toml.matchAll(/queue = "([\w-]+-staging)"/g)].map(([, name = '']) => name))

const worker = () => cloudflare.workers.get('threads-edge-staging') ?? expect.fail('the Worker does not exist')

beforeAll(async () => {
  clone = await makeClone()
  cloudflare = await startCloudflare()
  emulator = await startEmulator({ tokens: [REDIS_TOKEN], readOnlyTokens: { [READ_ONLY_TOKEN]: REDIS_TOKEN } })
  // `setup.test.ts` lets the script create them: each starts wrangler.
  cloudflare.createDatabase('threads-staging')
  for (const name of queuesOf(await clone.readConfig())) cloudflare.createQueue(name)
  const given = { UPSTASH_REDIS_REST_URL: emulator.url, UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN, SERVICE_TOKEN }
  const { code, output } = await runScript(clone, cloudflare.apiUrl, ['setup', '--env', 'staging'], given)
  if (code !== 0) throw new Error(output)
  config = await clone.readConfig()
}, 240_000)
afterAll(() => Promise.all([clone.remove(), cloudflare.close(), emulator.close()]))
beforeEach(() => {
  cloudflare.changes.length = 0
})

// After `npm run setup`, wrangler.toml holds ids and URLs. These tests must not use them.
test('a copy of a project that was set up is in the state before setup', { timeout: 60_000 }, async () => {
  const fresh = await makeClone()
  await clone.writeConfig(
    config.replace('UPSTASH_REDIS_REST_URL = ""', 'UPSTASH_REDIS_REST_URL = "https://production"'),
  )
  const copy = await makeClone(clone.folder)
  await clone.writeConfig(config)
  const before = await fresh.readConfig()
  expect(await copy.readConfig()).toBe(before)
  expect(before.match(/^UPSTASH_REDIS_REST_URL = ""$/gm)).toHaveLength(2)
  await Promise.all([fresh.remove(), copy.remove()])
})

test('a project that was set up deploys, migrates once, and is healthy', { timeout: 240_000 }, async () => {
  const first = await deploy()
  expect(first).toEqual({ code: 0, output: expect.stringContaining(`${cloudflare.workerUrl} is alive and ready\n`) })
  expect(first.output).toMatch(/^threads-staging: applied 0000_init.sql, 0001_write_side.sql, /m)
  const database = cloudflare.databases.get('threads-staging')
  expect(database?.sqlite.prepare('SELECT count(*) AS posts FROM posts').get()).toEqual({ posts: 0 })
  expect(worker().crons).toEqual(['* * * * *'])
  const bindings = worker().bindings.map(({ type, name }) => `${type} ${name}`)
  expect(bindings).toEqual(expect.arrayContaining(['d1 DB', 'queue LIKES', 'inherit SERVICE_TOKEN']))
  const consumed = [...cloudflare.queues].filter(([, { consumers }]) => consumers.length > 0).map(([name]) => name)
  expect(consumed).toContain('likes-staging')

  // Setup made the key of webhooks. A Worker from before it had none gets one with its next deployment, and keeps it.
  expect(first.output).not.toContain('WEBHOOK_KEY')
  const key = worker().secrets.get('WEBHOOK_KEY')
  expect(worker().secrets.delete('WEBHOOK_KEY')).toBe(true)
  const second = await deploy()
  expect(second).toEqual({ code: 0, output: expect.stringContaining('threads-staging: no migration is pending\n') })
  expect(second.output).toContain('threads-edge-staging: added WEBHOOK_KEY\n')
  const made = worker().secrets.get('WEBHOOK_KEY') ?? ''
  expect(made).toMatch(/^[\w-]{43}$/)
  expect(made).not.toBe(key)
  expect(second.output).not.toContain(made)
})

test('without flags, setup and deploy take the top level: one environment', { timeout: 240_000 }, async () => {
  const top = (...args: string[]) =>
    runScript(clone, cloudflare.apiUrl, args, {
      UPSTASH_REDIS_REST_URL: emulator.url,
      UPSTASH_REDIS_REST_TOKEN: REDIS_TOKEN,
      SERVICE_TOKEN,
    })
  const early = await top('deploy')
  expect(early).toEqual({
    code: 1,
    output: 'Not deployed: wrangler.toml lacks the id of D1 database threads and the URL of Redis: run npm run setup\n',
  })
  cloudflare.createDatabase('threads')
  const queues = [...config.matchAll(/queue = "([\w-]+)"/g)].map(([, name = '']) => name)
  for (const name of new Set(queues)) if (!/-(staging|production)$/.test(name)) cloudflare.createQueue(name)
  const ready = await top('setup')
  expect(ready).toEqual({ code: 0, output: expect.stringMatching(/^threads-edge has all .+ then: npm run deploy$/m) })
  const changed = await clone.readConfig()
  const environments = (text: string) => text.slice(text.indexOf('[env.staging.vars]'))
  expect(environments(changed)).toBe(environments(config))
  expect(changed).toContain(`[vars]\nUPSTASH_REDIS_REST_URL = "${emulator.url}"`)
  expect(changed).toContain(`database_id = "${cloudflare.databases.get('threads')?.uuid}"`)

  const deployed = await top('deploy', '--url', cloudflare.workerUrl, '--patience', '60')
  // Workers Builds runs the same command and has no token of Redis.
  const built = await runScript(clone, cloudflare.apiUrl, ['deploy', '--url', cloudflare.workerUrl], {
    WORKERS_CI: '1',
  })
  await clone.writeConfig(config)
  expect(deployed).toEqual({ code: 0, output: expect.stringContaining(`${cloudflare.workerUrl} is alive and ready\n`) })
  expect(deployed.output).toMatch(/^threads: applied 0000_init.sql, /m)
  expect(built).toEqual({ code: 0, output: expect.stringContaining('threads: no migration is pending\n') })
  expect([...cloudflare.workers.keys()].sort()).toEqual(['threads-edge', 'threads-edge-staging'])
})

test('an unhealthy Worker is reported, with the command to roll back', { timeout: 240_000 }, async () => {
  worker().secrets.set('UPSTASH_REDIS_REST_TOKEN', 'another')
  const { code, output } = await deploy({}, '0')
  worker().secrets.set('UPSTASH_REDIS_REST_TOKEN', REDIS_TOKEN)
  expect(code).toBe(1)
  expect(output.trim().split('\n').at(-1)).toMatch(
    /^Deployed, but http:\S+\/readyz answers 503, redis is down; to roll back: npx wrangler rollback --env staging$/,
  )
})

test.each<[string, () => { put: () => void; variables?: Record<string, string | undefined> }, string]>([
  [
    'a secret',
    () => {
      worker().secrets.delete('SERVICE_TOKEN')
      return { put: () => worker().secrets.set('SERVICE_TOKEN', SERVICE_TOKEN) }
    },
    'Cloudflare lacks secret SERVICE_TOKEN: run npm run setup -- --env staging',
  ],
  [
    'a queue',
    () => {
      const queue = cloudflare.queues.get('likes-dead-staging') ?? expect.fail('the queue does not exist')
      cloudflare.queues.delete('likes-dead-staging')
      return { put: () => cloudflare.queues.set('likes-dead-staging', queue) }
    },
    'Cloudflare lacks queue likes-dead-staging: run npm run setup -- --env staging',
  ],
  [
    'the token of Redis',
    () => ({ put: () => {}, variables: { UPSTASH_REDIS_REST_TOKEN: undefined } }),
    'UPSTASH_REDIS_REST_TOKEN is not set: it is needed to check Redis before anything is changed',
  ],
  [
    'a token that Redis accepts',
    () => ({ put: () => {}, variables: { UPSTASH_REDIS_REST_TOKEN: 'another' } }),
    'Redis at URL does not accept this UPSTASH_REDIS_REST_TOKEN',
  ],
  [
    'a token that may write',
    () => ({ put: () => {}, variables: { UPSTASH_REDIS_REST_TOKEN: READ_ONLY_TOKEN } }),
    "Redis at URL refuses writes with this UPSTASH_REDIS_REST_TOKEN (NOPERM this user has no permissions to run the 'del' command or its subcommand)",
  ],
])('without %s nothing is changed, and one line names it', { timeout: 240_000 }, async (_, take, line) => {
  const { put, variables } = take()
  const outcome = await deploy(variables)
  put()
  expect(outcome).toEqual({ code: 1, output: `Not deployed to staging: ${line.replace('URL', emulator.url)}\n` })
  expect(cloudflare.changes).toEqual([])
})

test.each<[string, (text: string) => string, string]>([
  [
    'an id',
    (text) => text.replace(/database_id = "(?!0{8})[^"]+"/, 'database_id = "00000000-0000-0000-0000-000000000000"'),
    'wrangler.toml lacks the id of D1 database threads-staging: run npm run setup -- --env staging',
  ],
  [
    'the id of another database',
    (text) => text.replace(/database_id = "(?!0{8})[^"]+"/, 'database_id = "11111111-1111-4111-8111-111111111111"'),
    'Cloudflare lacks D1 database threads-staging with id 11111111-1111-4111-8111-111111111111: run npm run setup -- --env staging',
  ],
  [
    'no URL',
    (text) => text.replace(emulator.url, ''),
    'wrangler.toml lacks the URL of Redis: run npm run setup -- --env staging',
  ],
  [
    'a Redis that does not exist',
    (text) => text.replace(emulator.url, 'http://127.0.0.1:1'),
    'Redis at http://127.0.0.1:1 cannot be reached',
  ],
  [
    'a variable out of range',
    (text) => text.replace('[env.staging.vars]', '[env.staging.vars]\nLIMIT_READS = "many"'),
    'wrangler.toml has invalid values: LIMIT_READS (expected a number)',
  ],
  [
    'a bucket that does not exist',
    (text) => `${text}\n[[env.staging.r2_buckets]]\nbinding = "BACKUPS"\nbucket_name = "backups-staging"\n`,
    'Cloudflare lacks R2 bucket backups-staging: run npm run setup -- --env staging',
  ],
  [
    'no binding',
    (text) => text.replace(/(\[\[env\.staging\.queues\.producers\]\]\n)binding = "LIKES"/, '$1binding = "LIKED"'),
    'wrangler.toml has invalid values: LIKES (expected a queue, bound to the Worker)',
  ],
])(
  'with %s in wrangler.toml nothing is changed, and one line names it',
  { timeout: 240_000 },
  async (_, change, line) => {
    const changed = change(config)
    expect(changed).not.toBe(config)
    await clone.writeConfig(changed)
    const outcome = await deploy()
    await clone.writeConfig(config)
    expect(outcome).toEqual({ code: 1, output: `Not deployed to staging: ${line}\n` })
    expect(cloudflare.changes).toEqual([])
  },
)

test('a configuration that is not TOML is reported in one line', async () => {
  await clone.writeConfig(`${config}\n[env.staging`)
  const { code, output } = await deploy()
  await clone.writeConfig(config)
  expect([code, output]).toEqual([1, expect.stringMatching(/^.+\n$/)])
})

test('without access to Cloudflare one line explains it', { timeout: 240_000 }, async () => {
  const refused = await deploy({ CLOUDFLARE_API_TOKEN: 'another' })
  expect(refused).toEqual({
    code: 1,
    output: expect.stringMatching(/^Cloudflare answers 403 to .*: Authentication error\n$/),
  })
  const unsigned = await deploy({ CLOUDFLARE_API_TOKEN: undefined })
  expect(unsigned).toEqual({
    code: 1,
    output: 'You are not signed in to Cloudflare: run npx wrangler login, or set CLOUDFLARE_API_TOKEN\n',
  })
})

test('the credentials of wrangler login and the only account are used', { timeout: 240_000 }, async () => {
  const home = await mkdtemp(join(tmpdir(), 'threads-edge-home-'))
  await mkdir(join(home, '.config/.wrangler/config'), { recursive: true })
  const session = `oauth_token = "${API_TOKEN}"\nexpiration_time = "2099-01-01T00:00:00.000Z"\nscopes = []\n`
  await writeFile(join(home, '.config/.wrangler/config/default.toml'), session)
  const signedIn = {
    HOME: home,
    XDG_CONFIG_HOME: undefined,
    CLOUDFLARE_API_TOKEN: undefined,
    CLOUDFLARE_ACCOUNT_ID: undefined,
  }

  worker().secrets.delete('SERVICE_TOKEN')
  const outcome = await deploy(signedIn)
  worker().secrets.set('SERVICE_TOKEN', SERVICE_TOKEN)
  expect(outcome.output).toBe(
    'Not deployed to staging: Cloudflare lacks secret SERVICE_TOKEN: run npm run setup -- --env staging\n',
  )

  cloudflare.accounts.push({ id: 'other', name: 'Bob' })
  const undecided = await deploy(signedIn)
  cloudflare.accounts.pop()
  expect(undecided).toEqual({
    code: 1,
    output: `Say which Cloudflare account: set CLOUDFLARE_ACCOUNT_ID to one of ${ACCOUNT} (Ada), other (Bob)\n`,
  })
  expect(cloudflare.changes).toEqual([])
  await rm(home, { recursive: true })
})
