/** The ceiling: a Worker with one Hono route that does no work. */
import { Hono } from 'hono'

const profile = {
  id: 'u_01jg3nezdzwn4m34x2t037skhr',
  username: 'ada',
  displayName: 'Ada Lovelace',
  bio: 'Mostly poetical science.',
  followersCount: 170,
  followingsCount: 22,
  postsCount: 95,
  createdAt: '2024-12-27T08:59:21.919Z',
  version: 1,
}

export default new Hono().get('/v1/users/:id', (c) => c.json({ ...profile, id: c.req.param('id') }))
