import { continueBackup, type Manifest, MANIFEST, type Source } from './archive.ts'

/** New parts of one run: some 50 MB, and below a hundred requests to D1 and R2. */
const PARTS_PER_RUN = 40
/** Complete backups that are kept. */
const KEPT = 30
/** Keys that R2 lists or deletes at once. */
const KEYS = 1_000

/**
 * Writes the backup of the day of `now` (Unix ms, UTC), or continues it. Deletes all but the thirty latest complete ones
 * when it is complete. Does nothing for the rest of the day. Returns whether it is complete. Safe to repeat.
 */
export async function writeDailyBackup(
  source: Source,
  bucket: R2Bucket,
  now: number,
  { maxParts = PARTS_PER_RUN, kept = KEPT } = {},
): Promise<boolean> {
  const day = new Date(now).toISOString().slice(0, 10)
  const readManifest = async (day: string) =>
    (await (await bucket.get(`${day}/${MANIFEST}`))?.json<Manifest>()) ?? undefined
  if ((await readManifest(day))?.completedAt) return true
  const { completedAt } = await continueBackup(
    source,
    {
      readManifest: () => readManifest(day),
      writeManifest: async (manifest) => void (await bucket.put(`${day}/${MANIFEST}`, JSON.stringify(manifest))),
      writePart: async ({ file, sha256 }, bytes) => void (await bucket.put(`${day}/${file}`, bytes, { sha256 })),
      hasPart: async () => true, // R2 has checked it
    },
    { maxParts, saveEveryMs: Infinity }, // R2 accepts one write of a key per second
  )
  if (completedAt === null) return false

  const { delimitedPrefixes } = await bucket.list({ delimiter: '/', limit: KEYS })
  const days = delimitedPrefixes.map((prefix) => prefix.slice(0, -1)).filter((name) => /^\d{4}-\d\d-\d\d$/.test(name))
  let complete = 0
  for (const old of days.toSorted().toReversed()) {
    if (complete < kept && (await readManifest(old))?.completedAt) complete += 1
    else await deleteAll(bucket, `${old}/`)
  }
  return true
}

async function deleteAll(bucket: R2Bucket, prefix: string): Promise<void> {
  for (;;) {
    const { objects } = await bucket.list({ prefix, limit: KEYS })
    if (objects.length === 0) return
    await bucket.delete(objects.map(({ key }) => key))
  }
}
