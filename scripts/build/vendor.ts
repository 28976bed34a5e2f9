import { constants } from 'node:fs'
import { copyFile, mkdir, stat, utimes } from 'node:fs/promises'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'

const VENDORED = [
  {
    from: new URL('../../node_modules/swagger-ui-dist/', import.meta.url),
    to: new URL('../../public/docs/vendor/', import.meta.url),
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
    from: new URL('../../node_modules/uplot/', import.meta.url),
    to: new URL('../../public/dashboard/vendor/', import.meta.url),
    files: ['dist/uPlot.iife.min.js', 'dist/uPlot.min.css', 'LICENSE'],
  },
]

/** Copies the libraries of the pages into public/, with their licenses, so that the pages need no CDN. */
export async function vendorLibraries(): Promise<void> {
  for (const { from, to, files } of VENDORED) {
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
}
