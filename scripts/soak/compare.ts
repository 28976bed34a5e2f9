/**
 * Compares what was acknowledged with the database, and the database with everything that follows from it: its own
 * counts, Redis, the API, search, notifications, sessions, presence, webhooks and streams.
 */
import { keys } from '../../src/keys.ts'
import { gapsIn, type Model, type Value } from './model.ts'
import { aboutOf, CHANNELS, type Observed, type Reader, type Receiver } from './observers.ts'
import type { Product } from './product.ts'
import type { Traffic } from './traffic.ts'

export interface Finding {
  kind: 'lost' | 'ghosts' | 'wrong counts' | 'wrong answers' | 'sequence gaps' | 'failed reads'
  what: string
}

interface PostRow {
  id: string
  authorId: string
  text: string
  likes: number
  comments: number
  views: number
  createdAt: number
}

interface CommentRow {
  id: string
  postId: string
  authorId: string
  text: string
  likes: number
}

interface EventRow {
  id: string
  channel: string
  subject: string
  sequence: number
  publicSequence: number
  audience: string
}

/** Requests at a time. */
const PARALLEL = 8

async function inParallel<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items]
  const next = async () => {
    for (let item = queue.pop(); item !== undefined; item = queue.pop()) await work(item)
  }
  await Promise.all(Array.from({ length: PARALLEL }, next))
}

const chunksOf = <T>(items: T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size))

/** The word of a text that no other text has. */
const markerOf = (text: string): string => text.split(' ', 1)[0] ?? ''

/** The rows of the database that the comparison needs. */
async function readDatabase(product: Product) {
  const { rows } = product
  const posts = await rows<PostRow>(`SELECT id, author_id AS authorId, text, likes_count AS likes,
    comments_count AS comments, views_count AS views, created_at AS createdAt FROM posts`)
  const comments = await rows<CommentRow>(
    'SELECT id, post_id AS postId, author_id AS authorId, text, likes_count AS likes FROM comments',
  )
  const likes = await rows<{ contentId: string; userId: string }>(`
    SELECT post_id AS contentId, user_id AS userId FROM post_likes WHERE is_liked
    UNION ALL SELECT comment_id, user_id FROM comment_likes WHERE is_liked`)
  const follows = await rows<{ id: string; followerId: string; followedId: string }>(
    'SELECT id, follower_id AS followerId, followed_id AS followedId FROM follows',
  )
  const users = await rows<
    Record<'followers' | 'followings' | 'posts', number> & Record<'id' | 'name' | 'bio', string>
  >(
    `SELECT id, display_name AS name, bio, followers_count AS followers, followings_count AS followings,
      posts_count AS posts FROM users`,
  )
  const events = await rows<EventRow>(
    'SELECT id, channel, subject, sequence, public_sequence AS publicSequence, audience FROM events',
  )
  return { posts, comments, likes, follows, users, events }
}
type Database = Awaited<ReturnType<typeof readDatabase>>

/**
 * Whether every like that was sent until `until` (Unix ms) has arrived everywhere: the database has those that were
 * acknowledged and the hints of their counts, and Redis agrees with the database. Then no message in a queue has work to do
 * that Redis or the database cannot repeat.
 */
export async function areLikesSettled(product: Product, model: Model, until: number): Promise<boolean> {
  const { likes, posts, comments } = await readDatabase(product)
  const liked = new Set(likes.map(({ userId, contentId }) => `${userId} ${contentId}`))
  const contents = new Map([...posts, ...comments].map((content) => [content.id, content.likes]))
  const pairs = model.keys('like').filter((key) => contents.has(key.split(' ')[1] ?? ''))
  const isInDatabase = pairs
    .filter((key) => model.sentAt('like', key) <= until)
    .every((key) => model.judge('like', key, liked.has(key) ? 'liked' : null) === 'right')
  if (!isInDatabase) return false
  const unsaid = await product.rows(`
    SELECT id FROM (SELECT id, likes_count, likes_changed_at FROM posts UNION ALL SELECT id, likes_count, likes_changed_at FROM comments)
    WHERE likes_changed_at <= ${until} AND likes_count <> coalesce((
      SELECT data ->> 'value' FROM events
      WHERE type = 'counter_update' AND subject = id AND data ->> 'counterType' = 'likes'
      ORDER BY created_at DESC LIMIT 1
    ), 0)`)
  if (unsaid.length > 0) return false

  const ids = [...contents.keys()]
  const [unwritten, tallies, counts, ...states] = (await product.redis([
    ['ZCOUNT', keys.likesUnwritten, '1', String(until)],
    ['MGET', '', ...ids.map((id) => keys.tally('likes', id))], // an MGET of no key is an error
    ['MGET', '', ...ids.map((id) => keys.count('likes', id))],
    ...pairs.map((key) => {
      const [userId = '', contentId = ''] = key.split(' ')
      return ['HMGET', keys.likedBy(userId), contentId, ':from']
    }),
  ])) as [number, ...(string | null)[][]]
  const hasCount = (id: string, i: number) => {
    const [count, changedAt = 0] = numbersIn(tallies?.[i + 1]) ?? [Number(counts?.[i + 1] ?? contents.get(id))]
    return changedAt > until || count === contents.get(id)
  }
  const hasState = (key: string, i: number) => {
    const [state, from] = states[i] ?? []
    const numbers = numbersIn(state)
    if (numbers) return (numbers.at(-1) ?? 0) > until || (numbers[0] === 1) === liked.has(key)
    const isNever = from?.startsWith('"') === true && from.slice(1, -1) <= (key.split(' ')[1] ?? '')
    return !(isNever && liked.has(key))
  }
  return unwritten === 0 && ids.every(hasCount) && pairs.every(hasState)
}

/** The numbers in a tally or a like state of Redis. Undefined for none. */
const numbersIn = (text: string | null | undefined) =>
  text?.startsWith('"') === true ? text.slice(1, -1).split(':').map(Number) : undefined

/** Which likes, posts, comments, follows and profiles are missing from the database, or must not be there. */
function judgeRows(database: Database, model: Model, postOfComment: Map<string, string>): Finding[] {
  const findings: Finding[] = []
  const { posts, comments, likes, follows, users } = database
  function judge(
    kind: 'post' | 'comment' | 'like' | 'follow' | 'profile',
    found: Map<string, Value>,
    isMoot?: (key: string) => boolean,
  ) {
    for (const key of new Set([...model.keys(kind), ...found.keys()])) {
      const value = found.get(key) ?? null
      if (value === null && isMoot?.(key) === true) continue
      const verdict = model.judge(kind, key, value)
      if (verdict === 'right') continue
      const possible = [...model.possible(kind, key)].map(String).join(' or ')
      findings.push({
        kind: verdict === 'lost' ? 'lost' : 'ghosts',
        what: `${kind} ${key}: D1 has ${value}, not ${possible}`,
      })
    }
  }
  const contents = new Set([...posts, ...comments].map(({ id }) => id))
  judge('post', new Map(posts.map(({ text }) => [markerOf(text), text])))
  judge('comment', new Map(comments.map(({ text }) => [markerOf(text), text])), (marker) => {
    return !contents.has(postOfComment.get(marker) ?? '') // deleted with its post
  })
  judge('like', new Map(likes.map(({ userId, contentId }) => [`${userId} ${contentId}`, 'liked'])), (key) => {
    return !contents.has(key.split(' ')[1] ?? '')
  })
  judge('follow', new Map(follows.map((row) => [`${row.followerId} ${row.followedId}`, 'follows'])))
  judge('profile', new Map(users.map(({ id, name, bio }) => [id, `${name} ${bio}`])))
  return findings
}

/** The numbers that triggers keep, from the rows they count. */
function countRows({ likes, comments, posts, follows }: Database) {
  const count = (ids: string[]) => {
    const counts = new Map<string, number>()
    for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1)
    return (id: string) => counts.get(id) ?? 0
  }
  return {
    likes: count(likes.map(({ contentId }) => contentId)),
    comments: count(comments.map(({ postId }) => postId)),
    posts: count(posts.map(({ authorId }) => authorId)),
    followers: count(follows.map(({ followedId }) => followedId)),
    followings: count(follows.map(({ followerId }) => followerId)),
  }
}

/** Everything that is wrong now. `losses`: how often Redis lost keys. */
export async function compare(
  product: Product,
  model: Model,
  traffic: Traffic,
  receiver: Receiver,
  readers: Reader[],
  losses: number,
): Promise<Finding[]> {
  const arrived = [...receiver.events.values()]
  const lastHints = new Map<string, Observed>()
  for (const event of arrived) {
    if (event.sequence !== undefined) continue
    const about = aboutOf(event)
    if ((lastHints.get(about)?.time ?? '') <= event.time) lastHints.set(about, event)
  }
  const database = await readDatabase(product) // after that: it has every event that arrived
  const findings = judgeRows(database, model, traffic.postOfComment)
  const { posts, comments, likes, follows, users, events } = database
  const counted = countRows(database)
  const report = (kind: Finding['kind'], what: string) => void findings.push({ kind, what })
  const equal = (kind: Finding['kind'], what: string, found: unknown, wanted: unknown): void => {
    const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)]
    if (a !== b) report(kind, `${what}: ${a}, not ${b}`)
  }
  async function read(path: string, token?: string): Promise<Record<string, unknown>> {
    for (let attempt = 0; ; attempt += 1) {
      const { status, body } = await traffic.send('GET', path, token)
      if (status === 200) return body
      if (attempt < 3) continue
      report('failed reads', `GET ${path}: ${status} ${JSON.stringify(body)}`)
      return { items: [] }
    }
  }
  async function readAll<T>(path: string, token?: string): Promise<T[]> {
    const all: T[] = []
    for (let cursor = ''; ;) {
      const joint = path.includes('?') ? '&' : '?'
      const page = await read(`${path}${joint}limit=100${cursor === '' ? '' : `&cursor=${cursor}`}`, token)
      all.push(...(page['items'] as T[]))
      if (typeof page['nextCursor'] !== 'string') return all
      cursor = page['nextCursor']
    }
  }

  // The database: each count equals its rows.
  for (const { id, likes, comments } of posts) {
    equal('wrong counts', `likes of ${id} in D1`, likes, counted.likes(id))
    equal('wrong counts', `comments of ${id} in D1`, comments, counted.comments(id))
  }
  for (const { id, likes } of comments) equal('wrong counts', `likes of ${id} in D1`, likes, counted.likes(id))
  for (const { id, followers, followings, posts } of users) {
    equal('wrong counts', `followers of ${id} in D1`, followers, counted.followers(id))
    equal('wrong counts', `followings of ${id} in D1`, followings, counted.followings(id))
    equal('wrong counts', `posts of ${id} in D1`, posts, counted.posts(id))
  }

  // Redis: a count that it holds equals that of the database.
  const held = [
    ...posts.flatMap(({ id, likes, comments, views }) => [
      { key: keys.count('likes', id), count: likes },
      { key: keys.count('comments', id), count: comments },
      { key: keys.count('views', id), count: views },
    ]),
    ...comments.map(({ id, likes }) => ({ key: keys.count('likes', id), count: likes })),
  ]
  for (const some of chunksOf(held, 500)) {
    const [values] = (await product.redis([['MGET', ...some.map(({ key }) => key)]])) as (string | null)[][]
    for (const [i, { key, count }] of some.entries()) {
      const value = values?.[i] ?? null
      if (value !== null) equal('wrong counts', `${key} in Redis`, Number(value), count)
    }
  }

  // The API: posts, as every member sees them.
  const liked = new Set(likes.map(({ userId, contentId }) => `${userId} ${contentId}`))
  const byId = new Map(posts.map((post) => [post.id, post]))
  const ids = [...byId.keys()]
  interface ShownPost {
    id: string
    text: string
    likesCount: number
    commentsCount: number
    viewsCount: number
    likedByMe?: boolean
  }
  function equalPost(who: string, shown: ShownPost, isLiked: boolean | undefined): void {
    const post = byId.get(shown.id)
    if (!post) return report('ghosts', `${who} sees ${shown.id}, which was deleted`)
    const { likesCount, commentsCount, viewsCount } = shown
    equal('wrong answers', `${who} sees the text of ${shown.id}`, shown.text, post.text)
    equal(
      'wrong counts',
      `${who} sees the counts of ${shown.id}`,
      [likesCount, commentsCount, viewsCount],
      [post.likes, post.comments, post.views],
    )
    equal('wrong counts', `${who} sees likedByMe of ${shown.id}`, shown.likedByMe, isLiked)
  }
  await inParallel(
    traffic.members.flatMap((member) => chunksOf(ids, 100).map((some) => ({ member, some }))),
    async ({ member, some }) => {
      const { items } = (await read(`/v1/posts?ids=${some.join()}`, member.token)) as { items: ShownPost[] }
      for (const shown of items) equalPost(member.username, shown, liked.has(`${member.id} ${shown.id}`))
      equal('lost', `${member.username} sees posts`, items.map(({ id }) => id).join(), some.join())
    },
  )
  for (const shown of (await read('/v1/posts/hot?limit=100'))['items'] as ShownPost[])
    equalPost('hot feed', shown, undefined)
  for (const { id, views } of posts) {
    const most = (traffic.viewers.get(id)?.size ?? 0) * (losses + 1) // as documented: after a loss they may count again
    if (views > most) report('wrong counts', `views of ${id}: ${views}, at most ${most} are possible`)
  }

  // The API: comments, profiles, posts of authors.
  const commentsByPost = Map.groupBy(comments, ({ postId }) => postId)
  await inParallel(ids, async (id) => {
    const shown = await readAll<{ id: string; text: string; likesCount: number }>(`/v1/posts/${id}/comments`)
    const wanted = (commentsByPost.get(id) ?? []).toSorted((a, b) => (a.id < b.id ? 1 : -1))
    equal(
      'wrong answers',
      `comments on ${id}`,
      shown.map(({ id, text }) => [id, text]),
      wanted.map(({ id, text }) => [id, text]),
    )
    equal(
      'wrong counts',
      `likes of comments on ${id}`,
      shown.map((c) => c.likesCount),
      wanted.map((c) => c.likes),
    )
  })
  await inParallel(users, async (user) => {
    const shown = await read(`/v1/users/${user.id}`)
    equal('wrong answers', `profile ${user.id}`, [shown['displayName'], shown['bio']], [user.name, user.bio])
    equal(
      'wrong counts',
      `counts of ${user.id}`,
      [shown['followersCount'], shown['followingsCount'], shown['postsCount']],
      [user.followers, user.followings, user.posts],
    )
    const own = await readAll<ShownPost>(`/v1/users/${user.id}/posts`)
    const wanted = posts.filter(({ authorId }) => authorId === user.id).map(({ id }) => id)
    equal(
      'wrong answers',
      `posts of ${user.id}`,
      own.map(({ id }) => id),
      wanted.toSorted().toReversed(),
    )
  })

  await compareSearch()
  await compareNotifications()
  await compareSessions()
  await comparePresence()
  compareEvents()
  return findings

  /** Each post and profile is found by its latest words, and by no earlier ones. */
  async function compareSearch(): Promise<void> {
    const found = async (word: string, type: 'posts' | 'users') => {
      const items = await readAll<{ post?: { id: string }; user?: { id: string } }>(`/v1/search?q=${word}&type=${type}`)
      return items.map(({ post, user }) => post?.id ?? user?.id)
    }
    const idsByMarker = new Map(posts.map(({ id, text }) => [markerOf(text), id]))
    await inParallel(model.keys('post'), async (marker) => {
      const id = idsByMarker.get(marker)
      const post = byId.get(id ?? '')
      equal('wrong answers', `search for ${marker}`, await found(marker, 'posts'), id === undefined ? [] : [id])
      if (post)
        equal('wrong answers', `search for ${post.text}`, await found(post.text.split(' ')[1] ?? '', 'posts'), [id])
      for (const word of model.words('post', marker)) {
        const isCurrent = post?.text.split(' ').includes(word) === true
        if (!isCurrent) equal('wrong answers', `search for the old ${word}`, await found(word, 'posts'), [])
      }
    })
    await inParallel(users, async ({ id, name }) => {
      equal('wrong answers', `search for ${name}`, await found(name, 'users'), [id])
    })
  }

  /** Each member has the notifications that follow from the database, and none that was read is unread again. */
  async function compareNotifications(): Promise<void> {
    const authors = new Map([...posts, ...comments].map(({ id, authorId }) => [id, authorId]))
    const likers = Map.groupBy(likes, ({ contentId }) => contentId)
    await inParallel(traffic.members, async (member) => {
      const wanted: string[] = []
      for (const [id, of] of likers) {
        const others = of.filter(({ userId }) => userId !== member.id).length
        if (authors.get(id) === member.id && others > 0) wanted.push(`like ${id} ${others}`)
      }
      for (const { id, postId, authorId } of comments) {
        if (byId.get(postId)?.authorId === member.id && authorId !== member.id) wanted.push(`comment ${id} 1`)
      }
      for (const { id, followerId, followedId } of follows) {
        if (followedId === member.id) wanted.push(`follow ${followerId} 1`)
        if (followerId !== member.id) continue
        for (const post of posts) {
          // Since the follow: both ids begin with their time.
          if (post.authorId === followedId && post.id.slice(2) > id.slice(2, 12)) wanted.push(`post ${post.id} 1`)
        }
      }
      interface Shown {
        id: string
        type: string
        actorIds: string[]
        actorsCount: number
        postId?: string
        commentId?: string
        isRead: boolean
      }
      const shown = await readAll<Shown>('/v1/notifications', member.token)
      const subjectOf = ({ type, actorIds, postId, commentId }: Shown) =>
        type === 'follow' ? actorIds[0] : (commentId ?? postId)
      const names = shown.map((item) => `${item.type} ${subjectOf(item)} ${item.actorsCount}`)
      for (const name of wanted.filter((name) => !names.includes(name))) {
        report('wrong answers', `${member.username} has no notification: ${name}`)
      }
      for (const name of names.filter((name, i) => !wanted.includes(name) || names.indexOf(name) !== i)) {
        report('wrong answers', `${member.username} has a notification that is not right: ${name}`)
      }
      for (const { id, isRead } of shown) {
        if (!isRead && member.read.has(id)) report('lost', `${member.username} has read ${id}`)
      }
    })
  }

  /** Sessions that were not ended work, and those that were ended do not. */
  async function compareSessions(): Promise<void> {
    await inParallel(model.keys('session'), async (key) => {
      const { status } = await traffic.send('GET', '/v1/sessions', key.split(' ')[1])
      const value = status === 200 ? 'live' : null
      const verdict = model.judge('session', key, value)
      if (verdict !== 'right')
        report(verdict === 'lost' ? 'lost' : 'ghosts', `session of ${key.split(' ')[0]}: ${status}`)
    })
  }

  /** Readers see who is online, and the last status change of each member that was announced agrees. */
  async function comparePresence(): Promise<void> {
    const { items } = await read(`/v1/presence?ids=${traffic.members.map(({ id }) => id).join()}`)
    const online = (items as { isOnline: boolean }[]).map(({ isOnline }) => isOnline)
    for (const [i, { id }] of traffic.members.entries()) {
      equal('wrong answers', `whether ${id} is online`, online[i], isPresent(i))
      equalHint(`user_status_change ${id} `, 'status', isPresent(i) ? 'online' : 'offline', 'offline')
    }
  }

  /**
   * The last hint that the endpoint received is the state; `unsaid` is what holds where there is none. Streams promise
   * less: while Redis fails or the product dies they may miss a hint, until the next one or their end.
   */
  function equalHint(about: string, field: string, state: unknown, unsaid: unknown): void {
    equal('wrong counts', `the last hint to the endpoint, ${about}`, lastHints.get(about)?.data[field] ?? unsaid, state)
  }

  function compareEvents(): void {
    // The endpoint received each fact of the database, and what was acknowledged is among them. Of hints it received the last.
    const stored = new Set(events.map(({ id }) => id))
    const ids = new Set(arrived.map(({ id }) => id))
    for (const { id, channel, sequence } of events) {
      if (CHANNELS.includes(channel) && sequence > 0 && !ids.has(id)) {
        report('lost', `event ${id} did not reach the endpoint`)
      }
    }
    for (const id of ids) if (!stored.has(id)) report('ghosts', `event ${id} is not in D1`)
    const { lost, ghosts } = model.judgeEvents(new Set(arrived.flatMap((event) => nameOf(event) ?? [])))
    for (const name of lost) report('lost', `event ${name}`)
    for (const name of ghosts) report('ghosts', `event ${name}`)

    const facts = arrived.flatMap(({ sequence, ...event }) => (sequence === undefined ? [] : [{ ...event, sequence }]))
    const bySubject = Map.groupBy(facts, ({ channel, subject }) => `${channel} ${subject}`)
    for (const [subject, some] of bySubject) {
      const sequences = new Set(some.map(({ sequence }) => sequence))
      const gaps = gapsIn(sequences, range(Math.max(...sequences)))
      if (gaps.length > 0 || sequences.size !== some.length) {
        report('sequence gaps', `webhook, ${subject}: ${gaps.join()} of ${some.length} events`)
      }
    }

    // Follows alternate, and the last event about each is the state.
    const followed = new Set(follows.map(({ followerId, followedId }) => `${followerId} ${followedId}`))
    const changes = facts.filter(({ type }) => type === 'user_followed' || type === 'user_unfollowed')
    const byPair = Map.groupBy(changes, ({ data }) => `${String(data['followerId'])} ${String(data['followedId'])}`)
    for (const pair of new Set([...byPair.keys(), ...followed])) {
      const types = (byPair.get(pair) ?? []).toSorted((a, b) => a.sequence - b.sequence).map(({ type }) => type)
      if (types.some((type, i) => type === (i === 0 ? 'user_unfollowed' : types[i - 1]))) {
        report('wrong answers', `events about ${pair}: ${types.join()}`)
      }
      equal('wrong answers', `the last event about ${pair}`, types.at(-1) === 'user_followed', followed.has(pair))
    }

    for (const { id, likes, comments, views } of posts) {
      for (const [counter, count] of Object.entries({ likes, comments, views })) {
        equalHint(`counter_update ${id} ${counter}`, 'value', count, 0)
      }
    }
    for (const { id, likes } of comments) equalHint(`counter_update ${id} likes`, 'value', likes, 0)

    // Streams promise every event but those of counts: the next one corrects a lost one.
    for (const reader of readers) {
      const wanted = Map.groupBy(
        events.filter(({ channel, sequence }) => CHANNELS.includes(channel) && sequence > 0),
        ({ channel, subject }) => `${channel} ${subject}`,
      )
      for (const some of wanted.values()) {
        const [{ channel, subject }] = some as [EventRow] // groups have a member
        const numbers = some.map((event) =>
          reader.viewer === 'service' ? serviceSequenceOf(event) : event.publicSequence,
        )
        const gaps = gapsIn(reader.sequencesOf(channel, subject), numbers, reader.requiredAfter(channel, subject))
        if (gaps.length > 0)
          report('sequence gaps', `stream of a ${reader.viewer}, ${channel} ${subject}: ${gaps.join()}`)
      }
    }
  }
}

/** Whether a member is online at the end. The others leave. */
export const isPresent = (index: number): boolean => index % 2 === 0

const serviceSequenceOf = ({ audience, sequence }: EventRow) => (audience === '"others"' ? 0 : sequence)

const range = (last: number) => Array.from({ length: last }, (_, i) => i + 1)

/** The name by which the model knows an event; undefined for events that it does not count. */
function nameOf({ type, id, data }: Observed): string | undefined {
  switch (type) {
    case 'post_created':
    case 'post_updated':
    case 'comment_created':
      return `${type} ${String(data['text'])}`
    case 'post_deleted':
      return `${type} ${String(data['postId'])}`
    case 'comment_deleted':
      return `${type} ${String(data['commentId'])}`
    case 'user_updated':
      return `${type} ${String(data['bio'])}`
    case 'soaked':
      return `${type} ${id}`
    default:
      return undefined
  }
}
