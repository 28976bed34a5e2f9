import { createMiddleware } from 'hono/factory'
import type { ValidationTargets } from 'hono'
import { describeRoute, resolver, validator } from 'hono-openapi'
import * as v from 'valibot'
import { type FieldError, Problem, type ProblemType, problems } from '../errors.ts'

type Schema = v.GenericSchema

/** What may happen to every request. */
const COMMON: ProblemType[] = ['rate-limited', 'internal', 'misconfigured']

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

const HEADERS = {
  'Idempotency-Key':
    'Of your choice, 1 to 255 characters. Sent again with it within a day, the request is answered again.',
  'Last-Event-ID': 'The `id` of the last event seen: what came after it is sent first.',
  'If-Match': 'An `ETag`, or its version: the change is made only if nobody made another since.',
}

/** Describes a route: what it does, what it answers, and which problems are its own. */
export function doc(route: {
  summary: string
  description?: string
  tag: string
  answer?: Schema
  /** Of an answer that is text, not JSON: its media type. */
  textType?: string
  status?: 200 | 201 | 202 | 204
  /** Answers with another status than `status`, that are not problems. */
  answers?: Record<number, Schema>
  problems?: ProblemType[]
  /** Optional headers of the request that mean something to it. */
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
        description: 'Done',
        ...(answer ? json(answer) : {}),
        ...(route.textType === undefined
          ? {}
          : { content: { [route.textType]: { schema: { type: 'string' as const } } } }),
      },
      ...failures,
      ...Object.fromEntries(
        Object.entries(route.answers ?? {}).map(([other, schema]) => {
          const failure = failures[other] // a problem with that status is possible too
          return [
            other,
            {
              description: ['Not done.', failure?.description].filter(Boolean).join(' '),
              content: { ...failure?.content, ...json(schema).content },
            },
          ]
        }),
      ),
    },
  })
}

const IN = { param: 'path', query: 'query', json: 'body', header: 'header' } as const

/** Checks one part of the input, and names every field that is wrong: `Problem('invalid-request')`. */
export const valid = <T extends keyof typeof IN & keyof ValidationTargets, S extends Schema>(target: T, schema: S) =>
  validator(target, schema, (result) => {
    if (result.success) return
    const errors: FieldError[] = result.error.map((issue) => ({
      in: IN[target],
      field: (issue.path ?? []).map((part) => (typeof part === 'object' ? part.key : part)).join('.'),
      message: issue.message,
    }))
    const [first] = errors
    throw new Problem('invalid-request', first && `${first.field}: ${first.message}`, { errors })
  })

/** Refuses a body that does not call itself JSON; a route that takes one has this before `valid('json', …)`. */
export const requireJson = createMiddleware(async (c, next) => {
  const type = c.req.header('Content-Type') ?? ''
  if (!/^application\/(.+\+)?json *(;|$)/i.test(type)) throw new Problem('unsupported-media-type')
  await next()
})
