/**
 * `npm run costs`: Redis commands of each kind of request, for docs/costs.md. It runs the deployed bundle,
 * the demo data, and a new `redis-server` from the PATH, whose `INFO commandstats` also counts what scripts call.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { DEMO_PASSWORD } from '../scripts/demo/data.ts'
import { readFlags } from '../scripts/flags.ts'
import { settle } from './measure.ts'
import { DOLLARS_PER_COMMAND } from './prices.ts'
import { startBilledEmulator } from './redis.ts'
import { createTown, SERVICE_TOKEN } from './town.ts'
import { bundle, type Contender, prepareDatabase, startWorkers } from './workers.ts'

/** A request is done when Redis has had no command for this long. The queue waits longer. */
const QUIET_MS = 120

interface Ask {
  method?: string
  path: string
  /** Session token of the caller, if any. */
  token?: string
  body?: object
  /** Index of the isolate that answers. Each has its own memory. */
  isolate?: number
}

readFlags({}) // refuses any flag: this script has none
await using emulator = await startBilledEmulator()
const town = createTown()
await using prepared = await prepareDatabase(town)
const DAY = '86400'
const variables = {
  // Periodic commands would count for the request at hand: reports, the scan of all keys, new windows of limits.
  STATS_FLUSH_SECONDS: '0',
  SCAN_COMMANDS: '0',
  LIMIT_READS_SECONDS: DAY,
  LIMIT_WRITES_SECONDS: DAY,
  LIMIT_SIGN_IN_SECONDS: DAY,
  LIMIT_SIGN_IN_ACCOUNT_SECONDS: DAY,
}
const worker = await startWorkers(await bundle('ours'), emulator, prepared.folder, 2, variables)
try {
  await main(worker)
} finally {
  await worker.close()
}

async function main(worker: Contender): Promise<void> {
  const { urls, control } = worker
  const { users, posts } = town.demo
  const user = (n: number) => users[n]?.id ?? ''
  const post = (n: number) => posts.at(-1 - n)?.id ?? ''
  const token = (n: number) => town.tokenOf(n)
  const twenty = (of: (n: number) => string) => Array.from({ length: 20 }, (_, i) => of(50 + i)).join(',')

  /** Commands so far: `sent` is what the emulator counts, `billed` what Redis counts. */
  async function counts(): Promise<{ sent: number; billed: number }> {
    const [{ commands }, billed] = await Promise.all([control.counts(), emulator.billed()])
    return { sent: commands, billed }
  }

  /** The counts once Redis is idle. */
  async function quiet() {
    for (let last = await counts(); ;) {
      await sleep(QUIET_MS)
      const now = await counts()
      if (now.billed === last.billed) return now
      last = now
    }
  }

  async function answer({ method = 'GET', path, token, body, isolate = 0 }: Ask): Promise<unknown> {
    const response = await fetch(`${urls[isolate]}${path}`, {
      method,
      headers: {
        'cf-connecting-ip': '10.0.0.1',
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return text === '' ? null : JSON.parse(text)
  }

  const rows: string[][] = []
  const cost = (request: string, ask: Ask) => costOf(request, () => answer(ask))
  /** Counts the commands of `work`, and those that follow from it. Nothing else runs meanwhile. */
  async function costOf(request: string, work: () => Promise<unknown>): Promise<void> {
    const before = await quiet()
    await work()
    const answered = await quiet()
    await settle(worker, 0)
    const after = await quiet()
    const billed = answered.billed - before.billed
    const later = after.billed - answered.billed
    const dollars = (billed + later) * DOLLARS_PER_COMMAND * 1_000_000
    rows.push([request, String(answered.sent - before.sent), String(billed), String(later), `$${dollars.toFixed(0)}`])
  }

  // Not counted: the first request of a window costs one more, and the first request with a token reads D1.
  for (const isolate of [0, 1]) {
    await answer({ path: `/v1/users/${user(199)}`, isolate })
    for (const n of [1, 2]) {
      for (const path of [`/v1/posts/${post(200)}`, `/v1/sessions`]) await answer({ path, token: token(n), isolate })
      await answer({ method: 'POST', path: '/v1/presence/heartbeat', token: token(n), isolate })
      await answer({ method: 'PUT', path: `/v1/posts/${post(201)}/like`, token: token(n), isolate })
      await answer({ method: 'POST', path: `/v1/posts/${post(201)}/views`, token: token(n), isolate })
    }
  }
  await answer({ method: 'POST', path: '/v1/posts', token: token(1), body: { text: 'The first' } })
  await answer({
    method: 'POST',
    path: `/v1/posts/${post(202)}/comments`,
    token: token(1),
    body: { text: 'The first' },
  })
  const stranger = 150
  await answer({ method: 'PUT', path: `/v1/users/${user(stranger)}/follow`, token: token(1) })
  await answer({ method: 'POST', path: '/v1/sessions', body: { login: users[3]?.username, password: DEMO_PASSWORD } })
  await settle(worker, 0)

  const profile = `/v1/users/${user(20)}`
  await cost('profile from D1, then cached', { path: profile })
  await cost('profile from Redis', { path: profile, isolate: 1 })
  await cost('profile from memory', { path: profile })
  await answer({ path: `/v1/users?ids=${twenty(user)}` })
  await cost('20 profiles from memory', { path: `/v1/users?ids=${twenty(user)}` })
  const unknown = (kind: 'u' | 'p') => Array.from({ length: 100 }, (_, i) => `${kind}_unknown${i}`).join()
  await cost('100 unknown profiles', { path: `/v1/users?ids=${unknown('u')}` })
  await cost('100 unknown posts', { path: `/v1/posts?ids=${unknown('p')}` })
  const one = `/v1/posts/${post(20)}`
  await cost('post from D1, then cached', { path: one })
  await cost('post from Redis', { path: one, isolate: 1 })
  await cost('post from memory (counts: Redis)', { path: one })
  await answer({ path: one, token: token(1) })
  await cost('post from memory, signed in', { path: one, token: token(1) })
  await answer({ path: `/v1/posts?ids=${twenty(post)}` })
  await cost('20 posts from memory', { path: `/v1/posts?ids=${twenty(post)}` })
  await cost('hot feed, nothing of it in Redis', { path: '/v1/posts/hot' })
  await cost('hot feed from Redis', { path: '/v1/posts/hot', isolate: 1 })
  await cost('hot feed from memory', { path: '/v1/posts/hot' })
  await answer({ path: '/v1/posts/hot', token: token(1) })
  await cost('hot feed from memory, signed in', { path: '/v1/posts/hot', token: token(1) })
  await answer({ path: '/v1/feed', token: token(1) })
  await cost('follow feed', { path: '/v1/feed', token: token(1) })
  await answer({ path: `${one}/comments` })
  await cost('comments of a post', { path: `${one}/comments` })
  await cost('users online', { path: '/v1/presence' })
  await answer({ path: '/v1/notifications', token: token(1) })
  await cost('notifications', { path: '/v1/notifications', token: token(1) })
  await answer({ path: '/v1/recommendations', token: token(1) })
  await cost('recommendations', { path: '/v1/recommendations', token: token(1) })
  await cost('search (D1)', { path: '/v1/search?q=cheese' })
  await cost('heartbeat', { method: 'POST', path: '/v1/presence/heartbeat', token: token(1) })
  await cost('sign in', {
    method: 'POST',
    path: '/v1/sessions',
    body: { login: users[3]?.username, password: DEMO_PASSWORD },
  })
  await cost('write a post', { method: 'POST', path: '/v1/posts', token: token(1), body: { text: 'Another' } })
  await cost('write a comment', { method: 'POST', path: `${one}/comments`, token: token(1), body: { text: 'Indeed' } })
  await cost('follow', { method: 'PUT', path: `/v1/users/${user(stranger + 1)}/follow`, token: token(1) })
  await cost('like', { method: 'PUT', path: `${one}/like`, token: token(1) })
  await cost('unlike', { method: 'DELETE', path: `${one}/like`, token: token(1) })
  await cost('like again', { method: 'PUT', path: `/v1/posts/${post(201)}/like`, token: token(1) })
  await cost('view', { method: 'POST', path: `${one}/views`, token: token(1) })
  await cost('publish an event', {
    method: 'POST',
    path: '/v1/events',
    token: SERVICE_TOKEN,
    body: { id: 'costs-1', channel: 'custom_costs', type: 'costs_measured', subject: 'costs', data: {} },
  })

  // An hour from now nothing is left to reconcile, and nobody is online.
  const minute = (n: number) => new Date(Date.now() + 3_600_000 + n * 60_000)
  for (let n = 0; n < 3; n += 1) await worker.cron(minute(n))
  await settle(worker, 0)
  await costOf('a minute with nothing to do', () => worker.cron(minute(3)))

  const header = ['request', 'sent', 'billed', 'afterwards', 'per million']
  for (const row of [header, header.map(() => '---'), ...rows]) console.log(`| ${row.join(' | ')} |`)
}
