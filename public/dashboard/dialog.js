import { Failure } from './api.js'
import { button, element, write } from './dom.js'

// Dialogs: a form with an error beside each field, a question, and a text that is shown once.

/**
 * @typedef {object} Field
 * @property {string} name as the API names it
 * @property {string} label
 * @property {string} [hint]
 * @property {'text' | 'url' | 'long' | 'lines' | 'json' | 'choices' | 'number' | 'moment' | 'yes'} kind
 * @property {string} [value]
 * @property {readonly string[]} [choices]
 * @property {boolean} [isRequired]
 */

/** @typedef {Record<string, unknown>} Values by the names of fields; an empty one is absent */

/**
 * @param {string} title
 * @param {(HTMLElement | string)[]} children
 */
function open(title, children) {
  const heading = element('h2', { id: 'dialog-title' }, title)
  const dialog = element('dialog', { 'aria-labelledby': 'dialog-title' }, heading, ...children)
  document.body.append(dialog)
  dialog.addEventListener('close', () => dialog.remove()) // the browser returns the focus
  dialog.showModal()
  return dialog
}

/**
 * Asks for input until `submit` succeeds or the user cancels. `submit` throws a `Failure` to refuse it.
 *
 * @param {object} question
 * @param {string} question.title
 * @param {string} [question.text]
 * @param {Field[]} question.fields
 * @param {string} question.action the label of the button
 * @param {boolean} [question.isDanger]
 * @param {(values: Values) => Promise<void>} submit
 */
export function ask({ title, text, fields, action, isDanger = false }, submit) {
  const general = element('p', { class: 'error', role: 'alert' })
  const inputs = fields.map((field) => createInput(field))
  const send = element('button', { type: 'submit', class: isDanger ? 'primary danger' : 'primary' }, action)
  const cancel = button('Cancel', () => dialog.close())
  const form = element(
    'form',
    { class: 'fields', novalidate: true },
    ...(text ? [element('p', {}, text)] : []),
    general,
    ...inputs.map((input) => input.element),
    element('div', { class: 'actions' }, cancel, send),
  )
  const dialog = open(title, [form])
  ;(inputs[0]?.control ?? cancel).focus()

  form.addEventListener('submit', (event) => {
    event.preventDefault()
    void run()
  })

  async function run() {
    if (form.ariaBusy === 'true') return
    form.ariaBusy = 'true'
    write(general, '')
    for (const input of inputs) input.say('')
    try {
      /** @type {Values} */
      const values = {}
      for (const { field, read } of inputs) {
        const value = read()
        if (value !== undefined) values[field.name] = value
      }
      await submit(values)
      dialog.close()
    } catch (error) {
      if (!(error instanceof Failure)) throw error
      show(error)
    } finally {
      form.ariaBusy = 'false'
    }
  }

  /** @param {Failure} failure */
  function show({ message, fields }) {
    const named = fields.flatMap((error) => {
      const input = inputs.find(({ field }) => field.name === error.field.split('.')[0])
      return input ? [{ input, error }] : []
    })
    for (const { input, error } of named) {
      const place = error.field.slice(input.field.name.length + 1)
      const line = /^\d+$/.test(place) ? `Number ${Number(place) + 1}` : place
      input.say([line, error.message].filter(Boolean).join(' '))
    }
    if (named.length === 0) write(general, message)
    ;(named[0]?.input.control ?? send).focus()
  }
}

let inputs = 0

const INPUTS = { text: 'text', url: 'url', number: 'number', moment: 'datetime-local', yes: 'checkbox' }

/** @param {Field} field */
function createInput(field) {
  const { label, hint = '', kind, value = '', choices = [], isRequired = false } = field
  const id = `field-${(inputs += 1)}`
  const error = element('p', { class: 'error', id: `${id}-error` })
  const attributes = {
    id,
    spellcheck: 'false',
    autocomplete: 'off',
    'aria-describedby': `${id}-hint ${id}-error`,
    ...(isRequired ? { 'aria-required': 'true' } : {}),
  }
  const control =
    kind === 'choices'
      ? element('select', attributes, ...choices.map((choice) => element('option', { value: choice }, choice)))
      : kind === 'lines' || kind === 'json' || kind === 'long'
        ? element('textarea', { ...attributes, rows: '3' })
        : element('input', { ...attributes, type: INPUTS[kind], ...(kind === 'moment' ? { step: '1' } : {}) })
  if (kind === 'yes') Object.assign(control, { checked: value === 'true' })
  else control.value = value
  const name = element('label', { for: id }, label)
  const notes = [element('p', { class: 'quiet', id: `${id}-hint` }, hint), error]
  const node = element(
    'div',
    { class: `field ${kind}` },
    ...(kind === 'yes' ? [control, name] : [name, control]),
    ...notes,
  )

  /** @returns {unknown} as the API takes it; undefined: none */
  function read() {
    if (kind === 'yes') return control instanceof HTMLInputElement && control.checked
    const text = control.value.trim()
    if (text === '') return undefined
    if (kind === 'number') return Number(text)
    if (kind === 'moment') return new Date(text).toISOString()
    if (kind === 'lines') return text.split(/[\s,]+/).filter(Boolean)
    if (kind !== 'json') return text
    try {
      return /** @type {unknown} */ (JSON.parse(text))
    } catch {
      throw new Failure('refused', 'Not JSON.', [{ field: field.name, message: 'must be JSON' }])
    }
  }

  return {
    field,
    element: node,
    control,
    read,
    /** @param {string} text */
    say(text) {
      write(error, text)
      if (text) control.setAttribute('aria-invalid', 'true')
      else control.removeAttribute('aria-invalid')
    },
  }
}

/**
 * Shows a text that cannot be shown again. Nothing keeps it when the dialog closes.
 *
 * @param {string} title
 * @param {string} note
 * @param {string} text
 */
export function showOnce(title, note, text) {
  const copied = element('p', { class: 'quiet', role: 'status' })
  const field = element('input', { type: 'text', readonly: true, class: 'code', 'aria-label': title })
  field.value = text
  const copy = button('Copy', () => {
    field.select()
    navigator.clipboard.writeText(text).then(
      () => write(copied, 'Copied.'),
      () => write(copied, 'Select the text and copy it.'),
    )
  })
  const done = button('Done', () => dialog.close(), 'primary')
  const dialog = open(title, [element('p', {}, note), field, copied, element('div', { class: 'actions' }, copy, done)])
  dialog.addEventListener('close', () => (field.value = ''))
  field.select()
}
