import { Hono } from 'hono'
import { nextLink } from '../http/caching.ts'
import type { AppEnv } from '../http/context.ts'
import { pageQuery, pageSchema } from '../http/input.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { requireService } from '../http/service-token.ts'
import { IssuedServiceToken, NewServiceToken, RotationRequest, ServiceToken, ServiceTokenId } from './schema.ts'
import { serviceTokensService } from './service-tokens.ts'

const tag = 'Service tokens'

export const serviceTokens = new Hono<AppEnv>()
  .post(
    '/',
    doc({
      id: 'createServiceToken',
      tag,
      summary: 'Create a service token',
      description:
        'For one back end, with the scopes it needs. D1 keeps a hash: no later answer has the token. If this answer was lost, ' +
        'repeating the request answers 409; then rotate the token. Works without Redis.',
      answer: IssuedServiceToken,
      status: 201,
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'service-token-required', 'taken'],
    }),
    requireService('root'),
    requireJson,
    valid('json', NewServiceToken),
    async (c) => {
      const created = await c.var.use(serviceTokensService).create(c.req.valid('json'))
      c.header('Cache-Control', 'no-store')
      return c.json(created, 201)
    },
  )
  .get(
    '/',
    doc({
      id: 'listServiceTokens',
      tag,
      summary: 'List service tokens',
      description: 'Newest first, without `SERVICE_TOKEN`. Works without Redis.',
      answer: pageSchema(ServiceToken),
      problems: ['invalid-request', 'service-token-required'],
    }),
    requireService('root'),
    valid('query', pageQuery('st')),
    async (c) => {
      const { limit, cursor } = c.req.valid('query')
      const page = await c.var.use(serviceTokensService).list(limit, cursor)
      c.header('Link', nextLink(c, page))
      c.header('Cache-Control', 'no-store')
      return c.json(page)
    },
  )
  .post(
    '/:id/rotate',
    doc({
      id: 'rotateServiceToken',
      tag,
      summary: 'Rotate a service token',
      description:
        'Answers a token with a new secret. The previous one works for `overlapSeconds` more (a day), so that you can replace it ' +
        'without downtime. Works without Redis.',
      answer: IssuedServiceToken,
      problems: ['invalid-request', 'malformed-json', 'unsupported-media-type', 'service-token-required', 'not-found'],
    }),
    requireService('root'),
    valid('param', ServiceTokenId),
    requireJson,
    valid('json', RotationRequest),
    async (c) => {
      const { overlapSeconds } = c.req.valid('json')
      c.header('Cache-Control', 'no-store')
      const { id } = c.req.valid('param')
      return c.json(await c.var.use(serviceTokensService).rotate(id, overlapSeconds * 1_000))
    },
  )
  .delete(
    '/:id',
    doc({
      id: 'revokeServiceToken',
      tag,
      summary: 'Revoke a service token',
      description:
        'It stops working within `SERVICE_TOKEN_SECONDS` (30 s) everywhere. While D1 does not answer, isolates that know the ' +
        'token accept it for up to ten minutes. Its streams end with their next check (60 s). Works without Redis.',
      status: 204,
      problems: ['invalid-request', 'service-token-required', 'not-found'],
    }),
    requireService('root'),
    valid('param', ServiceTokenId),
    async (c) => {
      await c.var.use(serviceTokensService).revoke(c.req.valid('param').id)
      return c.body(null, 204)
    },
  )
