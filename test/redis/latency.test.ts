import { expect, test } from 'vitest'
import { createLatency } from '../../src/redis/latency.ts'

const newLatency = () => createLatency({ minMs: 250, maxMs: 1_000 })

test('near Redis the timeouts are the shortest', () => {
  const latency = newLatency()
  expect([latency.softMs(60), latency.hardMs()]).toEqual([60, 250])
  for (let i = 0; i < 50; i += 1) latency.answered(5 + (i % 10))
  expect([latency.softMs(60), latency.hardMs()]).toEqual([60, 250])
})

test('far from Redis both are longer than its replies take, and within the bounds', () => {
  const latency = newLatency()
  for (let i = 0; i < 50; i += 1) latency.answered(290 + (i % 20))
  expect(latency.softMs(60)).toBeGreaterThan(310)
  expect(latency.softMs(60)).toBeLessThan(550)
  expect(latency.hardMs()).toBeGreaterThan(600)
  expect(latency.hardMs()).toBeLessThan(750)

  for (let i = 0; i < 50; i += 1) latency.answered(3_000)
  expect([latency.softMs(60), latency.hardMs()]).toEqual([1_000, 1_000])
})

test('replies that come sooner again shorten the timeouts', () => {
  const latency = newLatency()
  for (let i = 0; i < 50; i += 1) latency.answered(300)
  for (let i = 0; i < 100; i += 1) latency.answered(5)
  expect([latency.softMs(60), latency.hardMs()]).toEqual([60, 250])
})

test('a new isolate doubles the hard timeout until Redis answers within it', () => {
  const latency = newLatency()
  for (const expected of [500, 1_000, 1_000]) {
    latency.failed(latency.hardMs(), false)
    expect(latency.hardMs()).toBe(expected)
  }
  latency.answered(300)
  expect(latency.hardMs()).toBe(1_000) // one sample: its deviation is unknown
  for (let i = 0; i < 50; i += 1) latency.answered(300)
  expect(latency.hardMs()).toBeLessThan(700)
})

test('requests that time out together double it once', () => {
  const latency = newLatency()
  for (let i = 0; i < 20; i += 1) latency.failed(250, false)
  expect(latency.hardMs()).toBe(500)
})

test('an outage does not prolong the timeouts of an isolate that has had replies, except those of probes', () => {
  const latency = newLatency()
  latency.answered(10)
  for (let i = 0; i < 20; i += 1) latency.failed(250, false)
  expect(latency.hardMs()).toBe(250)
  latency.failed(250, true)
  expect(latency.hardMs()).toBe(500)
  latency.answered(10)
  expect(latency.hardMs()).toBe(250)
})

test('a refused connection says nothing of the distance', () => {
  const latency = newLatency()
  latency.failed(3, true)
  expect(latency.hardMs()).toBe(250)
})
