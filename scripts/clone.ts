import { cp, mkdtemp, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

const root = dirname(import.meta.dirname)
const CLONED = [
  'src',
  'client',
  'scripts',
  'emulator',
  'examples',
  'migrations',
  'public',
  'wrangler.toml',
  'package.json',
  '.dev.vars.example',
]

/** A folder with the project as after `git clone` and `npm install`. The caller removes it. */
export async function cloneProject(from = root): Promise<string> {
  const clone = await mkdtemp(join(tmpdir(), 'threads-edge-'))
  const filter = (path: string) => !/^\W?public\W(\w+\Wvendor|app\b)/.test(path.slice(from.length))
  await Promise.all(CLONED.map((name) => cp(join(from, name), join(clone, name), { recursive: true, filter })))
  await symlink(join(root, 'node_modules'), join(clone, 'node_modules'))
  return clone
}
