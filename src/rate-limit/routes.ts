import { Hono } from 'hono'
import * as v from 'valibot'
import type { LimitName } from '../config.ts'
import { Problem } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, Time } from '../http/input.ts'
import { subjectOf } from '../http/admit.ts'
import { doc } from '../http/openapi.ts'

const Limits = v.object({
  items: v.array(
    v.object({ policy: v.string(), limit: Count, windowSeconds: Count, remaining: Count, resetsAt: Time }),
  ),
})

export const rateLimit = new Hono<AppEnv>().get(
  '/',
  doc({
    tag: 'Rate limits',
    summary: 'What remains of my limits',
    description: 'Per policy, for the signed-in user or else the address. Asking spends nothing.',
    answer: Limits,
    problems: ['unavailable'],
  }),
  async (c) => {
    const { services, config } = c.var
    const subject = subjectOf(c)
    const names = Object.keys(config.limits) as LimitName[] // its own keys
    const left = await Promise.all(names.map((name) => services.rateLimit.peek(name, subject))).catch((cause) => {
      throw new Problem('unavailable', 'Limits cannot be read right now', { retryAfter: 5 }, { cause })
    })
    c.header('Cache-Control', 'no-store')
    return c.json({
      items: names.map((policy, i) => ({
        policy,
        limit: config.limits[policy].limit,
        windowSeconds: config.limits[policy].windowSeconds,
        remaining: left[i]?.remaining ?? 0,
        resetsAt: new Date(left[i]?.resetsAt ?? 0).toISOString(),
      })),
    })
  },
)
