import { env } from 'cloudflare:workers'
import { sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { meteredDatabase } from '../database.ts'
import { migrate, roundTrips } from '../edge.ts'
import { addUser, db } from '../rows.ts'
import { type Call, calls } from './calls.ts'
import { newLab } from './lab.ts'

beforeAll(migrate)

/**
 * What a request may cost at most. Redis: round trips before the answer, and all commands (a script is one), also those after
 * it. D1: rows as it bills them, with the entries of indexes and what triggers do. A
 * request with a session may read one row of the ends that Redis missed.
 */
type Budget = [trips: number, commands: number, rowsRead: number, rowsWritten: number]

/** The routes of accounts, moderation, service tokens and webhooks, and what `npm run costs` leaves out of the others. */
const BUDGETS: Record<string, Budget> = {
  'POST /v1/reports': [1, 2, 10, 13],
  'GET /v1/moderation/reports': [0, 0, 21, 0],
  'POST /v1/moderation/reports/resolve': [0, 0, 18, 12],
  'GET /v1/moderation/log': [0, 0, 21, 0],
  'GET /v1/moderation/contents/{id}': [0, 0, 1, 0],
  'PUT /v1/moderation/takedowns/{id}': [3, 7, 31, 24],
  'DELETE /v1/moderation/takedowns/{id}': [4, 9, 46, 22],
  'PUT /v1/moderation/suspensions/{id}': [1, 2, 24, 22],
  'DELETE /v1/moderation/suspensions/{id}': [0, 0, 11, 10],
  'GET /v1/service-tokens': [0, 0, 21, 0],
  'POST /v1/service-tokens': [0, 0, 1, 3],
  'POST /v1/service-tokens/{id}/rotate': [0, 0, 2, 1],
  'DELETE /v1/service-tokens/{id}': [0, 0, 2, 1],
  'POST /v1/users/me/password': [2, 4, 24, 14],
  'POST /v1/password-resets': [2, 2, 0, 0],
  'PUT /v1/password-resets': [2, 3, 26, 15],
  'POST /v1/email-verifications': [2, 3, 10, 12],
  'PUT /v1/email-verifications': [1, 1, 15, 11],
  'GET /v1/users/me/export': [1, 2, 5, 0],
  'DELETE /v1/users/me': [3, 9, 20, 18],
  'POST /v1/users': [5, 8, 14, 13],
  'PATCH /v1/users/me': [2, 3, 14, 9],
  'GET /v1/sessions': [1, 1, 4, 0],
  'DELETE /v1/sessions': [2, 4, 11, 6],
  'DELETE /v1/sessions/current': [2, 4, 7, 5],
  'DELETE /v1/users/{id}/follow': [2, 4, 18, 11],
  'PUT /v1/users/{id}/block': [2, 7, 38, 25],
  'DELETE /v1/users/{id}/block': [2, 5, 19, 9],
  'PUT /v1/users/{id}/mute': [2, 4, 16, 13],
  'DELETE /v1/users/{id}/mute': [2, 4, 15, 8],
  'GET /v1/users/me/blocks': [1, 1, 1, 0],
  'PATCH /v1/posts/{id}': [2, 11, 22, 9],
  'DELETE /v1/posts/{id}': [2, 7, 20, 13],
  'PATCH /v1/comments/{id}': [2, 5, 22, 9],
  'DELETE /v1/comments/{id}': [2, 4, 32, 12],
  'GET /v1/comments/{id}/replies': [0, 0, 3, 0],
  'GET /v1/presence': [2, 2, 4, 0],
  'PATCH /v1/presence': [2, 3, 7, 3],
  'DELETE /v1/presence': [1, 2, 10, 1],
  'POST /v1/locks/{name}': [1, 1, 0, 0],
  'POST /v1/cache/invalidate': [4, 9, 10, 0],
  'POST /v1/webhooks': [0, 0, 8, 9],
  'GET /v1/webhooks': [0, 0, 160, 0],
  'GET /v1/webhooks/{id}': [0, 0, 2, 0],
  'PATCH /v1/webhooks/{id}': [0, 0, 4, 1],
  'DELETE /v1/webhooks/{id}': [0, 0, 4, 2],
  'POST /v1/webhooks/{id}/rotate': [0, 0, 4, 1],
  'POST /v1/webhooks/{id}/pause': [0, 0, 4, 3],
  'POST /v1/webhooks/{id}/test': [0, 0, 2, 0],
  'GET /v1/webhooks/{id}/deliveries': [0, 0, 4, 0],
  'POST /v1/webhooks/{id}/replay': [0, 0, 2, 0],
  'POST /v1/deliveries/{id}/replay': [0, 0, 7, 3],
  'GET /v1/stats': [1, 6, 12, 0],
  'GET /metrics': [1, 6, 12, 0],
}

/** Rows of each kind that the routes touch: a cost that grows with them breaks its budget. */
async function fill(): Promise<void> {
  const { id } = await addUser()
  const numbers = sql`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)`
  await db.run(sql`${numbers} INSERT INTO users (id, username, email, password_hash, display_name, created_at, updated_at)
    SELECT 'u_many' || i, 'many' || i, 'many' || i || '@example.test', 'x', 'Many', 0, 0 FROM n`)
  await db.run(sql`${numbers} INSERT INTO reports (id, subject_id, reporter_id, reason, text, status, created_at)
    SELECT 'rp_0' || i, 'p_many' || i, ${id}, 'spam', '', 'open', 0 FROM n`)
  await db.run(sql`${numbers} INSERT INTO moderation_log (id, action, subject_id, note, token_id, token_name, created_at)
    SELECT 'ml_0' || i, 'suspend', 'u_many' || i, '', 'root', 'root', 0 FROM n`)
  await db.run(sql`${numbers} INSERT INTO takedowns (content_id, author_id, post_id, content, note, created_at)
    SELECT 'p_many' || i, ${id}, 'p_many' || i, '{}', '', 0 FROM n`)
  await db.run(sql`${numbers} INSERT INTO suspensions (user_id, note, created_at) SELECT 'u_many' || i, '', 0 FROM n`)
  await db.run(sql`${numbers} INSERT INTO service_tokens (id, name, scopes, hash, previous, created_at)
    SELECT 'st_0' || i, 'many' || i, '[]', '', '[]', 0 FROM n`)
  await db.run(sql`${numbers} INSERT INTO credential_tokens (hash, user_id, purpose, email, expires_at)
    SELECT 'hash' || i, 'u_many' || i, 'reset', '', 0 FROM n`)
}

/** An isolate whose costs are measured, and a way to prepare requests with `lab`. */
function newWorld() {
  const lab = newLab()
  const { DB, rows } = meteredDatabase()
  const isolate = lab.newIsolate({ DB, SESSION_RECHECK_SECONDS: '20' })

  /** What a request costs. */
  async function costOf(method: string, { path, headers, body }: Call): Promise<Budget> {
    await lab.redis.reset()
    Object.assign(rows, { read: 0, written: 0 })
    const response = await isolate.fetch(path, {
      method,
      headers: { ...headers, ...(body && { 'Content-Type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
    })
    await response.text()
    await isolate.settle()
    expect([method, path, response.ok]).toEqual([method, path, true])
    const { commands } = await lab.redis.counts()
    return [roundTrips(response), commands, rows.read, rows.written]
  }
  return { lab, costOf }
}

test('accounts, moderation, service tokens, webhooks and the dashboard keep to their budgets, however full the tables are', async () => {
  await fill()
  const { lab, costOf } = newWorld()
  const exceeded: Record<string, Budget> = {}
  for (const [name, budget] of Object.entries(BUDGETS)) {
    const [method = ''] = name.split(' ')
    const call = await calls[name]?.(lab)
    if (!call) throw new Error(`${name} is not in calls.ts`)
    await lab.deliver()
    // The isolate has confirmed the session, as it does once a minute.
    if (call.headers) await costOf('GET', { path: '/v1/rate-limit', headers: call.headers })
    const cost = await costOf(method, call)
    if (cost.some((spent, i) => spent > (budget[i] ?? 0))) exceeded[name] = cost
  }
  expect(exceeded).toEqual({})
}, 120_000)

test('a service token that is not the root token costs two rows of D1 at first, and then none', async () => {
  const { lab, costOf } = newWorld()
  const response = await lab.edge.fetch('/v1/service-tokens', {
    method: 'POST',
    headers: { Authorization: `Bearer ${env.SERVICE_TOKEN}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ name: 'budget', scopes: ['moderation'] }),
  })
  const { token } = await response.json<{ token: string }>()
  const headers = { Authorization: `Bearer ${token}` }
  const call = { path: '/v1/moderation/reports?status=acted', headers }
  expect(await costOf('GET', call)).toEqual([0, 0, 3, 1]) // its row, its use, and the list
  expect(await costOf('GET', call)).toEqual([0, 0, 1, 0])
})
