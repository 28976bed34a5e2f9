import { Hono } from 'hono'
import * as v from 'valibot'
import type { AppEnv } from '../http/context.ts'
import { doc, requireJson, valid } from '../http/openapi.ts'
import { requireService } from '../http/service-token.ts'
import { dispatchService } from './dispatch.ts'
import { Publication } from './schema.ts'

const tag = 'Events'

export const events = new Hono<AppEnv>().post(
  '/',
  doc({
    id: 'publishEvent',
    tag,
    summary: 'Publish an event',
    description:
      'The API stores the event, then delivers it to webhooks, listeners and streams, at least once each. Events on our ' +
      'channels must match the schema of their type. Channels that begin with `custom_` accept any type and data; only ' +
      'webhooks receive these events, unless you set `audience`. `counter_update` and `user_status_change` are hints: they ' +
      'have no `sequence`, and of several waiting ones about the same only the latest is delivered. Repeating a request ' +
      'with the same `id` changes nothing. ' +
      'Also takes a CloudEvent as SDKs send it in structured mode, with `channel` as an extension attribute. The API keeps ' +
      '`id`, `type`, `subject`, `data`, `channel` and `audience`, and ignores other attributes, such as `source` and ' +
      '`time`: the event gets the source of the API and the time of its publication. Works without Redis.',
    answer: v.pipe(
      v.object({ id: v.string() }),
      v.description('The event is stored. It is delivered after the answer.'),
    ),
    status: 202,
    problems: [
      'invalid-request',
      'malformed-json',
      'service-token-required',
      'unsupported-media-type',
      'event-id-reused',
    ],
  }),
  requireService('events:publish'),
  requireJson,
  valid('json', Publication),
  async (c) => c.json({ id: await c.var.platform.outbox.publish(c.req.valid('json')) }, 202),
)

export const listeners = new Hono<AppEnv>().post(
  '/:name/rebuild',
  doc({
    id: 'rebuildListener',
    tag,
    summary: 'Rebuild the data of a listener from D1',
    description: 'The queue does the work step by step after the answer. Works without Redis.',
    answer: v.pipe(v.object({ listener: v.string() }), v.description('The rebuild begins after the answer.')),
    status: 202,
    problems: ['invalid-request', 'service-token-required', 'not-found'],
  }),
  requireService('maintenance'),
  valid(
    'param',
    v.object({
      name: v.pipe(
        v.string(),
        v.regex(/^[a-z]{1,30}$/, 'must be the name of a listener'),
        v.description('The name of a listener.'),
      ),
    }),
  ),
  async (c) => {
    const { name } = c.req.valid('param')
    await c.var.use(dispatchService).beginRebuild(name)
    return c.json({ listener: name }, 202)
  },
)
