import { env } from 'cloudflare:workers'
import { expect } from 'vitest'
import { continueBackup, type Manifest, type Page, type Part, type Source, unpack } from '../../src/backup/archive.ts'
import type { Edge } from '../edge.ts'

export const SERVICE = { Authorization: `Bearer ${env.SERVICE_TOKEN}`, 'Content-Type': 'application/json' }

/** Sends a service request, and expects it to succeed. */
export async function ask<T>(edge: Edge, method: string, path: string, body?: unknown): Promise<T> {
  const response = await edge.fetch(path, {
    method,
    headers: SERVICE,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  if (!response.ok) expect.fail(`${method} ${path}: ${response.status} ${await response.text()}`)
  return response.status === 204 ? (undefined as T) : response.json<T>()
}

/** The routes of a Worker as the source of a backup. `limit`: rows of a page. */
export function sourceOf(edge: Edge, limit = 2_000) {
  const reads: string[] = []
  const source: Source = {
    begin: async () => (await ask<{ tables: string[] }>(edge, 'POST', '/v1/backup')).tables,
    read: (table, after) => {
      reads.push(`${table} ${after}`)
      return ask<Page>(edge, 'GET', `/v1/backup/${table}?limit=${limit}${after === undefined ? '' : `&after=${after}`}`)
    },
  }
  return { reads, ...source }
}

/** A store in memory. */
export function newStore() {
  const files = new Map<string, Uint8Array<ArrayBuffer>>()
  let manifest: string | undefined
  return {
    files,
    readManifest: async () => (manifest === undefined ? undefined : (JSON.parse(manifest) as Manifest)),
    writeManifest: async (value: Manifest) => void (manifest = JSON.stringify(value)),
    writePart: async (part: Part, bytes: Uint8Array<ArrayBuffer>) => void files.set(part.file, bytes),
    hasPart: async (part: Part) =>
      unpack(part, files.get(part.file) ?? new Uint8Array()).then(
        () => true,
        () => false,
      ),
  }
}

export type Backup = Awaited<ReturnType<typeof backUp>>

/** Backs up a Worker's data into memory. */
export async function backUp(edge: Edge, limit?: number) {
  const store = newStore()
  const manifest = await continueBackup(sourceOf(edge, limit), store, { maxParts: Infinity, saveEveryMs: 0 })
  return { manifest, files: store.files }
}

/** Every row of a table in a backup. */
export async function rowsOf({ manifest, files }: Backup, table: string) {
  const rows: Record<string, unknown>[] = []
  for (const part of manifest.parts.filter((part) => part.table === table)) {
    const page = await unpack(part, files.get(part.file) ?? new Uint8Array())
    rows.push(...page.rows.map((row) => Object.fromEntries(page.columns.map((column, i) => [column, row[i]]))))
  }
  return rows
}

/** Sends the parts of a backup, as `npm run restore` does. */
export async function restoreParts(edge: Edge, { manifest, files }: Backup, tables = manifest.tables.toReversed()) {
  for (const table of tables) {
    for (const part of manifest.parts.filter((part) => part.table === table)) {
      const page = await unpack(part, files.get(part.file) ?? new Uint8Array())
      for (let done = 0; done < page.rows.length; done += 50) {
        const rows = page.rows.slice(done, done + 50)
        await ask(edge, 'POST', `/v1/restore/${table}`, { columns: page.columns, rows })
      }
    }
  }
}

/** Restores a backup. What derives from the rows is rebuilt by `edge.dispatch()`. */
export async function restore(edge: Edge, backup: Backup): Promise<void> {
  await ask(edge, 'PUT', '/v1/restore', { backup: backup.manifest.startedAt })
  await restoreParts(edge, backup)
  await ask(edge, 'DELETE', '/v1/restore')
}
