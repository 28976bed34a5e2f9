import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'

/** A TCP port of 127.0.0.1 that was free a moment ago. */
export async function freePort(): Promise<number> {
  const { port, close } = await occupyPort(0)
  await close()
  return port
}

/** Listens on a port (0: any) until `close`. Throws what listening throws, such as `EADDRINUSE`. */
export async function occupyPort(wanted: number): Promise<{ port: number; close: () => Promise<void> }> {
  const server = createServer()
  server.listen(wanted, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo // a string only for pipes
  return {
    port,
    async close() {
      server.close()
      await once(server, 'close')
    },
  }
}
