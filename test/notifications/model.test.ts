import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { events, notifications } from '../../src/db/schema.ts'
import type { Notification } from '../../src/notifications/schema.ts'
import { migrate, newEdge } from '../edge.ts'
import { db } from '../rows.ts'
import { type Listed, newWorld } from './world.ts'

beforeAll(migrate)

/** A step of a story. Members, posts and comments are named by when they came: 0 is the first. */
interface Step {
  do: 'post' | 'comment' | 'like' | 'unlike' | 'follow' | 'unfollow' | 'remove' | 'look' | 'deliver' | 'deliverAgain'
  by: number
  on: number
}

const MEMBERS = 3
const kinds: [weight: number, ...names: Step['do'][]][] = [
  [3, 'post'],
  [3, 'comment'],
  [6, 'like'],
  [4, 'unlike'],
  [4, 'follow'],
  [3, 'unfollow', 'remove', 'deliver', 'deliverAgain'],
  [2, 'look'],
]
const story: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    ...kinds.map(([weight, ...names]) => ({
      weight,
      arbitrary: fc.record({ do: fc.constantFrom(...names), by: fc.nat(MEMBERS - 1), on: fc.nat(5) }),
    })),
  ),
  { minLength: 20, maxLength: 50, size: 'max' },
)

interface Written {
  id: string
  by: number
  at: number
  /** Absent for a post. */
  on?: Written
  /** Who likes it, the last first. */
  likes: { by: number; at: number }[]
}

type Expected = Pick<Notification, 'type' | 'actorIds' | 'actorsCount' | 'postId' | 'commentId'>

/** Plays a story over HTTP and in memory; the queues deliver what they like, twice, and backwards. */
async function play(steps: Step[]): Promise<void> {
  const world = newWorld()
  const { edge, likes, newMember } = world
  const members = await Promise.all(Array.from({ length: MEMBERS }, () => newMember()))
  const member = (i: number) => members[i] ?? expect.fail('no such member')
  const idOf = (i: number) => member(i).id
  let written: Written[] = []
  const follows = new Map<string, { by: number; whom: number; at: number }>()
  const sent = { likes: [...likes], events: [] as unknown[] }

  async function deliver() {
    await edge.settle()
    const due = { likes: likes.splice(0), events: edge.events.take() }
    sent.likes.push(...due.likes)
    sent.events.push(...due.events)
    await edge.deliver(due.likes.toReversed())
    for (const message of due.events.toReversed()) await edge.deliver([message], 'events')
  }
  async function deliverAgain() {
    await db.update(events).set({ dueAt: 0 })
    await edge.deliver([...sent.events, ...sent.likes.toReversed()], 'events')
  }

  for (const [at, step] of steps.entries()) {
    await new Promise((resolve) => setTimeout(resolve, 2)) // times distinguish steps
    const { by } = step
    const content = written[step.on % written.length]
    const post = content?.on ?? content
    const whom = step.on % MEMBERS
    if (step.do === 'deliver') await deliver()
    else if (step.do === 'deliverAgain') await deliverAgain()
    else if (step.do === 'look') await member(by).list()
    else if (step.do === 'post') written.push({ id: await member(by).post(), by, at, likes: [] })
    else if (step.do === 'follow' || step.do === 'unfollow') {
      if (by === whom) continue
      await member(by).follow(idOf(whom), step.do === 'follow' ? 'PUT' : 'DELETE')
      const key = `${by}>${whom}`
      if (step.do === 'unfollow') follows.delete(key)
      else if (!follows.has(key)) follows.set(key, { by, whom, at })
    } else if (!content || !post) continue
    else if (step.do === 'comment') {
      written.push({ id: await member(by).comment(post.id), by, at, on: post, likes: [] })
    } else if (step.do === 'remove') {
      await member(content.by).remove(content.id)
      written = written.filter((other) => other !== content && other.on !== content)
    } else {
      await member(by).like(content.id, step.do === 'like' ? 'PUT' : 'DELETE')
      const isSaidAgain = step.do === 'like' && content.likes.some((like) => like.by === by)
      if (isSaidAgain) continue
      content.likes = content.likes.filter((like) => like.by !== by)
      if (step.do === 'like') content.likes.unshift({ by, at })
    }
  }
  await deliver()
  await deliverAgain()
  await edge.settle()

  /** What `me` is notified of, the newest first, by the rules alone. */
  function expected(me: number): Expected[] {
    const one = (type: Notification['type'], by: number) => ({ type, actorIds: [idOf(by)], actorsCount: 1 })
    const placesOf = ({ id, on }: Written) => (on ? { postId: on.id, commentId: id } : { postId: id })
    const notified: [at: number, Expected][] = []
    for (const { by, whom, at } of follows.values()) {
      if (whom === me) notified.push([at, one('follow', by)])
      const posts = written.filter((post) => by === me && post.by === whom && !post.on && post.at > at)
      for (const post of posts) notified.push([post.at, { ...one('post', whom), postId: post.id }])
    }
    for (const content of written) {
      const { by, on, at } = content
      if (on?.by === me && by !== me) notified.push([at, { ...one('comment', by), ...placesOf(content) }])
      const [last, ...others] = content.likes.filter((like) => like.by !== me)
      if (by !== me || !last) continue
      const actorIds = [last, ...others].slice(0, 3).map((like) => idOf(like.by))
      notified.push([last.at, { type: 'like', actorIds, actorsCount: 1 + others.length, ...placesOf(content) }])
    }
    return notified.sort(([a], [b]) => b - a).map(([, notification]) => notification)
  }

  /** All pages of each member, as an isolate reads them that has seen nothing before. */
  async function readAll(): Promise<Notification[][]> {
    const reader = newEdge({ INBOX_SIZE: '3' })
    return Promise.all(
      members.map(async ({ headers }) => {
        const items: Notification[] = []
        let more = ''
        do {
          const page = await (await reader.fetch(`/v1/notifications?limit=2${more}`, { headers })).json<Listed>()
          items.push(...page.items)
          more = page.nextCursor === null ? '' : `&cursor=${page.nextCursor}`
        } while (more !== '')
        return items
      }),
    )
  }

  const live = await readAll()
  for (const [me, items] of live.entries()) {
    const notified = items.map(({ id: _id, createdAt: _at, isRead: _isRead, ...rest }) => rest)
    expect(notified).toEqual(expected(me))
    // What Redis held is no other, but for likes of comments on a post that is gone: those it may hold for a while.
    const held = (await member(me).list('?limit=100')).items
    expect(held.filter(({ postId }) => !postId || written.some(({ id }) => id === postId))).toEqual(items)
  }

  await db.delete(notifications)
  const asService = { Authorization: 'Bearer a-service-token-for-tests' }
  await edge.fetch('/v1/listeners/notifications/rebuild', { method: 'POST', headers: asService })
  expect(await edge.dispatch()).toBe(0)
  expect(await readAll()).toEqual(live)
}

test('notifications match a model of what happened and was not undone, live and rebuilt, in any order of messages', async () => {
  await fc.assert(fc.asyncProperty(story, play), { numRuns: 8, endOnFailure: true })
}, 120_000)
