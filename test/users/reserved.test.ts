import * as v from 'valibot'
import { beforeAll, expect, test } from 'vitest'
import { notReserved } from '../../src/users/reserved.ts'
import { expectRefused, migrate, newEdge } from '../edge.ts'

beforeAll(migrate)

const isReserved = (name: string) => !v.safeParse(v.pipe(v.string(), notReserved), name).success

test.each(['admin', 'root', 'support', 'moderator', 'help', 'api', 'me', 'threads_edge'])('%s is reserved', (name) => {
  expect(isReserved(name)).toBe(true)
})

test.each(['Admin', '_admin_', 'a_d_m_i_n', 'adm1n', 'r00t', 'supp0rt', 'he1p', 'heip', '4dm1n'])(
  '%s reads like a reserved name',
  (name) => expect(isReserved(name)).toBe(true),
)

test.each(['ada', 'admiral', 'badminton', 'rooted', 'supporter', 'helpful', 'admin_fan', 'tom2'])(
  '%s is free',
  (name) => expect(isReserved(name)).toBe(false),
)

test('nobody signs up with a reserved username, in any case', async () => {
  const edge = newEdge()
  const account = { email: 'root@example.test', password: 'correct horse', displayName: 'Root' }
  const signUp = (username: string) =>
    edge.fetch('/v1/users', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ ...account, username }),
    })
  for (const username of ['root', 'ROOT', 'Admin_']) await expectRefused(signUp(username), 'body', 'username')
  expect((await signUp('rooted')).status).toBe(201)
})
