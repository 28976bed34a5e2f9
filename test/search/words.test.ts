import fc from 'fast-check'
import { expect, test } from 'vitest'
import { highlight, indexed, parseQuery, toMatch } from '../../src/search/words.ts'

/** The parts of `text`, matches in brackets. */
const marked = (text: string, typed: string, maxLength = 1_000) =>
  highlight(text, parseQuery(typed), maxLength)
    .map((part) => (part.isMatch ? `[${part.text}]` : part.text))
    .join('')

test.each([
  ['Crème Brûlée', 'creme brulee'],
  ['STRASSE straße', 'strasse strasse'],
  ['İstanbul', 'istanbul'],
  ['ΟΔΟΣ οδός', 'οδοσ οδοσ'],
  ['Ёлка', 'елка'],
  ['ｆｕｌｌ width ﬁne', 'full width fine'],
  ["it's @ada_lovelace #1", 'it s ada lovelace 1'],
  ['हिन्दी', 'हिन्दी'],
  ['東京都', '東京 京都 都'],
  ['東京 2020 タワー', '東京 京 2020 タワ ワー ー'],
  ['ｶﾞｽ', 'ガス ス'],
  ['iPhoneケース', 'iphone ケー ース ス'],
  ['안녕 하세요', '안녕 녕 하세 세요 요'],
  ['ที่นี่', 'ที่นี่ นี่'],
  ['🎉 ()"*^ NEAR', 'near'],
])('%j is indexed as %j', (text, words) => {
  expect(indexed(text)).toBe(words)
  expect(indexed(text.normalize('NFD'))).toBe(words)
})

test.each([
  ['big cats', '"big" "cats"*'],
  ['a', '"a"'],
  ['東', '"東"*'],
  ['東京', '"東京"'],
  ['東京都 tower', '"東京 京都" "tower"*'],
  ['"big" OR NOT (text:x) NEAR/2 ^a*', '"big" "or" "not" "text" "x" "near" "2" "a"'],
  ['🎉 \u0000 "*', ''],
])('%j looks for %j', (typed, match) => expect(toMatch(parseQuery(typed))).toBe(match))

test('no letter or digit there is becomes a quote', () => {
  let letters = ''
  for (let code = 0; code < 0x110000; code += 1) {
    const character = String.fromCodePoint(code)
    if (/[\p{L}\p{N}]/u.test(character)) letters += `${character} `
  }
  expect(letters.length).toBeGreaterThan(200_000)
  expect(
    parseQuery(letters)
      .flatMap(({ terms }) => terms)
      .join(''),
  ).not.toContain('"')
})

test.each([
  ['Cafés and cats, CATS!', 'cafe cat', 'Cafés and [cats], [CATS]!'],
  ['Cafés and cats', 'cafes and', '[Cafés] [and] cats'],
  ['<script>alert("hi")</script> & more', 'alert', '<script>[alert]("hi")</script> & more'],
  ['[[cats]]', 'cats', '[[[cats]]]'],
  ['東京タワーと東京', '東京', '[東京]タワーと[東京]'],
  ['京東京', '東京', '京[東京]'],
  ['東 京', '東京', '東 京'],
  ['ｶﾞｽ', 'ガ', '[ｶﾞ]ｽ'],
  ['nothing of it', 'cats', 'nothing of it'],
])('in %j, %j marks %j', (text, typed, expected) => expect(marked(text, typed)).toBe(expected))

test('a long text is cut between words around its first match', () => {
  const words = Array.from({ length: 40 }, (_, i) => `word${i}`).join(' ')
  expect(marked(words, 'word0', 30)).toBe('[word0] word1 word2 word3 word4…')
  expect(marked(words, 'word20', 40)).toMatch(/^…word\d+ .*\[word20\].*…$/)
  expect(marked(words, 'word39', 30)).toBe('…word36 word37 word38 [word39]')
  expect(marked('x'.repeat(300), 'x'.repeat(300), 100)).toBe(`[${'x'.repeat(300)}]`)
})

test('whatever the text, its parts are the text, or a stretch of it', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string({ unit: fc.constantFrom('a', 'B', ' ', '東', '京', '한', 'é', '🎉', '\u0301') }),
  )
  fc.assert(
    fc.property(text, text, fc.integer({ min: 1, max: 60 }), (written, typed, maxLength) => {
      const parts = highlight(written, parseQuery(typed), maxLength)
      const joined = parts.map((part) => part.text).join('')
      expect(parts.every((part, i) => part.text !== '' && part.isMatch !== parts[i + 1]?.isMatch)).toBe(true)
      if (written.length <= maxLength) expect(joined).toBe(written)
      else expect(written).toContain(joined.replaceAll(/^…|…$/g, ''))
    }),
    { numRuns: 2_000 },
  )
})
