import { Hono } from 'hono'
import * as v from 'valibot'
import type { LimitName } from '../config.ts'
import { unavailable } from '../errors.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, Time } from '../http/input.ts'
import { limitSubject } from '../http/limit.ts'
import { doc } from '../http/openapi.ts'
import { limitsService } from './rate-limit.ts'

const Limits = v.object({
  items: v.array(
    v.object({ policy: v.string(), limit: Count, windowSeconds: Count, remaining: Count, resetsAt: Time }),
  ),
})

export const rateLimit = new Hono<AppEnv>().get(
  '/',
  doc({
    tag: 'Rate limits',
    summary: 'Read my limits',
    description: 'What remains of each policy, for the signed-in user or else the address. Spends no request.',
    answer: Limits,
    problems: ['unavailable'],
  }),
  async (c) => {
    const { use, config } = c.var
    const subject = limitSubject(c)
    const policies = Object.keys(config.limits) as LimitName[] // the keys of `Record<LimitName, …>`
    const allowances = await Promise.all(policies.map((policy) => use(limitsService).peek(policy, subject))).catch(
      unavailable('Limits cannot be read right now'),
    )
    c.header('Cache-Control', 'no-store')
    return c.json({
      items: policies.map((policy, i) => ({
        policy,
        limit: config.limits[policy].limit,
        windowSeconds: config.limits[policy].windowSeconds,
        remaining: allowances[i]?.remaining ?? 0,
        resetsAt: new Date(allowances[i]?.resetsAt ?? 0).toISOString(),
      })),
    })
  },
)
