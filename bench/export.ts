/**
 * `npm run bench -- --export`: the duration of an export of an account with `--export-rows` rows, and the heap of its isolate
 * meanwhile, read through V8's inspector.
 */
import { createSessionTokens } from '../src/sessions/token.ts'
import { openInspector } from './inspector.ts'
import { SERVICE_TOKEN } from './town.ts'
import { bundle, createDatabase, startEmulator, startWorkers } from './workers.ts'

const [USER_ID, SESSION_ID] = ['u_exported', 's_exported']
/** How often the heap is read while the export runs. */
const READ_EVERY_CHUNKS = 3

export interface ExportFigures {
  rows: number
  ms: number
  bytes: number
  /** Used bytes of the heap, garbage included: before the export, the most while it ran, and after it. */
  heap: { before: number; most: number; after: number }
}

export async function measureExport(rows: number): Promise<ExportFigures> {
  const { token, claims } = createSessionTokens(SERVICE_TOKEN).issue(USER_ID, SESSION_ID)
  const now = Date.now()
  await using prepared = await createDatabase(async (database) => {
    const numbers = `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${Math.ceil(rows / 2)})`
    await database.batch([
      database.prepare(
        `INSERT INTO users (id, username, email, password_hash, display_name, created_at, updated_at)
        VALUES ('${USER_ID}', 'exported', 'exported@example.test', '-', 'Exported', ${now}, ${now})`,
      ),
      database.prepare(
        `INSERT INTO sessions (id, user_id, secret_hash, epoch, user_agent, created_at, last_seen_at, expires_at)
        VALUES ('${SESSION_ID}', '${USER_ID}', '${claims.hash}', 0, 'bench', ${now}, ${now}, ${now + 86_400_000})`,
      ),
      database.prepare(
        `${numbers} INSERT INTO posts (id, author_id, text, created_at, updated_at)
        SELECT printf('p_%08d', i), '${USER_ID}', 'A post of some length, as people write them', i, i FROM n`,
      ),
      database.prepare(
        `INSERT INTO post_likes (post_id, user_id, is_liked, changed_at) SELECT id, '${USER_ID}', true, 1 FROM posts`,
      ),
    ])
  })
  await using emulator = await startEmulator()
  const worker = await startWorkers(await bundle('ours'), emulator, prepared.folder, 1, { BENCH_INSPECTOR: '1' })
  try {
    const inspector = await openInspector(await worker.inspectorUrl())
    const headers = { authorization: `Bearer ${token}` }
    await (await fetch(`${worker.url}/v1/sessions`, { headers })).text()
    const before = await usedHeap(inspector)
    let [most, bytes, chunks, lines] = [0, 0, 0, 0]
    let readingMs = 0
    const startedAt = performance.now()
    const response = await fetch(`${worker.url}/v1/users/me/export`, { headers })
    if (!response.body) throw new Error(`the export answered ${response.status}`)
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      bytes += chunk.byteLength
      for (const byte of chunk) if (byte === 10) lines += 1
      chunks += 1
      if (chunks % READ_EVERY_CHUNKS !== 0) continue
      const readingAt = performance.now()
      most = Math.max(most, await usedHeap(inspector))
      readingMs += performance.now() - readingAt
    }
    const ms = Math.round(performance.now() - startedAt - readingMs)
    return { rows: lines, ms, bytes, heap: { before, most, after: await usedHeap(inspector) } }
  } finally {
    await worker.close()
  }
}

/** Used bytes of the heap, with garbage that V8 has not collected. */
const usedHeap = async (inspector: Awaited<ReturnType<typeof openInspector>>) =>
  (await inspector.call<{ usedSize: number }>('Runtime.getHeapUsage')).usedSize

export function printExport({ rows, ms, bytes, heap }: ExportFigures): void {
  const mb = (value: number) => `${(value / 1e6).toFixed(1)} MB`
  console.log(`Export of ${rows} lines, ${mb(bytes)}: ${(ms / 1_000).toFixed(1)} s.`)
  console.log(`Heap of the isolate: ${mb(heap.before)} before, at most ${mb(heap.most)}, ${mb(heap.after)} after.`)
}
