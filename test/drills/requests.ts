import type { Schema } from '@cfworker/json-schema'
import fc from 'fast-check'
import type { Document, Operation } from '../docs/document.ts'

/** A request as the fuzzer sends it. */
export interface FuzzedRequest {
  method: string
  path: string
  headers: [name: string, value: string][]
  /** Whose credential it presents. */
  credential: 'nobody' | 'user1' | 'user2' | 'service' | 'cookie' | 'wrong'
  /** Text, or bytes that need not be UTF-8. */
  body: string | number[] | null
  isChunked: boolean
}

/** Content that exists, by the kind of its id; and ids of nothing. */
const KNOWN: Record<string, string[]> = {
  u: ['u_fuzz1', 'u_fuzz2', 'u_nobody'],
  p: ['p_fuzz1', 'p_fuzz2', 'p_nothing'],
  c: ['c_fuzz1', 'c_nothing'],
  wh: ['wh_fuzz1', 'wh_nothing'],
  dl: ['dl_fuzz1', 'dl_nothing'],
  st: ['st_fuzz1', 'st_nothing'],
  rp: ['rp_fuzz1', 'rp_nothing'],
}

/** Valid values that a schema cannot state, by the name of the field. `RECEIVER` becomes an endpoint of the test. */
const BY_NAME: Record<string, string[]> = {
  url: [
    'RECEIVER',
    'http://127.0.0.1:1/',
    'https://edge.test/',
    'https://[::1]/',
    'ftp://a.test',
    'https://a:b@127.0.0.1/',
  ],
  channel: ['custom_fuzz', 'post_events', 'user_events', 'counter_updates'],
  channels: ['custom_fuzz', 'post_events', 'user_events', 'counter_updates'],
  login: ['fuzz1', 'fuzz1@example.test'],
  name: ['notifications', 'search', 'fuzz'],
}

const TRICKY_NAMES = ['__proto__', 'constructor', 'prototype', 'toString', 'id', 'role', '']
const TRICKY_TEXTS = [
  '',
  ' ',
  '\0',
  '\u2800',
  '\u202e',
  '\ud800',
  'a\u0301'.repeat(300),
  '👩‍👩‍👧‍👦'.repeat(200),
  'x'.repeat(10_000),
  ','.repeat(5_000),
  '%',
  '%00',
  '../..',
  "'; DROP TABLE users; --",
  '{}',
  'null',
  '-1',
  '0',
  '1e9',
  '99999999999999999999',
  '٣',
  'U_FUZZ1',
  'u_',
  'p_fuzz1',
  'u_fuzz1,',
]
const TRICKY_NUMBERS = [-1, 0, -0, 0.5, 1e-7, 101, 2 ** 31, 2 ** 53, 1e21, 1e308, -1e308]

const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 60 }),
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.constantFrom(...TRICKY_TEXTS),
)
const deep = fc.integer({ min: 50, max: 3_000 }).map((depth) => {
  let value: unknown = 1
  for (let i = 0; i < depth; i += 1) value = i % 2 ? [value] : { a: value }
  return value
})
const garbage: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(null, [], {}, true, ...TRICKY_NUMBERS) },
  { weight: 4, arbitrary: text },
  { weight: 3, arbitrary: fc.jsonValue() },
  { weight: 1, arbitrary: fc.dictionary(fc.constantFrom(...TRICKY_NAMES), fc.jsonValue()) },
  { weight: 1, arbitrary: deep },
)

/** One in so many values is not what the schema says. */
const MOSTLY = 20

/** A value in one of so many cases, otherwise null. */
const rarely = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | null> =>
  fc.oneof({ weight: MOSTLY, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: value })

/** A value for a schema: most are valid, some are at or beyond a bound, some are anything. */
function valueOf(document: Document, schema: Schema, name = ''): fc.Arbitrary<unknown> {
  return fc.oneof({ weight: MOSTLY, arbitrary: validOf(document, schema, name) }, { weight: 1, arbitrary: garbage })
}

function validOf(document: Document, schema: Schema, name: string): fc.Arbitrary<unknown> {
  const {
    type,
    oneOf,
    anyOf = oneOf,
    const: constant,
    enum: options,
    items,
    properties,
    required = [],
    additionalProperties,
    propertyNames,
  } = schema
  if (anyOf) return fc.oneof(...anyOf.map((part: Schema) => validOf(document, part, name)))
  if (options) return fc.constantFrom(...options)
  if (constant !== undefined) return fc.constant(constant)
  switch (type) {
    case 'null':
      return fc.constant(null)
    case 'boolean':
      return fc.boolean()
    case 'integer':
    case 'number': {
      const { minimum = -1_000, maximum = 1_000 } = schema
      return fc.oneof(
        fc.integer({ min: minimum, max: maximum }),
        fc.constantFrom(minimum, maximum, minimum - 1, maximum + 1),
      )
    }
    case 'array': {
      const { minItems = 0, maxItems = 5 } = schema
      const item = valueOf(document, items as Schema, name) // the document has no tuples
      return fc.oneof(
        { weight: 9, arbitrary: fc.array(item, { minLength: minItems, maxLength: Math.min(maxItems, minItems + 3) }) },
        { weight: 1, arbitrary: fc.array(item, { minLength: maxItems, maxLength: maxItems + 1 }) },
      )
    }
    case 'object': {
      const fields = Object.fromEntries(
        Object.entries(properties ?? {})
          .filter(([, field]) => !('not' in (field as Schema))) // it is absent
          .map(([key, field]) => [key, valueOf(document, field as Schema, key)]),
      )
      const known = fc.record(fields, { requiredKeys: required.filter((key: string) => key in fields) })
      const names = propertyNames === undefined ? text : (validOf(document, propertyNames, '') as fc.Arbitrary<string>)
      const extra =
        typeof additionalProperties === 'object'
          ? fc.dictionary(fc.oneof(names, fc.constantFrom(...TRICKY_NAMES)), valueOf(document, additionalProperties), {
              maxKeys: 4,
            })
          : fc.constant({})
      const odd = fc.tuple(fc.constantFrom(...TRICKY_NAMES, ...Object.keys(fields)), garbage)
      return fc
        .tuple(known, extra, rarely(odd), rarely(fc.constantFrom(...Object.keys(fields), '')))
        .map(([value, more, one, missing]) =>
          Object.fromEntries(
            [...Object.entries(value), ...Object.entries(more), ...(one ? [one] : [])].filter(
              ([key]) => key !== missing,
            ),
          ),
        )
    }
    case 'string':
      return stringOf(schema, name)
    default:
      return fc.jsonValue()
  }
}

/** The ids of `KNOWN` that a pattern allows: it begins with the kind, as in `^wh_`, or with several, as in `^[pc]_`. */
function idsOf(pattern = ''): string[] | undefined {
  const [, kind, kinds = ''] = /^\^(?:([a-z]+)|\[([a-z]+)\])_/.exec(pattern) ?? []
  if (kind !== undefined) return KNOWN[kind]
  return kinds === '' ? undefined : kinds.split('').flatMap((one) => KNOWN[one] ?? [])
}

function stringOf({ pattern, format, minLength = 0, maxLength }: Schema, name: string): fc.Arbitrary<string> {
  const choices: fc.WeightedArbitrary<string>[] = []
  const known = BY_NAME[name] ?? idsOf(pattern)
  if (known) {
    const one = fc.constantFrom(...known)
    const isList = pattern?.includes('(,') || name === 'channels'
    choices.push({ weight: 4, arbitrary: isList ? fc.array(one, { minLength: 1, maxLength: 5 }).map(String) : one })
  }
  if (pattern !== undefined) choices.push({ weight: 2, arbitrary: fc.stringMatching(new RegExp(pattern)) })
  else if (format === 'date-time')
    choices.push({ weight: 4, arbitrary: fc.date({ noInvalidDate: true }).map((date) => date.toISOString()) })
  else if (format === 'email') choices.push({ weight: 4, arbitrary: fc.emailAddress() })
  else
    choices.push({
      weight: 2,
      arbitrary: fc.string({ unit: 'grapheme', minLength, maxLength: Math.min(maxLength ?? 40, 40) }),
    })
  if (maxLength !== undefined)
    choices.push({ weight: 1, arbitrary: fc.constantFrom('x'.repeat(maxLength), 'x'.repeat(maxLength + 1)) })
  return fc.oneof(...choices)
}

/** Headers that the API reads, or passes on. */
const HEADERS: Record<string, fc.Arbitrary<string>> = {
  'If-Match': fc.oneof(
    fc.constantFrom(
      '*',
      '"1"',
      '1',
      'W/"1-0-0-0-any"',
      '"2", "3"',
      '"',
      '"a',
      ',',
      ','.repeat(4_000),
      '"1",'.repeat(200),
    ),
    fc.string(),
  ),
  'If-None-Match': fc.oneof(fc.constantFrom('*', 'LATEST', '"x", LATEST', '"'), fc.string()),
  'Idempotency-Key': fc.oneof(fc.constantFrom('"k1"', 'k2', '""', '"', 'x'.repeat(255), 'x'.repeat(256)), fc.string()),
  'Last-Event-ID': fc.oneof(fc.constantFrom('0-0', '', '1-', '9999999999999-1'), fc.string()),
  'CF-Connecting-IP': fc.oneof(fc.ipV4(), fc.ipV6(), fc.string()),
  Origin: fc.constantFrom('https://edge.test', 'https://evil.test', 'null', ''),
  'Sec-Fetch-Site': fc.constantFrom('same-origin', 'cross-site', 'none', '?'),
  'Content-Encoding': fc.constantFrom('identity', 'gzip', 'br', 'x'),
  Accept: fc.constantFrom('*/*', 'text/html', 'application/json', ';;'),
  Range: fc.constantFrom('bytes=0-10', 'bytes=5-', 'x'),
  traceparent: fc.oneof(
    fc.constantFrom('00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', '00-0-0-0'),
    fc.string(),
  ),
  'X-Request-Id': fc.oneof(fc.constantFrom('a', 'x'.repeat(300)), fc.string()),
  'User-Agent': fc.string({ maxLength: 300 }),
  'X-HTTP-Method-Override': fc.constant('DELETE'),
}
const CONTENT_TYPES = [
  'application/json; charset=utf-8',
  'application/JSON',
  'application/json; charset=utf-16',
  'application/x+y+json',
  'application/problem+json',
  'text/plain',
  'multipart/form-data; boundary=x',
  'application/x-www-form-urlencoded',
  'application/json, text/plain',
  ';',
]
const BAD_BODIES: (string | number[])[] = [
  '',
  'x',
  '{',
  '{"text":',
  'nul',
  '"text"',
  '[]',
  '1',
  '\ufeff{"text":"a"}',
  '{"text":"a","text":"b"}',
  '['.repeat(20_000),
  `{"text":"${'x'.repeat(100_000)}"}`,
  [0xff, 0xfe, 0x00],
  [0x7b, 0x22, 0x74, 0x65, 0x78, 0x74, 0x22, 0x3a, 0x22, 0xff, 0x22, 0x7d], // {"text":"\xff"}
]

/** Requests to the operations of the document. */
export function requestsOf(document: Document, operations: Map<string, Operation>): fc.Arbitrary<FuzzedRequest> {
  return fc.oneof(...[...operations].map(([name, operation]) => requestOf(document, name, operation)))
}

function requestOf(document: Document, name: string, operation: Operation): fc.Arbitrary<FuzzedRequest> {
  const [method = '', template = ''] = name.split(' ')
  const parameters = operation.parameters ?? []
  const paramOf = (where: string) => parameters.filter((parameter) => parameter.in === where)
  const asText = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value)).slice(0, 12_000)

  const inPath = fc.tuple(
    ...paramOf('path').map((parameter) =>
      valueOf(document, parameter.schema, parameter.name).map((value) => ({
        name: parameter.name,
        value: asText(value),
      })),
    ),
  )
  const inQuery = fc.tuple(
    ...paramOf('query').map((parameter) =>
      fc
        .option(valueOf(document, parameter.schema, parameter.name), { freq: parameter.required ? MOSTLY : 2 })
        .map((value) => (value === null ? [] : [[parameter.name, asText(value)]])),
    ),
    fc.oneof(
      { weight: MOSTLY, arbitrary: fc.constant([]) },
      {
        weight: 1,
        arbitrary: fc.array(
          fc.tuple(fc.oneof(text, fc.constantFrom(...paramOf('query').map(({ name }) => name), 'x')), text),
          { maxLength: 3 },
        ),
      },
    ),
  )
  const schema = operation.requestBody?.content['application/json']?.schema
  const body: fc.Arbitrary<string | number[] | null> = schema
    ? fc.oneof(
        { weight: MOSTLY, arbitrary: valueOf(document, schema).map((value) => JSON.stringify(value)) },
        { weight: 1, arbitrary: fc.constantFrom(null, ...BAD_BODIES) },
      )
    : fc.oneof(
        { weight: MOSTLY, arbitrary: fc.constant(null) },
        { weight: 1, arbitrary: fc.constantFrom(...BAD_BODIES) },
      )
  const header = fc
    .constantFrom(...Object.keys(HEADERS))
    .chain((key) => (HEADERS[key] ?? fc.string()).map((value): [string, string] => [key, value]))
  const own = paramOf('header').map(({ name: key }) =>
    fc
      .option(HEADERS[key] ?? fc.string(), { freq: 2 })
      .map((value): [string, string][] => (value === null ? [] : [[key, value]])),
  )
  const contentType = fc.oneof(
    { weight: MOSTLY, arbitrary: fc.constant('application/json') },
    { weight: 1, arbitrary: fc.constantFrom(null, ...CONTENT_TYPES) },
  )
  const needsService = operation.responses['401']?.description.includes('service-token-required') ?? false
  const credential = fc.oneof(
    {
      weight: 12,
      arbitrary: fc.constantFrom<FuzzedRequest['credential']>(
        ...(needsService ? ['service' as const] : ['user1' as const, 'user1' as const, 'user2' as const]),
      ),
    },
    {
      weight: 2,
      arbitrary: fc.constantFrom<FuzzedRequest['credential']>('nobody', 'user2', 'service', 'cookie', 'wrong'),
    },
  )
  return fc
    .record({
      method: fc.oneof(
        { weight: 20, arbitrary: fc.constant(method) },
        { weight: 1, arbitrary: fc.constantFrom('GET', 'HEAD', 'OPTIONS', 'PUT', 'POST', 'DELETE', 'PATCH') },
      ),
      inPath,
      inQuery,
      headers: fc.tuple(
        fc.oneof(
          { weight: 4, arbitrary: fc.constant([]) },
          { weight: 1, arbitrary: fc.array(header, { maxLength: 3 }) },
        ),
        ...own,
      ),
      contentType,
      credential,
      body,
      isChunked: fc.boolean(),
    })
    .map(({ method, inPath, inQuery, headers, contentType, credential, body, isChunked }) => {
      const encode = (value: string) => encodeURIComponent(value.toWellFormed()).replaceAll('.', '%2E')
      const path = inPath.reduce((path, { name, value }) => path.replace(`{${name}}`, () => encode(value)), template)
      const query = inQuery
        .flat()
        .map(([key = '', value = '']) => `${encode(key)}=${name.includes('ids') ? value : encode(value)}`)
      const hasBody = body !== null && method !== 'GET' && method !== 'HEAD'
      return {
        method,
        path: query.length > 0 ? `${path}?${query.join('&')}` : path,
        headers: [
          ...headers.flat().filter(([, value]) => /^[\x20-\x7e\x80-\xff]*$/.test(value)),
          ...(contentType === null || body === null ? [] : [['Content-Type', contentType] as [string, string]]),
        ],
        credential,
        body: hasBody ? body : null,
        isChunked,
      }
    })
}
