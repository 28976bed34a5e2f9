/**
 * `npm run bench -- --growth`: what each request, queue step and cron step costs as the database grows: time, D1 rows and
 * Redis commands. Each size is a new D1, a new Redis and a new isolate.
 */
import { readdir, statfs } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Filled, fill } from './fill.ts'
import { countsOf, median } from './measure.ts'
import { DOLLARS_PER_COMMAND, DOLLARS_PER_ROW_READ, DOLLARS_PER_ROW_WRITTEN } from './prices.ts'
import { type BilledEmulator, hasRedisServer, startBilledEmulator } from './redis.ts'
import { printTable } from './report.ts'
import { SERVICE_TOKEN } from './town.ts'
import { bundleSteps, type Contender, createDatabase, startEmulator, startWorkers } from './workers.ts'

/** Costs of one step: means, and the median of the time. */
export interface Figures {
  ms: number
  rowsRead: number
  rowsWritten: number
  /** Redis commands. With those in scripts, if there is a `redis-server`. */
  commands: number
  /** The SQL that read the most rows. */
  worst: string
}

export interface Growth {
  /** Whether `commands` contains those in scripts. */
  isBilled: boolean
  sizes: { wanted: number; rows: number; bytes: number; fillSeconds: number }[]
  /** By step, one entry for each size. */
  steps: { step: string; figures: Figures[] }[]
  /** What grew by more than the target, from the first size to the last. */
  grown: { step: string; figure: Counted; factor: number; worst: string }[]
}

/** What may grow, and from which difference it is more than noise. */
const COUNTED = { rowsRead: 10, rowsWritten: 3, commands: 3, ms: 10 } as const
type Counted = keyof typeof COUNTED
const FIGURES = Object.keys(COUNTED) as Counted[] // its own keys
const MAX_GROWTH = 1.5

/** Bytes on disk per row, with indexes: the database and the copy that is measured. */
const BYTES_PER_ROW = 2 * 600
/** Messages of a batch, as in wrangler.toml. */
const BATCH: Record<string, number> = { LIKES: 100, EVENTS: 100, DELIVERIES: 20 }
const READS = 5
const WRITES = 3
const LIKES = 100
/** Redis and D1 are idle when nothing has happened for this long. */
const IDLE_MS = 40

const VARIABLES = {
  BENCH_DETAILS: '1',
  MEMORY_SECONDS: '0',
  STATS_FLUSH_SECONDS: '0',
  ALLOW_PRIVATE_WEBHOOKS: 'true',
}

interface Ask {
  method?: string
  path: string
  token?: string
  body?: object
}

/** Measures all steps for 10⁴ rows and each power of ten up to `max`, or for `max` alone if it is less. */
export async function measureGrowth(max: number, progress: (text: string) => void): Promise<Growth> {
  const wantedSizes: number[] = []
  for (let size = Math.min(10_000, max); size <= max; size *= 10) wantedSizes.push(size)
  const { bavail, bsize } = await statfs(tmpdir())
  if (bavail * bsize < max * BYTES_PER_ROW) throw new Error(`${tmpdir()} has not enough space: try a smaller --max`)

  const isBilled = await hasRedisServer()
  const steps = await bundleSteps()
  const growth: Growth = { isBilled, sizes: [], steps: [], grown: [] }
  for (const wanted of wantedSizes) {
    progress(`Fill: ${wanted} rows`)
    const startedAt = performance.now()
    await using database = await createDatabase()
    const filled = fill(await sqliteFile(database.folder), wanted, Date.now(), showBar)
    const fillSeconds = Math.round((performance.now() - startedAt) / 1_000)
    growth.sizes.push({ wanted, rows: filled.rows, bytes: filled.bytes, fillSeconds })
    progress(`Measure: ${filled.rows} rows, ${(filled.bytes / 1e6).toFixed(0)} MB`)
    await using billedEmulator = isBilled ? await startBilledEmulator() : undefined
    await using otherEmulator = isBilled ? undefined : await startEmulator()
    const emulator = billedEmulator ?? otherEmulator
    if (!emulator) throw new Error('no emulator')
    await using receiver = await startReceiver()
    const worker = await startWorkers(steps, emulator, database.folder, 1, VARIABLES)
    try {
      const measured = await measureSize(worker, billedEmulator, filled, receiver.url)
      for (const [step, figures] of measured) {
        const known = growth.steps.find((other) => other.step === step)
        if (known) known.figures.push(figures)
        else growth.steps.push({ step, figures: [figures] })
      }
    } finally {
      await worker.close()
    }
  }
  for (const { step, figures } of growth.steps) {
    for (const figure of FIGURES) {
      const factor = growthOf(figures, figure)
      if (factor <= MAX_GROWTH) continue
      growth.grown.push({ step, figure, factor, worst: figures.at(-1)?.worst ?? '' })
    }
  }
  return growth
}

async function measureSize(
  worker: Contender,
  emulator: BilledEmulator | undefined,
  { famousUserId, likedPostIds, members }: Filled,
  receiverUrl: string,
): Promise<Map<string, Figures>> {
  const results = new Map<string, Figures>()
  const post = (n: number) => likedPostIds[n % likedPostIds.length] ?? ''
  const member = (n: number) => members[n % members.length] ?? { userId: '', token: '' }

  async function used() {
    const { commands, requests, calls, rowsRead, rowsWritten } = await countsOf(worker)
    return { commands: emulator ? await emulator.billed() : commands, requests, calls, rowsRead, rowsWritten }
  }
  /** What was used once nothing runs any more. */
  async function idle() {
    for (let last = await used(); ;) {
      await sleep(IDLE_MS)
      const now = await used()
      if (now.requests === last.requests && now.calls === last.calls) return now
      last = now
    }
  }

  async function answer({ method = 'GET', path, token, body }: Ask): Promise<unknown> {
    const response = await fetch(worker.url + path, {
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
    return text.startsWith('{') ? JSON.parse(text) : text
  }

  /** What was sent and is not delivered. `dueAt`: not before (ms, as `performance.now`). */
  let messages: { binding: string; body: unknown; dueAt: number }[] = []
  /** Takes what was sent since the last call; returns the statements of that time. */
  async function takeDetails() {
    const details = await worker.details()
    const now = performance.now()
    messages.push(
      ...details.messages.map(({ binding, body, delaySeconds }) => ({
        binding,
        body,
        dueAt: now + delaySeconds * 1_000,
      })),
    )
    return details.statements
  }

  /** Measures `work` some times, each after `before`. Figures are per time, and divided by `of` if it does several things. */
  async function measure(
    step: string,
    times: number,
    work: (n: number) => Promise<unknown>,
    { before, of = 1 }: { before?: () => Promise<unknown>; of?: number } = {},
  ): Promise<void> {
    const sums = { rowsRead: 0, rowsWritten: 0, commands: 0 }
    const ms: number[] = []
    let worst = ''
    let worstRows = 0
    for (let n = 0; n < times; n += 1) {
      await before?.()
      await idle()
      await takeDetails()
      const start = await used()
      const startedAt = performance.now()
      await work(n)
      ms.push((performance.now() - startedAt) / of)
      const end = await idle()
      for (const name of ['rowsRead', 'rowsWritten', 'commands'] as const) sums[name] += end[name] - start[name]
      for (const [sql, [, rowsRead]] of await takeDetails()) {
        if (rowsRead <= worstRows) continue
        worstRows = rowsRead
        worst = sql.replaceAll(/\s+/g, ' ').slice(0, 400)
      }
    }
    const mean = (name: keyof typeof sums) => sums[name] / times / of
    results.set(step, {
      ms: median(ms),
      rowsRead: mean('rowsRead'),
      rowsWritten: mean('rowsWritten'),
      commands: mean('commands'),
      worst,
    })
  }
  const flush = () => worker.control.flush()
  const read = (step: string, ask: Ask) => measure(step, READS, () => answer(ask), { before: flush })
  const write = (step: string, askOf: (n: number) => Ask, times = WRITES) =>
    measure(step, times, (n) => answer(askOf(n)))

  /** Delivers the messages that the steps before have sent, until there are none: one step for each queue. */
  async function deliver(after: string): Promise<void> {
    for (let round = 0; messages.length > 0; round += 1) {
      // A post with a million likes is removed in a hundred steps.
      if (round > 2_000) throw new Error(`${after} sends messages without end`)
      const dueAt = Math.min(...messages.map((message) => message.dueAt))
      await sleep(Math.max(0, dueAt - performance.now()))
      const due = messages.filter((message) => message.dueAt <= Math.max(dueAt, performance.now()))
      const [{ binding } = { binding: '' }] = due
      const batch = due.filter((message) => message.binding === binding).slice(0, BATCH[binding])
      messages = messages.filter((message) => !batch.includes(message))
      const name = `queue ${binding.toLowerCase()}, after ${after}`
      const bodies = batch.map(({ body }) => body)
      // Of several batches the first one is the largest.
      if (results.has(name)) await worker.deliver(binding.toLowerCase(), bodies)
      else await measure(name, 1, () => worker.deliver(binding.toLowerCase(), bodies))
      await idle()
      await takeDetails()
    }
  }

  // Compiles everything, and stores the scripts: Redis keeps them when it is flushed.
  const { token } = member(0)
  for (const path of [`/v1/users/${famousUserId}`, `/v1/posts/${post(0)}`, '/v1/posts/hot']) {
    await answer({ path, token })
  }
  await answer({
    method: 'POST',
    path: '/v1/webhooks',
    token: SERVICE_TOKEN,
    body: { url: receiverUrl, channels: ['post_events', 'user_events', 'custom_growth'] },
  })
  await deliver('the beginning')
  results.clear()

  const twenty = members.slice(20, 40).map(({ userId }) => userId)
  await read('profile', { path: `/v1/users/${famousUserId}` })
  await read('20 profiles', { path: `/v1/users?ids=${twenty.join(',')}` })
  await read('post, signed in', { path: `/v1/posts/${post(0)}`, token })
  await read('20 posts', { path: `/v1/posts?ids=${likedPostIds.slice(0, 20).join(',')}` })
  await read('hot feed', { path: '/v1/posts/hot' })
  await read('hot feed, signed in', { path: '/v1/posts/hot', token })
  await read('follow feed', { path: '/v1/feed', token })
  await read('posts of a user', { path: `/v1/users/${famousUserId}/posts` })
  await read('followers', { path: `/v1/users/${famousUserId}/followers` })
  await read('comments', { path: `/v1/posts/${post(0)}/comments` })
  await read('users online', { path: '/v1/presence' })
  await read('notifications', { path: '/v1/notifications', token })
  await read('recommendations', { path: '/v1/recommendations', token })
  await read('search, frequent word', { path: '/v1/search?q=cheese' })
  await read('search, rare word', { path: '/v1/search?q=word77x' })
  await read('search, users', { path: '/v1/search?q=nobody&type=users' })
  await read('statistics', { path: '/v1/stats', token: SERVICE_TOKEN })
  await read('sessions', { path: '/v1/sessions', token })
  await flush()

  const like = (n: number, method = 'PUT'): Ask => ({
    method,
    path: `/v1/posts/${post(n)}/like`,
    token: member(n + 1).token,
  })
  await write('heartbeat', (n) => ({ method: 'POST', path: '/v1/presence/heartbeat', token: member(n).token }))
  await write('view', (n) => ({ method: 'POST', path: `/v1/posts/${post(0)}/views`, token: member(n).token }))
  await write('like', (n) => ({ ...like(0), token: member(n + 150).token }))
  await deliver('3 likes of one post')
  await measure(
    `like, one of ${LIKES}`,
    1,
    async () => {
      for (let n = 0; n < LIKES; n += 1) await answer(like(n))
    },
    { of: LIKES },
  )
  await deliver(`${LIKES} likes`)
  await write('unlike', (n) => like(n, 'DELETE'))
  await deliver('3 unlikes')
  await write(
    'follow',
    (n) => ({
      method: 'PUT',
      path: `/v1/users/${famousUserId}/follow`,
      token: member(n + 200).token,
    }),
    1,
  )
  await deliver('a follow')
  const newPost = (n: number): Ask => ({
    method: 'POST',
    path: '/v1/posts',
    token: member(n).token,
    body: { text: `A new post about cheese, number ${n}` },
  })
  await write('write a post', (n) => newPost(250 + n))
  await deliver('3 posts')
  // Each follower has an inbox: more followers are more work, however large the database is.
  await write('write a post, many followers', newPost, 1)
  await deliver('a post for many followers')
  await write('write a comment', (n) => ({
    method: 'POST',
    path: `/v1/posts/${post(0)}/comments`,
    token: member(n).token,
    body: { text: 'A comment' },
  }))
  await deliver('3 comments')
  await write('publish an event', (n) => ({
    method: 'POST',
    path: '/v1/events',
    token: SERVICE_TOKEN,
    body: { id: `growth-${n}`, channel: 'custom_growth', type: 'grown', subject: 'growth', data: {} },
  }))
  await deliver('3 events')

  // Last of the requests, because the others use the post.
  await write('delete the most liked post', () => ({ method: 'DELETE', path: `/v1/posts/${post(0)}`, token }), 1)
  await deliver('a deleted post')

  // The cron finds the changes of a minute.
  for (let n = 0; n < LIKES; n += 1) await answer(like(n + 50, n % 2 === 0 ? 'PUT' : 'DELETE'))
  await idle()
  await takeDetails()
  const likesOnly = messages.filter(({ binding }) => binding === 'LIKES').map(({ body }) => body)
  for (let from = 0; from < likesOnly.length; from += 100)
    await worker.deliver('likes', likesOnly.slice(from, from + 100))
  const names = (await (await fetch(`${worker.url}/bench/steps`)).json()) as string[] // as steps.ts answers
  for (const name of names) {
    await measure(`cron: ${name}`, 1, async () => {
      const response = await fetch(`${worker.url}/bench/steps`, { method: 'POST', body: name })
      if (!response.ok) throw new Error(`cron: ${name}: ${response.status} ${await response.text()}`)
    })
  }
  return results
}

/** The largest SQLite file below a folder: D1's own. */
async function sqliteFile(folder: string): Promise<string> {
  const files = await readdir(folder, { recursive: true })
  const file = files.find((name) => /d1.*\.sqlite$/i.test(name) && !name.includes('metadata'))
  if (file === undefined) throw new Error(`There is no D1 in ${folder}`)
  return join(folder, file)
}

/** An endpoint that accepts every delivery, and answers the challenge. */
async function startReceiver(): Promise<AsyncDisposable & { url: string }> {
  const server = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8')
    request.on('data', (chunk: string) => (text += chunk))
    request.on('end', () => {
      const { challenge } = JSON.parse(text) as { challenge?: string }
      response.setHeader('content-type', 'application/json').end(JSON.stringify({ challenge }))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the receiver did not start')
  return {
    url: `http://127.0.0.1:${address.port}/`,
    [Symbol.asyncDispose]: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

function showBar(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001B[K${text}`)
}

/** By how much a figure grew from the first size to the last. 1: not, or by less than noise. */
function growthOf(figures: Figures[], name: Counted): number {
  const first = figures[0]?.[name] ?? 0
  const last = figures.at(-1)?.[name] ?? 0
  return last - first < COUNTED[name] ? 1 : last / Math.max(first, 1)
}

/** What a million of a step cost: commands of Redis, rows of D1. */
const dollarsPerMillion = ({ commands, rowsRead, rowsWritten }: Figures) =>
  1e6 * (commands * DOLLARS_PER_COMMAND + rowsRead * DOLLARS_PER_ROW_READ + rowsWritten * DOLLARS_PER_ROW_WRITTEN)

/** Prints the table, and what grows by more than the target. */
export function printGrowth({ isBilled, sizes, steps, grown }: Growth): void {
  printTable(
    ['size', 'rows', 'MB', 'filled in s'],
    sizes.map(({ wanted, rows, bytes, fillSeconds }) =>
      [wanted, rows, (bytes / 1e6).toFixed(0), fillSeconds].map(String),
    ),
  )
  console.log(`\nPer step and size${isBilled ? '' : ' (commands without those in scripts: there is no redis-server)'}`)
  // As docs/costs.md shows it.
  const line = (cells: string[]) => console.log(`| ${cells.join(' | ')} |`)
  const head = ['step', 'D1 rows read', 'D1 rows written', 'Redis commands', 'ms', '$ per million', 'grows']
  line(head)
  line(head.map(() => '---'))
  for (const { step, figures } of steps) {
    const shown = FIGURES.map((name) => {
      const values = figures.map((each) => each[name])
      const isSteady = Math.max(...values) - Math.min(...values) < COUNTED[name]
      return (isSteady ? values.slice(-1) : values).map((value) => value.toFixed(0)).join(' / ')
    })
    const dollars = [...new Set(figures.map((each) => dollarsPerMillion(each).toFixed(0)))].join(' / ')
    line([step, ...shown, dollars, grown.flatMap((each) => (each.step === step ? each.figure : [])).join(', ')])
  }
  console.log(`\nGrows by more than ${MAX_GROWTH} ×, from ${sizes[0]?.rows} to ${sizes.at(-1)?.rows} rows`)
  for (const { step, figure, factor, worst } of grown) {
    console.log(`- ${step}: ${figure} × ${factor.toFixed(1)}. Most rows: ${worst}`)
  }
}
