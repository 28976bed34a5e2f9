/**
 * `npm run docs`: writes the generated parts of README.md and docs/. The variables come from src/config.ts, the event
 * types from src/events/catalog.ts, the scopes of service tokens from the routes, the public repository from package.json, what happens without Redis from the last `npm run drill`.
 */
import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { toJsonSchema } from '@valibot/to-json-schema'
import { getMetadata } from 'valibot'
import { type Declaration, sections } from '../src/config.ts'
import { CAUSES } from '../src/docs/events.ts'
import { catalog, type EventType, isHint } from '../src/events/catalog.ts'

const root = dirname(import.meta.dirname)
const execute = promisify(execFile)

interface JsonSchema {
  type?: string
  pattern?: string
  format?: string
  enum?: string[]
  anyOf?: JsonSchema[]
}

const orList = (items: string[]) => items.join(' or ')

function typeName(schema: JsonSchema): string {
  if (schema.anyOf) return orList(schema.anyOf.map(typeName))
  if (schema.enum) return orList(schema.enum.map((value) => `\`${value}\``))
  const [, kind] = /^\^([a-z]+)_/.exec(schema.pattern ?? '') ?? []
  if (kind) return `id \`${kind}_…\``
  return schema.format === 'date-time' || schema.pattern ? 'RFC 3339 time' : (schema.type ?? 'any')
}

function eventTable(): string {
  const rows = Object.entries(catalog).map(([type, { channel, subject, data }]) => {
    const { properties = {}, required = [] } = toJsonSchema(data, { errorMode: 'ignore' })
    // Each property of these schemas is an object schema, never `true`.
    const fields = Object.entries(properties as Record<string, JsonSchema>)
    const mark = (name: string) => (required.includes(name) ? '' : '?')
    const list = fields.map(([name, schema]) => `\`${name}\`${mark(name)}: ${typeName(schema)}`).join(', ')
    const lane = isHint({ type }) ? 'hint' : 'fact'
    return [`\`${type}\``, lane, `\`${channel}\``, CAUSES[type as EventType], `\`${subject}\``, list]
  })
  return table(['Type', 'Lane', 'Channel', 'Published when', 'Subject', 'Data'], rows)
}

function configuration(): string {
  const chapters = Object.entries(sections).map(([heading, variables]) => {
    const rows = Object.entries(variables).map(([name, schema]) => {
      // Every schema of a section carries a declaration.
      const { unit, default: fallback, bounds, meaning } = getMetadata(schema) as Declaration
      const shown = fallback === null ? 'required' : fallback === '' ? 'none' : `\`${fallback}\``
      return [`\`${name}\``, meaning, unit, shown, bounds]
    })
    return `## ${heading}\n\n${table(['Variable', 'Meaning', 'Unit', 'Default', 'Allowed'], rows)}`
  })
  return `<!-- Generated from src/config.ts by \`npm run docs\`. Do not edit. -->

# Configuration

Set a variable in \`wrangler.toml\` (\`[vars]\`, or \`[env.production.vars]\` for one environment). Set a secret with
\`wrangler secret put\`, or in \`.dev.vars\` on your machine. If a value is missing or outside the allowed range, the Worker
answers 503 with a problem that names the variable and what was expected.

${chapters.join('\n\n')}
`
}

function table(header: string[], rows: string[][]): string {
  const lines = [header, ...rows].map((cells) => cells.map((cell) => cell.replaceAll('|', '\\|')))
  const widths = header.map((_, column) => Math.max(3, ...lines.map((cells) => cells[column]?.length ?? 0)))
  const line = (cells: string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`
  const [head = [], ...body] = lines
  return [head, widths.map((width) => '-'.repeat(width)), ...body].map(line).join('\n')
}

/** What else changes without Redis, by the tag of the operations. */
const NOTES: Record<string, string> = {
  Users:
    'Profiles come from memory while fresh or stale, else from D1. Caches elsewhere are stale for at most their TTL',
  Posts: 'Reads come from memory while fresh or stale, else from D1. Views cannot be counted exactly',
  Sessions: 'Checked in D1. Sign-ins cannot be counted',
  Likes: 'They cannot be counted exactly',
  'Blocks and mutes': 'D1 knows them. Where Redis misses a change, it holds within a minute',
  Presence: 'Everyone is offline, with the last seen time from D1',
  Feed: 'Recommendations are computed from D1, once per isolate and five minutes',
  Notifications: 'Read and marked in D1',
  Search: 'The counts come from D1',
  'Rate limits': 'Reads and writes pass uncounted',
  Events: 'Stored and queued. Open streams end. Events of that time arrive when Redis is back',
  Webhooks: 'Delivered: they use only D1 and queues',
  'Service tokens': 'Checked in D1',
  Moderation: 'Recorded in D1. Caches and sessions follow',
  Credentials: 'Attempts cannot be counted, so none is allowed',
  Locks: 'A lock lives in Redis only',
  Backup: 'Beginning a backup or a restore needs both Redis and D1. The rest needs D1 only',
  Cache: 'Caches are stale for at most their TTL',
  Monitoring: 'Only what the answering isolate has counted. The answer names the rest as unavailable',
}

/** What `npm run drill` saw while Redis refused every connection. */
async function withoutRedis(): Promise<string> {
  const text = await readFile(join(root, 'docs/without-redis.json'), 'utf8')
  const byTag = JSON.parse(text) as Record<string, Record<string, number>> // as the drill wrote it
  const rows = Object.entries(byTag).map(([tag, statuses]) => {
    const refused = Object.entries(statuses).filter(([, status]) => status >= 500)
    const isAll = refused.length === Object.keys(statuses).length
    const names = refused.map(([name]) => `\`${name}\``).join(', ')
    return [tag, NOTES[tag] ?? '', isAll ? `all: ${names}` : names]
  })
  return table(['Feature', 'Without Redis', 'Answers 503'], rows)
}

/** The parts of the OpenAPI document with the scopes. */
interface Scopes {
  paths: Record<string, Record<string, { security?: { serviceToken?: string[] }[] }>>
  components: { securitySchemes: { serviceToken: { 'x-scopes': Record<string, string> } } }
}

/** Each scope of service tokens, and the routes that it opens. */
async function scopeTable(): Promise<string> {
  const { stdout } = await execute(process.execPath, [join(root, 'scripts/build/document.ts')], { maxBuffer: 1e8 })
  const { paths, components } = JSON.parse(stdout) as Scopes
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { security = [] }]) => ({
      name: `\`${method.toUpperCase()} ${path}\``,
      scopes: security.flatMap(({ serviceToken = [] }) => serviceToken),
    })),
  )
  const row = (scope: string, shown: string, allows: string) => {
    const routes = operations.filter(({ scopes }) => scopes.includes(scope)).map(({ name }) => name)
    return [shown, allows, routes.join(', ')]
  }
  const scopes = Object.entries(components.securitySchemes.serviceToken['x-scopes'])
  return table(
    ['Scope', 'Allows to', 'Routes'],
    [
      ...scopes.map(([scope, allows]) => row(scope, `\`${scope}\``, allows)),
      row('root', '`SERVICE_TOKEN` only', 'manage service tokens, restore a backup'),
    ],
  )
}

/**
 * How to begin from a public repository: `github:owner/name`, or its address, as `repository` of package.json has it. Without
 * one, how to name it: a link to nowhere helps nobody.
 */
export function startFrom(repository: string | undefined): string {
  if (repository === undefined) {
    return `This project names no public repository yet. If yours is public, write the command and the button for it with
\`npm pkg set repository=github:OWNER/NAME && npm run docs\`, and commit both files.`
  }
  const [, name] =
    /^(?:github:|(?:git\+)?https:\/\/github\.com\/)?([\w.-]+\/[\w.-]+?)(?:\.git)?$/.exec(repository) ?? []
  if (name === undefined) throw new Error('repository in package.json must be github:OWNER/NAME')
  const button = 'https://deploy.workers.cloudflare.com'
  return `\`npm create cloudflare@latest -- my-app --template ${name}\`, or:

[![Deploy to Cloudflare](${button}/button)](${button}/?url=https://github.com/${name})`
}

async function readRepository(): Promise<string | undefined> {
  const { repository } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as {
    repository?: string | { url: string } // `npm pkg fix` writes the long form
  }
  return typeof repository === 'object' ? repository.url : repository
}

const REPOSITORY_BLOCK = /(<!-- generated: repository -->\n)[^]*(\n<!-- end -->)/
const SCOPES_BLOCK = /(<!-- generated: scopes -->\n)[^]*(\n<!-- end -->)/
const REDIS_BLOCK = /(<!-- generated: without Redis -->\n)[^]*(\n<!-- end -->)/
const EVENTS_BLOCK = /(<!-- generated: event types -->\n)[^]*(\n<!-- end -->)/

/** The documents that are generated in whole or in part, by path, as they must be. */
export async function generate(): Promise<Record<string, string>> {
  const events = await readFile(join(root, 'docs/events.md'), 'utf8')
  if (!EVENTS_BLOCK.test(events)) throw new Error('docs/events.md has no block for the event types')
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  if (!REDIS_BLOCK.test(readme)) throw new Error('README.md has no block for what happens without Redis')
  const operations = await readFile(join(root, 'docs/operations.md'), 'utf8')
  if (!SCOPES_BLOCK.test(operations)) throw new Error('docs/operations.md has no block for the scopes')
  const deploying = await readFile(join(root, 'docs/deploying.md'), 'utf8')
  if (!REPOSITORY_BLOCK.test(deploying)) throw new Error('docs/deploying.md has no block for the repository')
  const beginning = startFrom(await readRepository())
  const scopes = await scopeTable()
  const redisTable = await withoutRedis()
  return {
    'README.md': readme.replace(REDIS_BLOCK, (_, start: string, end: string) => `${start}\n${redisTable}\n${end}`),
    'docs/configuration.md': configuration(),
    'docs/deploying.md': deploying.replace(
      REPOSITORY_BLOCK,
      (_, start: string, end: string) => `${start}\n${beginning}\n${end}`,
    ),
    'docs/operations.md': operations.replace(
      SCOPES_BLOCK,
      (_, start: string, end: string) => `${start}\n${scopes}\n${end}`,
    ),
    'docs/events.md': events.replace(
      EVENTS_BLOCK,
      (_, start: string, end: string) => `${start}\n${eventTable()}\n${end}`,
    ),
  }
}

if (import.meta.main) {
  for (const [path, text] of Object.entries(await generate())) await writeFile(join(root, path), text)
}
