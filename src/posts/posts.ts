import { and, desc, eq, gt, inArray, lt } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { posts } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import { type Counter, keys } from '../keys.ts'
import { type Page, pageOf } from '../page.ts'
import type { Cache } from '../redis/cache.ts'
import type { Counters } from '../redis/counter.ts'

/** A post as anyone sees it. Times are RFC 3339. */
export interface Post {
  id: string
  authorId: string
  text: string
  createdAt: string
  updatedAt: string
  version: number
  likesCount: number
  commentsCount: number
  /** Unique viewers, approximate. */
  viewsCount: number
  /** Whether who is signed in likes it; absent for nobody. */
  likedByMe?: boolean
}

/** A post as the cache holds it: without counts, which are read fresh. */
export interface CachedPost {
  id: string
  authorId: string
  text: string
  /** Unix ms. */
  createdAt: number
  updatedAt: number
  version: number
}

const content = {
  id: posts.id,
  authorId: posts.authorId,
  text: posts.text,
  createdAt: posts.createdAt,
  updatedAt: posts.updatedAt,
  version: posts.version,
}
const counts = { id: posts.id, likes: posts.likesCount, comments: posts.commentsCount, views: posts.viewsCount }

interface Counts {
  id: string
  likes: number
  comments: number
  views: number
}

const COUNTERS: Counter[] = ['likes', 'comments', 'views']
const DAY_MS = 86_400_000

/** How many ids a hot feed keeps: the largest page. */
const HOT_SIZE = 100

export type Posts = ReturnType<typeof createPosts>

/**
 * Posts: the text cache-aside, the counts fresh from Redis beside it, in the same round trip.
 * Without Redis both come from D1, where counts are a little behind.
 */
export function createPosts(
  db: DrizzleD1Database,
  byId: Cache<CachedPost>,
  hotIds: Cache<string[]>,
  counters: Counters,
  likedBy: (userId: string, postIds: string[]) => Promise<boolean[]>,
  hotWindowMs: number,
) {
  async function load(ids: string[]): Promise<(CachedPost | null)[]> {
    const rows = await db.select(content).from(posts).where(inArray(posts.id, ids))
    const found = new Map(rows.map((row) => [row.id, row]))
    return ids.map((id) => found.get(id) ?? null)
  }

  /** The counts of `ids`, in their order; what Redis lacks is taken from `loadCounts`. */
  async function countsOf(ids: string[], loadCounts: (ids: string[]) => Promise<Counts[]>): Promise<Counts[]> {
    const keysOf = (id: string) => COUNTERS.map((counter) => keys.count(counter, id))
    const values = await counters.read(ids.flatMap(keysOf), async (missing) => {
      const isMissing = new Set(missing)
      const rows = await loadCounts(ids.filter((id) => keysOf(id).some((key) => isMissing.has(key))))
      return new Map(rows.flatMap((row) => COUNTERS.map((counter) => [keys.count(counter, row.id), row[counter]])))
    })
    return ids.map((id, i) => {
      const [likes = 0, comments = 0, views = 0] = values.slice(i * COUNTERS.length)
      return { id, likes, comments, views }
    })
  }

  /**
   * Those of `ids` that exist, in that order, as `viewerId` sees them. One round trip for texts, counts and likes.
   * At most 100: what D1 can bind.
   */
  async function getMany(ids: string[], viewerId?: string): Promise<Post[]> {
    const finding = byId.getMany(ids, load)
    const counting = countsOf(ids, async (uncounted) => {
      const exists = new Set((await finding).map((post) => post?.id))
      const known = uncounted.filter((id) => exists.has(id))
      return known.length === 0 ? [] : db.select(counts).from(posts).where(inArray(posts.id, known))
    })
    const liking = viewerId === undefined ? undefined : likedBy(viewerId, ids)
    const [found, counted, liked] = await Promise.all([finding, counting, liking])
    return found.flatMap((post, i) => {
      const count = counted[i]
      return post && count ? [toPost(post, count, liked?.[i])] : []
    })
  }

  return {
    getMany,

    /** One post. One round trip. */
    async get(id: string, viewerId?: string): Promise<Post> {
      const [post] = await getMany([id], viewerId)
      if (!post) throw new Problem('not-found', `There is no post ${id}`)
      return post
    },

    /** The posts of `authorId`, newest first. D1 for the page, one round trip for the counts. */
    async byAuthor(authorId: string, limit: number, cursor?: string, viewerId?: string): Promise<Page<Post>> {
      const rows = await db
        .select({ ...content, likes: posts.likesCount, comments: posts.commentsCount, views: posts.viewsCount })
        .from(posts)
        .where(and(eq(posts.authorId, authorId), cursor === undefined ? undefined : lt(posts.id, cursor)))
        .orderBy(desc(posts.id))
        .limit(limit + 1)
      const page = rows.slice(0, limit)
      const ids = page.map((row) => row.id)
      const [counted, liked] = await Promise.all([
        countsOf(ids, async () => page),
        viewerId === undefined ? undefined : likedBy(viewerId, ids),
      ])
      return pageOf(
        rows,
        limit,
        (row) => row.id,
        (row, i) => toPost(row, counted[i] ?? row, liked?.[i]),
      )
    },

    /**
     * The hot feed: the most liked posts of the last days. The list of ids is as old as its cache; texts and counts
     * are not, and the page is sorted by them. Two round trips from Redis, one when memory has the list.
     */
    async hot(limit: number, viewerId?: string, now = Date.now()): Promise<Post[]> {
      const ids = await hotIds.get('all', async () => {
        const since = now - hotWindowMs
        const days = []
        for (let day = Math.floor(since / DAY_MS); day <= now / DAY_MS; day += 1) days.push(day)
        const ofDay = (day: number) =>
          db
            .select({ id: posts.id, likes: posts.likesCount })
            .from(posts)
            .where(and(eq(posts.createdDay, day), gt(posts.createdAt, since)))
            .orderBy(desc(posts.likesCount), desc(posts.id))
            .limit(HOT_SIZE)
        const [first, ...rest] = days.map(ofDay)
        const best = first ? (await db.batch([first, ...rest])).flat() : []
        best.sort((a, b) => b.likes - a.likes || (a.id < b.id ? 1 : -1))
        return best.slice(0, HOT_SIZE).map((post) => post.id)
      })
      const hot = await getMany((ids ?? []).slice(0, limit), viewerId)
      return hot.sort((a, b) => b.likesCount - a.likesCount || (a.id < b.id ? 1 : -1))
    },
  }
}

function toPost(post: CachedPost, count: Omit<Counts, 'id'>, likedByMe: boolean | undefined): Post {
  const { id, authorId, text, version } = post
  return {
    id,
    authorId,
    text,
    createdAt: new Date(post.createdAt).toISOString(),
    updatedAt: new Date(post.updatedAt).toISOString(),
    version,
    likesCount: count.likes,
    commentsCount: count.comments,
    viewsCount: count.views,
    ...(likedByMe === undefined ? {} : { likedByMe }),
  }
}
