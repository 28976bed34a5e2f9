import { createMiddleware } from 'hono/factory'
import type { ValidationTargets } from 'hono'
import { describeRoute, resolver, validator } from 'hono-openapi'
import * as v from 'valibot'
import { type FieldError, Problem, type ProblemType, problems } from '../errors.ts'

type Schema = v.GenericSchema

/** Problems of every route. */
const COMMON: ProblemType[] = ['rate-limited', 'internal', 'misconfigured', 'unavailable']

/** The schema of a problem document (RFC 9457). */
const ProblemDocument = v.pipe(
  v.looseObject({
    type: v.pipe(v.string(), v.url()),
    title: v.string(),
    status: v.number(),
    detail: v.string(),
    instance: v.string(),
    errors: v.optional(v.array(v.object({ in: v.string(), field: v.string(), message: v.string() }))),
  }),
  v.metadata({ ref: 'Problem' }),
)

/** The optional headers of requests, with their descriptions. */
const HEADERS = {
  'Idempotency-Key':
    'A key of your choice, 1 to 255 characters. If you repeat the request with the key within a day, the API repeats ' +
    'its first answer.',
  'Last-Event-ID': 'The `id` of the last event you received. The stream starts after it.',
  'If-Match': 'An `ETag`, or the version in it. The API makes the change only if the resource still has this version.',
}

/** Describes a route for the OpenAPI document: what it does, its answer, and its own problems. */
export function doc(route: {
  summary: string
  description?: string
  tag: string
  answer?: Schema
  /** The media type of an answer that is text, not JSON. */
  textType?: string
  status?: 200 | 201 | 202 | 204
  /** Answers with other statuses that are not problems. */
  answers?: Record<number, Schema>
  problems?: ProblemType[]
  /** Optional request headers that the route reads. */
  headers?: (keyof typeof HEADERS)[]
}) {
  const { summary, description, tag, answer, status = 200, headers = [] } = route
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
        description: 'Success',
        ...(answer ? json(answer) : {}),
        ...(route.textType === undefined
          ? {}
          : { content: { [route.textType]: { schema: { type: 'string' as const } } } }),
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

const IN = { param: 'path', query: 'query', json: 'body', header: 'header' } as const

/** Validates one part of the input. Throws `invalid-request`, which names every invalid field. */
export const valid = <T extends keyof typeof IN & keyof ValidationTargets, S extends Schema>(target: T, schema: S) =>
  validator(target, schema, (result) => {
    if (result.success) return
    const errors: FieldError[] = result.error.map((issue) => ({
      in: IN[target],
      field: (issue.path ?? []).map((part) => (typeof part === 'object' ? part.key : part)).join('.'),
      message: issue.message,
    }))
    const [first] = errors
    throw new Problem('invalid-request', first && [first.field, first.message].filter(Boolean).join(': '), { errors })
  })

/** Refuses a body whose media type is not JSON. Use it before `valid('json', …)`. */
export const requireJson = createMiddleware(async (c, next) => {
  const type = c.req.header('Content-Type') ?? ''
  if (!/^application\/(.+\+)?json *(;|$)/i.test(type)) throw new Problem('unsupported-media-type')
  await next()
})
