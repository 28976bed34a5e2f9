import { and, desc, eq, gt, inArray, lt, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import { listOf } from '../db/list.ts'
import { isPresent } from '../db/present.ts'
import { isBlocked } from '../db/relations.ts'
import { repeatOnce } from '../db/repeat.ts'
import { comments, posts } from '../db/schema.ts'
import { DOUBLING_MS, scoreOf } from '../db/score.ts'
import { Problem } from '../errors.ts'
import { newId } from '../ids.ts'
import { type Page, pageOf } from '../page.ts'
import type { Platform } from '../platform.ts'
import type { Mentions } from '../notifications/mentions.ts'
import type { Cache } from '../redis/cache.ts'
import type { Counter, KnownCounts, LoadCounts, LoadedCounts } from '../redis/counter.ts'
import type { Viewer } from '../relations/schema.ts'
import { service } from '../service.ts'
import type { Users } from '../users/users.ts'
import type { Post } from './schema.ts'

/** A post as the cache holds it: without counts, which are never cached inside it. */
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
const counts = { likes: posts.likesCount, comments: posts.commentsCount, views: posts.viewsCount }
/** What orders the counts. */
const order = { changedAt: posts.likesChangedAt, revision: posts.countsRevision }
const columns = { ...content, ...counts }

interface Counts {
  likes: number
  comments: number
  views: number
}

/** A post as D1 holds it. */
export type PostRow = CachedPost & Counts

const COUNTERS: Counter[] = ['likes', 'comments', 'views']

/** The id of the hot feed in its cache. */
const HOT = 'all'

/** How many ids a hot feed keeps: the largest page, and some in place of those that are deleted meanwhile. */
const HOT_SIZE = 120
/** Of how many posts with the highest scores, and of how many of the newest, it takes them. */
const HOT_SEARCHED = 500

/**
 * For how many comments of a deleted post the request itself evicts the counts: the newest. The cron evicts the rest.
 */
const EVICTED_COMMENTS = 500

/** The counts of at most so many posts are claimed before anybody knows whether these exist. */
const CLAIMED_AT_ONCE = 10

/** Of how many posts of a deleted author the request itself invalidates the cache entries. A step does the rest. */
const INVALIDATED_POSTS = 500

/**
 * What posts need beside the platform. Each part may be built at its first use: a cached read uses one cache and the
 * counters.
 */
export interface PostsDependencies {
  byId: Cache<CachedPost>
  hotIds: Cache<string[]>
  likedBy: (userId: string, postIds: string[]) => Promise<boolean[]>
  authors: () => Users
  /** Statements that record whom a post names. */
  mentions: () => Mentions
}

export type Posts = ReturnType<typeof createPosts>
export const postsService = service<Posts>('posts')

/**
 * Posts: the text cache-aside, the counts fresh from Redis beside it, in the same round trip.
 * Without Redis both come from D1, whose counts are a little older; writes succeed, and the caches follow later.
 *
 * Each write is one D1 batch with its event. Recorded in D1, then completed: where the caches miss a write, the
 * write-through repeats it, and the cron evicts the counts of what was deleted.
 */
export function createPosts(
  platform: Pick<Platform, 'config' | 'counters' | 'db' | 'outbox' | 'purge' | 'replica' | 'writeThrough'>,
  { byId, hotIds, likedBy, authors, mentions }: PostsDependencies,
) {
  /** The texts of `ids`. `counted` receives the counts of the same rows. One D1 query. */
  async function load(ids: string[], counted?: Map<string, LoadedCounts>): Promise<(CachedPost | null)[]> {
    const rows = await platform.db
      .select({ ...columns, ...order })
      .from(posts)
      .where(and(sql`${posts.id} IN ${listOf(ids)}`, isPresent(posts.authorId)))
    const found = new Map<string, CachedPost>()
    for (const { likes, comments, views, changedAt, revision, ...post } of rows) {
      found.set(post.id, post)
      counted?.set(post.id, { likes, comments, views, changedAt, revision, authors: post.authorId })
    }
    return ids.map((id) => found.get(id) ?? null)
  }

  /** One D1 query, none for no ids. */
  async function loadCounts(ids: string[]): Promise<Map<string, LoadedCounts>> {
    if (ids.length === 0) return new Map<string, never>()
    const rows = await platform.db
      .select({ id: posts.id, ...counts, ...order, authors: posts.authorId })
      .from(posts)
      .where(and(sql`${posts.id} IN ${listOf(ids)}`, isPresent(posts.authorId)))
    return new Map(rows.map((row) => [row.id, row]))
  }

  /** The counts of `ids`, in their order. */
  async function countsOf(ids: string[], load: LoadCounts, known?: Map<string, KnownCounts>): Promise<Counts[]> {
    const read = await platform.counters.reads.read(COUNTERS, ids, load, known)
    return read.map(([likes = 0, comments = 0, views = 0]) => ({ likes, comments, views }))
  }

  /**
   * Those of `ids` that exist, in that order, as `viewer` sees them. One round trip for texts, counts and likes. A `feed`
   * leaves out what the viewer mutes.
   */
  async function getMany(ids: string[], viewer?: Viewer, where?: 'feed'): Promise<Post[]> {
    const loaded = new Map<string, LoadedCounts>()
    // The counts of a text that is loaded are claimed in the request that asks for the right to load it. Then its row fills
    // both. Where the load has begun, it is too late to claim them.
    const { promise: missed, resolve: miss } = Promise.withResolvers<string[]>()
    let claiming: Promise<void> | undefined
    let isLoading = false
    const finding = byId.getMany(
      ids,
      async (missing) => {
        isLoading ||= claiming === undefined
        await claiming
        return load(missing, loaded)
      },
      miss,
    )
    const counting = countsOf(ids, async (uncounted, claim) => {
      if (!claim) return loadCounts(uncounted)
      const found = Promise.resolve(finding)
      const missing = new Set(await Promise.race([missed, found.then(() => [])]))
      const together = uncounted.filter((id) => missing.has(id))
      if (!isLoading && together.length <= CLAIMED_AT_ONCE) claiming = claim(together)
      await claiming
      const existing = new Set((await found).map((post) => post?.id))
      const others = await loadCounts(uncounted.filter((id) => existing.has(id) && !loaded.has(id)))
      return new Map([...loaded, ...others])
    })
    const liking = viewer && likedBy(viewer.userId, ids)
    const [found, counted, liked] = await Promise.all([finding, counting, liking])
    const hidden = await viewer?.hidden(authorsOf(found), where)
    return found.flatMap((post, i) => {
      const count = counted[i]
      return post && count && !hidden?.has(post.authorId) ? [toPost(post, count, liked?.[i])] : []
    })
  }

  /** Rows that D1 has just read, as `viewerId` sees them, with fresh counts. One round trip. */
  async function withCounts(rows: PostRow[], viewerId?: string): Promise<Post[]> {
    const ids = rows.map((row) => row.id)
    const [counted, liked] = await Promise.all([
      countsOf(ids, loadCounts, new Map(rows.map((row) => [row.id, row]))),
      viewerId === undefined ? undefined : likedBy(viewerId, ids),
    ])
    return rows.map((row, i) => toPost(row, counted[i] ?? row, liked?.[i]))
  }

  /**
   * The ids of the hot feed, best first. Two D1 queries at once, of some hundred rows each, however many posts there are:
   * the highest scores, and the newest posts, most of which have none.
   */
  async function loadHot(now: number): Promise<string[]> {
    const since = now - platform.config.hotWindowMs
    const [scored, newest] = await Promise.all([
      // In the window every score is higher than `since` gives alone. A few older posts are higher too.
      platform.db.all<PostRow>(sql`
        SELECT id, created_at AS createdAt, likes_count AS likes, comments_count AS comments, views_count AS views
        FROM (
          SELECT * FROM posts WHERE score > ${since / DOUBLING_MS} ORDER BY score DESC LIMIT ${HOT_SEARCHED}
        ) AS best
        WHERE created_at > ${since} LIMIT ${HOT_SIZE}`),
      platform.db
        .select(columns)
        .from(posts)
        .where(and(gt(posts.id, newId('p', Math.max(0, since))), gt(posts.createdAt, since)))
        .orderBy(desc(posts.id))
        .limit(HOT_SEARCHED),
    ])
    const candidates = new Map([...scored, ...newest].map((row) => [row.id, scoreOf(row)]))
    return [...candidates]
      .sort(([a, x], [b, y]) => y - x || (a < b ? 1 : -1))
      .slice(0, HOT_SIZE)
      .map(([id]) => id)
  }

  /** Whether a row is post `id`, of `authorId`, at one of `versions` (any when absent). */
  const editable = (id: string, authorId: string, versions?: number[]) =>
    and(eq(posts.id, id), eq(posts.authorId, authorId), versions && sql`${posts.version} IN ${listOf(versions)}`)

  /** Nothing where a block hides the post from `userId`. */
  const ownership = (id: string, userId: string) =>
    platform.db
      .select(columns)
      .from(posts)
      .where(and(eq(posts.id, id), sql`NOT ${isBlocked(userId, posts.authorId)}`))

  return {
    getMany,
    withCounts,

    /** One post. One round trip. */
    async get(id: string, viewer?: Viewer): Promise<Post> {
      const [post] = await getMany([id], viewer)
      if (!post) throw new Problem('not-found', `There is no post ${id}`)
      return post
    },

    /** Throws `not-found` unless `viewer` sees the post. One round trip; none from memory. */
    async requireVisible(id: string, viewer?: Viewer): Promise<void> {
      const [post] = await byId.getMany([id], (missing) => load(missing))
      const hidden = post && (await viewer?.hidden([post.authorId]))
      if (!post || hidden?.has(post.authorId)) throw new Problem('not-found', `There is no post ${id}`)
    },

    /** The posts of `authorId`, newest first. D1 for the page, one round trip for the counts. */
    async byAuthor(authorId: string, limit: number, cursor?: string, viewerId?: string): Promise<Page<Post>> {
      const rows = await platform.replica
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
     * The hot feed: the posts of the last days with the highest scores. Only the list of ids is cached for long; texts and
     * counts are fresh, and sort the page. Posts that were deleted since the list was made are left out, and the next ones
     * of the list read instead, and so are posts that the viewer does not see. Two round trips from Redis, one when memory
     * has the list; one more where posts are left out.
     */
    async hot(limit: number, viewer?: Viewer, now = Date.now()): Promise<Post[]> {
      const ids = (await hotIds.get(HOT, () => loadHot(now))) ?? []
      const hot: Post[] = []
      for (let read = 0; read < ids.length && hot.length < limit; read += limit) {
        hot.push(...(await getMany(ids.slice(read, read + limit), viewer, 'feed')))
      }
      const byScore = hot.slice(0, limit).map((post) => ({ post, score: scoreOfPost(post) }))
      return byScore.sort((a, b) => b.score - a.score || (a.post.id < b.post.id ? 1 : -1)).map(({ post }) => post)
    },

    /**
     * Writes a post; `alongside` joins the D1 batch. One D1 round trip, then one for the caches of the post and of its
     * author. A lost reply of D1 is resolved by repeating the batch. Repeating the request writes another post, unless
     * `alongside` records an idempotency key.
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
      const transaction = platform.outbox.transaction()
      const event = { type: 'post_created' as const, data: { postId: id, authorId, text, version: 1 } }
      const recording = transaction.record(event, sql`true`, now)
      const [, rows] = await repeatOnce(() =>
        platform.db.batch([
          platform.db.insert(posts).values(post).onConflictDoNothing(), // a second run finds it
          authors().select(authorId),
          recording,
          ...mentions().record({ contentId: id, postId: id, authorId, text, isEdit: false }, sql`true`, now),
          ...alongside(created),
        ]),
      )
      transaction.enqueue()
      await platform.writeThrough(
        () => [byId.put(id, post), ...authors().refreshCache(rows)],
        () => [byId.invalidate([id], [post.version]), authors().invalidateCache(rows)],
      )
      return created
    },

    /**
     * Changes the text of a post, if it is `authorId`'s and at one of `versions`. One D1 round trip, then one for its
     * cache and its counts. Safe to repeat: with `versions`, a change that is there already succeeds (RFC 9110 §13.1.1).
     */
    async update(id: string, authorId: string, text: string, versions?: number[], now = Date.now()): Promise<Post> {
      const isEditable = editable(id, authorId, versions)
      const version = sql`(SELECT ${posts.version} + 1 FROM ${posts} WHERE ${posts.id} = ${id})`
      const isWritten = sql`EXISTS (SELECT 1 FROM ${posts}
        WHERE id = ${id} AND author_id = ${authorId} AND text = ${text} AND updated_at = ${now})`
      const updating = { type: 'post_updated' as const, data: { postId: id, authorId, text, version } }
      const transaction = platform.outbox.transaction()
      const [, [changed], [found]] = await platform.db.batch([
        transaction.record(updating, sql`EXISTS (SELECT 1 FROM ${posts} WHERE ${isEditable})`, now),
        platform.db
          .update(posts)
          .set({ text, updatedAt: now, version: sql`${posts.version} + 1` })
          .where(isEditable)
          .returning(columns),
        ownership(id, authorId),
        ...mentions().record({ contentId: id, postId: id, authorId, text, isEdit: true }, isWritten, now),
      ])
      transaction.enqueue()
      const isRepeated = found?.authorId === authorId && found.text === text && versions?.includes(found.version - 1)
      const row = changed ?? (isRepeated ? found : undefined)
      if (!row) throw refusal(id, authorId, found)
      const { likes: _likes, comments: _comments, views: _views, ...post } = row
      const [[updated]] = await Promise.all([
        withCounts([row], authorId),
        platform.writeThrough(
          () => [byId.put(id, post)],
          () => [byId.invalidate([id], [post.version])],
        ),
      ])
      platform.purge([id])
      return updated ?? toPost(row, row, undefined)
    },

    /** Invalidates the texts of posts that another back end wrote in D1. One round trip. Safe to repeat. */
    async invalidate(ids: string[]): Promise<void> {
      await byId.invalidate(ids)
      platform.purge(ids)
    },

    /** Invalidates the newest posts of a deleted author, who may have more. D1, then one round trip. Safe to repeat. */
    async invalidateNewest(authorId: string): Promise<void> {
      const rows = await platform.db
        .select({ id: posts.id })
        .from(posts)
        .where(eq(posts.authorId, authorId))
        .orderBy(desc(posts.id))
        .limit(INVALIDATED_POSTS)
      const ids = rows.map((row) => row.id)
      await byId.invalidate(ids)
      platform.purge(ids)
    },

    /**
     * Deletes at most `most` posts of a deleted author; returns how many, and the ids of those that have likes or comments.
     * Their entries and counts leave Redis first: while posts are in D1, a failed step is repeated, and no reader loads
     * them. One D1 query, one round trip, one D1 query. Safe to repeat.
     */
    async removeOf(authorId: string, most: number): Promise<{ removed: number; owners: string[] }> {
      const rows = await platform.db
        .select({ id: posts.id })
        .from(posts)
        .where(eq(posts.authorId, authorId))
        .orderBy(posts.id)
        .limit(most)
      const ids = rows.map((row) => row.id)
      if (ids.length === 0) return { removed: 0, owners: [] }
      await Promise.all([byId.invalidate(ids), platform.counters.writes.evict(COUNTERS, ids)])
      const [removed] = await platform.db.batch([
        platform.db
          .delete(posts)
          .where(inArray(posts.id, listOf(ids)))
          .returning({ id: posts.id, likes: posts.likesCount, comments: posts.commentsCount }),
        mentions().forgetting(ids),
      ])
      platform.purge(ids)
      const owners = removed.filter(({ likes, comments }) => likes + comments > 0).map(({ id }) => id)
      return { removed: ids.length, owners }
    },

    /** Expires every hot feed. One command. */
    expireHot: () => hotIds.expireAll(),

    /** Purges hot feeds that were expired; returns how many. One script. */
    purgeHot: () => hotIds.purge([HOT]),

    /**
     * Removes a post, if it is `authorId`'s and at one of `versions`, with its likes, comments, counts, and places in
     * caches and feeds. One D1 round trip, then one for the caches. Recorded in D1, then completed: the queue and the cron do what
     * a request with a lost reply left. Safe to repeat: it is refused as `not-found`, because the post is gone.
     */
    async remove(id: string, authorId: string, versions?: number[], now = Date.now()): Promise<void> {
      const isEditable = editable(id, authorId, versions)
      const transaction = platform.outbox.transaction()
      const [commented, [found], , [removed], rows] = await platform.db.batch([
        platform.db
          .select({ id: comments.id })
          .from(comments)
          .where(eq(comments.postId, id))
          .orderBy(desc(comments.id))
          .limit(EVICTED_COMMENTS),
        ownership(id, authorId),
        transaction.record(
          { type: 'post_deleted', data: { postId: id, authorId } },
          sql`EXISTS (SELECT 1 FROM ${posts} WHERE ${isEditable})`,
          now,
        ),
        platform.db.delete(posts).where(isEditable).returning({ id: posts.id }),
        authors().select(authorId),
      ])
      transaction.enqueue()
      if (!removed) throw refusal(id, authorId, found)
      const evict = () => [
        byId.invalidate([id], [Infinity]),
        platform.counters.reads.evict(COUNTERS, [id]),
        platform.counters.reads.evict(
          ['likes'],
          commented.map((comment) => comment.id),
        ),
      ]
      await platform.writeThrough(
        () => [...evict(), ...authors().refreshCache(rows)],
        () => [...evict(), authors().invalidateCache(rows)],
      )
      platform.purge([id])
    },
  }
}

const authorsOf = (found: (CachedPost | null)[]) => found.flatMap((post) => (post ? [post.authorId] : []))

/** Why `authorId` may not change the post that was `found`. */
function refusal(id: string, authorId: string, found: { authorId: string; version: number } | undefined): Problem {
  if (!found) return new Problem('not-found', `There is no post ${id}`)
  if (found.authorId !== authorId) return new Problem('not-yours')
  return new Problem('version-changed', `The post is at version ${found.version}`)
}

const scoreOfPost = ({ likesCount: likes, commentsCount: comments, viewsCount: views, createdAt }: Post) =>
  scoreOf({ likes, comments, views, createdAt: Date.parse(createdAt) })

function toPost(post: CachedPost, count: Counts, likedByMe: boolean | undefined): Post {
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
