import { env } from 'cloudflare:workers'

const ORIGINAL = Symbol('the statement itself')

/** D1 whose calls (a statement, or a batch) go through `guard` with their SQL: it decides when they run and fail. */
export function guardedD1(guard: <T>(sql: string, work: () => Promise<T>) => Promise<T>): D1Database {
  const sqlOf = new WeakMap<object, string>()
  const wrap = (statement: D1PreparedStatement, sql: string): D1PreparedStatement => {
    sqlOf.set(statement, sql)
    return new Proxy(statement, {
      get(target, name) {
        if (name === 'bind') return (...values: unknown[]) => wrap(target.bind(...values), sql)
        if (name === ORIGINAL) return target
        const member: unknown = Reflect.get(target, name)
        if (typeof member !== 'function') return member
        return (...given: unknown[]) => guard(sql, () => Reflect.apply(member, target, given) as Promise<unknown>)
      },
    })
  }
  return new Proxy(env.DB, {
    get(target, name) {
      if (name === 'prepare') return (sql: string) => wrap(target.prepare(sql), sql)
      if (name === 'batch') {
        return (statements: D1PreparedStatement[]) => {
          const originals = statements.map((statement) => Reflect.get(statement, ORIGINAL) as D1PreparedStatement)
          const sql = originals.map((original) => sqlOf.get(original) ?? '').join(';\n')
          return guard(sql, () => target.batch(originals))
        }
      }
      const member: unknown = Reflect.get(target, name)
      return typeof member === 'function' ? member.bind(target) : member
    },
  })
}

/**
 * D1 that fails the next `times` calls that match: `after` it has executed them, or `before`. `onCall` runs before each
 * call.
 */
export function losing(
  match: RegExp,
  times: number,
  when: 'after' | 'before' = 'after',
  onCall: (sql: string) => Promise<void> = async () => {},
) {
  let left = times
  const DB = guardedD1(async (sql, work) => {
    await onCall(sql)
    const isFailing = match.test(sql) && left > 0
    if (!isFailing) return work()
    left -= 1
    if (when === 'after') await work()
    throw new Error('D1_ERROR: Network connection lost.')
  })
  return { DB, hasLost: () => left < times }
}
