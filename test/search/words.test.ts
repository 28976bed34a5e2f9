import fc from 'fast-check'
import { expect, test } from 'vitest'
import { highlight, indexed, indexedJoined, parseQuery, toMatch } from '../../src/search/words.ts'

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
  ['Đà Nẵng', 'da nang'],
  ['Łódź, Øresund, Œuvre', 'lodz oresund oeuvre'],
  ['Þór æ ħ ŋ ı ẞ', 'thor ae h n i ss'],
  ['Қазақ Ґанок', 'казак ганок'],
  ['co\u00adope\u200drate a\u200bb\u2060c\ufe0f', 'cooperate abc'],
  ['محمدﷺ', 'محمد صلي الله عليه وسلم'],
  ['محـــمد', 'محمد'],
  ['الأُمَّة', 'الامه'],
  ['שָׁלוֹם', 'שלומ'],
  ['٢٠٢٤ २०२४ ２０２４', '2024 2024 2024'],
  ['3½ Foo™ ⒶⒷ 5㎏', '3 1 2 foo tm ab 5 kg'],
  ['㍿東京', '株式 式会 会社 社東 東京 京'],
  ["l'été l’été lʼété l´été l`été", 'l ete l ete l ete l ete l ete'],
  ['1️⃣ ℌ𝓮𝐲', '1 hey'],
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

test('no letter or digit folds to a quote', () => {
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

test.each([
  ["it's", 'its'],
  ['Hawaiʻi, компʼютер, צה״ל', 'hawaii компьютер צהל'.replace('ь', '')],
  ["rock'n'roll 'quoted' l·l", 'rocknroll ll'],
  ['no apostrophe', ''],
])('of %j, the words with apostrophes are indexed as %j too', (text, words) => {
  expect(indexedJoined(text)).toBe(words)
})

test.each([
  ["Hawai'i", 'hawaii', "[Hawai'i]"],
  ['Hawaiʻi', 'hawai', '[Hawaiʻi]'],
  ['Hawaii', 'hawai’i', '[Hawaii]'],
  ["L'été", 'ete', "L'[été]"],
  ['Đà Nẵng', 'da nang', '[Đà] [Nẵng]'],
  ['a co\u00adoperative', 'cooperative', 'a [co\u00adoperative]'],
  ['محمدﷺ', 'الله', 'محمد[ﷺ]'],
  ['㍿東京', '会社東京', '[㍿東京]'],
  ['東東東京', '東東京', '東[東東京]'],
  ['東\u200b京', '東京', '[東\u200b京]'],
  ['ﬁne ﬁre', 'fin', '[ﬁne] ﬁre'],
])('text that folds to another length is marked at its place: in %j, %j marks %j', (text, typed, expected) => {
  expect(marked(text, typed)).toBe(expected)
})

const termsOf = (text: string) => parseQuery(text).flatMap(({ terms }) => terms)

/** Marks that people leave out. The iota subscript is none of them: its upper case is a letter. */
const ACCENTS = /(?<=[\p{sc=Latin}\p{sc=Greek}\p{sc=Cyrillic}\p{sc=Arabic}\p{sc=Hebrew}])(?:(?!\u0345)\p{M})+/gu
const variants: Record<string, (text: string) => string> = {
  'upper case': (text) => text.toUpperCase(),
  'lower case': (text) => text.toLowerCase(),
  composed: (text) => text.normalize('NFC'),
  decomposed: (text) => text.normalize('NFD'),
  'without accents': (text) => text.normalize('NFD').replaceAll(ACCENTS, ''),
  'with soft hyphens': (text) => Array.from(text).join('\u00ad'),
  'with joiners': (text) => `\u200d${Array.from(text.normalize('NFD')).join('\u200b')}\ufe0f`,
  'with other apostrophes': (text) => text.replaceAll(/['’ʻ]/g, 'ʼ'),
}

test('variants of a letter fold to the same text, and folding twice changes nothing', () => {
  const different: string[] = []
  for (let code = 0; code < 0x110000; code += 1) {
    const letter = String.fromCodePoint(code)
    if (!/[\p{L}\p{N}]/u.test(letter) || /[\u{16d68}-\u{16d6a}]/u.test(letter)) continue
    const terms = termsOf(`x ${letter}`)
    const others = new Set([
      terms.slice(1).join(' '),
      ...['upper case', 'lower case', 'composed', 'decomposed'].map((name) => variants[name]?.(letter)),
    ])
    others.delete(letter)
    for (const other of others) {
      if (termsOf(`x ${other}`).join(' ') !== terms.join(' ')) different.push(`${code.toString(16)} ${other}`)
    }
  }
  expect(different).toEqual([])
})

test('digits of all scripts fold to ASCII', () => {
  let digits = ''
  for (let code = 0; code < 0x110000; code += 1) {
    const digit = String.fromCodePoint(code)
    if (/\p{Nd}/u.test(digit)) digits += termsOf(digit).join('')
  }
  expect(digits).toMatch(/^(0123456789){60,}$/)
})

const CHARACTERS = [
  'a é ß ẞ Łu đ Œ ﬁ ŉ İ ı ǆ ễ x\u0323\u0307 𝐀 Ⓑ ª ÅS Ά ΟΔΟΣ ς ώ Ё й Ґ қ שׁ לָ ם أ ى ة مـ ﷺ ﻼ हि क़ ক্ষ',
  '東 京 ㍿ カ ガ ｶﾞ ー 한 글 ᄒ ㅋ ㅏ ที่ ខ្មែ 1 ٣ ½ ² ™ №',
  '\' ’ ʻ - . _ 🎉 👨‍👩‍👧 \u00ad \u200d 1️⃣ " *',
]
const writing = fc
  .array(fc.constantFrom(' ', ' ', ' ', ...CHARACTERS.join(' ').split(' ')), { maxLength: 12 })
  .map((characters) => characters.join(''))

test.each(Object.entries(variants))('any text %s finds itself, and all of it is marked', (_name, variant) => {
  fc.assert(
    fc.property(writing, (text) => {
      const typed = variant(text)
      const query = parseQuery(typed)
      const index = ` ${indexed(text)} ${indexedJoined(text)} `
      for (const { terms, isUnspaced, isPrefix } of query) {
        const pairs = terms.slice(1).map((term, i) => `${terms[i]}${term}`)
        const phrase = isUnspaced && pairs.length > 0 ? pairs.join(' ') : terms.join('')
        const isWhole = isUnspaced ? pairs.length > 0 : !isPrefix
        expect([typed, index]).toEqual([typed, expect.stringContaining(` ${phrase}${isWhole ? ' ' : ''}`)])
      }
      const unmarked = highlight(text, query, 1_000).filter((part) => !part.isMatch && parseQuery(part.text).length > 0)
      expect([typed, unmarked]).toEqual([typed, []])
    }),
    { numRuns: 500 },
  )
})

test('a text a hundred times as long takes about a hundred times as long', () => {
  const units = [
    '東',
    '한',
    'ᄀ',
    'ㄱㅏ',
    'á',
    '\u0301\u0323',
    'ﷺ',
    "a'",
    'Đ ',
    'x',
    ' ',
    '\u00ad',
    'ᄀ\u00ad',
    'ก',
    "'",
    '\u0640',
  ]
  for (const unit of units) {
    const timeOf = (length: number) => {
      const text = unit.repeat(length / unit.length)
      const query = parseQuery(text.slice(length / 2)).slice(0, 10)
      const times = Array.from({ length: 3 }, () => {
        const began = performance.now()
        highlight(text, query, 200)
        indexed(text)
        indexedJoined(text)
        return performance.now() - began
      })
      return Math.min(...times)
    }
    // Quadratic time would be 10 000 times as long each time. A busy machine is slow only sometimes.
    const isLinear = () => timeOf(20_000) < 1_000 * timeOf(200) + 150
    timeOf(200)
    expect([unit, Array.from({ length: 5 }).some(isLinear)]).toEqual([unit, true])
  }
})

test('the parts of a snippet are the text, or a part of it', () => {
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
