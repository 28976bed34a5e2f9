// Vendors what the pages need, with its licences, so that they need no CDN. wrangler runs it before every build.
import { constants } from 'node:fs'
import { copyFile, mkdir, stat, utimes } from 'node:fs/promises'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'

const VENDORED = [
  {
    from: new URL('../node_modules/swagger-ui-dist/', import.meta.url),
    to: new URL('../public/docs/vendor/', import.meta.url),
    files: [
      'swagger-ui-bundle.js',
      'swagger-ui-bundle.js.LICENSE.txt',
      'swagger-ui.css',
      'favicon-32x32.png',
      'LICENSE',
      'NOTICE',
    ],
  },
  {
    from: new URL('../node_modules/uplot/', import.meta.url),
    to: new URL('../public/dashboard/vendor/', import.meta.url),
    files: ['dist/uPlot.iife.min.js', 'dist/uPlot.min.css', 'LICENSE'],
  },
]

for (const { from, to, files } of VENDORED) {
  await mkdir(to, { recursive: true })
  for (const file of files) {
    const source = new URL(file, from)
    const copy = new URL(basename(file), to)
    const wanted = await stat(source)
    const present = await stat(copy).catch(() => null)
    // `wrangler dev` builds again with every edit: a file written for nothing would make it reload the assets too.
    if (present?.size === wanted.size && present.mtimeMs === wanted.mtimeMs) continue
    await copyFile(source, copy, constants.COPYFILE_FICLONE)
    await utimes(copy, wanted.atime, wanted.mtime)
  }
  console.log(`Vendored ${fileURLToPath(to)}`)
}
