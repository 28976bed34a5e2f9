import { env } from 'cloudflare:workers'
import { listOf } from '../../src/db/list.ts'
import { posts } from '../../src/db/schema.ts'
import type { EventMessage, Hint } from '../../src/events/schema.ts'
import { gte, sql } from 'drizzle-orm'
import { newEdge, newQueue } from '../edge.ts'
import { addUser, db } from '../rows.ts'

/** How a dependency fails: it does nothing and reports an error, or it does the work and the answer is lost. */
export type Failure = 'none' | 'refuses' | 'loses answers' | 'refuses writes' | 'loses answers of writes'

/** A real D1 database that fails on demand. */
function newDatabase(d1: D1Database) {
  const state = { failure: 'none' as Failure }
  const originals = new WeakMap<object, D1PreparedStatement>()
  const writes = new WeakSet<object>()
  async function run<T>(isWrite: boolean, work: () => Promise<T>): Promise<T> {
    const { failure } = state
    if (failure === 'refuses' || (failure === 'refuses writes' && isWrite)) throw lost()
    const result = await work()
    if (failure === 'loses answers' || (failure === 'loses answers of writes' && isWrite)) throw lost()
    return result
  }
  const lost = () => new Error('D1_ERROR: Network connection lost.')
  function wrap(statement: D1PreparedStatement, isWrite: boolean): D1PreparedStatement {
    const wrapped = new Proxy(statement, {
      get(target, name) {
        if (name === 'bind') return (...values: unknown[]) => wrap(target.bind(...values), isWrite)
        const member: unknown = Reflect.get(target, name)
        if (typeof member !== 'function') return member
        return (...values: unknown[]) => run(isWrite, () => Reflect.apply(member, target, values) as Promise<unknown>)
      },
    })
    originals.set(wrapped, statement)
    if (isWrite) writes.add(wrapped)
    return wrapped
  }
  const binding = {
    prepare: (query: string) => wrap(d1.prepare(query), !/^\s*select/i.test(query)),
    batch: (statements: D1PreparedStatement[]) =>
      run(
        statements.some((statement) => writes.has(statement)),
        () => d1.batch(statements.map((statement) => originals.get(statement) ?? statement)),
      ),
  }
  return { state, binding }
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
export function newLab() {
  const token = `test-${crypto.randomUUID()}`
  const database = newDatabase(env.DB)
  const queues = { likes: newFailingQueue(), events: newFailingQueue(), deliveries: newFailingQueue() }
  const bindings = {
    DB: database.binding,
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
  const newIsolate = (more: Record<string, unknown> = {}) => newEdge({ ...bindings, ...more }, token)
  const edge = newIsolate()
  const startedAt = Date.now()
  /** The hints that were delivered, in their order. */
  const hints: Hint[] = []

  return {
    startedAt,
    hints,
    edge,
    newIsolate,
    redis: edge.redis,
    database: database.state,
    queues: Object.values(queues).map(({ state }) => state),

    /** A new user, signed in. */
    async member(values: Parameters<typeof addUser>[0] = {}) {
      const user = await addUser(values)
      return { ...user, headers: await edge.signIn(user) }
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

/** What is wrong in D1, or differs between D1 and the API, when nothing is pending. */
export async function inconsistencies(lab: Lab): Promise<string[]> {
  const found: string[] = []
  for (const [what, query] of Object.entries(wrongSince(lab.startedAt))) {
    const rows = await db.all<Record<string, unknown>>(sql.raw(query))
    for (const row of rows) found.push(`${what}: ${JSON.stringify(row)}`)
  }
  const edge = lab.newIsolate()
  const ids = (await db.select({ id: posts.id }).from(posts).where(gte(posts.createdAt, lab.startedAt))).map(
    ({ id }) => id,
  )
  for (let i = 0; i < ids.length; i += 100) {
    const some = ids.slice(i, i + 100)
    const answer = await edge.fetch(`/v1/posts?ids=${some.join()}`)
    const { items } = await answer.json<{ items: Record<string, unknown>[] }>()
    const shown = new Map(items.map((post) => [post['id'], post]))
    const rows = await db
      .select()
      .from(posts)
      .where(sql`${posts.id} IN ${listOf(some)}`)
    for (const { id, likesCount, commentsCount, viewsCount } of rows) {
      const post = shown.get(id)
      for (const [name, count] of Object.entries({ likesCount, commentsCount, viewsCount })) {
        if (post?.[name] !== count) found.push(`${name} of ${id}: D1 ${count}, API ${String(post?.[name])}`)
      }
    }
  }
  await edge.settle()
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
  'event not dispatched': `SELECT id, type, attempts FROM events WHERE due_at IS NOT NULL AND created_at >= ${startedAt}`,
  'gap in a sequence': `SELECT channel, subject FROM events WHERE sequence > 0 GROUP BY channel, subject
    HAVING count(*) <> max(sequence) - min(sequence) + 1`,
})
