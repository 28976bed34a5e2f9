/** Fills a D1 with many rows, by SQL in its file. Popularity follows Zipf's law, as in the demo data. */
import { DatabaseSync } from 'node:sqlite'
import { ulid } from 'ulid'
import { indexed, indexedJoined } from '../src/search/words.ts'
import { createSessionTokens } from '../src/sessions/token.ts'
import { SERVICE_TOKEN } from './town.ts'

const DAY_MS = 86_400_000
/** Rows of one statement: between two statements the progress bar moves. */
const CHUNK = 100_000
/** Expired rows of each kind, however large the database: more than one purge removes. */
const EXPIRED = 1_500
/** The most liked posts, which the measurement uses. */
const POSTS = 200
/** Users who are signed in. */
const SIGNED_IN = 300

/** What a filled database has, for the requests of the measurement. */
export interface Filled {
  /** Rows of all tables. */
  rows: number
  bytes: number
  /** The most followed user, and the most liked posts, best first. */
  famousUserId: string
  likedPostIds: string[]
  /** Users with a session, who like none of those posts. The nth wrote the nth of them. */
  members: { userId: string; token: string }[]
}

/** The largest of the popular has at most as many as there are others: `top / rank` adds up to `sum`. */
function zipfTop(sum: number, ranks: number, most: number): number {
  let low = 0
  let high = sum
  for (let step = 0; step < 50; step += 1) {
    const top = (low + high) / 2
    let total = 0
    // Beyond this rank all have the same share to a thousandth: integrate instead of adding up.
    const exact = Math.min(ranks, 100_000)
    for (let rank = 1; rank <= exact; rank += 1) total += Math.min(most, Math.floor(top / rank))
    if (ranks > exact) total += Math.max(0, Math.min(top, ranks) - exact) * Math.min(most, top / exact) * 0.5
    if (total < sum) low = top
    else high = top
  }
  return Math.floor(high)
}

/**
 * Fills the empty D1 in `file` with about `rows` rows: users 5 %, posts 10 %, likes 60 %, follows 15 %, events 10 %. It also
 * writes what listeners derive from them: search index, scores, sequences. Counts are what triggers would make them.
 */
export function fill(file: string, rows: number, now: number, progress: (text: string) => void): Filled {
  const db = new DatabaseSync(file, { enableForeignKeyConstraints: false })
  db.exec('PRAGMA synchronous = OFF; PRAGMA cache_size = -400000; PRAGMA temp_store = MEMORY')
  const users = Math.max(SIGNED_IN + 50, Math.round(rows * 0.05))
  const posts = Math.max(POSTS, Math.round(rows * 0.1))
  const events = Math.round(rows * 0.1)
  const topLikes = zipfTop(rows * 0.6, posts, users - SIGNED_IN)
  const topFollowers = zipfTop(rows * 0.15, users, users - 1)

  // Triggers and indexes come back at the end: one pass over all rows is faster than one lookup per row.
  const later = db
    .prepare("SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL")
    .all() as { type: string; name: string; sql: string }[] // as SQLite keeps them
  for (const { type, name } of later) db.exec(`DROP ${type} ${name}`)

  // `n` numbers rows from 1 in an order that says nothing about time or popularity: ids scatter as they do in life.
  const idOf = (kind: string, n: number, at: number) => `${kind}_${ulid(at, seeded(n))}`.toLowerCase()
  db.function('id_of', { deterministic: true }, (kind, n, at) => idOf(String(kind), Number(n), Number(at)))
  db.function('words_of', { deterministic: true }, (text) => `${indexed(String(text))} ${indexedJoined(String(text))}`)
  db.function('text_of', { deterministic: true }, (n) => textOf(Number(n)))
  db.exec(`
    CREATE TEMP TABLE user_ranks (rank INTEGER PRIMARY KEY, id TEXT NOT NULL);
    CREATE TEMP TABLE post_ranks (rank INTEGER PRIMARY KEY, id TEXT NOT NULL, created_at INTEGER NOT NULL);
    BEGIN`)
  /** Runs `sql` for the numbers ?1 to ?2, a chunk at a time. */
  function each(name: string, count: number, sql: string): void {
    const statement = db.prepare(sql)
    for (let from = 1; from <= count; from += CHUNK) {
      statement.run(from, Math.min(count, from + CHUNK - 1))
      progress(bar(name, Math.min(count, from + CHUNK - 1) / count))
    }
  }
  const numbers = 'WITH RECURSIVE numbers (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2)'
  const userAge = `${now} - 60 * ${DAY_MS} - n * 7919 % (600 * ${DAY_MS})`
  // Half of the posts are a week old or younger, as in the demo data.
  const postAge = `${now} - 600000 - CAST(30 * ${DAY_MS} * pow((n * 7919 % 100003) / 100003.0, 2.2) AS INTEGER)`

  each('users', users, `${numbers} INSERT INTO user_ranks SELECT n, id_of('u', n, ${userAge}) FROM numbers`)
  each(
    'users',
    users,
    `INSERT INTO users (id, username, email, password_hash, display_name, bio, followers_count, created_at, updated_at)
    SELECT id, 'user_' || rank, 'user_' || rank || '@example.com', 'none', 'User ' || rank, text_of(rank),
      min(${users - 1}, ${topFollowers} / rank), ${now} - 60 * ${DAY_MS}, ${now} - 60 * ${DAY_MS}
    FROM user_ranks WHERE rank BETWEEN ?1 AND ?2`,
  )
  each(
    'posts',
    posts,
    `${numbers} INSERT INTO post_ranks SELECT n, id_of('p', n, at), at FROM (SELECT n, ${postAge} AS at FROM numbers)`,
  )
  const likesOf = `min(${users - SIGNED_IN}, ${topLikes} / rank)`
  each(
    'posts',
    posts,
    `INSERT INTO posts (id, author_id, text, likes_count, created_at, updated_at)
    SELECT post_ranks.id, user_ranks.id, text_of(post_ranks.rank), min(${users - SIGNED_IN}, ${topLikes} / post_ranks.rank),
      created_at, created_at
    FROM post_ranks JOIN user_ranks ON user_ranks.rank = CASE
      WHEN post_ranks.rank < ${SIGNED_IN} THEN 1 + post_ranks.rank ELSE 1 + (post_ranks.rank * 104729) % ${users}
    END
    WHERE post_ranks.rank BETWEEN ?1 AND ?2`,
  )
  // Each post is liked by users in a row, from another one on, but not by those who like posts in the measurement.
  db.exec('CREATE TEMP TABLE series (n INTEGER PRIMARY KEY)')
  each(
    'likes',
    Math.min(users, Math.max(topLikes, topFollowers) + 1),
    `${numbers} INSERT INTO series SELECT n FROM numbers`,
  )
  const ranked = (top: number, ranks: number) => Math.min(ranks, top) // beyond, nobody has any
  eachSum(
    'likes',
    ranked(topLikes, posts),
    (rank) => Math.min(users - SIGNED_IN, Math.floor(topLikes / rank)),
    (from, to) => {
      db.prepare(
        `INSERT INTO post_likes (post_id, user_id, is_liked, changed_at)
      SELECT post_ranks.id, user_ranks.id, 1, created_at + series.n
      FROM post_ranks CROSS JOIN series ON series.n <= ${likesOf.replaceAll('rank', 'post_ranks.rank')}
      CROSS JOIN user_ranks ON user_ranks.rank = ${SIGNED_IN} + 1 + (post_ranks.rank * 31 + series.n) % ${users - SIGNED_IN}
      WHERE post_ranks.rank BETWEEN ?1 AND ?2`,
      ).run(from, to)
    },
  )
  eachSum(
    'follows',
    ranked(topFollowers, users),
    (rank) => Math.min(users - 1, Math.floor(topFollowers / rank)),
    (from, to) => {
      db.prepare(
        `INSERT INTO follows (follower_id, followed_id, id, created_at)
      SELECT follower.id, followed.id, id_of('f', followed.rank * 1000003 + series.n, at), at
      FROM user_ranks AS followed CROSS JOIN series ON series.n <= min(${users - 1}, ${topFollowers} / followed.rank)
      CROSS JOIN user_ranks AS follower ON follower.rank = 1 + (followed.rank - 1 + series.n) % ${users}
      CROSS JOIN (SELECT ${now} - ${DAY_MS} AS at)
      WHERE followed.rank BETWEEN ?1 AND ?2`,
      ).run(from, to)
    },
  )
  const eventAt = `CASE WHEN n <= ${EXPIRED} THEN ${now} - 100 * ${DAY_MS} - n ELSE ${now} - 60000 - n * 7919 % (6 * ${DAY_MS}) END`
  each(
    'events',
    events + EXPIRED,
    `${numbers} INSERT INTO events (id, channel, type, subject, sequence, public_sequence, data, audience, created_at)
    SELECT id_of('ev', n, at), 'post_events', 'post_created', id, 1, 1, json_object('postId', id), '"everyone"', at
    FROM (SELECT n, ${eventAt} AS at FROM numbers) JOIN post_ranks ON rank = 1 + n % ${posts}`,
  )
  each(
    'event sequences',
    posts,
    `INSERT INTO event_sequences (channel, subject, sequence, public_sequence)
    SELECT 'post_events', id, 1, 1 FROM post_ranks WHERE rank BETWEEN ?1 AND ?2`,
  )
  each(
    'scores',
    posts,
    `UPDATE posts SET score = log2(1 + likes_count) + created_at / 28800000.0
    WHERE likes_count >= 2 AND id IN (SELECT id FROM post_ranks WHERE rank BETWEEN ?1 AND ?2)`,
  )
  each(
    'search index',
    posts,
    `INSERT INTO search_documents (place, id) SELECT rank, id FROM post_ranks WHERE rank BETWEEN ?1 AND ?2`,
  )
  each(
    'search index',
    posts,
    `INSERT INTO post_words (rowid, words) SELECT rank, words_of(text_of(rank)) FROM post_ranks WHERE rank BETWEEN ?1 AND ?2`,
  )
  const members = signIn(db, now)
  for (const [i, { sql }] of later.filter(({ type }) => type === 'index').entries()) {
    db.exec(sql)
    progress(bar('indexes', (i + 1) / later.length))
  }
  db.exec(`UPDATE users SET posts_count = (SELECT count(*) FROM posts WHERE author_id = users.id),
    followings_count = (SELECT count(*) FROM follows WHERE follower_id = users.id)`)
  for (const { sql } of later.filter(({ type }) => type === 'trigger')) db.exec(sql)
  db.exec('COMMIT')
  progress('')

  const one = (sql: string) => Object.values(db.prepare(sql).get() ?? {})[0]
  const tables = ['users', 'posts', 'post_likes', 'follows', 'events']
  const filled = {
    rows: tables.reduce((sum, table) => sum + Number(one(`SELECT count(*) FROM ${table}`)), 0),
    bytes: Number(one('SELECT page_count * page_size FROM pragma_page_count, pragma_page_size')),
    famousUserId: String(one('SELECT id FROM user_ranks WHERE rank = 1')),
    likedPostIds: db
      .prepare(`SELECT id FROM post_ranks ORDER BY rank LIMIT ${POSTS}`)
      .all()
      .map(({ id }) => String(id)),
    members,
  }
  db.close()
  return filled

  /** Runs `insert` for ranges of ranks with about a chunk of rows each. `rowsOf`: how many rows a rank has. */
  function eachSum(
    name: string,
    ranks: number,
    rowsOf: (rank: number) => number,
    insert: (from: number, to: number) => void,
  ): void {
    let from = 1
    let sum = 0
    for (let rank = 1; rank <= ranks; rank += 1) {
      sum += rowsOf(rank)
      if (sum < CHUNK && rank < ranks) continue
      insert(from, rank)
      progress(bar(name, rank / ranks))
      from = rank + 1
      sum = 0
    }
  }
}

/** Sessions for the first users but the most followed one, and expired ones. */
function signIn(db: DatabaseSync, now: number): Filled['members'] {
  const tokens = createSessionTokens(SERVICE_TOKEN)
  const insert = db.prepare(
    `INSERT INTO sessions (id, user_id, secret_hash, epoch, user_agent, created_at, last_seen_at, expires_at)
    VALUES (?, ?, ?, 0, 'bench', ?, ?, ?)`,
  )
  const ids = db.prepare(`SELECT id FROM user_ranks WHERE rank > 1 ORDER BY rank LIMIT ${SIGNED_IN - 1}`).all()
  const members = ids.map(({ id }, i) => {
    const userId = String(id)
    const { token, claims } = tokens.issue(userId, `s_${ulid(now - i).toLowerCase()}`)
    insert.run(claims.sessionId, userId, claims.hash, now, now, now + DAY_MS)
    return { userId, token }
  })
  for (let n = 0; n < EXPIRED; n += 1) {
    const at = now - 90 * DAY_MS - n
    insert.run(`s_${ulid(at).toLowerCase()}`, members[n % members.length]?.userId ?? '', 'none', at, at, at + DAY_MS)
  }
  return members
}

const WORDS = 'bread cheese garden river winter letter music window coffee mountain paper silver morning street'.split(
  ' ',
)

/** Six words. About one text in three has a given word, and no two texts the last one. */
const textOf = (n: number): string =>
  [...[1, 3, 7, 11, 13].map((step) => WORDS[(n * step + (n >> step)) % WORDS.length]), `word${n}x`].join(' ')

/** Numbers from 0 to 1 that depend on `seed` only. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9
    return ((state ^ (state >>> 13)) >>> 0) / 4_294_967_296
  }
}

const bar = (name: string, share: number): string => {
  const width = 30
  const done = Math.round(share * width)
  return `${name.padEnd(16)} [${'#'.repeat(done)}${'-'.repeat(width - done)}] ${(share * 100).toFixed(0)} %`
}
