import { scryptSync } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SimpleFaker } from '@faker-js/faker'
import { newId } from '../../src/ids.ts'
import type { Model, Outcome } from './model.ts'
import { CHANNEL } from './observers.ts'
import { type Account, type Product, SERVICE_TOKEN } from './product.ts'

const PASSWORD = 'correct-horse-battery'
/** A hash of that password that costs nothing, so that signing in takes no time from the rest. */
const CHEAP_HASH = `scrypt$2$1$1$c2FsdA$${scryptSync(PASSWORD, 'salt', 32, { N: 2, r: 1, p: 1 }).toString('base64url')}`
/** How long a request may take. The product answers earlier, unless it is killed. */
const REQUEST_MS = 30_000
/** The chance that a client repeats a write whose outcome is unknown, and how often it does. */
const PERSISTENCE = 0.6
const REPEATS = 3
/** Posts and comments that users still act on: the latest. */
const SHOWN = 80

/** What users do, by how often. */
const ACTIONS = {
  read: 24,
  like: 24,
  unlike: 9,
  post: 8,
  edit: 6,
  'delete post': 2,
  comment: 10,
  'delete comment': 3,
  'like comment': 5,
  'unlike comment': 2,
  follow: 6,
  unfollow: 3,
  view: 8,
  'edit profile': 4,
  heartbeat: 6,
  leave: 1,
  'read notifications': 3,
  'sign in again': 1,
  'sign out everywhere': 0.3,
} as const
type Action = keyof typeof ACTIONS

interface Answer {
  /** 0: no answer. */
  status: number
  body: Record<string, unknown>
  /** Whether the product was up all the time. */
  isFair: boolean
}

/** A post or comment in the database. `marker` is a word of its text, which no other text has. */
interface Content {
  id: string
  marker: string
  authorId: string
}

export interface Member {
  id: string
  username: string
  token: string
  posts: Content[]
  comments: Content[]
  /** Notifications that were listed when the member marked all of them as read. */
  read: Set<string>
}

export type Traffic = ReturnType<typeof createTraffic>

/** Users who use the product, and a service that publishes events. The model records everything they write. */
export function createTraffic(product: Product, model: Model, randomOf: (name: string) => SimpleFaker) {
  /** What was wrong at once: a read that failed, a session that was lost. */
  const wrong: { kind: 'failed reads' | 'lost'; what: string }[] = []
  const posts: Content[] = []
  const comments: Content[] = []
  const postOfComment = new Map<string, string>()
  /** The users and addresses that may have viewed a post. */
  const viewers = new Map<string, Set<string>>()
  let words = 0
  /** A word that is the beginning of no other: search finds words by their beginnings. */
  const newWord = (kind: string) => `${kind}${(words += 1).toString(36).padStart(6, '0')}`

  async function send(method: string, path: string, token?: string, body?: object, more: Record<string, string> = {}) {
    await product.up()
    const generation = product.generation()
    const init: RequestInit = {
      method,
      headers: {
        ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
        ...(body ? { 'Content-Type': 'application/json' } : {}),
        ...more,
      },
      signal: AbortSignal.timeout(REQUEST_MS),
    }
    if (body) init.body = JSON.stringify(body)
    const answer: Answer = await fetch(product.url + path, init)
      .then(async (response) => {
        const text = await response.text()
        const parsed: unknown = text.startsWith('{') ? JSON.parse(text) : {}
        return { status: response.status, body: parsed as Record<string, unknown>, isFair: true }
      })
      .catch(() => ({ status: 0, body: {}, isFair: true }))
    return { ...answer, isFair: product.generation() === generation }
  }

  const outcomeOf = ({ status, body }: Answer): Outcome => {
    if (status >= 200 && status < 300) return 'done'
    const isRunning = status === 409 && String(body['type']).endsWith('idempotency-key-in-use')
    return status === 0 || status >= 500 || isRunning ? 'unknown' : 'refused'
  }

  /** Signs in until it succeeds. The model hears of each session. */
  async function signIn(member: Pick<Member, 'username'>): Promise<string> {
    for (;;) {
      const answer = await send('POST', '/v1/sessions', undefined, { login: member.username, password: PASSWORD })
      model.count('sign in', outcomeOf(answer))
      const { token } = answer.body as { token: string }
      if (answer.status === 201) {
        model.write('session', `${member.username} ${token}`, 'live', 'done')
        return token
      }
      await sleep(500)
    }
  }

  /** Whether a 401 is a fault: the session was acknowledged and not ended. */
  async function renewSession(member: Member, answer: Answer): Promise<void> {
    const possible = model.possible('session', `${member.username} ${member.token}`)
    if (possible.size === 1 && possible.has('live')) {
      wrong.push({ kind: 'lost', what: `the session of ${member.username}: ${JSON.stringify(answer.body)}` })
      model.write('session', `${member.username} ${member.token}`, null, 'done')
    }
    member.token = await signIn(member)
  }

  /**
   * Sends a write, and repeats it sometimes when its outcome is unknown. `goneMeans`: the outcome of a repetition that
   * answers 404.
   */
  async function write(
    member: Member,
    random: SimpleFaker,
    [name, method, path, body, more]: [Action, string, string, object?, Record<string, string>?],
    goneMeans: Outcome = 'unknown',
  ): Promise<{ outcome: Outcome; body: Answer['body'] }> {
    const isPersistent = random.number.float() < PERSISTENCE
    let isUnknown = false
    for (let attempt = 0; ; attempt += 1) {
      const answer = await send(method, path, member.token, body, more)
      let outcome = outcomeOf(answer)
      if (answer.status === 401) {
        await renewSession(member, answer)
        outcome = 'unknown'
      }
      if (outcome === 'refused' && isUnknown) outcome = answer.status === 404 ? goneMeans : 'unknown'
      isUnknown ||= outcome === 'unknown'
      if (outcome !== 'unknown' || !isPersistent || attempt === REPEATS) {
        model.count(name, outcome)
        return { outcome, body: answer.body }
      }
      await sleep(200 * 2 ** attempt)
    }
  }

  async function read(path: string, token?: string): Promise<Answer> {
    const answer = await send('GET', path, token)
    if (answer.isFair && (answer.status === 0 || answer.status >= 500)) {
      wrong.push({ kind: 'failed reads', what: `GET ${path}: ${answer.status} ${JSON.stringify(answer.body)}` })
    }
    return answer
  }

  async function like(member: Member, random: SimpleFaker, name: Action, content: Content | undefined) {
    if (!content) return
    const isLiked = !name.startsWith('un')
    const folder = content.id.startsWith('p_') ? 'posts' : 'comments'
    const path = `/v1/${folder}/${content.id}/like`
    const sentAt = Date.now()
    const { outcome } = await write(member, random, [name, isLiked ? 'PUT' : 'DELETE', path])
    model.write('like', `${member.id} ${content.id}`, isLiked ? 'liked' : null, outcome, sentAt)
  }

  const remove = (list: Content[], content: Content) => {
    const index = list.indexOf(content)
    if (index >= 0) list.splice(index, 1)
  }

  /** One action of a member. Draws the same numbers, whatever the state. */
  async function act(member: Member, random: SimpleFaker): Promise<void> {
    const action = random.helpers.weightedArrayElement(
      Object.entries(ACTIONS).map(([value, weight]) => ({ value: value as Action, weight })), // its keys
    )
    const [choice, detail] = [random.number.float(), random.number.float()]
    /** One of the latest, the earlier of them more often: several users meet there. */
    const among = <T>(list: T[]): T | undefined => {
      const shown = list.slice(-SHOWN)
      return shown[Math.floor(choice ** 2 * shown.length)]
    }
    const [post, comment] = [among(posts), among(comments)]
    const other = members[Math.floor(choice * members.length)]

    switch (action) {
      case 'read':
        return readSomething(member, detail, post)
      case 'like':
      case 'unlike':
        return like(member, random, action, post)
      case 'like comment':
      case 'unlike comment':
        return like(member, random, action, comment)
      case 'post': {
        const marker = newWord('post')
        const text = `${marker} ${newWord('text')} of ${member.username}`
        const key = { 'Idempotency-Key': `"${marker}"` }
        const { outcome, body } = await write(member, random, [action, 'POST', '/v1/posts', { text }, key])
        model.write('post', marker, text, outcome)
        model.publish(`post_created ${text}`, outcome)
        if (outcome !== 'done') return
        const content = { id: String(body['id']), marker, authorId: member.id }
        posts.push(content)
        member.posts.push(content)
        return
      }
      case 'edit': {
        const own = among(member.posts)
        if (!own) return
        const text = `${own.marker} ${newWord('text')} of ${member.username}`
        const { outcome } = await write(member, random, [action, 'PATCH', `/v1/posts/${own.id}`, { text }])
        model.write('post', own.marker, text, outcome)
        return model.publish(`post_updated ${text}`, outcome)
      }
      case 'delete post': {
        const own = among(member.posts)
        if (!own) return
        remove(posts, own)
        remove(member.posts, own)
        const { outcome } = await write(member, random, [action, 'DELETE', `/v1/posts/${own.id}`], 'done')
        model.write('post', own.marker, null, outcome)
        return model.publish(`post_deleted ${own.id}`, outcome)
      }
      case 'comment': {
        if (!post) return
        const marker = newWord('comment')
        const text = `${marker} by ${member.username}`
        const key = { 'Idempotency-Key': `"${marker}"` }
        const path = `/v1/posts/${post.id}/comments`
        const { outcome, body } = await write(member, random, [action, 'POST', path, { text }, key])
        postOfComment.set(marker, post.id)
        model.write('comment', marker, text, outcome)
        model.publish(`comment_created ${text}`, outcome)
        if (outcome !== 'done') return
        const content = { id: String(body['id']), marker, authorId: member.id }
        comments.push(content)
        member.comments.push(content)
        return
      }
      case 'delete comment': {
        const own = among(member.comments)
        if (!own) return
        remove(comments, own)
        remove(member.comments, own)
        // After an unknown outcome, 404 can mean that its post was deleted, and the comment with it.
        const { outcome } = await write(member, random, [action, 'DELETE', `/v1/comments/${own.id}`])
        model.write('comment', own.marker, null, outcome)
        return model.publish(`comment_deleted ${own.id}`, outcome)
      }
      case 'follow':
      case 'unfollow': {
        if (!other || other === member) return
        const isFollowing = action === 'follow'
        const path = `/v1/users/${other.id}/follow`
        const { outcome } = await write(member, random, [action, isFollowing ? 'PUT' : 'DELETE', path])
        return model.write('follow', `${member.id} ${other.id}`, isFollowing ? 'follows' : null, outcome)
      }
      case 'view': {
        if (!post) return
        viewers.set(post.id, (viewers.get(post.id) ?? new Set()).add(member.id))
        return void (await write(member, random, [action, 'POST', `/v1/posts/${post.id}/views`]))
      }
      case 'edit profile': {
        const changes = { displayName: newWord('name'), bio: newWord('bio') }
        const { outcome } = await write(member, random, [action, 'PATCH', '/v1/users/me', changes])
        model.write('profile', member.id, `${changes.displayName} ${changes.bio}`, outcome)
        return model.publish(`user_updated ${changes.bio}`, outcome)
      }
      case 'heartbeat':
        return void (await write(member, random, [action, 'POST', '/v1/presence/heartbeat']))
      case 'leave':
        return void (await write(member, random, [action, 'DELETE', '/v1/presence']))
      case 'read notifications': {
        const { status, body } = await read('/v1/notifications?limit=100', member.token)
        const { outcome } = await write(member, random, [action, 'POST', '/v1/notifications/read', {}])
        if (status !== 200 || outcome !== 'done') return
        for (const { id } of body['items'] as { id: string }[]) member.read.add(id)
        return
      }
      case 'sign in again': {
        const { token } = member
        member.token = await signIn(member)
        const answer = await send('DELETE', '/v1/sessions/current', token)
        // 401: an earlier sign-out of unknown outcome has ended it.
        const outcome = answer.status === 401 ? 'done' : outcomeOf(answer)
        model.count('sign out', outcome)
        return model.write('session', `${member.username} ${token}`, null, outcome)
      }
      case 'sign out everywhere': {
        const answer = await send('DELETE', '/v1/sessions', member.token)
        const outcome = outcomeOf(answer)
        model.count(action, outcome)
        for (const key of model.keys('session')) {
          if (key.startsWith(`${member.username} `)) model.write('session', key, null, outcome)
        }
        member.token = await signIn(member)
      }
    }
  }

  async function readSomething(member: Member, detail: number, post: Content | undefined): Promise<void> {
    const paths = [
      '/v1/posts/hot?limit=50',
      `/v1/users/${member.id}`,
      `/v1/users/by-username/${member.username}`,
      `/v1/users/${member.id}/posts`,
      `/v1/users?ids=${members.map(({ id }) => id).join()}`,
      ...(post ? [`/v1/posts/${post.id}`, `/v1/posts/${post.id}/comments`, `/v1/search?q=${post.marker}`] : []),
      '/v1/feed',
      '/v1/notifications',
      '/v1/recommendations',
      '/v1/sessions',
      `/v1/presence?ids=${member.id}`,
    ]
    const path = paths[Math.floor(detail * paths.length)] ?? ''
    const isPrivate = /^.v1.(feed|notifications|recommendations|sessions)/.test(path)
    const answer = await read(path, isPrivate || detail > 0.3 ? member.token : undefined)
    if (answer.status === 401) await renewSession(member, answer)
  }

  /** A service that publishes events. It repeats each until it is acknowledged, or gives up. */
  async function publish(random: SimpleFaker, endsAt: number): Promise<void> {
    for (let n = 0; Date.now() < endsAt; n += 1) {
      await sleep(random.number.int({ min: 50, max: 400 }))
      const isPersistent = random.number.float() < PERSISTENCE
      const event = {
        id: `ev_soak_${n}`,
        channel: CHANNEL,
        type: 'soaked',
        subject: `s_${random.number.int(9)}`,
        data: { n },
        audience: 'everyone',
      }
      const attempts = isPersistent ? 1 + REPEATS : 1
      let outcome: Outcome = 'unknown'
      for (let attempt = 0; attempt < attempts && outcome === 'unknown'; attempt += 1) {
        outcome = outcomeOf(await send('POST', '/v1/events', SERVICE_TOKEN, event))
      }
      model.count('publish', outcome)
      model.publish(`soaked ${event.id}`, outcome)
    }
  }

  const members: Member[] = []

  return {
    members,
    wrong,
    viewers,
    postOfComment,
    send,
    /** Creates a webhook. */
    subscribe: (endpoint: object) => send('POST', '/v1/webhooks', SERVICE_TOKEN, endpoint),

    /** Creates the accounts of the members, before the product starts. */
    async createMembers(size: number): Promise<void> {
      const accounts: Account[] = Array.from({ length: size }, (_, i) => ({
        id: newId('u'),
        username: `soak_user_${i}`,
        passwordHash: CHEAP_HASH,
        displayName: newWord('name'),
      }))
      await product.createAccounts(accounts)
      for (const { id, username, displayName } of accounts) {
        model.write('profile', id, `${displayName} `, 'done')
        members.push({ id, username, token: '', posts: [], comments: [], read: new Set() })
      }
    },

    /** Signs all members in. */
    async begin(): Promise<void> {
      // The accounts were inserted without events.
      await send('POST', '/v1/listeners/search/rebuild', SERVICE_TOKEN)
      for (const member of members) member.token = await signIn(member)
    },

    /** Runs until `endsAt` (Unix ms). */
    async run(endsAt: number): Promise<void> {
      const live = async (member: Member) => {
        const random = randomOf(member.username)
        while (Date.now() < endsAt) {
          const pauseMs = random.number.int({ min: 20, max: 400 })
          await sleep(pauseMs)
          await act(member, random)
        }
      }
      await Promise.all([...members.map(live), publish(randomOf('service'), endsAt)])
    },
  }
}
