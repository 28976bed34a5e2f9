import { listOf } from '../db/list.ts'
import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { integer, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { posts, searchDocuments, users } from '../db/schema.ts'
import type { StoredEvent } from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'
import { service } from '../service.ts'
import { type Page, pageOf } from '../page.ts'
import type { PostRow } from '../posts/posts.ts'
import type { CachedUser } from '../users/users.ts'
import { highlight, indexed, type Part, type Term, toMatch } from './words.ts'

/** A post that was found, as D1 holds it. */
export interface FoundPost {
  row: PostRow
  snippets: { text: Part[] }
}

/** A user who was found. */
export interface FoundUser {
  row: CachedUser
  snippets: { username: Part[]; displayName: Part[]; bio: Part[] }
}

/** Which page of an answer: how far in, and of what had been indexed when the first was asked for. */
export interface Position {
  /** The last place in the index that counts. */
  until: number
  offset: number
}

export type Search = ReturnType<typeof createSearch>
export const searchService = service<Search>('search')

/** Of more that match, the newest are ranked: what a word that everybody uses may cost. It is also where pages end. */
const MOST_RANKED = 1_000

/** A post twice as relevant as another comes first, unless the other is newer by more than this. */
const HALF_LIFE_MS = 90 * 86_400_000

/** A snippet is at most about this long (UTF-16 units). */
const SNIPPET_LENGTH = 200

/** D1 takes parameters of 2 MB: a hundred posts of the longest index texts. */
const CHUNK = 100
/** How many one step of a rebuild reads. */
const STEP = 500

const TYPES = new Set(['post_created', 'post_updated', 'post_deleted', 'user_created', 'user_updated'])
const CHANNELS = new Set(['post_events', 'user_events'])

/** The last place in the index when a row was found. */
interface Newest {
  newest: number
}

/**
 * Full text search over posts and users: D1 alone, one query a page.
 *
 * Two FTS5 tables hold the words of texts (as `words.ts` cuts and folds them) and no texts: results join the posts and
 * users of this moment, so what was deleted is never answered, however late the index is. The index is kept by a
 * listener, which reads the row an event is about and writes its words only while the row has that version: events that
 * come late, twice or in another order leave it right. https://www.sqlite.org/fts5.html
 */
export function createSearch(db: DrizzleD1Database) {
  /** Brings the index to what posts and users are now; those that are gone leave it. Two D1 round trips. */
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
        .where(sql`${users.id} IN ${listOf(ids)}`),
    ])
    const found = JSON.stringify([...foundPosts, ...foundUsers].map(({ id }) => [id]))
    const postTexts = JSON.stringify(foundPosts.map(({ id, version, text }) => [id, version, indexed(text)]))
    const userTexts = JSON.stringify(
      foundUsers.map(({ id, version, username, displayName, bio }) => [
        id,
        version,
        indexed(username),
        indexed(displayName),
        indexed(bio),
      ]),
    )
    await db.batch([
      db
        .insert(searchDocuments)
        .select(sql`SELECT NULL, value ->> 0 FROM json_each(${found}) WHERE true`)
        .onConflictDoNothing(),
      // Only of the version that was read: whoever wrote a newer one has an event of it, and indexes that.
      db.delete(postWords).where(sql`rowid IN (SELECT place ${asRead(posts, postTexts)})`),
      db.insert(postWords).select(sql`SELECT place, value ->> 2 ${asRead(posts, postTexts)}`),
      db.delete(userWords).where(sql`rowid IN (SELECT place ${asRead(users, userTexts)})`),
      db.insert(userWords).select(sql`SELECT place, value ->> 2, value ->> 3, value ->> 4 ${asRead(users, userTexts)}`),
      ...removals(ids),
    ])
  }

  /** Statements that take those of `ids` out of the index which are no longer there. */
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

  /** One page of `rows`, of which one more was asked for. */
  function cut<Row extends Newest, T>(
    rows: Row[],
    limit: number,
    position: Position | undefined,
    toItem: (row: Row) => T,
  ) {
    const offset = (position?.offset ?? 0) + limit
    return pageOf(rows, limit, ({ newest }) => `${position?.until ?? newest}-${offset}`, toItem)
  }

  const listener: Listener = {
    name: 'search',
    wants: ({ channel, type }: StoredEvent) => CHANNELS.has(channel) && TYPES.has(type),
    handle: (events) => index([...new Set(events.map((event) => event.subject))]),

    /** Indexes all posts, then all users, and takes out what is gone; meanwhile search answers what is there. */
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

    /** Posts that have all of `query`, the most relevant first, newer before older. */
    async posts(query: Term[], limit: number, position?: Position): Promise<Page<FoundPost>> {
      const rows = await db.all<PostRow & Newest>(sql`
        WITH matches AS MATERIALIZED (
          SELECT rowid AS place, -bm25(post_words) AS relevance FROM post_words WHERE ${matching('post_words', query, position)}
        )
        SELECT posts.id, posts.author_id AS authorId, text, created_at AS createdAt, updated_at AS updatedAt, version,
          likes_count AS likes, comments_count AS comments, views_count AS views, ${NEWEST} AS newest
        FROM matches CROSS JOIN search_documents USING (place) CROSS JOIN posts USING (id)
        ORDER BY log2(relevance) + created_at * 1.0 / ${HALF_LIFE_MS} DESC, id DESC
        LIMIT ${limit + 1} OFFSET ${position?.offset ?? 0}`)
      return cut(rows, limit, position, ({ newest: _newest, ...row }) => ({
        row,
        snippets: { text: highlight(row.text, query, SNIPPET_LENGTH) },
      }))
    },

    /** Users who have all of `query` in their names and bio, the most relevant and most followed first. */
    async users(query: Term[], limit: number, position?: Position): Promise<Page<FoundUser>> {
      const rows = await db.all<CachedUser & Newest>(sql`
        WITH matches AS MATERIALIZED (
          SELECT rowid AS place, -bm25(user_words, 10, 5, 1) AS relevance FROM user_words
          WHERE ${matching('user_words', query, position)}
        )
        SELECT users.id, username, display_name AS displayName, bio, followers_count AS followersCount,
          followings_count AS followingsCount, posts_count AS postsCount, created_at AS createdAt, version, revision,
          ${NEWEST} AS newest
        FROM matches CROSS JOIN search_documents USING (place) CROSS JOIN users USING (id)
        ORDER BY relevance * ln(followers_count + 3) DESC, id DESC
        LIMIT ${limit + 1} OFFSET ${position?.offset ?? 0}`)
      return cut(rows, limit, position, ({ newest: _newest, ...row }) => ({
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

/** The two FTS5 tables. A migration makes them: Drizzle knows no virtual tables. */
const postWords = sqliteTable('post_words', { rowid: integer(), words: text() })
const userWords = sqliteTable('user_words', {
  rowid: integer(),
  username: text(),
  displayName: text('display_name'),
  bio: text(),
})

/** The rows `[id, version, …]` of `read` of which `table` still has that version, with their places. */
const asRead = (table: typeof posts | typeof users, read: string) => sql`
  FROM json_each(${read}) CROSS JOIN ${table} ON ${table}.id = value ->> 0 AND ${table}.version = value ->> 1
  CROSS JOIN search_documents ON search_documents.id = ${table}.id`

/** The tables that a rebuild walks, by id. */
const STAGES = ['posts', 'users', 'search_documents'] as const

const NEWEST = sql`(SELECT max(place) FROM search_documents)`

/** The newest that match, for a walk of the index from its end. */
const matching = (table: 'post_words' | 'user_words', query: Term[], position: Position | undefined) => sql`
  ${sql.identifier(table)} MATCH ${toMatch(query)}
  AND rowid <= CAST(${position?.until ?? Number.MAX_SAFE_INTEGER} AS INTEGER)
  ORDER BY rowid DESC LIMIT ${MOST_RANKED}`
