import { Hono } from 'hono'
import * as v from 'valibot'
import { Problem, problems, type ProblemType } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { limitLocally } from '../http/limit.ts'
import { doc, valid } from '../http/openapi.ts'

const tag = 'Documentation'
const isProblem = (name: string): name is ProblemType => Object.hasOwn(problems, name)

const ProblemKind = v.object({ type: v.string(), title: v.string(), status: v.number() })

/** What problem types mean. The page `/docs` and the OpenAPI document are static assets. */
export const docs = new Hono<AppEnv>().get(
  '/problems/:type',
  doc({
    id: 'getProblemType',
    tag,
    summary: 'Read what a problem type means',
    answer: ProblemKind,
    problems: ['not-found'],
  }),
  limitLocally(),
  valid('param', v.object({ type: v.string() })),
  (c) => {
    const { type } = c.req.valid('param')
    if (!isProblem(type)) throw new Problem('not-found', `There is no problem ${type}`)
    return c.json({ type: new URL(c.req.path, c.req.url).href, ...problems[type] })
  },
)
