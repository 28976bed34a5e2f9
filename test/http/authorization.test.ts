import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import { SCOPES, type ServiceRule } from '../../src/service-tokens/scopes.ts'
import { type Operation, readOperations } from '../docs/document.ts'
import { type Edge, migrate, newEdge } from '../edge.ts'
import { addComment, addPost, addUser } from '../rows.ts'

beforeAll(migrate)

/** Who calls. `owner` owns the posts and comments that the paths name. */
const CALLERS = [
  'anonymous',
  'bad token',
  'ended session',
  'owner',
  'other member',
  'root token',
  'token with the scope',
  'token with all other scopes',
  'revoked token',
] as const
type Caller = (typeof CALLERS)[number]
type Outcome = 'admitted' | 401 | 403

/** What each policy answers to each caller. */
const POLICIES = {
  /** Ignores credentials. */
  open: () => 'admitted',
  /** Answers everyone. Treats a credential that is not accepted as none. */
  public: () => 'admitted',
  /** Answers everyone, but refuses a credential that is not accepted. */
  'public, strict': (caller) => (isMember(caller) || caller === 'anonymous' ? 'admitted' : 401),
  /** The same, and service tokens with the scope. */
  'public or events:read': (caller) =>
    isMember(caller) || caller === 'anonymous' ? 'admitted' : ofService('events:read', caller),
  member: (caller) => (caller === 'owner' || caller === 'other member' ? 'admitted' : 401),
  owner: (caller) => (caller === 'owner' ? 'admitted' : caller === 'other member' ? 403 : 401),
} satisfies Record<string, (caller: Caller) => Outcome>
type Policy = keyof typeof POLICIES | `service: ${ServiceRule}`

const isMember = (caller: Caller) => caller === 'owner' || caller === 'other member'

/** What a route of services answers. No token has all scopes and is the root token. */
function ofService(rule: ServiceRule, caller: Caller): Outcome {
  if (caller === 'root token') return 'admitted'
  if (caller === 'token with the scope') return rule === 'root' ? 403 : 'admitted'
  return caller === 'token with all other scopes' ? 403 : 401
}

/** The rule of a policy for services. */
const ruleOf = (policy: Policy) => (policy.startsWith('service: ') ? (policy.slice(9) as ServiceRule) : undefined)

function outcomeOf(policy: Policy, caller: Caller): Outcome {
  const rule = ruleOf(policy)
  return rule ? ofService(rule, caller) : POLICIES[policy as keyof typeof POLICIES](caller)
}

/** The policy of each operation. An operation that is not here fails a test below. */
const DECLARED: Record<string, Policy> = {
  'GET /healthz': 'open',
  'GET /readyz': 'open',
  'GET /metrics': 'service: stats:read',
  'GET /v1/stats': 'service: stats:read',
  'GET /v1/stats/route': 'service: stats:read',
  'POST /v1/maintenance': 'service: maintenance',
  'POST /v1/backup': 'service: backup',
  'GET /v1/backup/{table}': 'service: backup',
  'GET /v1/backup/{date}/{file}': 'service: backup',
  'PUT /v1/restore': 'service: root',
  'POST /v1/restore/{table}': 'service: root',
  'DELETE /v1/restore': 'service: root',
  'POST /v1/cache/invalidate': 'service: cache:invalidate',
  'POST /v1/events': 'service: events:publish',
  'POST /v1/listeners/{name}/rebuild': 'service: maintenance',
  'POST /v1/locks/{name}': 'service: locks',
  'PATCH /v1/locks/{name}': 'service: locks',
  'DELETE /v1/locks/{name}': 'service: locks',
  'POST /v1/webhooks': 'service: webhooks:manage',
  'GET /v1/webhooks': 'service: webhooks:manage',
  'GET /v1/webhooks/{id}': 'service: webhooks:manage',
  'PATCH /v1/webhooks/{id}': 'service: webhooks:manage',
  'DELETE /v1/webhooks/{id}': 'service: webhooks:manage',
  'POST /v1/webhooks/{id}/enable': 'service: webhooks:manage',
  'POST /v1/webhooks/{id}/pause': 'service: webhooks:manage',
  'POST /v1/webhooks/{id}/rotate': 'service: webhooks:manage',
  'POST /v1/webhooks/{id}/test': 'service: webhooks:manage',
  'POST /v1/webhooks/{id}/replay': 'service: webhooks:manage',
  'GET /v1/webhooks/{id}/deliveries': 'service: webhooks:manage',
  'GET /v1/deliveries/{id}': 'service: webhooks:manage',
  'POST /v1/deliveries/{id}/replay': 'service: webhooks:manage',
  'POST /v1/webhooks/portal-links': 'service: webhooks:manage',
  'POST /v1/service-tokens': 'service: root',
  'GET /v1/service-tokens': 'service: root',
  'POST /v1/service-tokens/{id}/rotate': 'service: root',
  'DELETE /v1/service-tokens/{id}': 'service: root',
  'POST /v1/reports': 'member',
  'GET /v1/moderation/reports': 'service: moderation',
  'POST /v1/moderation/reports/resolve': 'service: moderation',
  'GET /v1/moderation/contents/{id}': 'service: moderation',
  'PUT /v1/moderation/takedowns/{id}': 'service: moderation',
  'DELETE /v1/moderation/takedowns/{id}': 'service: moderation',
  'PUT /v1/moderation/suspensions/{id}': 'service: moderation',
  'DELETE /v1/moderation/suspensions/{id}': 'service: moderation',
  'GET /v1/moderation/log': 'service: moderation',
  'POST /v1/users': 'open',
  'GET /v1/users': 'public',
  'GET /v1/users/by-username/{username}': 'public',
  'GET /v1/users/{id}': 'public',
  'PATCH /v1/users/me': 'member',
  'DELETE /v1/users/me': 'member',
  'POST /v1/users/me/password': 'member',
  'POST /v1/password-resets': 'open',
  'PUT /v1/password-resets': 'open',
  'POST /v1/email-verifications': 'member',
  'PUT /v1/email-verifications': 'open',
  'GET /v1/users/me/export': 'member',
  'PUT /v1/users/{id}/follow': 'member',
  'DELETE /v1/users/{id}/follow': 'member',
  'GET /v1/users/me/blocks': 'member',
  'GET /v1/users/me/mutes': 'member',
  'PUT /v1/users/{id}/block': 'member',
  'DELETE /v1/users/{id}/block': 'member',
  'PUT /v1/users/{id}/mute': 'member',
  'DELETE /v1/users/{id}/mute': 'member',
  'GET /v1/users/{id}/followers': 'public',
  'GET /v1/users/{id}/followings': 'public',
  'GET /v1/users/{id}/posts': 'public',
  'POST /v1/sessions': 'open',
  'GET /v1/sessions': 'member',
  'DELETE /v1/sessions': 'member',
  'DELETE /v1/sessions/current': 'member',
  'POST /v1/posts': 'member',
  'GET /v1/posts': 'public',
  'GET /v1/posts/hot': 'public',
  'GET /v1/posts/{id}': 'public',
  'PATCH /v1/posts/{id}': 'owner',
  'DELETE /v1/posts/{id}': 'owner',
  'POST /v1/posts/{id}/views': 'public, strict',
  'GET /v1/posts/{id}/comments': 'public',
  'POST /v1/posts/{id}/comments': 'member',
  'GET /v1/comments/{id}/replies': 'public',
  'PATCH /v1/comments/{id}': 'owner',
  'DELETE /v1/comments/{id}': 'owner',
  'PUT /v1/posts/{id}/like': 'member',
  'DELETE /v1/posts/{id}/like': 'member',
  'PUT /v1/comments/{id}/like': 'member',
  'DELETE /v1/comments/{id}/like': 'member',
  'POST /v1/presence/heartbeat': 'member',
  'GET /v1/presence': 'public',
  'PATCH /v1/presence': 'member',
  'DELETE /v1/presence': 'member',
  'GET /v1/feed': 'member',
  'GET /v1/notifications': 'member',
  'POST /v1/notifications/read': 'member',
  'GET /v1/recommendations': 'member',
  'GET /v1/search': 'public',
  'GET /v1/rate-limit': 'public',
  'GET /v1/events/stream': 'public or events:read',
}

/** The queries and bodies without which an operation answers 400 before it looks at the owner. */
const QUERIES: Record<string, string> = {
  'GET /v1/users': '?ids=u_a',
  'GET /v1/posts': '?ids=p_a',
  'GET /v1/search': '?q=a',
  'GET /v1/events/stream': '?channels=post_events',
  'DELETE /v1/locks/{name}': '?owner=a',
}
const BODIES: Record<string, object> = {
  'PATCH /v1/posts/{id}': { text: 'Changed' },
  'PATCH /v1/comments/{id}': { text: 'Changed' },
}

test('every operation has a declared policy, and the document says the same', async () => {
  const { operations } = await readOperations()
  expect([...operations.keys()].sort()).toEqual(Object.keys(DECLARED).sort())
  const session = [{ bearer: [] }, { cookie: [] }]
  const security: Record<keyof typeof POLICIES, object[]> = {
    open: [],
    public: [{}, ...session],
    'public, strict': [{}, ...session],
    'public or events:read': [{}, ...session, { serviceToken: ['events:read'] }],
    member: session,
    owner: session,
  }
  for (const [name, operation] of operations) {
    const policy = DECLARED[name] ?? 'open'
    const rule = ruleOf(policy)
    const expected = rule ? [{ serviceToken: [rule] }] : security[policy as keyof typeof POLICIES]
    expect([name, operation.security]).toEqual([name, expected])
  }
})

test('every operation has a limit, or requires the service token', async () => {
  for (const [name, operation] of (await readOperations()).operations) {
    const isLimited = operation['x-rate-limit'] !== undefined
    expect([name, isLimited || DECLARED[name]?.startsWith('service: ')]).toEqual([name, true])
  }
})

const root = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }

/** Wrong service tokens count against their network. */
const newAddress = () => `2001:db8:${[1, 2].map(() => Math.floor(Math.random() * 65_536).toString(16)).join(':')}::1`

/** One call of an operation, on data of its own. Returns its status. */
async function call(edge: Edge, name: string, operation: Operation, caller: Caller): Promise<number> {
  const [owner, other] = [await addUser(), await addUser()]
  const post = await addPost({ authorId: owner.id })
  const ids: Record<string, string> = {
    users: other.id,
    posts: post.id,
    comments: (await addComment({ postId: post.id, authorId: owner.id })).id,
    webhooks: 'wh_unknown',
    deliveries: 'dl_unknown',
    'service-tokens': 'st_unknown',
    contents: post.id,
    takedowns: 'p_unknown',
    suspensions: 'u_unknown',
  }
  const rule = DECLARED[name] === 'public or events:read' ? 'events:read' : ruleOf(DECLARED[name] ?? 'open')
  /** A service token with some of the scopes. */
  async function tokenWith(isGiven: (scope: string) => boolean, state?: 'revoked') {
    const created = await edge.fetch('/v1/service-tokens', {
      method: 'POST',
      headers: { ...root, 'Content-Type': 'application/json' },
      body: JSON.stringify({ name: crypto.randomUUID(), scopes: SCOPES.filter(isGiven) }),
    })
    const { id, token } = await created.json<{ id: string; token: string }>()
    if (state) await edge.fetch(`/v1/service-tokens/${id}`, { method: 'DELETE', headers: root })
    return { Authorization: `Bearer ${token}` }
  }
  async function ended() {
    const headers = await edge.signIn(owner)
    await edge.fetch('/v1/sessions/current', { method: 'DELETE', headers })
    return headers
  }
  const credentials: Record<Caller, () => Record<string, string> | Promise<Record<string, string>>> = {
    anonymous: () => ({}),
    'bad token': () => ({ Authorization: `Bearer u_a.s_a.${'a'.repeat(22)}.${'a'.repeat(22)}` }),
    'ended session': ended,
    owner: () => edge.signIn(owner),
    'other member': () => edge.signIn(other),
    'root token': () => root,
    'token with the scope': () => tokenWith((scope) => scope === rule || rule === 'root'),
    'token with all other scopes': () => tokenWith((scope) => scope !== rule),
    'revoked token': () => tokenWith(() => true, 'revoked'),
  }
  const [method = '', pattern = ''] = name.split(' ')
  const names: Record<string, string> = {
    username: owner.username,
    name: 'notifications',
    table: 'users',
    date: '2026-01-01',
    file: 'manifest.json',
  }
  const path = pattern.replaceAll(/\{(\w+)\}/g, (_, parameter: string) =>
    parameter === 'id'
      ? (ids[pattern.split('/').at(pattern.includes('/moderation/') ? 3 : 2) ?? ''] ?? '')
      : (names[parameter] ?? ''),
  )
  const response = await edge.fetch(path + (QUERIES[name] ?? ''), {
    method,
    headers: { ...(await credentials[caller]()), 'Content-Type': 'application/json', 'CF-Connecting-IP': newAddress() },
    ...(operation.requestBody === undefined ? {} : { body: JSON.stringify(BODIES[name] ?? {}) }),
  })
  await response.body?.cancel()
  return response.status
}

test.each(Object.entries(DECLARED))('%s admits the callers of its policy: %s', async (name, policy) => {
  const operation = (await readOperations()).operations.get(name) ?? expect.fail(`${name} is not documented`)
  const edge = newEdge({ STREAM_LIFE_SECONDS: '0.5' })
  const outcomes = await Promise.all(
    CALLERS.map(async (caller): Promise<[Caller, number | 'admitted']> => {
      const status = await call(edge, name, operation, caller)
      const isRefusal = status === 401 || status === 403 || status === 429 || status >= 500
      expect(operation.responses, `${caller}: ${status}`).toHaveProperty(String(status))
      return [caller, isRefusal ? status : 'admitted']
    }),
  )
  await edge.settle()
  expect(outcomes).toEqual(CALLERS.map((caller) => [caller, outcomeOf(policy, caller)]))
})

test('every write but those of services refuses a cookie that another site sends, and the document says so', async () => {
  const edge = newEdge()
  for (const [name, { responses }] of (await readOperations()).operations) {
    const [method = '', pattern = ''] = name.split(' ')
    if (method === 'GET' || DECLARED[name]?.startsWith('service: ')) continue
    const response = await edge.fetch(pattern.replaceAll(/\{\w+\}/g, 'x'), {
      method,
      headers: { Cookie: '__Host-session=x', Origin: 'https://evil.example', 'Content-Type': 'application/json' },
    })
    expect([name, response.status, (await response.json<{ type: string }>()).type]).toEqual([
      name,
      403,
      '/problems/cross-site',
    ])
    expect([name, responses[403]?.description]).toEqual([name, expect.stringContaining('`cross-site`')])
  }
})

test('cheap open routes have a limit in memory, per network', async () => {
  const edge = newEdge()
  const read = async (address: string) =>
    (await edge.fetch('/readyz', { headers: { 'CF-Connecting-IP': address } })).status
  let answered = 0
  while (answered <= 240 && (await read('192.0.2.200')) === 200) answered += 1
  expect(answered).toBeGreaterThanOrEqual(120)
  expect(answered).toBeLessThanOrEqual(240) // the window may end meanwhile
  const response = await edge.fetch('/readyz', { headers: { 'CF-Connecting-IP': '192.0.2.200' } })
  expect([response.status, Number(response.headers.get('Retry-After'))]).toEqual([429, expect.any(Number)])
  expect(await read('192.0.2.201')).toBe(200)
})

test('GET /v1/rate-limit is limited itself', async () => {
  const edge = newEdge()
  const seen = []
  for (let i = 0; i < 61; i += 1) {
    const init = { headers: { 'CF-Connecting-IP': '192.0.2.202' } }
    seen.push((await edge.fetch('/v1/rate-limit', init)).status)
  }
  expect(seen).toEqual([...Array.from({ length: 60 }, () => 200), 429])
})
