// @ts-check

/** @import { Post, User, Notification } from './client.js' */

/**
 * Makes an element. The page sets no HTML: its policy has no trusted types.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string>} attributes
 * @param {...(Node | string)} children
 */
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}

/** An element of index.html. @param {string} id */
export const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id))

const HUES = 5

/** @param {User} user */
export function avatarOf({ id, displayName }) {
  const hue = (id.codePointAt(id.length - 1) ?? 0) % HUES
  const [initial = '?'] = displayName
  return element('span', { class: `avatar hue-${hue}`, 'aria-hidden': 'true' }, initial.toUpperCase())
}

const UNITS = /** @type {const} */ ([
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
])
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto', style: 'narrow' })

/** @param {string} at RFC 3339 */
function timeOf(at) {
  const seconds = (Date.parse(at) - Date.now()) / 1_000
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? []
  const text = unit && size ? relative.format(Math.round(seconds / size), unit) : 'now'
  return element('time', { datetime: at, class: 'faint', title: new Date(at).toLocaleString() }, text)
}

/** @param {User} user @param {Node[]} rest @param {(Node | string)[]} name */
const byLine = (user, rest, name = [user.displayName]) =>
  element(
    'div',
    { class: 'by' },
    element('a', { href: `#/user?${new URLSearchParams({ id: user.id })}` }, element('strong', {}, ...name)),
    element('span', { class: 'faint' }, `@${user.username}`),
    ...rest,
  )

/**
 * What the user can do about another one.
 *
 * @param {User} user
 * @param {Record<string, () => void>} deeds
 */
export function userMenu(user, deeds) {
  const buttons = Object.entries(deeds).map(([label, run]) => {
    const button = element('button', { type: 'button' }, label)
    button.addEventListener('click', () => {
      menu.open = false
      run()
    })
    return button
  })
  const menu = element(
    'details',
    { class: 'menu' },
    element('summary', { 'aria-label': `More about ${user.displayName}` }, '⋯'),
    element('div', {}, ...buttons),
  )
  menu.addEventListener('focusout', ({ relatedTarget }) => {
    if (relatedTarget instanceof Node && !menu.contains(relatedTarget)) menu.open = false
  })
  return menu
}

/** @typedef {{ text: string, isMatch: boolean }[]} Snippet */

/** @param {Snippet} snippet */
export const marked = (snippet) =>
  snippet.map(({ text, isMatch }) => (isMatch ? element('mark', {}, text) : document.createTextNode(text)))

/**
 * A post.
 *
 * @param {Post} post
 * @param {User} author
 * @param {(Node | string)[]} text
 * @param {() => void} onLike
 * @param {Node[]} menu
 */
export function postCard(post, author, text, onLike, menu) {
  const like = element('button', { type: 'button', class: 'like' })
  like.addEventListener('click', onLike)
  const comments = element('span', { class: 'faint comments' })
  const card = element(
    'article',
    { 'data-post': post.id, 'data-user': author.id, 'aria-label': `Post by ${author.displayName}` },
    avatarOf(author),
    element(
      'div',
      {},
      byLine(author, [timeOf(post.createdAt)]),
      element('p', { class: 'text' }, ...text),
      element('div', { class: 'actions' }, like, comments),
    ),
    ...menu,
  )
  showCounts(card, post)
  return card
}

/** @param {Element} card @param {Pick<Post, 'likesCount' | 'commentsCount' | 'likedByMe'>} post */
export function showCounts(card, { likesCount, commentsCount, likedByMe = false }) {
  const like = card.querySelector('.like')
  const comments = card.querySelector('.comments')
  like?.replaceChildren(`${likedByMe ? '♥' : '♡'} ${likesCount}`)
  like?.setAttribute('aria-pressed', String(likedByMe))
  like?.setAttribute('aria-label', `Like, ${likesCount} ${likesCount === 1 ? 'like' : 'likes'}`)
  comments?.replaceChildren(`${commentsCount} ${commentsCount === 1 ? 'comment' : 'comments'}`)
}

/** @param {User} user @param {(Node | string)[]} name @param {(Node | string)[]} about @param {Node[]} menu */
export const userCard = (user, name, about, menu) =>
  element(
    'article',
    { 'data-user': user.id, 'aria-label': user.displayName },
    avatarOf(user),
    element('div', {}, byLine(user, [], name), element('p', { class: 'text' }, ...about)),
    ...menu,
  )

/**
 * A user in a list, with a way to take the user off it.
 *
 * @param {User} user
 * @param {string} deed
 * @param {() => void} onClick
 */
export function listedUser(user, deed, onClick) {
  const button = element('button', { type: 'button', class: 'quiet' }, deed)
  button.setAttribute('aria-label', `${deed} ${user.displayName}`)
  button.addEventListener('click', onClick)
  return element('li', {}, avatarOf(user), element('span', {}, user.displayName), button)
}

const DEEDS = {
  post: 'wrote a post',
  like: 'liked your',
  comment: 'commented on your post',
  reply: 'replied to your comment',
  mention: 'named you',
  follow: 'followed you',
}

/** @param {Notification} notification @param {User} actor */
export function notificationCard({ type, actorsCount, commentId, createdAt, isRead }, actor) {
  const others = actorsCount > 1 ? `and ${actorsCount - 1} more ` : ''
  const deed = type === 'like' ? `${DEEDS.like} ${commentId ? 'comment' : 'post'}` : DEEDS[type]
  return element(
    'article',
    { class: isRead ? '' : 'unread', 'data-user': actor.id },
    avatarOf(actor),
    element('div', {}, byLine(actor, [timeOf(createdAt)]), element('p', { class: 'text' }, `${others}${deed}`)),
  )
}

/** @param {string} text */
export const notice = (text) => element('p', { class: 'notice faint' }, text)
