import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'

const root = dirname(dirname(import.meta.dirname))

/** Runs `bench/main.ts` with these flags. Returns what it printed, and the results that it wrote. */
export async function bench(...flags: string[]): Promise<{ stdout: string; written: unknown }> {
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-bench-'))
  try {
    const path = join(folder, 'results.json')
    const args = ['bench/main.ts', ...flags, '--out', path]
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root })
    return { stdout, written: JSON.parse(await readFile(path, 'utf8')) }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
