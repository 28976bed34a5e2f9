import { sValidator } from '@hono/standard-validator'
import { createMiddleware } from 'hono/factory'
import type { Env as HonoEnv, MiddlewareHandler, ValidationTargets } from 'hono'
import { describeRoute, resolver, uniqueSymbol } from 'hono-openapi'
import * as v from 'valibot'
import type { headers as responseHeaders } from '../docs/headers.ts'
import { type FieldError, invalidField, Problem, type ProblemType, problems } from '../errors.ts'

type Schema = v.GenericSchema

/** Problems of every route. */
const COMMON: ProblemType[] = ['rate-limited', 'internal', 'misconfigured', 'unavailable']

/** The schema of a problem document (RFC 9457). */
const ProblemDocument = v.pipe(
  v.looseObject({
    type: v.pipe(
      v.picklist(Object.keys(problems).map((type) => `/problems/${type}`)),
      v.metadata({ ref: 'ProblemType' }),
    ),
    title: v.pipe(v.string(), v.description('The same for each problem of this type.')),
    status: v.pipe(v.number(), v.integer(), v.description('The status of the answer.')),
    detail: v.pipe(v.string(), v.description('What is wrong with this request.')),
    instance: v.pipe(v.string(), v.description('The path of the request.')),
    errors: v.optional(
      v.pipe(
        v.array(
          v.object({
            in: v.pipe(v.picklist(['path', 'query', 'body', 'header']), v.description('The part of the request.')),
            field: v.pipe(v.string(), v.description('The name of the field, a path in the body: `data.total`.')),
            message: v.pipe(v.string(), v.description('What the API expects.')),
          }),
        ),
        v.description('Each invalid field.'),
      ),
    ),
    retryAfter: v.optional(v.pipe(v.number(), v.description('Seconds to wait, as in `Retry-After`.'))),
  }),
  v.metadata({ ref: 'Problem', description: 'A problem document (RFC 9457). Some types have members of their own.' }),
)

/** The optional headers of requests, with their descriptions. */
const HEADERS = {
  'Idempotency-Key':
    'A key of your choice, 1 to 255 characters. If you repeat the request with the key within a day, the API repeats ' +
    'its first answer.',
  'Last-Event-ID': 'The `id` of the last event you received. The stream starts after it.',
  'X-D1-Bookmark':
    'The latest value of this header that an answer gave you. The answer then has all that you wrote or saw before. A ' +
    'session by cookie has a cookie for it.',
  'If-Match': 'An `ETag`, or the version in it. The API makes the change only if the resource still has this version.',
}

/**
 * Describes a route for the OpenAPI document: what it does, its answer, and its own problems. The build removes the
 * description from the Worker, and those that `described` and `describedInput` add (scripts/build/documentation.ts).
 */
export function doc(route: {
  /** The name of the operation: generated clients call it so. Renaming it breaks them. */
  id: string
  summary: string
  description?: string
  tag: string
  answer?: Schema
  /** The media types of the answer. The default is JSON. */
  mediaTypes?: string[]
  status?: 200 | 201 | 202 | 204
  /** Headers of the answer, besides those that middleware sends. With `ETag`, a read is conditional. */
  sends?: (keyof typeof responseHeaders)[]
  /** Answers with other statuses that are not problems. */
  answers?: Record<number, Schema>
  problems?: ProblemType[]
  /** Optional request headers that the route reads. */
  headers?: (keyof typeof HEADERS)[]
}) {
  const { summary, description, tag, answer, mediaTypes = ['application/json'], status = 200, headers = [] } = route
  const json = (schema: Schema) => ({ content: { 'application/json': { schema: resolver(schema) } } })
  const byStatus = Map.groupBy([...(route.problems ?? []), ...COMMON], (type) => problems[type].status)
  const failures = Object.fromEntries(
    [...byStatus].map(([failure, types]) => [
      String(failure),
      {
        description: [...new Set(types)].map((type) => `\`${type}\`: ${problems[type].title}.`).join(' '),
        content: { 'application/problem+json': { schema: resolver(ProblemDocument) } },
      },
    ]),
  )
  return describeRoute({
    operationId: route.id,
    summary,
    ...(description === undefined ? {} : { description }),
    tags: [tag],
    parameters: headers.map((name) => ({
      in: 'header',
      name,
      required: false,
      description: HEADERS[name],
      schema: { type: 'string' },
    })),
    responses: {
      [status]: {
        description: '', // that of the schema, see `describeApp`
        ...(route.sends && {
          headers: Object.fromEntries(route.sends.map((name) => [name, { $ref: `#/components/headers/${name}` }])),
        }),
        ...(answer && {
          content: Object.fromEntries(mediaTypes.map((type) => [type, { schema: resolver(answer) }])),
        }),
      },
      ...failures,
      ...Object.fromEntries(
        Object.entries(route.answers ?? {}).map(([other, schema]) => {
          const failure = failures[other] // the route may have a problem with that status too
          return [
            other,
            {
              description: ['The check failed.', failure?.description].filter(Boolean).join(' '),
              content: { ...failure?.content, ...json(schema).content },
            },
          ]
        }),
      ),
    },
  })
}

/** A middleware that adds `spec` to the description of its routes: who may call them, and which limit applies. */
export const described = <E extends HonoEnv>(spec: RouteSpec, middleware: MiddlewareHandler<E>): MiddlewareHandler<E> =>
  Object.assign(middleware, { [uniqueSymbol]: { spec } })

interface RouteSpec {
  /** Credentials that the route accepts (OpenAPI 3.1). `{}`: none is needed. */
  security: Record<string, string[]>[]
  /** The name of the limit. */
  'x-rate-limit'?: string
}

/** A middleware that adds the `schema` of one part of the input to the description of its routes. */
const describedInput = <M extends object>(target: keyof ValidationTargets, schema: Schema, middleware: M): M =>
  Object.assign(middleware, { [uniqueSymbol]: { target, ...resolver(schema) } })

const IN = { param: 'path', query: 'query', json: 'body', header: 'header' } as const

/** Validates one part of the input. Throws `invalid-request`, which names every invalid field. */
export const valid = <T extends keyof typeof IN & keyof ValidationTargets, S extends Schema>(target: T, schema: S) =>
  describedInput(
    target,
    schema,
    sValidator(target, schema, (result, c) => {
      const garbled = target === 'query' ? findGarbled(c.req.url) : undefined
      if (garbled !== undefined) throw invalidField('query', garbled, 'must be UTF-8')
      const lists = target === 'json' ? findLists(schema, result.data) : []
      if (result.success && lists.length === 0) return
      const issues = result.success ? [] : result.error
      const errors: FieldError[] = [
        ...lists.map((field) => ({ in: IN[target], field, message: 'must be an object' })),
        ...issues.map((issue) => ({
          in: IN[target],
          field: (issue.path ?? []).map((part) => (typeof part === 'object' ? part.key : part)).join('.'),
          message: issue.message,
        })),
      ]
      const [first] = errors
      throw new Problem('invalid-request', first && [first.field, first.message].filter(Boolean).join(': '), { errors })
    }),
  )

/** The name of the first query parameter that is not UTF-8: decoding would replace what it lost. */
function findGarbled(url: string): string | undefined {
  if (!url.includes('%')) return undefined
  for (const parameter of url.slice(url.indexOf('?') + 1).split('&')) {
    try {
      decodeURIComponent(parameter.replaceAll(/%(?![\da-f]{2})/gi, '')) // browsers leave a lone `%` as it is
    } catch {
      return parameter.split('=', 1)[0]
    }
  }
  return undefined
}

/** The paths where `schema` expects an object and `value` has a list. Valibot accepts lists as objects. */
function findLists(schema: Schema, value: unknown, path: (string | number)[] = []): string[] {
  const { wrapped, entries, item, type, options } = schema as Partial<Nested> & Schema // by the kind of the schema
  if (wrapped) return findLists(wrapped, value, path)
  if (Array.isArray(value)) {
    if (item) return value.flatMap((part, i) => findLists(item, part, [...path, i]))
    const isUnion = type === 'union' || type === 'variant'
    if (isUnion && options?.some((option) => findLists(option, value, path).length === 0)) return []
    return entries || type === 'record' || isUnion ? [path.join('.')] : []
  }
  if (!entries || typeof value !== 'object' || value === null) return []
  const fields = value as Record<string, unknown> // an object, as checked
  return Object.entries(entries).flatMap(([key, entry]) => findLists(entry, fields[key], [...path, key]))
}

/** The parts of a schema that have schemas of their own. */
interface Nested {
  wrapped: Schema
  entries: Record<string, Schema>
  item: Schema
  options: Schema[]
}

/** The media types that Hono's validator reads as JSON: with any others, it ignores the body. */
const JSON_TYPE = /^application\/([\w.-]{1,100}\+)?json$/i

/** Refuses a body whose media type is not JSON, or that is not UTF-8. Use it before `valid('json', …)`. */
export const requireJson = createMiddleware(async (c, next) => {
  const [type = ''] = (c.req.header('Content-Type') ?? '').split(';', 1)
  if (!JSON_TYPE.test(type.trim())) throw new Problem('unsupported-media-type')
  try {
    new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(await c.req.arrayBuffer())
  } catch (cause) {
    throw new Problem('malformed-json', 'The body is not UTF-8', {}, { cause })
  }
  await next()
})
