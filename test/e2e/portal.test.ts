import type { Page } from 'playwright-core'
import { expect, test } from 'vitest'
import { createClient, createServiceClient, Problem } from '../../client/index.ts'
import { DEMO_PASSWORD } from '../../scripts/demo/data.ts'
import { expectAccessible, useBrowser } from './browser.ts'
import { SERVICE_TOKEN } from './product.ts'
import { startReceiver } from './receiver.ts'

// Webhooks, the portal of a tenant, and reports, in the dashboard.
const web = useBrowser()

async function openSignedIn(path: string, width = 1280): Promise<Page> {
  web.expectComplaint(/status of 401/) // the browser has no session yet
  const page = await web.open(path, { viewport: { width, height: 900 } })
  await page.getByLabel('Service token').fill(SERVICE_TOKEN)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('button', { name: 'Sign out' }).waitFor()
  return page
}

/** A back end. */
const newService = () => createServiceClient({ url: web.product.url, token: SERVICE_TOKEN })

const dialogOf = (page: Page) => page.getByRole('dialog')
const press = (page: Page, name: string) => page.getByRole('button', { name, exact: true }).click()

test('add a webhook, test it, read its deliveries, replay, pause, verify, rotate, edit and delete it', async () => {
  const receiver = await startReceiver()
  web.expectComplaint(/status of 4(00|09|22)/)
  const channel = `custom_shop_${crypto.randomUUID().slice(0, 8)}` // a replay finds no event of an attempt before
  const publish = async (type: string) => {
    await newService().publishEvent({ channel, type, data: { amount: 7 } })
    await web.product.cron()
  }
  try {
    const page = await openSignedIn('/#/webhooks')
    await press(page, 'Add a webhook')
    const dialog = dialogOf(page)

    // The API names the field that it refuses.
    await dialog.getByLabel('URL').fill('ftp://example.com')
    await dialog.getByLabel('Channels').fill('no_such_channel')
    await dialog.getByRole('button', { name: 'Add', exact: true }).click()
    await expect.poll(() => dialog.getByLabel('Channels').getAttribute('aria-invalid')).toBe('true')
    await expectAccessible(page, 'webhook-refused', false)
    await dialog.getByLabel('Channels').fill(channel)
    await dialog.getByRole('button', { name: 'Add', exact: true }).click()
    await expect.poll(() => dialog.getByLabel('URL').getAttribute('aria-invalid')).toBe('true')
    await dialog.getByLabel('Filter').fill('{')
    await dialog.getByRole('button', { name: 'Add', exact: true }).click()
    await dialog.getByText('must be JSON').waitFor()
    await dialog.getByLabel('Filter').fill('')
    await dialog.getByLabel('URL').fill(`http://${receiver.host}/hook`)
    await dialog.getByRole('button', { name: 'Add', exact: true }).click()

    // The secret is shown once.
    const secret = await dialog.getByLabel('Secret').inputValue()
    expect(secret).toMatch(/^whsec_/)
    await expectAccessible(page, 'webhook-secret', false)
    await dialog.getByRole('button', { name: 'Done' }).click()
    await page.getByRole('heading', { name: `http://${receiver.host}/hook` }).waitFor()
    await page.getByText('Enabled: it answered the challenge.').waitFor()
    const text = await page.evaluate(
      () =>
        document.documentElement.outerHTML + [...document.querySelectorAll('input')].map(({ value }) => value).join(),
    )
    expect(text).not.toContain(secret)

    // A delivery with its attempts, request and answer.
    receiver.status = 500
    await publish('order_paid')
    const row = page.getByRole('row', { name: /^order_paid/ })
    await expect.poll(() => row.innerText(), { timeout: 60_000 }).toMatch(/\tdead\t2\t.*\t500 no room\t/)
    await page.getByRole('link', { name: 'order_paid' }).click()
    await page.getByRole('heading', { name: 'order_paid: dead' }).waitFor()
    const body = page.getByRole('group', { name: 'Body of the request' })
    expect(await body.innerText()).toContain('"amount": 7')
    expect(await page.getByRole('group', { name: 'Headers of the request' }).innerText()).toMatch(
      /webhook-signature: \(secret\)/i,
    )
    expect(await page.getByRole('group', { name: 'Body of the answer' }).allInnerTexts()).toEqual([
      'no room',
      'no room',
    ])
    await expectAccessible(page, 'delivery')
    await page.reload()
    await page.getByRole('heading', { name: 'order_paid: dead' }).waitFor()

    // Replay one, and all since a time.
    receiver.status = 200
    await press(page, 'Replay order_paid')
    await page.getByRole('heading', { name: 'order_paid: delivered' }).waitFor({ timeout: 60_000 })
    const received = receiver.received.length
    await press(page, 'Replay since …')
    await dialog.getByLabel('Also what was delivered').check()
    await dialog.getByRole('button', { name: 'Replay', exact: true }).click()
    await page.getByText(/^Events since .* are queued again\.$/).waitFor()
    await expect.poll(() => receiver.received.length, { timeout: 60_000 }).toBeGreaterThan(received)
    expect(new Set(receiver.received).size).toBe(1)

    await press(page, 'Send a test')
    await page.getByText(/^The test arrived: 200, after \d+ ms\.$/).waitFor()
    await press(page, 'Pause')
    await page.getByText('Paused. Events wait until you enable it.').waitFor()
    await press(page, 'Enable')
    await page.getByText('Enabled: it answered the challenge.').waitFor()

    await press(page, 'Rotate the secret')
    await dialog.getByRole('button', { name: 'Rotate', exact: true }).click()
    const next = await dialog.getByLabel('New secret').inputValue()
    expect(next).toMatch(/^whsec_/)
    expect(next).not.toBe(secret)
    await dialog.getByRole('button', { name: 'Done' }).click()
    await page.getByText('Previous secret until').waitFor()

    await press(page, 'Edit')
    await dialog.getByLabel('Types').fill('order_paid order_sent')
    await dialog.getByLabel('Tenant').fill('shop-1')
    await dialog.getByRole('button', { name: 'Save' }).click()
    await page.getByText('order_paid, order_sent').waitFor()

    await page.getByRole('link', { name: 'All endpoints' }).click()
    const endpoint = page.getByRole('row', { name: receiver.host })
    await expect.poll(() => endpoint.innerText()).toMatch(/\tshop-1\tenabled\t/)
    await expectAccessible(page, 'webhooks')
    await page.getByRole('link', { name: receiver.host }).click()
    await press(page, 'Delete')
    await dialog.getByText('This cannot be undone.').waitFor()
    await dialog.getByRole('button', { name: 'Cancel' }).click()
    await press(page, 'Delete')
    await dialog.getByRole('button', { name: 'Delete' }).click()
    await page.getByText('There are no webhooks.').waitFor()
  } finally {
    await receiver.close()
  }
})

test('a portal link opens the webhooks of its tenant and nothing else', async () => {
  const receiver = await startReceiver()
  try {
    const add = (tenant: string) =>
      newService().createWebhook({ url: `http://${receiver.host}/${tenant}`, channels: ['post_events'], tenant })
    await add('acme')
    await add('other')
    const page = await openSignedIn('/#/webhooks')
    await page.getByRole('link', { name: 'other' }).waitFor()
    await page.getByLabel('Tenant').fill('acme')
    await page.getByLabel('Tenant').press('Enter')
    await page.getByRole('link', { name: 'other' }).waitFor({ state: 'hidden' })
    await press(page, 'Create a portal link')
    await dialogOf(page).getByRole('button', { name: 'Create' }).click()
    const link = await dialogOf(page).getByLabel('Portal link').inputValue()
    expect(link).toMatch(/#portal=/)

    const portal = await web.open(link.slice(web.product.url.length))
    await portal.getByRole('heading', { name: 'Webhooks of acme' }).waitFor()
    await portal.getByRole('link', { name: 'acme' }).waitFor()
    expect(portal.url()).not.toContain('portal=')
    expect(await portal.getByRole('link', { name: 'other' }).count()).toBe(0)
    expect(await portal.getByRole('navigation').count()).toBe(0)
    expect(await portal.getByLabel('Tenant').count()).toBe(0)
    await expectAccessible(portal, 'portal')
    await portal.reload()
    await portal.getByRole('heading', { name: 'Webhooks of acme' }).waitFor()

    web.expectComplaint(/status of 401/)
    const expired = await web.open('/#portal=forged')
    await expired.getByRole('heading', { name: 'This link has ended' }).waitFor()
    await expectAccessible(expired, 'portal-ended')
  } finally {
    await receiver.close()
  }
})

test('moderators take down, restore, suspend, reinstate and resolve in the queue of reports', async () => {
  const [ada, bob] = [createClient({ url: web.product.url }), createClient({ url: web.product.url })]
  await ada.signIn({ login: 'ada', password: DEMO_PASSWORD })
  await bob.signIn({ login: 'bob', password: DEMO_PASSWORD })
  const text = `Buy my looms! ${crypto.randomUUID()}` // a second attempt has a post of its own
  const post = await ada.createPost({ text })
  await bob.createReport({ subjectId: post.id, reason: 'spam', text: 'An advertisement.' })

  const page = await openSignedIn('/#/reports')
  const row = page.getByRole('row', { name: new RegExp(text) })
  await expect.poll(() => row.innerText()).toMatch(/\t1\tspam\t.*\tAn advertisement\./)
  await expectAccessible(page, 'reports')
  const decide = async (action: string) => {
    await dialogOf(page).getByLabel('Note').fill('It is spam')
    await dialogOf(page).getByRole('button', { name: action, exact: true }).click()
    await dialogOf(page).waitFor({ state: 'hidden' })
  }
  web.expectComplaint(/status of 400/)
  await press(page, `Take down ${post.id}`)
  await dialogOf(page).getByRole('button', { name: 'Take down' }).click()
  await dialogOf(page).getByText('must not be empty').waitFor() // beside the note
  await decide('Take down')
  await page.getByRole('row', { name: `(taken down) ${text}` }).waitFor()
  const statusOf = ({ id }: { id: string }) =>
    createClient({ url: web.product.url })
      .getPost({ id })
      .then(
        () => 'there',
        (error: Error) => (error instanceof Problem ? error.type : String(error)),
      )
  await expect.poll(() => statusOf(post), { timeout: 30_000 }).toBe('not-found')
  await page
    .getByRole('row', { name: /^take-down/ })
    .getByRole('button', { name: `Restore ${post.id}` })
    .click()
  await decide('Restore')
  await page.getByRole('row', { name: /^restore/ }).waitFor()

  await press(page, `Suspend the author of ${post.id}`)
  await decide('Suspend')
  await page
    .getByRole('row', { name: /^suspend/ })
    .getByRole('button', { name: /^Reinstate/ })
    .click()
  await decide('Reinstate')
  await page.getByRole('row', { name: /^reinstate/ }).waitFor()

  await press(page, `Resolve the reports about ${post.id}`)
  await dialogOf(page).getByLabel('Outcome').selectOption('acted')
  await decide('Resolve')
  await page.getByText('No open reports.').waitFor()
  await page.getByRole('row', { name: /^act-on-reports/ }).waitFor()
})
