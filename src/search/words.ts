/** A word in the form that search compares, and its place in the text (UTF-16 units). */
export interface Word {
  term: string
  start: number
  end: number
  /** Whether it is one character of a script that is written without spaces between words. */
  isUnspaced: boolean
  /** Whether it and the word before are such characters with nothing between them. */
  isAdjacent: boolean
  /** The words between its apostrophes. Empty if it has no apostrophe. */
  parts: Word[]
}

/** One thing to find: a word, or a row of characters of a script without spaces. */
export interface Term {
  terms: string[]
  isUnspaced: boolean
  /** Whether a longer word that begins with it also matches. */
  isPrefix: boolean
}

/** A part of a text, and whether the query matches it. */
export interface Part {
  text: string
  isMatch: boolean
}

/** Korean has spaces, but its particles attach to words: a search for a noun would not find it as a word. */
const UNSPACED = ['Han', 'Hiragana', 'Katakana', 'Hangul', 'Thai', 'Lao', 'Khmer', 'Myanmar']
  .map((script) => `\\p{scx=${script}}`)
  .join('')
const LETTER = '[\\p{L}\\p{N}]'
const SPACED_LETTER = `(?![${UNSPACED}])${LETTER}`
const SPACED_WORD = `${SPACED_LETTER}(?:${SPACED_LETTER}|\\p{M})*`

/**
 * A regular expression that is made when it is first used: classes of Unicode take milliseconds, which a new isolate
 * has not.
 */
function pattern(source: string, flags: string): () => RegExp {
  let made: RegExp | undefined
  return () => (made ??= new RegExp(source, flags))
}

/** In folded text: a character of a script without spaces, or a word, which may have apostrophes. */
const word = pattern(`((?=${LETTER})[${UNSPACED}]\\p{M}*)|${SPACED_WORD}(?:'${SPACED_WORD})*`, 'gu')

/** What no reader sees inside a word: joiners, soft hyphens, variation selectors, and the Arabic stretch. */
const IGNORED = '\\p{Default_Ignorable_Code_Point}\\u0640'

const ignoredCharacter = pattern(`[${IGNORED}]`, 'gu')

/** What belongs to the character before it. The last two make a half-width kana voiced. */
const ATTACHED = `[\\p{M}${IGNORED}\\uff9e\\uff9f]`

/** Korean syllables in the letters that compose them, also in the letters for compatibility and half width. */
const JAMO = [
  '[\\u1100-\\u115f\\u3131-\\u314e\\uffa1-\\uffbe]',
  '[\\u1160-\\u11a7\\u314f-\\u3163\\uffc2-\\uffdc](?:',
  '[\\u11a8-\\u11ff])?|[\\uac00-\\ud7a3]',
  '[\\u11a8-\\u11ff]',
].join(`[${IGNORED}]*`)

/**
 * Stretches that fold alone as they fold in their text: ASCII, or one character with what is attached to it. Bounded,
 * because normalization takes quadratic time on marks.
 */
const chunks = pattern(`[\\0-\\x7f]+(?!${ATTACHED})|(?:${JAMO}|[^])${ATTACHED}{0,30}`, 'gu')
const ASCII = /^[\0-\x7f]+$/

/** Apostrophes, what people type for them, and other marks inside of words: `Hawaiʻi`, `l’été`, `col·lecció`, `צה״ל`. */
const APOSTROPHE = /[`·ʹ\u0374ʻʼʽʾʿˈ՚׳״ߴߵ‘’‛′‧Ꞌꞌ＇]/g

/** Apostrophes that NFKC would make a space with a mark. */
const SPACING_APOSTROPHE = /[´᾽᾿]/g

/** Scripts in which people omit marks (accents, breathings, vowel points). In other scripts, marks distinguish words. */
const ACCENTED = /([\p{sc=Latin}\p{sc=Greek}\p{sc=Cyrillic}\p{sc=Arabic}\p{sc=Hebrew}\p{N}])\p{M}+/gu

/** Marks for any script. */
const DIACRITICS = /[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+/g

/**
 * Letters that Unicode does not decompose, by what people type instead. Latin is CLDR's Latin-ASCII, but for `ə`; Arabic
 * and Persian are Lucene's normalizers; the rest are strokes, descenders and final forms.
 */
const PLAIN = {
  a: 'ⱥɐɑ',
  ae: 'æ',
  b: 'ƀƃɓ',
  c: 'ȼƈɕ',
  d: 'đðɖɗƌȡ',
  e: 'ɇǝəɛɘ',
  f: 'ƒ',
  g: 'ǥɠɡ',
  h: 'ħɦⱨ',
  i: 'ıɨɩ',
  j: 'ɉȷʝ',
  k: 'ƙⱪ',
  l: 'łƚɫɬɭȴⱡ',
  m: 'ɱ',
  n: 'ŋƞɲɳȵ',
  o: 'øɵɔ',
  oe: 'œɶ',
  p: 'ƥᵽ',
  q: 'ɋʠĸ',
  r: 'ɍɽɼɾ',
  s: 'ȿʂ',
  ss: 'ß',
  t: 'ŧƭʈȶⱦ',
  th: 'þ',
  u: 'ʉʊ',
  v: 'ʋⱱ',
  w: 'ⱳƿ',
  y: 'ƴɏ',
  z: 'ƶȥʐʑⱬɀ',
  σ: 'ς',
  а: 'ә',
  г: 'ґғӷ',
  ж: 'җ',
  з: 'ҙ',
  к: 'қҝҟҡ',
  н: 'ңҥӈ',
  о: 'ө',
  с: 'ҫ',
  т: 'ҭ',
  у: 'үұ',
  х: 'ҳһ',
  ч: 'ҷҹ',
  כ: 'ך',
  מ: 'ם',
  נ: 'ן',
  פ: 'ף',
  צ: 'ץ',
  וו: 'װ',
  וי: 'ױ',
  יי: 'ײ',
  ا: 'ٱ',
  ك: 'ک',
  ه: 'ةەہھۃ',
  ي: 'ىی',
}
const plainOf = new Map(
  Object.entries(PLAIN).flatMap(([plain, letters]) => Array.from(letters, (letter) => [letter, plain] as const)),
)
const NOT_PLAIN = new RegExp(`[${[...plainOf.keys()].join('')}]`, 'g')

const OTHER_DIGIT = /(?![0-9])\p{Nd}/gu

/** Marks without a letter, which letters for display alone leave behind. */
const LEADING_MARKS = /^\p{M}+/u

const isDigit = (code: number) => /\p{Nd}/u.test(String.fromCodePoint(code))

/** A decimal digit of any script as one of ASCII. Unicode has the digits of a script in a row, from 0 to 9. */
function digitOf(digit: string): string {
  const code = digit.codePointAt(0) ?? 0
  let first = code
  while (isDigit(first - 1)) first -= 1
  return String((code - first) % 10)
}

/** Strings that differ only in case, accents, width, digits, ligatures or invisible characters fold to the same string. */
const fold = (text: string) =>
  text
    .replaceAll(SPACING_APOSTROPHE, "'")
    .normalize('NFKC')
    .replaceAll(ignoredCharacter(), '')
    .replaceAll(APOSTROPHE, "'")
    .toUpperCase() // first: of `ß` it makes `ss`
    .toLowerCase()
    .normalize('NFD')
    .replaceAll(ACCENTED, '$1')
    .replaceAll(DIACRITICS, '')
    .normalize('NFC')
    .replaceAll(NOT_PLAIN, (letter) => plainOf.get(letter) ?? '')
    .replaceAll(OTHER_DIGIT, digitOf)
    .replace(LEADING_MARKS, '')

const NO_WORD = /[^\p{L}\p{N}\p{M}']/u
const ofSpacedWord = pattern(SPACED_LETTER, 'u')

/** Whether a character means several words or a word of its own: `ﷺ`, `½`, `™`. It does not continue the word before it. */
const isApart = (chunk: string, folded: string) =>
  folded.length > 1 && (NO_WORD.test(folded) || (/^\p{S}/u.test(chunk) && ofSpacedWord().test(folded)))

/** `text` folded, and where each unit of the result is from. */
function foldText(text: string): { folded: string; starts: number[]; ends: number[] } {
  const known = new Map<string, string>()
  const foldOnce = (chunk: string) => {
    let folded = known.get(chunk)
    if (folded === undefined) {
      folded = fold(chunk)
      if (isApart(chunk, folded)) folded = ` ${folded} `
      known.set(chunk, folded)
    }
    return folded
  }
  let folded = ''
  const [starts, ends]: [number[], number[]] = [[], []]
  for (const { 0: chunk, index } of text.matchAll(chunks())) {
    const isAscii = ASCII.test(chunk)
    const stretch = isAscii ? chunk.toLowerCase().replaceAll('`', "'") : foldOnce(chunk)
    for (let i = 0; i < stretch.length; i += 1) {
      starts.push(isAscii ? index + i : index)
      ends.push(isAscii ? index + i + 1 : index + chunk.length)
    }
    folded += stretch
  }
  return { folded, starts, ends }
}

/** Folds `text`, then cuts it into words. Linear time. */
function wordsOf(text: string): Word[] {
  const { folded, starts, ends } = foldText(text)
  const wordAt = (found: string, at: number, rest: Omit<Word, 'term' | 'start' | 'end'>): Word => ({
    term: found.replaceAll("'", ''),
    start: starts[at] ?? 0,
    end: ends[at + found.length - 1] ?? 0,
    ...rest,
  })
  const words: Word[] = []
  let unspacedUntil = -1 // the end of the last character of a script without spaces
  for (const { 0: found, 1: unspaced, index } of folded.matchAll(word())) {
    const isUnspaced = unspaced !== undefined
    const isAdjacent = isUnspaced && unspacedUntil === index
    if (isUnspaced) unspacedUntil = index + found.length
    const parts: Word[] = []
    if (found.includes("'")) {
      let at = index
      for (const part of found.split("'")) {
        parts.push(wordAt(part, at, { isUnspaced, isAdjacent, parts: [] }))
        at += part.length + 1
      }
    }
    words.push(wordAt(found, index, { isUnspaced, isAdjacent, parts }))
  }
  return words
}

/** The words without apostrophes. */
const partsOf = (words: Word[]) => words.flatMap((word) => (word.parts.length > 0 ? word.parts : [word]))

/** The longest index text (UTF-16 units). Posts of 500 characters take far less; search does not find the rest. */
const MAX_INDEXED = 5_000

/**
 * The words of `text` for an index that splits at spaces alone (FTS5 with the tokenizer `ascii`).
 * A character of a script without spaces is indexed as a pair with its next: a phrase of pairs finds two or more
 * characters in a row, and the beginning of a pair finds one.
 */
export function indexed(text: string): string {
  const words = partsOf(wordsOf(text))
  const pairs = words.map((word, i) => {
    const next = words[i + 1]
    return next?.isAdjacent ? word.term + next.term : word.term
  })
  return pairs.join(' ').slice(0, MAX_INDEXED).toWellFormed()
}

/** The words of `text` that have apostrophes, without them, for the same index: `Hawaiʻi` is found as `hawaii`. */
export const indexedJoined = (text: string): string =>
  wordsOf(text)
    .flatMap((word) => (word.parts.length > 0 ? [word.term] : []))
    .join(' ')
    .slice(0, MAX_INDEXED)
    .toWellFormed()

/** The terms of a search, all of which must be found. The last word may be incomplete. */
export function parseQuery(typed: string): Term[] {
  const query: Term[] = []
  for (const { term, isUnspaced, isAdjacent } of wordsOf(typed)) {
    const last = query.at(-1)
    if (last && isAdjacent) last.terms.push(term)
    else query.push({ terms: [term], isUnspaced, isPrefix: false })
  }
  const last = query.at(-1)
  // One letter begins half of all words.
  if (last && !last.isUnspaced) last.isPrefix = Array.from(last.terms.join('')).length > 1
  return query
}

/** `query` in the language of FTS5. It quotes every word, and words have no quotes: typed text is never an operator. */
export function toMatch(query: Term[]): string {
  const quoted = query.map(({ terms, isUnspaced, isPrefix }) => {
    if (!isUnspaced) return `"${terms.join('')}"${isPrefix ? '*' : ''}`
    const pairs = terms.slice(1).map((term, i) => `${terms[i]}${term}`)
    return pairs.length > 0 ? `"${pairs.join(' ')}"` : `"${terms.join('')}"*`
  })
  return quoted.join(' ')
}

interface Range {
  start: number
  end: number
}

/** For each of `terms`, how many of the terms before and with it are also the first of all (Knuth, Morris, Pratt). */
function bordersOf(terms: string[]): number[] {
  const borders = [0]
  let matched = 0
  for (const term of terms.slice(1)) {
    while (matched > 0 && terms[matched] !== term) matched = borders[matched - 1] ?? 0
    if (terms[matched] === term) matched += 1
    borders.push(matched)
  }
  return borders
}

/** Where `words` have the characters `terms` in a row. Linear time, however often the row begins again within itself. */
function rowsOf(words: Word[], terms: string[]): Range[] {
  const borders = bordersOf(terms)
  const ranges: Range[] = []
  let matched = 0
  for (const [i, word] of words.entries()) {
    if (!word.isAdjacent) matched = 0
    if (!word.isUnspaced) continue
    while (matched > 0 && terms[matched] !== word.term) matched = borders[matched - 1] ?? 0
    if (terms[matched] === word.term) matched += 1
    const first = words[i - terms.length + 1]
    if (matched === terms.length && first) ranges.push({ start: first.start, end: word.end })
  }
  return ranges
}

/** What `query` finds in `words`, in order and without overlaps. */
function matchesOf(words: Word[], query: Term[]): Range[] {
  const spaced = query.flatMap(({ terms: [term = ''], isUnspaced, isPrefix }) => (isUnspaced ? [] : { term, isPrefix }))
  const exact = new Set(spaced.map(({ term }) => term))
  const prefix = spaced.find(({ isPrefix }) => isPrefix)?.term
  const found: Range[] = words
    .flatMap((word) => (word.isUnspaced ? [] : [word, ...word.parts]))
    .filter(({ term }) => exact.has(term) || (prefix !== undefined && term.startsWith(prefix)))
  for (const { terms, isUnspaced } of query) if (isUnspaced) found.push(...rowsOf(words, terms))
  const ranges: Range[] = []
  for (const { start, end } of found.sort((a, b) => a.start - b.start)) {
    const last = ranges.at(-1)
    if (last && start <= last.end) last.end = Math.max(last.end, end)
    else ranges.push({ start, end })
  }
  return ranges
}

/** Which part of a snippet is before the first match. */
const LEAD = 0.3

/**
 * `text` in parts, with those that `query` matches marked. Of a text longer than `maxLength` (UTF-16 units), a snippet
 * around the first match, cut between words, with `…` for what is left out.
 */
export function highlight(text: string, query: Term[], maxLength: number): Part[] {
  const found = wordsOf(text)
  const words = partsOf(found)
  const matches = matchesOf(found, query)
  const first = words.find(({ end }) => end > (matches[0]?.start ?? 0)) ?? { start: 0, end: 0 }
  let [from, to] = [0, text.length]
  if (text.length > maxLength) {
    const wanted = Math.min(first.start - LEAD * maxLength, text.length - maxLength)
    if (wanted > 0) from = words.find((word) => word.start >= wanted)?.start ?? 0
    if (from + maxLength < text.length) {
      to = Math.max(first.end, words.findLast((word) => word.end <= from + maxLength)?.end ?? 0)
    }
  }

  const parts: Part[] = []
  const add = (part: string, isMatch: boolean) => {
    const last = parts.at(-1)
    if (part === '') return
    if (last?.isMatch === isMatch) last.text += part
    else parts.push({ text: part, isMatch })
  }
  if (from > 0) add('…', false)
  let done = from
  for (const match of matches) {
    const [start, end] = [Math.max(match.start, from), Math.min(match.end, to)]
    if (start >= end) continue
    add(text.slice(done, start), false)
    add(text.slice(start, end), true)
    done = end
  }
  add(text.slice(done, to), false)
  if (to < text.length) add('…', false)
  return parts
}
