import fastifyApiReference from '@scalar/fastify-api-reference'
import { copyFile, mkdir, readFile, stat, utimes, writeFile } from 'node:fs/promises'
import { constants } from 'node:fs'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'

const COPIED = [
  {
    from: new URL('../../node_modules/@scalar/fastify-api-reference/', import.meta.url),
    to: new URL('../../public/docs/vendor/', import.meta.url),
    files: ['LICENSE'],
  },
  {
    from: new URL('../../node_modules/uplot/', import.meta.url),
    to: new URL('../../public/dashboard/vendor/', import.meta.url),
    files: ['dist/uPlot.iife.min.js', 'dist/uPlot.min.css', 'LICENSE'],
  },
]

/** The routes that the plugin of Scalar adds to Fastify. */
interface Route {
  url: string
  handler: (request: object, reply: { header(): unknown; send(content: string): void }) => void
}

/**
 * The script of Scalar's API reference. The package `@scalar/api-reference` has it as a file, beside 300 MB of dependencies. The
 * plugin for Fastify has it in a route, with 15 small dependencies.
 */
function scalarScript(): string {
  const routes: Route[] = []
  const fastify = { route: (route: Route) => void routes.push(route) }
  const register = fastifyApiReference as unknown as (fastify: object, options: object, done: () => void) => void // it only adds routes
  register(fastify, { configuration: { url: '/openapi.json' } }, () => {})
  let script: string | undefined
  const reply = { header: () => reply, send: (content: string) => void (script = content) }
  routes.find(({ url }) => url.endsWith('/js/scalar.js'))?.handler({}, reply)
  if (script === undefined) throw new Error('@scalar/fastify-api-reference has no route for its script any more')
  return script
}

/** Writes the libraries of the pages into public/, with their licenses, so that the pages need no CDN. */
export async function vendorLibraries(): Promise<void> {
  for (const { from, to, files } of COPIED) {
    await mkdir(to, { recursive: true })
    for (const file of files) {
      const source = new URL(file, from)
      const copy = new URL(basename(file), to)
      const original = await stat(source)
      const present = await stat(copy).catch(() => null)
      // `wrangler dev` builds after every edit. Writing an unchanged file would make it reload the assets too.
      if (present?.size === original.size && present.mtimeMs === original.mtimeMs) continue
      await copyFile(source, copy, constants.COPYFILE_FICLONE)
      await utimes(copy, original.atime, original.mtime)
    }
    console.log(`Vendored ${fileURLToPath(to)}`)
  }
  const script = scalarScript()
  const copy = new URL('../../public/docs/vendor/scalar.js', import.meta.url)
  if ((await readFile(copy, 'utf8').catch(() => '')) !== script) await writeFile(copy, script)
}
