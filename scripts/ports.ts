import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'

/**
 * Finds a TCP port of 127.0.0.1 that is free. It is outside the range from which systems take ports for `listen(0)` and for
 * outgoing connections, so no other process gets it by chance before the caller listens.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    try {
      const { port, close } = await occupyPort(randomInt(10_000, 32_000))
      await close()
      return port
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error // what listening throws
    }
  }
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
