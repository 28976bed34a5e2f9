import { type SQL, type SQLWrapper, sql } from 'drizzle-orm'

/** How many ids each list of a user's relations holds: 64 KB. Of a user with more, each request asks D1. */
const MAX_LISTED = 2_000

type Id = SQLWrapper | string

/** Whether `userId` blocks or mutes `otherId`. One index probe. */
const has = (kind: 'block' | 'mute', userId: Id, otherId: Id): SQL =>
  sql`EXISTS (SELECT 1 FROM relations WHERE user_id = ${userId} AND kind = ${kind} AND other_id = ${otherId})`

/** Whether a block stands between two users, whoever of them made it. Two index probes. */
export const isBlocked = (oneId: Id, otherId: Id): SQL =>
  sql`(${has('block', oneId, otherId)} OR ${has('block', otherId, oneId)})`

/** Whether `otherId` is hidden from the feeds and notifications of `userId`. Three index probes. */
export const isBlockedOrMuted = (userId: Id, otherId: Id): SQL =>
  sql`(${isBlocked(userId, otherId)} OR ${has('mute', userId, otherId)})`

/** `condition` for a viewer; true for anonymous readers, from whom nothing is hidden. */
export const forViewer = (viewerId: string | undefined, condition: (viewerId: string) => SQL): SQL =>
  viewerId === undefined ? sql`true` : condition(viewerId)

/**
 * What a user's blocks and mutes hide: the ids of users who block this user or are blocked, and of muted users, as JSON.
 * A list that would be longer than `MAX_LISTED` is null.
 */
export const relationsJson = (userId: SQLWrapper): SQL<string> => {
  const some = (selected: SQL) => sql`SELECT * FROM (${selected} LIMIT ${sql.raw(String(MAX_LISTED + 1))})`
  const listed = (selected: SQL) =>
    sql`json((SELECT iif(count(*) > ${sql.raw(String(MAX_LISTED))}, 'null', json_group_array(id)) FROM (${selected})))`
  const blocked = some(sql`SELECT other_id AS id FROM relations WHERE user_id = ${userId} AND kind = 'block'`)
  const blockers = some(sql`SELECT user_id AS id FROM relations WHERE other_id = ${userId} AND kind = 'block'`)
  const muted = some(sql`SELECT other_id AS id FROM relations WHERE user_id = ${userId} AND kind = 'mute'`)
  return sql<string>`json_object('version', relations_version, 'hidden', ${listed(sql`${blocked} UNION ALL ${blockers}`)},
    'muted', ${listed(muted)})`
}
