import { getTableColumns, getTableName, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { getTableConfig, type SQLiteTable } from 'drizzle-orm/sqlite-core'
import type { Redis } from '@upstash/redis/cloudflare'
import * as schema from '../db/schema.ts'
import { invalidField, Problem, unavailable } from '../errors.ts'
import { HINTS } from '../events/catalog.ts'
import { isOwnKey } from '../keys.ts'
import { service } from '../service.ts'
import type { Page, Source } from './archive.ts'

/** The tables of a backup. A table comes after those that it refers to, and after those that its rows need to be handled. */
const tables = new Map<string, SQLiteTable>(
  [
    schema.users,
    schema.posts,
    schema.takedowns,
    schema.comments,
    schema.follows,
    schema.relations,
    schema.postLikes,
    schema.commentLikes,
    schema.sessions,
    schema.revocations,
    schema.signInSources,
    schema.credentialTokens,
    schema.idempotencyKeys,
    schema.notifications,
    schema.notificationReads,
    schema.mentions,
    schema.fences,
    schema.counterChanges,
    schema.unsettledCounts,
    schema.removals,
    schema.serviceTokens,
    schema.dashboardSignOuts,
    schema.reports,
    schema.suspensions,
    schema.moderationLog,
    schema.webhooks,
    schema.webhookVersion,
    schema.eventSequences,
    schema.events,
    schema.deliveries,
    schema.deliveryAttempts,
    schema.webhookHours,
  ].map((table) => [getTableName(table), table]),
)
/** What belongs to a content, by the id of its row: D1 has no references there, because it is removed in steps. */
const OWNERS = [
  [schema.comments, schema.comments.postId, schema.posts],
  [schema.postLikes, schema.postLikes.postId, schema.posts],
  [schema.commentLikes, schema.commentLikes.commentId, schema.comments],
] as const

/** Tables that no backup has: a listener rebuilds the first, nothing reads the second, and the third has two hours of figures. */
const DERIVED = [schema.searchDocuments, schema.postScores, schema.statMinutes]
/** The listeners that rebuild what a backup lacks. */
const REBUILT = ['search', 'recommendations', 'counts']

/** The part with the keys of Redis that D1 does not have. */
const REDIS = 'redis'
const REDIS_COLUMNS = ['key', 'value', 'expires_at']
/** Sessions, epochs and fences. Everything else in Redis is rebuilt from D1. */
const isSaved = (key: string) => /^(session|epoch|fence):/.test(key)

const PAGE_BYTES = 1_000_000
/** `COUNT` of `SCAN`. */
const SCANNED = 1_000

/** Names of columns that a row of `table` has. Not generated columns: D1 computes them. */
const columnsOf = (table: SQLiteTable): string[] =>
  Object.values(getTableColumns(table)).flatMap((column) => (column.generated ? [] : [column.name]))

const needsRedis = unavailable('Redis and D1 must be available')

const listed = (names: string[]) =>
  sql.join(
    names.map((name) => sql.identifier(name)),
    sql`, `,
  )

export interface BackupDependencies {
  db: DrizzleD1Database
  redis: Redis
  /** Writes to D1 the likes and views that only Redis has. */
  writeBehind: () => Promise<void>
  beginRebuild: (listener: string) => Promise<void>
}

export type Backup = ReturnType<typeof createBackup>
export const backupService = service<Backup>('backup')

/**
 * Reads everything that a backup needs, in pages, and restores it into an empty database.
 *
 * **Backup.** The pages are no snapshot: each row is as it was at some time during the backup. Tables that refer to others
 * are read first. So a row whose parent is missing belongs to what was deleted meanwhile, and the restore skips it. Likes
 * and views that only Redis has are written to D1 before the tables are read.
 *
 * **Restore.** D1 gets exactly the rows of the backup: from the beginning to the end of a restore its triggers are dropped.
 * The table `restoring` keeps them. Meanwhile events cannot be published, so writes fail. At the end the listeners rebuild
 * what derives from the rows. Every step is safe to repeat, so an interrupted restore starts again from its beginning.
 *
 * A page costs one D1 query, or two round trips to Redis.
 */
export function createBackup({ db, redis, writeBehind, beginRebuild }: BackupDependencies) {
  async function readTable(table: SQLiteTable, after: string, limit: number): Promise<Page> {
    const columns = columnsOf(table)
    const rows = await db.all<{ place: number; line: string }>(sql`
      WITH page AS MATERIALIZED (
        SELECT rowid AS place, json_array(${listed(columns)}) AS line FROM ${table}
        WHERE rowid > ${Number(after)} ORDER BY rowid LIMIT ${limit}
      )
      SELECT place, line FROM (SELECT place, line, sum(length(line)) OVER (ORDER BY place) - length(line) AS before FROM page)
      WHERE before < ${PAGE_BYTES} ORDER BY place`)
    const last = rows.at(-1)
    return {
      columns,
      rows: JSON.parse(`[${rows.map(({ line }) => line).join()}]`) as unknown[][], // made by the query
      next: last ? String(last.place) : null,
    }
  }

  async function readRedis(after: string, now: number): Promise<Page> {
    const [cursor, found] = await redis.scan(after, { count: SCANNED })
    const saved = found.filter(isSaved)
    const read = redis.pipeline()
    for (const key of saved) read.get(key).pttl(key)
    const replies = saved.length > 0 ? await read.exec<unknown[]>() : []
    const rows = saved.flatMap((key, i) => {
      const [value, ttlMs] = [replies[2 * i], Number(replies[2 * i + 1])]
      // Null: it has expired since. The client has parsed the value.
      return value === null ? [] : [[key, JSON.stringify(value), ttlMs < 0 ? null : now + ttlMs]]
    })
    return { columns: REDIS_COLUMNS, rows, next: cursor === '0' ? null : cursor }
  }

  async function restoreRedis(rows: unknown[][], now: number): Promise<number> {
    const write = redis.pipeline()
    for (const [key, value, expiresAt] of rows as [string, string, number | null][]) {
      if (!isSaved(key)) throw invalidField('body', 'rows', `${key} does not belong to a backup`)
      const px = (expiresAt ?? now + 1) - now
      const options = expiresAt === null ? { nx: true as const } : { nx: true as const, px }
      if (px > 0) write.set(key, JSON.parse(value), options)
    }
    return write.length() === 0 ? 0 : (await write.exec().catch(needsRedis)).filter((reply) => reply === 'OK').length
  }

  /** The backup that is being restored. */
  async function findRestore(): Promise<string | undefined> {
    const [isRestoring] = await db.all(sql`SELECT 1 FROM sqlite_schema WHERE name = 'restoring' AND type = 'table'`)
    if (!isRestoring) return undefined
    const [row] = await db.all<{ sql: string }>(sql`SELECT sql FROM restoring WHERE name = ''`)
    return row?.sql
  }

  /** Removes what Redis derives from another database. Keeps locks and fences. */
  async function emptyRedis(): Promise<void> {
    for (let cursor = '0'; ;) {
      const [next, found] = await redis.scan(cursor, { count: SCANNED })
      const old = found.filter((key) => isOwnKey(key) && !/^(lock|fence):/.test(key))
      if (old.length > 0) await redis.del(...old)
      if (next === '0') return
      cursor = next
    }
  }

  return {
    /** Writes to D1 the likes and views that only Redis has. Returns the tables in the order in which to read them. */
    async begin(): ReturnType<Source['begin']> {
      await writeBehind().catch(needsRedis)
      return [REDIS, ...[...tables.keys()].toReversed()]
    },

    /** Reads a page of at most `limit` rows and about 1 MB. */
    async read(name: string, after: string | undefined, limit: number, now = Date.now()): Promise<Page> {
      if (name === REDIS) return readRedis(after ?? '0', now).catch(needsRedis)
      return readTable(tableOf(name), after ?? '0', limit)
    },

    /**
     * Begins to restore the backup `id`, or begins again. Throws `not-empty` if the database has other rows. Safe to
     * repeat, after a lost reply too.
     */
    async beginRestore(id: string): Promise<void> {
      const restoring = await findRestore()
      if (restoring !== undefined && restoring !== id) {
        throw new Problem('not-empty', `The database has a part of the backup ${restoring}`)
      }
      if (restoring === undefined) {
        for (const table of [...tables.values(), ...DERIVED]) {
          // Locks may have been held already. Their fences rise.
          const [row] =
            table === schema.fences
              ? []
              : await db
                  .select({ one: sql`1` })
                  .from(table)
                  .limit(1)
          if (row) throw new Problem('not-empty', `The database has ${getTableName(table)}`)
        }
        const triggers = await db.all<{ name: string }>(sql`SELECT name FROM sqlite_schema WHERE type = 'trigger'`)
        await db.batch([
          db.run(sql`CREATE TABLE restoring (name TEXT PRIMARY KEY, sql TEXT NOT NULL)`),
          db.run(sql`INSERT INTO restoring SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'`),
          // Drizzle binds no values of raw statements in a batch.
          db.run(sql.raw(`INSERT INTO restoring VALUES ('', '${id.replaceAll("'", "''")}')`)),
          ...triggers.map(({ name }) => db.run(sql`DROP TRIGGER ${sql.identifier(name)}`)),
          // A stored fact has a number, a new one would get none. Hints have none.
          db.run(sql`
            CREATE TRIGGER restoring_only BEFORE INSERT ON events
            WHEN NEW.sequence = 0 AND NEW.public_sequence = 0
              AND NEW.type NOT IN (${sql.raw(HINTS.map((type) => `'${type}'`).join())})
            BEGIN SELECT RAISE(ABORT, 'A backup is being restored'); END`),
        ])
      }
      await emptyRedis().catch(needsRedis)
    },

    /**
     * Inserts rows of a table, in their order. Skips rows that exist, and rows whose parent does not. Returns how many it
     * inserted. A column that the backup lacks gets its default. Safe to repeat: it then inserts what is missing.
     */
    async restore(name: string, { columns, rows }: Omit<Page, 'next'>, now = Date.now()): Promise<number> {
      if ((await findRestore()) === undefined) throw new Problem('not-restoring')
      if (name === REDIS) return restoreRedis(rows, now)
      const table = tableOf(name)
      const known = new Set(columnsOf(table))
      for (const column of columns) {
        if (!known.has(column)) throw invalidField('body', 'columns', `${name} has no column ${column}`)
      }
      const value = (column: string) => sql`value ->> ${sql.raw(String(columns.indexOf(column)))}`
      const hasParents = getTableConfig(table).foreignKeys.map((key) => {
        const { columns, foreignTable, foreignColumns } = key.reference()
        const isParent = sql.join(
          columns.map((column, i) => sql`${foreignColumns[i]} = ${value(column.name)}`),
          sql` AND `,
        )
        return sql`EXISTS (SELECT 1 FROM ${foreignTable} WHERE ${isParent})`
      })
      const hasOwners = OWNERS.filter(([owned]) => owned === table).map(
        ([, column, owner]) => sql`(EXISTS (SELECT 1 FROM ${owner} WHERE ${owner.id} = ${value(column.name)})
          OR EXISTS (SELECT 1 FROM ${schema.takedowns} WHERE content_id = ${value(column.name)}))`,
      )
      const { meta } = await db.run(sql`
        INSERT INTO ${table} (${listed(columns)})
        SELECT ${sql.join(columns.map(value), sql`, `)} FROM json_each(${JSON.stringify(rows)})
        WHERE ${sql.join([sql`true`, ...hasParents, ...hasOwners], sql` AND `)} ON CONFLICT DO NOTHING`)
      return meta.changes
    },

    /**
     * Ends the restore: creates the triggers, and begins to rebuild what derives from the rows. Returns what is
     * rebuilt. Safe to repeat, after a lost reply too: rebuilding again changes nothing.
     */
    async endRestore(): Promise<string[]> {
      if ((await findRestore()) !== undefined) {
        const triggers = await db.all<{ sql: string }>(sql`SELECT sql FROM restoring WHERE name <> ''`)
        await db.batch([
          db.run(sql`DROP TRIGGER restoring_only`),
          ...triggers.map((trigger) => db.run(sql.raw(trigger.sql))),
          db.run(sql`DROP TABLE restoring`),
        ])
      }
      for (const listener of REBUILT) await beginRebuild(listener)
      return REBUILT
    },
  }
}

function tableOf(name: string): SQLiteTable {
  const table = tables.get(name)
  if (!table) throw new Problem('not-found', `A backup has no table ${name}`)
  return table
}
