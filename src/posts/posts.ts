import { and, desc, eq, gt, inArray, lt, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { comments, posts } from '../db/schema.ts'
import { Problem } from '../errors.ts'
import type { Outbox } from '../events/outbox.ts'
import { service } from '../service.ts'
import { newId } from '../ids.ts'
import { type Counter, keys } from '../keys.ts'
import { type Page, pageOf } from '../page.ts'
import type { Cache } from '../redis/cache.ts'
import type { Counters } from '../redis/counter.ts'
import type { WriteThrough } from '../redis/write-through.ts'
import type { Users } from '../users/users.ts'
import type { Post } from './schema.ts'

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
const columns = { ...content, likes: posts.likesCount, comments: posts.commentsCount, views: posts.viewsCount }
const counts = { id: posts.id, likes: posts.likesCount, comments: posts.commentsCount, views: posts.viewsCount }

interface Counts {
  id: string
  likes: number
  comments: number
  views: number
}

/** A post as D1 holds it. */
export type PostRow = CachedPost & Omit<Counts, 'id'>

const COUNTERS: Counter[] = ['likes', 'comments', 'views']
const DAY_MS = 86_400_000

/** The one hot feed there is. */
const HOT = 'all'

/** How many ids a hot feed keeps: the largest page. */
const HOT_SIZE = 100

/**
 * Of how many comments a deleted post takes the counts out of Redis: the newest, which were read last. Those of the
 * rest are asked for by nobody, and expire.
 */
const FORGOTTEN_COMMENTS = 500

export interface PostsDependencies {
  db: DrizzleD1Database
  byId: Cache<CachedPost>
  hotIds: Cache<string[]>
  counters: Counters
  likedBy: (userId: string, postIds: string[]) => Promise<boolean[]>
  authors: Users
  outbox: Outbox
  writeThrough: WriteThrough
  hotWindowMs: number
}

export type Posts = ReturnType<typeof createPosts>
export const postsService = service<Posts>('posts')

/**
 * Posts: the text cache-aside, the counts fresh from Redis beside it, in the same round trip.
 * Without Redis both come from D1, where counts are a little behind; writes are done, and reach the caches later.
 */
export function createPosts({
  db,
  byId,
  hotIds,
  counters,
  likedBy,
  authors,
  outbox,
  writeThrough,
  hotWindowMs,
}: PostsDependencies) {
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

  /** What D1 read, as `viewerId` sees it, with its counts fresh. One round trip. */
  async function withCounts(rows: PostRow[], viewerId?: string): Promise<Post[]> {
    const ids = rows.map((row) => row.id)
    const [counted, liked] = await Promise.all([
      countsOf(ids, async () => rows),
      viewerId === undefined ? undefined : likedBy(viewerId, ids),
    ])
    return rows.map((row, i) => toPost(row, counted[i] ?? row, liked?.[i]))
  }

  const ownership = (id: string) =>
    db.select({ authorId: posts.authorId, version: posts.version }).from(posts).where(eq(posts.id, id))

  return {
    getMany,
    withCounts,

    /** One post. One round trip. */
    async get(id: string, viewerId?: string): Promise<Post> {
      const [post] = await getMany([id], viewerId)
      if (!post) throw new Problem('not-found', `There is no post ${id}`)
      return post
    },

    /** The posts of `authorId`, newest first. D1 for the page, one round trip for the counts. */
    async byAuthor(authorId: string, limit: number, cursor?: string, viewerId?: string): Promise<Page<Post>> {
      const rows = await db
        .select(columns)
        .from(posts)
        .where(and(eq(posts.authorId, authorId), cursor === undefined ? undefined : lt(posts.id, cursor)))
        .orderBy(desc(posts.id))
        .limit(limit + 1)
      const page = pageOf(
        rows,
        limit,
        (row) => row.id,
        (row) => row,
      )
      return { ...page, items: await withCounts(page.items, viewerId) }
    },

    /**
     * The hot feed: the most liked posts of the last days. The list of ids is as old as its cache; texts and counts
     * are not, and the page is sorted by them. Two round trips from Redis, one when memory has the list.
     */
    async hot(limit: number, viewerId?: string, now = Date.now()): Promise<Post[]> {
      const ids = await hotIds.get(HOT, async () => {
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

    /**
     * Writes a post. `alongside` joins the batch that does. One D1 round trip, then one for the caches of the post and
     * of its author.
     */
    async create(
      authorId: string,
      text: string,
      alongside: (created: Post) => BatchItem<'sqlite'>[] = () => [],
      now = Date.now(),
    ): Promise<Post> {
      const id = newId('p', now)
      const post: CachedPost = { id, authorId, text, createdAt: now, updatedAt: now, version: 1 }
      const created = toPost(post, { likes: 0, comments: 0, views: 0 }, false)
      const transaction = outbox.transaction()
      const [, rows] = await db.batch([
        db.insert(posts).values(post),
        authors.select(authorId),
        transaction.record({ type: 'post_created', data: { postId: id, authorId, text, version: 1 } }, sql`true`, now),
        ...alongside(created),
      ])
      transaction.enqueue()
      await writeThrough(
        () => [byId.put(id, post), ...authors.refreshCache(rows)],
        () => [byId.invalidate([id]), authors.invalidateCache([authorId])],
      )
      return created
    },

    /**
     * Changes the text of a post, if it is `authorId`'s and at one of `versions`. One D1 round trip, then one for its
     * cache and its counts.
     */
    async update(id: string, authorId: string, text: string, versions?: number[], now = Date.now()): Promise<Post> {
      const isMeant = and(
        eq(posts.id, id),
        eq(posts.authorId, authorId),
        versions && sql`${posts.version} IN ${listOf(versions)}`,
      )
      const version = sql`(SELECT ${posts.version} + 1 FROM ${posts} WHERE ${posts.id} = ${id})`
      const updating = { type: 'post_updated' as const, data: { postId: id, authorId, text, version } }
      const transaction = outbox.transaction()
      const [, [row], [found]] = await db.batch([
        transaction.record(updating, sql`EXISTS (SELECT 1 FROM ${posts} WHERE ${isMeant})`, now),
        db
          .update(posts)
          .set({ text, updatedAt: now, version: sql`${posts.version} + 1` })
          .where(isMeant)
          .returning(columns),
        ownership(id),
      ])
      transaction.enqueue()
      if (!row) throw refusal(id, authorId, found)
      const { likes: _likes, comments: _comments, views: _views, ...post } = row
      const [[updated]] = await Promise.all([
        withCounts([row], authorId),
        writeThrough(
          () => [byId.put(id, post)],
          () => [byId.invalidate([id])],
        ),
      ])
      return updated ?? toPost(row, row, undefined)
    },

    /** Forgets the texts of posts that somebody else wrote in D1. One round trip. */
    invalidate: (ids: string[]) => byId.invalidate(ids),

    /** Lets every hot feed be put together again. One command. */
    expireHot: () => hotIds.expireAll(),

    /** Removes what is left of hot feeds that have expired so; answers how many. One script. */
    purgeHot: () => hotIds.purge([HOT]),

    /**
     * Removes a post, if it is `authorId`'s and at one of `versions`, and with it its likes, comments, counts, and
     * places in caches and feeds. One D1 round trip, then one for the caches.
     */
    async remove(id: string, authorId: string, versions?: number[], now = Date.now()): Promise<void> {
      const isMeant = and(
        eq(posts.id, id),
        eq(posts.authorId, authorId),
        versions && sql`${posts.version} IN ${listOf(versions)}`,
      )
      const transaction = outbox.transaction()
      const [commented, [found], , [removed], rows] = await db.batch([
        db
          .select({ id: comments.id })
          .from(comments)
          .where(eq(comments.postId, id))
          .orderBy(desc(comments.id))
          .limit(FORGOTTEN_COMMENTS),
        ownership(id),
        transaction.record(
          { type: 'post_deleted', data: { postId: id, authorId } },
          sql`EXISTS (SELECT 1 FROM ${posts} WHERE ${isMeant})`,
          now,
        ),
        db.delete(posts).where(isMeant).returning({ createdAt: posts.createdAt }),
        authors.select(authorId),
      ])
      transaction.enqueue()
      if (!removed) throw refusal(id, authorId, found)
      const counted = [
        ...COUNTERS.map((counter) => keys.count(counter, id)),
        keys.viewers(id),
        keys.viewsBase(id),
        keys.countsMeta(id),
        ...commented.flatMap((comment) => [keys.count('likes', comment.id), keys.countsMeta(comment.id)]),
      ]
      const forget = () => [
        byId.invalidate([id]),
        counters.forget(counted),
        ...(removed.createdAt > now - hotWindowMs ? [hotIds.expireAll()] : []), // older ones are in no hot feed
      ]
      await writeThrough(
        () => [...forget(), ...authors.refreshCache(rows)],
        () => [...forget(), authors.invalidateCache([authorId])],
      )
    },
  }
}

/** Why `authorId` could not change the post, of which `found` was there. */
function refusal(id: string, authorId: string, found: { authorId: string; version: number } | undefined): Problem {
  if (!found) return new Problem('not-found', `There is no post ${id}`)
  if (found.authorId !== authorId) return new Problem('not-yours')
  return new Problem('version-changed', `The post is at version ${found.version}`)
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
