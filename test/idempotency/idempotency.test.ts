import { and, eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import { idempotencyKeys, posts } from '../../src/db/schema.ts'
import { type KeyClaim, createIdempotency } from '../../src/idempotency/idempotency.ts'
import { migrate, newEdge } from '../edge.ts'
import { addUser, db } from '../rows.ts'

beforeAll(migrate)

const idempotency = createIdempotency(db)
const ANSWER = { status: 201, headers: { Location: '/v1/posts/p_1' }, body: '{}' }
const MINUTE = 60_000
const DAY = 86_400_000

async function claim(user: string, now: number): Promise<KeyClaim> {
  const begun = await idempotency.begin(user, 'k', 'print', now)
  if ('body' in begun) throw new Error('already answered')
  return begun
}

/** What a feature does: one batch that creates and records. */
const create = (claimed: KeyClaim, authorId: string, id = `p_${crypto.randomUUID()}`) =>
  db.batch([
    db.insert(posts).values({ id, authorId, text: 'Hello', createdAt: 0, updatedAt: 0 }),
    claimed.record(ANSWER),
  ])

const postsOf = async (authorId: string) => (await db.select().from(posts).where(eq(posts.authorId, authorId))).length

test('a key is claimed by one of twenty at once', async () => {
  const { id } = await addUser()
  const begun = await Promise.allSettled(Array.from({ length: 20 }, () => idempotency.begin(id, 'k', 'print')))
  expect(begun.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  expect(begun.find(({ status }) => status === 'rejected')).toMatchObject({
    reason: { type: 'idempotency-key-in-use', extensions: { retryAfter: 1 } },
  })
})

test('an answer is repeated for a day, to the same user and request only', async () => {
  const [{ id }, other] = [await addUser(), await addUser()]
  await create(await claim(id, 0), id)

  expect(await idempotency.begin(id, 'k', 'print', DAY)).toEqual(ANSWER)
  await expect(idempotency.begin(id, 'k', 'another', 1)).rejects.toMatchObject({ type: 'idempotency-key-reused' })
  expect(await idempotency.begin(other.id, 'k', 'another', 1)).toHaveProperty('record')
  expect(await idempotency.begin(id, 'k', 'another', DAY + 1)).toHaveProperty('record')
})

test('a released key is free, unless its answer was recorded after all', async () => {
  const { id } = await addUser()
  const failed = await claim(id, 0)
  await failed.release()
  const done = await claim(id, 0)
  await create(done, id)
  await done.release() // as after a reply of D1 that was lost
  expect(await idempotency.begin(id, 'k', 'print', 1)).toEqual(ANSWER)
})

test('the attempt of a dead Worker blocks its key for a minute', async () => {
  const { id } = await addUser()
  await claim(id, 0)
  await expect(claim(id, MINUTE)).rejects.toMatchObject({ type: 'idempotency-key-in-use' })
  await expect(idempotency.begin(id, 'k', 'another', MINUTE + 1)).rejects.toMatchObject({
    type: 'idempotency-key-reused',
  })
  const second = await claim(id, MINUTE + 1)
  await expect(claim(id, MINUTE + 2)).rejects.toMatchObject({ type: 'idempotency-key-in-use' })
  await create(second, id)
  expect(await idempotency.begin(id, 'k', 'print', MINUTE + 3)).toEqual(ANSWER)
})

test('a slow attempt that another overtakes creates nothing', async () => {
  const { id } = await addUser()
  const slow = await claim(id, 0)
  const second = await claim(id, MINUTE + 1)
  await expect(create(slow, id)).rejects.toThrow('NOT NULL')
  expect(await postsOf(id)).toBe(0)
  await slow.release() // is not its to give back
  await create(second, id)
  await expect(create(slow, id)).rejects.toThrow('NOT NULL')
  expect(await postsOf(id)).toBe(1)
})

test('an attempt that finds its key gone records its answer all the same', async () => {
  const { id } = await addUser()
  const slow = await claim(id, 0)
  await (await claim(id, MINUTE + 1)).release()
  await create(slow, id)
  expect(await idempotency.begin(id, 'k', 'print', MINUTE + 2)).toEqual(ANSWER)
  expect(await postsOf(id)).toBe(1)
})

test('a failed attempt records no answer', async () => {
  const { id } = await addUser()
  const claimed = await claim(id, 0)
  await create(claimed, id, 'p_twice')
  const again = await idempotency.begin(id, 'other', 'print', 0)
  await expect(create(again as KeyClaim, id, 'p_twice')).rejects.toThrow('UNIQUE')
  const [row] = await db
    .select()
    .from(idempotencyKeys)
    .where(and(eq(idempotencyKeys.userId, id), eq(idempotencyKeys.key, 'other')))
  expect(row?.answer).toBeNull()
})

test('keys older than a day are purged', async () => {
  const { id } = await addUser()
  await db.delete(idempotencyKeys)
  await create(await claim(id, 0), id)
  await idempotency.begin(id, 'newer', 'print', 2)
  expect(await idempotency.purge(10, DAY)).toBe(0)
  expect(await idempotency.purge(10, DAY + 1)).toBe(1)
  expect(await db.select({ key: idempotencyKeys.key }).from(idempotencyKeys)).toEqual([{ key: 'newer' }])
  await newEdge().cron(DAY + 3)
  expect(await db.select({ key: idempotencyKeys.key }).from(idempotencyKeys)).toEqual([])
})
