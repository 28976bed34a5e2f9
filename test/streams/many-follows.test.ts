import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { migrate, newEdge } from '../edge.ts'
import { addFollow, addUser } from '../rows.ts'
import { custom, open, publish } from './world.ts'

beforeAll(migrate)

test('a viewer who follows more users than a stream holds sees what all of them show to followers', async () => {
  const edge = newEdge()
  const [ada, fan, stranger] = [await addUser(), await addUser(), await addUser()]
  await addFollow(fan.id, ada.id, 1_000) // the oldest of 10 001 follows
  const id = `printf('many%022d', i)`
  const numbered = 'WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)'
  await env.DB.batch([
    env.DB.prepare(
      `${numbered} INSERT INTO users (id, username, email, password_hash, display_name, created_at, updated_at)
      SELECT 'u_' || ${id}, ${id}, ${id}, '', '', 1, 1 FROM n`,
    ),
    env.DB.prepare(
      `${numbered} INSERT INTO follows (follower_id, followed_id, id, created_at)
      SELECT ?, 'u_' || ${id}, 'f_' || ${id}, 1 FROM n`,
    ).bind(fan.id),
  ])
  const stream = await open(edge, await edge.signIn(fan))
  for (const [type, subject] of [
    ['oldest', ada.id],
    ['stranger', stranger.id],
    ['newest', `u_many${'10000'.padStart(22, '0')}`],
  ] as const) {
    await publish(edge, custom(type, { audience: 'followers', subject }))
  }
  for (const type of ['oldest', 'newest']) expect((await stream.event()).type).toBe(type)
  await stream.close()
  await edge.settle()
})
