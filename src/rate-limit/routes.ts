import { Hono } from 'hono'
import * as v from 'valibot'
import type { LimitName } from '../config.ts'
import { unavailable } from '../errors.ts'
import { admit } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, Time } from '../http/input.ts'
import { addressSubject } from '../http/limit.ts'
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
    description:
      'What remains of each policy, for the signed-in user or else the address. Counts against the policy `status` only.',
    answer: Limits,
    problems: ['unavailable'],
  }),
  admit('status', { session: 'optional', check: 'alongside' }),
  async (c) => {
    const { use, config, caller } = c.var
    const policies = Object.keys(config.limits) as LimitName[] // the keys of `Record<LimitName, …>`
    const allowances = await caller
      .read(async (userId) => {
        const subject = userId ?? addressSubject(c)
        return Promise.all(policies.map((policy) => use(limitsService).peek(policy, subject)))
      })
      .catch(unavailable('Limits cannot be read right now'))
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
