import { type SQL, sql } from 'drizzle-orm'

/** Twice the weight is worth as much as being this much younger. */
export const DOUBLING_MS = 8 * 3_600_000

/** What the score of a post is computed from. */
export interface Scored {
  likes: number
  comments: number
  views: number
  /** Unix ms. */
  createdAt: number
}

/**
 * How high a post ranks: `log2(1 + likes + 3 × comments + views / 10) + created / 8 h`. A comment weighs more than a like,
 * and a like more than a view. Time moves all scores alike, so no score changes because a post grows old.
 */
export const scoreOf = ({ likes, comments, views, createdAt }: Scored): number =>
  Math.log2(1 + 3 * comments + likes + 0.1 * views) + createdAt / DOUBLING_MS

/** Posts with less weight than two likes, a comment or 20 views have no score in D1: most posts cost no entry of its index. */
const SCORED_WEIGHT = 2

/**
 * The score of a row of `posts` with `views`, or null where it has none. Whatever writes counts sets the score in the same
 * statement: here for views and rebuilds, in the triggers of likes and comments (migrations/0023_safety.sql and
 * 0028_first_like.sql). The first like of a post leaves the score to the next change: see docs/decisions/hints.md.
 */
export const scoreWith = (views: SQL): SQL => {
  const weight = sql`3 * comments_count + likes_count + 0.1 * ${views}`
  return sql`CASE WHEN ${weight} >= ${SCORED_WEIGHT} THEN log2(1 + ${weight}) + created_at * 1.0 / ${DOUBLING_MS} END`
}
