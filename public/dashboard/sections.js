/** @import { Api, Failure } from './api.js' */
/** @import { Figures } from './figures.js' */
import { element, part, write } from './dom.js'

/**
 * A section of the dashboard.
 *
 * @typedef {object} Section
 * @property {string} id of its address: `#/routes`
 * @property {string} title
 * @property {HTMLElement} element
 * @property {boolean} [hasRange] whether its figures are of a chosen time
 * @property {(figures: Figures) => void} [update] while it is shown
 * @property {(place: string[]) => void} [show] with the rest of the address
 * @property {() => void} [hide]
 */

/**
 * What sections receive.
 *
 * @typedef {object} Context
 * @property {Api} api
 * @property {(text: string) => void} say announces to screen readers
 * @property {AbortSignal} ended when the session is
 * @property {(failure: Failure) => void} onEnd the session has ended
 */

/** The address of a place. @param {...string} place */
export const addressOf = (...place) => `#/${place.map(encodeURIComponent).join('/')}`

/** @param {string} hash @returns {string[]} */
function placeOf(hash) {
  try {
    return hash.replace(/^#\/?/, '').split('/').map(decodeURIComponent)
  } catch {
    return [] // not an address of ours
  }
}

/**
 * Shows the section that the address names: reloads, links and the back button work.
 *
 * @param {Section[]} sections at least one
 * @param {(section: Section) => void} onShow
 * @param {AbortSignal} ended
 */
export function createSections(sections, onShow, ended) {
  const navigation = part('sections', HTMLElement)
  const title = part('title', HTMLElement)
  const place = part('section', HTMLElement)
  /** @type {Section | undefined} */
  let current
  /** @type {Figures | undefined} */
  let figures

  const links = sections.map(({ id, title }) => element('a', { href: addressOf(id) }, title))
  navigation.replaceChildren(...links)
  navigation.hidden = sections.length < 2

  function show() {
    const [id, ...rest] = placeOf(location.hash)
    const next = sections.find((section) => section.id === id) ?? sections[0]
    if (!next) return
    if (next !== current) {
      current?.hide?.()
      current = next
      place.replaceChildren(next.element)
      write(title, next.title)
      document.title = `${next.title} · threads-edge`
      for (const [i, link] of links.entries()) {
        if (sections[i] === next) link.setAttribute('aria-current', 'page')
        else link.removeAttribute('aria-current')
      }
      if (figures) next.update?.(figures)
      onShow(next)
    }
    next.show?.(rest)
  }

  addEventListener(
    'hashchange',
    () => {
      const before = current
      show()
      if (current === before) return
      scrollTo(0, 0)
      title.focus({ preventScroll: true })
    },
    { signal: ended },
  )
  ended.addEventListener('abort', () => {
    current?.hide?.()
    navigation.replaceChildren()
    place.replaceChildren()
    navigation.hidden = true
    document.title = 'threads-edge'
  })
  show()
  return {
    /** @param {Figures} next */
    update(next) {
      figures = next
      current?.update?.(next)
    },
  }
}
