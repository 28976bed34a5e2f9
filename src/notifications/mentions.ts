import type { BatchItem } from 'drizzle-orm/batch'
import { eq, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { listOf } from '../db/list.ts'
import { isBlocked } from '../db/relations.ts'
import { removeOwned, removeSome } from '../db/remove.ts'
import { comments, mentions, posts, takedowns, users } from '../db/schema.ts'
import { newId } from '../ids.ts'
import { service } from '../service.ts'

/** How many users a text names at most: more are ignored. */
const MAX_NAMES = 10

/** A username after `@`, unless the `@` is part of a word, as in an email address. */
const NAME = /(?<![\p{L}\p{N}_@.])@(\w{3,30})(?!\w)/gu

/** The usernames that a text names, in lower case. */
export const namesIn = (text: string): string[] =>
  [...new Set(Array.from(text.matchAll(NAME), ([, name = '']) => name.toLowerCase()))].slice(0, MAX_NAMES)

/** A content that may name users. */
export interface Naming {
  /** The id of a post or comment. */
  contentId: string
  /** The post, or the post of the comment. */
  postId: string
  authorId: string
  text: string
  isEdit: boolean
}

export type Mentions = ReturnType<typeof createMentions>
export const mentionsService = service<Mentions>('mentions')

/**
 * Whom contents name. Recorded in the D1 batch that writes the content: a user is named once per content, however often the
 * text is edited. Users who may not see the content are not named: a block stands between them and its author, or the
 * author of its post. Neither are those whom the comment notifies anyway. No Redis. Safe to repeat.
 */
export function createMentions(db: DrizzleD1Database) {
  /** A statement that deletes what deleted contents named. What is taken down may be restored: it keeps its names. */
  const forgetting = (contentIds: string[]) =>
    db.delete(mentions).where(
      sql`content_id IN ${listOf(contentIds)} AND NOT EXISTS (SELECT 1 FROM ${posts} WHERE id = content_id)
        AND NOT EXISTS (SELECT 1 FROM ${comments} WHERE id = content_id AND deleted_at IS NULL)
        AND NOT EXISTS (SELECT 1 FROM ${takedowns} WHERE takedowns.content_id = mentions.content_id)`,
    )

  return {
    forgetting,

    /**
     * Statements for the batch that writes a content, after it. `when`: whether the batch has written it. Safe to
     * repeat: a user is named once.
     */
    record({ contentId, postId, authorId, text, isEdit }: Naming, when: SQL, now: number): BatchItem<'sqlite'>[] {
      const names = namesIn(text)
      const parent = sql`SELECT above.author_id FROM ${comments} AS said CROSS JOIN ${comments} AS above
        ON above.id = said.parent_id WHERE said.id = ${contentId}`
      const isNotifiedAnyway =
        contentId === postId ? sql`false` : sql`users.id = posts.author_id OR users.id IN (${parent})`
      const forget = db
        .update(mentions)
        .set({ isNamed: false })
        .where(sql`content_id = ${contentId} AND ${when}`)
      const insert = db
        .insert(mentions)
        .select(
          sql`SELECT ${contentId}, users.id, ${newId('m', now)}, posts.id, ${now}, true
            FROM ${posts} CROSS JOIN ${users} ON username IN ${listOf(names)}
            WHERE posts.id = ${postId} AND users.id <> ${authorId} AND ${when} AND NOT (${isNotifiedAnyway})
              AND NOT ${isBlocked(authorId, sql`users.id`)} AND NOT ${isBlocked(sql`users.id`, sql`posts.author_id`)}`,
        )
        .onConflictDoUpdate({ target: [mentions.contentId, mentions.userId], set: { isNamed: true } })
      return [...(isEdit ? [forget] : []), ...(names.length > 0 ? [insert] : [])]
    },

    /** The users whom contents name or have named. One D1 query. */
    async of(contentIds: string[]): Promise<string[]> {
      if (contentIds.length === 0) return []
      const rows = await db
        .select({ id: mentions.userId })
        .from(mentions)
        .where(sql`${mentions.contentId} IN ${listOf(contentIds)}`)
      return rows.map((row) => row.id)
    },

    /** Deletes what deleted contents named. One D1 query. Safe to repeat. */
    async forget(contentIds: string[]): Promise<void> {
      if (contentIds.length === 0) return
      await forgetting(contentIds)
    },

    /** Deletes at most `most` mentions on a deleted post. Returns how many. Safe to repeat. */
    removeOfPost: (postId: string, most: number): Promise<number> =>
      removeOwned(db, [mentions, mentions.postId], posts, postId, most),

    /** Deletes at most `most` mentions in a deleted comment. Returns how many. Safe to repeat. */
    removeOfComment: (id: string, most: number): Promise<number> =>
      removeOwned(db, [mentions, mentions.contentId], comments, id, most),

    /** Deletes at most `most` mentions of a deleted user. Returns how many. Safe to repeat. */
    removeOf: (userId: string, most: number): Promise<number> =>
      removeSome(db, mentions, eq(mentions.userId, userId), most),
  }
}
