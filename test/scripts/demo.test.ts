import { scryptSync } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { DatabaseSync, type SQLInputValue } from 'node:sqlite'
import { decodeTime } from 'ulid'
import { expect, test } from 'vitest'
import { DEMO_PASSWORD, generateDemo } from '../../scripts/demo/data.ts'
import { isEmpty, loadDemo } from '../../scripts/demo/load.ts'

const NOW = Date.UTC(2026, 3, 1, 12)
const DAY_MS = 86_400_000
const demo = generateDemo(NOW)

/** The part of D1 that loading uses, with the real tables and triggers, in SQLite. */
function newDatabase() {
  const sqlite = new DatabaseSync(':memory:')
  const migrations = new URL('../../migrations/', import.meta.url)
  for (const file of readdirSync(migrations).sort()) {
    if (file.endsWith('.sql')) sqlite.exec(readFileSync(new URL(file, migrations), 'utf8'))
  }
  const prepare = (sql: string, values: SQLInputValue[] = []) => ({
    bind: (...bound: unknown[]) => prepare(sql, bound as SQLInputValue[]),
    first: async <T>(column: string) => (sqlite.prepare(sql).get(...values)?.[column] ?? null) as T | null,
    run: () => sqlite.prepare(sql).run(...values),
  })
  type Statement = ReturnType<typeof prepare>
  const db = {
    prepare: (sql: string) => prepare(sql),
    async batch(statements: unknown[]) {
      sqlite.exec('BEGIN')
      try {
        for (const statement of statements as Statement[]) statement.run()
        sqlite.exec('COMMIT')
      } catch (error) {
        sqlite.exec('ROLLBACK')
        throw error
      }
    },
  }
  const count = (sql: string) => Number(sqlite.prepare(`SELECT count(*) AS n FROM ${sql}`).get()?.['n'])
  return { db, count }
}

/** Rows with ids and times relative to `now`: equal for data generated at different times. */
function timeless(rows: object[], now: number) {
  return JSON.parse(JSON.stringify(rows), (key, value: unknown) => {
    if (typeof value === 'number' && key.endsWith('At')) return value - now
    if (typeof value === 'string' && /^[upcf]_[0-9a-z]{26}$/.test(value)) {
      return `${value.slice(0, 2)}${decodeTime(value.slice(2).toUpperCase()) - now} ${value.slice(12)}`
    }
    return value
  }) as unknown
}

test('the same now gives the same data, and another now changes only the times', () => {
  expect(generateDemo(NOW)).toEqual(demo)
  const later = NOW + 3 * DAY_MS + 12_347
  const moved = generateDemo(later)
  for (const kind of Object.keys(demo) as (keyof typeof demo)[]) {
    expect(timeless(moved[kind], later)).toEqual(timeless(demo[kind], NOW))
  }
})

test('there are as many users, posts, comments and follows as documented', () => {
  expect(demo.users).toHaveLength(200)
  expect(demo.posts).toHaveLength(5_000)
  expect(demo.comments).toHaveLength(10_000)
  expect(demo.postLikes.length).toBeGreaterThan(20_000)
  expect(demo.postLikes.length).toBeLessThan(50_000)
  expect(demo.commentLikes.length).toBeGreaterThan(2_000)
  expect(demo.follows.length).toBeGreaterThan(3_000)
  expect(demo.users.slice(0, 2).map((user) => user.username)).toEqual(['ada', 'bob'])
})

test('ids carry the kind and the time of their row, and rows are in the order of their ids', () => {
  const kinds = { u: demo.users, p: demo.posts, c: demo.comments, f: demo.follows }
  for (const [kind, rows] of Object.entries(kinds)) {
    const shape = new RegExp(`^${kind}_[0-9a-z]{26}$`)
    const misshapen = rows.filter(
      ({ id, createdAt }) => !shape.test(id) || decodeTime(id.slice(2).toUpperCase()) !== createdAt,
    )
    expect(misshapen).toEqual([])
    const ids = rows.map((row) => row.id)
    expect(new Set(ids).size).toBe(ids.length)
    expect(ids).toEqual(ids.toSorted())
  }
})

test('nothing happens before its subject exists, nor after now', () => {
  const born = new Map([...demo.users, ...demo.posts, ...demo.comments].map((row) => [row.id, row.createdAt]))
  const isPast = (time: number, ...ids: string[]) =>
    time <= NOW && ids.every((id) => time >= (born.get(id) ?? Infinity))
  const misplaced = [
    ...demo.posts.filter((post) => !isPast(post.createdAt, post.authorId)),
    ...demo.comments.filter((comment) => !isPast(comment.createdAt, comment.authorId, comment.postId)),
    ...demo.follows.filter((follow) => !isPast(follow.createdAt, follow.followerId, follow.followedId)),
    ...demo.postLikes.filter((like) => !isPast(like.changedAt, like.userId, like.postId)),
    ...demo.commentLikes.filter((like) => !isPast(like.changedAt, like.userId, like.commentId)),
  ]
  expect(misplaced).toEqual([])
})

test('popularity follows Zipf: the first has many times as much as the middle', () => {
  const tally = (ids: string[]) =>
    [...Map.groupBy(ids, (id) => id).values()].map((group) => group.length).sort((a, b) => b - a)
  const likes = tally(demo.postLikes.map((like) => like.postId))
  const middle = likes[2_500] ?? 0
  expect(likes[0]).toBeGreaterThan(50 * Math.max(1, middle))
  // ten times further down the list, about a tenth of the likes
  expect((likes[300] ?? 0) / (likes[3_000] ?? 1)).toBeGreaterThan(5)
  const followers = tally(demo.follows.map((follow) => follow.followedId))
  expect(followers[0]).toBeGreaterThan(5 * (followers[100] ?? Infinity))
  const comments = tally(demo.comments.map((comment) => comment.postId))
  expect(comments[0]).toBeGreaterThan(30)
})

test('the last seven days, the window of the hot feed, have many posts and likes', () => {
  const recent = new Set(demo.posts.filter((post) => post.createdAt > NOW - 7 * DAY_MS).map((post) => post.id))
  expect(recent.size).toBeGreaterThan(2_000)
  expect(demo.postLikes.filter((like) => recent.has(like.postId)).length).toBeGreaterThan(5_000)
  expect(Math.min(...demo.posts.map((post) => post.createdAt))).toBeGreaterThan(NOW - 31 * DAY_MS)
})

test('posts are short and long, at most 500 characters, and some are not in Latin letters', () => {
  const texts = demo.posts.map((post) => post.text)
  const lengths = texts.map((text) => text.length)
  expect(Math.min(...lengths)).toBeGreaterThan(0)
  expect(Math.min(...lengths)).toBeLessThan(15)
  expect(Math.max(...lengths)).toBeGreaterThan(250)
  expect(Math.max(...lengths)).toBeLessThanOrEqual(500)
  expect(texts.filter((text) => /\p{Script=Han}|\p{Script=Hangul}/u.test(text)).length).toBeGreaterThan(100)
  expect(texts.filter((text) => /\p{Extended_Pictographic}/u.test(text)).length).toBeGreaterThan(500)
  expect(texts.filter((text) => /undefined|null|NaN|\[object|lorem ipsum/.test(text))).toEqual([])
  expect(new Set(texts).size).toBeGreaterThan(3_500)
})

test('usernames are valid for sign-up, and the password is the documented one', () => {
  for (const user of demo.users) expect(user.username).toMatch(/^[a-z][a-z0-9_]{2,29}$/)
  const [scheme, n, r, p, salt = '', hash] = demo.users[0]?.passwordHash.split('$') ?? []
  expect(scheme).toBe('scrypt')
  const cost = { N: Number(n), r: Number(r), p: Number(p), maxmem: 64 * 1024 * 1024 }
  expect(cost).toMatchObject({ N: 16_384, r: 8, p: 5 })
  expect(Buffer.from(salt, 'base64url')).toHaveLength(16)
  expect(scryptSync(DEMO_PASSWORD, Buffer.from(salt, 'base64url'), 32, cost).toString('base64url')).toBe(hash)
})

test('all rows are loaded, and every count equals the number of its rows', async () => {
  const { db, count } = newDatabase()
  expect(await isEmpty(db)).toBe(true)
  await loadDemo(db, demo)
  expect(await isEmpty(db)).toBe(false)

  expect(count('users')).toBe(demo.users.length)
  expect(count('posts')).toBe(demo.posts.length)
  expect(count('comments')).toBe(demo.comments.length)
  expect(count('follows')).toBe(demo.follows.length)
  expect(count('post_likes WHERE is_liked = 1')).toBe(demo.postLikes.length)
  expect(count('comment_likes WHERE is_liked = 1')).toBe(demo.commentLikes.length)
  const wrong = [
    'posts p WHERE likes_count <> (SELECT count(*) FROM post_likes WHERE post_id = p.id)',
    'posts p WHERE comments_count <> (SELECT count(*) FROM comments WHERE post_id = p.id)',
    'comments c WHERE likes_count <> (SELECT count(*) FROM comment_likes WHERE comment_id = c.id)',
    'users u WHERE posts_count <> (SELECT count(*) FROM posts WHERE author_id = u.id)',
    'users u WHERE followers_count <> (SELECT count(*) FROM follows WHERE followed_id = u.id)',
    'users u WHERE followings_count <> (SELECT count(*) FROM follows WHERE follower_id = u.id)',
    'follows WHERE follower_id = followed_id',
  ]
  for (const rows of wrong) expect([rows, count(rows)]).toEqual([rows, 0])
  expect(count('posts WHERE likes_count > 150')).toBeGreaterThan(0)
})

test('a load that fails inserts nothing and can be repeated', async () => {
  const { db, count } = newDatabase()
  const [follow] = demo.follows
  const broken = { ...demo, follows: [...demo.follows, { ...follow, followerId: 'u_nobody' }] as typeof demo.follows }
  await expect(loadDemo(db, broken)).rejects.toThrow(/FOREIGN KEY/)
  expect(count('users')).toBe(0)
  expect(await isEmpty(db)).toBe(true)

  await loadDemo(db, demo)
  expect(count('users')).toBe(200)
})

test('no statement has a value near the 2 MB limit of D1', async () => {
  const { db } = newDatabase()
  const sizes: number[] = []
  const watched = {
    ...db,
    prepare: (sql: string) => {
      const statement = db.prepare(sql)
      return {
        ...statement,
        bind: (...values: unknown[]) => {
          sizes.push(Buffer.byteLength(sql) + values.reduce<number>((sum, v) => sum + Buffer.byteLength(String(v)), 0))
          return statement.bind(...values)
        },
      }
    },
  }
  await loadDemo(watched, demo)
  expect(sizes.length).toBeGreaterThan(6)
  expect(Math.max(...sizes)).toBeLessThan(1_000_000)
})
