import { createExecutionContext, createMessageBatch, getQueueResult } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, expect, test, vi } from 'vitest'
import { createWorker } from '../src/index.ts'
import { retryDelaySeconds } from '../src/queue.ts'
import configuration from '../wrangler.toml?raw'
import { readOnlyDatabase } from './database.ts'
import { migrate } from './edge.ts'
import { addPost, addUser } from './rows.ts'

beforeAll(migrate)

test('a delay doubles from 5 s to 15 min, with a jitter of a fifth', () => {
  const delays = [1, 2, 3, 4, 8, 9, 99].map((attempts) => retryDelaySeconds(attempts, () => 0.5))
  expect(delays).toEqual([5, 10, 20, 40, 640, 900, 900])
  expect([retryDelaySeconds(9, () => 0), retryDelaySeconds(9, () => 1)]).toEqual([720, 1080])
})

test('every queue retries for 18 hours at least, and the Worker consumes its dead letters', () => {
  const consumers = configuration
    .split(/\n(?=\[)/)
    .filter((section) => /^\[\[(env\.\w+\.)?queues\.consumers\]\]/.test(section))
  const queueOf = (section: string) => /^queue = "(.+)"$/m.exec(section)?.[1]
  for (const section of consumers) {
    const retries = Number(/^max_retries = (\d+)$/m.exec(section)?.[1])
    let seconds = 0
    for (let attempts = 1; attempts <= retries; attempts += 1) seconds += retryDelaySeconds(attempts, () => 0)
    expect([queueOf(section), seconds > 18 * 3_600]).toEqual([queueOf(section), true])
    const dead = /^dead_letter_queue = "(.+)"$/m.exec(section)?.[1]
    expect(consumers.map(queueOf)).toContain(dead)
  }
  expect(consumers).toHaveLength(18)
})

test.each([
  ['likes', 4, 40],
  ['likes-dead', 1, 5],
  ['events', 1, 5],
  ['deliveries', 20, 900],
] as const)(
  'while D1 is away, a message of the queue %s that failed %i times is retried after %i s',
  async (queue, attempts, seconds) => {
    const { DB } = readOnlyDatabase()
    const user = await addUser()
    const post = await addPost({ authorId: user.id })
    const away = new Proxy(DB, {
      get(target, name) {
        if (name === 'prepare' && !queue.startsWith('likes')) throw new Error('D1_ERROR: D1 is away')
        const value: unknown = Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    const body = {
      likes: { kind: 'post', contentId: post.id, userId: user.id, isLiked: true, changedAt: Date.now() },
      events: { kind: 'event', id: 'ev_1' },
      deliveries: { kind: 'delivery', id: 'dl_1', turn: 0, webhookId: 'wh_1' },
    }[queue.replace('-dead', '') as 'likes']
    const batch = createMessageBatch(queue, [{ id: '1', timestamp: new Date(), attempts, body }])
    const [message] = batch.messages
    const retry = vi.spyOn(message ?? expect.fail('one message'), 'retry')
    const context = createExecutionContext()
    await createWorker().queue(batch, { ...env, DB: away, UPSTASH_REDIS_REST_TOKEN: crypto.randomUUID() }, context)
    expect((await getQueueResult(batch, context)).retryMessages).toHaveLength(1)
    const { delaySeconds = 0 } = retry.mock.calls[0]?.[0] ?? {}
    expect(delaySeconds).toBeGreaterThanOrEqual(seconds * 0.8)
    expect(delaySeconds).toBeLessThanOrEqual(seconds * 1.2)
  },
)
