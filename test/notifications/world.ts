import { expect } from 'vitest'
import type { LikeMessage } from '../../src/likes/schema.ts'
import type { Notification } from '../../src/notifications/schema.ts'
import { newEdge } from '../edge.ts'
import { addUser } from '../rows.ts'

export interface Listed {
  items: Notification[]
  nextCursor: string | null
  unreadCount: number
}

export type Member = Awaited<ReturnType<ReturnType<typeof newWorld>['newMember']>>

/** An edge whose likes wait to be delivered, and members who write over HTTP. */
export function newWorld(bindings: Record<string, unknown> = {}) {
  const likes: LikeMessage[] = []
  const edge = newEdge({ LIKES: { send: async (message: LikeMessage) => void likes.push(message) }, ...bindings })
  /** A user who is signed in: a new one, or one who is there. */
  async function newMember(of?: string) {
    const id = of ?? (await addUser()).id
    const headers = { ...(await edge.signIn({ id, sessionEpoch: 0 })), 'Content-Type': 'application/json' }
    const send = async (method: string, path: string, body?: object) => {
      const response = await edge.fetch(path, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) })
      expect([method, path, response.ok]).toEqual([method, path, true])
      return response
    }
    const written = async (path: string) =>
      (await (await send('POST', path, { text: 'Hello' })).json<{ id: string }>()).id
    return {
      id,
      headers,
      send,
      post: () => written('/v1/posts'),
      comment: (postId: string) => written(`/v1/posts/${postId}/comments`),
      like: (id: string, method: 'PUT' | 'DELETE' = 'PUT') =>
        send(method, `/v1/${id.startsWith('c_') ? 'comments' : 'posts'}/${id}/like`),
      follow: (id: string, method: 'PUT' | 'DELETE' = 'PUT') => send(method, `/v1/users/${id}/follow`),
      remove: (id: string) => send('DELETE', `/v1/${id.startsWith('c_') ? 'comments' : 'posts'}/${id}`),
      list: async (query = '') => (await send('GET', `/v1/notifications${query}`)).json<Listed>(),
      read: async (until?: string) =>
        (await send('POST', '/v1/notifications/read', until === undefined ? {} : { until })).json<{
          unreadCount: number
        }>(),
    }
  }
  return {
    edge,
    likes,
    newMember,
    /** Delivers all that is on its way. */
    deliver: async () => {
      await edge.settle()
      if (likes.length > 0) await edge.deliver(likes.splice(0))
      await edge.dispatch()
      await edge.settle()
    },
  }
}

/** A D1 that loses one reply, when `lose.next` is set: of the next statement that matches it, after it has run. */
export function newLossyD1(database: D1Database) {
  const lose: { next: RegExp | null } = { next: null }
  const sqlOf = new WeakMap<object, string>()
  const originalOf = new WeakMap<object, D1PreparedStatement>()
  async function run<T>(sql: string, work: Promise<T>): Promise<T> {
    const result = await work
    if (!lose.next?.test(sql)) return result
    lose.next = null
    throw new Error('D1 did it, but its reply was lost')
  }
  const wrap = (statement: D1PreparedStatement, sql: string): D1PreparedStatement => {
    const wrapped = new Proxy(statement, {
      get(target, name) {
        if (name === 'bind') return (...values: unknown[]) => wrap(target.bind(...values), sql)
        const member: unknown = Reflect.get(target, name)
        if (typeof member !== 'function') return member
        return (...given: unknown[]) => run(sql, Reflect.apply(member, target, given) as Promise<unknown>)
      },
    })
    sqlOf.set(wrapped, sql)
    originalOf.set(wrapped, statement)
    return wrapped
  }
  const DB = new Proxy(database, {
    get(target, name) {
      if (name === 'prepare') return (sql: string) => wrap(target.prepare(sql), sql)
      if (name === 'batch') {
        return (statements: D1PreparedStatement[]) =>
          run(
            statements.map((statement) => sqlOf.get(statement)).join(';'),
            target.batch(statements.map((statement) => originalOf.get(statement) ?? statement)),
          )
      }
      const member: unknown = Reflect.get(target, name)
      return typeof member === 'function' ? member.bind(target) : member
    },
  })
  return { DB, lose }
}
