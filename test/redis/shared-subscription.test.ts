import { expect, test } from 'vitest'
import { createSharedSubscription, newSharedSubscription } from '../../src/redis/shared-subscription.ts'
import type { Subscribe } from '../../src/redis/subscription.ts'

type Connection = { write: (text: string | undefined) => void; isOpen: boolean }

/** A channel whose messages, connections and refusals the test decides, and the isolate that shares it. */
function newChannel() {
  const connections: Connection[] = []
  const state = newSharedSubscription<{ n: number; text?: string }>()
  const works: Promise<unknown>[] = []
  const gate = { isRefused: false, opens: Promise.resolve() }

  const subscribe: Subscribe = async (_, signal) => {
    await gate.opens
    if (gate.isRefused) throw new Error('refused')
    const waiting: (string | undefined)[] = []
    let wake = () => {}
    const connection: Connection = {
      isOpen: true,
      write(text) {
        waiting.push(text)
        wake()
      },
    }
    connections.push(connection)
    signal.addEventListener('abort', () => connection.write(undefined))
    return (async function* () {
      for (;;) {
        while (waiting.length > 0) {
          const text = waiting.shift()
          if (text === undefined) return void (connection.isOpen = false)
          yield text
        }
        await new Promise<void>((resolve) => (wake = resolve))
      }
    })()
  }

  const open = () => connections.filter(({ isOpen }) => isOpen)
  return {
    gate,
    state,
    connections,
    open,
    send(n: number, more = {}) {
      for (const { write } of open()) write(JSON.stringify({ n, ...more }))
    },
    async join(own: Subscribe = subscribe) {
      const leaving = new AbortController()
      const join = createSharedSubscription(state, own, 'channel', 1_000, (work) => void works.push(work()))
      const { messages, ...rest } = await join(leaving.signal)
      return {
        ...rest,
        leave: () => leaving.abort(),
        /** The number of the next message, or `lost`, or `end`. */
        async next() {
          const { done, value } = await messages.next()
          return done === true ? 'end' : (value?.n ?? 'lost')
        },
      }
    },
    settle: () => Promise.all(works),
  }
}

test('however many follow, one is subscribed, and each receives every message once', async () => {
  const channel = newChannel()
  const members = await Promise.all(Array.from({ length: 20 }, () => channel.join()))
  members.push(await channel.join())
  expect(channel.connections).toHaveLength(1)
  for (const n of [1, 2]) channel.send(n)
  for (const member of members) expect([await member.next(), await member.next()]).toEqual([1, 2])
  for (const member of members) member.leave()
  for (const member of members) expect(await member.next()).toBe('end')
  await channel.settle()
  expect(channel.open()).toHaveLength(0)
})

test('when the reader leaves, another takes over; nothing is lost or repeated meanwhile, and both end', async () => {
  const channel = newChannel()
  const [first, second, third] = [await channel.join(), await channel.join(), await channel.join()]
  channel.send(1)
  const gate = Promise.withResolvers<void>()
  channel.gate.opens = gate.promise
  first.leave()
  channel.send(2) // while only the first is subscribed
  await scheduler.wait(0)
  gate.resolve()
  await expect.poll(() => channel.open().length).toBe(2)
  channel.send(3) // to both
  for (const member of [second, third])
    expect([await member.next(), await member.next(), await member.next()]).toEqual([1, 2, 3])
  await expect.poll(() => channel.open().length).toBe(1)
  channel.send(4)
  for (const member of [second, third]) expect(await member.next()).toBe(4)
  for (const member of [second, third]) member.leave()
  await channel.settle()
  expect([channel.connections.length, channel.open().length]).toEqual([2, 0])
})

test('a message that the former reader has delivered, and that reaches the new one after the handover, is not repeated', async () => {
  const channel = newChannel()
  const [first, second] = [await channel.join(), await channel.join()]
  first.leave()
  await expect.poll(() => channel.open().length).toBe(2)
  const [former, latter] = channel.connections
  former?.write('{"n":1}')
  expect(await second.next()).toBe(1)
  await expect.poll(() => channel.open().length).toBe(1)
  latter?.write('{"n":1}')
  latter?.write('{"n":2}')
  expect(await second.next()).toBe(2)
  await expect.poll(() => channel.state.delivered).toBeUndefined()
  second.leave()
  await channel.settle()
})

test('a member that cannot take over is passed by; when nobody can, all end', async () => {
  const channel = newChannel()
  const refused: Subscribe = () => Promise.reject(new Error('refused'))
  const first = await channel.join()
  const second = await channel.join()
  const third = await channel.join(refused)
  first.leave()
  await expect.poll(() => channel.connections.length).toBe(2)
  channel.send(1)
  for (const member of [second, third]) expect(await member.next()).toBe(1)
  second.leave()
  expect(await third.next()).toBe('end')
  third.leave()
  await channel.settle()
  expect([channel.open().length, channel.state.members.size]).toEqual([0, 0])

  const later = await channel.join() // begins anew
  channel.send(2)
  expect(await later.next()).toBe(2)
  later.leave()
  await channel.settle()
})

test('when the subscription ends, all members end, and the next begins anew', async () => {
  const channel = newChannel()
  const members = [await channel.join(), await channel.join()]
  channel.connections[0]?.write(undefined)
  for (const member of members) expect(await member.next()).toBe('end')
  const later = await channel.join()
  channel.send(1)
  expect(await later.next()).toBe(1)
  for (const member of [...members, later]) member.leave()
  await channel.settle()
})

test('a reader that dies without a word is replaced after three silent beats, and the members look for what they lost', async () => {
  const channel = newChannel()
  const [reader, other, third] = [await channel.join(), await channel.join(), await channel.join()]
  for (const member of [other, third]) member.beat()
  expect(channel.connections).toHaveLength(1)
  channel.state.aliveAt -= 3_100
  reader.beat() // alive after all
  for (const member of [other, third]) member.beat()
  expect(channel.connections).toHaveLength(1)
  channel.state.aliveAt -= 3_100
  for (const member of [other, third]) member.beat()
  for (const member of [other, third]) expect(await member.next()).toBe('lost')
  expect(channel.connections).toHaveLength(2)
  reader.beat() // alive, and replaced
  await expect.poll(() => channel.open().length).toBe(1)
  channel.send(1)
  for (const member of [other, third]) expect(await member.next()).toBe(1)
  for (const member of [reader, other, third]) member.leave()
  await channel.settle()
})

test('when Redis refuses the first subscription, all who wait for it are refused, and the next tries again', async () => {
  const channel = newChannel()
  channel.gate.isRefused = true
  const joining = await Promise.allSettled(Array.from({ length: 5 }, () => channel.join()))
  expect(joining.map(({ status }) => status)).toEqual(Array.from({ length: 5 }, () => 'rejected'))
  expect(channel.state.members.size).toBe(0)
  channel.gate.isRefused = false
  const member = await channel.join()
  channel.send(1)
  expect(await member.next()).toBe(1)
  member.leave()
  await channel.settle()
})

test('a member that falls behind loses what waits and is informed; the others lose nothing', async () => {
  const channel = newChannel()
  const [quick, slow] = [await channel.join(), await channel.join()]
  const text = 'x'.repeat(300_000)
  for (let n = 1; n <= 5; n += 1) {
    channel.send(n, { text })
    expect(await quick.next()).toBe(n)
  }
  expect([await slow.next(), await slow.next(), await slow.next()]).toEqual(['lost', 4, 5])
  for (const member of [quick, slow]) member.leave()
  await channel.settle()
})

test('one member of the isolate looks for lost messages in an interval, and passes on what it found', async () => {
  const channel = newChannel()
  const members = [await channel.join(), await channel.join(), await channel.join()]
  expect(members.map(({ claimCheck }) => claimCheck(60_000))).toEqual([true, false, false])
  channel.state.checkedAt -= 60_000
  expect(members.map(({ claimCheck }) => claimCheck(60_000))).toEqual([true, false, false])
  channel.state.checkedAt += 3_600_000 // the clock was set back
  expect(members.map(({ claimCheck }) => claimCheck(60_000))).toEqual([true, false, false])
  members[0]?.pass({ n: 7 })
  for (const member of members) expect(await member.next()).toBe(7)
  for (const member of members) member.leave()
  await channel.settle()
})
