import * as v from 'valibot'
import { type IdKind, idPattern } from '../ids.ts'

/** The messages of schemas that state none themselves. The wording of the library never reaches clients. */
v.setGlobalMessage((issue) => {
  const { type, received, requirement } = issue as v.BaseIssue<unknown> & { requirement?: unknown } // some kinds have it
  if (issue.expected === 'never') return 'is not a known field'
  if (received === 'undefined') return 'is required'
  const unit = typeof issue.input === 'string' ? 'characters' : 'items'
  const messages: Record<string, string> = {
    string: 'must be a string',
    number: 'must be a number',
    integer: 'must be a whole number',
    boolean: 'must be true or false',
    array: 'must be a list',
    object: 'must be an object',
    strict_object: 'must be an object',
    loose_object: 'must be an object',
    record: 'must be an object',
    picklist: `must be one of ${(issue.expected ?? '').replaceAll(/[()]/g, '').replaceAll(' | ', ', ')}`,
    literal: `must be ${issue.expected}`,
    min_length: `must have at least ${String(requirement)} ${unit}`,
    max_length: `must have at most ${String(requirement)} ${unit}`,
    min_value: `must be at least ${String(requirement)}`,
    max_value: `must be at most ${String(requirement)}`,
    email: 'must be an email address',
    url: 'must be a URL',
    iso_timestamp: 'must be a time in RFC 3339',
  }
  return messages[type] ?? 'is not valid'
})

/** What has ids of each kind. */
const NAMES: Record<IdKind, string> = {
  u: 'user',
  p: 'post',
  c: 'comment',
  f: 'follow',
  r: 'block or mute',
  m: 'mention',
  n: 'notification',
  s: 'session',
  ev: 'event',
  wh: 'webhook',
  dl: 'delivery',
  ch: 'challenge',
  st: 'service token',
  rp: 'report',
  ml: 'log entry',
}

/** An id of one kind, as it appears in paths, queries and bodies: `u_…`. */
export const id = (kind: IdKind) =>
  v.pipe(
    v.string(),
    v.regex(new RegExp(`^${idPattern(kind)}$`), `must be an id: ${kind}_ and lower-case letters or digits`),
    v.description(`The id of a ${NAMES[kind]}.`),
  )

/** The number of items in a page, from a query. OpenAPI documents it as a number. */
export const limitOf = (fallback: number, max: number) =>
  v.pipe(
    v.optional(
      v.pipe(
        v.string(),
        v.regex(/^\d{1,9}$/, 'must be a whole number'),
        v.transform(Number),
        v.minValue(1, 'must be at least 1'),
        v.maxValue(max, `must be at most ${max}`),
      ),
      String(fallback),
    ),
    v.metadata({ type: 'integer', pattern: undefined, minimum: 1, maximum: max, default: fallback }),
    v.description('The most items to answer.'),
  )

/** Selects a page: at most 100 items, after `cursor`, which is the `nextCursor` of the page before. */
export const pageQuery = (kind: 'p' | 'c' | 'f' | 'r' | 'n' | 'wh' | 'st' | 'rp' | 'ml') =>
  v.object({
    limit: limitOf(20, 100),
    cursor: v.optional(v.pipe(id(kind), v.description('The `nextCursor` of the page before.'))),
  })

/** A batch of ids, separated by commas. Repeated ids count once. OpenAPI documents it as a string. */
export const idsQuery = (kind: 'u' | 'p', max = 100) =>
  v.object({
    ids: v.pipe(
      v.string('must be ids separated by commas'),
      v.transform((text) => [...new Set(text.split(','))]),
      v.maxLength(max, `must be at most ${max} ids`),
      v.array(id(kind)),
      v.metadata({
        type: 'string',
        pattern: `^${idPattern(kind)}(,${idPattern(kind)}){0,${max - 1}}$`,
        items: undefined,
        maxLength: undefined,
      }),
      v.description(`At most ${max} ids, separated by commas.`),
    ),
  })

/** The schema of a page of items. */
export const pageSchema = <T extends v.GenericSchema>(item: T) =>
  v.pipe(
    v.object({
      items: v.array(item),
      nextCursor: v.pipe(v.nullable(v.string()), v.description('Selects the next page. Null: this is the last one.')),
    }),
    v.description('A page of the list.'),
  )

/** A time in RFC 3339. */
export const Time = v.pipe(v.string(), v.isoTimestamp())

/** A count, version or number of seconds. */
export const Count = v.pipe(v.number(), v.integer(), v.minValue(0))

/** Made when it is first used: that takes longer than all other schemas. */
let segmenter: Intl.Segmenter | undefined

/** How many characters `text` has as people count them: a family emoji is one, and so is a letter with its accents. */
function graphemesIn(text: string): number {
  segmenter ??= new Intl.Segmenter(undefined, { granularity: 'grapheme' })
  return Array.from(segmenter.segment(text)).length
}

/** The average number of UTF-16 units that a character may take. The largest emoji take 14. */
const MAX_UNITS = 16

/**
 * More combining marks in a row than any language uses (UAX #15, Stream-Safe): normalization takes quadratic time on
 * them.
 */
const MANY_MARKS = /\p{M}{31}/u

/**
 * A character that leaves something to see. The last ones of the list are blanks that Unicode counts as letters or
 * symbols.
 */
const VISIBLE =
  /[^\s\p{M}\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\u2800\ufffc\u{13441}\u{13442}\u{1d159}]/u

/** Embeddings, overrides and isolates of UAX #9, and the two characters that close them. */
const DIRECTIONS = /[\u202a-\u202e\u2066-\u2069]/g
const [POP, POP_ISOLATE] = ['\u202c', '\u2069']

/** Whether each line of `text` closes the directions it opens, in order: it cannot reorder the text around it. */
const closesDirections = (text: string) =>
  text.split(/[\n\u2029]/).every((line) => {
    const open: string[] = []
    for (const [control] of line.matchAll(DIRECTIONS)) {
      if (control !== POP && control !== POP_ISOLATE) open.push(control < '\u2066' ? POP : POP_ISOLATE)
      else if (open.pop() !== control) return false
    }
    return open.length === 0
  })

/**
 * Text that people write: trimmed, in NFC, with lines ended by `\n`; 1 to `max` characters, or 0 with `isOptional`.
 * Refuses control characters (also line ends, unless `isLong`), broken Unicode, text without a visible character, and
 * direction controls: in one line all of them, in long text those that reach beyond their line.
 * Every step takes linear time: the length and the marks are checked before normalization.
 */
export const written = ({ max, isLong = false, isOptional = false }: Writing) => {
  const control = isLong ? /[^\P{Cc}\n]/u : /[\p{Cc}\u2028\u2029]/u
  const tooLong = `must have at most ${max} characters`
  const fewMarks = v.check<string, string>(
    (text) => !MANY_MARKS.test(text),
    'must have at most 30 marks on a character',
  )
  return v.pipe(
    v.string('must be text'),
    v.check((text) => text.isWellFormed(), 'must be well-formed Unicode: it has half a surrogate pair'),
    v.transform((text) => text.replaceAll('\r\n', '\n').trim()),
    v.check((text) => text.length <= max * MAX_UNITS, tooLong),
    fewMarks,
    v.transform((text) => text.normalize('NFC')),
    fewMarks,
    v.check((text) => !control.test(text), `must have no control characters${isLong ? ' but line ends' : ''}`),
    isLong
      ? v.check(closesDirections, 'must close the text directions that each line opens')
      : v.check((text) => text.search(DIRECTIONS) < 0, 'must have no text direction controls'),
    v.check((text) => isOptional || text !== '', 'must not be empty'),
    v.check((text) => text === '' || VISIBLE.test(text), 'must be visible'),
    v.check((text) => text.length <= max * MAX_UNITS && graphemesIn(text) <= max, tooLong),
    v.description(
      `${isOptional ? 0 : 1} to ${max} characters as people count them; ${isLong ? 'lines are fine' : 'one line'}`,
    ),
  )
}

interface Writing {
  /** In graphemes. */
  max: number
  /** Whether it may have lines. */
  isLong?: boolean
  isOptional?: boolean
}

/**
 * An object whose keys and values match schemas. Unlike `v.record` it keeps every key (`constructor`, `prototype`,
 * `__proto__`) and refuses arrays.
 */
export function record<Value extends v.GenericSchema>(
  key: v.GenericSchema<string, string>,
  value: Value,
  message = 'must be an object',
): v.RecordSchema<v.GenericSchema<string, string>, Value, string> {
  const schema = v.record(key, value, message)
  const run: (typeof schema)['~run'] = ({ value: input }, config) => {
    if (typeof input !== 'object' || input === null || Array.isArray(input))
      return schema['~run']({ value: null }, config)
    const issues: v.BaseIssue<unknown>[] = []
    const entries = Object.entries<unknown>({ ...input }).map(([name, item]) => {
      const parsedKey = key['~run']({ value: name }, config)
      const parsed = value['~run']({ value: item }, config)
      const at = { type: 'object', input: { ...input }, key: name, value: item } as const
      for (const issue of parsedKey.issues ?? []) issues.push({ ...issue, path: [{ ...at, origin: 'key' }] })
      for (const issue of parsed.issues ?? []) {
        issues.push({ ...issue, path: [{ ...at, origin: 'value' }, ...(issue.path ?? [])] })
      }
      return [name, parsed.value]
    })
    const [first, ...rest] = issues
    const output = Object.fromEntries(entries) // defines `__proto__` like any other key
    return first ? { typed: false, value: output, issues: [first, ...rest] } : { typed: true, value: output }
  }
  const descriptors = { ...Object.getOwnPropertyDescriptors(schema), '~run': { value: run, enumerable: true } }
  return Object.defineProperties({} as typeof schema, descriptors) // all of its properties
}

/** Any JSON object, with every key. */
export const JsonObject = record(v.string(), v.unknown())
