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
