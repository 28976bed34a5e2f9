import { readFile } from 'node:fs/promises'
import type { TestProject } from 'vitest/node'
import { connect, Failure, parseRedisUrl } from '../emulator/resp.ts'
import { startEmulator } from '../emulator/server.ts'

/**
 * What tests ask beyond what docs/redis.md gives the Worker: the emulator asks how many databases there are, and empties
 * them, also for a test that says FLUSHALL. It does so in these words alone: a script that says FLUSHDB is refused.
 */
const BEYOND = ['+config|get', '+flushdb|sync']

/** One emulator serves every file; each takes a random token, and so has a keyspace of its own. */
export default async function setup(project: TestProject) {
  const { REDIS_URL: redisUrl } = process.env
  const user = redisUrl ? await makeUser(redisUrl) : undefined
  const emulator = await startEmulator({ openTokens: true, ...(user ? { redisUrl: user.redisUrl } : {}) })
  project.provide('emulatorUrl', emulator.url)
  return async () => {
    await emulator.close()
    await user?.remove()
  }
}

/** A user of that Redis with the rules of docs/redis.md, so that no suite passes with a command that they refuse. */
async function makeUser(redisUrl: string) {
  const guide = await readFile(new URL('../docs/redis.md', import.meta.url), 'utf8')
  const [, rules] = /`ACL SETUSER edge on >TOKEN ([^`]+)`/.exec(guide) ?? []
  if (rules === undefined) throw new Error('docs/redis.md does not give the rules of the Redis user')
  const admin = await connect(parseRedisUrl(redisUrl), 0)
  const [name, password] = [`tests-${crypto.randomUUID()}`, crypto.randomUUID()]
  const [reply] = await admin.send([['ACL', 'SETUSER', name, 'on', `>${password}`, ...rules.split(/\s+/), ...BEYOND]])
  if (reply instanceof Failure) throw new Error(`Redis at REDIS_URL makes no user: ${reply.message}`)
  return {
    redisUrl: String(Object.assign(new URL(redisUrl), { username: name, password })),
    async remove() {
      await admin.send([['ACL', 'DELUSER', name]])
      admin.close()
    },
  }
}

declare module 'vitest' {
  interface ProvidedContext {
    emulatorUrl: string
  }
}
