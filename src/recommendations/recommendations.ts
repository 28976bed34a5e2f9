import { listOf } from '../db/list.ts'
import { and, gt, inArray, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { posts } from '../db/schema.ts'
import { scoreWith } from '../db/score.ts'
import type { Listener } from '../events/dispatch.ts'
import { service } from '../service.ts'
import type { Post } from '../posts/schema.ts'
import type { Cache } from '../redis/cache.ts'
import type { Viewer } from '../relations/schema.ts'

/** How many posts a user's list has: three of the largest page, because posts that the user likes later are left out. */
const LIST_SIZE = 150
/** How many of the best posts by score are searched for posts that the user neither wrote nor likes. */
const SEARCHED = 1_000
/** How many of the latest likes of the user, and of each neighbour, are used. */
const LIKES = 20
/** Of each liked post, this many likers who joined just before the user are used, and as many who joined just after. */
const LIKERS = 25
/** The neighbours are this many of those likers: the ones who like most of the same posts. */
const NEIGHBOURS = 50
/** How many more posts than requested are read: some may have been liked or deleted since. */
const SPARE = 20
/** How many posts one step of a rebuild scores. */
const REBUILD_STEP = 1_000

/** The constant of reciprocal rank fusion. The higher it is, the less the first places of a ranking differ. */
const FUSION = 60

export type Recommendations = ReturnType<typeof createRecommendations>
export const recommendationsService = service<Recommendations>('recommendations')

export interface RecommendationsDependencies {
  db: DrizzleD1Database
  /** By user: ids of posts, best first. */
  lists: Cache<string[]>
  hot: (limit: number) => Promise<Post[]>
  /** Returns the posts of at most 100 ids that exist, in that order, as the viewer sees them. */
  getMany: (ids: string[], viewer: Viewer, where: 'feed') => Promise<Post[]>
}

/**
 * Recommends posts to a user, without the user's own and those that the user likes. It fuses two rankings: posts by
 * likes, comments and views, decaying with time; and posts that the user's neighbours like. The hot feed and the newest
 * posts fill a list that is too short. For a user without likes it comes first.
 *
 * Whatever changes the counts of a post in D1 sets its score in the same statement (`db/score`), also for the hot feed: no
 * event can leave a score wrong.
 *
 * A user's list is cached for some minutes. Posts that the user likes meanwhile are left out when it is read. Reading
 * takes one round trip from memory, two from Redis; a new list takes three D1 queries in two steps, and one
 * more if it is short. Without Redis it
 * comes from memory or D1.
 */
export function createRecommendations({ db, lists, hot, getMany }: RecommendationsDependencies) {
  /** Computes the list of `userId`, best first; null if there are no posts. */
  async function compute(userId: string): Promise<string[] | null> {
    const [ranked, liked] = await Promise.all([
      db.all<{ id: string }>(rankedQuery(userId)),
      db.all<{ likers: string }>(likersQuery(userId)),
    ])
    const likers = liked.flatMap((row) => row.likers.split(',').filter(Boolean))
    const neighbours = best(sum(likers.map((id) => [id, 1]))).slice(0, NEIGHBOURS)
    const likedByNeighbours = neighbours.length === 0 ? [] : await db.all<Liked>(neighboursQuery(userId, neighbours))
    const affinity = sum(likedByNeighbours.map(({ id, shared, likes }) => [id, shared / Math.sqrt(likes)]))

    const rankings = [ranked.map((row) => row.id), best(affinity).map(([id]) => id)]
    const places = rankings.flatMap((ids) => ids.map((id, i): [string, number] => [id, 1 / (FUSION + i)]))
    const fused = best(sum(places)).map(([id]) => id)
    if (liked.length > 0 && fused.length >= LIST_SIZE) return fused.slice(0, LIST_SIZE)

    const popular = (await hot(100)).filter((post) => post.authorId !== userId).map((post) => post.id)
    const newest = await db.all<{ id: string }>(newestQuery(userId))
    const ordered = liked.length > 0 ? [fused, popular] : [popular, fused]
    const all = new Set([...ordered.flat(), ...newest.map(({ id }) => id)])
    return all.size === 0 ? null : [...all].slice(0, LIST_SIZE)
  }

  const listener: Listener = {
    name: 'recommendations',
    wants: () => false,
    handle: async () => {},
    /** Scores posts whose counts were written around the triggers: by a restore, for example. Safe to repeat. */
    async rebuild(cursor) {
      const page = await db
        .select({ id: posts.id })
        .from(posts)
        .where(gt(posts.id, cursor ?? ''))
        .orderBy(posts.id)
        .limit(REBUILD_STEP)
      const score = scoreWith(sql`views_count`)
      await db
        .update(posts)
        .set({ score })
        .where(and(inArray(posts.id, listOf(page.map(({ id }) => id))), sql`score IS NOT ${score}`))
      return page.length < REBUILD_STEP ? null : (page.at(-1)?.id ?? null)
    },
  }

  return {
    listener,

    /** Returns the ids of posts for `userId`, best first. They may be as old as the cache allows. */
    list: async (userId: string): Promise<string[]> => (await lists.get(userId, () => compute(userId))) ?? [],

    /** Drops the list of a deleted user. One command. Safe to repeat. */
    forget: (userId: string): Promise<void> => lists.drop([userId]),

    /** Returns the first `limit` posts of `ids` that `viewer` sees and does not like. One round trip, rarely two. */
    async read(ids: string[], viewer: Viewer, limit: number): Promise<Post[]> {
      const size = Math.min(limit + SPARE, 100)
      const posts: Post[] = []
      for (let read = 0; read < ids.length && posts.length < limit; read += size) {
        const some = await getMany(ids.slice(read, read + size), viewer, 'feed')
        posts.push(...some.filter((post) => post.likedByMe === false))
      }
      return posts.slice(0, limit)
    },
  }
}

/** A post that a neighbour likes. */
interface Liked {
  id: string
  /** How many of the posts that the user likes the neighbour likes too. */
  shared: number
  /** How many likes the post has. A post that everybody likes says little about its likers. */
  likes: number
}

/** Whether `userId` neither wrote nor likes a post. */
const isNewTo = (userId: string, table = sql.raw('posts')) => sql`author_id <> ${userId}
  AND NOT EXISTS (SELECT 1 FROM post_likes WHERE post_id = ${table}.id AND user_id = ${userId} AND is_liked)`

/** The best posts by score that are new to `userId`, in that order. */
const rankedQuery = (userId: string) => sql`
  SELECT id FROM (SELECT id, author_id FROM posts WHERE score > 0 ORDER BY score DESC LIMIT ${SEARCHED}) AS best
  WHERE ${isNewTo(userId, sql.raw('best'))} LIMIT ${LIST_SIZE}`

/** Of the newest posts, those that are new to `userId` and have no score, in that order. */
const newestQuery = (userId: string) => sql`
  SELECT id
  FROM (SELECT id, author_id, score FROM posts WHERE id > 'p_' ORDER BY id DESC LIMIT ${SEARCHED}) AS newest
  WHERE score IS NULL AND ${isNewTo(userId, sql.raw('newest'))} LIMIT ${LIST_SIZE}`

/** The latest posts that `user` likes. */
const latestLikes = (user: ReturnType<typeof sql>) => sql`
  SELECT post_id FROM post_likes WHERE user_id = ${user} AND is_liked ORDER BY post_id DESC LIMIT ${LIKES}`

/** For each of the latest posts that `userId` likes, the ids of some other likers. */
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

/** The latest likes of `neighbours` (with their number of shared likes) that are new to `userId`. */
const neighboursQuery = (userId: string, neighbours: [id: string, shared: number][]) => sql`
  SELECT posts.id, neighbour.value ->> 1 AS shared, max(likes_count, 1) AS likes
  FROM json_each(${JSON.stringify(neighbours)}) AS neighbour
  CROSS JOIN json_each((
    SELECT json_group_array(post_id) FROM (${latestLikes(sql`neighbour.value ->> 0`)})
  )) AS liked
  CROSS JOIN posts ON posts.id = liked.value
  WHERE ${isNewTo(userId)}`

/** Sums the values of each id. */
function sum(values: [id: string, value: number][]): Map<string, number> {
  const sums = new Map<string, number>()
  for (const [id, value] of values) sums.set(id, (sums.get(id) ?? 0) + value)
  return sums
}

/** Sorts by value, highest first; equal values by id, latest first. */
const best = (values: Map<string, number>): [id: string, value: number][] =>
  [...values].sort(([a, x], [b, y]) => y - x || (a < b ? 1 : -1))
