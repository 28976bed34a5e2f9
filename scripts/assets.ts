// Vendors Swagger UI for /docs, with its licences, so that the page needs no CDN. wrangler runs it before every build.
import { constants } from 'node:fs'
import { copyFile, mkdir, stat, utimes } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const from = new URL('../node_modules/swagger-ui-dist/', import.meta.url)
const to = new URL('../public/docs/vendor/', import.meta.url)
const FILES = [
  'swagger-ui-bundle.js',
  'swagger-ui-bundle.js.LICENSE.txt',
  'swagger-ui.css',
  'favicon-32x32.png',
  'LICENSE',
  'NOTICE',
]

await mkdir(to, { recursive: true })
for (const file of FILES) {
  const source = new URL(file, from)
  const copy = new URL(file, to)
  const wanted = await stat(source)
  const present = await stat(copy).catch(() => null)
  // `wrangler dev` builds again with every edit: a file written for nothing would make it reload the assets too.
  if (present?.size === wanted.size && present.mtimeMs === wanted.mtimeMs) continue
  await copyFile(source, copy, constants.COPYFILE_FICLONE)
  await utimes(copy, wanted.atime, wanted.mtime)
}
console.log(`Swagger UI is in ${fileURLToPath(to)}`)
