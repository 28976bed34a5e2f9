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
