/**
 * `npm run backup -- --to FOLDER`: writes a backup of D1 and of what only Redis has into a folder, from a running Worker.
 * If it was interrupted, the same command continues it: files that are complete and undamaged are kept.
 *
 *   --url http://localhost:8787   the Worker. It needs the service token: SERVICE_TOKEN, else .dev.vars, else it asks
 *   --daily 2026-11-28            copies that day's backup from the R2 bucket instead
 *   --rows 2000                   rows of a file, at most
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  continueBackup,
  type Manifest,
  MANIFEST,
  type Page,
  type Part,
  sha256,
  type Source,
  type Store,
} from '../src/backup/archive.ts'
import { Obstacle, run } from './environment.ts'
import { readFlags, readNumber } from './flags.ts'
import { connectService, type Service } from './service.ts'

const flags = readFlags({
  to: { type: 'string', default: '' },
  url: { type: 'string', default: 'http://localhost:8787' },
  daily: { type: 'string', default: '' },
  rows: { type: 'string', default: '2000' },
})
const rows = readNumber('rows', flags.rows, { min: 1, max: 5_000 })

await run(async () => {
  if (flags.to === '') throw new Obstacle('Say where the backup goes: --to FOLDER')
  const service = await connectService(flags.url)
  await mkdir(flags.to, { recursive: true })
  const store = openFolder(flags.to)
  const manifest = flags.daily === '' ? await backUp(service, store) : await copyDaily(service, store, flags.daily)
  const total = manifest.parts.reduce((sum, part) => sum + part.rows, 0)
  console.log(`${flags.to} is complete: ${total} rows in ${manifest.parts.length} files`)
})

function backUp(service: Service, store: Store): Promise<Manifest> {
  const source: Source = {
    begin: async () => (await service<{ tables: string[] }>('POST', '/v1/backup')).tables,
    read: (table, after) =>
      service<Page>('GET', `/v1/backup/${table}?limit=${rows}${after === undefined ? '' : `&after=${after}`}`),
  }
  const done = new Map<string, number>()
  const onPage = (table: string, rows: number) => {
    done.set(table, (done.get(table) ?? 0) + rows)
    console.log(`${table}: ${done.get(table)} rows`)
  }
  return continueBackup(source, store, { maxParts: Infinity, saveEveryMs: 1_000, onPage })
}

/** Copies a daily backup. It is complete when its manifest is written. */
async function copyDaily(service: Service, store: Store, date: string): Promise<Manifest> {
  const manifest = await service<Manifest>('GET', `/v1/backup/${date}/${MANIFEST}`)
  if (manifest.completedAt === null) throw new Obstacle(`The backup of ${date} is not complete yet`)
  for (const part of manifest.parts) {
    if (await store.hasPart(part)) continue
    const bytes = await service.bytes(`/v1/backup/${date}/${part.file}`)
    if ((await sha256(bytes)) !== part.sha256) throw new Obstacle(`${part.file} is damaged: its checksum is wrong`)
    await store.writePart(part, bytes)
    console.log(part.file)
  }
  await store.writeManifest(manifest)
  return manifest
}

/** A folder as the store of a backup. A file is written under another name first, so that none is incomplete. */
function openFolder(folder: string): Store {
  const write = async (name: string, data: string | Uint8Array) => {
    await writeFile(join(folder, `${name}.part`), data, { mode: 0o600 })
    await rename(join(folder, `${name}.part`), join(folder, name))
  }
  return {
    readManifest: async () => {
      const text = await readFile(join(folder, MANIFEST), 'utf8').catch(() => undefined)
      return text === undefined ? undefined : (JSON.parse(text) as Manifest) // as `writeManifest` wrote it
    },
    writeManifest: (manifest) => write(MANIFEST, JSON.stringify(manifest, null, 1)),
    writePart: (part, bytes) => write(part.file, bytes),
    hasPart: async (part: Part) => {
      const bytes = await readFile(join(folder, part.file)).catch(() => undefined)
      return bytes !== undefined && (await sha256(new Uint8Array(bytes))) === part.sha256
    },
  }
}
