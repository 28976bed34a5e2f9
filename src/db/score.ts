import { sql } from 'drizzle-orm'

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

/** The same, of a row of `posts`. */
export const SCORE = sql`log2(1 + 3 * comments_count + likes_count + 0.1 * views_count) + created_at * 1.0 / ${DOUBLING_MS}`
