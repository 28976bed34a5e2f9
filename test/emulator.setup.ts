import { readFile } from 'node:fs/promises'
import type { TestProject } from 'vitest/node'
import { connect, Failure, parseRedisUrl } from '../emulator/resp.ts'
import { startEmulator } from '../emulator/server.ts'

/**
 * Permissions beyond the rules of docs/redis.md. The emulator reads the number of databases and empties them, also for a test
 * that sends FLUSHALL. It uses exactly these forms, so a script that runs FLUSHDB is still refused.
 */
const EXTRA_RULES = ['+config|get', '+flushdb|sync']

/** Starts one emulator for all files. Each file takes a random token, which gives it its own keyspace. */
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

/** Creates a Redis user with the rules of docs/redis.md, so that no test passes with a command that they refuse. */
async function makeUser(redisUrl: string) {
  const guide = await readFile(new URL('../docs/redis.md', import.meta.url), 'utf8')
  const [, rules] = /`ACL SETUSER edge on >TOKEN ([^`]+)`/.exec(guide) ?? []
  if (rules === undefined) throw new Error('docs/redis.md does not contain the rules of the Redis user')
  const admin = await connect(parseRedisUrl(redisUrl), 0)
  const [name, password] = [`tests-${crypto.randomUUID()}`, crypto.randomUUID()]
  const [reply] = await admin.send([
    ['ACL', 'SETUSER', name, 'on', `>${password}`, ...rules.split(/\s+/), ...EXTRA_RULES],
  ])
  if (reply instanceof Failure) throw new Error(`Redis at REDIS_URL cannot create a user: ${reply.message}`)
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
