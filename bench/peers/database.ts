/** The queries of the peers: plain D1, with the same indexes and answer types as ours. */
import type { Post } from '../../src/posts/schema.ts'
import type { User } from '../../src/users/schema.ts'

/** A post without its counts. */
export type PostText = Omit<Post, keyof Counts | 'likedByMe'>
export type Counts = Pick<Post, 'likesCount' | 'commentsCount' | 'viewsCount'>

export interface Session {
  userId: string
  hash: string
  expiresAt: number
}

const DAY_MS = 86_400_000
const HOT_DAYS = 7
const HOT_SIZE = 120
/** Twice the weight is worth as much as being this much younger, as in `src/db/score.ts`. */
const DOUBLING_MS = 28_800_000

const marks = (ids: string[]) => ids.map(() => '?').join(', ')
const iso = (timeMs: number) => new Date(timeMs).toISOString()

export async function loadUsers(db: D1Database, ids: string[]): Promise<Map<string, User>> {
  const { results } = await db
    .prepare(
      `SELECT id, username, display_name AS displayName, bio, followers_count AS followersCount,
        followings_count AS followingsCount, posts_count AS postsCount, created_at AS createdAt, version
      FROM users WHERE id IN (${marks(ids)})`,
    )
    .bind(...ids)
    .all<Omit<User, 'createdAt'> & { createdAt: number }>()
  return new Map(results.map((row) => [row.id, { ...row, createdAt: iso(row.createdAt) }]))
}

export async function loadPosts(db: D1Database, ids: string[]): Promise<Map<string, PostText>> {
  const { results } = await db
    .prepare(
      `SELECT id, author_id AS authorId, text, created_at AS createdAt, updated_at AS updatedAt, version
      FROM posts WHERE id IN (${marks(ids)})`,
    )
    .bind(...ids)
    .all<Omit<PostText, 'createdAt' | 'updatedAt'> & { createdAt: number; updatedAt: number }>()
  return new Map(
    results.map((row) => [row.id, { ...row, createdAt: iso(row.createdAt), updatedAt: iso(row.updatedAt) }]),
  )
}

const counts = 'likes_count AS likesCount, comments_count AS commentsCount, views_count AS viewsCount'

export async function loadCounts(db: D1Database, ids: string[]): Promise<Map<string, Counts>> {
  const { results } = await db
    .prepare(`SELECT id, ${counts} FROM posts WHERE id IN (${marks(ids)})`)
    .bind(...ids)
    .all<Counts & { id: string }>()
  return new Map(results.map(({ id, ...row }) => [id, row]))
}

export async function loadLiked(db: D1Database, userId: string, ids: string[]): Promise<Map<string, boolean>> {
  const { results } = await db
    .prepare(`SELECT post_id AS id FROM post_likes WHERE user_id = ? AND is_liked AND post_id IN (${marks(ids)})`)
    .bind(userId, ...ids)
    .all<{ id: string }>()
  const liked = new Set(results.map((row) => row.id))
  return new Map(ids.map((id) => [id, liked.has(id)]))
}

/** The score of a post, as `src/db/score.ts` computes it. */
export const scoreOf = ({ likesCount, commentsCount, viewsCount, createdAt }: Post): number =>
  Math.log2(1 + 3 * commentsCount + likesCount + 0.1 * viewsCount) + Date.parse(createdAt) / DOUBLING_MS

/** The posts of the last days with the highest scores, and the newest ones, most of which have none. In one batch. */
export async function loadHot(db: D1Database, now: number): Promise<string[]> {
  const since = now - HOT_DAYS * DAY_MS
  const score = `log2(1 + 3 * comments_count + likes_count + 0.1 * views_count) + created_at / ${DOUBLING_MS}.0`
  const answers = await db.batch<{ id: string; score: number }>([
    db
      .prepare(
        `SELECT id, score FROM (SELECT id, score, created_at FROM posts WHERE score > ? ORDER BY score DESC LIMIT 500)
        WHERE created_at > ? LIMIT ${HOT_SIZE}`,
      )
      .bind(since / DOUBLING_MS, since),
    db.prepare(`SELECT id, ${score} AS score FROM posts WHERE created_at > ? ORDER BY id DESC LIMIT 500`).bind(since),
  ])
  const scores = new Map(answers.flatMap(({ results }) => results.map((row) => [row.id, row.score])))
  return [...scores]
    .sort(([a, x], [b, y]) => y - x || (a < b ? 1 : -1))
    .slice(0, HOT_SIZE)
    .map(([id]) => id)
}

export async function loadSession(db: D1Database, id: string): Promise<Session | null> {
  return db
    .prepare('SELECT user_id AS userId, secret_hash AS hash, expires_at AS expiresAt FROM sessions WHERE id = ?')
    .bind(id)
    .first<Session>()
}

/** Sets a like and returns the counts of the post, or null if there is no such post. Triggers keep the counts. */
export async function setLike(
  db: D1Database,
  postId: string,
  userId: string,
  isLiked: boolean,
): Promise<Counts | null> {
  const [, read] = await db.batch<Counts>([
    db
      .prepare(
        `INSERT INTO post_likes (post_id, user_id, is_liked, changed_at)
        SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM posts WHERE id = ?1)
        ON CONFLICT DO UPDATE SET is_liked = excluded.is_liked, changed_at = excluded.changed_at`,
      )
      .bind(postId, userId, isLiked ? 1 : 0, Date.now()),
    db.prepare(`SELECT ${counts} FROM posts WHERE id = ?`).bind(postId),
  ])
  return read?.results[0] ?? null
}
