import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import type { LikeMessage } from '../src/likes/schema.ts'
import { migrate, newEdge } from './edge.ts'
import { keysOf } from './redis/setup.ts'
import { addUser } from './rows.ts'

beforeAll(migrate)

/** A step of a story. Members, posts and comments are named by when they came: 0 is the first. */
type Step =
  | { do: 'post'; by: number }
  | { do: 'edit' | 'delete'; by: number; post: number }
  | { do: 'like' | 'unlike'; by: number; post: number }
  | { do: 'likeComment' | 'unlikeComment'; by: number; comment: number }
  | { do: 'comment'; by: number; post: number }
  | { do: 'deleteComment'; by: number; comment: number }
  | { do: 'follow' | 'unfollow'; by: number; whom: number }
  | { do: 'flush' | 'deliver' | 'cron' }
  | { do: 'evict'; every: number; from: number }

const MEMBERS = 3
const by = fc.nat(MEMBERS - 1)
const any = fc.nat(7)
const on = <T extends string>(...names: T[]) => fc.constantFrom(...names)
const story = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: fc.record({ do: on('post'), by }) },
    { weight: 2, arbitrary: fc.record({ do: on('edit', 'delete'), by, post: any }) },
    { weight: 6, arbitrary: fc.record({ do: on('like', 'unlike'), by, post: any }) },
    { weight: 2, arbitrary: fc.record({ do: on('likeComment', 'unlikeComment'), by, comment: any }) },
    { weight: 3, arbitrary: fc.record({ do: on('comment'), by, post: any }) },
    { weight: 1, arbitrary: fc.record({ do: on('deleteComment'), by, comment: any }) },
    { weight: 4, arbitrary: fc.record({ do: on('follow', 'unfollow'), by, whom: by }) },
    { weight: 1, arbitrary: fc.record({ do: on('flush', 'deliver', 'cron') }) },
    { weight: 2, arbitrary: fc.record({ do: on('evict'), every: fc.integer({ min: 1, max: 4 }), from: any }) },
  ),
  { minLength: 1, maxLength: 60, size: 'max' },
) as fc.Arbitrary<Step[]> // the records above are the steps

interface ModelComment {
  id: string
  by: number
  likes: Set<number>
}
interface ModelPost {
  id: string
  by: number
  text: string
  version: number
  likes: Set<number>
  comments: ModelComment[]
}

/** Plays a story over HTTP and in memory, and compares every count and page at the end. */
async function play(steps: Step[]): Promise<void> {
  const sent: LikeMessage[] = []
  const edge = newEdge({ LIKES: { send: async (message: LikeMessage) => void sent.push(message) } })
  const members = await Promise.all(
    Array.from({ length: MEMBERS }, async () => {
      const user = await addUser()
      return { id: user.id, headers: await edge.signIn(user) }
    }),
  )
  const member = (i: number) => members[i] ?? expect.fail('no such member')
  const posts: ModelPost[] = []
  const comments: { post: ModelPost; comment: ModelComment }[] = []
  const follows = new Map<string, { by: number; whom: number }>() // in the order they came

  async function ask(who: number, method: string, path: string, body?: object): Promise<Response> {
    const headers = { ...member(who).headers, ...(body ? { 'Content-Type': 'application/json' } : {}) }
    return edge.fetch(path, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) })
  }
  async function answerOf<T>(response: Promise<Response>, status: number): Promise<T> {
    const answered = await response
    const text = await answered.text()
    if (answered.status !== status) expect.fail(`${answered.status} instead of ${status}: ${text}`)
    return (text === '' ? undefined : JSON.parse(text)) as T
  }

  for (const [n, step] of steps.entries()) {
    switch (step.do) {
      case 'post': {
        const text = `Post ${n}`
        const { id } = await answerOf<{ id: string }>(ask(step.by, 'POST', '/v1/posts', { text }), 201)
        posts.push({ id, by: step.by, text, version: 1, likes: new Set(), comments: [] })
        break
      }
      case 'edit': {
        const post = posts[step.post % posts.length]
        if (!post) break
        const text = `Edited ${n}`
        await answerOf(ask(step.by, 'PATCH', `/v1/posts/${post.id}`, { text }), step.by === post.by ? 200 : 403)
        if (step.by === post.by) Object.assign(post, { text, version: post.version + 1 })
        break
      }
      case 'delete': {
        const i = step.post % posts.length
        const post = posts[i]
        if (!post) break
        await answerOf(ask(step.by, 'DELETE', `/v1/posts/${post.id}`), step.by === post.by ? 204 : 403)
        if (step.by === post.by) posts.splice(i, 1)
        break
      }
      case 'like':
      case 'unlike': {
        const post = posts[step.post % posts.length]
        if (!post) break
        const liked = step.do === 'like'
        const answering = ask(step.by, liked ? 'PUT' : 'DELETE', `/v1/posts/${post.id}/like`)
        post.likes[liked ? 'add' : 'delete'](step.by)
        expect(await answerOf(answering, 200)).toEqual({ liked, likes: post.likes.size })
        break
      }
      case 'comment': {
        const post = posts[step.post % posts.length]
        if (!post) break
        const path = `/v1/posts/${post.id}/comments`
        const { id } = await answerOf<{ id: string }>(ask(step.by, 'POST', path, { text: 'Indeed' }), 201)
        const comment = { id, by: step.by, likes: new Set<number>() }
        post.comments.push(comment)
        comments.push({ post, comment })
        break
      }
      case 'deleteComment':
      case 'likeComment':
      case 'unlikeComment': {
        const found = comments[step.comment % comments.length]
        if (!found) break
        const { post, comment } = found
        const isThere = posts.includes(post) && post.comments.includes(comment)
        if (step.do === 'deleteComment') {
          const isTheirs = step.by === comment.by || step.by === post.by
          const status = isThere ? (isTheirs ? 204 : 403) : 404
          await answerOf(ask(step.by, 'DELETE', `/v1/comments/${comment.id}`), status)
          if (status === 204) post.comments = post.comments.filter((other) => other !== comment)
        } else {
          const liked = step.do === 'likeComment'
          const path = `/v1/comments/${comment.id}/like`
          comment.likes[liked ? 'add' : 'delete'](step.by)
          const answer = await answerOf(ask(step.by, liked ? 'PUT' : 'DELETE', path), isThere ? 200 : 404)
          if (isThere) expect(answer).toEqual({ liked, likes: comment.likes.size })
        }
        break
      }
      case 'follow':
      case 'unfollow': {
        if (step.by === step.whom) break
        const follow = step.do === 'follow'
        const path = `/v1/users/${member(step.whom).id}/follow`
        await answerOf(ask(step.by, follow ? 'PUT' : 'DELETE', path), 200)
        const key = `${step.by}>${step.whom}`
        if (!follow) follows.delete(key)
        else if (!follows.has(key)) follows.set(key, { by: step.by, whom: step.whom })
        break
      }
      case 'flush': // with nothing on its way, so that every count stays exact; see the likes for the other case
        await edge.deliver(sent.splice(0).toReversed())
        await edge.sdk.flushdb()
        break
      case 'evict': {
        await edge.deliver(sent.splice(0).toReversed())
        const keys = (await keysOf(edge.sdk))
          .filter((key) => /^(count|tally|liked|viewers):|-unwritten$/.test(key))
          .sort()
        const doomed = keys.filter((_, i) => i % step.every === step.from % step.every)
        if (doomed.length > 0) await edge.sdk.del(...doomed)
        break
      }
      case 'deliver':
        await edge.deliver(sent.splice(0).toReversed())
        break
      case 'cron':
        await edge.cron()
    }
    await edge.settle()
  }
  await edge.deliver(sent.splice(0).toReversed())
  await edge.settle()

  // A new isolate sees what all see; D1 alone, with Redis emptied, must say the same.
  for (const view of [newEdge({}, edge.token), newEdge()]) {
    const read = async <T>(path: string, who?: number) =>
      answerOf<T>(view.fetch(path, { headers: who === undefined ? {} : member(who).headers }), 200)
    /** All items of a list, page by page. */
    async function all<T>(path: string, who?: number): Promise<T[]> {
      const items: T[] = []
      let cursor: string | null = ''
      while (cursor !== null) {
        const more: string = cursor === '' ? '' : `&cursor=${cursor}`
        const page: { items: T[]; nextCursor: string | null } = await read(`${path}?limit=2${more}`, who)
        items.push(...page.items)
        cursor = page.nextCursor
      }
      return items
    }
    const idsOf = (items: { id: string }[]) => items.map((item) => item.id)
    /** Ids sort by time, but those of one millisecond by chance. */
    const inOrder = (ids: string[]) => ids.toSorted().toReversed()

    for (const post of posts) {
      expect(await read(`/v1/posts/${post.id}`, 0)).toMatchObject({
        text: post.text,
        version: post.version,
        likesCount: post.likes.size,
        commentsCount: post.comments.length,
        likedByMe: post.likes.has(0),
      })
      const listed = await all<{ id: string; likesCount: number }>(`/v1/posts/${post.id}/comments`)
      expect(idsOf(listed)).toEqual(inOrder(idsOf(post.comments)))
      for (const comment of post.comments) {
        expect(listed.find((item) => item.id === comment.id)?.likesCount).toBe(comment.likes.size)
      }
    }
    for (const [i, { id }] of members.entries()) {
      const written = posts.filter((post) => post.by === i)
      const followers = [...follows.values()].filter(({ whom }) => whom === i).toReversed()
      const followings = [...follows.values()].filter((follow) => follow.by === i).toReversed()
      expect(await read(`/v1/users/${id}`)).toMatchObject({
        postsCount: written.length,
        followersCount: followers.length,
        followingsCount: followings.length,
      })
      expect(idsOf(await all(`/v1/users/${id}/posts`))).toEqual(inOrder(idsOf(written)))
      expect(new Set(idsOf(await all(`/v1/users/${id}/followers`)))).toEqual(
        new Set(followers.map((follow) => member(follow.by).id)),
      )
      expect(new Set(idsOf(await all(`/v1/users/${id}/followings`)))).toEqual(
        new Set(followings.map(({ whom }) => member(whom).id)),
      )
      const followed = new Set(followings.map(({ whom }) => whom))
      const feed = posts.filter((post) => followed.has(post.by))
      expect(idsOf(await all('/v1/feed', i))).toEqual(inOrder(idsOf(feed)))
    }
    await view.settle()
  }
}

test('after any actions of users, every count and page matches a plain model', async () => {
  await fc.assert(fc.asyncProperty(story, play), { numRuns: 12, endOnFailure: false })
}, 180_000)
