import { listOf } from '../db/list.ts'
import { forViewer, isBlocked } from '../db/relations.ts'
import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { integer, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { isPresent } from '../db/present.ts'
import { posts, searchDocuments, users } from '../db/schema.ts'
import type { StoredEvent } from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'
import type { Page } from '../page.ts'
import type { PostRow } from '../posts/posts.ts'
import { service } from '../service.ts'
import type { CachedUser } from '../users/users.ts'
import { MAX_RANKED, type Position, toCursor } from './cursor.ts'
import { highlight, indexed, indexedJoined, type Part, type Term, toMatch } from './words.ts'

/** A post that matches, as D1 holds it. */
export interface FoundPost {
  row: PostRow
  snippets: { text: Part[] }
}

/** A user who matches. */
export interface FoundUser {
  row: CachedUser
  snippets: { username: Part[]; displayName: Part[]; bio: Part[] }
}

export type Search = ReturnType<typeof createSearch>
export const searchService = service<Search>('search')

/** A post that is twice as relevant comes first, unless the other is newer by more than this. */
const HALF_LIFE_MS = 90 * 86_400_000

/** The approximate length of a snippet (UTF-16 units). */
const SNIPPET_LENGTH = 200

/** How many documents are indexed at once: D1 takes parameters of 2 MB, a hundred posts of the longest index texts. */
const CHUNK = 100
/** How many rows one step of a rebuild reads. */
const STEP = 500

const TYPES = new Set(['post_created', 'post_updated', 'post_deleted', 'user_created', 'user_updated'])
const CHANNELS = new Set(['post_events', 'user_events'])

/** A row's place in the index, and the last place the index has. */
interface Placed {
  place: number
  newest: number
}

/**
 * Full text search over posts and users: D1 alone, one query a page.
 *
 * Two FTS5 tables hold the words of texts (as `words.ts` folds and cuts them) and no texts. Results join the current
 * posts and users, so a deleted post is never a result, however late the index is. A listener keeps the index: it reads
 * the row that an event names and writes its words only while the row has that version. Events that arrive late, twice or
 * in another order leave the index right. https://www.sqlite.org/fts5.html
 *
 * Ranks change while somebody reads pages: `bm25` depends on all documents, and users gain followers. So a cursor holds
 * the places of the pages before, and the next page is the best of the rest: nothing repeats, and no row that matches
 * throughout is skipped.
 */
export function createSearch(db: DrizzleD1Database, replica: () => DrizzleD1Database = () => db) {
  /**
   * Indexes the posts and users `ids` as they are now, and removes those that are gone. Two D1 round trips. Safe to repeat:
   * it writes what D1 has, in one transaction.
   */
  async function index(ids: string[]): Promise<void> {
    const [foundPosts, foundUsers] = await db.batch([
      db
        .select({ id: posts.id, version: posts.version, text: posts.text })
        .from(posts)
        .where(sql`${posts.id} IN ${listOf(ids)}`),
      db
        .select({
          id: users.id,
          version: users.version,
          username: users.username,
          displayName: users.displayName,
          bio: users.bio,
        })
        .from(users)
        .where(sql`${users.id} IN ${listOf(ids)} AND ${isPresent(users.id)}`),
    ])
    const found = JSON.stringify([...foundPosts, ...foundUsers].map(({ id }) => [id]))
    const postTexts = JSON.stringify(foundPosts.map(({ id, version, text }) => [id, version, wordsIn(text)]))
    const userTexts = JSON.stringify(
      foundUsers.map(({ id, version, username, displayName, bio }) => [
        id,
        version,
        wordsIn(username),
        wordsIn(displayName),
        wordsIn(bio),
      ]),
    )
    await db.batch([
      db
        .insert(searchDocuments)
        .select(sql`SELECT NULL, value ->> 0 FROM json_each(${found}) WHERE true`)
        .onConflictDoNothing(),
      // Only the version that was read: a newer version has an event of its own, which indexes it.
      db.delete(postWords).where(sql`rowid IN (SELECT place ${asRead(posts, postTexts)})`),
      db.insert(postWords).select(sql`SELECT place, value ->> 2 ${asRead(posts, postTexts)}`),
      db.delete(userWords).where(sql`rowid IN (SELECT place ${asRead(users, userTexts)})`),
      db.insert(userWords).select(sql`SELECT place, value ->> 2, value ->> 3, value ->> 4 ${asRead(users, userTexts)}`),
      ...removals(ids),
    ])
  }

  /** Statements that remove from the index those of `ids` that neither posts nor users have. */
  function removals(ids: string[]) {
    const isGone = sql`id IN ${listOf(ids)}
      AND NOT EXISTS (SELECT 1 FROM posts WHERE posts.id = search_documents.id)
      AND NOT EXISTS (SELECT 1 FROM users WHERE users.id = search_documents.id)`
    const places = sql`(SELECT place FROM search_documents WHERE ${isGone})`
    return [
      db.delete(postWords).where(sql`rowid IN ${places}`),
      db.delete(userWords).where(sql`rowid IN ${places}`),
      db.delete(searchDocuments).where(isGone),
    ] as const
  }

  /** A page of `rows`, which have one row more than the page if there is a next page. */
  function pageOf<Row extends Placed, T>(
    rows: Row[],
    limit: number,
    position: Position | undefined,
    toItem: (row: Row) => T,
  ): Page<T> {
    const shown = rows.slice(0, limit)
    const seen = [...(position?.seen ?? []), ...shown.map(({ place }) => place)]
    const last = shown.at(-1)
    const hasMore = last !== undefined && rows.length > limit && seen.length < MAX_RANKED
    return {
      items: shown.map(toItem),
      nextCursor: hasMore ? toCursor({ until: position?.until ?? last.newest, seen }) : null,
    }
  }

  const listener: Listener = {
    name: 'search',
    version: 1,
    wants: ({ channel, type }: StoredEvent) => CHANNELS.has(channel) && TYPES.has(type),
    handle: (events) => index([...new Set(events.map((event) => event.subject))]),

    /** Indexes all posts, then all users, then removes what is gone. Search works meanwhile. Safe to repeat. */
    async rebuild(cursor) {
      const [stage = '', after = ''] = cursor?.split(':') ?? []
      const at = Math.max(
        0,
        STAGES.findIndex((table) => table === stage),
      )
      const rows = await db.all<{ id: string }>(
        sql`SELECT id FROM ${sql.identifier(STAGES[at] ?? '')} WHERE id > ${after} ORDER BY id LIMIT ${STEP}`,
      )
      const ids = rows.map((row) => row.id)
      if (STAGES[at] === 'search_documents') await db.batch(removals(ids))
      else for (let done = 0; done < ids.length; done += CHUNK) await index(ids.slice(done, done + CHUNK))
      if (rows.length === STEP) return `${STAGES[at]}:${ids.at(-1)}`
      const next = STAGES[at + 1]
      return next === undefined ? null : `${next}:`
    },
  }

  return {
    listener,

    /** Posts that match all of `query` and that `viewerId` sees, the most relevant first, newer before older. */
    async posts(query: Term[], limit: number, position?: Position, viewerId?: string): Promise<Page<FoundPost>> {
      const rows = await replica().all<PostRow & Placed>(sql`
        WITH matches AS MATERIALIZED (
          SELECT rowid AS place, -bm25(post_words) AS relevance FROM post_words WHERE ${matching('post_words', query, position)}
        )
        SELECT posts.id, posts.author_id AS authorId, text, created_at AS createdAt, updated_at AS updatedAt, version,
          likes_count AS likes, comments_count AS comments, views_count AS views, place, ${NEWEST} AS newest
        FROM matches CROSS JOIN search_documents USING (place) CROSS JOIN posts USING (id)
        WHERE ${isPresent(sql`posts.author_id`)}
          AND ${forViewer(viewerId, (id) => sql`NOT ${isBlocked(id, sql`posts.author_id`)}`)}
        ORDER BY log2(relevance) + created_at * 1.0 / ${HALF_LIFE_MS} DESC, id DESC
        LIMIT ${limit + 1}`)
      return pageOf(rows, limit, position, ({ newest: _newest, place: _place, ...row }) => ({
        row,
        snippets: { text: highlight(row.text, query, SNIPPET_LENGTH) },
      }))
    },

    /** Users who match all of `query` in their names and bio, the most relevant and most followed first. */
    async users(query: Term[], limit: number, position?: Position, viewerId?: string): Promise<Page<FoundUser>> {
      const rows = await replica().all<CachedUser & Placed>(sql`
        WITH matches AS MATERIALIZED (
          SELECT rowid AS place, -bm25(user_words, 10, 5, 1) AS relevance FROM user_words
          WHERE ${matching('user_words', query, position)}
        )
        SELECT users.id, username, display_name AS displayName, bio, followers_count AS followersCount,
          followings_count AS followingsCount, posts_count AS postsCount, created_at AS createdAt, version, revision,
          place, ${NEWEST} AS newest
        FROM matches CROSS JOIN search_documents USING (place) CROSS JOIN users USING (id)
        WHERE ${isPresent(sql`users.id`)}
          AND ${forViewer(viewerId, (id) => sql`NOT ${isBlocked(id, sql`users.id`)}`)}
        ORDER BY relevance * ln(followers_count + 3) DESC, id DESC
        LIMIT ${limit + 1}`)
      return pageOf(rows, limit, position, ({ newest: _newest, place: _place, ...row }) => ({
        row,
        snippets: {
          username: highlight(row.username, query, SNIPPET_LENGTH),
          displayName: highlight(row.displayName, query, SNIPPET_LENGTH),
          bio: highlight(row.bio, query, SNIPPET_LENGTH),
        },
      }))
    },
  }
}

/** The two FTS5 tables. A migration creates them: Drizzle has no virtual tables. */
const postWords = sqliteTable('post_words', { rowid: integer(), words: text() })
const userWords = sqliteTable('user_words', {
  rowid: integer(),
  username: text(),
  displayName: text('display_name'),
  bio: text(),
})

/** The rows `[id, version, …]` of `read` whose version is still that of `table`, with their places. */
const asRead = (table: typeof posts | typeof users, read: string) => sql`
  FROM json_each(${read}) CROSS JOIN ${table} ON ${table}.id = value ->> 0 AND ${table}.version = value ->> 1
  CROSS JOIN search_documents ON search_documents.id = ${table}.id`

/** The tables that a rebuild reads in turn, by id. */
const STAGES = ['posts', 'users', 'search_documents'] as const

const NEWEST = sql`(SELECT max(place) FROM search_documents)`

/** What an index has of a text: its words, and those with apostrophes also without them. */
const wordsIn = (text: string) => `${indexed(text)} ${indexedJoined(text)}`

/** The newest matches of an index that earlier pages have not shown. */
const matching = (table: 'post_words' | 'user_words', query: Term[], position: Position | undefined) => sql`
  ${sql.identifier(table)} MATCH ${toMatch(query)}
  AND rowid <= CAST(${position?.until ?? Number.MAX_SAFE_INTEGER} AS INTEGER)
  AND rowid NOT IN (SELECT value FROM json_each(${JSON.stringify(position?.seen ?? [])}))
  ORDER BY rowid DESC LIMIT ${MAX_RANKED}`
