import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'

/** The largest size of the Worker, minified and gzipped. */
const BUDGET_KIB = 149

const folder = mkdtempSync(join(tmpdir(), 'threads-edge-'))
try {
  execFileSync('wrangler', ['deploy', '--env', '', '--dry-run', '--outdir', folder], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, WRANGLER_SEND_METRICS: 'false', WRANGLER_HIDE_BANNER: 'true' },
  })
  const sizeKib = gzipSync(readFileSync(join(folder, 'worker.js'))).byteLength / 1024
  console.log(`The Worker is ${sizeKib.toFixed(1)} KiB gzipped; its budget is ${BUDGET_KIB}`)
  if (sizeKib > BUDGET_KIB) process.exitCode = 1
} finally {
  rmSync(folder, { recursive: true })
}
