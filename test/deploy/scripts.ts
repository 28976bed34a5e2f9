import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { ACCOUNT, API_TOKEN } from './cloudflare.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
const CLONED = ['src', 'scripts', 'migrations', 'public', 'wrangler.toml', 'package.json']

export const SERVICE_TOKEN = `service-${crypto.randomUUID()}`
export const REDIS_TOKEN = `redis-${crypto.randomUUID()}`

export type Clone = Awaited<ReturnType<typeof makeClone>>

/**
 * A copy of the project that scripts may change, as it is before anybody ran `npm run setup`: the one copied may know the
 * databases and the Redis of whoever runs the tests.
 */
export async function makeClone(from = root) {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-'))
  const file = join(folder, 'wrangler.toml')
  await Promise.all(CLONED.map((name) => cp(join(from, name), join(folder, name), { recursive: true })))
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
  await writeFile(file, beforeSetup(await readFile(file, 'utf8')))
  return {
    folder,
    /** Its `wrangler.toml`. */
    readConfig: () => readFile(file, 'utf8'),
    writeConfig: (text: string) => writeFile(file, text),
    remove: () => rm(folder, { recursive: true }),
  }
}

/** What `npm run setup` fills in is empty again: every id, and the URL of Redis of every environment. Domains are gone. */
const beforeSetup = (config: string) =>
  config
    .replaceAll(/^\[\[env\.[\w-]+\.routes\]\]\n(?:(?!\[).*\n?)*/gm, '')
    .replaceAll(/^(\s*database_id\s*=\s*)("[^"]*"|'[^']*')/gm, '$1"00000000-0000-0000-0000-000000000000"')
    .replaceAll(/^(\[env\.[\w-]+\.vars\](?:.*\n(?!\[))+?\s*UPSTASH_REDIS_REST_URL\s*=\s*)("[^"]*"|'[^']*')/gm, '$1""')

export interface Outcome {
  code: number | null
  output: string
}

/**
 * Runs `npm run setup` or `npm run deploy` over wrangler and this API, without a terminal, and expects that no secret is
 * told. `variables` are set over a working environment, or absent where they are undefined.
 */
export async function runScript(
  clone: Clone,
  apiUrl: string,
  [script, ...args]: string[],
  variables: Record<string, string | undefined> = {},
): Promise<Outcome> {
  const child = spawn(process.execPath, [join(clone.folder, `scripts/${script}.ts`), ...args], {
    cwd: clone.folder,
    env: { ...environment(apiUrl), ...variables },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  expectNoSecret(output)
  return { code, output }
}

export function expectNoSecret(output: string): void {
  for (const secret of [SERVICE_TOKEN, REDIS_TOKEN, API_TOKEN]) expect(output).not.toContain(secret)
}

/** What a script finds in its environment: nothing of the one who runs the tests. */
export const environment = (apiUrl: string): Record<string, string> => ({
  PATH: `${dirname(process.execPath)}:${process.env['PATH']}`,
  HOME: tmpdir(),
  CLOUDFLARE_API_BASE_URL: apiUrl,
  CLOUDFLARE_ACCOUNT_ID: ACCOUNT,
  CLOUDFLARE_API_TOKEN: API_TOKEN,
})
