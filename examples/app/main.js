// @ts-check
import { createClient, Problem } from './client.js'
import {
  avatarOf,
  byId,
  element,
  listedUser,
  marked,
  notice,
  notificationCard,
  postCard,
  showCounts,
  userCard,
  userMenu,
} from './view.js'

/** @import { OwnUser, Post, User } from './client.js' */

// The session is an HttpOnly cookie, which this page cannot read. So it remembers who signed in.
const api = createClient({
  auth: 'cookie',
  onSession: (session) => session ?? signedOut(),
  // What the browser keeps may be from before an event of the stream. The API answers 304 where nothing has changed.
  fetch: (url, init) => fetch(url, { ...init, cache: 'no-cache' }),
})
const ME = 'example-user'
/** Each tab is a device: a user goes offline with the last one. */
const deviceId = crypto.randomUUID()
const HEARTBEAT_MS = 120_000
/** A block has an event only for the user who makes it. The page of the other one finds out by asking. */
const CHECK_MS = 20_000
/** Events come in bursts. What they change is loaded once. */
const SETTLE_MS = 500

/** @type {OwnUser | undefined} */
let me
/** What is shown. @type {Map<string, Post>} */
const posts = new Map()
/** @type {Map<string, User>} */
const users = new Map()
/** Whom I mute. @type {Set<string>} */
const muted = new Set()
/** The posts that appeared since. @type {Post[]} */
let fresh = []
/** Ends the loading of the view before. */
let leaving = new AbortController()
/** Loads the next page. */
let more = async () => {}

const content = byId('content')
const dialog = /** @type {HTMLDialogElement} */ (byId('sign-in'))
const deletion = /** @type {HTMLDialogElement} */ (byId('deletion'))
const forgot = /** @type {HTMLDialogElement} */ (byId('forgot'))
const reset = /** @type {HTMLDialogElement} */ (byId('reset'))

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
  void act(loadMutes())
}

async function loadMutes() {
  for await (const { id } of api.listMutes({ limit: 100 })) muted.add(id)
}

function signedOut() {
  if (!me) return
  me = undefined
  muted.clear()
  localStorage.removeItem(ME)
  showAccount()
  follow() // as a stranger
  show()
}

function showAccount() {
  const button = element('button', { type: 'button', class: me ? 'quiet' : 'primary' }, me ? 'Sign out' : 'Sign in')
  button.addEventListener('click', () => (me ? void act(signOut()) : dialog.showModal()))
  byId('account').replaceChildren(...(me ? [element('span', { class: 'account-name' }, me.displayName)] : []), button)
  for (const link of document.querySelectorAll('[data-member]')) link.toggleAttribute('hidden', !me)
}

async function signOut() {
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
    await showPages((page) => api.listFeed(page, { signal }), signal)
    if (posts.size === 0) content.append(notice('You follow nobody who has written a post.'))
  },
  async user(signal) {
    const id = inAddress('id')
    const { items } = await api.getUsers({ ids: [id] }, { signal })
    const [user] = items
    if (!user) {
      content.append(notice('There is no such user.'))
      return
    }
    users.set(id, user)
    byId('title').textContent = user.displayName
    content.append(userCard(user, [user.displayName], [user.bio], menuOf(user)))
    await showPages((page) => api.listUserPosts({ id, ...page }, { signal }), signal)
  },
  async search(signal) {
    const q = inAddress('q')
    const [found, people] = await Promise.all([
      api.search({ q, limit: 20 }, { signal }),
      api.search({ q, type: 'users', limit: 5 }, { signal }),
    ])
    for (const result of people.items) {
      if (!('user' in result)) continue
      const { displayName, bio } = result.snippets
      content.append(userCard(result.user, marked(displayName), marked(bio), menuOf(result.user)))
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
  async account(signal) {
    await Promise.all([
      showList('blocks', api.listBlocks({ limit: 100 }, { signal }), 'Unblock', ({ id }) => api.unblockUser({ id })),
      showList('mutes', api.listMutes({ limit: 100 }, { signal }), 'Unmute', async ({ id }) => {
        await api.unmuteUser({ id })
        muted.delete(id)
      }),
    ])
  },
}

/**
 * Shows a list of users, as its pages arrive.
 *
 * @param {'blocks' | 'mutes'} name
 * @param {AsyncIterable<User>} list
 * @param {string} deed
 * @param {(user: User) => Promise<unknown>} remove
 */
async function showList(name, list, deed, remove) {
  const place = byId(name)
  place.replaceChildren()
  for await (const user of list) {
    const shown = listedUser(user, deed, () => void act(remove(user).then(() => shown.remove())))
    place.append(shown)
  }
}

/**
 * Shows the first page of posts, and offers the next one.
 *
 * @param {(page: { limit: number, cursor?: string }) => Promise<{ items: Post[], nextCursor: string | null }>} list
 * @param {AbortSignal} signal
 */
async function showPages(list, signal) {
  /** @param {string} [cursor] */
  async function load(cursor) {
    const { items, nextCursor } = await list({ limit: 20, ...(cursor === undefined ? {} : { cursor }) })
    await showPosts(items, signal)
    if (signal.aborted) return
    more = async () => load(nextCursor ?? undefined)
    byId('more').hidden = nextCursor === null
  }
  await load()
}

const TITLES = /** @type {Record<string, string>} */ ({
  hot: 'Hot',
  following: 'Following',
  notifications: 'Notifications',
  account: 'Account',
  user: 'Profile',
})

const viewName = () => /^#\/(\w+)/.exec(location.hash)?.[1] ?? 'hot'
/** @param {string} name */
const inAddress = (name) => new URLSearchParams(location.hash.split('?')[1]).get(name) ?? ''

/** Shows the view that the address names. */
function show() {
  leaving.abort()
  leaving = new AbortController()
  const { signal } = leaving
  const isForMembers = ['following', 'notifications', 'account'].includes(viewName())
  const name = isForMembers && !me ? 'hot' : viewName()
  for (const link of document.querySelectorAll('nav a')) {
    if (link.getAttribute('data-view') === name) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  byId('title').textContent = name === 'search' ? `Search: ${inAddress('q')}` : (TITLES[name] ?? 'Hot')
  byId('compose').hidden = !me || !['hot', 'following'].includes(name)
  byId('settings').hidden = name !== 'account'
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

/** @param {string} sentence */
function say(sentence) {
  byId('notice').textContent = sentence
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
  content[place](postCard(post, author, text, () => void like(post.id), menuOf(author)))
}

/** @param {User} user */
function menuOf(user) {
  if (!me || user.id === me.id) return []
  const isMuted = muted.has(user.id)
  return [
    userMenu(user, {
      [`${isMuted ? 'Unmute' : 'Mute'} @${user.username}`]: () => void act(mute(user, !isMuted)),
      [`Block @${user.username}`]: () => void act(api.blockUser({ id: user.id }).then(() => hide(user.id))),
    }),
  ]
}

/** @param {User} user @param {boolean} shouldMute */
async function mute({ id }, shouldMute) {
  await (shouldMute ? api.muteUser({ id }) : api.unmuteUser({ id }))
  if (shouldMute) muted.add(id)
  else muted.delete(id)
  show()
}

/** Takes a user off the page, with everything by this user. @param {string} id */
function hide(id) {
  users.delete(id)
  for (const shown of document.querySelectorAll(`[data-user="${CSS.escape(id)}"]`)) shown.remove()
  for (const post of posts.values()) if (post.authorId === id) posts.delete(post.id)
  showFresh(fresh.filter(({ authorId }) => authorId !== id))
  byId('online-count').textContent = String(byId('online').childElementCount)
  if (viewName() === 'user' && inAddress('id') === id) show()
}

/** Takes the users off the page who are hidden or deleted by now. One request per hundred users. */
async function checkUsers() {
  if (!me || document.hidden) return
  const shown = [...document.querySelectorAll('[data-user]')].map((at) => at.getAttribute('data-user') ?? '')
  const ids = [...new Set(shown)]
  for (let from = 0; from < ids.length; from += 100) {
    const asked = ids.slice(from, from + 100)
    const { items } = await api.getUsers({ ids: asked })
    const found = new Set(items.map(({ id }) => id))
    for (const id of asked) if (!found.has(id)) hide(id)
  }
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

/** Reads the counts of all posts on the page again. One request per hundred posts. */
async function readCounts() {
  await act(
    (async () => {
      const ids = [...posts.keys()]
      for (let from = 0; from < ids.length; from += 100) {
        const { items } = await api.getPosts({ ids: ids.slice(from, from + 100) })
        for (const { id, likesCount, commentsCount, viewsCount, likedByMe = false } of items) {
          change(id, { likesCount, commentsCount, viewsCount, likedByMe })
        }
      }
    })(),
  )
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
    if (state !== 'open') return
    soon(showOnline) // the stream does not repeat what changed meanwhile
    soon(readCounts)
  }
  const channels = /** @type {const} */ ([
    'post_events',
    'counter_events',
    'user_events',
    'comment_events',
    'relation_events',
  ])
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
      case 'user_deleted':
        hide(event.data.userId)
        break
      case 'user_blocked': // by me, perhaps on another device
        hide(event.data.otherId)
        break
      case 'user_unblocked':
        soon(showOnline)
        break
      case 'user_muted':
        muted.add(event.data.otherId)
        break
      case 'user_unmuted':
        muted.delete(event.data.otherId)
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
for (const button of document.querySelectorAll('dialog .cancel')) {
  button.addEventListener('click', () => button.closest('dialog')?.close())
}

const password = /** @type {HTMLFormElement} */ (byId('password'))
onSubmit(password, async (field) => {
  const done = password.querySelector('[role=status]')
  done?.replaceChildren()
  await api.changePassword({ password: field('password'), newPassword: field('newPassword') })
  done?.replaceChildren('Changed. Your other devices are signed out.')
})

byId('export').addEventListener('click', () => void act(download()))

/** Saves the export of the account as a file. */
async function download() {
  const parts = []
  /** @type {string | null | undefined} */
  let cursor
  while (cursor !== null) {
    const part = await api.exportAccount(cursor === undefined ? {} : { cursor })
    parts.push(part)
    cursor = endOf(new TextDecoder().decode(part))
  }
  const url = URL.createObjectURL(new Blob(parts, { type: 'application/x-ndjson' }))
  element('a', { href: url, download: 'account.jsonl' }).click()
  setTimeout(() => URL.revokeObjectURL(url), 60_000) // the browser has begun to save it by then
}

/** Where an export continues; null: it is complete. Throws if it broke off. @param {string} lines */
function endOf(lines) {
  const last = /** @type {{ kind: string, next: string | null }} */ (
    JSON.parse(lines.trimEnd().split('\n').at(-1) ?? '')
  )
  if (last.kind !== 'end') throw new Error('The export broke off')
  return last.next
}

byId('leave').addEventListener('click', () => deletion.showModal())
onSubmit(/** @type {HTMLFormElement} */ (deletion.querySelector('form')), async (field) => {
  await api.deleteAccount({ password: field('password') })
  deletion.close()
  location.hash = '#/'
})

byId('forgotten').addEventListener('click', () => {
  dialog.close()
  forgot.showModal()
})
onSubmit(/** @type {HTMLFormElement} */ (forgot.querySelector('form')), async (field) => {
  await api.requestPasswordReset({ email: field('email') })
  forgot.close()
  say('If an account has this address, a link is on its way to it.') // whether one has it is nobody else's business
})

/** The token of the link that opened the page. */
let resetToken = ''
onSubmit(/** @type {HTMLFormElement} */ (reset.querySelector('form')), async (field) => {
  await api.resetPassword({ token: resetToken, password: field('newPassword') })
  reset.close()
  say('The password is changed. Sign in with it.')
  dialog.showModal()
})

/** Does what a link in a mail asks for. The token leaves the address at once. */
async function followLink() {
  const [, purpose, token = ''] = /^#(reset-password|verify-email)=(.+)$/.exec(location.hash) ?? []
  if (purpose === undefined) return
  history.replaceState(null, '', '#/')
  if (purpose === 'reset-password') {
    resetToken = token
    reset.showModal()
  } else {
    await api.verifyEmail({ token })
    say('Your email address is confirmed.')
  }
}

addEventListener('hashchange', () => {
  say('')
  void act(followLink())
  show()
})
addEventListener('pagehide', () => {
  if (me) void api.goOffline({ deviceId }, { keepalive: true }).catch(() => {})
})
addEventListener('pageshow', ({ persisted }) => persisted && void beat()) // back from the cache of pages

setInterval(() => void beat(), HEARTBEAT_MS)
setInterval(() => void act(checkUsers()), CHECK_MS)
showAccount()
await act(followLink())
await act(restore())
follow()
show()
void showOnline()
