import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseEnv } from 'node:util'
import * as v from 'valibot'
import { Obstacle, readInput } from './environment.ts'

const Explained = v.object({ detail: v.string() })

/** A failure that is not a problem document comes from what is in front of the Worker. The request is repeated so often. */
const REPEATS = 3
const PAUSE_MS = 500

/** The Worker refused the size of a body. */
export class BodyTooLarge extends Error {}

export type Service = Awaited<ReturnType<typeof connectService>>

/**
 * Sends requests with the service token to a Worker: from SERVICE_TOKEN, else for a Worker on this machine from .dev.vars,
 * else it asks. A refusal is an obstacle with the detail of the problem. Every request must be safe to repeat.
 */
export async function connectService(url: string) {
  const token = (await readDevelopmentToken(url)) ?? (await readInput('SERVICE_TOKEN', { isSecret: true }))
  if (token === undefined) throw new Obstacle('SERVICE_TOKEN is missing: set it in the environment, or use a terminal')

  async function send(method: string, path: string, body?: unknown, repeats = REPEATS): Promise<Response> {
    const response = await fetch(new URL(path, url), {
      method,
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    }).catch((cause: unknown) => {
      throw new Obstacle(`${url} does not answer`, { cause })
    })
    if (response.ok) return response
    if (response.status === 413) throw new BodyTooLarge()
    const problem = v.safeParse(Explained, await response.json().catch(() => undefined))
    if (response.status >= 500 && !problem.success && repeats > 0) {
      await sleep(PAUSE_MS)
      return send(method, path, body, repeats - 1)
    }
    const detail = problem.success ? `: ${problem.output.detail}` : ''
    throw new Obstacle(`${method} ${path} answers ${response.status}${detail}`)
  }

  return Object.assign(
    async <T>(method: string, path: string, body?: unknown): Promise<T> => {
      const text = await (await send(method, path, body)).text()
      return (text === '' ? undefined : JSON.parse(text)) as T // as the API documents it
    },
    { bytes: async (path: string) => new Uint8Array(await (await send('GET', path)).arrayBuffer()) },
  )
}

async function readDevelopmentToken(url: string): Promise<string | undefined> {
  const isLocal = ['localhost', '127.0.0.1', '[::1]'].includes(new URL(url).hostname)
  if (!isLocal || process.env['SERVICE_TOKEN']) return undefined
  const text = await readFile(join(dirname(import.meta.dirname), '.dev.vars'), 'utf8').catch(() => '')
  return parseEnv(text)['SERVICE_TOKEN']
}
