import { env } from 'cloudflare:workers'
import { createTables } from './edge.ts'

/**
 * The D1 of these tests, which runs `interrupt` between a query that matches `pattern` and its result: the `nth` of
 * them, counted from 1. So a test decides what happens while a value is on its way.
 */
export function interruptedDatabase(pattern: RegExp, nth: number, interrupt: () => Promise<unknown>): D1Database {
  let seen = 0
  /** What a proxy stands for: D1 takes only its own statements. */
  const originals = new WeakMap<D1PreparedStatement, D1PreparedStatement>()
  const interrupted = async (work: Promise<unknown>): Promise<unknown> => {
    const result = await work
    seen += 1
    if (seen === nth) await interrupt()
    return result
  }
  function watch(statement: D1PreparedStatement): D1PreparedStatement {
    const watched = new Proxy(statement, {
      get(target, name) {
        const method = Reflect.get(target, name) as (...parameters: unknown[]) => unknown
        return (...parameters: unknown[]) => {
          const result = method.apply(target, parameters)
          return name === 'bind' ? watch(result as D1PreparedStatement) : interrupted(result as Promise<unknown>)
        }
      },
    })
    originals.set(watched, statement)
    return watched
  }
  return new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') {
        return (sql: string) => (pattern.test(sql) ? watch(target.prepare(sql)) : target.prepare(sql))
      }
      if (name === 'batch') {
        return (statements: D1PreparedStatement[]) => {
          const work = target.batch(statements.map((statement) => originals.get(statement) ?? statement))
          return statements.some((statement) => originals.has(statement)) ? interrupted(work) : work
        }
      }
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/**
 * The D1 of these tests, which calls `before` ahead of every query. A batch is one query. A `before` that throws is a query
 * that never reaches D1.
 */
export function watchedDatabase(before: () => void) {
  const originals = new WeakMap<object, D1PreparedStatement>()
  function watch(statement: D1PreparedStatement): D1PreparedStatement {
    const watched = new Proxy(statement, {
      get(target, name) {
        const method = Reflect.get(target, name) as (...values: unknown[]) => unknown
        return (...values: unknown[]) => {
          if (name === 'bind') return watch(method.apply(target, values) as D1PreparedStatement)
          before()
          return method.apply(target, values)
        }
      },
    })
    originals.set(watched, statement)
    return watched
  }
  return {
    prepare: (query: string) => watch(env.DB.prepare(query)),
    batch: (statements: D1PreparedStatement[]) => {
      before()
      return env.DB.batch(statements.map((statement) => originals.get(statement) ?? statement))
    },
  }
}

/** The D1 of these tests while it cannot be written: reads work. `onRefusal` is called for each refused write. */
export function readOnlyDatabase(onRefusal: () => void = () => {}): { DB: D1Database; recover: () => void } {
  let isReadOnly = true
  const DB = new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') {
        return (sql: string) => {
          if (isReadOnly && /^\s*(insert|update|delete)/i.test(sql)) {
            onRefusal()
            throw new Error('D1_ERROR: D1 cannot be written')
          }
          return target.prepare(sql)
        }
      }
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { DB, recover: () => void (isReadOnly = false) }
}

/** The D1 of these tests, which adds up the rows that statements read and write, as D1 bills them. */
export function meteredDatabase(matches = /./) {
  const rows = { read: 0, written: 0 }
  const sqlOf = new WeakMap<object, string>()
  const count = ({ meta }: D1Result): void => {
    rows.read += meta.rows_read
    rows.written += meta.rows_written
  }
  const watched = (sql: string): D1PreparedStatement => watch(env.DB.prepare(sql), sql)
  const originals = new WeakMap<object, D1PreparedStatement>()
  function watch(statement: D1PreparedStatement, sql: string): D1PreparedStatement {
    const proxy = new Proxy(statement, {
      get(target, name) {
        if (name === 'bind') return (...values: unknown[]) => watch(target.bind(...values), sql)
        // `raw` and `first` return no figures.
        const run = async () => {
          const result = await target.all()
          if (matches.test(sql)) count(result)
          return result
        }
        if (name === 'raw') {
          // The names of columns may repeat, so a query runs twice; a change must not.
          const isQuery = /^\s*(select|with)/i.test(sql)
          return async () => {
            const { results } = await run()
            return isQuery ? target.raw() : results.map((row) => Object.values(row))
          }
        }
        if (name === 'first') return async () => (await run()).results[0] ?? null
        return name === 'all' || name === 'run' ? run : Reflect.get(target, name)
      },
    })
    originals.set(proxy, statement)
    sqlOf.set(proxy, sql)
    return proxy
  }
  const DB = new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') return watched
      if (name === 'batch') {
        return async (statements: D1PreparedStatement[]) => {
          const results = await target.batch(statements.map((statement) => originals.get(statement) ?? statement))
          for (const [i, result] of results.entries()) {
            const statement = statements[i]
            if (statement && matches.test(sqlOf.get(statement) ?? '')) count(result)
          }
          return results
        }
      }
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { DB, rows }
}

/** A statement that is not bound to a database yet. */
interface Statement {
  sql: string
  values: unknown[]
}

/** What a replica shows in tests. */
const REPLICATED = ['users', 'posts', 'comments', 'follows'] as const

/**
 * The D1 of these tests with a replica that lags: it shows an older snapshot, which is a real D1 too. It gets what the
 * primary has by `catchUp`, or when a session begins with a bookmark of a later state, as D1 waits for it then. Only
 * sessions read from it, and all they can: also the second query of a session that began at the primary.
 */
export async function laggingDatabase() {
  const replica = env.TEST_REPLICA
  const states = { primary: 1, replica: 0 }
  const sessions: string[] = []
  const bookmarkOf = (state: number) => `${state.toString(16).padStart(8, '0')}-00000000-00000000-${'0'.repeat(32)}`
  const stateOf = (bookmark: string) => Number.parseInt(bookmark.slice(0, 8), 16)

  async function catchUp(): Promise<void> {
    const statements = [replica.prepare('PRAGMA defer_foreign_keys = true')]
    for (const table of REPLICATED) statements.push(replica.prepare(`DELETE FROM ${table}`))
    for (const table of REPLICATED) {
      // Generated columns are not among these.
      const columns = await env.DB.prepare('SELECT name FROM pragma_table_info(?)').bind(table).all<{ name: string }>()
      const names = columns.results.map(({ name }) => name)
      const rows = await env.DB.prepare(`SELECT ${names.join()} FROM ${table}`).raw()
      const insert = replica.prepare(`INSERT INTO ${table} (${names.join()}) VALUES (${names.map(() => '?').join()})`)
      for (const row of rows) statements.push(insert.bind(...row))
    }
    await replica.batch(statements)
    states.replica = states.primary
  }

  await createTables(replica)
  const triggers = await replica
    .prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    .all<{ name: string }>()
  for (const { name } of triggers.results) await replica.prepare(`DROP TRIGGER ${name}`).run()
  await catchUp()

  function withSession(constraint = 'first-unconstrained') {
    sessions.push(constraint)
    let reached: number | undefined = constraint.startsWith('first-') ? undefined : stateOf(constraint)
    /** Chooses the instance for a query, as D1 might. */
    async function run<T>(isWrite: boolean, work: (database: D1Database) => Promise<T>): Promise<T> {
      if (isWrite || (constraint === 'first-primary' && reached === undefined)) {
        const result = await work(env.DB)
        if (isWrite) states.primary += 1
        reached = states.primary
        return result
      }
      if (reached !== undefined && reached > states.replica) await catchUp()
      const result = await work(replica)
      reached = states.replica
      return result
    }
    const isWrite = ({ sql }: Statement) => !/^\s*(select|with)/i.test(sql)
    const on = (database: D1Database, { sql, values }: Statement) => database.prepare(sql).bind(...values)
    const statementOf = (statement: Statement) => ({
      ...statement,
      bind: (...values: unknown[]) => statementOf({ ...statement, values }),
      all: () => run(isWrite(statement), (database) => on(database, statement).all()),
      run: () => run(isWrite(statement), (database) => on(database, statement).run()),
      raw: () => run(isWrite(statement), (database) => on(database, statement).raw()),
    })
    return {
      prepare: (sql: string) => statementOf({ sql, values: [] }),
      batch: (statements: Statement[]) =>
        run(statements.some(isWrite), (database) => database.batch(statements.map((one) => on(database, one)))),
      getBookmark: () => (reached === undefined ? null : bookmarkOf(reached)),
    }
  }

  const DB = new Proxy(env.DB, {
    get(target, name) {
      if (name === 'withSession') return withSession
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { DB, catchUp, /** How each session began. */ sessions }
}
