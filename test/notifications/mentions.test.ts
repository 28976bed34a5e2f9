import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as t from '../../src/db/schema.ts'
import { namesIn } from '../../src/notifications/mentions.ts'
import { migrate, newEdge } from '../edge.ts'
import { addRelation, addUser, db } from '../rows.ts'

beforeAll(migrate)

test('a text names users by @name: not in addresses, once each, in any case, ten at most', () => {
  expect(namesIn('@ada, @Bob_1! (@carol) @ADA')).toEqual(['ada', 'bob_1', 'carol'])
  expect(namesIn('ada@example.test @@dan é@eve @ab @x.y a_@fay')).toEqual([])
  expect(namesIn(`@${'a'.repeat(31)}`)).toEqual([])
  expect(namesIn(Array.from({ length: 20 }, (_, i) => `@user${i}`).join(' '))).toHaveLength(10)
})

async function newWorld() {
  const edge = newEdge()
  const member = async () => {
    const user = await addUser()
    const headers = { ...(await edge.signIn(user)), 'Content-Type': 'application/json' }
    const send = async (method: string, path: string, body?: object) => {
      const response = await edge.fetch(path, { method, headers, ...(body && { body: JSON.stringify(body) }) })
      await edge.settle()
      if (!response.ok) throw new Error(`${method} ${path}: ${response.status}`)
      return response.status === 204 ? { id: '' } : response.json<{ id: string }>()
    }
    /** The notifications of the user: type, and the content. */
    const inbox = async () => {
      await edge.dispatch()
      const { items } = (await send('GET', '/v1/notifications')) as unknown as {
        items: { type: string; postId: string; commentId?: string; isRead: boolean }[]
      }
      return items.map(({ type, postId, commentId }) => [type, commentId ?? postId])
    }
    return { ...user, send, inbox, name: `@${user.username}` }
  }
  const [ada, bob, carol] = [await member(), await member(), await member()]
  return { edge, ada, bob, carol, member }
}

test('a post that names a user notifies that user once, also after edits, and not while it names nobody', async () => {
  const { ada, bob } = await newWorld()
  const post = await ada.send('POST', '/v1/posts', { text: `Hello ${bob.name} and ${ada.name} and ${bob.name}` })
  expect(await bob.inbox()).toEqual([['mention', post.id]])
  expect(await ada.inbox()).toEqual([])
  await bob.send('POST', '/v1/notifications/read', {})
  await ada.send('PATCH', `/v1/posts/${post.id}`, { text: 'Hello' })
  expect(await bob.inbox()).toEqual([])
  await ada.send('PATCH', `/v1/posts/${post.id}`, { text: `Again ${bob.name}` })
  expect(await bob.inbox()).toEqual([['mention', post.id]])
  expect(await bob.send('GET', '/v1/notifications')).toMatchObject({ unreadCount: 0 })
  await ada.send('DELETE', `/v1/posts/${post.id}`)
  expect(await bob.inbox()).toEqual([])
  expect(await db.select().from(t.mentions).where(eq(t.mentions.contentId, post.id))).toEqual([])
})

test('an edit that names a user for the first time notifies that user', async () => {
  const { ada, bob, carol } = await newWorld()
  const post = await ada.send('POST', '/v1/posts', { text: 'Hello' })
  expect(await bob.inbox()).toEqual([])
  await ada.send('PATCH', `/v1/posts/${post.id}`, { text: `Hello ${bob.name}` })
  expect(await bob.inbox()).toEqual([['mention', post.id]])
  const comment = await carol.send('POST', `/v1/posts/${post.id}/comments`, { text: 'Yes' })
  await carol.send('PATCH', `/v1/comments/${comment.id}`, { text: `Yes ${bob.name}` })
  expect(await bob.inbox()).toEqual([
    ['mention', comment.id],
    ['mention', post.id],
  ])
  await carol.send('DELETE', `/v1/comments/${comment.id}`)
  expect(await bob.inbox()).toEqual([['mention', post.id]])
})

test('who is notified of a comment anyway is not notified of a name in it', async () => {
  const { ada, bob, carol } = await newWorld()
  const post = await ada.send('POST', '/v1/posts', { text: 'Hello' })
  const comment = await bob.send('POST', `/v1/posts/${post.id}/comments`, { text: `To ${ada.name}` })
  const reply = await carol.send('POST', `/v1/posts/${post.id}/comments`, {
    text: `To ${ada.name} and ${bob.name}`,
    parentId: comment.id,
  })
  expect(await ada.inbox()).toEqual([
    ['comment', reply.id],
    ['comment', comment.id],
  ])
  expect(await bob.inbox()).toEqual([['reply', reply.id]])
})

test('a user who may not see the content is not named: a block of its author, or of the author of its post', async () => {
  const { ada, bob, carol } = await newWorld()
  await addRelation(bob.id, 'block', ada.id)
  const post = await ada.send('POST', '/v1/posts', { text: `Hello ${bob.name}` })
  await carol.send('POST', `/v1/posts/${post.id}/comments`, { text: `Look ${bob.name}` })
  expect(await bob.inbox()).toEqual([])
  expect(await db.select().from(t.mentions).where(eq(t.mentions.userId, bob.id))).toEqual([])
})

test('a block or mute after it hides a mention, also of a comment on the post of a hidden user', async () => {
  const { ada, bob, carol } = await newWorld()
  const post = await ada.send('POST', '/v1/posts', { text: `Hello ${bob.name}` })
  const comment = await carol.send('POST', `/v1/posts/${post.id}/comments`, { text: `Look ${bob.name}` })
  expect(await bob.inbox()).toHaveLength(2)
  await bob.send('PUT', `/v1/users/${carol.id}/mute`)
  expect(await bob.inbox()).toEqual([['mention', post.id]])
  await bob.send('DELETE', `/v1/users/${carol.id}/mute`)
  expect(await bob.inbox()).toEqual([
    ['mention', comment.id],
    ['mention', post.id],
  ])
  await bob.send('PUT', `/v1/users/${ada.id}/block`)
  expect(await bob.inbox()).toEqual([])
})

test('an edit that is refused names nobody', async () => {
  const { edge, ada, bob } = await newWorld()
  const post = await ada.send('POST', '/v1/posts', { text: 'Hello' })
  const headers = { ...(await edge.signIn(ada)), 'Content-Type': 'application/json', 'If-Match': '"7"' }
  const body = JSON.stringify({ text: `Hello ${bob.name}` })
  expect((await edge.fetch(`/v1/posts/${post.id}`, { method: 'PATCH', headers, body })).status).toBe(412)
  expect(await bob.inbox()).toEqual([])
})
