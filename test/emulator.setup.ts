import type { TestProject } from 'vitest/node'
import { startEmulator } from '../emulator/server.ts'

/** One emulator serves every file; each takes a random token, and so has a keyspace of its own. */
export default async function setup(project: TestProject) {
  const { REDIS_URL: redisUrl } = process.env
  const emulator = await startEmulator({ openTokens: true, ...(redisUrl ? { redisUrl } : {}) })
  project.provide('emulatorUrl', emulator.url)
  return () => emulator.close()
}

declare module 'vitest' {
  interface ProvidedContext {
    emulatorUrl: string
  }
}
