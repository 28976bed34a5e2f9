// @ts-check
import { createClient, Problem } from './client.js'
import { avatarOf, byId, element, marked, notice, notificationCard, postCard, showCounts, userCard } from './view.js'

/** @import { OwnUser, Post, User } from './client.js' */

// The session is an HttpOnly cookie, which this page cannot read. So it remembers who signed in.
const api = createClient({ auth: 'cookie', onSession: (session) => session ?? signedOut() })
const ME = 'example-user'
/** Each tab is a device: a user goes offline with the last one. */
const deviceId = crypto.randomUUID()
const HEARTBEAT_MS = 120_000
/** Events come in bursts. What they change is loaded once. */
const SETTLE_MS = 500

/** @type {OwnUser | undefined} */
let me
/** What is shown. @type {Map<string, Post>} */
const posts = new Map()
/** @type {Map<string, User>} */
const users = new Map()
/** The posts that appeared since. @type {Post[]} */
let fresh = []
/** Ends the loading of the view before. */
let leaving = new AbortController()
/** Loads the next page. */
let more = async () => {}

const content = byId('content')
const dialog = /** @type {HTMLDialogElement} */ (byId('sign-in'))

// Who is signed in

async function restore() {
  const id = localStorage.getItem(ME)
  if (id === null) return
  const user = await api.getUser({ id })
  if ('email' in user) signedIn(user) // only the owner sees it
  else localStorage.removeItem(ME)
}

/** @param {OwnUser} user */
function signedIn(user) {
  me = user
  users.set(user.id, user)
  localStorage.setItem(ME, user.id)
  showAccount()
  void beat()
  void showUnread()
}

function signedOut() {
  if (!me) return
  me = undefined
  localStorage.removeItem(ME)
  showAccount()
  follow() // as a stranger
  show()
}

function showAccount() {
  const button = element('button', { type: 'button', class: me ? 'quiet' : 'primary' }, me ? 'Sign out' : 'Sign in')
  button.addEventListener('click', () => (me ? void act(leave()) : dialog.showModal()))
  byId('account').replaceChildren(...(me ? [element('span', { class: 'account-name' }, me.displayName)] : []), button)
  for (const link of document.querySelectorAll('[data-member]')) link.toggleAttribute('hidden', !me)
}

async function leave() {
  await api.goOffline({ deviceId }).catch(() => {}) // after five minutes of silence it is so anyway
  await api.signOut()
}

async function beat() {
  if (me && !document.hidden) await act(api.sendHeartbeat({ deviceId }))
  await showOnline()
}

// The views

/** @type {Record<string, (signal: AbortSignal) => Promise<void>>} */
const views = {
  async hot(signal) {
    const { items } = await api.listHotPosts({ limit: 30 }, { signal })
    await showPosts(items, signal)
  },
  async following(signal) {
    /** @param {string} [cursor] */
    async function load(cursor) {
      const page = await api.listFeed({ limit: 20, ...(cursor === undefined ? {} : { cursor }) }, { signal })
      await showPosts(page.items, signal)
      const { nextCursor } = page
      more = async () => load(nextCursor ?? undefined)
      byId('more').hidden = nextCursor === null
    }
    await load()
    if (posts.size === 0) content.append(notice('You follow nobody who has written a post.'))
  },
  async search(signal) {
    const q = queryOfView()
    const [found, people] = await Promise.all([
      api.search({ q, limit: 20 }, { signal }),
      api.search({ q, type: 'users', limit: 5 }, { signal }),
    ])
    for (const result of people.items) {
      if (!('user' in result)) continue
      const { displayName, bio } = result.snippets
      content.append(userCard(result.user, marked(displayName), marked(bio)))
    }
    const results = found.items.flatMap((result) => ('post' in result ? [result] : []))
    await loadUsers(results.map(({ post }) => post.authorId))
    for (const { post, snippets } of results) append(post, marked(snippets.text))
    if (content.childElementCount === 0) content.append(notice(`Nothing has the words “${q}”.`))
  },
  async notifications(signal) {
    const { items } = await api.listNotifications({ limit: 30 }, { signal })
    await loadUsers(items.flatMap(({ actorIds }) => actorIds.slice(0, 1)))
    for (const item of items) {
      const actor = users.get(item.actorIds[0] ?? '')
      if (actor) content.append(notificationCard(item, actor))
    }
    if (items.length === 0) content.append(notice('Nothing yet.'))
    const [newest] = items
    if (newest) await api.markNotificationsRead({ until: newest.id }, { signal })
    showCount(0)
  },
}

const TITLES = /** @type {Record<string, string>} */ ({
  hot: 'Hot',
  following: 'Following',
  notifications: 'Notifications',
})

const viewName = () => /^#\/(\w+)/.exec(location.hash)?.[1] ?? 'hot'
const queryOfView = () => new URLSearchParams(location.hash.split('?')[1]).get('q') ?? ''

/** Shows the view that the address names. */
function show() {
  leaving.abort()
  leaving = new AbortController()
  const { signal } = leaving
  const isForMembers = ['following', 'notifications'].includes(viewName())
  const name = isForMembers && !me ? 'hot' : viewName()
  for (const link of document.querySelectorAll('nav a')) {
    if (link.getAttribute('data-view') === name) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  byId('title').textContent = name === 'search' ? `Search: ${queryOfView()}` : (TITLES[name] ?? 'Hot')
  byId('compose').hidden = !me || name === 'search' || name === 'notifications'
  byId('more').hidden = true
  posts.clear()
  showFresh([])
  content.replaceChildren()
  content.setAttribute('aria-busy', 'true')
  void act((views[name] ?? views['hot'])?.(signal)).then(() => signal.aborted || content.removeAttribute('aria-busy'))
}

/** Waits for a request, and shows why it failed. @param {Promise<unknown> | undefined} request */
async function act(request) {
  try {
    await request
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') return
    const isRefused = error instanceof Problem
    if (!isRefused) console.error(error)
    if (isRefused && error.type === 'not-signed-in') return // `signedOut` has shown it
    byId('state').textContent = isRefused ? error.message : 'The API does not answer.'
  }
}

/** Loads the users that are not known. @param {string[]} ids */
async function loadUsers(ids) {
  const unknown = [...new Set(ids)].filter((id) => !users.has(id))
  if (unknown.length === 0) return
  const { items } = await api.getUsers({ ids: unknown.slice(0, 100) })
  for (const user of items) users.set(user.id, user)
}

/** @param {Post[]} items @param {AbortSignal} signal */
async function showPosts(items, signal) {
  await loadUsers(items.map(({ authorId }) => authorId))
  if (!signal.aborted) for (const post of items) append(post)
}

/** @param {Post} post @param {(Node | string)[]} text */
function append(post, text = [post.text], place = /** @type {'append' | 'prepend'} */ ('append')) {
  const author = users.get(post.authorId)
  if (!author || posts.has(post.id)) return
  posts.set(post.id, post)
  content[place](postCard(post, author, text, () => void like(post.id)))
}

const cardOf = (/** @type {string} */ id) => content.querySelector(`[data-post="${CSS.escape(id)}"]`)

/** @param {string} id @param {Partial<Post>} changes */
function change(id, changes) {
  const post = posts.get(id)
  const card = cardOf(id)
  if (!post || !card) return
  const changed = { ...post, ...changes }
  posts.set(id, changed)
  showCounts(card, changed)
}

/** Shows the like at once, and what the API says when it has answered. @param {string} id */
async function like(id) {
  const post = posts.get(id)
  if (!post) return
  if (!me) {
    dialog.showModal()
    return
  }
  const { likedByMe = false, likesCount } = post
  change(id, { likedByMe: !likedByMe, likesCount: likesCount + (likedByMe ? -1 : 1) })
  await act(
    (likedByMe ? api.unlikePost({ id }) : api.likePost({ id })).then(
      ({ liked, likes }) => change(id, { likedByMe: liked, likesCount: likes }),
      (error) => {
        change(id, { likedByMe, likesCount })
        throw error
      },
    ),
  )
}

/** Offers posts that appeared, instead of moving what is being read. @param {Post[]} next */
function showFresh(next) {
  fresh = next
  const button = byId('fresh')
  button.hidden = next.length === 0
  button.textContent = `Show ${next.length} new ${next.length === 1 ? 'post' : 'posts'}`
}

async function showOnline() {
  await act(
    (async () => {
      const { items } = await api.listPresence({ limit: 50 })
      await loadUsers(items.map(({ userId }) => userId))
      const online = items.flatMap(({ userId }) => users.get(userId) ?? [])
      byId('online-count').textContent = String(online.length)
      byId('online').replaceChildren(
        ...online.map((user) => element('li', { 'data-user': user.id }, avatarOf(user), user.displayName)),
      )
    })(),
  )
}

async function showUnread() {
  if (me) await act(api.listNotifications({ limit: 1 }).then(({ unreadCount }) => showCount(unreadCount)))
}

/** @param {number} count */
function showCount(count) {
  const badge = byId('unread')
  badge.hidden = count === 0
  badge.textContent = String(count)
}

// What happens meanwhile

/** @type {Map<() => Promise<void>, ReturnType<typeof setTimeout>>} */
const planned = new Map()

/** Runs it once soon, however often it is called. @param {() => Promise<void>} run */
function soon(run) {
  clearTimeout(planned.get(run))
  planned.set(
    run,
    setTimeout(() => void run(), SETTLE_MS),
  )
}

let following = new AbortController()

/** Follows the events as the user who is signed in. */
function follow() {
  following.abort()
  following = new AbortController()
  void act(watch(following.signal))
}

/** @param {AbortSignal} signal */
async function watch(signal) {
  const onState = (/** @type {'open' | 'waiting'} */ state) => {
    if (signal.aborted) return
    byId('state').textContent = state === 'open' ? 'Live' : 'Connecting again …'
  }
  const channels = /** @type {const} */ (['post_events', 'counter_events', 'user_events', 'comment_events'])
  for await (const event of api.events(channels, { signal, onState })) {
    switch (event.type) {
      case 'reset':
        show()
        break
      case 'counter_update': {
        const { contentId, counterType, value } = event.data
        const field = /** @type {const} */ (`${counterType}Count`)
        change(contentId, { [field]: value })
        if (posts.get(contentId)?.authorId === me?.id) soon(showUnread)
        break
      }
      case 'post_created':
        if (viewName() !== 'hot' || event.data.authorId === me?.id) break
        appeared.add(event.data.postId)
        soon(loadFresh)
        break
      case 'post_updated': {
        const text = cardOf(event.data.postId)?.querySelector('.text')
        if (text && event.data.text !== undefined) text.textContent = event.data.text
        break
      }
      case 'post_deleted':
        cardOf(event.data.postId)?.remove()
        break
      case 'user_status_change':
        soon(showOnline)
        break
      case 'user_updated':
        users.delete(event.data.userId) // loaded again when it is needed
        break
      default:
        soon(showUnread)
    }
  }
}

/** The ids of posts that appeared, but for those that `fresh` has. @type {Set<string>} */
const appeared = new Set()

async function loadFresh() {
  const ids = [...appeared].slice(-100)
  appeared.clear()
  await act(
    (async () => {
      const { items } = await api.getPosts({ ids })
      await loadUsers(items.map(({ authorId }) => authorId))
      showFresh([...items.filter(({ id }) => !posts.has(id)).toReversed(), ...fresh])
    })(),
  )
}

// What the user does

byId('fresh').addEventListener('click', () => {
  for (const post of fresh.toReversed()) append(post, undefined, 'prepend')
  showFresh([])
})

byId('more').addEventListener('click', () => void act(more()))

byId('search').addEventListener('submit', (event) => {
  event.preventDefault()
  const q = textOf(new FormData(/** @type {HTMLFormElement} */ (event.currentTarget)), 'q')
  location.hash = `#/search?${new URLSearchParams({ q })}`
})

/** @param {FormData} data @param {string} name */
function textOf(data, name) {
  const value = data.get(name)
  return typeof value === 'string' ? value : ''
}

/**
 * Sends a form, and shows its problem beside it.
 *
 * @param {HTMLFormElement} form
 * @param {(field: (name: string) => string) => Promise<void>} submit
 */
function onSubmit(form, submit) {
  async function send() {
    const error = form.querySelector('.error')
    const button = form.querySelector('.primary')
    button?.setAttribute('disabled', '')
    error?.replaceChildren()
    try {
      const data = new FormData(form)
      await submit((name) => textOf(data, name))
      form.reset()
    } catch (failure) {
      error?.replaceChildren(failure instanceof Problem ? failure.message : 'The API does not answer.')
    } finally {
      button?.removeAttribute('disabled')
    }
  }
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    void send()
  })
}

onSubmit(/** @type {HTMLFormElement} */ (byId('compose')), async (field) => {
  append(await api.createPost({ text: field('text') }), undefined, 'prepend')
})

onSubmit(/** @type {HTMLFormElement} */ (dialog.querySelector('form')), async (field) => {
  const { user } = await api.signIn({ login: field('login'), password: field('password') })
  dialog.close()
  signedIn(user)
  follow() // with what this user may see
  show()
})
byId('cancel').addEventListener('click', () => dialog.close())

addEventListener('hashchange', show)
addEventListener('pagehide', () => {
  if (me) void api.goOffline({ deviceId }, { keepalive: true }).catch(() => {})
})
addEventListener('pageshow', ({ persisted }) => persisted && void beat()) // back from the cache of pages

setInterval(() => void beat(), HEARTBEAT_MS)
showAccount()
await act(restore())
follow()
show()
void showOnline()
