/**
 * `npm run restore -- --from FOLDER --url URL`: restores a backup into an environment whose database is empty, then rebuilds
 * the search index and everything else that derives from it. After an interruption, run the same command again.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Manifest, MANIFEST, unpack } from '../src/backup/archive.ts'
import { Obstacle, run } from './environment.ts'
import { readFlags } from './flags.ts'
import { BodyTooLarge, connectService } from './service.ts'

/** D1 accepts values up to 2 MB. A character has up to three bytes. */
const MAX_CHARACTERS = 600_000

const flags = readFlags({ from: { type: 'string', default: '' }, url: { type: 'string', default: '' } })

await run(async () => {
  const { from, url } = flags
  if (from === '' || url === '') throw new Obstacle('Say which backup, and where it goes: --from FOLDER --url URL')
  const manifest = await readManifest(from)
  for (const part of manifest.parts) await readPart(from, part) // nothing is restored from a damaged backup
  const service = await connectService(url)
  await service('PUT', '/v1/restore', { backup: manifest.startedAt })

  let maxCharacters = MAX_CHARACTERS
  /** Sends rows in order. The Worker limits bodies: halves them until it accepts them. */
  async function send(table: string, columns: string[], rows: unknown[][]): Promise<number> {
    let inserted = 0
    for (const some of chunksOf(rows, maxCharacters)) {
      try {
        inserted += (await service<{ inserted: number }>('POST', `/v1/restore/${table}`, { columns, rows: some }))
          .inserted
      } catch (error) {
        if (!(error instanceof BodyTooLarge)) throw error
        if (some.length === 1) throw new Obstacle(`A row of ${table} is too large: raise MAX_BODY_BYTES of ${url}`)
        maxCharacters = Math.ceil(Math.min(maxCharacters, JSON.stringify(some).length) / 2)
        inserted += await send(table, columns, some)
      }
    }
    return inserted
  }

  for (const table of manifest.tables.toReversed()) {
    const parts = manifest.parts.filter((part) => part.table === table)
    let [inserted, total] = [0, 0]
    for (const part of parts) {
      const { columns, rows } = await readPart(from, part)
      inserted += await send(table, columns, rows)
      total += rows.length
    }
    const skipped =
      total === inserted ? '' : `, ${total - inserted} skipped: they exist, expired, or lack what they refer to`
    console.log(`${table}: ${inserted} rows${skipped}`)
  }
  const { rebuilding } = await service<{ rebuilding: string[] }>('DELETE', '/v1/restore')
  console.log(`${url} is restored from ${from}. The queue rebuilds ${rebuilding.join(', ')}`)
})

async function readManifest(folder: string): Promise<Manifest> {
  const text = await readFile(join(folder, MANIFEST), 'utf8').catch(() => {
    throw new Obstacle(`${folder} has no backup: ${MANIFEST} is missing`)
  })
  const manifest = JSON.parse(text) as Manifest // as `npm run backup` wrote it
  if (manifest.completedAt === null)
    throw new Obstacle(`${folder} is incomplete: run npm run backup again to continue it`)
  return manifest
}

async function readPart(folder: string, part: Manifest['parts'][number]) {
  const bytes = await readFile(join(folder, part.file)).catch(() => {
    throw new Obstacle(`${folder} lacks ${part.file}`)
  })
  return unpack(part, new Uint8Array(bytes)).catch((cause: unknown) => {
    throw new Obstacle(`${part.file} is damaged: its checksum is wrong`, { cause })
  })
}

/** Splits rows into lists of at most `maxCharacters` of JSON, or of one row. */
function chunksOf(rows: unknown[][], maxCharacters: number): unknown[][][] {
  const chunks: unknown[][][] = []
  let left = 0
  for (const row of rows) {
    const size = JSON.stringify(row).length + 1
    if (size > left) {
      chunks.push([])
      left = maxCharacters
    }
    chunks.at(-1)?.push(row)
    left -= size
  }
  return chunks
}
