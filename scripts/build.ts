/**
 * Writes what is built from the source: the libraries of the pages (public/<page>/vendor), the OpenAPI document
 * (public/openapi.json), the pages that explain problems (public/problems), the client (client/api.ts, dist/client), and the
 * Worker (dist/worker.js). wrangler runs this before each deployment, and in development before the start and after each edit. Then
 * there is also the example page (public/app). `npm run types` runs it too, because the types of the Worker are among its results.
 */
import { execFile } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { bundleClient, generateClient } from './build/client.ts'
import { problemPages } from './build/problems.ts'
import { commonPasswordsFilter } from './build/common-passwords.ts'
import { vendorLibraries } from './build/vendor.ts'
import { placeExamplePage } from './build/example-page.ts'
import { bundleWorker } from './build/worker.ts'

const root = dirname(import.meta.dirname)

const MAX_DOCUMENT_BYTES = 10_000_000

/** `wrangler dev` builds after every edit. Writing an unchanged file would make it reload the assets too. */
async function writeIfChanged(path: string, content: string | Uint8Array): Promise<void> {
  const file = join(root, path)
  const present = await readFile(file).catch(() => undefined)
  if (present?.equals(Buffer.from(content))) return
  await mkdir(dirname(file), { recursive: true })
  await writeFile(file, content)
  console.log(`Wrote ${path}`)
}

/** A message that may hold the output of another program. */
const withoutStack = (message: string) => message.replaceAll(/^ +at .*\n?/gm, '')

async function printDocument(): Promise<string> {
  const program = join(root, 'scripts/build/document.ts')
  const { stdout } = await promisify(execFile)(process.execPath, [program], { maxBuffer: MAX_DOCUMENT_BYTES })
  return stdout
}

const results = await Promise.allSettled([
  vendorLibraries(),
  printDocument().then((document) =>
    Promise.all([
      writeIfChanged('public/openapi.json', document),
      writeIfChanged('client/api.ts', generateClient(document)),
    ]),
  ),
  bundleClient().then((code) =>
    Promise.all([
      writeIfChanged('dist/client/index.js', code),
      placeExamplePage(code, process.env['WRANGLER_COMMAND']),
    ]),
  ),
  writeIfChanged('public/common-passwords.bin', commonPasswordsFilter()),
  // In development, names in stack traces help more than bytes.
  bundleWorker('src/index.ts', { minify: process.env['WRANGLER_COMMAND'] !== 'dev' }).then((code) =>
    writeIfChanged('dist/worker.js', code),
  ),
  ...Object.entries(problemPages()).map(([path, content]) => writeIfChanged(path, content)),
  writeIfChanged('dist/worker.d.ts', "export { default } from '../src/index.ts'\n"),
])
for (const result of results) {
  if (result.status === 'fulfilled') continue
  process.exitCode = 1
  console.error(result.reason instanceof Error ? withoutStack(result.reason.message) : result.reason)
}
