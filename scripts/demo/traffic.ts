/**
 * `npm run traffic`: demo users who read, like and send heartbeats, so that the dashboard has something to show. Sends a
 * few requests per second, in waves, to <http://localhost:8787>, or PORT, until Ctrl-C.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Client, createClient, Problem } from '../../client/index.ts'
import { DEMO_PASSWORD, FAMOUS } from './data.ts'

const WAVE_MS = 90_000

/** Sends `rounds` rounds. Each is four reads, and sometimes writes of one user. Refusals are part of the traffic. */
export async function simulate(url: string, rounds: number): Promise<void> {
  const anyone = createClient({ url, retries: 0 })
  const users: Client[] = []
  for (const login of FAMOUS) {
    const user = createClient({ url, retries: 0 })
    await user.signIn({ login, password: DEMO_PASSWORD })
    users.push(user)
  }
  const { items: posts } = await anyone.listHotPosts({ limit: 50 })

  for (let round = 0; round < rounds; round += 1) {
    const user = users[round % users.length] // in turn, because each user has a write limit
    const [post, username] = [oftenFirst(posts), oftenFirst(FAMOUS)]
    if (!user || !post || !username) return
    const { id } = post
    const chance = (share: number) => Math.random() < share
    const requests = [
      (chance(0.5) ? user : anyone).listHotPosts(),
      anyone.getPost({ id }),
      anyone.getUser({ id: post.authorId }),
      anyone.getUserByUsername({ username }),
      ...(chance(0.2) ? [chance(0.8) ? user.likePost({ id }) : user.unlikePost({ id })] : []),
      ...(chance(0.2) ? [user.sendHeartbeat()] : []),
      ...(chance(0.2) ? [user.listFeed()] : []),
    ]
    await Promise.all(requests.map((request: Promise<unknown>) => request.catch(ignoreRefusal)))
    const calm = 1 + Math.cos((Date.now() / WAVE_MS) * 2 * Math.PI) // 0…2
    await sleep(150 + 250 * calm)
  }
}

function ignoreRefusal(error: unknown): void {
  if (!(error instanceof Problem)) throw error
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
