import { parse } from 'hono/utils/cookie'
import { expect, test } from 'vitest'
import * as v from 'valibot'
import { Email } from '../../src/credentials/schema.ts'
import { namesTag, parseBearer, parseIdempotencyKey, parseVersions } from '../../src/http/headers.ts'
import { written } from '../../src/http/input.ts'
import { qualityOf } from '../../src/monitoring/open-metrics.ts'
import { namesIn } from '../../src/notifications/mentions.ts'
import { parseCursor } from '../../src/search/cursor.ts'
import { parseQuery } from '../../src/search/words.ts'
import { createSessionTokens } from '../../src/sessions/token.ts'
import { joinTrace } from '../../src/trace.ts'
import { NewAccount, Username } from '../../src/users/schema.ts'
import { Position } from '../../src/streams/schema.ts'
import { objectionTo } from '../../src/webhooks/guard.ts'

/** All headers of a request have 128 KB together. A URL has 16 KB, a JSON body at most 64 KB here. */
const [HEADER, URL_LENGTH, BODY] = [131_072, 16_384, 65_536]

/** The CPU time of `work`, the least of several runs: other processes do not count. */
function cpuMs(work: () => unknown): number {
  const times = Array.from({ length: 5 }, () => {
    const begun = process.cpuUsage()
    try {
      work()
    } catch {} // it may refuse the input
    const { user, system } = process.cpuUsage(begun)
    return (user + system) / 1_000
  })
  return Math.min(...times)
}

const check = (schema: v.GenericSchema) => (text: string) => v.safeParse(schema, text)
const field = (name: 'username' | 'displayName') => (text: string) => v.safeParse(NewAccount.entries[name], text)
const policy = { ownHosts: new Set(['edge.test']), allowPrivate: false, deniedHosts: [] } as never // enough for these

/** What is applied to input: its longest input, and parts whose repetition almost matches. */
const patterns: Record<string, [read: (text: string) => unknown, length: number, parts: string[]]> = {
  'If-None-Match': [(text) => namesTag(text, '"1-a"'), 8_192, [',', '"', 'W/', 'W/"1",', ' ', '\t,', ' ,']],
  'Idempotency-Key': [parseIdempotencyKey, HEADER, ['"', '\\', '\\"', '"\\', 'a', ' ', '"a']],
  Cookie: [
    (text) => parse(text, '__Host-session'),
    HEADER,
    [';', '=', '__Host-session=', '; ', ' ', '__Host-session=";', '%'],
  ],
  Accept: [
    (text) => qualityOf('text/plain', text),
    HEADER,
    [',', ';', '; ', 'text/plain; ', 'text/plain;q=1.', ';q=', ' '],
  ],
  'Last-Event-ID': [check(Position), HEADER, ['1', '-', '1-', '0-0']],
  'text of a search': [parseQuery, 200, ['a', 'ﷺ', 'đ', '\u0301', '😀', 'ก', '漢', 'a\u200d', "'", 'ʼ']],
  'search cursor': [parseCursor, URL_LENGTH, ['a', '.', '-', 'a-', 'a-1.', '1.1']],
  username: [check(Username.entries.username), URL_LENGTH, ['a', '_', '.']],
  'new username': [field('username'), BODY, ['a', '_', ' ', 'a ']],
  email: [check(Email), BODY, ['a', '.', 'a.', 'a@', '@', 'a@a.', '-', ' ', 'a@a.a-']],
  mentions: [namesIn, BODY, ['@', '@a', '@abc', '@abc ', 'a@', '@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa']],
  text: [
    check(written({ max: 500, isLong: true })),
    BODY,
    ['a', ' ', '\n', '\r\n', '\u202a', '\u0301', 'a\u0301', '\u2800', '👩‍'],
  ],
  'display name': [field('displayName'), BODY, ['a', ' ', '\u202a', '\u0301', 'a\u0301', '\u2800', '\u200d']],
  'webhook URL': [
    (text) => objectionTo(`https://${text}`, policy),
    2_048,
    ['a', 'a.', '[', '1.', ':', '@', '%', 'xn--'],
  ],
}

test.each(Object.entries(patterns))('the longest %s takes less than 10 ms of CPU', (_, [read, length, parts]) => {
  for (const part of parts) {
    const text = part.repeat(Math.ceil(length / part.length)).slice(0, length)
    const starts = ['', 'a@a.', '"', '"a', 'a-1.', '__Host-session=', 'text/plain;']
    for (const input of starts.flatMap((start) => ['', '!'].map((end) => start + text.slice(start.length) + end))) {
      const isFast = cpuMs(() => read(input)) < 10
      expect([part, input.slice(0, 20), isFast]).toEqual([part, input.slice(0, 20), true])
    }
  }
})

const repeat = (text: string) => text.repeat(Math.ceil(HEADER / text.length)).slice(0, HEADER)

test.each([',', '"', '","', '"a",', 'W/', 'W/"1",', ' ', '\t,', '1', '"1" ', '"1"x'])(
  'the longest If-Match of %j takes less than 10 ms',
  (part) => {
    expect(cpuMs(() => parseVersions(repeat(part)))).toBeLessThan(10)
    const withinBound = repeat(part).slice(0, 8_192)
    expect(cpuMs(() => parseVersions(withinBound))).toBeLessThan(10)
  },
)

test.each(['Bearer ', 'Bearer a', ' ', 'Bearer a ', 'x'])(
  'the longest Authorization of %j takes less than 10 ms',
  (part) => {
    for (const value of [repeat(part), `Bearer ${repeat(part)}`, `Bearer ${repeat(part)} x`]) {
      expect(cpuMs(() => parseBearer(value))).toBeLessThan(10)
    }
  },
)

test.each(['u_a', 'u_a.', '.', 'a', '-'])('the longest token of %j takes less than 10 ms', (part) => {
  const tokens = createSessionTokens('a-key-for-tests-only')
  for (const token of [repeat(part), `u_a.s_a.${repeat(part)}`, `u_${repeat('a')}.s_a`]) {
    expect(cpuMs(() => tokens.read(token))).toBeLessThan(10)
  }
})

test.each(['0', '-', '00-', '0'.repeat(32) + '-'])('the longest traceparent of %j takes less than 10 ms', (part) => {
  const valid = `01-${'a'.repeat(32)}-${'b'.repeat(16)}-01-`
  for (const value of [repeat(part), valid + repeat(part)]) {
    expect(cpuMs(() => joinTrace(value))).toBeLessThan(10)
  }
})
