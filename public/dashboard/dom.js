/**
 * Creates an element. Strings become text, never HTML.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | boolean>} attributes `true` sets an empty one, `false` none
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) node.setAttribute(name, value === true ? '' : value)
  }
  node.append(...children)
  return node
}

/**
 * Writes a text only if it changed: selections survive, and live regions announce nothing twice.
 *
 * @param {Element} node
 * @param {string} text
 */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text
}

/**
 * A part of index.html.
 *
 * @template {HTMLElement} T
 * @param {string} id
 * @param {{ new (): T }} kind
 * @returns {T}
 */
export function part(id, kind) {
  const node = document.getElementById(id)
  if (!(node instanceof kind)) throw new Error(`index.html has no ${id}`)
  return node
}

/**
 * A button.
 *
 * @param {string} text
 * @param {() => void} press
 * @param {string} [classes]
 */
export function button(text, press, classes = '') {
  const node = element('button', { type: 'button', class: classes }, text)
  node.addEventListener('click', press)
  return node
}

/** A section of a page with its heading. @param {string} id @param {string} title @param {...Element} children */
export function section(id, title, ...children) {
  const heading = element('h2', { id: `${id}-title` }, title)
  return element('section', { id, 'aria-labelledby': `${id}-title` }, heading, ...children)
}

/** A list of names and values, which keeps its elements. @param {string} label */
export function createFacts(label) {
  const list = element('dl', { class: 'facts card', 'aria-label': label })
  /** @type {Map<string, HTMLElement>} */
  const held = new Map()
  return {
    list,
    /** @param {[name: string, value: string][]} facts */
    update(facts) {
      const names = new Set(facts.map(([name]) => name))
      for (const [name, value] of held) {
        if (names.has(name)) continue
        value.parentElement?.remove()
        held.delete(name)
      }
      for (const [name, value] of facts) {
        let node = held.get(name)
        if (!node) {
          node = element('dd')
          held.set(name, node)
          list.append(element('div', {}, element('dt', {}, name), node))
        }
        write(node, value)
      }
    },
  }
}
