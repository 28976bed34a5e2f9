import { env } from 'cloudflare:workers'

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
        // `raw` and `first` tell no figures.
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
