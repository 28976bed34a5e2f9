import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { type Manifest, unpack } from '../../src/backup/archive.ts'
import { writeDailyBackup } from '../../src/backup/daily.ts'
import { migrate, newEdge } from '../edge.ts'
import { addUser } from '../rows.ts'
import { SERVICE, sourceOf } from './world.ts'

const bucket = env.TEST_BACKUPS
const day = (name: string) => Date.parse(`${name}T12:00:00Z`)
const readManifest = async (name: string) => (await bucket.get(`${name}/manifest.json`))?.json<Manifest>()
const readKeys = async () => (await bucket.list()).objects.map(({ key }) => key)
const readDays = async () =>
  (await bucket.list({ delimiter: '/' })).delimitedPrefixes.map((prefix) => prefix.slice(0, -1))

beforeAll(migrate)
beforeEach(async () => {
  const keys = await readKeys()
  if (keys.length > 0) await bucket.delete(keys)
})

test('the cron writes one backup per day, which the API answers file by file', async () => {
  const edge = newEdge({ BACKUPS: bucket })
  await addUser()
  await edge.cron(day('2026-03-01'))
  const manifest = await readManifest('2026-03-01')
  expect(manifest?.completedAt).not.toBe(null)
  const written = await readKeys()
  await addUser()
  await edge.cron(day('2026-03-01') + 60_000)
  expect(await readManifest('2026-03-01')).toEqual(manifest)
  expect(await readKeys()).toEqual(written)

  const read = (file: string) => edge.fetch(`/v1/backup/2026-03-01/${file}`, { headers: SERVICE })
  expect(await (await read('manifest.json')).json()).toEqual(manifest)
  for (const part of manifest?.parts ?? []) {
    const bytes = new Uint8Array(await (await read(part.file)).arrayBuffer())
    expect((await unpack(part, bytes)).rows).toHaveLength(part.rows)
  }
  await edge.cron(day('2026-03-02'))
  expect(await readDays()).toEqual(['2026-03-01', '2026-03-02'])
})

test('without a bucket the cron writes no backup', async () => {
  await newEdge().cron(day('2026-03-03'))
  expect(await readKeys()).toEqual([])
})

test('a large backup takes several minutes of the cron, which continue each other', async () => {
  const edge = newEdge()
  for (let i = 0; i < 5; i += 1) await addUser()
  const source = sourceOf(edge, 1)
  const run = () => writeDailyBackup(source, bucket, day('2026-03-04'), { maxParts: 2 })
  await run()
  expect(await readManifest('2026-03-04')).toMatchObject({ completedAt: null, parts: [{}, {}] })
  for (let minute = 0; minute < 30 && !(await readManifest('2026-03-04'))?.completedAt; minute += 1) await run()
  const parts = (await readManifest('2026-03-04'))?.parts ?? []
  expect(parts.length).toBeGreaterThanOrEqual(5)
  const reads = source.reads.filter((read) => read.startsWith('users'))
  expect(new Set(reads).size).toBe(reads.length) // each page once
})

test('the thirty latest complete backups are kept, and nothing else', async () => {
  const edge = newEdge({ BACKUPS: bucket })
  const days = Array.from({ length: 33 }, (_, i) =>
    new Date(day('2026-04-01') + i * 86_400_000).toISOString().slice(0, 10),
  )
  for (const name of days) {
    const isIncomplete = name === '2026-04-20'
    await bucket.put(`${name}/users-0.jsonl.gz`, 'rows')
    await bucket.put(`${name}/manifest.json`, JSON.stringify({ parts: [], completedAt: isIncomplete ? null : name }))
  }
  await bucket.put('others/file', 'kept')
  await edge.cron(day('2026-05-04'))
  const kept = [...days.slice(3).filter((name) => name !== '2026-04-20'), '2026-05-04']
  expect(kept).toHaveLength(30)
  expect(await readDays()).toEqual([...kept, 'others'])
})
