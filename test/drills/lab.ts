import { env } from 'cloudflare:workers'
import { posts, sessions, users } from '../../src/db/schema.ts'
import type { EventMessage, Hint } from '../../src/events/schema.ts'
import { keys } from '../../src/keys.ts'
import { gte, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { newEdge, newQueue } from '../edge.ts'
import { addUser, db } from '../rows.ts'

/** How a dependency fails: it does nothing and reports an error, or it does the work and the answer is lost. */
export type Failure = 'none' | 'refuses' | 'loses answers' | 'refuses writes' | 'loses answers of writes'

/** A real D1 database that fails on demand. */
function newDatabase(d1: D1Database) {
  const state = { failure: 'none' as Failure, waitsMs: 0 }
  const originals = new WeakMap<object, D1PreparedStatement>()
  const writes = new WeakSet<object>()
  async function run<T>(isWrite: boolean, work: () => Promise<T>): Promise<T> {
    const { failure, waitsMs } = state
    if (waitsMs > 0) await new Promise((resolve) => setTimeout(resolve, waitsMs))
    if (failure === 'refuses' || (failure === 'refuses writes' && isWrite)) throw lost()
    const result = await work()
    if (failure === 'loses answers' || (failure === 'loses answers of writes' && isWrite)) throw lost()
    return result
  }
  const lost = () => new Error('D1_ERROR: Network connection lost.')
  /** The database as one isolate has it. `turns`: the calls that had to wait for each other. */
  function bind() {
    const waited = { turns: 0 }
    async function inTurn<T>(isWrite: boolean, work: () => Promise<T>): Promise<T> {
      const turn = waited.turns + 1
      try {
        return await run(isWrite, work)
      } finally {
        waited.turns = Math.max(waited.turns, turn)
      }
    }
    function wrap(statement: D1PreparedStatement, isWrite: boolean): D1PreparedStatement {
      const wrapped = new Proxy(statement, {
        get(target, name) {
          if (name === 'bind') return (...values: unknown[]) => wrap(target.bind(...values), isWrite)
          const member: unknown = Reflect.get(target, name)
          if (typeof member !== 'function') return member
          return (...values: unknown[]) =>
            inTurn(isWrite, () => Reflect.apply(member, target, values) as Promise<unknown>)
        },
      })
      originals.set(wrapped, statement)
      if (isWrite) writes.add(wrapped)
      return wrapped
    }
    const binding = {
      prepare: (query: string) => wrap(d1.prepare(query), !/^\s*select/i.test(query)),
      batch: (statements: D1PreparedStatement[]) =>
        inTurn(
          statements.some((statement) => writes.has(statement)),
          () => d1.batch(statements.map((statement) => originals.get(statement) ?? statement)),
        ),
    }
    return { binding, waited }
  }
  return { state, bind }
}

/** A queue that fails on demand. */
function newFailingQueue() {
  const queue = newQueue()
  const state = { failure: 'none' as Failure }
  async function send(work: () => Promise<void>): Promise<void> {
    if (state.failure === 'refuses') throw new Error('Queue send failed: Service Unavailable')
    await work()
    if (state.failure === 'loses answers') throw new Error('Queue send failed: Network connection lost')
  }
  const binding = {
    send: (body: unknown, options?: QueueSendOptions) => send(() => queue.send(body, options)),
    sendBatch: (messages: Iterable<MessageSendRequest>) => send(() => queue.sendBatch(messages)),
    metrics: queue.metrics,
  }
  return {
    state,
    binding,
    take: queue.take,
    back: (bodies: unknown[]) => queue.sendBatch(bodies.map((body) => ({ body }))),
  }
}

export type Lab = ReturnType<typeof newLab>

/** Workers over one Redis keyspace, one D1 and three queues, all of which can fail. */
export function newLab(d1 = env.DB) {
  const token = `test-${crypto.randomUUID()}`
  const database = newDatabase(d1)
  const queues = { likes: newFailingQueue(), events: newFailingQueue(), deliveries: newFailingQueue() }
  const bindings = {
    LIKES: queues.likes.binding,
    EVENTS: queues.events.binding,
    DELIVERIES: queues.deliveries.binding,
    REDIS_WRITE_TIMEOUT_MS: '5000',
    ALLOW_PRIVATE_WEBHOOKS: 'true',
    LOCK_SECONDS: '1',
    REDIS_BREAKER_SECONDS: '0.1', // write-through waits for it
    SESSION_RECHECK_SECONDS: '0.2', // a sign-out waits for it
    STREAM_LIFE_SECONDS: '0.5',
  }
  /** A Worker in an isolate of its own. */
  function newIsolate(more: Record<string, unknown> = {}) {
    const { binding: DB, waited } = database.bind()
    return { ...newEdge({ DB, ...bindings, ...more }, token), waited }
  }
  const edge = newIsolate()
  const startedAt = Date.now()
  /** The hints that were delivered, in their order. */
  const hints: Hint[] = []
  /** Everybody who signed in. */
  const members: { userId: string; sessionId: string }[] = []

  return {
    startedAt,
    hints,
    members,
    edge,
    newIsolate,
    redis: edge.redis,
    /** D1 without failures. */
    rows: drizzle(d1),
    /** D1 databases of other environments. Nothing is in them. */
    emptyDatabases: [
      env.TEST_EMPTY_1,
      env.TEST_EMPTY_2,
      env.TEST_EMPTY_3,
      env.TEST_EMPTY_4,
      env.TEST_EMPTY_5,
      env.TEST_EMPTY_6,
    ],
    database: database.state,
    queues: Object.values(queues).map(({ state }) => state),

    /** A new user, signed in. */
    async member(values: Parameters<typeof addUser>[0] = {}) {
      const user = await addUser(values)
      const headers = await edge.signIn(user)
      const [userId = '', sessionId = ''] = headers.Authorization.replace('Bearer ', '').split('.')
      members.push({ userId, sessionId })
      return { ...user, headers }
    },

    /** Delivers each queued message once, and puts back what fails. Answers how many messages it delivered. */
    async deliver(): Promise<number> {
      let delivered = 0
      for (const [name, queue] of Object.entries(queues)) {
        const bodies = queue.take()
        delivered += bodies.length
        for (const body of bodies) if (isHints(body)) hints.push(...body.hints)
        for (let i = 0; i < bodies.length; i += 50) {
          const batch = bodies.slice(i, i + 50)
          const retried = await edge.deliver(batch, name).then(
            ({ retried }) => retried.map((index) => batch[index]),
            () => batch, // the platform retries a batch whose consumer throws
          )
          await queue.back(retried)
        }
      }
      await edge.settle()
      return delivered
    },
  }
}

const isHints = (body: unknown): body is EventMessage & { kind: 'hints' } =>
  (body as { kind?: string }).kind === 'hints'

/** Runs the cron and the queues until nothing is pending, as the minutes after an outage do. */
export async function heal(lab: Lab): Promise<void> {
  const now = Date.now()
  for (let minute = 0; minute < 4; minute += 1) {
    // A cron that lost its Redis may hold the lock for another second.
    for (let attempt = 0; ; attempt += 1) {
      try {
        await lab.newIsolate().cron(now + minute * 61_000)
        break
      } catch (error) {
        if (attempt === 10) throw error
        await new Promise((resolve) => setTimeout(resolve, 300))
      }
    }
    for (let round = 0; round < 20 && (await lab.deliver()) > 0; round += 1);
  }
}

/** What is wrong in D1, or differs between D1 and Redis, search and the API, when nothing is pending. */
export async function inconsistencies(lab: Lab): Promise<string[]> {
  const found: string[] = []
  for (const [what, query] of Object.entries(wrongSince(lab.startedAt))) {
    const rows = await db.all<Record<string, unknown>>(sql.raw(query))
    for (const row of rows) found.push(`${what}: ${JSON.stringify(row)}`)
  }
  const edge = lab.newIsolate()
  for (const compare of [comparePosts, compareUsers, compareSearch]) found.push(...(await compare(lab, edge)))
  await edge.settle()
  return [...found, ...(await compareRedis(lab))]
}

/** The named fields in which what the API shows of rows differs from the rows. */
async function compareShown(
  edge: Lab['edge'],
  path: string,
  rows: Record<string, unknown>[],
  fields: string[],
): Promise<string[]> {
  const found: string[] = []
  for (let i = 0; i < rows.length; i += 100) {
    const some = rows.slice(i, i + 100)
    const answer = await edge.fetch(`${path}?ids=${some.map(({ id }) => id).join()}`)
    const { items } = await answer.json<{ items: Record<string, unknown>[] }>()
    const shown = new Map(items.map((item) => [item['id'], item]))
    for (const row of some) {
      for (const name of fields) {
        const value = shown.get(row['id'])?.[name]
        if (value !== row[name])
          found.push(`${name} of ${String(row['id'])}: D1 ${String(row[name])}, API ${String(value)}`)
      }
    }
  }
  return found
}

async function comparePosts(lab: Lab, edge: Lab['edge']): Promise<string[]> {
  const rows = await db.select().from(posts).where(gte(posts.createdAt, lab.startedAt))
  return compareShown(edge, '/v1/posts', rows, ['text', 'likesCount', 'commentsCount', 'viewsCount'])
}

async function compareUsers(lab: Lab, edge: Lab['edge']): Promise<string[]> {
  const rows = await db
    .select()
    .from(users)
    .where(sql`created_at >= ${lab.startedAt} AND NOT EXISTS (SELECT 1 FROM removals WHERE content_id = users.id)`)
  const counts = ['followersCount', 'followingsCount', 'postsCount']
  return compareShown(edge, '/v1/users', rows, ['displayName', 'bio', ...counts])
}

/** Whether search finds what an event is about. Its text is one word that nothing else has. */
async function compareSearch(lab: Lab, edge: Lab['edge']): Promise<string[]> {
  const found: string[] = []
  const rows = await db.all<{ id: string; type: string; word: string }>(sql`
    SELECT posts.id, 'posts' AS type, text AS word FROM events JOIN posts ON posts.id = subject
    WHERE type IN ('post_created', 'post_updated') AND events.created_at >= ${lab.startedAt}
    UNION SELECT users.id, 'users', bio FROM events JOIN users ON users.id = subject
    WHERE type = 'user_updated' AND bio <> '' AND events.created_at >= ${lab.startedAt}`)
  for (const { id, type, word } of rows) {
    const answer = await edge.fetch(`/v1/search?q=${encodeURIComponent(word)}&type=${type}`)
    if (!(await answer.text()).includes(`"${id}"`)) found.push(`search does not find ${id}`)
  }
  return found
}

/** A count or an epoch, or a session: a word if it ended. */
type Held = number | string | { epoch: number } | null

/** Counts and sessions that Redis holds and D1 contradicts, and work that Redis has and D1 does not. */
async function compareRedis({ edge: { sdk }, members }: Lab): Promise<string[]> {
  const found: string[] = []
  const held: string[] = []
  for (let cursor = '0'; ;) {
    const [next, some] = await sdk.scan(cursor, { count: 1_000 })
    held.push(...some)
    if (next === '0') break
    cursor = next
  }
  const read = held.filter((key) => /^(count|session|epoch):/.test(key))
  const replies = read.length > 0 ? await sdk.mget<Held[]>(...read) : []
  const values = new Map(replies.map((value, i) => [read[i], value]))

  const counted = await db.all<Record<'id', string> & Record<'likes' | 'comments' | 'views', number>>(sql`
    SELECT id, likes_count AS likes, comments_count AS comments, views_count AS views FROM posts
    UNION ALL SELECT id, likes_count, NULL, NULL FROM comments`)
  for (const row of counted) {
    for (const counter of ['likes', 'comments', 'views'] as const) {
      const value = values.get(keys.count(counter, row.id)) ?? row[counter]
      if (value !== row[counter])
        found.push(`${counter} of ${row.id}: D1 ${row[counter]}, Redis ${JSON.stringify(value)}`)
    }
  }

  const epochs = await db.select({ id: users.id, epoch: users.sessionEpoch }).from(users)
  for (const { id, epoch } of epochs) {
    const value = values.get(keys.epoch(id)) ?? epoch
    if (value !== epoch) found.push(`epoch of ${id}: D1 ${epoch}, Redis ${JSON.stringify(value)}`)
  }
  const stored = new Set((await db.select({ id: sessions.id }).from(sessions)).map(({ id }) => id))
  for (const { userId, sessionId } of members) {
    const session = values.get(keys.session(sessionId))
    if (stored.has(sessionId) || typeof session !== 'object' || session === null) continue
    const epoch = values.get(keys.epoch(userId))
    if (epoch === session.epoch) found.push(`D1 does not have the session ${sessionId} of ${userId}, Redis has it`)
  }

  for (const key of [keys.likesUnwritten, keys.viewsUnwritten]) {
    const left = await sdk.zcount(key, 1, '+inf')
    if (left > 0) found.push(`${left} in ${key}`)
  }
  return found
}

/** Queries for rows that contradict others. Events: those since then (Unix ms). */
const wrongSince = (startedAt: number) => ({
  'counts of a post': `SELECT id, likes_count, comments_count FROM posts WHERE
    likes_count <> (SELECT count(*) FROM post_likes WHERE post_id = posts.id AND is_liked) OR
    comments_count <> (SELECT count(*) FROM comments WHERE post_id = posts.id AND deleted_at IS NULL)`,
  'likes of a comment': `SELECT id, likes_count FROM comments WHERE
    likes_count <> (SELECT count(*) FROM comment_likes WHERE comment_id = comments.id AND is_liked)`,
  'counts of a user': `SELECT id, followers_count, followings_count, posts_count FROM users WHERE
    followers_count <> (SELECT count(*) FROM follows WHERE followed_id = users.id) OR
    followings_count <> (SELECT count(*) FROM follows WHERE follower_id = users.id) OR
    posts_count <> (SELECT count(*) FROM posts WHERE author_id = users.id)`,
  'search has what is gone': `SELECT id FROM search_documents
    WHERE id NOT IN (SELECT id FROM posts) AND id NOT IN (SELECT id FROM users)`,
  'event not dispatched': `SELECT id, type, attempts FROM events WHERE due_at IS NOT NULL AND created_at >= ${startedAt}`,
  'gap in a sequence': `SELECT channel, subject FROM events WHERE sequence > 0 GROUP BY channel, subject
    HAVING count(*) <> max(sequence) - min(sequence) + 1`,
})
