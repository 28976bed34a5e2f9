import { randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo } from 'node:net'
import { DatabaseSync } from 'node:sqlite'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import * as v from 'valibot'

export const ACCOUNT = randomBytes(16).toString('hex')
export const API_TOKEN = `cf-${randomUUID()}`

export type Cloudflare = Awaited<ReturnType<typeof startCloudflare>>

/** The metadata of a Worker that wrangler uploads. */
const Metadata = v.object({
  main_module: v.string(),
  compatibility_date: v.optional(v.string()),
  compatibility_flags: v.optional(v.array(v.string())),
  bindings: v.array(
    v.object({
      type: v.string(),
      name: v.string(),
      text: v.optional(v.string()),
      id: v.optional(v.string()),
      queue_name: v.optional(v.string()),
    }),
  ),
})

interface Script {
  secrets: Map<string, string>
  /** Of the last upload. */
  bindings: v.InferOutput<typeof Metadata>['bindings']
  crons: string[]
}

/** An error that the API answers. */
class Refusal extends Error {
  readonly status: number
  readonly code: number

  constructor(status: number, code: number, message: string) {
    super(message)
    this.status = status
    this.code = code
  }
}

/**
 * The part of Cloudflare's API that wrangler uses to set up and deploy a Worker, for one account that starts empty. Its
 * databases are SQLite. The last Worker that was uploaded runs in workerd, at `workerUrl`. Like the real API it refuses a
 * wrong token, a name that is taken, a Worker that does not exist, and a binding to nothing.
 */
export async function startCloudflare() {
  const databases = new Map<string, { uuid: string; sqlite: DatabaseSync }>()
  const queues = new Map<string, { id: string; consumers: object[] }>()
  /** R2 buckets: their jurisdictions by name. */
  const buckets = new Map<string, string>()
  const workers = new Map<string, Script>()
  /** Every request for a change, such as `POST /queues`. */
  const changes: string[] = []
  function createDatabase(name: string): string {
    const uuid = randomUUID()
    databases.set(name, { uuid, sqlite: new DatabaseSync(':memory:') })
    return uuid
  }
  function createQueue(name: string): string {
    const id = randomBytes(16).toString('hex')
    queues.set(name, { id, consumers: [] })
    return id
  }
  /** What tests read, and change without wrangler. */
  const account = {
    databases,
    queues,
    buckets,
    workers,
    changes,
    /** The accounts that the token may read. */
    accounts: [{ id: ACCOUNT, name: 'Ada' }],
    queuesPerPage: 100,
    createDatabase,
    createQueue,
  }
  let running: Miniflare | undefined

  const worker = (name: string) => {
    const found = workers.get(name)
    if (!found) throw new Refusal(404, 10_007, `workers.api.error.script_not_found: ${name}`)
    return found
  }

  async function upload(name: string, form: FormData): Promise<object> {
    const metadata = v.parse(Metadata, JSON.parse(await textOf(form, 'metadata')))
    const { secrets, crons } = workers.get(name) ?? { secrets: new Map<string, string>(), crons: [] }
    const { bindings } = metadata
    const ids = new Set([...databases.values()].map(({ uuid }) => uuid))
    for (const { type, name, id, queue_name: queue } of bindings) {
      if (type === 'inherit' && !secrets.has(name))
        throw new Refusal(400, 10_057, `inherit binding '${name}' is invalid`)
      if (type === 'd1' && !ids.has(id ?? '')) throw new Refusal(400, 10_021, `binding ${name} has no valid id`)
      if (type === 'queue' && !queues.has(queue ?? '')) throw new Refusal(400, 11_000, `queue ${queue} does not exist`)
    }
    workers.set(name, { secrets, bindings, crons })
    const texts = bindings.flatMap(({ type, name, text }) => (type === 'plain_text' ? [[name, text ?? '']] : []))
    await running?.dispose()
    running = new Miniflare(
      convertV4MiniflareOptions({
        modules: [{ type: 'ESModule', path: metadata.main_module, contents: await textOf(form, metadata.main_module) }],
        ...(metadata.compatibility_date ? { compatibilityDate: metadata.compatibility_date } : {}),
        ...(metadata.compatibility_flags ? { compatibilityFlags: metadata.compatibility_flags } : {}),
        bindings: Object.fromEntries([...texts, ...secrets]) as Record<string, string>, // pairs of strings
        d1Databases: bindings.flatMap(({ type, name }) => (type === 'd1' ? [name] : [])),
        queueProducers: bindings.flatMap(({ type, name }) => (type === 'queue' ? [name] : [])),
      }),
    )
    await running.ready
    const id = randomUUID()
    return { id, deployment_id: id, startup_time_ms: 1, resources: { script: { etag: id } } }
  }

  /** Returns the `result` of the API's envelope. */
  async function answer(
    method: string,
    url: URL,
    { 'cf-r2-jurisdiction': jurisdiction = 'default' }: IncomingHttpHeaders,
    body: string,
    form: () => Promise<FormData>,
  ): Promise<unknown> {
    const [, service = '', ...names] = url.pathname.replace(`/accounts/${ACCOUNT}`, '').split('/')
    const page = Number(url.searchParams.get('page') ?? 1)
    if (url.pathname === '/accounts') return account.accounts
    const json = () => JSON.parse(body) as Record<string, unknown>

    if (service === 'd1') {
      const [, idOrName, what] = names
      if (idOrName === undefined && method === 'GET') {
        return page > 1 ? [] : [...databases].map(([name, { uuid }]) => ({ uuid, name, version: 'production' }))
      }
      if (idOrName === undefined) {
        const name = String(json()['name'])
        if (databases.has(name)) throw new Refusal(400, 7502, 'A database with that name already exists')
        return { uuid: createDatabase(name), name }
      }
      const [name, database] = [...databases].find(([name, { uuid }]) => name === idOrName || uuid === idOrName) ?? []
      if (!database) throw new Refusal(404, 7404, `The database ${idOrName} could not be found`)
      if (what === undefined) return { uuid: database.uuid, name, version: 'production' }
      if (what === 'query') return query(database.sqlite, json() as { sql: string; params?: string[] }) // D1's
    }

    if (service === 'queues') {
      const [id, what] = names
      if (id === undefined && method === 'GET') {
        const dates = { created_on: '2026-01-01T00:00:00Z', modified_on: '2026-01-01T00:00:00Z' }
        const totals = { producers_total_count: 0, consumers_total_count: 0 }
        const all = [...queues].map(([queue_name, { id, consumers }]) =>
          Object.assign({ queue_id: id, queue_name, producers: [], consumers }, dates, totals),
        )
        const wanted = url.searchParams.getAll('name')
        return wanted.length > 0
          ? all.filter(({ queue_name }) => wanted.includes(queue_name))
          : all.slice((page - 1) * account.queuesPerPage, page * account.queuesPerPage)
      }
      if (id === undefined) {
        const name = String(json()['queue_name'])
        if (queues.has(name)) throw new Refusal(400, 11_009, `Queue name '${name}' is already taken`)
        return { queue_id: createQueue(name), queue_name: name }
      }
      const queue = [...queues.values()].find((queue) => queue.id === id)
      if (!queue) throw new Refusal(404, 11_000, `Queue ${id} does not exist`)
      if (what === 'consumers' && method === 'POST') queue.consumers.push(json())
      if (what === 'consumers') return method === 'GET' ? queue.consumers : json()
    }

    if (service === 'r2') {
      const [, bucket] = names
      if (bucket === undefined && method === 'POST') {
        const name = String(json()['name'])
        if (buckets.has(name)) throw new Refusal(409, 10_004, 'The bucket you tried to create already exists')
        buckets.set(name, String(jurisdiction))
        return { name }
      }
      if (buckets.get(bucket ?? '') !== jurisdiction)
        throw new Refusal(404, 10_006, 'The specified bucket does not exist.')
      return { rules: [] }
    }

    if (service === 'workers') {
      const [kind, name = '', what, more] = names
      if (kind === 'subdomain') return { subdomain: 'ada' }
      if (kind === 'workers') return { name, subdomain: { enabled: true, previews_enabled: false, url: '' } }
      if (kind === 'services') {
        worker(name)
        return { default_environment: { environment: 'production', script: { tag: name, tags: [] } } }
      }
      if (kind === 'scripts') {
        const action = [method, what, more].filter(Boolean).join(' ')
        if (action === 'PUT' || action === 'POST versions') return upload(name, await form())
        const script = worker(name)
        if (action === 'GET secrets') return [...script.secrets.keys()].map((name) => ({ name, type: 'secret_text' }))
        if (action === 'PATCH secrets-bulk') {
          const { secrets } = json() as { secrets: Record<string, { text: string }> } // wrangler's
          for (const [name, { text }] of Object.entries(secrets)) script.secrets.set(name, text)
          return []
        }
        if (action === 'PUT schedules') {
          script.crons = (JSON.parse(body) as { cron: string }[]).map(({ cron }) => cron) // wrangler's
          return {}
        }
        if (action === 'POST assets-upload-session') return { jwt: 'assets', buckets: [] } // no new asset
        if (action === 'GET deployments') return { deployments: [] }
        if (action === 'POST deployments') return { id: randomUUID() }
        if (action.endsWith(' subdomain')) return { enabled: true, previews_enabled: false }
        if (action === 'PATCH script-settings' || action === 'GET settings') return { bindings: [] }
      }
    }
    throw new Refusal(404, 7000, `No route for ${method} ${url.pathname}`)
  }

  const api = await serve(async (request, response, body) => {
    const method = request.method ?? 'GET'
    const url = new URL(request.url ?? '/', 'http://api.test')
    const send = (status: number, envelope: object) => {
      response.writeHead(status, { 'Content-Type': 'application/json' })
      response.end(JSON.stringify({ messages: [], errors: [], result: null, ...envelope }))
    }
    try {
      if (request.headers.authorization !== `Bearer ${API_TOKEN}`)
        throw new Refusal(403, 10_000, 'Authentication error')
      if (method !== 'GET') changes.push(`${method} ${url.pathname.replace(`/accounts/${ACCOUNT}`, '')}`)
      const headers = { 'Content-Type': request.headers['content-type'] ?? '' }
      const form = () => new Response(new Uint8Array(body), { headers }).formData()
      const result = await answer(method, url, request.headers, body.toString(), form)
      send(200, { success: true, result, result_info: { page: 1, per_page: 100, count: 1, total_count: 1 } })
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      const { status, code } = error instanceof Refusal ? error : { status: 500, code: 10_001 }
      send(status, { success: false, errors: [{ code, message }] })
    }
  })

  const edge = await serve(async (request, response) => {
    const answer = await running?.dispatchFetch(`https://edge.test${request.url}`)
    response.writeHead(answer?.status ?? 404, { 'Content-Type': answer?.headers.get('Content-Type') ?? 'text/plain' })
    response.end(await answer?.text())
  })

  return Object.assign(account, {
    apiUrl: urlOf(api),
    workerUrl: urlOf(edge),
    async close() {
      api.close()
      edge.close()
      await running?.dispose()
    },
  })
}

const urlOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}` // a string only for pipes

async function serve(
  handle: (request: IncomingMessage, response: ServerResponse, body: Buffer) => Promise<void>,
): Promise<Server> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => void handle(request, response, Buffer.concat(chunks)))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

async function textOf(form: FormData, name: string): Promise<string> {
  const value = form.get(name)
  return typeof value === 'string' ? value : ((await value?.text()) ?? '')
}

/** Runs one statement as D1 does. Several statements have one empty result: wrangler does not read their rows. */
function query(sqlite: DatabaseSync, { sql, params = [] }: { sql: string; params?: string[] }) {
  const meta = { duration: 0, changes: 0, last_row_id: 0, rows_read: 0, rows_written: 0 }
  if (/;\s*\S/.test(sql.replaceAll(/--.*$/gm, ''))) {
    sqlite.exec(sql)
    return [{ success: true, results: [], meta }]
  }
  return [{ success: true, results: sqlite.prepare(sql).all(...params), meta }]
}
