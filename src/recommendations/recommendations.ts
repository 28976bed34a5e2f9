import { listOf } from '../db/list.ts'
import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { postScores } from '../db/schema.ts'
import type { Listener } from '../events/dispatch.ts'
import { service } from '../service.ts'
import type { Post } from '../posts/schema.ts'
import type { Cache } from '../redis/cache.ts'

/** How many posts are kept for a member, best first: three of the largest page, since what they like then is left out. */
const KEPT = 150
/** How many of the best by score are looked through for what a member neither wrote nor likes. */
const LOOKED_THROUGH = 1_000
/** The latest posts a member likes say what they like; the latest that a neighbour likes, what else there is. */
const LIKES = 20
/** Of those who like a post, so many who joined just before the member count, and as many who joined just after. */
const LIKERS = 25
/** Of those, the ones who like most of the same posts are the neighbours. */
const NEIGHBOURS = 50
/** How many more posts are read than asked for: some may be liked meanwhile, or deleted. */
const SPARE = 20
/** How many posts one step of a rebuild scores. */
const STEP = 1_000

/** A post with twice the weight is as good as one that is this much younger. */
const DOUBLING_MS = 8 * 3_600_000
/** How little the first places of a ranking differ: the constant of reciprocal rank fusion. */
const FUSION = 60

export type Recommendations = ReturnType<typeof createRecommendations>
export const recommendationsService = service<Recommendations>('recommendations')

export interface RecommendationsDependencies {
  db: DrizzleD1Database
  /** By member: ids of posts, best first. */
  lists: Cache<string[]>
  hot: (limit: number) => Promise<Post[]>
  /** Those of at most 100 ids that exist, in that order, as the viewer sees them. */
  getMany: (ids: string[], viewerId: string) => Promise<Post[]>
}

/**
 * Posts for a member, none their own and none they like already. Two rankings are fused: posts by likes, comments and
 * views, decaying with time; and posts liked by those who like what the member likes. Who likes nothing yet gets the
 * hot feed first, and it fills up what is short.
 *
 * A score is `log2(1 + weight) + created / 8 hours`, as Reddit ranks: time moves all scores alike, so none is computed
 * again for growing old. A listener keeps them in D1 (`post_scores`), each computed from the counts of its post in the
 * statement that writes it: events that come late, twice or in another order leave it right.
 *
 * The list of a member is cached for some minutes; what they like meanwhile is left out when it is read. One round trip
 * while memory has the list, two from Redis. To make it takes three D1 queries in two steps. Without Redis D1 is asked.
 */
export function createRecommendations({ db, lists, hot, getMany }: RecommendationsDependencies) {
  /** What to recommend to `userId`, best first; null when there is nothing. */
  async function compute(userId: string): Promise<string[] | null> {
    const [ranked, mine] = await Promise.all([
      db.all<{ id: string }>(rankedQuery(userId)),
      db.all<{ likers: string }>(likersQuery(userId)),
    ])
    const likers = mine.flatMap((row) => row.likers.split(',').filter(Boolean))
    const neighbours = best(sum(likers.map((id) => [id, 1]))).slice(0, NEIGHBOURS)
    const theirs = neighbours.length === 0 ? [] : await db.all<Liked>(theirsQuery(userId, neighbours))
    const affinity = sum(theirs.map(({ id, shared, likes }) => [id, shared / Math.sqrt(likes)]))

    const rankings = [ranked.map((row) => row.id), best(affinity).map(([id]) => id)]
    const places = rankings.flatMap((ids) => ids.map((id, i): [string, number] => [id, 1 / (FUSION + i)]))
    const fused = best(sum(places)).map(([id]) => id)
    if (mine.length > 0 && fused.length >= KEPT) return fused.slice(0, KEPT)

    const popular = (await hot(100)).filter((post) => post.authorId !== userId).map((post) => post.id)
    const all = new Set(mine.length > 0 ? [...fused, ...popular] : [...popular, ...fused])
    return all.size === 0 ? null : [...all].slice(0, KEPT)
  }

  /** Scores posts that `from` selects with what is counted of them now; answers their ids. One D1 round trip. */
  async function score(from: ReturnType<typeof sql>): Promise<string[]> {
    const scored = await db
      .insert(postScores)
      .select(sql`SELECT id, ${SCORE} FROM posts ${from}`)
      .onConflictDoUpdate({ target: postScores.postId, set: { score: sql`excluded.score` } })
      .returning({ id: postScores.postId })
    return scored.map((row) => row.id)
  }

  const listener: Listener = {
    name: 'recommendations',
    // A deleted post takes its score with it.
    wants: ({ channel, type, subject }) =>
      (channel === 'post_events' && type === 'post_created') ||
      (channel === 'counter_events' && type === 'counter_update' && subject.startsWith('p_')),
    async handle(events) {
      await score(sql`WHERE id IN ${listOf(events.map((event) => event.subject))}`)
    },
    async rebuild(cursor) {
      const ids = await score(sql`WHERE id > ${cursor ?? ''} ORDER BY id LIMIT ${STEP}`)
      return ids.length < STEP ? null : ids.reduce((a, b) => (a > b ? a : b))
    },
  }

  return {
    listener,

    /** Ids of posts for `userId`, best first: as old as their cache. */
    list: async (userId: string): Promise<string[]> => (await lists.get(userId, () => compute(userId))) ?? [],

    /** The first `limit` of the posts `ids` that `userId` does not like by now. One round trip, rarely two. */
    async read(ids: string[], userId: string, limit: number): Promise<Post[]> {
      const size = Math.min(limit + SPARE, 100)
      const found: Post[] = []
      for (let read = 0; read < ids.length && found.length < limit; read += size) {
        const some = await getMany(ids.slice(read, read + size), userId)
        found.push(...some.filter((post) => post.likedByMe === false))
      }
      return found.slice(0, limit)
    },
  }
}

/** A post that a neighbour likes. */
interface Liked {
  id: string
  /** How many of the member's posts that neighbour likes too. */
  shared: number
  /** By how many it is liked: who likes what everybody likes says little. */
  likes: number
}

/** A comment takes more than a like, a like more than a look. */
const SCORE = sql`log2(1 + 3 * comments_count + likes_count + 0.1 * views_count) + created_at * 1.0 / ${DOUBLING_MS}`

/** Whether a post is neither written nor liked by `userId`. */
const isNewTo = (userId: string) => sql`author_id <> ${userId}
  AND NOT EXISTS (SELECT 1 FROM post_likes WHERE post_id = posts.id AND user_id = ${userId} AND is_liked)`

/** The best by score that are new to `userId`, in their order. */
const rankedQuery = (userId: string) => sql`
  SELECT posts.id FROM (SELECT post_id FROM post_scores WHERE score > 0 ORDER BY score DESC LIMIT ${LOOKED_THROUGH}) AS best
  CROSS JOIN posts ON posts.id = best.post_id
  WHERE ${isNewTo(userId)} LIMIT ${KEPT}`

/** The latest posts that `user` likes. */
const latestLikes = (user: ReturnType<typeof sql>) => sql`
  SELECT post_id FROM post_likes WHERE user_id = ${user} AND is_liked ORDER BY post_id DESC LIMIT ${LIKES}`

/** For each of the latest posts that `userId` likes, the ids of some who like it too. */
const likersQuery = (userId: string) => {
  const likers = (isBefore: boolean) => sql`
    SELECT group_concat(user_id) FROM (
      SELECT user_id FROM post_likes
      WHERE post_id = mine.post_id AND is_liked AND user_id ${isBefore ? sql`<` : sql`>`} ${userId}
      ORDER BY user_id ${isBefore ? sql`DESC` : sql`ASC`} LIMIT ${LIKERS}
    )`
  return sql`
    WITH mine AS MATERIALIZED (${latestLikes(sql`${userId}`)})
    SELECT concat_ws(',', (${likers(true)}), (${likers(false)})) AS likers FROM mine`
}

/** The latest likes of `neighbours` (with how many likes they share) that are new to `userId`. */
const theirsQuery = (userId: string, neighbours: [id: string, shared: number][]) => sql`
  SELECT posts.id, neighbour.value ->> 1 AS shared, max(likes_count, 1) AS likes
  FROM json_each(${JSON.stringify(neighbours)}) AS neighbour
  CROSS JOIN json_each((
    SELECT json_group_array(post_id) FROM (${latestLikes(sql`neighbour.value ->> 0`)})
  )) AS liked
  CROSS JOIN posts ON posts.id = liked.value
  WHERE ${isNewTo(userId)}`

/** The sum of the values of each id. */
function sum(values: [id: string, value: number][]): Map<string, number> {
  const sums = new Map<string, number>()
  for (const [id, value] of values) sums.set(id, (sums.get(id) ?? 0) + value)
  return sums
}

/** The highest first; of equals the youngest. */
const best = (values: Map<string, number>): [id: string, value: number][] =>
  [...values].sort(([a, x], [b, y]) => y - x || (a < b ? 1 : -1))
