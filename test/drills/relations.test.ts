import { sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { watchedDatabase } from '../database.ts'
import { readOperations } from '../docs/document.ts'
import { posts } from '../../src/db/schema.ts'
import { migrate, roundTrips } from '../edge.ts'
import { addUsers, db } from '../rows.ts'
import { type Call, calls } from './calls.ts'
import { newLab } from './lab.ts'

beforeAll(migrate)

/** What a request of a user costs: Redis before the answer, Redis in all, and D1. A script or a batch is one. */
interface Cost {
  status: number
  roundTrips: number
  commands: number
  queries: number
}

/** Hides a hundred users from a user: by blocks of either side, and by mutes. */
async function hideMany(userId: string): Promise<void> {
  const others = JSON.stringify(await addUsers(100))
  await db.run(sql`INSERT INTO relations (user_id, kind, other_id, id, created_at)
    SELECT iif(key % 3 = 0, value, ${userId}), iif(key % 3 = 2, 'mute', 'block'), iif(key % 3 = 0, ${userId}, value),
      'r_' || value, key FROM json_each(${others})`)
}

/** A member route, and what it costs a user: where Redis knows nothing of the content, then what the first request left. */
async function costsOf(name: string, hasRelations: boolean): Promise<Cost[]> {
  await db.delete(posts) // a list of posts costs what it holds
  const lab = newLab()
  const members: Awaited<ReturnType<typeof lab.member>>[] = []
  const recording = {
    ...lab,
    async member(...values: Parameters<typeof lab.member>) {
      const member = await lab.member(...values)
      members.push(member)
      return member
    },
  }
  const call: Call = (await calls[name]?.(recording)) ?? expect.fail(`${name} is not in calls.ts`)
  const reader = await recording.member()
  const headers = call.headers?.['Authorization'] ? call.headers : { ...call.headers, ...reader.headers }
  const me = members.find((member) => member.headers.Authorization === headers['Authorization'])
  if (!me) throw new Error(`nobody sends ${name}`)
  if (hasRelations) await hideMany(me.id)
  await lab.edge.settle()
  await lab.deliver()
  await lab.redis.evict({ keys: [`relations:${me.id}`] })

  const [method = ''] = name.split(' ')
  const costs: Cost[] = []
  const isRead = method === 'GET'
  let queries = 0
  // Reading the ends that Redis missed is a query that depends on the time.
  const newIsolate = () =>
    lab.newIsolate({ DB: watchedDatabase(() => void (queries += 1)), SESSION_RECHECK_SECONDS: '20' })
  let isolate = newIsolate()
  // A read is asked where Redis lacks the content, by another isolate, and from memory. A repeatable write is repeated.
  for (const attempt of isRead ? ['cold', 'warm', 'memory'] : method === 'PUT' ? ['cold', 'warm'] : ['cold']) {
    if (attempt !== 'memory') {
      isolate = newIsolate()
      // The isolate has confirmed the session in D1, as it does once a minute.
      await (await isolate.fetch('/v1/sessions', { headers })).text()
      await isolate.settle()
    }
    await lab.redis.reset()
    queries = 0
    const response = await isolate.fetch(call.path, {
      method,
      headers: { ...headers, ...(call.body && { 'Content-Type': 'application/json' }) },
      ...(call.body && { body: JSON.stringify(call.body) }),
    })
    await response.text()
    await isolate.settle()
    const { commands } = await lab.redis.counts()
    costs.push({ status: response.status, roundTrips: roundTrips(response), commands, queries })
  }
  return costs
}

/** These answer the relations themselves, so their cost is that of a page of users. */
const LISTS = new Set(['GET /v1/users/me/blocks', 'GET /v1/users/me/mutes'])

/** Where Redis lacks the content, D1 decides about a block while the script's load is on its way: one query beside it. */
const DECIDED_BESIDE_LOAD = new Set([
  'PUT /v1/posts/{id}/like',
  'PUT /v1/comments/{id}/like',
  'POST /v1/posts/{id}/views',
])

/** The operations that a session may call. */
async function memberRoutes(): Promise<string[]> {
  const { operations } = await readOperations()
  return [...operations].flatMap(([name, { security = [] }]) =>
    security.some((accepted) => 'bearer' in accepted) ? [name] : [],
  )
}

/** The least of two measurements: what a request costs whenever it is sent. */
const least = (one: Cost[], other: Cost[]): Cost[] =>
  one.map((cost, i) => ({
    status: cost.status,
    roundTrips: Math.min(cost.roundTrips, other[i]?.roundTrips ?? Infinity),
    commands: Math.min(cost.commands, other[i]?.commands ?? Infinity),
    queries: Math.min(cost.queries, other[i]?.queries ?? Infinity),
  }))

/** How often both are measured at most: on a busy machine, work of an earlier request may be counted. */
const MEASUREMENTS = 4

test.each(await memberRoutes())(
  '%s costs a user with 100 hidden users no round trip and no command more than others',
  { timeout: 120_000 },
  async (name) => {
    let [expected, costs]: [Cost[], Cost[]] = [[], []]
    for (let i = 0; i < MEASUREMENTS; i += 1) {
      const others = await costsOf(name, false)
      if (others[0] && DECIDED_BESIDE_LOAD.has(name)) others[0].queries += 1
      expected = least(others, expected)
      costs = least(await costsOf(name, true), costs)
      if (LISTS.has(name) || JSON.stringify(costs) === JSON.stringify(expected)) break
    }
    expect(expected.filter(({ status }) => status >= 300)).toEqual([])
    if (LISTS.has(name)) expect(Math.max(...costs.map((cost) => cost.roundTrips))).toBeLessThanOrEqual(3)
    else expect(costs).toEqual(expected)
  },
)
