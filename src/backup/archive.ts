/** Rows of a table, or of Redis. */
export interface Page {
  columns: string[]
  rows: unknown[][]
  /** Where the next page begins. Null: this was the last page. */
  next: string | null
}

/** What a backup reads. */
export interface Source {
  /** Begins a backup. Returns the tables, in the order in which to read them. */
  begin: () => Promise<string[]>
  /** Reads the page of a table that begins at `after`. */
  read: (table: string, after: string | undefined) => Promise<Page>
}

/** Where the files of a backup are: a folder, or a bucket. */
export interface Store {
  readManifest: () => Promise<Manifest | undefined>
  writeManifest: (manifest: Manifest) => Promise<void>
  writePart: (part: Part, bytes: Uint8Array<ArrayBuffer>) => Promise<void>
  /** Whether the store has a part undamaged. */
  hasPart: (part: Part) => Promise<boolean>
}

/** One file: lines of JSON, compressed with gzip. The first line has the names of the columns, each other line has a row. */
export interface Part {
  file: string
  table: string
  /** Where its page begins. Null: at the first row. */
  after: string | null
  next: string | null
  rows: number
  /** SHA-256 of the file, in hexadecimal. */
  sha256: string
}

/** What a backup consists of. */
export interface Manifest {
  format: 1
  /** ISO 8601. */
  startedAt: string
  /** Null: the backup is incomplete, and can be continued. */
  completedAt: string | null
  /** In the order in which they were read. A restore needs the reverse. */
  tables: string[]
  parts: Part[]
}

export const MANIFEST = 'manifest.json'

/**
 * Begins a backup, or continues an incomplete one, with at most `maxParts` new parts. Does not read again what the store
 * has. Saves the manifest every `saveEveryMs`, and at the end even if it fails. Safe to repeat.
 */
export async function continueBackup(
  source: Source,
  store: Store,
  {
    maxParts,
    saveEveryMs,
    onPage,
  }: { maxParts: number; saveEveryMs: number; onPage?: (table: string, rows: number) => void },
): Promise<Manifest> {
  const manifest = (await store.readManifest()) ?? {
    format: 1,
    startedAt: new Date().toISOString(),
    completedAt: null,
    tables: [],
    parts: [],
  }
  if (manifest.completedAt !== null) return manifest
  const known = new Map(manifest.parts.map((part) => [`${part.table} ${part.after}`, part]))
  manifest.tables = await source.begin()
  manifest.parts = []
  let left = maxParts
  let savedAt = Date.now()

  /** Makes sure that the store has the page at `after`. Returns where the next page begins. */
  async function storePage(table: string, after: string | null): Promise<string | null> {
    const stored = known.get(`${table} ${after}`)
    if (stored && (await store.hasPart(stored))) {
      manifest.parts.push(stored)
      onPage?.(table, stored.rows)
      return stored.next
    }
    const { columns, rows, next } = await source.read(table, after ?? undefined)
    if (rows.length === 0) return next
    left -= 1
    const bytes = await gzip([columns, ...rows].map((line) => `${JSON.stringify(line)}\n`).join(''))
    const file = `${table}-${after ?? '0'}.jsonl.gz`
    const part = { file, table, after, next, rows: rows.length, sha256: await sha256(bytes) }
    await store.writePart(part, bytes)
    manifest.parts.push(part)
    onPage?.(table, rows.length)
    return next
  }

  try {
    for (const table of manifest.tables) {
      let after: string | null = null
      do {
        if (left <= 0) return manifest
        after = await storePage(table, after)
        if (Date.now() - savedAt < saveEveryMs) continue
        await store.writeManifest(manifest)
        savedAt = Date.now()
      } while (after !== null)
    }
    manifest.completedAt = new Date().toISOString()
    return manifest
  } finally {
    await store.writeManifest(manifest)
  }
}

/** Decompresses a part: its columns and rows. Throws if it is not the part that the manifest describes. */
export async function unpack(part: Part, bytes: Uint8Array<ArrayBuffer>): Promise<Pick<Page, 'columns' | 'rows'>> {
  if ((await sha256(bytes)) !== part.sha256) throw new Error(`${part.file} is damaged: its checksum is wrong`)
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text()
  const [columns, ...rows] = text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown[])
  return { columns: columns as string[], rows } // as `continueBackup` wrote them
}

async function gzip(text: string): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream('gzip'))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

/** The SHA-256 of `bytes`, in hexadecimal. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))]
    .map((byte) => byte.toString(16).padStart(2, '0'))
    .join('')
}
