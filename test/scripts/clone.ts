import { cp, mkdtemp, symlink } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

const root = dirname(dirname(import.meta.dirname))
const CLONED = [
  'src',
  'scripts',
  'emulator',
  'migrations',
  'public',
  'wrangler.toml',
  'package.json',
  '.dev.vars.example',
]

/** A folder with the product, as git would clone it and `npm install` fill it. Whoever asks removes it. */
export async function cloneProduct(): Promise<string> {
  const clone = await mkdtemp(join(tmpdir(), 'threads-edge-'))
  const filter = (path: string) => !/\/public\/\w+\/vendor/.test(path)
  await Promise.all(CLONED.map((name) => cp(join(root, name), join(clone, name), { recursive: true, filter })))
  await symlink(join(root, 'node_modules'), join(clone, 'node_modules'))
  return clone
}

/** Something that listens on a port of its own. */
export async function listen() {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port, // a string only for pipes
    close: () => new Promise((resolve) => server.close(resolve)),
  }
}

export async function freePort(): Promise<number> {
  const { port, close } = await listen()
  await close()
  return port
}
