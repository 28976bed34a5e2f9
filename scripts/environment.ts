import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { parseArgs, type ParseArgsConfig, stripVTControlCharacters } from 'node:util'
import * as v from 'valibot'
import { unstable_readConfig } from 'wrangler'
import { ConfigError, readConfig } from '../src/config.ts'

const root = dirname(import.meta.dirname)
const configPath = join(root, 'wrangler.toml')

/** What stands in the way, told in one line. */
export class Obstacle extends Error {}

/** The part of wrangler's configuration that has to exist before a Worker can. */
const Declared = v.object({
  name: v.string(),
  vars: v.record(v.string(), v.unknown()),
  secrets: v.object({ required: v.array(v.string()) }),
  d1_databases: v.array(
    v.object({ binding: v.string(), database_name: v.string(), database_id: v.string(), migrations_dir: v.string() }),
  ),
  queues: v.object({
    producers: v.array(v.object({ binding: v.string(), queue: v.string() })),
    consumers: v.array(v.object({ queue: v.string(), dead_letter_queue: v.optional(v.string()) })),
  }),
})

/** An environment of `wrangler.toml`: what it declares. An id or a URL not filled in yet is undefined. */
export interface Environment {
  name: string
  worker: string
  databases: { binding: string; name: string; id: string | undefined; migrationsDir: string }[]
  /** Those it sends to, those it receives from, and their dead letters. */
  queues: string[]
  secrets: string[]
  redisUrl: string | undefined
}

/** What Cloudflare has of it. */
interface Present {
  /** Those of the whole account: their ids by their names. */
  databases: Map<string, string>
  queues: Set<string>
  secrets: Set<string>
}

const NO_ID = '00000000-0000-0000-0000-000000000000'

/** Runs a script to its end: an obstacle is one line on stderr, and exit code 1. */
export async function run(script: () => Promise<void>): Promise<void> {
  try {
    await script()
  } catch (error) {
    const isMistake = error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS')
    console.error(error instanceof Obstacle || isMistake ? error.message : error)
    process.exitCode = 1
  }
}

/** The command line: `--env`, and what else the script knows. Which environment is never guessed. */
export function readArguments<T extends NonNullable<ParseArgsConfig['options']>>(options: T) {
  const { values } = parseArgs({ options: { env: { type: 'string' }, ...options } as const })
  const names = environmentNames()
  const { env } = values as { env?: string }
  if (env === undefined || !names.includes(env)) {
    throw new Obstacle(`Say which environment: ${names.map((name) => `--env ${name}`).join(' or ')}`)
  }
  return { ...values, env }
}

/** Throws an obstacle if `wrangler.toml` cannot be used. */
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
    worker: config.name,
    databases: config.d1_databases.map((d1) => ({
      binding: d1.binding,
      name: d1.database_name,
      id: d1.database_id === NO_ID ? undefined : d1.database_id,
      migrationsDir: join(root, d1.migrations_dir),
    })),
    queues: [...new Set(queues)],
    secrets: config.secrets.required,
    redisUrl: typeof redisUrl === 'string' && redisUrl !== '' ? redisUrl : undefined,
  }
}

/**
 * What the Worker itself would say of these variables and secrets, by name. Secrets that are not given count as set:
 * their values cannot be read back.
 */
export function findMistakes(env: string, given: Record<string, string>): Record<string, string> {
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

/** Asks Cloudflare what is there. */
export async function inspect({ name, queues }: Environment): Promise<Present> {
  const [databases, found, secrets] = await Promise.all([
    listDatabases(name),
    listQueues(name, queues),
    listSecrets(name),
  ])
  return { databases, queues: found, secrets }
}

/** Every database of the account: its id by its name. */
export async function listDatabases(env: string): Promise<Map<string, string>> {
  const listed = await wrangler(env, ['d1', 'list', '--json'])
  const databases = parseJson(listed, v.object({ name: v.string(), uuid: v.string() }))
  return new Map(databases.map(({ name, uuid }) => [name, uuid]))
}

/** The names of the Worker's secrets. A Worker that is not there has none. */
async function listSecrets(env: string): Promise<Set<string>> {
  try {
    const listed = await wrangler(env, ['secret', 'list'])
    return new Set(parseJson(listed, v.object({ name: v.string() })).map(({ name }) => name))
  } catch (error) {
    if (error instanceof Obstacle && /Worker "[^"]*".* not found/.test(error.message)) return new Set()
    throw error
  }
}

/** `wrangler queues list` has no JSON: the column `name` of its table, a page at a time until all are found or none follow. */
async function listQueues(env: string, wanted: string[]): Promise<Set<string>> {
  const found = new Set<string>()
  for (let page = 1; wanted.some((queue) => !found.has(queue)); page += 1) {
    const table = await wrangler(env, ['queues', 'list', '--page', String(page)])
    const [head, ...rows] = table
      .split('\n')
      .filter((line) => line.startsWith('│'))
      .map((line) => line.split('│').map((cell) => cell.trim()))
    if (!head) break
    for (const row of rows) found.add(row[head.indexOf('name')] ?? '')
  }
  return found
}

/**
 * Runs wrangler in an environment and answers what it printed. Throws an obstacle with what it complained of; nothing is
 * asked, and `input` reaches it unseen.
 */
export async function wrangler(
  env: string,
  args: string[],
  { input = '', outputFile = '' }: { input?: string; outputFile?: string } = {},
): Promise<string> {
  const child = spawn(process.execPath, [join(root, 'node_modules/wrangler/bin/wrangler.js'), ...args, '--env', env], {
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
  child.stdin.on('error', () => {}) // it may end without reading
  child.stdin.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  if (code === 0) return stripVTControlCharacters(stdout)
  const said = stripVTControlCharacters(stderr) || stripVTControlCharacters(stdout)
  if (said.includes("it's necessary to set a CLOUDFLARE_API_TOKEN")) {
    throw new Obstacle('Cloudflare does not know who you are: npx wrangler login, or set CLOUDFLARE_API_TOKEN')
  }
  throw new Obstacle(`wrangler ${args.slice(0, 2).join(' ')}: ${complaint(said)}`)
}

/** The first error of wrangler's output, on one line, without its advice to report a bug. */
function complaint(output: string): string {
  const [, error = output] = output.split('[ERROR]')
  const [what = ''] = error.split(/If you think this is a bug|🪵/)
  return what.replaceAll(/\s+/g, ' ').trim()
}

/** Whether that Redis takes commands that write with that token: what is wrong, or undefined. Changes nothing. */
export async function findRedisTrouble(url: string, token: string): Promise<string | undefined> {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(['DEL', 'setup:nothing']), // a read-only token answers PING
      signal: AbortSignal.timeout(10_000),
    })
    if (response.ok) return undefined
    if (response.status === 401) return `Redis at ${url} does not know that UPSTASH_REDIS_REST_TOKEN`
    const answer = v.safeParse(v.object({ error: v.string() }), await response.json().catch(() => undefined))
    return `Redis at ${url} refuses to write with that UPSTASH_REDIS_REST_TOKEN (${answer.success ? answer.output.error : response.status})`
  } catch {
    return `Redis at ${url} cannot be reached`
  }
}

/**
 * A value from the environment variable of that name, or from whoever sits at the terminal, where a secret is not shown
 * as it is typed. Undefined if there is neither.
 */
export async function obtain(name: string, { isSecret }: { isSecret: boolean }): Promise<string | undefined> {
  const given = process.env[name]
  if (given) return given
  if (!process.stdin.isTTY) return undefined
  const output = isSecret ? new Writable({ write: (_chunk, _encoding, done) => done() }) : process.stderr
  const terminal = createInterface({ input: process.stdin, output, terminal: true })
  terminal.on('SIGINT', () => process.exit(130))
  // After the interface has taken the terminal over: before that, the terminal itself shows what is typed.
  if (isSecret) process.stderr.write(`${name} (not shown): `)
  const nothing = once(terminal, 'close').then(() => '') // Ctrl-D
  const answer = await Promise.race([terminal.question(isSecret ? '' : `${name}: `), nothing])
  terminal.close()
  if (isSecret) process.stderr.write('\n')
  return answer.trim() || undefined
}

/** Writes the id of a database into `wrangler.toml`. */
export const writeDatabaseId = (env: string, binding: string, id: string) =>
  edit(
    env,
    (text) => {
      const tables = declared(env).d1_databases
      const index = tables.findIndex((d1) => d1.binding === binding)
      return setString(text, `[[env.${env}.d1_databases]]`, index, 'database_id', id)
    },
    () => readEnvironment(env).databases.find((database) => database.binding === binding)?.id === id,
    `database_id = "${id}"`,
  )

/** Writes the URL of Redis into `wrangler.toml`. */
export const writeRedisUrl = (env: string, url: string) =>
  edit(
    env,
    (text) => setString(text, `[env.${env}.vars]`, 0, 'UPSTASH_REDIS_REST_URL', url),
    () => readEnvironment(env).redisUrl === url,
    `UPSTASH_REDIS_REST_URL = "${url}"`,
  )

/** Changes `wrangler.toml`, or leaves it as it was if wrangler does not read `isDone` from it then. */
async function edit(env: string, change: (text: string) => string, isDone: () => boolean, line: string): Promise<void> {
  const before = await readFile(configPath, 'utf8')
  await writeFile(configPath, change(before))
  try {
    if (isDone()) return
  } catch {
    // unreadable now: put back below
  }
  await writeFile(configPath, before)
  throw new Obstacle(`wrangler.toml has an unusual form: write this into its environment ${env} yourself: ${line}`)
}

/**
 * TOML with the value of one key in the `index`-th table of that header replaced, and not a character more. wrangler's
 * own patch refuses files with comments.
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

function environmentNames(): string[] {
  return v.parse(v.object({ definedEnvironments: v.array(v.string()) }), readToml()).definedEnvironments
}

function declared(env: string): v.InferOutput<typeof Declared> {
  const parsed = v.safeParse(Declared, readToml(env))
  if (parsed.success) return parsed.output
  const [issue] = parsed.issues
  throw new Obstacle(`wrangler.toml, environment ${env}: ${v.getDotPath(issue) ?? ''}: ${issue.message}`)
}

function readToml(env?: string): unknown {
  try {
    return unstable_readConfig({ config: configPath, ...(env ? { env } : {}) }, { hideWarnings: true }) as unknown
  } catch (error) {
    throw new Obstacle(error instanceof Error ? error.message.replaceAll(/\s+/g, ' ').trim() : 'wrangler.toml', {
      cause: error,
    })
  }
}

/** A list from wrangler's JSON, which may have notes before it. */
function parseJson<T extends v.GenericSchema>(output: string, item: T): v.InferOutput<T>[] {
  return v.parse(v.array(item), JSON.parse(output.slice(output.search(/^[[]/m))))
}
