import { eq } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as t from '../../src/db/schema.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { addComment, addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

interface Comment {
  id: string
  parentId: string | null
  authorId: string | null
  text: string
  version: number
  repliesCount: number
  likesCount: number
}
interface Page {
  items: (Comment & { replies: { items: Comment[]; nextCursor: string | null } })[]
  nextCursor: string | null
}

async function newWorld() {
  const edge = newEdge()
  const member = async () => {
    const user = await addUser()
    const headers = { ...(await edge.signIn(user)), 'Content-Type': 'application/json' }
    const ask = async (method: string, path: string, body?: object, more: Record<string, string> = {}) => {
      const response = await edge.fetch(path, {
        method,
        headers: { ...headers, ...more },
        ...(body && { body: JSON.stringify(body) }),
      })
      await edge.settle()
      return response
    }
    return { ...user, headers, ask }
  }
  const [ada, bob] = [await member(), await member()]
  const post = await addPost({ authorId: ada.id })
  const reply = async (parentId: string | undefined, text: string, by = bob): Promise<Comment> => {
    const response = await by.ask('POST', `/v1/posts/${post.id}/comments`, { text, ...(parentId && { parentId }) })
    expect([text, response.status]).toEqual([text, 201])
    return response.json<Comment>()
  }
  return { edge, ada, bob, member, post, reply }
}

async function read(edge: Edge, path: string): Promise<Page> {
  const response = await edge.fetch(path)
  expect([path, response.status]).toEqual([path, 200])
  const page = await response.json<Page>()
  await edge.settle()
  return page
}

const texts = ({ items }: { items: Comment[] }) => items.map(({ text }) => text)

/** What the counts in D1 say, and what there is. */
async function countsOf(postId: string) {
  const [post] = await db.select({ count: t.posts.commentsCount }).from(t.posts).where(eq(t.posts.id, postId))
  const rows = await db.select().from(t.comments).where(eq(t.comments.postId, postId))
  for (const { id, repliesCount } of rows) {
    expect([id, repliesCount]).toEqual([id, rows.filter(({ parentId }) => parentId === id).length])
  }
  expect(post?.count).toBe(rows.filter(({ deletedAt }) => deletedAt === null).length)
  return { count: post?.count, rows: rows.length }
}

test('replies are stored at any depth, and a page shows two levels', async () => {
  const { edge, post, reply } = await newWorld()
  const first = await reply(undefined, 'first')
  const second = await reply(first.id, 'second')
  const third = await reply(second.id, 'third')
  const fourth = await reply(third.id, 'fourth')
  expect([fourth.parentId, first.parentId]).toEqual([third.id, null])

  const top = await read(edge, `/v1/posts/${post.id}/comments`)
  expect(texts(top)).toEqual(['first'])
  expect(top.items[0]).toMatchObject({ repliesCount: 1, version: 1 })
  expect(top.items[0]?.replies.items).toMatchObject([{ text: 'second', repliesCount: 1 }])
  const below = await read(edge, `/v1/comments/${second.id}/replies`)
  expect([texts(below), below.items.map(({ replies }) => texts(replies))]).toEqual([['third'], [['fourth']]])
  expect(await read(edge, `/v1/posts?ids=${post.id}`)).toMatchObject({ items: [{ commentsCount: 4 }] })
})

test('pages of replies do not move when others are written or deleted', async () => {
  const { edge, bob, post, reply } = await newWorld()
  const top = await reply(undefined, 'top')
  const ids: string[] = []
  for (let i = 0; i < 8; i += 1) {
    const { id } = await addComment({
      postId: post.id,
      authorId: bob.id,
      parentId: top.id,
      text: String(i),
      createdAt: Date.now() - 10_000 + i,
    })
    ids.push(id)
  }
  const page = await read(edge, `/v1/posts/${post.id}/comments`)
  expect(page.items.map(({ replies }) => texts(replies))).toEqual([['0', '1', '2']])
  const next = page.items[0]?.replies.nextCursor
  await reply(top.id, 'new')
  for (const id of [ids[1], ids[2], ids[4]]) expect((await bob.ask('DELETE', `/v1/comments/${id}`)).status).toBe(204)
  const rest = await read(edge, `/v1/comments/${top.id}/replies?limit=2&cursor=${next}`)
  expect([texts(rest), rest.nextCursor]).toEqual([['3', '5'], ids[5]])
  const last = await read(edge, `/v1/comments/${top.id}/replies?cursor=${rest.nextCursor}`)
  expect([texts(last), last.nextCursor]).toEqual([['6', '7', 'new'], null])
  expect(await countsOf(post.id)).toEqual({ count: 7, rows: 7 })
})

test('a deleted comment with replies keeps its place, does not count, and goes with its last reply', async () => {
  const { edge, ada, bob, post, reply } = await newWorld()
  const first = await reply(undefined, 'first')
  const second = await reply(first.id, 'second')
  const third = await reply(second.id, 'third', ada)
  expect((await bob.ask('PUT', `/v1/comments/${second.id}/like`)).status).toBe(200)
  for (const { id } of [first, second]) {
    expect((await bob.ask('DELETE', `/v1/comments/${id}`)).status).toBe(204)
    expect((await bob.ask('DELETE', `/v1/comments/${id}`)).status).toBe(404)
  }
  const [shown] = (await read(edge, `/v1/posts/${post.id}/comments`)).items
  expect(shown).toMatchObject({ id: first.id, text: '', authorId: null, repliesCount: 1 })
  expect(shown?.replies.items).toMatchObject([{ id: second.id, text: '', authorId: null, likesCount: 0 }])
  expect(texts(await read(edge, `/v1/comments/${second.id}/replies`))).toEqual(['third'])
  expect(await countsOf(post.id)).toEqual({ count: 1, rows: 3 })
  for (const [method, path, body] of [
    ['PUT', `/v1/comments/${second.id}/like`, undefined],
    ['PATCH', `/v1/comments/${second.id}`, { text: 'back' }],
    ['POST', `/v1/posts/${post.id}/comments`, { text: 'no', parentId: second.id }],
  ] as const) {
    expect([method, (await bob.ask(method, path, body)).status]).toEqual([method, 404])
  }
  expect((await ada.ask('DELETE', `/v1/comments/${third.id}`)).status).toBe(204)
  expect(await countsOf(post.id)).toEqual({ count: 0, rows: 0 })
  const events = await db.select().from(t.events).where(eq(t.events.subject, post.id))
  const kinds = events.filter(({ type }) => type.startsWith('comment_')).map(({ type }) => type)
  expect(kinds.filter((type) => type === 'comment_deleted')).toHaveLength(3)
})

test('a deleted comment stays while one of its replies is left', async () => {
  const { edge, bob, post, reply } = await newWorld()
  const top = await reply(undefined, 'top')
  const [one, two] = [await reply(top.id, 'one'), await reply(top.id, 'two')]
  for (const { id } of [top, one]) await bob.ask('DELETE', `/v1/comments/${id}`)
  expect((await read(edge, `/v1/posts/${post.id}/comments`)).items[0]?.replies.items).toMatchObject([{ id: two.id }])
  expect(await countsOf(post.id)).toEqual({ count: 1, rows: 2 })
})

test('when an account goes, the replies of others to its comments move up', async () => {
  const { ada, bob, member, post, reply } = await newWorld()
  const carol = await member()
  const top = await reply(undefined, 'top')
  const middle = await reply(top.id, 'middle', carol)
  await reply(middle.id, 'one', bob)
  await reply(middle.id, 'two', ada)
  const other = await reply(undefined, 'of carol', carol)
  const below = await reply(other.id, 'three')
  await db.delete(t.users).where(eq(t.users.id, carol.id))
  expect(await countsOf(post.id)).toEqual({ count: 4, rows: 4 })
  const [row] = await db.select().from(t.comments).where(eq(t.comments.id, below.id))
  expect(row?.parentId).toBeNull()
})

test('a reply to a comment elsewhere, of nobody or of a deleted one is not found, and stores nothing', async () => {
  const { ada, bob, post } = await newWorld()
  const elsewhere = await addPost({ authorId: ada.id })
  const comment = await addComment({ postId: elsewhere.id, authorId: ada.id })
  for (const parentId of [comment.id, 'c_nothing']) {
    const response = await bob.ask('POST', `/v1/posts/${post.id}/comments`, { text: 'Hi', parentId })
    expect([parentId, response.status]).toEqual([parentId, 404])
  }
  await expectRefused(
    bob.ask('POST', `/v1/posts/${post.id}/comments`, { text: 'Hi', parentId: 'p_1' }),
    'body',
    'parentId',
  )
  expect(await countsOf(post.id)).toEqual({ count: 0, rows: 0 })
})

test('a comment is edited by its author at the version that it has, with one event', async () => {
  const { edge, ada, bob, post, reply } = await newWorld()
  const { id } = await reply(undefined, 'before')
  const edit = (text: string, match?: string, by = bob) =>
    by.ask('PATCH', `/v1/comments/${id}`, { text }, match === undefined ? {} : { 'If-Match': match })
  const edited = await edit('after', '"1"')
  expect([edited.status, edited.headers.get('ETag')]).toEqual([200, '"2-0-0"'])
  expect(await edited.json()).toMatchObject({ id, text: 'after', version: 2 })
  expect((await edit('late', '"1"')).status).toBe(412)
  expect((await edit('mine', undefined, ada)).status).toBe(403)
  expect((await bob.ask('PATCH', '/v1/comments/c_nothing', { text: 'x' })).status).toBe(404)
  await expectRefused(bob.ask('PATCH', `/v1/comments/${id}`, { text: '' }), 'body', 'text')
  expect(texts(await read(edge, `/v1/posts/${post.id}/comments`))).toEqual(['after'])
  const events = await db.select().from(t.events).where(eq(t.events.subject, post.id))
  expect(events.filter(({ type }) => type === 'comment_updated').map(({ data }) => data)).toEqual([
    { commentId: id, postId: post.id, authorId: bob.id, text: 'after', version: 2 },
  ])
})

test('a block hides replies and what is below a hidden comment, and pages fill', async () => {
  const { edge, ada, bob, member, post, reply } = await newWorld()
  const carol = await member()
  const top = await reply(undefined, 'top')
  for (const [text, by] of [
    ['1', carol],
    ['2', bob],
    ['3', carol],
    ['4', bob],
    ['5', bob],
    ['6', bob],
  ] as const) {
    await reply(top.id, text, by)
  }
  const hidden = await reply(undefined, 'hidden', carol)
  await reply(hidden.id, 'below')
  await ada.ask('PUT', `/v1/users/${carol.id}/block`)
  const response = await ada.ask('GET', `/v1/posts/${post.id}/comments`)
  const page = await response.json<Page>()
  expect([texts(page), page.items.map(({ replies }) => texts(replies))]).toEqual([['top'], [['2', '4', '5']]])
  expect((await ada.ask('GET', `/v1/comments/${hidden.id}/replies`)).status).toBe(404)
  expect((await edge.fetch(`/v1/comments/${hidden.id}/replies`)).status).toBe(200)
  const refused = await carol.ask('POST', `/v1/posts/${post.id}/comments`, { text: 'x', parentId: top.id })
  expect(refused.status).toBe(404) // the post is by ada
})

test('the author of a comment is notified of a reply, once, and not of what is taken back', async () => {
  const { edge, ada, bob, reply } = await newWorld()
  const inbox = async (of: typeof ada) => {
    await edge.dispatch()
    const response = await of.ask('GET', '/v1/notifications')
    const { items } = await response.json<{ items: { type: string; commentId?: string }[] }>()
    return items.map(({ type, commentId }) => [type, commentId])
  }
  const top = await reply(undefined, 'top', bob)
  const answer = await reply(top.id, 'answer', ada)
  expect(await inbox(bob)).toEqual([['reply', answer.id]])
  const own = await reply(top.id, 'to myself', bob)
  expect(await inbox(bob)).toEqual([['reply', answer.id]])
  expect(await inbox(ada)).toEqual([
    ['comment', own.id],
    ['comment', top.id],
  ])
  await ada.ask('DELETE', `/v1/comments/${answer.id}`)
  expect(await inbox(bob)).toEqual([])
})

test('a page of comments with replies costs D1 two queries and Redis what one without costs', async () => {
  const { edge, post, reply } = await newWorld()
  const path = `/v1/posts/${post.id}/comments`
  const cost = async () => {
    await read(edge, path) // Redis learns the counts
    await edge.redis.reset()
    const response = await edge.fetch(path)
    await edge.settle()
    return [roundTrips(response), (await edge.redis.counts()).commands]
  }
  const top = await reply(undefined, 'top')
  const without = await cost()
  await reply(top.id, 'one')
  await reply(top.id, 'two')
  expect(await cost()).toEqual(without)
})
