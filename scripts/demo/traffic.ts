/**
 * `npm run traffic`: demo users who read, like and send heartbeats, so that the dashboard has something to show. Sends a
 * few requests per second, in waves, to <http://localhost:8787>, or PORT, until Ctrl-C.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import * as v from 'valibot'
import { DEMO_PASSWORD, FAMOUS } from './data.ts'

const Session = v.object({ token: v.string() })
const Posts = v.object({ items: v.array(v.object({ id: v.string(), authorId: v.string() })) })

const WAVE_MS = 90_000

/** Sends `rounds` rounds. Each is four reads, and sometimes writes of one user. */
export async function simulate(url: string, rounds: number): Promise<void> {
  const send = async (method: string, path: string, token?: string, body?: object): Promise<unknown> => {
    const headers = {
      ...(token ? { Authorization: `Bearer ${token}` } : {}),
      ...(body ? { 'Content-Type': 'application/json' } : {}),
    }
    const response = await fetch(url + path, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) })
    const answer: unknown = response.status === 204 ? undefined : await response.json()
    if (path === '/v1/sessions' && !response.ok) throw new Error(`Signing in: ${JSON.stringify(answer)}`)
    return answer
  }
  const tokens: string[] = []
  for (const login of FAMOUS) {
    const body = { login, password: DEMO_PASSWORD }
    tokens.push(v.parse(Session, await send('POST', '/v1/sessions', undefined, body)).token)
  }
  const { items: posts } = v.parse(Posts, await send('GET', '/v1/posts/hot?limit=50'))

  for (let round = 0; round < rounds; round += 1) {
    const token = tokens[round % tokens.length] // in turn, because each user has a write limit
    const post = oftenFirst(posts)
    if (!post) return
    const chance = (share: number) => Math.random() < share
    await Promise.all([
      send('GET', '/v1/posts/hot', chance(0.5) ? token : undefined),
      send('GET', `/v1/posts/${post.id}`),
      send('GET', `/v1/users/${post.authorId}`),
      send('GET', `/v1/users/by-username/${oftenFirst(FAMOUS)}`),
      chance(0.2) && send(chance(0.8) ? 'PUT' : 'DELETE', `/v1/posts/${post.id}/like`, token),
      chance(0.2) && send('POST', '/v1/presence/heartbeat', token),
      chance(0.2) && send('GET', '/v1/feed', token),
    ])
    const calm = 1 + Math.cos((Date.now() / WAVE_MS) * 2 * Math.PI) // 0…2
    await sleep(150 + 250 * calm)
  }
}

/** A random item. Earlier items are more likely. */
const oftenFirst = <T>(items: T[]): T | undefined => items[Math.floor(Math.random() ** 2 * items.length)]

if (import.meta.main) {
  const url = `http://localhost:${process.env['PORT'] || 8787}`
  console.log(`Sending traffic to ${url}; Stop with Ctrl-C.`)
  await simulate(url, Infinity).catch((error: unknown) => {
    console.error(error instanceof TypeError ? `${url} does not answer: is npm start running?` : error)
    process.exitCode = 1
  })
}
