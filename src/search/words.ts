/** A word as search compares it, and where it is in its text (UTF-16 units). */
export interface Word {
  term: string
  start: number
  end: number
  /** One character of a script that is written without spaces between words. */
  isUnspaced: boolean
}

/** One thing to find: a word, or characters in a row of a script without spaces. */
export interface Term {
  terms: string[]
  isUnspaced: boolean
  /** Whether a word that only begins so will do. */
  isPrefix: boolean
}

/** A stretch of text, and whether it is what was searched for. */
export interface Part {
  text: string
  isMatch: boolean
}

/** Korean has spaces, but its particles cling to words: who looks for a noun would not find it as a word. */
const UNSPACED = ['Han', 'Hiragana', 'Katakana', 'Hangul', 'Thai', 'Lao', 'Khmer', 'Myanmar']
  .map((script) => `\\p{scx=${script}}`)
  .join('')
const LETTER = '[\\p{L}\\p{N}]'

/** A Korean syllable in the two or three letters it is composed of. */
const SYLLABLE = '[\\u1100-\\u115f][\\u1160-\\u11a7][\\u11a8-\\u11ff]?'

/** A character of those scripts with its marks (the last two make a half-width kana voiced), or else a word. */
const WORD = new RegExp(
  `(${SYLLABLE}|(?=${LETTER})[${UNSPACED}][\\p{M}\\uff9e\\uff9f]*)|(?![${UNSPACED}])${LETTER}(?:(?![${UNSPACED}])${LETTER}|\\p{M})*`,
  'gu',
)

/** In these scripts people leave marks out: accents, breathings, vowel points. In others they tell words apart. */
const ACCENTED = /([\p{sc=Latin}\p{sc=Greek}\p{sc=Cyrillic}\p{sc=Arabic}\p{sc=Hebrew}])\p{M}+/gu

/** Words that differ in case, width or accents alone become the same. Upper case first: of `ß` that makes `ss`. */
const fold = (word: string) =>
  word
    .normalize('NFKC')
    .toUpperCase()
    .toLowerCase()
    .replaceAll('ς', 'σ')
    .normalize('NFD')
    .replaceAll(ACCENTED, '$1')
    .normalize('NFC')

function wordsOf(text: string): Word[] {
  return Array.from(text.matchAll(WORD), (found) => ({
    term: fold(found[0]),
    start: found.index,
    end: found.index + found[0].length,
    isUnspaced: found[1] !== undefined,
  }))
}

const isNext = (word: Word | undefined, before: Word | undefined): word is Word =>
  word !== undefined && before !== undefined && word.isUnspaced && before.isUnspaced && word.start === before.end

/** What is indexed of one text. Far more than any post of 500 characters takes; the rest could not be found. */
const MAX_INDEXED = 5_000

/**
 * The words of `text` for an index that takes whatever is between spaces for a word (FTS5 with the tokenizer `ascii`).
 * Characters without spaces between them go in as pairs, each with its next, so that a phrase of pairs finds any two
 * or more in a row, and the beginning of a pair finds one.
 */
export function indexed(text: string): string {
  const words = wordsOf(text)
  const pairs = words.map((word, i) => {
    const next = words[i + 1]
    return isNext(next, word) ? word.term + next.term : word.term
  })
  return pairs.join(' ').slice(0, MAX_INDEXED).toWellFormed()
}

/** What somebody typed, as what must all be found. The last word may be one they are still typing. */
export function parseQuery(typed: string): Term[] {
  const query: Term[] = []
  const words = wordsOf(typed)
  for (const [i, word] of words.entries()) {
    const last = query.at(-1)
    if (last && isNext(word, words[i - 1])) last.terms.push(word.term)
    else query.push({ terms: [word.term], isUnspaced: word.isUnspaced, isPrefix: false })
  }
  const last = query.at(-1)
  // One letter begins half of all words.
  if (last && !last.isUnspaced) last.isPrefix = Array.from(last.terms.join('')).length > 1
  return query
}

/** `query` in the language of FTS5. Every word is quoted, and none has a quote in it: nothing typed is an operator. */
export function toMatch(query: Term[]): string {
  const quoted = query.map(({ terms, isUnspaced, isPrefix }) => {
    if (!isUnspaced) return `"${terms.join('')}"${isPrefix ? '*' : ''}`
    const pairs = terms.slice(1).map((term, i) => `${terms[i]}${term}`)
    return pairs.length > 0 ? `"${pairs.join(' ')}"` : `"${terms.join('')}"*`
  })
  return quoted.join(' ')
}

/** Which of `words` are what `query` looks for. */
function matchesOf(words: Word[], query: Term[]): Set<Word> {
  const matches = new Set<Word>()
  for (const { terms, isUnspaced, isPrefix } of query) {
    const [first = ''] = terms
    for (const [i, word] of words.entries()) {
      if (word.isUnspaced !== isUnspaced) continue
      const row = words.slice(i, i + terms.length)
      const isFound = isPrefix
        ? word.term.startsWith(first)
        : row.length === terms.length && row.every((w, k) => w.term === terms[k] && (k === 0 || isNext(w, row[k - 1])))
      if (isFound) for (const found of row) matches.add(found)
    }
  }
  return matches
}

/** Which part of a snippet stands before the first match. */
const LEAD = 0.3

/**
 * `text` in parts, those that `query` found marked. Of one longer than `maxLength` (UTF-16 units) only what is around
 * the first match, cut between words, with `…` for the rest.
 */
export function highlight(text: string, query: Term[], maxLength: number): Part[] {
  const words = wordsOf(text)
  const matches = matchesOf(words, query)
  const first = words.find((word) => matches.has(word)) ?? words[0] ?? { start: 0, end: 0 }
  let [from, to] = [0, text.length]
  if (text.length > maxLength) {
    const wanted = Math.min(first.start - LEAD * maxLength, text.length - maxLength)
    if (wanted > 0) from = words.find((word) => word.start >= wanted)?.start ?? 0
    if (from + maxLength < text.length) {
      to = Math.max(first.end, words.findLast((word) => word.end <= from + maxLength)?.end ?? 0)
    }
  }

  const parts: Part[] = []
  const add = (stretch: string, isMatch: boolean) => {
    const last = parts.at(-1)
    if (stretch === '') return
    if (last?.isMatch === isMatch) last.text += stretch
    else parts.push({ text: stretch, isMatch })
  }
  if (from > 0) add('…', false)
  let done = from
  for (const word of words) {
    if (!matches.has(word) || word.start < from || word.end > to) continue
    add(text.slice(done, word.start), false)
    add(text.slice(word.start, word.end), true)
    done = word.end
  }
  add(text.slice(done, to), false)
  if (to < text.length) add('…', false)
  return parts
}
