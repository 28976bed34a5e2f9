/** @import { Api, Failure, Stats } from './api.js' */
/** @import { Series } from './series.js' */
import { reasonOf } from './api.js'
import { element, part, write } from './dom.js'
import { exactClock, milliseconds, moment } from './format.js'
import { merge } from './series.js'

// Polls the figures while the page is shown, and says how current they are.

/** Each poll costs one round trip to Redis. */
const POLL_MS = 5_000
const MAX_POLL_MS = 60_000
/** A report of an isolate may be this late. */
const LATE_SECONDS = 60

/**
 * @typedef {object} Figures
 * @property {Stats} stats without Redis: the last ones with it, and what D1 and the queues say now
 * @property {Series} series of the last hour, put together from all answers
 * @property {number} from Unix seconds: where the figures and charts of the chosen range begin
 */

const dependencies = part('dependencies', HTMLElement)
const controls = part('controls', HTMLElement)
const banner = part('banner', HTMLElement)
const status = part('status', HTMLElement)
const freshness = part('freshness', HTMLElement)
const range = part('range', HTMLSelectElement)
const pause = part('pause', HTMLButtonElement)
const dashboard = part('dashboard', HTMLElement)

/** @param {string} text for screen readers */
export function say(text) {
  status.textContent = text
}

/**
 * @param {Api} api
 * @param {(figures: Figures) => void} show with each new answer, and when the range changes
 * @param {(failure: Failure) => void} onEnd when the session has ended
 * @param {AbortSignal} ended
 */
export function followFigures(api, show, onEnd, ended) {
  /** @type {Stats | undefined} the last answer */
  let latest
  /** @type {Stats | undefined} the last answer that knew of all isolates */
  let whole
  /** @type {Series | undefined} */
  let series
  let failures = 0
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer
  let isAsking = false

  const options = { signal: ended }
  const isPaused = () => pause.getAttribute('aria-pressed') === 'true'
  const minutes = () => Number(range.value)

  pause.setAttribute('aria-pressed', 'false')
  dependencies.hidden = false
  range.addEventListener('change', () => (draw(), void poll()), options)
  pause.addEventListener('click', () => (pause.setAttribute('aria-pressed', String(!isPaused())), schedule(0)), options)
  // A hidden page sends no requests. A page that becomes visible or online again refreshes at once.
  document.addEventListener('visibilitychange', () => schedule(0), options)
  for (const event of ['focus', 'online']) addEventListener(event, () => schedule(0), options)
  ended.addEventListener('abort', () => {
    clearTimeout(timer)
    dependencies.replaceChildren()
    banner.replaceChildren()
    dependencies.hidden = true
    dashboard.classList.remove('stale')
    write(freshness, '')
  })

  /** Polls after `delayMs`, unless the page is paused or hidden. @param {number} delayMs */
  function schedule(delayMs) {
    clearTimeout(timer)
    if (ended.aborted || document.hidden || isPaused()) return
    timer = setTimeout(() => void poll(), delayMs)
  }

  /** Where the missing steps begin (Unix seconds). Undefined: all are missing. */
  function missingFrom() {
    const [first = Infinity] = series?.at ?? []
    if (!whole || !series || series.stepSeconds !== whole.series.stepSeconds) return undefined
    const last = whole.series.at.at(-1) ?? 0
    return first <= Date.now() / 1_000 - minutes() * 60 ? last - LATE_SECONDS : undefined
  }

  async function poll() {
    if (isAsking) return schedule(POLL_MS)
    isAsking = true
    try {
      const stats = await api.stats(minutes(), missingFrom())
      if (ended.aborted) return
      failures = 0
      latest = stats
      // Without Redis, an answer has what D1 has: a step a minute, and none of the last minutes. Keep what is better.
      if (isWhole(stats) || !whole) series = series ? merge(series, stats.series) : stats.series
      if (isWhole(stats)) whole = stats
      draw()
      dashboard.classList.remove('stale')
      showDependencies(stats)
      sayBanner(troublesOf(stats, whole))
    } catch (error) {
      if (ended.aborted) return
      const reason = reasonOf(error, onEnd)
      if (reason === undefined) return
      failures += 1
      dashboard.classList.add('stale')
      const known = latest ? ` These figures are from ${exactClock(latest.at)}.` : ''
      sayBanner([reason + known])
    } finally {
      isAsking = false
    }
    schedule(Math.min(MAX_POLL_MS, POLL_MS * 2 ** failures))
  }

  function draw() {
    if (!latest || !series) return
    const stats = isWhole(latest) || !whole ? latest : keep(whole, latest)
    const { until } = latest.window
    write(freshness, `As of ${exactClock(isWhole(latest) ? latest.at : (whole?.at ?? until ?? latest.at))}`)
    show({ stats, series, from: fromOf(stats, minutes()) })
  }

  void poll()
  return { draw }
}

/** @param {Stats} stats @param {number} minutes */
function fromOf({ at }, minutes) {
  const step = 300 // the API keeps sums by five minutes
  return Math.floor((Date.parse(at) / 1_000 - minutes * 60) / step) * step
}

/** Whether an answer covers all isolates. @param {Stats} stats */
const isWhole = ({ unavailable }) => !unavailable.includes('redis')

/** What was known with Redis, and what does not need it as it is now. @param {Stats} whole @param {Stats} latest @returns {Stats} */
const keep = (whole, { dependencies, unavailable, queues, outbox, webhooks }) => ({
  ...whole,
  dependencies,
  unavailable,
  queues,
  outbox,
  webhooks,
  presence: null,
  server: null,
})

/** @param {Stats} stats */
function showDependencies({ dependencies: { redis, d1 } }) {
  /** @param {string} name @param {{ isUp: boolean, ms: number }} dependency */
  const chip = (name, { isUp, ms }) => {
    const state = isUp ? element('span', { class: 'ms' }, ` ${milliseconds(ms)}`) : ' down'
    return element('li', { class: isUp ? 'chip up' : 'chip down' }, name, state)
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
 * @param {Stats} [whole] the figures that are shown instead
 */
function troublesOf({ dependencies: { redis, d1 }, unavailable, window }, whole) {
  const troubles = []
  if (!redis.isUp) {
    const shown = whole
      ? `Figures and charts are from ${moment(whole.at)}.`
      : window.until
        ? `Figures and charts are from ${moment(window.until)}, as D1 has them.`
        : 'These figures cover one isolate.'
    troubles.push(`Redis is down. Reads use memory and D1. Likes, sign-in and heartbeats fail. ${shown}`)
  }
  if (!d1.isUp) troubles.push('D1 is down. Reads without a cached value fail, and all writes fail.')
  if (redis.isUp && d1.isUp && unavailable.length > 0) {
    const names = new Intl.ListFormat('en').format(unavailable.map((name) => PARTS[name]))
    troubles.push(`Figures of ${names} are unavailable.`)
  }
  return troubles
}

/** Announces each change once, and the recovery once. @param {string[]} sentences */
function sayBanner(sentences) {
  const shown = [...banner.children].map((line) => line.textContent)
  if (shown.join('\n') === sentences.join('\n')) return
  banner.replaceChildren(...sentences.map((sentence) => element('p', {}, sentence)))
  if (sentences.length === 0) say('All dependencies work again.')
}

/** Shows the controls of figures where there are any. @param {boolean} hasRange @param {boolean} isLive */
export function showControls(hasRange, isLive) {
  range.hidden = !hasRange
  controls.hidden = !isLive
}
