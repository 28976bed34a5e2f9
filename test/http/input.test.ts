import fc from 'fast-check'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { written } from '../../src/http/input.ts'

const post = written({ max: 10, isLong: true })
const name = written({ max: 10 })
const parse = (schema: typeof post, text: unknown) => {
  const result = v.safeParse(schema, text)
  return result.success ? result.output : result.issues.map((issue) => issue.message)
}

const FAMILY = '👨‍👩‍👧‍👦'

test.each([
  ['the space around it is cut off', '  hello \n', 'hello'],
  ['ends of lines are \\n', 'a\r\nb\nc', 'a\nb\nc'],
  ['it is in NFC', 'e\u0301', 'é'],
  ['ten families are ten characters', FAMILY.repeat(10), FAMILY.repeat(10)],
  ['ten accented letters are ten characters', 'x\u0323\u0307'.repeat(10), 'x\u0323\u0307'.repeat(10).normalize('NFC')],
  ['a scarcely visible text is a text', '.\u200b', '.\u200b'],
])('%s', (_, text, expected) => {
  expect(parse(post, text)).toBe(expected)
})

test.each([
  ['nothing', '', 'must not be empty'],
  ['space alone', ' \n\t ', 'must not be empty'],
  ['what nobody sees', '\u200b\u200d\u2060', 'must be visible'],
  ['eleven characters', 'x'.repeat(11), 'must have at most 10 characters'],
  ['eleven families', FAMILY.repeat(11), 'must have at most 10 characters'],
  ['one letter under a thousand accents', `x${'\u0301'.repeat(1_000)}`, 'must have at most 10 characters'],
  ['a null', 'a\0b', 'must have no control characters but line ends'],
  ['an escape', 'a\u001b[31m', 'must have no control characters but line ends'],
  ['a carriage return by itself', 'a\rb', 'must have no control characters but line ends'],
  ['a C1 control', 'a\u0085b', 'must have no control characters but line ends'],
  ['half a surrogate pair', 'a\ud83d', 'must be well-formed Unicode: it has half a surrogate pair'],
  ['a number', 7, 'must be text'],
])('%s is refused', (_, text, message) => {
  expect(parse(post, text)).toContain(message)
})

test('a name has one line', () => {
  expect(parse(name, 'Ada\nL')).toEqual(['must have no control characters'])
  expect(parse(name, 'Ada\u2028L')).toEqual(['must have no control characters'])
  expect(parse(name, 'Ada L')).toBe('Ada L')
  expect(parse(written({ max: 10, isOptional: true }), ' ')).toBe('')
})

test('what is taken is taken again, unchanged', () => {
  const taken = fc.sample(fc.string({ unit: 'grapheme', maxLength: 12 }), 500).flatMap((text) => {
    const result = v.safeParse(post, text)
    return result.success ? [result.output] : []
  })
  expect(taken.length).toBeGreaterThan(100)
  expect(taken.map((text) => parse(post, text))).toEqual(taken)
})
