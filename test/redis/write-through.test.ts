import { expect, test } from 'vitest'
import { createWriteThrough } from '../../src/redis/write-through.ts'

const ok = async () => {}
const fail = () => Promise.reject(new Error('Redis did not answer'))

/** A write-through whose deferred work runs when `answered` is called. */
function newWorld() {
  const deferred: (() => Promise<unknown>)[] = []
  return {
    writeThrough: createWriteThrough((work) => void deferred.push(work), 0),
    answered: () => Promise.all(deferred.splice(0).map((work) => work())),
  }
}

test('where the refresh succeeds, nothing is invalidated', async () => {
  const { writeThrough, answered } = newWorld()
  await writeThrough(
    () => [ok(), ok()],
    () => [fail()],
  )
  expect(await answered()).toEqual([])
})

test('a write-through returns when all of its refreshes have ended, also those beside one that failed', async () => {
  const { writeThrough, answered } = newWorld()
  const slow = Promise.withResolvers<void>()
  let returned = false
  let invalidations = 0
  const writing = writeThrough(
    () => [fail(), slow.promise],
    () => [ok().then(() => (invalidations += 1))],
  ).then(() => (returned = true))
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(returned).toBe(false)
  slow.resolve()
  await writing
  expect(invalidations).toBe(0) // after the answer
  await answered()
  expect(invalidations).toBe(1)
})

test('an invalidation that fails is repeated once, and then reported', async () => {
  const { writeThrough, answered } = newWorld()
  let attempts = 0
  const invalidate = async () => {
    attempts += 1
    throw new Error('Redis did not answer')
  }
  await writeThrough(
    () => [fail()],
    () => [invalidate()],
  )
  await expect(answered()).rejects.toThrow('Redis did not answer')
  expect(attempts).toBe(2)
})
