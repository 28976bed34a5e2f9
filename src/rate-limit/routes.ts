import { Hono } from 'hono'
import * as v from 'valibot'
import type { LimitName } from '../config.ts'
import { unavailable } from '../errors.ts'
import { OPTIONAL_SESSION } from '../http/admit.ts'
import type { AppEnv } from '../http/context.ts'
import { Count, Time } from '../http/input.ts'
import { addressSubject, limitLocally } from '../http/limit.ts'
import { doc } from '../http/openapi.ts'
import { checkSession, readClaims } from '../http/session.ts'
import { limitsService } from './rate-limit.ts'

/** How often one network may read its limits in one isolate: each time costs a command per policy. */
const PER_MINUTE = 60

const Limits = v.pipe(
  v.object({
    items: v.array(
      v.object({ policy: v.string(), limit: Count, windowSeconds: Count, remaining: Count, resetsAt: Time }),
    ),
  }),
  v.description('What remains of each limit.'),
)

export const rateLimit = new Hono<AppEnv>().get(
  '/',
  doc({
    id: 'getRateLimits',
    tag: 'Rate limits',
    summary: 'Read my limits',
    description:
      'What remains of each policy, for the signed-in user or else the address. Spends no request of these policies. A ' +
      'token that is not valid, or whose session has ended, counts as none.',
    answer: Limits,
    problems: ['unavailable'],
  }),
  limitLocally(PER_MINUTE, OPTIONAL_SESSION),
  async (c) => {
    const { use, config } = c.var
    const policies = Object.keys(config.limits) as LimitName[] // the keys of `Record<LimitName, …>`
    const claims = readClaims(c)
    const address = addressSubject(c)
    const peek = async (subject: string) =>
      Promise.all(policies.map((policy) => use(limitsService).peek(policy, subject))).catch(
        unavailable('Limits cannot be read right now'),
      )
    const [own, isSignedIn] = await Promise.all([peek(claims?.userId ?? address), claims && checkSession(c, claims)])
    const allowances = claims && !isSignedIn ? await peek(address) : own
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
