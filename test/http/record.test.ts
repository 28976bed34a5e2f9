import fc from 'fast-check'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { JsonObject, record } from '../../src/http/input.ts'

const NAMES = ['constructor', 'prototype', '__proto__', 'toString', 'hasOwnProperty', 'valueOf', 'a', '']

test('any JSON object is kept exactly as it is, with names that mean something to JavaScript', () => {
  const names = fc.oneof(fc.constantFrom(...NAMES), fc.string())
  fc.assert(
    fc.property(fc.array(fc.tuple(names, fc.jsonValue())), (entries) => {
      const text = JSON.stringify(Object.fromEntries(entries))
      const parsed = v.parse(JsonObject, JSON.parse(text))
      expect(JSON.stringify(parsed)).toBe(text)
      expect(Object.getPrototypeOf(parsed)).toBe(Object.prototype)
    }),
  )
})

test.each([[[]], [null], ['text'], [7], [undefined]])('%j is no object', (input) => {
  expect(v.safeParse(JsonObject, input).issues?.map(({ message }) => message)).toEqual(['must be an object'])
})

test('keys and values are checked, whatever their names, and each issue names its key', () => {
  const Numbers = record(
    v.pipe(v.string(), v.regex(/^[a-z_]+$/, 'bad key')),
    v.object({ n: v.number('bad value') }),
    'no object',
  )
  const input: unknown = JSON.parse('{"constructor":{"n":"1"},"A":{"n":1},"__proto__":{"n":2},"b":{"n":"x"}}')
  const parsed = v.safeParse(Numbers, input)
  expect(parsed.success).toBe(false)
  expect(parsed.issues?.map(({ message, path }) => [message, path?.map(({ key }) => key)])).toEqual([
    ['bad value', ['constructor', 'n']],
    ['bad key', ['A']],
    ['bad value', ['b', 'n']],
  ])
  expect(JSON.stringify(v.parse(Numbers, JSON.parse('{"__proto__":{"n":2}}')))).toBe('{"__proto__":{"n":2}}')
})

test('within a pipe and an optional field it keeps its keys too', () => {
  const Body = v.strictObject({
    data: v.optional(
      v.pipe(
        JsonObject,
        v.check(() => true),
      ),
      {},
    ),
  })
  expect(v.parse(Body, { data: { constructor: 1 } })).toEqual({ data: { constructor: 1 } })
})
