import { env } from 'cloudflare:workers'
import { eq, like, sql } from 'drizzle-orm'
import { beforeAll, expect, test } from 'vitest'
import * as schema from '../../src/db/schema.ts'
import { parseCursor } from '../../src/search/cursor.ts'
import { createSearch } from '../../src/search/search.ts'
import { type Edge, expectRefused, migrate, newEdge, roundTrips } from '../edge.ts'
import { addPost, addUser, db } from '../rows.ts'

beforeAll(migrate)

const SERVICE = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }

interface Part {
  text: string
  isMatch: boolean
}
interface Found {
  items: {
    post: { id: string; likesCount: number; likedByMe?: boolean }
    user: { id: string }
    snippets: Record<string, Part[]>
  }[]
  nextCursor: string | null
}

const ask = (edge: Edge, q: string, more = '', headers: Record<string, string> = {}) =>
  edge.fetch(`/v1/search?q=${encodeURIComponent(q)}${more}`, { headers })

async function find(edge: Edge, q: string, more = ''): Promise<Found> {
  const response = await ask(edge, q, more)
  expect([q, response.status]).toEqual([q, 200])
  return response.json<Found>()
}
const findPosts = async (edge: Edge, q: string) => (await find(edge, q)).items.map(({ post }) => post.id)
const findUsers = async (edge: Edge, q: string) => (await find(edge, q, '&type=users')).items.map(({ user }) => user.id)

const joined = (parts: Part[] = []) => parts.map((part) => (part.isMatch ? `[${part.text}]` : part.text)).join('')

/** Indexes everything there is, as the command does. */
async function rebuild(edge: Edge) {
  const response = await edge.fetch('/v1/listeners/search/rebuild', { method: 'POST', headers: SERVICE })
  expect(response.status).toBe(202)
  expect(await edge.dispatch()).toBe(0)
}

/** A word that no other test uses. */
const newWord = () => `w${crypto.randomUUID().replaceAll('-', '')}`

/** Posts of `texts`, indexed, by their ids; the later ones are newer. */
async function addPosts(edge: Edge, ...texts: string[]) {
  const author = await addUser()
  const ids = []
  for (const [i, text] of texts.entries())
    ids.push((await addPost({ authorId: author.id, text, createdAt: 1_700_000_000_000 + i })).id)
  await createSearch(db).listener.handle(ids.map((subject) => ({ ...HAPPENED, subject })))
  return ids
}
const HAPPENED = {
  id: 'ev_1',
  channel: 'post_events',
  type: 'post_created',
  subject: '',
  sequence: 1,
  data: {},
  audience: 'everyone' as const,
  createdAt: 1,
  traceparent: null,
}

test('search follows what the API writes, edits and deletes', async () => {
  const edge = newEdge()
  const ada = await addUser()
  const headers = { ...(await edge.signIn(ada)), 'Content-Type': 'application/json' }
  const [first, second] = [newWord(), newWord()]
  const send = async (method: string, path: string, body?: unknown) => {
    const response = await edge.fetch(path, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) })
    expect(response.ok).toBe(true)
    await edge.settle()
    expect(await edge.dispatch()).toBe(0)
    return response
  }
  const { id } = await (await send('POST', '/v1/posts', { text: `Look: ${first}` })).json<{ id: string }>()
  expect(await find(edge, first)).toMatchObject({ items: [{ post: { id } }], nextCursor: null })
  await send('PATCH', `/v1/posts/${id}`, { text: `Look: ${second}` })
  expect([await findPosts(edge, first), await findPosts(edge, second)]).toEqual([[], [id]])
  await send('DELETE', `/v1/posts/${id}`)
  expect(await findPosts(edge, second)).toEqual([])
  expect(await db.select().from(schema.searchDocuments).where(eq(schema.searchDocuments.id, id))).toEqual([])

  await send('PATCH', '/v1/users/me', { displayName: first, bio: second })
  expect([await findUsers(edge, first), await findUsers(edge, second)]).toEqual([[ada.id], [ada.id]])
  await send('PATCH', '/v1/users/me', { bio: '' })
  expect([await findUsers(edge, first), await findUsers(edge, second)]).toEqual([[ada.id], []])
  const account = { username: newWord().slice(0, 20), email: `${first}@example.test`, password: 'correct horse' }
  const signedUp = await send('POST', '/v1/users', { ...account, displayName: 'Grace' })
  expect(await findUsers(edge, account.username)).toEqual([(await signedUp.json<{ id: string }>()).id])
  expect(await findUsers(edge, `${first}@example.test`)).toEqual([]) // nobody is found by what only they see
})

test('the cron rebuilds an index that older code made, once', async () => {
  const edge = newEdge()
  const word = newWord()
  const author = await addUser()
  const post = await addPost({ authorId: author.id, text: word }) // no event: the index lacks it
  await db.delete(schema.listenerVersions)
  for (let run = 0; run < 2; run += 1) {
    await edge.cron()
    const rebuilds = edge.events.sent.filter(({ body }) => (body as { kind: string }).kind === 'rebuild')
    expect(rebuilds).toHaveLength(run === 0 ? 1 : 0)
    await edge.dispatch()
    expect(await findPosts(edge, word)).toEqual([post.id])
  }
  await db.update(schema.listenerVersions).set({ version: 0 })
  await edge.cron()
  expect(edge.events.sent.map(({ body }) => body)).toContainEqual({ kind: 'rebuild', listener: 'search', cursor: null })
})

test('a deleted post is not answered, even while the index still has it', async () => {
  const edge = newEdge()
  const word = newWord()
  const [gone, kept] = await addPosts(edge, word, word)
  await db.delete(schema.posts).where(eq(schema.posts.id, String(gone)))
  expect(await findPosts(edge, word)).toEqual([kept])
})

test('late, repeated and reordered events leave the index equal to the rows', async () => {
  const edge = newEdge()
  const { handle } = createSearch(db).listener
  const [old, young] = [newWord(), newWord()]
  const [id = ''] = await addPosts(edge, old)
  await db.update(schema.posts).set({ text: young, version: 2 }).where(eq(schema.posts.id, id))
  const events = [
    { ...HAPPENED, subject: id, type: 'post_updated', data: { text: young } },
    { ...HAPPENED, subject: id, data: { text: old } },
    { ...HAPPENED, subject: id, data: { text: old } },
  ]
  for (const event of events) await handle([event])
  await handle(events)
  expect([await findPosts(edge, old), await findPosts(edge, young)]).toEqual([[], [id]])
  await db.delete(schema.posts).where(eq(schema.posts.id, id))
  await handle([{ ...HAPPENED, subject: id, type: 'post_deleted' }, ...events])
  const [count] = await db.all<{ n: number }>(
    sql`SELECT count(*) AS n FROM post_words WHERE post_words MATCH ${`"${young}"`}`,
  )
  expect(count).toEqual({ n: 0 })
})

test('of two concurrent indexers of a post, the one with the older text writes nothing', async () => {
  const edge = newEdge()
  const [old, young] = [newWord(), newWord()]
  const { id } = await addPost({ authorId: (await addUser()).id, text: old })
  let edit: (() => Promise<unknown>) | undefined = async () => {
    await db.update(schema.posts).set({ text: young, version: 2 }).where(eq(schema.posts.id, id))
    await createSearch(db).listener.handle([{ ...HAPPENED, subject: id }])
  }
  // The edit, and the indexing of it, come between this one's reading and its writing.
  const slow = new Proxy(db, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name)
      if (typeof member !== 'function') return member
      if (name !== 'batch') return member.bind(target)
      return async (statements: never) => {
        const results: unknown = await member.call(target, statements)
        const late = edit
        edit = undefined
        await late?.()
        return results
      }
    },
  })
  await createSearch(slow).listener.handle([{ ...HAPPENED, subject: id }])
  expect(edit).toBeUndefined()
  expect([await findPosts(edge, old), await findPosts(edge, young)]).toEqual([[], [id]])
})

test('events of other channels are ignored, whatever their type', () => {
  const { wants } = createSearch(db).listener
  expect(wants(HAPPENED)).toBe(true)
  expect(wants({ ...HAPPENED, channel: 'custom_x' })).toBe(false)
  expect(wants({ ...HAPPENED, channel: 'user_events', type: 'user_followed' })).toBe(false)
})

test.each([
  ['Chinese', '我喜欢喝绿茶和咖啡', ['绿茶', '茶', '喜欢喝绿茶', '咖啡', '啡'], ['茶绿', '红茶', '绿咖']],
  [
    'Japanese',
    '昨日は東京タワーに行きました',
    ['東京', 'タワー', '行き', '東京タワー', 'した'],
    ['京東', '大阪', '東タ'],
  ],
  [
    'Korean',
    '어제 서울에서 김치찌개를 먹었다',
    ['서울', '김치', '찌개', '김치찌개', '서울 김치'],
    ['부산', '치김', '울에김'],
  ],
  ['Thai', 'ฉันรักประเทศไทย', ['ไทย', 'ประเทศ', 'รัก'], ['จีน', 'ไทยรัก']],
])('%s is found by what people type, two characters or one', async (_language, text, found, missed) => {
  const edge = newEdge()
  const [id] = await addPosts(edge, text, 'something else')
  for (const q of found) {
    const { items } = await find(edge, q)
    expect([q, items.map(({ post }) => post.id)]).toEqual([q, [id]])
    const matched = items[0]?.snippets['text']?.filter((part) => part.isMatch).map((part) => part.text)
    expect([q, matched?.join(' ').replaceAll(' ', '')]).toEqual([q, q.replaceAll(' ', '')])
  }
  for (const q of missed) expect([q, await findPosts(edge, q)]).toEqual([q, []])
})

test('case, accents and the end of the last word do not matter; all words are required', async () => {
  const edge = newEdge()
  const word = newWord()
  const [id] = await addPosts(edge, `Crème brûlée at the CAFÉ ${word}`)
  for (const q of ['creme', 'CRÈME brul', 'café', 'cafe\u0301', 'brûlée creme', 'ca']) {
    expect([q, await findPosts(edge, `${word} ${q}`)]).toEqual([q, [id]])
  }
  for (const q of ['crem brulee', 'creme tarte', 'ème', 'c']) {
    expect([q, await findPosts(edge, `${word} ${q}`)]).toEqual([q, []])
  }
})

test('a snippet is plain text in parts, whatever the post contains', async () => {
  const edge = newEdge()
  const word = newWord()
  const text = `<script>alert('${word}')</script> <mark>${word}</mark> &amp; ${'and more '.repeat(50)}`
  await addPosts(edge, text)
  const { items } = await find(edge, word)
  const parts = items[0]?.snippets['text'] ?? []
  expect(parts.slice(0, 4)).toEqual([
    { text: "<script>alert('", isMatch: false },
    { text: word, isMatch: true },
    { text: "')</script> <mark>", isMatch: false },
    { text: word, isMatch: true },
  ])
  expect(joined(parts).length).toBeLessThan(210)
  expect(joined(parts)).toMatch(/…$/)
})

test('more relevant posts come first; of equals the newer, and a much newer post before a slightly more relevant one', async () => {
  const edge = newEdge()
  const word = newWord()
  const padded = `${word} ${'and so many other words '.repeat(10)}`
  const [long, older, newer] = await addPosts(edge, padded, `${word} one`, `${word} two`)
  expect(await findPosts(edge, word)).toEqual([newer, older, long])
  await db
    .update(schema.posts)
    .set({ createdAt: Date.now() })
    .where(eq(schema.posts.id, String(long)))
  expect(await findPosts(edge, word)).toEqual([long, newer, older])
})

test('people are found by their names before their bios, the followed before others', async () => {
  const edge = newEdge()
  const word = newWord().slice(0, 20)
  const bio = await addUser({ bio: `Fan of ${word}`, followersCount: 10 })
  const displayed = await addUser({ displayName: word })
  const followed = await addUser({ displayName: word, followersCount: 1_000 })
  const named = await addUser({ username: word })
  await rebuild(edge)
  expect(await findUsers(edge, word)).toEqual([followed.id, named.id, displayed.id, bio.id])
  const { items } = await find(edge, word, '&type=users')
  expect(
    items.map(({ snippets }) =>
      Object.values(snippets)
        .map(joined)
        .filter((text) => text.includes('[')),
    ),
  ).toEqual([[`[${word}]`], [`[${word}]`], [`[${word}]`], [`Fan of [${word}]`]])
})

/** Reads all pages, and calls `between` after each that has a next. */
async function readPages(edge: Edge, q: string, more: string, between: (page: number) => Promise<unknown>) {
  const seen: string[] = []
  let cursor: string | null = ''
  for (let page = 1; cursor !== null; page += 1) {
    const found: Found = await find(edge, q, `${more}${cursor === '' ? '' : `&cursor=${cursor}`}`)
    seen.push(...found.items.map(({ post, user }) => (post ?? user).id))
    cursor = found.nextCursor
    if (cursor !== null) await between(page)
  }
  return seen
}

test('pages have every result once even if posts are indexed between them, and end after a thousand', async () => {
  const edge = newEdge()
  const word = newWord()
  const ids = await addPosts(edge, ...Array.from({ length: 25 }, () => word))
  expect(await readPages(edge, word, '&limit=7', () => addPosts(edge, `${word} again`))).toEqual(ids.toReversed())

  const all = await addPosts(edge, ...Array.from({ length: 1_001 }, () => `${word} more`))
  expect(await readPages(edge, `${word} more`, '&limit=100', async () => {})).toEqual(all.slice(1).toReversed())
})

test('pages of posts skip and repeat nothing when posts are deleted, edited, written and liked between them', async () => {
  const edge = newEdge()
  const word = newWord()
  // The relevance of those with other words depends on how long texts are on average.
  const texts = Array.from({ length: 40 }, (_, i) => `${word} ${'and more '.repeat(i % 7)}`)
  const ids = await addPosts(edge, ...texts)
  const gone = new Set<string>()
  const remove = async (id: string) => {
    gone.add(id)
    await db.delete(schema.posts).where(eq(schema.posts.id, id))
    await createSearch(db).listener.handle([{ ...HAPPENED, subject: id, type: 'post_deleted' }])
  }
  const seen: string[] = await readPages(edge, word, '&limit=4', async (page) => {
    const [first = '', ...others] = (await find(edge, word, '&limit=4')).items.map(({ post }) => post.id)
    await remove(first) // an earlier page loses a row, so all later ones move up
    const [edited = ''] = others
    const version = page + 1
    await db
      .update(schema.posts)
      .set({ text: `${word} ${'many other words '.repeat(20)}`, version })
      .where(eq(schema.posts.id, edited)) // and one falls behind the rest
    await db
      .update(schema.posts)
      .set({ likesCount: page * 10 })
      .where(eq(schema.posts.id, edited))
    await createSearch(db).listener.handle([{ ...HAPPENED, subject: edited, type: 'post_updated' }])
    await addPosts(edge, word, `${word} ${word} ${word}`, 'unrelated '.repeat(50))
  })
  expect(seen.length).toBe(new Set(seen).size)
  expect(ids.filter((id) => !gone.has(id) && !seen.includes(id))).toEqual([])
  expect(seen.every((id) => ids.includes(id))).toBe(true)
})

test('pages of users skip and repeat nothing when they gain followers or leave between them', async () => {
  const edge = newEdge()
  const word = newWord().slice(0, 20)
  const ids: string[] = []
  for (let i = 0; i < 21; i += 1) ids.push((await addUser({ displayName: word, followersCount: i * 100 })).id)
  await createSearch(db).listener.handle(ids.map((subject) => ({ ...HAPPENED, channel: 'user_events', subject })))
  const gone: string[] = []
  const seen: string[] = await readPages(edge, word, '&type=users&limit=4', async (page) => {
    const ranked = await findUsers(edge, word)
    await db
      .update(schema.users)
      .set({ followersCount: 1_000_000 * page })
      .where(eq(schema.users.id, String(ranked.at(-1)))) // the last rises to the top
    await db
      .update(schema.users)
      .set({ followersCount: 0 })
      .where(eq(schema.users.id, String(ranked[0]))) // the first falls to the end
    gone.push(String(ranked[2]))
    await db.delete(schema.users).where(eq(schema.users.id, String(ranked[2])))
  })
  expect(seen.length).toBe(new Set(seen).size)
  expect(ids.filter((id) => !gone.includes(id) && !seen.includes(id))).toEqual([])
})

test('a cursor is the position it was made of, and anything else is none', async () => {
  const edge = newEdge()
  const word = newWord()
  await addPosts(edge, ...Array.from({ length: 5 }, () => word))
  const { nextCursor } = await find(edge, word, '&limit=3')
  const position = parseCursor(String(nextCursor))
  expect(position?.seen).toHaveLength(3)
  expect(position?.seen.every((place) => place <= position.until)).toBe(true)
  expect(parseCursor('zz-0.1')).toEqual({ until: 1_295, seen: [1_295, 1_294] })
  expect(parseCursor(`zzz-${Array(999).fill('1').join('.')}`)?.seen).toHaveLength(999)
  const tooMany = `zzz-${Array(1_000).fill('1').join('.')}`
  const unsafe = ['zzzzzzzzzz-1.zzzzzzzzzzzzzzzzzzz', 'zzzzzzzzzzzz-1', `9-${'.'.repeat(100_000)}`]
  const malformed = ' - 9 9- -1 9-1. 9-.1 9-1.0 9-9 9-4.5 9-A A-1 9-1-1 9--1'.split(' ')
  for (const cursor of [...malformed, ...unsafe, tooMany]) {
    expect([cursor.slice(0, 50), parseCursor(cursor)]).toEqual([cursor.slice(0, 50), null])
  }
})

test.each([
  ['Đà Nẵng', ['da nang', 'Đà Nẵng', 'ĐÀ NẴNG', 'đa nẵng'], ['da na g', 'a nang']],
  ['Hawaiʻi', ['hawaii', "hawai'i", 'hawai’i', 'Hawaiʼi', 'hawai'], ['hawaiii', 'awai i']],
  ["L'été d’Artagnan", ['ete', "l'ete", 'lʼété', 'artagnan', 'dartagnan'], ['eted']],
  ['co\u00adoper\u200date', ['cooperate', 'coop\u00aderate'], ['operate']],
  ['محمدﷺ', ['محمد', 'محمد صلى', 'ﷺ', 'الله'], ['محمدصلى']],
  ['Łódź Ærøskøbing', ['lodz', 'LODZ aeroskobing'], ['odz']],
])('%j is found by what people type for it', async (text, found, missed) => {
  const edge = newEdge()
  const word = newWord()
  const [id] = await addPosts(edge, `${text} ${word}`, word)
  for (const q of found) expect([q, await findPosts(edge, `${q} ${word}`)]).toEqual([q, [id]])
  for (const q of missed) expect([q, await findPosts(edge, `${q} ${word}`)]).toEqual([q, []])
  const { items } = await find(edge, `${found[0]} ${word}`)
  expect(joined(items[0]?.snippets['text']).replaceAll(/\[|\]/g, '')).toBe(`${text} ${word}`)
})

test('a rebuild from D1 gives the same answers as before', async () => {
  const edge = newEdge()
  const word = newWord()
  const ids = await addPosts(edge, `${word} one`, `${word} 東京タワー`, `${word} three`, 'gone')
  await addUser({ bio: word })
  await rebuild(edge)
  await db.delete(schema.posts).where(eq(schema.posts.id, String(ids[3]))) // without an event
  const answers = async () => [await find(edge, word), await find(edge, word, '&type=users'), await find(edge, '東京')]
  const before = await answers()
  expect(before.map(({ items }) => items.length > 0)).toEqual([true, true, true])

  for (const table of ['post_words', 'user_words', 'search_documents']) await env.DB.exec(`DELETE FROM ${table}`)
  expect((await answers()).flatMap(({ items }) => items)).toEqual([])
  await rebuild(edge)
  expect(await answers()).toEqual(before)
  await rebuild(edge)
  expect(await answers()).toEqual(before)
})

test('a rebuild continues step by step, and removes what no longer exists', async () => {
  const edge = newEdge()
  const author = await addUser()
  const word = newWord()
  const rows = Array.from({ length: 501 }, (_, i) => ({ id: `p_zz${String(i).padStart(5, '0')}`, text: word }))
  await env.DB.prepare(
    `INSERT INTO posts (id, author_id, text, created_at, updated_at)
     SELECT value ->> 'id', ?, value ->> 'text', 1, 1 FROM json_each(?)`,
  )
    .bind(author.id, JSON.stringify(rows))
    .run()
  const { rebuild: step } = createSearch(db).listener
  const runAll = async () => {
    const cursors = []
    for (let cursor = await step?.(null); cursor; cursor = await step?.(cursor)) cursors.push(cursor)
    return [...new Set(cursors.map((cursor) => cursor.replace(/:.+$/, ':…')))]
  }
  const steps = ['posts:…', 'users:', 'search_documents:', 'search_documents:…']
  expect(await runAll()).toEqual(steps)
  const held = () => db.$count(schema.searchDocuments, like(schema.searchDocuments.id, 'p_zz%'))
  expect([(await findPosts(edge, word)).length, await held()]).toEqual([20, 501])
  const [trigger] = await db.all<{ sql: string }>(sql`SELECT sql FROM sqlite_schema WHERE name = 'posts_unindexed'`)
  await db.run(sql`DROP TRIGGER posts_unindexed`) // as an earlier version of the Worker left the index
  await db.delete(schema.posts).where(like(schema.posts.id, 'p_zz%'))
  await db.run(sql.raw(trigger?.sql ?? ''))
  expect([(await findPosts(edge, word)).length, await held()]).toEqual([0, 501])
  await runAll()
  expect(await held()).toBe(0)
  const [left] = await db.all(sql`SELECT count(*) AS n FROM post_words WHERE post_words MATCH ${word}`)
  expect(left).toEqual({ n: 0 })
})

test.each([
  '"',
  '""',
  '"unbalanced',
  "'; DROP TABLE posts; --",
  'NEAR(a b, 2)',
  'a NEAR/2 b',
  'a AND',
  'OR',
  'NOT x',
  '*',
  '^a',
  'a*',
  'text:a',
  '{words}:a',
  '-words:a',
  '(',
  ')',
  '((((',
  'a)b(',
  'a + b',
  '\\',
  '%',
  '_',
  '\u0000a',
  'a\u0000b',
  '\ufffd',
  '🎉',
  '👨‍👩‍👧',
  '\u200b',
  '\u0301',
  'rank',
  'post_words',
  '½ ⑴ ⒈ ㎏ ﷺ ﬁ',
  '٣',
  'x'.repeat(200),
  '東'.repeat(200),
  '\u0301'.repeat(200),
  'a\'b"c',
  '\ud800',
  '1-1',
  '-',
  '$',
  ':',
  'NULL',
])('the query %j is answered or refused, and never fails', async (q) => {
  const edge = newEdge()
  await addPosts(edge, 'words to look at')
  for (const type of ['posts', 'users']) {
    const response = await edge.fetch(`/v1/search?type=${type}&q=${encodeURIComponent(q.toWellFormed())}`)
    expect([q, [200, 400].includes(response.status)]).toEqual([q, true])
    if (response.status === 400) expect(await response.json()).toMatchObject({ errors: [{ in: 'query', field: 'q' }] })
  }
})

test('a query without searchable text is refused, and the error names the field', async () => {
  const edge = newEdge()
  for (const q of ['', '%20', '%F0%9F%8E%89', '%22*%22', '%00', 'x'.repeat(201), 'a+'.repeat(11)]) {
    await expectRefused(edge.fetch(`/v1/search?q=${q}`), 'query', 'q')
  }
  await expectRefused(edge.fetch('/v1/search'), 'query', 'q')
  await expectRefused(edge.fetch('/v1/search?q=a&type=comments'), 'query', 'type')
  await expectRefused(edge.fetch('/v1/search?q=a&limit=101'), 'query', 'limit')
  for (const cursor of ['x', '1', '-1-1', '1-1000', '1-1-1', '9999999999999999-1']) {
    await expectRefused(edge.fetch(`/v1/search?q=a&cursor=${cursor}`), 'query', 'cursor')
  }
})

test('a page of posts costs one round trip, signed in or not; a page of users costs none', async () => {
  const edge = newEdge()
  const word = newWord().slice(0, 20)
  await addPosts(edge, ...Array.from({ length: 30 }, () => word))
  const ada = await addUser({ username: word })
  await rebuild(edge)
  const headers = await edge.signIn(ada)
  await (await ask(edge, word, '', headers)).json() // the server learns the scripts, the session its cache
  await edge.settle()
  for (const [more, asked, trips, commands] of [
    ['', {}, 1, { mget: 1 }], // the counts
    ['', headers, 1, { mget: 1, eval: 1 }], // the session as well; what they like
    ['&type=users', {}, 0, {}],
  ] as const) {
    await edge.redis.reset()
    const response = await ask(edge, word, more, asked)
    expect([more, response.status, roundTrips(response)]).toEqual([more, 200, trips])
    await edge.settle()
    expect(await edge.redis.counts()).toMatchObject({ requests: trips, byCommand: commands })
  }
})

test.each(['refuse', 'hang', 'cut', 'status'] as const)('posts are found when Redis does "%s"', async (kind) => {
  const edge = newEdge({ REDIS_READ_TIMEOUT_MS: '250', REDIS_BREAKER_SECONDS: '0.05' })
  const word = newWord()
  const ids = await addPosts(edge, word, word)
  await edge.redis.fault({ kind })
  expect(await findPosts(edge, word)).toEqual(ids.toReversed())
  await edge.settle()
})
