import { env } from 'cloudflare:workers'
import { randomBytes, scryptSync } from 'node:crypto'
import { sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { ulid } from 'ulid'
import * as schema from '../src/db/schema.ts'

export const db = drizzle(env.DB)

const newId = (kind: string, time = Date.now()) => `${kind}_${ulid(time).toLowerCase()}`

/** A password's hash for a row, at the lowest cost: to check a hash of the Worker takes a quarter of a second. */
export function quickHash(password: string): string {
  const [salt, cost] = [randomBytes(16), { N: 2, r: 1, p: 1 }]
  const key = scryptSync(password, salt, 32, cost)
  return ['scrypt', cost.N, cost.r, cost.p, salt.toString('base64url'), key.toString('base64url')].join('$')
}

/** Adds a user straight to D1, and answers the row. */
export async function addUser(values: Partial<typeof schema.users.$inferInsert> = {}) {
  const id = values.id ?? newId('u')
  const now = values.createdAt ?? Date.now()
  const rows = await db
    .insert(schema.users)
    .values({
      id,
      username: id.slice(-20),
      email: `${id}@example.test`,
      passwordHash: 'scrypt$16384$8$5$$',
      displayName: 'Somebody',
      createdAt: now,
      updatedAt: now,
      ...values,
    })
    .returning()
  return only(rows)
}

export async function addPost(values: Partial<typeof schema.posts.$inferInsert> & { authorId: string }) {
  const now = values.createdAt ?? Date.now()
  const rows = await db
    .insert(schema.posts)
    .values({ id: newId('p', now), text: 'Hello', createdAt: now, updatedAt: now, ...values })
    .returning()
  return only(rows)
}

export async function addComment(
  values: Partial<typeof schema.comments.$inferInsert> & { postId: string; authorId: string },
) {
  const now = values.createdAt ?? Date.now()
  const rows = await db
    .insert(schema.comments)
    .values({ id: newId('c', now), text: 'Well said', createdAt: now, ...values })
    .returning()
  return only(rows)
}

export async function addFollow(followerId: string, followedId: string, createdAt = Date.now()) {
  const rows = await db
    .insert(schema.follows)
    .values({ id: newId('f', createdAt), followerId, followedId, createdAt })
    .returning()
  return only(rows)
}

/** Notes that a user blocks or mutes another. */
export async function addRelation(userId: string, kind: 'block' | 'mute', otherId: string, createdAt = Date.now()) {
  await db.insert(schema.relations).values({ userId, kind, otherId, id: newId('r', createdAt), createdAt })
}

/** Notes that a user likes posts. */
export const addLike = (userId: string, ...postIds: string[]) =>
  db.insert(schema.postLikes).values(postIds.map((postId) => ({ userId, postId, isLiked: true, changedAt: 1 })))

/** Adds many users; answers their ids. */
export async function addUsers(count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, () => newId('u'))
  await db.run(sql`
    INSERT INTO users (id, username, email, password_hash, display_name, created_at, updated_at)
    SELECT value, value, value || '@example.test', 'scrypt$16384$8$5$$', 'Somebody', 0, 0
    FROM json_each(${JSON.stringify(ids)})`)
  return ids
}

/** Notes that all of `userIds` like a post. */
export const addLikes = (postId: string, userIds: string[]) =>
  db.run(sql`
    INSERT INTO post_likes (post_id, user_id, is_liked, changed_at)
    SELECT ${postId}, value, true, 1 FROM json_each(${JSON.stringify(userIds)})`)

/** Adds a webhook with one dead delivery of an event, and its attempt; answers its id. */
export async function addWebhookRows(): Promise<string> {
  const [id, eventId, deliveryId] = [newId('wh'), newId('ev'), newId('dl')]
  const now = Date.now()
  await db.insert(schema.webhooks).values({
    id,
    url: 'https://hooks.example.com/a',
    channels: ['custom_nothing'],
    headers: {},
    secret: 'whsec_c2VjcmV0IG9mIGEgdGVzdCwgMjQgYnl0ZXM=',
    status: 'enabled',
    createdAt: now,
    updatedAt: now,
  })
  const event = { id: eventId, channel: 'custom_nothing', type: 'thing', subject: 'thing', data: {} }
  await db.insert(schema.events).values({ ...event, audience: 'services', createdAt: now })
  await db.insert(schema.deliveries).values({ id: deliveryId, eventId, webhookId: id, status: 'dead', attempts: 8 })
  await db.insert(schema.deliveryAttempts).values({ deliveryId, at: now, durationMs: 7, status: 500, answer: 'no' })
  return id
}

function only<T>(rows: T[]): T {
  const [row] = rows
  if (row === undefined) throw new Error('nothing was inserted')
  return row
}
