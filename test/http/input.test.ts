import fc from 'fast-check'
import * as v from 'valibot'
import { expect, test, vi } from 'vitest'
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
  ['a blank between letters is a blank', 'a\u2800b', 'a\u2800b'],
  ['a keycap is visible', '1\ufe0f\u20e3', '1\ufe0f\u20e3'],
  ['an unassigned character may be a new emoji', '\u{1faff}', '\u{1faff}'],
  [
    'a line may close what it opens',
    '\u2067\u202bb\u202c\u2069\n\u2066c\u2069',
    '\u2067\u202bb\u202c\u2069\n\u2066c\u2069',
  ],
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
  ['a blank Braille pattern', '\u2800', 'must be visible'],
  ['Hangul fillers', '\u3164\u115f\u1160\uffa0', 'must be visible'],
  ['variation selectors', '\ufe0f\u{e0100}\u180b', 'must be visible'],
  ['combining marks', '\u0301\u20e3\u093e', 'must be visible'],
  ['tags', '\u{e0001}\u{e0061}\u{e007f}', 'must be visible'],
  ['a null note head', '\u{1d159}', 'must be visible'],
  ['blank hieroglyphs', '\u{13441}\u{13442}', 'must be visible'],
  ['an object replacement', '\ufffc', 'must be visible'],
  ['soft hyphens and direction marks', '\u00ad\u061c\u200e\u200f', 'must be visible'],
  ['noncharacters', '\ufdd0\uffff', 'must be visible'],
  ['all of those and space', '\u2800 \u3164\n\u0301\ufe0f', 'must be visible'],
  ['an open override', '\u202eabc', 'must close the text directions that each line opens'],
  ['an open isolate', '\u2068abc', 'must close the text directions that each line opens'],
  ['a close without an opening', 'abc\u2069', 'must close the text directions that each line opens'],
  ['a close on the next line', '\u2067a\nb\u2069', 'must close the text directions that each line opens'],
  ['closes in the wrong order', '\u2067\u202aa\u2069\u202c', 'must close the text directions that each line opens'],
  ['31 marks on a letter', `x${'\u0301'.repeat(31)}`, 'must have at most 30 marks on a character'],
  ['marks that normalization doubles', `x${'\u0344'.repeat(20)}`, 'must have at most 30 marks on a character'],
])('%s is refused', (_, text, message) => {
  expect(parse(post, text)).toContain(message)
})

test('a name has one line', () => {
  expect(parse(name, 'Ada\nL')).toEqual(['must have no control characters'])
  expect(parse(name, 'Ada\u2028L')).toEqual(['must have no control characters'])
  expect(parse(name, 'Ada L')).toBe('Ada L')
  expect(parse(written({ max: 10, isOptional: true }), ' ')).toBe('')
})

test.each(Array.from('\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069'))(
  'a name has no direction control %j',
  (control) => {
    expect(parse(name, `Ada${control}`)).toEqual(['must have no text direction controls'])
    expect(parse(name, `\u2067Ada${control}`)).toEqual(['must have no text direction controls'])
  },
)

test('a name may have the marks that order Hebrew and Arabic', () => {
  expect(parse(name, 'a\u200e\u05d0\u200f\u061cb')).toBe('a\u200e\u05d0\u200f\u061cb')
})

test('normalization, which takes quadratic time on marks, gets short texts with few marks in a row', () => {
  const postOf500 = written({ max: 500, isLong: true })
  using normalize = vi.spyOn(String.prototype, 'normalize')
  const units = [
    '\u0301\u0323',
    'x\u0301\u0323',
    '\u202a',
    ' ',
    '\r\n',
    '\r',
    '\u2800',
    '\u1100',
    '\u{1f1e6}',
    '👨\u200d',
  ]
  for (const length of [100, 8_000, 60_000]) {
    for (const unit of units) v.safeParse(postOf500, unit.repeat(length / unit.length))
  }
  const normalized = normalize.mock.contexts.map(String)
  expect(normalized.length).toBeGreaterThan(10)
  expect(Math.max(...normalized.map((text) => text.length))).toBeLessThanOrEqual(8_000)
  expect(normalized.filter((text) => /\p{M}{31}/u.test(text))).toEqual([])
})

test('what is taken is taken again, unchanged', () => {
  const taken = fc.sample(fc.string({ unit: 'grapheme', maxLength: 12 }), 500).flatMap((text) => {
    const result = v.safeParse(post, text)
    return result.success ? [result.output] : []
  })
  expect(taken.length).toBeGreaterThan(100)
  expect(taken.map((text) => parse(post, text))).toEqual(taken)
})
