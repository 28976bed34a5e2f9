/** The data of all contenders: the demo data with every user signed in, and requests as users make them. */
import { ulid } from 'ulid'
import { generateDemo } from '../scripts/demo/data.ts'
import type { Database } from '../scripts/demo/load.ts'
import { createSessionTokens } from '../src/sessions/token.ts'

export const SERVICE_TOKEN = 'a-service-token-for-benchmarks'

/** One request of a scenario. */
export interface Ask {
  method: 'GET' | 'PUT' | 'DELETE' | 'POST'
  path: string
  headers: Record<string, string>
}

export type Town = ReturnType<typeof createTown>

const SEED = 20_261_125
const ADDRESSES = 200
/** The exponent of Zipf's law: the share of the traffic that the most popular get. */
const EXPONENT = 1

export function createTown(now = Date.now()) {
  const demo = generateDemo(now)
  const tokens = createSessionTokens(SERVICE_TOKEN)
  const sessions = demo.users.map((user, i) => {
    const { token, claims } = tokens.issue(user.id, `s_${ulid(now - i).toLowerCase()}`)
    return { token, claims }
  })
  const random = seeded(SEED)
  const users = createZipf(demo.users, random)
  const posts = createZipf(demo.posts.toReversed(), random) // the newest are requested most
  const readers = createZipf(sessions, random)

  const address = () => `10.0.${Math.floor(random() * ADDRESSES)}.1`
  const anyone = () => ({ 'cf-connecting-ip': address() })
  const signedIn = () => ({ ...anyone(), authorization: `Bearer ${readers().token}` })

  const asks = {
    'hot profile': (): Ask => ({ method: 'GET', path: `/v1/users/${demo.users[0]?.id}`, headers: anyone() }),
    'batch of 20': (): Ask => {
      const ids = new Set<string>()
      while (ids.size < 20) ids.add(users().id)
      return { method: 'GET', path: `/v1/users?ids=${[...ids].join(',')}`, headers: anyone() }
    },
    'hot feed': (): Ask => ({ method: 'GET', path: '/v1/posts/hot?limit=20', headers: anyone() }),
    like: (): Ask => ({
      method: random() < 0.7 ? 'PUT' : 'DELETE',
      path: `/v1/posts/${posts().id}/like`,
      headers: signedIn(),
    }),
    heartbeat: (): Ask => ({ method: 'POST', path: '/v1/presence/heartbeat', headers: signedIn() }),
    'session check': (): Ask => ({ method: 'GET', path: `/v1/posts/${posts().id}`, headers: signedIn() }),
  }
  const profile = (): Ask => ({ method: 'GET', path: `/v1/users/${users().id}`, headers: anyone() })

  /** Share of each request in `mixed`, in percent. */
  const mix: [number, () => Ask][] = [
    [45, profile],
    [15, asks['hot feed']],
    [20, asks['session check']],
    [10, asks['batch of 20']],
    [5, asks.like],
    [5, asks.heartbeat],
  ]
  const mixed = (): Ask => {
    let left = random() * 100
    for (const [share, ask] of mix) {
      left -= share
      if (left < 0) return ask()
    }
    return profile()
  }

  return {
    demo,
    /** Draws the next request of a scenario, by its name. */
    scenarios: { ...asks, 'mixed, Zipf': mixed },
    /** Likes of old posts by users who do not like them yet, each of another post by another user. */
    newLikes(count: number): Ask[] {
      const known = new Set(demo.postLikes.map(({ postId, userId }) => `${postId} ${userId}`))
      return demo.posts.slice(0, count).map((post, i) => {
        const later = [...demo.users.keys()].slice(i)
        const liker = later.find((n) => !known.has(`${post.id} ${demo.users[n]?.id}`)) ?? 0
        const headers = { ...anyone(), authorization: `Bearer ${sessions[liker]?.token}` }
        return { method: 'PUT', path: `/v1/posts/${post.id}/like`, headers }
      })
    },
    /** Session token of the nth user. */
    tokenOf: (n: number) => sessions[n]?.token ?? '',
    /** Signs all users in. */
    async loadSessions(database: Database): Promise<void> {
      const insert = database.prepare(
        `INSERT INTO sessions (id, user_id, secret_hash, epoch, user_agent, created_at, last_seen_at, expires_at)
        SELECT value->>0, value->>1, value->>2, 0, 'bench', ?1, ?1, ?2 FROM json_each(?3)`,
      )
      const rows = sessions.map(({ claims }) => [claims.sessionId, claims.userId, claims.hash])
      await database.batch([insert.bind(now, now + 86_400_000, JSON.stringify(rows))])
    },
  }
}

/** Draws from `items` by Zipf's law: the nth is drawn a share of 1/n. */
function createZipf<T>(items: T[], random: () => number): () => T {
  const sums: number[] = []
  let total = 0
  for (const rank of items.keys()) sums.push((total += 1 / (rank + 1) ** EXPONENT))
  return () => {
    const wanted = random() * total
    let low = 0
    let high = sums.length - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if ((sums[middle] ?? 0) < wanted) low = middle + 1
      else high = middle
    }
    const item = items[low]
    if (item === undefined) throw new Error('there is nothing to draw from')
    return item
  }
}

/** Mulberry32: the same numbers from 0 to 1 in every run. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d_2b_79_f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
