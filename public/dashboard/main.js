/** @import { Api, Stats } from './api.js' */
/** @import { Series } from './series.js' */
/** @import { View } from './view.js' */
import { createApi, Failure } from './api.js'
import { element, write } from './dom.js'
import { exactClock, milliseconds } from './format.js'
import { merge, minutesToAsk } from './series.js'
import { createView } from './view.js'

// The session, the polling, and the messages when the API fails. `view` shows the figures.

/** Each poll costs one round trip to Redis. */
const POLL_MS = 5_000
const MAX_POLL_MS = 60_000

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {{ new (): T }} kind
 * @returns {T}
 */
function part(id, kind) {
  const node = document.getElementById(id)
  if (!(node instanceof kind)) throw new Error(`index.html has no ${id}`)
  return node
}

const form = part('sign-in', HTMLFormElement)
const tokenInput = part('token', HTMLInputElement)
const tokenError = part('token-error', HTMLElement)
const dashboard = part('dashboard', HTMLElement)
const controls = part('controls', HTMLElement)
const dependencies = part('dependencies', HTMLElement)
const banner = part('banner', HTMLElement)
const status = part('status', HTMLElement)
const freshness = part('freshness', HTMLElement)
const range = part('range', HTMLSelectElement)
const pause = part('pause', HTMLButtonElement)

/**
 * @typedef {object} Session
 * @property {Api} api
 * @property {View} view
 * @property {AbortController} ended
 * @property {Stats} stats the last answer
 * @property {Series} series of the last hour, put together from all answers
 * @property {number} wholeUntil Unix seconds: the last step of an answer that knew of all isolates
 * @property {number} failures in a row
 * @property {ReturnType<typeof setTimeout> | undefined} timer
 */

/** @type {Session | undefined} */
let session

form.addEventListener('submit', (event) => {
  event.preventDefault()
  void signIn(tokenInput.value.trim())
})
part('sign-out', HTMLButtonElement).addEventListener('click', () => signOut(''))
range.addEventListener('change', () => session && draw(session))
pause.addEventListener('click', () => {
  setPaused(pause.getAttribute('aria-pressed') !== 'true')
  if (session) schedule(session, 0)
})
// A hidden page sends no requests. A page that becomes visible or online again refreshes at once.
document.addEventListener('visibilitychange', () => session && schedule(session, 0))
for (const event of ['focus', 'online']) addEventListener(event, () => session && schedule(session, 0))

form.hidden = false
tokenInput.focus()

/** @param {string} token */
async function signIn(token) {
  const button = form.querySelector('button')
  if (!button || form.ariaBusy === 'true') return
  form.ariaBusy = 'true'
  write(button, 'Signing in …')
  sayTokenError('')
  try {
    const api = createApi(token)
    const stats = await api.stats(60)
    tokenInput.value = ''
    form.hidden = true
    dashboard.hidden = controls.hidden = dependencies.hidden = false
    setPaused(false)
    const ended = new AbortController()
    const view = createView(dashboard, api, say, ended.signal)
    const { series } = stats
    session = { api, view, ended, stats, series, wholeUntil: wholeUntil(stats, 0), failures: 0, timer: undefined }
    show(session)
    session.view.focus()
    schedule(session, POLL_MS)
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    sayTokenError(error.message)
    tokenInput.focus()
    tokenInput.select()
  } finally {
    form.ariaBusy = 'false'
    write(button, 'Sign in')
  }
}

/** @param {string} reason empty if the user signed out */
function signOut(reason) {
  clearTimeout(session?.timer)
  session?.ended.abort()
  session = undefined
  dashboard.replaceChildren()
  dependencies.replaceChildren()
  dashboard.hidden = controls.hidden = dependencies.hidden = true
  banner.replaceChildren()
  form.hidden = false
  tokenInput.focus()
  sayTokenError(reason)
}

/** @param {string} text */
function sayTokenError(text) {
  tokenError.textContent = text
  tokenInput.setAttribute('aria-invalid', String(text !== ''))
}

/** @param {boolean} isPaused */
function setPaused(isPaused) {
  pause.setAttribute('aria-pressed', String(isPaused))
}

/**
 * Polls again after `delayMs`, unless the page is paused or hidden.
 *
 * @param {Session} current
 * @param {number} delayMs
 */
function schedule(current, delayMs) {
  clearTimeout(current.timer)
  if (document.hidden || pause.getAttribute('aria-pressed') === 'true') return
  current.timer = setTimeout(() => void poll(current), delayMs)
}

/** @param {Session} current */
async function poll(current) {
  try {
    const stats = await current.api.stats(minutesToAsk(current.wholeUntil, Date.now()))
    if (session !== current) return // signed out since
    current.stats = stats
    // Without Redis, an answer covers one isolate only: keep the known figures.
    current.series = merge(current.series, stats.series, isWhole(stats) ? 0 : current.wholeUntil)
    current.wholeUntil = wholeUntil(stats, current.wholeUntil)
    current.failures = 0
    show(current)
  } catch (error) {
    if (session !== current) return
    if (!(error instanceof Failure)) throw error
    if (error.kind === 'token') return signOut('The token is no longer valid. Sign in again.')
    current.failures += 1
    dashboard.classList.add('stale')
    sayBanner([`${error.message} These figures are from ${exactClock(current.stats.at)}.`])
  }
  schedule(current, Math.min(MAX_POLL_MS, POLL_MS * 2 ** current.failures))
}

/** @param {Stats} stats */
const isWhole = ({ unavailable }) => !unavailable.includes('redis')

/** @param {Stats} stats @param {number} before */
const wholeUntil = (stats, before) => (isWhole(stats) ? (stats.series.at.at(-1) ?? before) : before)

/** @param {Session} current */
function draw({ view, stats, series }) {
  view.update(stats, series, Number(range.value))
}

/** @param {Session} current with a new answer */
function show(current) {
  const { stats } = current
  draw(current)
  dashboard.classList.remove('stale')
  write(freshness, `As of ${exactClock(stats.at)}`)
  showDependencies(stats)
  sayBanner(troublesOf(stats))
}

/** @param {Stats} stats */
function showDependencies({ dependencies: { redis, d1 } }) {
  /** @param {string} name @param {{ isUp: boolean, ms: number }} dependency */
  const chip = (name, { isUp, ms }) => {
    const text = `${name} ${isUp ? milliseconds(ms) : 'down'}`
    return element('li', { class: isUp ? 'chip up' : 'chip down' }, text)
  }
  dependencies.replaceChildren(chip('Redis', redis), chip('D1', d1))
}

/** @type {Record<Stats['unavailable'][number], string>} */
const PARTS = {
  redis: 'Redis',
  d1: 'D1',
  queues: 'the queues',
  outbox: 'the outbox',
  webhooks: 'webhooks',
  presence: 'presence',
}

/**
 * The current problems, as sentences.
 *
 * @param {Stats} stats
 */
function troublesOf({ dependencies: { redis, d1 }, unavailable }) {
  const troubles = []
  if (!redis.isUp) {
    troubles.push(
      'Redis is down. Reads use memory and D1. Likes, sign-in and heartbeats fail. ' +
        'These figures cover one isolate.',
    )
  }
  if (!d1.isUp) troubles.push('D1 is down. Reads without a cached value fail, and all writes fail.')
  if (redis.isUp && d1.isUp && unavailable.length > 0) {
    const names = new Intl.ListFormat('en').format(unavailable.map((name) => PARTS[name]))
    troubles.push(`Figures of ${names} are unavailable.`)
  }
  return troubles
}

/** @param {string} text for screen readers */
function say(text) {
  status.textContent = text
}

/** Announces each change once, and the recovery once. @param {string[]} sentences */
function sayBanner(sentences) {
  const shown = [...banner.children].map((line) => line.textContent)
  if (shown.join('\n') === sentences.join('\n')) return
  banner.replaceChildren(...sentences.map((sentence) => element('p', {}, sentence)))
  if (sentences.length === 0) say('All dependencies work again.')
}
