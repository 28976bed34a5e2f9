/** @import { Page } from './api.js' */
/** @import { Field } from './dialog.js' */
/** @import { Context, Section } from './sections.js' */
/** @import { EndpointHealth as Health, ShownListed as Listed, ShownWebhook as Webhook } from '../../src/webhooks/schema.ts' */
import { readPages, reasonOf } from './api.js'
import { createDeliveries } from './deliveries.js'
import { ask, showOnce } from './dialog.js'
import { button, createFacts, element, write } from './dom.js'
import { count, moment, NONE, percent } from './format.js'
import { addressOf } from './sections.js'
import { createTable } from './table.js'

const RELOAD_MS = 5_000
const PAGE = 50
const CHANNELS = 'post_events, user_events, comment_events, counter_events, or custom_ and a name'

/**
 * The endpoints, their deliveries, and what can be done with them. In a portal: those of one tenant.
 *
 * @param {Context & { tenant: string | null }} context
 * @returns {Section}
 */
export function createWebhooks(context) {
  const { api, say, ended, onEnd, tenant } = context
  const isPortal = tenant !== null
  /** @type {Listed[]} */
  let items = []
  /** @type {string | null} */
  let nextCursor = null
  let shownPages = 1
  let selected = ''
  let delivery = ''
  /** What to say once the endpoint is shown. */
  let arrived = ''
  let filter = ''
  let isShown = false
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer

  const table = createTable({
    title: 'Endpoints',
    note: 'attempts of the last 24 hours',
    empty: isPortal ? 'No endpoints yet. Add one.' : 'There are no webhooks. Add one, or run: npm run receiver',
    key: ({ id }) => id,
    columns: /** @type {import('./table.js').Column<Listed>[]} */ ([
      {
        title: 'Endpoint',
        text: ({ url }) => url,
        sortBy: ({ url }) => url,
        href: ({ id }) => addressOf('webhooks', id),
        isText: true,
      },
      ...(isPortal ? [] : [{ title: 'Tenant', text: tenantOf, sortBy: tenantOf, isText: true }]),
      { title: 'State', text: stateOf, sortBy: stateOf, isText: true, isBad: ({ status }) => status !== 'enabled' },
      {
        title: 'Health',
        text: healthOf,
        sortBy: healthOf,
        isText: true,
        isBad: (row) => healthOf(row) !== 'good' && healthOf(row) !== NONE,
      },
      {
        title: 'Success',
        text: ({ health }) => percent(health.successRate),
        sortBy: ({ health }) => health.successRate,
      },
      { title: 'Failed', text: ({ health }) => count(health.failed), sortBy: ({ health }) => health.failed },
      { title: 'Waiting', text: ({ health }) => count(health.pending), sortBy: ({ health }) => health.pending },
      {
        title: 'Last success',
        text: ({ health }) => (health.lastSuccessAt ? moment(health.lastSuccessAt) : NONE),
        sortBy: ({ health }) => health.lastSuccessAt,
      },
    ]),
  })
  const problem = element('p', { class: 'error', role: 'alert' })
  const more = button('Show more', () => ((shownPages += 1), void load()))
  const tenants = element('input', { type: 'search', placeholder: 'all tenants', size: '16' })
  tenants.addEventListener('change', () => ((filter = tenants.value.trim()), (shownPages = 1), void load()))
  const list = element(
    'div',
    {},
    element(
      'div',
      { class: 'actions start' },
      button('Add a webhook', add, 'primary'),
      ...(isPortal
        ? []
        : [button('Create a portal link', createLink), element('label', { class: 'end' }, 'Tenant ', tenants)]),
    ),
    table.element,
    more,
  )
  const detail = createDetail()
  const deliveries = createDeliveries(context)
  const one = element('div', {}, detail.element, deliveries.element)
  const root = element('div', {}, problem, list, one)
  more.hidden = true

  async function load() {
    clearTimeout(timer)
    try {
      /** @type {Page<Listed>} */
      const found = await readPages(shownPages, (cursor) =>
        api.webhooks('GET', `/webhooks${api.query({ limit: PAGE, cursor, tenant: filter || undefined })}`),
      )
      if (ended.aborted) return
      ;({ items, nextCursor } = found)
      table.update(items)
      more.hidden = nextCursor === null
      write(problem, '')
      if (selected) detail.update(await api.webhooks('GET', `/webhooks/${selected}`), healthOfId(selected))
      if (selected) await deliveries.load()
    } catch (error) {
      if (ended.aborted) return
      const reason = reasonOf(error, onEnd)
      if (reason === undefined) return
      write(problem, reason)
    }
    schedule()
  }

  function schedule() {
    clearTimeout(timer)
    if (isShown && !ended.aborted && !document.hidden) timer = setTimeout(() => void load(), RELOAD_MS)
  }
  document.addEventListener('visibilitychange', () => isShown && !document.hidden && void load(), { signal: ended })
  addEventListener('focus', () => isShown && void load(), { signal: ended })

  /** @param {string} id */
  const healthOfId = (id) => items.find((item) => item.id === id)?.health

  /** Does something with the endpoint, and shows what came of it. @param {() => Promise<string>} work */
  async function act(work) {
    try {
      detail.note(await work()) // which announces it
    } catch (error) {
      const reason = reasonOf(error, onEnd)
      if (reason === undefined) return
      detail.note(reason, true)
    }
    await load()
  }

  function add() {
    ask({ title: 'Add a webhook', fields: fieldsOf(undefined, isPortal), action: 'Add' }, async (values) => {
      const { secret, ...webhook } = await api.webhooks('POST', '/webhooks', values)
      location.hash = addressOf('webhooks', webhook.id)
      showOnce('Secret', 'The endpoint needs it to verify deliveries. It is shown only now.', secret)
      arrived = challengeOf(webhook)
    })
  }

  function createLink() {
    const fields = /** @type {Field[]} */ ([
      {
        name: 'tenant',
        label: 'Tenant',
        kind: 'text',
        isRequired: true,
        hint: 'Whose endpoints the link shows.',
        value: filter,
      },
      { name: 'expiresInSeconds', label: 'Seconds it works', kind: 'number', value: '3600', hint: '60 to 86400.' },
    ])
    ask({ title: 'Create a portal link', fields, action: 'Create' }, async (values) => {
      const { url, expiresAt } = await api.webhooks('POST', '/webhooks/portal-links', values)
      showOnce('Portal link', `Anybody who has it may use it until ${moment(expiresAt)}.`, url)
    })
  }

  function createDetail() {
    const name = element('h2', { class: 'code', tabindex: '-1' })
    const facts = createFacts('Endpoint')
    const note = element('p', { role: 'status' })
    /** @type {Webhook | undefined} */
    let webhook
    /** @param {string} path @param {object} [body] */
    const post = (path, body) => api.webhooks('POST', `/webhooks/${selected}/${path}`, body)
    const test = button('Send a test', () => void act(async () => testOf(await post('test'))))
    const enable = button(
      'Enable',
      () => void act(async () => (await post('enable'), 'Enabled: it answered the challenge.')),
    )
    const pause = button(
      'Pause',
      () => void act(async () => (await post('pause'), 'Paused. Events wait until you enable it.')),
    )
    const rotate = button('Rotate the secret', () =>
      ask(
        {
          title: 'Rotate the secret?',
          text: 'For 24 hours, deliveries are signed with the new and the previous secret.',
          fields: [],
          action: 'Rotate',
        },
        async () => {
          const { secret } = await post('rotate')
          showOnce('New secret', 'The endpoint needs it to verify deliveries. It is shown only now.', secret)
          void load()
        },
      ),
    )
    const replay = button('Replay since …', () => {
      const hourAgo = new Date(Date.now() - 3_600_000 - new Date().getTimezoneOffset() * 60_000)
      const fields = /** @type {Field[]} */ ([
        { name: 'since', label: 'Since', kind: 'moment', value: hourAgo.toISOString().slice(0, 19), isRequired: true },
        { name: 'includeDelivered', label: 'Also what was delivered', kind: 'yes' },
      ])
      const text = 'Delivers every matching event since then again: dead ones, and those never stored for it.'
      ask({ title: 'Replay events', text, fields, action: 'Replay' }, async (values) => {
        const { since } = await post('replay', values)
        detail.note(`Events since ${moment(since)} are queued again.`)
        void load()
      })
    })
    const edit = button('Edit', () => {
      if (!webhook) return
      ask({ title: 'Edit the webhook', fields: fieldsOf(webhook, isPortal), action: 'Save' }, async (values) => {
        const cleared = { types: null, filter: null, description: '', ...(isPortal ? {} : { tenant: null }) }
        const changed = await api.webhooks('PATCH', `/webhooks/${selected}`, { ...cleared, ...values })
        detail.note(changed.challenge ? challengeOf(changed) : 'Saved.')
        void load()
      })
    })
    const remove = button(
      'Delete',
      () =>
        ask(
          {
            title: 'Delete the webhook?',
            text: `${webhook?.url}: deliveries that wait are discarded. This cannot be undone.`,
            fields: [],
            action: 'Delete',
            isDanger: true,
          },
          async () => {
            const id = selected
            selected = '' // a reload meanwhile must not ask for what is going
            try {
              await api.webhooks('DELETE', `/webhooks/${id}`)
            } catch (error) {
              selected = id
              throw error
            }
            location.hash = addressOf('webhooks')
            say('Deleted.')
            void load()
          },
        ),
      'danger',
    )
    const back = element('a', { href: addressOf('webhooks') }, 'All endpoints')
    return {
      element: element(
        'section',
        { 'aria-label': 'Endpoint' },
        back,
        name,
        element('div', { class: 'actions start' }, test, enable, pause, replay, edit, rotate, remove),
        note,
        facts.list,
      ),
      /** @param {string} text @param {boolean} [isBad] */
      note(text, isBad = false) {
        write(note, text)
        note.classList.toggle('error', isBad)
      },
      clear() {
        webhook = undefined
        write(name, 'Loading …')
        facts.update([])
      },
      /** @param {Webhook} next @param {Health} [health] */
      update(next, health) {
        if (next.id !== selected) return
        webhook = next
        write(name, next.url)
        write(enable, next.status === 'unverified' ? 'Verify' : 'Enable')
        enable.hidden = next.status === 'enabled'
        pause.hidden = test.hidden = next.status !== 'enabled'
        replay.hidden = next.status === 'unverified' || next.status === 'disabled'
        facts.update(factsOf(next, health, isPortal))
      },
    }
  }

  return {
    id: 'webhooks',
    title: isPortal ? `Webhooks of ${tenant}` : 'Webhooks',
    element: root,
    show([id = '', of = '']) {
      if (id !== selected) {
        detail.clear()
        detail.note(arrived)
        arrived = ''
      }
      ;[selected, delivery] = [id, of]
      isShown = true
      list.hidden = selected !== ''
      one.hidden = selected === ''
      deliveries.select(selected, delivery)
      void load()
    },
    hide() {
      isShown = false
      clearTimeout(timer)
    },
  }
}

/** @param {Webhook} webhook */
const tenantOf = ({ tenant }) => tenant ?? NONE

/** @param {Webhook} webhook */
const stateOf = ({ status, disabledReason }) =>
  disabledReason ? `${status}: ${disabledReason === 'gone' ? 'answered 410' : 'failed for days'}` : status

/** @param {Listed} webhook */
function healthOf({ health: { circuit, succeeded, failed }, failingSince }) {
  if (failingSince) return `failing since ${moment(failingSince)}`
  if (circuit !== 'closed') return 'held back'
  return succeeded + failed === 0 ? NONE : 'good'
}

/** @param {{ status: string, challenge?: { status: number | null, error: string | null } }} webhook */
function challengeOf({ status, challenge }) {
  if (status === 'enabled') return 'Enabled: it answered the challenge.'
  const why = challenge?.error ?? `it answered ${challenge?.status}`
  return `Not verified yet: ${why}. It must answer the challenge. Then press Verify.`
}

/** @param {{ isDelivered: boolean, status: number | null, error: string | null, durationMs: number }} result */
const testOf = ({ isDelivered, status, error, durationMs }) =>
  isDelivered
    ? `The test arrived: ${status}, after ${durationMs} ms.`
    : `The test failed: ${error ?? `it answered ${status}`}.`

/** @param {Webhook} webhook @param {Health | undefined} health @param {boolean} isPortal @returns {[string, string][]} */
function factsOf(webhook, health, isPortal) {
  const { channels, types, filter, description, headerNames, tenant, failingSince, previousSecretUntil } = webhook
  return [
    ['State', stateOf(webhook)],
    ['Channels', channels.join(', ')],
    ['Types', types?.join(', ') ?? 'all'],
    ...(filter ? [/** @type {[string, string]} */ (['Filter', JSON.stringify(filter)])] : []),
    ...(headerNames.length > 0 ? [/** @type {[string, string]} */ (['Headers', headerNames.join(', ')])] : []),
    ...(isPortal ? [] : [/** @type {[string, string]} */ (['Tenant', tenant ?? 'none'])]),
    ...(description ? [/** @type {[string, string]} */ (['Description', description])] : []),
    ['Failing since', failingSince ? moment(failingSince) : 'no'],
    ['Success in 24 h', health ? percent(health.successRate) : 'unknown'],
    ['Last success', health?.lastSuccessAt ? moment(health.lastSuccessAt) : 'none in two days'],
    ['Last failure', health?.lastFailureAt ? moment(health.lastFailureAt) : 'none in two days'],
    ['Waiting', health ? count(health.pending) : 'unknown'],
    ...(previousSecretUntil
      ? [/** @type {[string, string]} */ (['Previous secret until', moment(previousSecretUntil)])]
      : []),
  ]
}

/** @param {Webhook | undefined} webhook @param {boolean} isPortal @returns {Field[]} */
function fieldsOf(webhook, isPortal) {
  return [
    {
      name: 'url',
      label: 'URL',
      kind: 'url',
      value: webhook?.url ?? '',
      isRequired: true,
      hint: 'https, on a public host. It must answer a challenge.',
    },
    {
      name: 'channels',
      label: 'Channels',
      kind: 'lines',
      value: webhook?.channels.join('\n') ?? 'post_events',
      isRequired: true,
      hint: `One a line: ${CHANNELS}.`,
    },
    {
      name: 'types',
      label: 'Types',
      kind: 'lines',
      value: webhook?.types?.join('\n') ?? '',
      hint: 'One a line. Empty: all of the channels.',
    },
    {
      name: 'filter',
      label: 'Filter',
      kind: 'json',
      value: webhook?.filter ? JSON.stringify(webhook.filter) : '',
      hint: 'JSON, such as {"data.authorId": "u_…"}. Empty: no filter.',
    },
    {
      name: 'headers',
      label: webhook ? 'New headers' : 'Headers',
      kind: 'json',
      hint: webhook
        ? `JSON. Empty: they stay (${webhook.headerNames.join(', ') || 'none'}).`
        : 'JSON, such as {"Authorization": "…"}. Sent with every delivery, and never shown again.',
    },
    { name: 'description', label: 'Description', kind: 'text', value: webhook?.description ?? '' },
    ...(isPortal
      ? []
      : [
          /** @type {Field} */ ({
            name: 'tenant',
            label: 'Tenant',
            kind: 'text',
            value: webhook?.tenant ?? '',
            hint: 'Whose people may see it in a portal. Empty: nobody.',
          }),
        ]),
  ]
}
