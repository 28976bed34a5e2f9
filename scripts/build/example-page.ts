import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

const root = dirname(dirname(import.meta.dirname))
const SOURCE = join(root, 'examples/app')
const SERVED = join(root, 'public/app')

/**
 * Puts the example page and its client where `wrangler dev` serves them, at /app, and takes them away before a deployment.
 * `command` is that of wrangler. Without it nothing changes: somebody may have `npm start` running.
 */
export async function placeExamplePage(client: string, command: string | undefined): Promise<void> {
  if (command === undefined) return
  if (command !== 'dev') return rm(SERVED, { recursive: true, force: true })
  await mkdir(SERVED, { recursive: true })
  const names = (await readdir(SOURCE)).filter((name) => !name.endsWith('.d.ts'))
  const files = names.map(async (name) => [name, await readFile(join(SOURCE, name), 'utf8')] as const)
  for (const [name, text] of [...(await Promise.all(files)), ['client.js', client] as const]) {
    const served = join(SERVED, name)
    // Writing an unchanged file would make `wrangler dev` reload the assets.
    if ((await readFile(served, 'utf8').catch(() => undefined)) !== text) await writeFile(served, text)
  }
}
