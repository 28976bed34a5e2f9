import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { parseArgs, type ParseArgsConfig, stripVTControlCharacters } from 'node:util'
import { parse as parseToml } from 'smol-toml'
import * as v from 'valibot'
import { ConfigError, readConfig } from '../src/config.ts'

const root = dirname(import.meta.dirname)
const configPath = join(root, 'wrangler.toml')
/** wrangler itself. Its `bin` file only checks the version of Node and starts this in a second process. */
const wranglerCli = fileURLToPath(import.meta.resolve('wrangler'))

/** Secrets that nobody has to choose: `npm run setup` and `npm run deploy` make those that a Worker lacks. */
export const MADE_SECRETS = ['WEBHOOK_KEY'] as const

/** A problem that the user can solve. Its message is one line. */
export class Obstacle extends Error {}

/** An environment in `wrangler.toml`, as far as its resources must exist before a deployment. It inherits none of them. */
const Declared = v.object({
  name: v.optional(v.string()),
  vars: v.optional(v.record(v.string(), v.unknown()), {}),
  secrets: v.optional(v.object({ required: v.optional(v.array(v.string()), []) }), {}),
  d1_databases: v.optional(
    v.array(
      v.object({
        binding: v.string(),
        database_name: v.string(),
        database_id: v.string(),
        migrations_dir: v.optional(v.string(), 'migrations'),
      }),
    ),
    [],
  ),
  r2_buckets: v.optional(v.array(v.object({ bucket_name: v.string(), jurisdiction: v.optional(v.string()) })), []),
  queues: v.optional(
    v.object({
      producers: v.optional(v.array(v.object({ binding: v.string(), queue: v.string() })), []),
      consumers: v.optional(v.array(v.object({ queue: v.string(), dead_letter_queue: v.optional(v.string()) })), []),
    }),
    {},
  ),
})
const Toml = v.looseObject({
  name: v.string(),
  account_id: v.optional(v.string()),
  env: v.optional(v.record(v.string(), v.looseObject({ account_id: v.optional(v.string()) })), {}),
})

/** What `wrangler.toml` declares for an environment. An id or a URL that is not filled in yet is undefined. */
export interface Environment {
  /** Empty: the top level. */
  name: string
  worker: string
  databases: { binding: string; name: string; id: string | undefined; migrationsDir: string }[]
  /** The queues it sends to and receives from, and their dead-letter queues. */
  queues: string[]
  buckets: { name: string; jurisdiction: string | undefined }[]
  secrets: string[]
  redisUrl: string | undefined
}

/** What exists in the Cloudflare account. */
interface Present {
  /** Every database of the account: its id by its name. */
  databases: Map<string, string>
  queues: Set<string>
  /** Those of the environment's R2 buckets that exist. */
  buckets: Set<string>
  secrets: Set<string>
}

const NO_ID = '00000000-0000-0000-0000-000000000000'
/** The emulator of `npm start`, which the top level names before `npm run setup`. */
const DEVELOPMENT_REDIS = 'http://127.0.0.1:8079'

/** Runs a script. An obstacle or a wrong flag ends it with one line on stderr and exit code 1. */
export async function run(script: () => Promise<void>): Promise<void> {
  try {
    await script()
  } catch (error) {
    const isUsageError =
      error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')
    console.error(error instanceof Obstacle || isUsageError ? error.message : error)
    process.exitCode = 1
  }
}

/** Parses the command line: `--env`, and the script's own options. Without `--env`: the top level, which is ''. */
export function readArguments<T extends NonNullable<ParseArgsConfig['options']>>(options: T) {
  const { values } = parseArgs({ options: { env: { type: 'string' }, ...options } as const })
  const names = environmentNames()
  const { env = '' } = values as { env?: string }
  if (env !== '' && !names.includes(env)) {
    const known = names.map((name) => `--env ${name}`).join(', ')
    throw new Obstacle(`wrangler.toml has no environment ${env}: say ${known}, or nothing for its top level`)
  }
  return { ...values, env }
}

/** A command for an environment, as a person types it. */
export const commandFor = (env: string, command: string) =>
  env === '' ? command : `${command}${command.startsWith('npm ') ? ' --' : ''} --env ${env}`

/** Reads an environment. Throws an obstacle if `wrangler.toml` is invalid. */
export function readEnvironment(env: string): Environment {
  const config = declared(env)
  const { producers, consumers } = config.queues
  const queues = [
    ...producers.map(({ queue }) => queue),
    ...consumers.flatMap(({ queue, dead_letter_queue: dead }) => (dead === undefined ? [queue] : [queue, dead])),
  ]
  const { UPSTASH_REDIS_REST_URL: redisUrl } = config.vars
  return {
    name: env,
    worker: config.worker,
    databases: config.d1_databases.map((d1) => ({
      binding: d1.binding,
      name: d1.database_name,
      id: d1.database_id === NO_ID ? undefined : d1.database_id,
      migrationsDir: join(root, d1.migrations_dir),
    })),
    queues: [...new Set(queues)],
    buckets: config.r2_buckets.map(({ bucket_name: name, jurisdiction }) => ({ name, jurisdiction })),
    secrets: config.secrets.required,
    redisUrl: typeof redisUrl === 'string' && redisUrl !== '' && redisUrl !== DEVELOPMENT_REDIS ? redisUrl : undefined,
  }
}

/**
 * The variables and secrets that the Worker itself would reject, each with what it expects. `given` overrides
 * `wrangler.toml`. Secrets that are not given count as valid: Cloudflare does not return their values.
 */
export function findInvalid(env: string, given: Record<string, string>): Record<string, string> {
  const { d1_databases, queues, secrets, vars } = declared(env)
  const bindings = [...d1_databases, ...queues.producers].map(({ binding }) => [binding, {}] as const)
  const unread = secrets.required.map((name) => [name, 'a secret that cannot be read'] as const)
  try {
    readConfig({ ...Object.fromEntries([...bindings, ...unread]), ...vars, ...given })
    return {}
  } catch (error) {
    if (error instanceof ConfigError) return error.variables
    throw error
  }
}

/** Lists what exists in the Cloudflare account. */
export async function inspect({ name, worker, queues, buckets }: Environment): Promise<Present> {
  const [databases, foundQueues, foundBuckets, secrets] = await Promise.all([
    listDatabases(name),
    listQueues(name, queues),
    listBuckets(name, buckets),
    listSecrets(name, worker),
  ])
  return { databases, queues: foundQueues, buckets: foundBuckets, secrets }
}

/** Lists the databases of the account: their ids by name. */
export async function listDatabases(env: string): Promise<Map<string, string>> {
  const ids = new Map<string, string>()
  for (let page = 1; ; page += 1) {
    const some = await list(env, `d1/database?page=${page}`, v.object({ name: v.string(), uuid: v.string() }))
    if (some.length === 0) return ids
    for (const { name, uuid } of some) ids.set(name, uuid)
  }
}

/** Lists the names of the Worker's secrets: none if the Worker does not exist. */
async function listSecrets(env: string, worker: string): Promise<Set<string>> {
  try {
    const secrets = await list(env, `workers/scripts/${worker}/secrets`, v.object({ name: v.string() }))
    return new Set(secrets.map(({ name }) => name))
  } catch (error) {
    if (error instanceof ApiError && error.code === NO_SUCH_WORKER) return new Set()
    throw error
  }
}

/** Lists queues, page by page, until all `wanted` are found. */
async function listQueues(env: string, wanted: string[]): Promise<Set<string>> {
  const found = new Set<string>()
  for (let page = 1; wanted.some((queue) => !found.has(queue)); page += 1) {
    const some = await list(env, `queues?page=${page}`, v.object({ queue_name: v.string() }))
    if (some.length === 0) break
    for (const { queue_name: name } of some) found.add(name)
  }
  return found
}

/** The wrangler option that names the jurisdiction of a bucket. */
export const jurisdictionFlag = (jurisdiction: string | undefined) =>
  jurisdiction === undefined ? [] : ['--jurisdiction', jurisdiction]

/**
 * Finds which `buckets` exist. A list of buckets has one jurisdiction only, so this asks for the rules of each bucket: that
 * needs no permission but to read buckets.
 */
async function listBuckets(env: string, buckets: Environment['buckets']): Promise<Set<string>> {
  const found = await Promise.all(
    buckets.map(async ({ name, jurisdiction }) => {
      try {
        await ask(env, `r2/buckets/${name}/lifecycle`, v.unknown(), {
          ...(jurisdiction !== undefined && { 'cf-r2-jurisdiction': jurisdiction }),
        })
        return name
      } catch (error) {
        if (error instanceof ApiError && error.code === NO_SUCH_BUCKET) return undefined
        throw error
      }
    }),
  )
  return new Set(found.filter((name) => name !== undefined))
}

/** An error that Cloudflare's API answers. */
class ApiError extends Obstacle {
  readonly code: number | undefined
  constructor(path: string, status: number, error: { code: number; message: string } | undefined) {
    super(`Cloudflare answers ${status} to ${path}: ${error?.message ?? 'no reason'}`)
    this.code = error?.code
  }
}

const NO_SUCH_WORKER = 10_007
const NO_SUCH_BUCKET = 10_006

const ApiAnswer = v.object({
  result: v.optional(v.unknown()),
  errors: v.optional(v.array(v.object({ code: v.number(), message: v.string() })), []),
})

/** Lists resources of the account. */
const list = <T extends v.GenericSchema>(env: string, path: string, item: T) => ask(env, path, listOf(item))

const listOf = <T extends v.GenericSchema>(item: T) =>
  v.pipe(
    v.nullish(v.array(item)),
    v.transform((all) => all ?? []),
  )

/**
 * Asks Cloudflare's API about the account. wrangler takes a second for each question, and answers some only with tables.
 * @see https://developers.cloudflare.com/api/
 */
async function ask<T extends v.GenericSchema>(
  env: string,
  path: string,
  result: T,
  headers: Record<string, string> = {},
): Promise<v.InferOutput<T>> {
  account ??= findAccount(env)
  const { id, headers: credentials } = await account
  return read(`accounts/${id}/${path}`, { ...credentials, ...headers }, result)
}

let account: Promise<{ id: string; headers: Record<string, string> }> | undefined

/** Finds the account and the credentials as wrangler does: in the environment, else by what wrangler is signed in to. */
async function findAccount(env: string): Promise<{ id: string; headers: Record<string, string> }> {
  const { CLOUDFLARE_ACCOUNT_ID: given, CLOUDFLARE_API_TOKEN: token } = process.env
  const headers = token ? { Authorization: `Bearer ${token}` } : await readSession(env)
  const id = given || readToml().env[env]?.account_id || readToml().account_id
  if (id) return { id, headers }
  const accounts = await read('accounts', headers, listOf(v.object({ id: v.string(), name: v.string() })))
  const [only, ...others] = accounts
  if (!only || others.length > 0) {
    const names = accounts.map(({ id, name }) => `${id} (${name})`).join(', ')
    throw new Obstacle(`Say which Cloudflare account: set CLOUDFLARE_ACCOUNT_ID to one of ${names || 'yours'}`)
  }
  return { id: only.id, headers }
}

const Session = v.union([
  v.object({ token: v.string() }),
  v.object({ type: v.literal('api_key'), key: v.string(), email: v.string() }),
])

/** Reads the credentials that wrangler is signed in with. wrangler renews them when they have expired. */
async function readSession(env: string): Promise<Record<string, string>> {
  const printed = await wrangler(env, ['auth', 'token', '--json'])
  const session = v.parse(Session, JSON.parse(printed.slice(printed.indexOf('{'))))
  return 'token' in session
    ? { Authorization: `Bearer ${session.token}` }
    : { 'X-Auth-Key': session.key, 'X-Auth-Email': session.email }
}

async function read<T extends v.GenericSchema>(
  path: string,
  headers: Record<string, string>,
  result: T,
): Promise<v.InferOutput<T>> {
  const api = process.env['CLOUDFLARE_API_BASE_URL'] || 'https://api.cloudflare.com/client/v4' // wrangler reads it too
  let response: Response
  try {
    response = await fetch(`${api}/${path}`, { headers, signal: AbortSignal.timeout(30_000) })
  } catch (error) {
    throw new Obstacle(`Cloudflare's API at ${api} cannot be reached`, { cause: error })
  }
  const answer = v.safeParse(ApiAnswer, await response.json().catch(() => ({})))
  if (!response.ok || !answer.success) {
    throw new ApiError(path, response.status, answer.success ? answer.output.errors[0] : undefined)
  }
  return v.parse(result, answer.output.result)
}

/**
 * Runs wrangler without a terminal and returns what it printed. `input` is its stdin. Throws an obstacle with its first
 * error.
 */
export async function wrangler(
  env: string,
  args: string[],
  { input = '', outputFile = '' }: { input?: string; outputFile?: string } = {},
): Promise<string> {
  const child = spawn(process.execPath, ['--no-warnings', wranglerCli, ...args, '--env', env], {
    cwd: root,
    stdio: 'pipe',
    env: {
      ...process.env,
      NO_COLOR: '1',
      WRANGLER_HIDE_BANNER: 'true',
      WRANGLER_OUTPUT_FILE_PATH: outputFile,
      WRANGLER_SEND_ERROR_REPORTS: 'false',
      WRANGLER_SEND_METRICS: 'false',
      WRANGLER_WRITE_LOGS: 'false',
    },
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  child.stdin.on('error', () => {}) // wrangler can end without reading it
  child.stdin.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  if (code === 0) return stripVTControlCharacters(stdout)
  const printed = stripVTControlCharacters(stderr) || stripVTControlCharacters(stdout)
  if (/it's necessary to set a CLOUDFLARE_API_TOKEN|Not logged in/.test(printed)) {
    throw new Obstacle('You are not signed in to Cloudflare: run npx wrangler login, or set CLOUDFLARE_API_TOKEN')
  }
  throw new Obstacle(`wrangler ${args.slice(0, 2).join(' ')}: ${firstError(printed)}`)
}

/** The first error in wrangler's output, on one line, without the advice to report a bug. */
function firstError(output: string): string {
  const [, error = output] = output.split('[ERROR]')
  const [text = ''] = error.split(/If you think this is a bug|🪵/)
  return text.replaceAll(/\s+/g, ' ').trim()
}

/** Checks that Redis accepts a command that writes, with this token. Returns the problem, or undefined. Changes nothing. */
export async function findRedisProblem(url: string, token: string): Promise<string | undefined> {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(['DEL', 'setup:nothing']), // PING would also work with a read-only token
      signal: AbortSignal.timeout(10_000),
    })
    if (response.ok) return undefined
    if (response.status === 401) return `Redis at ${url} does not accept this UPSTASH_REDIS_REST_TOKEN`
    const answer = v.safeParse(v.object({ error: v.string() }), await response.json().catch(() => undefined))
    return `Redis at ${url} refuses writes with this UPSTASH_REDIS_REST_TOKEN (${answer.success ? answer.output.error : response.status})`
  } catch {
    return `Redis at ${url} cannot be reached`
  }
}

/**
 * Reads a value from the environment variable of that name, or asks on the terminal, which does not show a secret as it
 * is typed. Returns undefined if neither exists.
 */
export async function readInput(name: string, { isSecret }: { isSecret: boolean }): Promise<string | undefined> {
  const given = process.env[name]
  if (given) return given
  if (!process.stdin.isTTY) return undefined
  const output = isSecret ? new Writable({ write: (_chunk, _encoding, done) => done() }) : process.stderr
  const terminal = createInterface({ input: process.stdin, output, terminal: true })
  terminal.on('SIGINT', () => process.exit(130))
  // Only now, when the interface controls the terminal. Before, the terminal itself shows what is typed.
  if (isSecret) process.stderr.write(`${name} (not shown): `)
  const nothing = once(terminal, 'close').then(() => '') // Ctrl-D
  const answer = await Promise.race([terminal.question(isSecret ? '' : `${name}: `), nothing])
  terminal.close()
  if (isSecret) process.stderr.write('\n')
  return answer.trim() || undefined
}

/**
 * New values of the secrets that a Worker lacks and nobody has to choose. An environment variable of that name wins.
 */
export const makeSecrets = (present: Set<string>): Record<string, string> =>
  Object.fromEntries(
    MADE_SECRETS.filter((name) => !present.has(name)).map((name) => [
      name,
      process.env[name] || randomBytes(32).toString('base64url'),
    ]),
  )

/** Sets secrets of the Worker. Through a pipe: no command line, file or terminal shows them. */
export const putSecrets = (env: string, values: Record<string, string>): Promise<unknown> =>
  wrangler(env, ['secret', 'bulk'], { input: JSON.stringify(values) })

/** Writes the id of a database into `wrangler.toml`. */
export const writeDatabaseId = (env: string, binding: string, id: string) =>
  edit(
    env,
    (text) => {
      const tables = declared(env).d1_databases
      const index = tables.findIndex((d1) => d1.binding === binding)
      return setString(text, `[[${prefixOf(env)}d1_databases]]`, index, 'database_id', id)
    },
    () => readEnvironment(env).databases.find((database) => database.binding === binding)?.id === id,
    `database_id = "${id}"`,
  )

/** Writes the URL of Redis into `wrangler.toml`. */
export const writeRedisUrl = (env: string, url: string) =>
  edit(
    env,
    (text) => setString(text, `[${prefixOf(env)}vars]`, 0, 'UPSTASH_REDIS_REST_URL', url),
    () => readEnvironment(env).redisUrl === url,
    `UPSTASH_REDIS_REST_URL = "${url}"`,
  )

/** What the tables of an environment begin with. */
const prefixOf = (env: string) => (env === '' ? '' : `env.${env}.`)

/** Changes `wrangler.toml`. Restores it and throws an obstacle if wrangler does not read the new value from it. */
async function edit(env: string, change: (text: string) => string, isDone: () => boolean, line: string): Promise<void> {
  const before = await readFile(configPath, 'utf8')
  await writeFile(configPath, change(before))
  try {
    if (isDone()) return
  } catch {
    // invalid now: restored below
  }
  await writeFile(configPath, before)
  throw new Obstacle(
    `wrangler.toml has an unusual form: add this to its ${env === '' ? 'top level' : `environment ${env}`} by hand: ${line}`,
  )
}

/**
 * Replaces the value of one key in the `index`-th TOML table with that header, and no other character. wrangler's own
 * patch rejects files with comments.
 */
function setString(text: string, header: string, index: number, key: string, value: string): string {
  const lines = text.split('\n')
  const starts = lines.flatMap((line, i) => (line.replace(/\s*#.*$/, '').trim() === header ? [i] : []))
  const start = starts[index] ?? -1
  const next = lines.findIndex((line, i) => i > start && line.trimStart().startsWith('['))
  const assignment = new RegExp(`^(\\s*${key}\\s*=\\s*)("[^"]*"|'[^']*')`)
  return lines
    .map((line, i) => {
      const isInside = start >= 0 && i > start && (next < 0 || i < next)
      return isInside ? line.replace(assignment, (_, left: string) => left + JSON.stringify(value)) : line
    })
    .join('\n')
}

const environmentNames = (): string[] => Object.keys(readToml().env)

function declared(env: string) {
  const toml = readToml()
  const { name, env: environments } = toml
  if (env === '') return { ...check(Declared, toml, ''), worker: name }
  const declaration = check(Declared, environments[env], `, environment ${env}`)
  return { ...declaration, worker: declaration.name ?? `${name}-${env}` } // as wrangler names it
}

/** Parses `wrangler.toml` alone: to import wrangler for that would take most of the time of a script. */
function readToml(): v.InferOutput<typeof Toml> {
  let parsed: unknown
  try {
    parsed = parseToml(readFileSync(configPath, 'utf8'))
  } catch (error) {
    const message = error instanceof Error ? error.message.replaceAll(/\s+/g, ' ').trim() : ''
    throw new Obstacle(`wrangler.toml: ${message}`, { cause: error })
  }
  return check(Toml, parsed, '')
}

function check<Schema extends v.GenericSchema>(schema: Schema, value: unknown, where: string): v.InferOutput<Schema> {
  const parsed = v.safeParse(schema, value)
  if (parsed.success) return parsed.output
  const [issue] = parsed.issues
  throw new Obstacle(`wrangler.toml${where}: ${v.getDotPath(issue) ?? ''}: ${issue.message}`)
}
