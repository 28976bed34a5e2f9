import { Redis } from '@upstash/redis/cloudflare'
import {
  applyD1Migrations,
  createExecutionContext,
  createMessageBatch,
  createScheduledController,
  type D1Migration,
  getQueueResult,
  waitOnExecutionContext,
} from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { ulid } from 'ulid'
import { expect } from 'vitest'
import { createControl } from '../emulator/control.ts'
import { sessions } from '../src/db/schema.ts'
import { createApp } from '../src/app.ts'
import type { EdgeCache } from '../src/edge-cache.ts'
import { createWorker } from '../src/index.ts'
import { createKnownAllowances, createRateLimit, createUncounted } from '../src/redis/rate-limit.ts'
import { createSessionTokens } from '../src/sessions/token.ts'
import { db } from './rows.ts'

declare global {
  namespace Cloudflare {
    interface Env {
      MIGRATIONS: D1Migration[]
      TEST_BACKUPS: R2Bucket
      TEST_REPLICA: D1Database
      [empty: `TEST_EMPTY_${number}`]: D1Database
    }
  }
}

/** What the migrations make of an empty D1, as statements with their values. */
let tables: [sql: string, values: unknown[]][] | undefined

/** Creates the tables of this file's D1. Storage belongs to the file, not to the test: tests use ids of their own. */
export const migrate = () => createTables(env.DB)

/**
 * Creates the tables, unless they exist. The first file of a runtime applies the migrations. The others apply their
 * result, in one batch.
 */
export async function createTables(database: D1Database): Promise<void> {
  if (tables) {
    if (await database.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'd1_migrations'").first()) return
    await database.batch(tables.map(([sql, values]) => database.prepare(sql).bind(...values)))
  } else {
    await applyD1Migrations(database, env.MIGRATIONS)
    tables = await readTables(database)
  }
}

/** The statements that create the tables of a database with their rows, then its indexes and triggers. */
async function readTables(database: D1Database): Promise<[string, unknown[]][]> {
  const { results } = await database
    .prepare(
      `SELECT stored.name, stored.sql, list.type AS kind
      FROM sqlite_schema AS stored LEFT JOIN pragma_table_list AS list ON list.name = stored.name
      WHERE stored.sql IS NOT NULL AND stored.name NOT GLOB 'sqlite_*' AND stored.name NOT GLOB '_cf_*'
      ORDER BY list.type IS NULL, stored.rowid`,
    )
    .all<{ name: string; sql: string; kind: 'table' | 'virtual' | 'shadow' | null }>()
  const statements: [string, unknown[]][] = []
  for (const { name, sql, kind } of results) {
    if (kind === 'shadow') continue // its virtual table creates it
    statements.push([sql, []])
    if (kind !== 'table') continue
    const rows = await database.prepare(`SELECT * FROM ${name}`).all()
    for (const row of rows.results) {
      const columns = Object.keys(row)
      const marks = columns.map(() => '?').join()
      statements.push([`INSERT INTO ${name} (${columns.join()}) VALUES (${marks})`, Object.values(row)])
    }
  }
  return statements
}

/** The app of the Worker, for its routes: none of them is asked. */
export const newApp = () =>
  createApp(() => {
    throw new Error('only its routes are wanted')
  }).whole()

export const newRoutes = () => newApp().routes

/**
 * A queue that keeps what it is sent, for tests that decide when it arrives, how often and in which order. Those of whole
 * ways use the real one.
 */
export function newQueue() {
  const sent: { body: unknown; delaySeconds: number }[] = []
  return {
    sent,
    /** What is to be delivered now, in order; it is taken out. */
    take: () => sent.splice(0).map(({ body }) => body),
    send: async (body: unknown, options?: QueueSendOptions) =>
      void sent.push({ body, delaySeconds: options?.delaySeconds ?? 0 }),
    sendBatch: async (messages: Iterable<MessageSendRequest>) => {
      for (const { body, delaySeconds = 0 } of messages) sent.push({ body, delaySeconds })
    },
    metrics: async () => ({ backlogCount: sent.length, backlogBytes: 0 }),
  }
}

/** The routes of all edges. Each edge has its own isolate, by its bindings. */
const worker = createWorker()

/** A limit of no route. */
const WARMING = { any: { limit: 1, windowSeconds: 1 } }

export type Edge = ReturnType<typeof newEdge>

/** Nothing is refused or given up that a test does not mean to: this machine may be busy. */
const PATIENT = {
  REDIS_READ_TIMEOUT_MS: '5000',
  REDIS_SOFT_TIMEOUT_MS: '5000',
  LIMIT_READS: '1000000',
  LIMIT_WRITES: '1000000',
  LIMIT_PRESENCE: '1000000',
  LIMIT_SIGN_IN: '1000000',
  LIMIT_SIGN_IN_ADDRESS: '1000000',
  LIMIT_SIGN_IN_ACCOUNT: '1000000',
  LIMIT_CREDENTIALS: '1000000',
  LIMIT_EXPORTS: '1000000',
  LIMIT_MAIL: '1000000',
}

/**
 * A Worker with an isolate of its own, over a Redis keyspace of its own (or that of another edge, by `token`), with
 * `bindings` set over the defaults, or absent where they are undefined. Its limits are out of the way unless a test
 * sets them. It purges `cache`.
 */
export function newEdge(
  bindings: Record<string, unknown> = {},
  token = `test-${crypto.randomUUID()}`,
  cache?: EdgeCache,
) {
  const events = newQueue()
  const deliveries = newQueue()
  const queues = { EVENTS: events, DELIVERIES: deliveries }
  const all = { ...env, ...queues, UPSTASH_REDIS_REST_TOKEN: token, ...PATIENT, ...bindings }
  const settings = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)) as unknown as Env
  const pending: ExecutionContext[] = []
  const newContext = () => Object.assign(createExecutionContext(), cache && { cache })
  /** Writes count against a limit. Its first use on a server costs one more round trip, which tests do not mean to count. */
  const teachScript = async () => {
    const { UPSTASH_REDIS_REST_URL: url, UPSTASH_REDIS_REST_TOKEN: key } = settings
    const redis = new Redis({ url, token: key, enableTelemetry: false })
    const limits = createRateLimit(
      () => redis,
      createKnownAllowances(1),
      createUncounted(),
      WARMING,
      () => 'warming',
    )
    await limits.take('any', 'anyone').catch(() => {})
  }
  let learning: Promise<void> | undefined
  /** Delivers messages of a queue, as the platform would; answers what became of each. */
  async function deliver(bodies: unknown[], queue = 'likes'): Promise<{ acked: number[]; retried: number[] }> {
    const context = newContext()
    const timestamp = new Date()
    const batch = createMessageBatch(
      queue,
      bodies.map((body, i) => ({ id: String(i), timestamp, attempts: 1, body })),
    )
    await worker.queue(batch, settings, context)
    const result = await getQueueResult(batch, context)
    return {
      acked: result.explicitAcks.map(Number),
      retried: result.retryMessages.map(({ msgId }) => Number(msgId)),
    }
  }

  return {
    token,
    /** The queue `events`, unless the test brought another. */
    events,
    /** The queue `deliveries`, unless the test brought another. */
    deliveries,
    deliver,

    /** Delivers what is in the queue `events`, until nothing is but what was delayed; answers how many must be retried. */
    async dispatch(): Promise<number> {
      let retried = 0
      for (;;) {
        const due = events.sent.filter(({ delaySeconds }) => delaySeconds === 0).slice(0, 100)
        if (due.length === 0) return retried
        for (const message of due) events.sent.splice(events.sent.indexOf(message), 1)
        const result = await deliver(
          due.map(({ body }) => body),
          'events',
        )
        retried += result.retried.length
      }
    },

    /** The emulator's counts and faults for this keyspace. */
    redis: createControl(env.UPSTASH_REDIS_REST_URL, token),
    /** The SDK over this keyspace, as another back end would use it; it is counted too. */
    sdk: new Redis({ url: env.UPSTASH_REDIS_REST_URL, token, enableTelemetry: false }),

    /** Sends a request; what the Worker does after its answer may still be under way. */
    async fetch(path: string, init?: RequestInit<IncomingRequestCfProperties>): Promise<Response> {
      const context = newContext()
      pending.push(context)
      const request = new Request<unknown, IncomingRequestCfProperties>(`https://edge.test${path}`, init)
      return worker.fetch(request, settings, context)
    },

    /** The headers of a request by this user: a session of theirs, begun without asking for a password. */
    async signIn(user: { id: string; sessionEpoch: number }): Promise<{ Authorization: string }> {
      await (learning ??= teachScript())
      const { token, claims } = createSessionTokens(settings.SERVICE_TOKEN).issue(user.id, `s_${ulid().toLowerCase()}`)
      const now = Date.now()
      await db.insert(sessions).values({
        id: claims.sessionId,
        userId: user.id,
        secretHash: claims.hash,
        epoch: user.sessionEpoch,
        userAgent: 'test',
        createdAt: now,
        lastSeenAt: now,
        expiresAt: now + 86_400_000,
      })
      return { Authorization: `Bearer ${token}` }
    },

    /** Runs the cron jobs of a minute. */
    async cron(now = Date.now()): Promise<void> {
      const context = newContext()
      await worker.scheduled(createScheduledController({ scheduledTime: now, cron: '* * * * *' }), settings, context)
      await waitOnExecutionContext(context)
    },

    /** Waits for all that was left to do after the answers. */
    async settle(): Promise<void> {
      await Promise.all(pending.splice(0).map(waitOnExecutionContext))
    },
  }
}

/** Round trips to Redis before the answer, as the answer itself says; `edge.redis` has those after it too. */
export function roundTrips(response: Response): number {
  return Number(/(\d+) round trips/.exec(response.headers.get('Server-Timing') ?? '')?.[1])
}

/** Expects a 400 that names the field at fault, and where it was. */
export async function expectRefused(answering: Promise<Response>, where: string, field: string): Promise<void> {
  const response = await answering
  expect(response.status).toBe(400)
  const problem = await response.json<{ type: string; errors: { in: string; field: string; message: string }[] }>()
  expect(problem.type).toBe('/problems/invalid-request')
  expect(problem.errors).toContainEqual({ in: where, field, message: expect.any(String) })
}
