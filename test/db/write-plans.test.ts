import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { createIdempotency } from '../../src/idempotency/idempotency.ts'
import { drizzle } from 'drizzle-orm/d1'
import { migrate, newEdge } from '../edge.ts'
import { addUser } from '../rows.ts'

beforeAll(migrate)

/** D1, and every statement that was prepared for it. */
function recordingDatabase() {
  const statements = new Set<string>()
  const DB = new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') {
        return (statement: string) => {
          statements.add(statement)
          return target.prepare(statement)
        }
      }
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { DB, statements }
}

/** The steps by which SQLite would run `statement`. */
async function planOf(statement: string): Promise<string[]> {
  const parameters = Array.from(statement.matchAll(/\?/g), () => 0)
  const { results } = await env.DB.prepare(`EXPLAIN QUERY PLAN ${statement}`)
    .bind(...parameters)
    .all<{ detail: string }>()
  return results.map(({ detail }) => detail)
}

test('every statement of the writes and the feed finds its rows by an index, in their order', async () => {
  const { DB, statements } = recordingDatabase()
  const edge = newEdge({ DB })
  const [ada, bob] = [await addUser(), await addUser()]
  const headers = { ...(await edge.signIn(ada)), 'Content-Type': 'application/json' }
  const send = async (method: string, path: string, body?: unknown) => {
    const response = await edge.fetch(path, {
      method,
      headers: { ...headers, 'Idempotency-Key': crypto.randomUUID(), 'If-Match': '*' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    expect([method, path, response.ok]).toEqual([method, path, true])
    return response
  }
  await send('PATCH', '/v1/users/me', { bio: 'Hello' })
  await send('PUT', `/v1/users/${bob.id}/follow`)
  const { id } = await (await send('POST', '/v1/posts', { text: 'Hello' })).json<{ id: string }>()
  await send('PATCH', `/v1/posts/${id}`, { text: 'Hello!' })
  const comment = await send('POST', `/v1/posts/${id}/comments`, { text: 'Hello' })
  await send('DELETE', `/v1/comments/${(await comment.json<{ id: string }>()).id}`)
  await send('GET', '/v1/feed')
  await send('GET', '/v1/feed?cursor=p_1')
  await send('DELETE', `/v1/posts/${id}`)
  await send('DELETE', `/v1/users/${bob.id}/follow`)
  await createIdempotency(drizzle(DB)).purge(10)
  await edge.settle()

  expect(statements.size).toBeGreaterThan(15)
  for (const statement of statements) {
    // `queue` is the feed's own, as long as its page.
    const bad = (await planOf(statement)).filter((step) => /SCAN (?!queue|CONSTANT ROW)|TEMP B-TREE/.test(step))
    expect([statement, bad]).toEqual([statement, []])
  }
})

test('a plan that reads a whole table is noticed', async () => {
  expect(await planOf('SELECT id FROM posts WHERE text = ?')).toEqual([expect.stringMatching(/^SCAN posts/)])
})
