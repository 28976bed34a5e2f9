import { createHash, timingSafeEqual } from 'node:crypto'
import type { MiddlewareHandler } from 'hono'
import { Problem } from '../errors.ts'
import type { ServiceRule } from '../service-tokens/scopes.ts'
import { ROOT, type ServiceCaller, serviceTokensService } from '../service-tokens/service-tokens.ts'
import type { AppEnv, RequestContext } from './context.ts'
import { addressSubject, createLocalLimit } from './limit.ts'
import { described } from './openapi.ts'
import { bearerOf } from './session.ts'

/** How many wrong tokens an isolate looks up for one network per minute. */
const GUESSES = 60
const guesses = createLocalLimit(GUESSES)

/**
 * The back end that `token` belongs to. Undefined: none. `SERVICE_TOKEN` needs neither D1 nor Redis. Other tokens cost a D1
 * query if this isolate has not read them lately.
 */
export async function identifyService(c: RequestContext, token: string): Promise<ServiceCaller | undefined> {
  const digest = (text: string) => createHash('sha256').update(text).digest() // equal lengths, for the comparison
  if (timingSafeEqual(digest(token), digest(c.var.config.serviceToken))) return ROOT
  const network = addressSubject(c)
  let isGuess = false
  const caller = await c.var.use(serviceTokensService).identify(token, () => {
    guesses.spend(network)
    isGuess = true
  })
  if (caller && isGuess) guesses.refund(network)
  return caller
}

/** Whether a back end may do what `rule` protects. */
export const mayDo = ({ scopes }: ServiceCaller, rule: ServiceRule): boolean =>
  scopes === 'all' || scopes.includes(rule)

/** Throws 403 unless the back end may do what `rule` protects. */
export function requireScope(caller: ServiceCaller, rule: ServiceRule): void {
  if (mayDo(caller, rule)) return
  const detail = rule === 'root' ? 'Only SERVICE_TOKEN may do this' : `This service token lacks the scope ${rule}`
  throw new Problem('scope-required', detail, { scope: rule })
}

/** Admits the back end of the request to what `rule` protects. Undefined: there is none. Throws 403 without the scope. */
export async function admitService(c: RequestContext, rule: ServiceRule): Promise<ServiceCaller | undefined> {
  const token = bearerOf(c)
  const caller = c.get('dashboard') ?? (token === undefined ? undefined : await identifyService(c, token))
  if (caller) requireScope(caller, rule)
  return caller
}

/** Whether `admitService` still admits the request: for one that lasts. */
export const isAdmitted = (c: RequestContext, rule: ServiceRule): Promise<boolean> =>
  admitService(c, rule).then((caller) => caller !== undefined)

export interface ServiceEnv {
  Bindings: Env
  Variables: AppEnv['Variables'] & { service: ServiceCaller }
}

/**
 * Admits only requests with a service token that has the scope, or with the root token: `c.var.service`. A route with
 * `isForTenants` also admits the people of a tenant, and must hide from them what is not theirs.
 */
export function requireService(rule: ServiceRule, { isForTenants = false } = {}): MiddlewareHandler<ServiceEnv> {
  const middleware: MiddlewareHandler<ServiceEnv> = async (c, next) => {
    const caller = await admitService(c, rule)
    if (!caller) throw new Problem('service-token-required')
    if (caller.tenant !== undefined && !isForTenants) {
      throw new Problem('scope-required', 'A portal may not do this', { scope: rule })
    }
    c.set('service', caller)
    await next()
  }
  return described({ security: [{ serviceToken: [rule] }] }, middleware)
}
