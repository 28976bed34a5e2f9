import { env } from 'cloudflare:workers'
import parse from 'parse-prometheus-text-format'
import { beforeAll, expect, test } from 'vitest'
import { formatFor, render } from '../../src/monitoring/open-metrics.ts'
import { type Edge, migrate, newEdge } from '../edge.ts'
import { addUser } from '../rows.ts'

beforeAll(migrate)

const service = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }

/** The formats that Prometheus 3 asks for. */
const OPEN =
  'application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.2,*/*;q=0.1'

async function scrape(edge: Edge, accept = OPEN) {
  const response = await edge.fetch('/metrics', { headers: { ...service, Accept: accept } })
  expect(response.status).toBe(200)
  return { text: new TextDecoder().decode(await response.arrayBuffer()), headers: response.headers }
}

/** The value of a sample, by its whole name. */
const valueOf = (text: string, sample: string) => {
  const line = text.split('\n').find((each) => each.startsWith(`${sample} `))
  return line === undefined ? undefined : Number(line.slice(sample.length + 1))
}

/** What is wrong with `text` by the rules of OpenMetrics 1.0 that a parser for Prometheus does not mind. */
function violations(text: string): string[] {
  const wrong: string[] = []
  const seen = new Set<string>()
  const samples = new Set<string>()
  let family = { name: '', type: '' }
  const lines = text.split('\n')
  if (lines.at(-1) !== '' || lines.at(-2) !== '# EOF') wrong.push('it does not end with # EOF and a line feed')
  for (const line of lines.slice(0, -2)) {
    const [, keyword, name = '', rest = ''] = /^# (TYPE|HELP) ([a-z_]+) (.+)$/.exec(line) ?? []
    if (keyword === 'TYPE') {
      if (seen.has(name)) wrong.push(`the family ${name} comes twice`)
      if (/_(total|count|sum|bucket)$/.test(name)) wrong.push(`${name} ends like a sample`)
      seen.add(name)
      family = { name, type: rest }
    } else if (keyword === 'HELP') {
      if (name !== family.name) wrong.push(`the help of ${name} is in ${family.name}`)
    } else {
      const [, sample = '', labels = '', value = ''] =
        /^([a-z_]+)(\{(?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)*\})? (-?\d+(?:\.\d+)?(?:e-?\d+)?)$/.exec(line) ?? []
      const suffixes = { counter: ['_total'], gauge: [''], histogram: ['_bucket', '_count', '_sum'] }
      const allowed = suffixes[family.type as keyof typeof suffixes] ?? []
      if (!allowed.some((suffix) => sample === family.name + suffix)) wrong.push(`${line} is not of ${family.name}`)
      if (samples.has(sample + labels)) wrong.push(`${sample}${labels} comes twice`)
      if (family.type !== 'gauge' && Number(value) < 0) wrong.push(`${line} is negative`)
      samples.add(sample + labels)
    }
  }
  return wrong
}

test('a Prometheus parser accepts the metrics, and they contain what happened', async () => {
  const edge = newEdge()
  const user = await addUser()
  for (let i = 0; i < 3; i += 1) {
    await edge.fetch(`/v1/users/${user.id}`)
    await edge.settle()
  }
  await edge.fetch('/v1/users/x')
  await edge.settle()
  const { text, headers } = await scrape(edge)
  expect(headers.get('Content-Type')).toBe('application/openmetrics-text; version=1.0.0; charset=utf-8')
  expect(headers.get('Cache-Control')).toBe('no-store')
  expect(violations(text)).toEqual([])

  const families = new Map(parse(text).map((family) => [family.name, family]))
  expect(families.get('threads_request_duration_seconds')).toMatchObject({ type: 'HISTOGRAM' })
  expect(families.get('threads_redis_keys')).toMatchObject({ type: 'GAUGE' })
  expect(valueOf(text, 'threads_answers_total{route="GET /v1/users/:id",status="2xx"}')).toBe(3)
  expect(valueOf(text, 'threads_answers_total{route="GET /v1/users/:id",status="4xx"}')).toBe(1)
  expect(valueOf(text, 'threads_cache_lookups_total{cache="user",layer="memory",outcome="hit"}')).toBe(2)
  expect(valueOf(text, 'threads_dependency_up{dependency="redis"}')).toBe(1)
  expect(valueOf(text, 'threads_request_duration_seconds_count{route="GET /v1/users/:id"}')).toBe(4)
  const buckets = text
    .split('\n')
    .filter((line) => line.startsWith('threads_request_duration_seconds_bucket{route="GET /v1/users/:id"'))
  const counts = buckets.map((line) => Number(line.split(' ').at(-1)))
  expect(counts).toEqual(counts.toSorted((a, b) => a - b))
  expect(counts.at(-1)).toBe(4)
  expect(buckets.at(-1)).toContain('le="+Inf"')
  expect(buckets.some((line) => line.includes('le="2.0"'))).toBe(true)
  expect(text).not.toContain(user.id)
})

test.each([
  '*/*',
  '',
  'text/plain',
  'text/html, application/xml;q=0.9',
  'application/openmetrics-text;q=0, text/plain',
  'application/openmetrics-text; q=0.5, text/plain; q=0.9',
])('with Accept: %s the metrics are in the text format of Prometheus 0.0.4', async (accept) => {
  const edge = newEdge()
  await edge.fetch('/v1/posts/hot')
  await edge.settle()
  const { text, headers } = await scrape(edge, accept)
  expect(headers.get('Content-Type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  expect(headers.get('Vary')).toContain('Accept')
  expect(text).not.toContain('# EOF')
  const families = new Map(parse(text).map((family) => [family.name, family]))
  expect(families.get('threads_answers_total')).toMatchObject({ type: 'COUNTER', help: expect.any(String) })
  expect(families.has('threads_answers')).toBe(false)
  expect(valueOf(text, 'threads_answers_total{route="GET /v1/posts/hot",status="2xx"}')).toBe(1)
})

test('counters never decrease, whichever isolate answers', async () => {
  const busy = newEdge({ STATS_FLUSH_SECONDS: '0.05' })
  await busy.fetch('/v1/posts/hot')
  await busy.settle()
  await busy.fetch('/v1/posts/hot') // not reported yet
  const sample = 'threads_answers_total{route="GET /v1/posts/hot",status="2xx"}'
  const bySelf = valueOf((await scrape(busy)).text, sample) ?? 0
  const byOther = valueOf((await scrape(newEdge({ STATS_FLUSH_SECONDS: '25' }, busy.token))).text, sample) ?? 0
  expect(bySelf).toBeGreaterThan(0)
  expect(byOther).toBeGreaterThanOrEqual(bySelf)
  await busy.settle()
  await busy.cron() // folds
  expect(valueOf((await scrape(busy)).text, sample)).toBe(2)
})

test('without Redis only gauges are exposed: decreasing counters would look like a restart', async () => {
  const edge = newEdge()
  await edge.fetch('/v1/posts/hot')
  await edge.settle()
  await edge.redis.fault({ kind: 'refuse' })
  const { text } = await scrape(edge)
  expect(violations(text)).toEqual([])
  expect(valueOf(text, 'threads_dependency_up{dependency="redis"}')).toBe(0)
  expect(valueOf(text, 'threads_dependency_up{dependency="d1"}')).toBe(1)
  expect(text).not.toContain('_total')
  expect(text).not.toContain('threads_redis_keys')
})

test('a scrape is one round trip', async () => {
  const edge = newEdge()
  await scrape(edge)
  await edge.settle()
  expect(await edge.redis.counts()).toMatchObject({ requests: 1, commands: 6 })
})

test('figures of events and webhooks become metrics; labels are escaped and unknown values left out', async () => {
  const webhook = { host: 'a.test', isEnabled: true, succeeded: 3, failed: 1, pending: 2, dead: 1 }
  const webhooks = [
    { ...webhook, id: 'wh_"a\\b\n', successRate: 0.75 },
    { ...webhook, id: 'wh_2', successRate: null },
  ]
  const stats = { ...EMPTY, outbox: { pending: 4, oldestAgeSeconds: 1.5 }, webhooks }
  const text = render(formatFor(OPEN), { figures: stats, totals: undefined })
  expect(violations(text)).toEqual([])
  expect(valueOf(text, 'threads_outbox_lag_seconds')).toBe(1.5)
  expect(valueOf(text, 'threads_webhook_success_ratio{webhook="wh_\\"a\\\\b\\n"}')).toBe(0.75)
  expect(text).not.toContain('threads_webhook_success_ratio{webhook="wh_2"}')
  expect(text).not.toContain('null')
})

type Figures = Parameters<typeof render>[1]['figures']

/** Figures of which the metrics that are tested with them need little. */
const EMPTY = {
  dependencies: { redis: { isUp: true, ms: 1, breaker: 'closed' }, d1: { isUp: true, ms: 1 } },
  server: null,
  presence: null,
  queues: null,
  outbox: null,
  webhooks: null,
  jobs: [],
} as unknown as Figures
