import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect } from 'vitest'
import { cloneProject } from '../../scripts/clone.ts'
import { ACCOUNT, API_TOKEN } from './cloudflare.ts'

export const SERVICE_TOKEN = `service-${crypto.randomUUID()}`
export const REDIS_TOKEN = `redis-${crypto.randomUUID()}`

export type Clone = Awaited<ReturnType<typeof makeClone>>

/**
 * A copy of the project that scripts may change, in the state before `npm run setup`. The original can hold the ids and
 * URLs of the person who runs the tests.
 */
export async function makeClone(from?: string) {
  const folder = await cloneProject(from)
  const file = join(folder, 'wrangler.toml')
  await writeFile(file, buildOnce(beforeSetup(await readFile(file, 'utf8'))))
  return {
    folder,
    /** Its `wrangler.toml`. */
    readConfig: () => readFile(file, 'utf8'),
    writeConfig: (text: string) => writeFile(file, text),
    remove: () => rm(folder, { recursive: true }),
  }
}

/** Resets what `npm run setup` fills in, every id and every Redis URL, and removes domains. */
const beforeSetup = (config: string) =>
  config
    .replaceAll(/^\[\[env\.[\w-]+\.routes\]\]\n(?:(?!\[).*\n?)*/gm, '')
    .replaceAll(/^(\s*database_id\s*=\s*)("[^"]*"|'[^']*')/gm, '$1"00000000-0000-0000-0000-000000000000"')
    .replace(/^(\[vars\]\n\s*UPSTASH_REDIS_REST_URL\s*=\s*)("[^"]*"|'[^']*')/m, '$1"http://127.0.0.1:8079"')
    .replaceAll(/^(\[env\.[\w-]+\.vars\](?:.*\n(?!\[))+?\s*UPSTASH_REDIS_REST_URL\s*=\s*)("[^"]*"|'[^']*')/gm, '$1""')

/** Lets the first deployment build the Worker, and the others deploy the same: a build takes longer than the rest. */
const buildOnce = (config: string) =>
  config.replace(/^(\[build\]\ncommand = )"(node .+)"$/m, '$1"test -f dist/worker.js || $2"')

export interface Outcome {
  code: number | null
  output: string
}

/**
 * Runs `npm run setup` or `npm run deploy` with wrangler against this API, without a terminal, and expects no secret in the
 * output. `variables` override the environment; an undefined one is removed.
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

/** The environment of a script: nothing from the person who runs the tests. */
export const environment = (apiUrl: string): Record<string, string> => ({
  PATH: `${dirname(process.execPath)}:${process.env['PATH']}`,
  HOME: tmpdir(),
  NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'] ?? '',
  CLOUDFLARE_API_BASE_URL: apiUrl,
  CLOUDFLARE_ACCOUNT_ID: ACCOUNT,
  CLOUDFLARE_API_TOKEN: API_TOKEN,
})
