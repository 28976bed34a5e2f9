import * as v from 'valibot'
import { Time } from '../http/input.ts'
import { Tenant } from '../webhooks/schema.ts'

/** A sign-in: with a service token, or with the token of a portal link. */
export const SignIn = v.pipe(
  v.strictObject({
    token: v.optional(v.pipe(v.string(), v.maxLength(1_000))),
    link: v.optional(v.pipe(v.string(), v.maxLength(2_000))),
  }),
  v.forward(
    v.check(({ token, link }) => (token === undefined) !== (link === undefined), 'is required, or link instead of it'),
    ['token'],
  ),
)

/** The longest life of a link, and of the sessions that it begins. */
export const MAX_LINK_SECONDS = 86_400

export const NewPortalLink = v.strictObject({
  tenant: v.pipe(Tenant, v.description('Whose endpoints the link shows.')),
  expiresInSeconds: v.pipe(
    v.optional(
      v.pipe(
        v.number(),
        v.integer(),
        v.minValue(60, 'must be at least 60'),
        v.maxValue(MAX_LINK_SECONDS, `must be at most ${MAX_LINK_SECONDS}`),
      ),
      3_600,
    ),
    v.description('How long the link works, and the sessions that it begins.'),
  ),
})

export const PortalLink = v.pipe(
  v.object({
    url: v.pipe(v.string(), v.description('The page. Its fragment has the token, which no server logs.')),
    expiresAt: v.pipe(Time, v.description('When the link and its sessions end.')),
  }),
  v.description('The link. Whoever has it may use it.'),
)
