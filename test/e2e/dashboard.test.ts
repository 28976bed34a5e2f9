import type axe from 'axe-core'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { simulate } from '../../scripts/demo/traffic.ts'
import { type Product, SERVICE_TOKEN, startProduct } from './product.ts'
import { startReceiver } from './receiver.ts'

const { CHROMIUM = '/usr/bin/chromium' } = process.env
const output = join(dirname(dirname(import.meta.dirname)), 'test-output')
const axePath = createRequire(import.meta.url).resolve('axe-core/axe.min.js')

let product: Product
let browser: Browser
let traffic: Promise<void> | undefined
const pages: Page[] = []
/** What pages complained of: broken policies, errors of scripts, answers that failed. */
let complaints: string[] = []

beforeAll(async () => {
  product = await startProduct()
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] })
})

afterEach(async () => {
  for (const page of pages.splice(0)) await page.context().close()
  await product.redis.reset()
  const found = complaints
  complaints = []
  if (found.length > 0) throw new Error(`The page complained:\n${found.join('\n')}`)
})

afterAll(async () => {
  await browser?.close()
  await product?.stop()
})

async function open(options: BrowserContextOptions = {}): Promise<Page> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
  await context.addInitScript({ path: axePath })
  await context.addInitScript(() => {
    addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) =>
      console.error(`policy: ${violatedDirective} ${blockedURI}`),
    )
  })
  const page = await context.newPage()
  page.on('console', (message) => {
    const isOurs = message.text().startsWith('Canvas2D: Multiple readback') // these tests look at charts, the page does not
    if (['error', 'warning'].includes(message.type()) && !isOurs) complaints.push(message.text())
  })
  page.on('pageerror', (error) => complaints.push(String(error.stack)))
  pages.push(page)
  await page.goto(product.url)
  return page
}

/** There is something to see, unless it is to be found as `npm start` leaves it. */
async function openSignedIn(options?: BrowserContextOptions, isUntouched = false): Promise<Page> {
  if (!isUntouched) await (traffic ??= simulate(product.url, 3))
  const page = await open(options)
  await page.getByLabel('Service token').fill(SERVICE_TOKEN)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('heading', { name: 'Traffic' }).waitFor()
  return page
}

/** Expects this complaint, which the browser makes of every failed answer, and forgets it. */
function expectComplaint(about: RegExp): void {
  expect(complaints.filter((complaint) => about.test(complaint))).not.toEqual([])
  complaints = complaints.filter((complaint) => !about.test(complaint))
}

/** Keeps a picture, and expects axe to find nothing. */
async function expectAccessible(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: join(output, `${name}.png`), fullPage: true })
  const violations = await page.evaluate(async () => {
    const { axe: engine } = globalThis as unknown as { axe: typeof axe } // by the script above
    const results = await engine.run(document, { preload: false })
    return results.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`)
  })
  expect(violations).toEqual([])
}

/** What a back end asks of the API. */
async function service(method: string, path: string, body?: object): Promise<unknown> {
  const response = await fetch(product.url + path, {
    method,
    headers: { Authorization: `Bearer ${SERVICE_TOKEN}`, 'Content-Type': 'application/json' },
    ...(body ? { body: JSON.stringify(body) } : {}),
  })
  const answer: unknown = await response.json()
  if (!response.ok) throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`)
  return answer
}

const banner = (page: Page) => page.locator('#banner')
const headline = async (page: Page, name: string): Promise<string> =>
  page
    .locator('.headline > div')
    .filter({ has: page.getByText(name, { exact: true }) })
    .locator('.value')
    .innerText()
/** Requests of the last five minutes, as the opened table of the chart has them: a second, by steps of ten. */
async function drawnRequests(page: Page): Promise<number> {
  const table = page.getByRole('table', { name: 'Requests per second' })
  const rates = await table.locator('tbody td:nth-child(2)').allInnerTexts()
  return Math.round(10 * rates.reduce((sum, rate) => sum + Number(rate), 0))
}
/** A busy machine may have kept Redis from answering in time. */
async function expectWell(page: Page): Promise<void> {
  await expect.poll(async () => banner(page).innerText(), { timeout: 60_000 }).toBe('')
}
/** By how many pixels a table is wider than its card. */
const overflow = (page: Page, name: string) =>
  page.getByRole('group', { name }).evaluate((card) => card.scrollWidth - card.clientWidth)
const hasFocus = (page: Page, selector: string) =>
  page.evaluate((selector) => document.activeElement?.matches(selector) ?? false, selector)

test('empty states say what is missing', async () => {
  const page = await openSignedIn({}, true)
  for (const text of ['No likes yet', 'Nobody was online yet', 'No deliveries yet', 'There are no webhooks.']) {
    expect([text, await page.getByText(text, { exact: true }).isVisible()]).toEqual([text, true])
  }
  expect(await headline(page, 'Online')).toBe('0')
  for (const name of ['Big keys', 'Keys by pattern']) expect([name, await overflow(page, name)]).toEqual([name, 0])
  await expectAccessible(page, 'empty')
})

test('the policy of the page allows its own origin alone, and no framing', async () => {
  const { headers } = await fetch(product.url)
  const policy = headers.get('Content-Security-Policy') ?? ''
  expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'")
  expect(policy).toContain("form-action 'none'; frame-ancestors 'none'")
  expect(policy).not.toMatch(/unsafe|https?:|\*/)
  expect([headers.get('X-Content-Type-Options'), headers.get('Referrer-Policy')]).toEqual(['nosniff', 'no-referrer'])

  const page = await open()
  const origins = await page.evaluate(() =>
    performance.getEntriesByType('resource').map(({ name }) => new URL(name).origin),
  )
  expect(new Set(origins)).toEqual(new Set([product.url]))
})

test('the dashboard links to the API reference', async () => {
  const page = await open()
  expect(await page.getByRole('link', { name: 'API reference' }).getAttribute('href')).toBe('/docs/')
})

test('a wrong token shows an error beside the field', async () => {
  const page = await open()
  await expectAccessible(page, 'sign-in')
  const input = page.getByLabel('Service token')
  for (const wrong of ['no-such-token-at-all', 'of no header: ü\u2028']) {
    await input.fill(wrong)
    await page.keyboard.press('Enter')
    await page.getByText('This token is not valid.').waitFor()
    expect(await input.getAttribute('aria-invalid')).toBe('true')
    expect(await hasFocus(page, '#token')).toBe(true)
  }
  await expectAccessible(page, 'wrong-token')
  expectComplaint(/401/)
})

test('the token is kept only in memory, and signing out drops it', async () => {
  const page = await openSignedIn()
  expect(await hasFocus(page, 'h1')).toBe(true)
  expect(page.url()).toBe(`${product.url}/`)
  const kept = await page.evaluate(async () => ({
    storage: localStorage.length + sessionStorage.length,
    databases: (await indexedDB.databases()).length,
    caches: (await caches.keys()).length,
    cookie: document.cookie,
    text: document.documentElement.outerHTML + (document.querySelector('input')?.value ?? ''),
  }))
  expect(kept).toMatchObject({ storage: 0, databases: 0, caches: 0, cookie: '' })
  expect(kept.text).not.toContain(SERVICE_TOKEN)

  await page.getByRole('button', { name: 'Sign out' }).click()
  expect(await hasFocus(page, '#token')).toBe(true)
  expect(await page.getByLabel('Service token').inputValue()).toBe('')
  expect(await page.getByRole('heading', { name: 'Traffic' }).count()).toBe(0)

  await page.getByLabel('Service token').fill(SERVICE_TOKEN)
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Traffic' }).waitFor()
  await page.reload()
  expect(await page.getByLabel('Service token').inputValue()).toBe('')
})

test('figures, charts and tables change under traffic', async () => {
  const page = await openSignedIn()
  const row = page.getByRole('row', { name: 'GET /v1/posts/hot ' })
  const requests = async () => Number((await row.locator('td').first().innerText()).replaceAll(/\D/g, ''))
  await expect.poll(requests, { timeout: 60_000 }).toBeGreaterThan(0)
  await page.getByText('Figures of Requests per second').click()
  const steps = page.getByRole('table', { name: 'Requests per second' }).locator('tbody tr')
  const drawn = async () => drawnRequests(page)
  const before = { requests: await requests(), drawn: await drawn(), step: await steps.first().innerText() }

  await simulate(product.url, 15)
  await product.cron()
  await expect.poll(requests, { timeout: 60_000 }).toBeGreaterThanOrEqual(before.requests + 15)
  await expect.poll(drawn, { timeout: 60_000 }).toBeGreaterThanOrEqual(before.drawn + 60)
  expect(await steps.first().innerText()).not.toBe(before.step)
  expect(await steps.count()).toBe(30)
  expect(await headline(page, 'Requests')).toMatch(/^[1-9][\d.]* \/s$/)
  expect(await headline(page, 'Latency, p95')).toMatch(/^[\d.]+ m?s$/)
  expect(await headline(page, 'Cache hit rate')).toMatch(/^[\d.]+%$/)
  expect(await headline(page, 'Redis per request')).toMatch(/^[\d.]+ commands$/)
  expect(await headline(page, 'Redis cost')).toMatch(/^\$[\d.]+$/)
  expect(Number(await headline(page, 'Online'))).toBeGreaterThan(0)
  const server = page.locator('dl').filter({ hasText: 'Scanned keys' })
  expect(await server.innerText()).toMatch(/Scanned keys\s+[\d,]+ of [\d,]+\s+Last complete scan\s+/)
  const summary = page.locator('#chart-0-summary')
  expect(await summary.textContent()).toMatch(/all: now [\d.]+, between 0 and [\d.]+, highest at \d\d:\d\d/)
  expect(await page.getByRole('img', { name: 'Requests per second The last 15 minutes.' }).count()).toBe(1)
  for (const name of ['Routes', 'Caches by layer', 'Top keys']) {
    expect(await page.getByRole('table', { name }).getByRole('row').count()).toBeGreaterThan(2)
  }
  await expectWell(page)
  await expectAccessible(page, 'light')
})

test('a banner says that Redis is down, and goes when it is back', async () => {
  const page = await openSignedIn()
  await expectWell(page)
  await page.getByText('Figures of Requests per second').click()
  await expect.poll(async () => drawnRequests(page), { timeout: 60_000 }).toBeGreaterThan(9)
  const drawn = await drawnRequests(page)
  await product.redis.fault({ kind: 'refuse' })
  await page.getByRole('alert').getByText('Redis is down.').waitFor({ timeout: 60_000 })
  expect(await page.getByRole('list', { name: 'Dependencies' }).innerText()).toContain('Redis down')
  expect(await drawnRequests(page)).toBeGreaterThanOrEqual(drawn) // though one isolate alone is asked now
  await expectAccessible(page, 'redis-down')

  await product.redis.clearFaults()
  await expectWell(page)
  expect(await page.getByRole('status').innerText()).toBe('All dependencies work again.')
})

test('without the network the last figures stay, and updates continue afterwards', async () => {
  const page = await openSignedIn()
  await page.context().setOffline(true)
  await page.getByText(/The API cannot be reached\. These figures are from \d\d:\d\d:\d\d\./).waitFor()
  expect(await page.getByRole('table', { name: 'Routes' }).count()).toBe(1)
  await page.getByLabel('Time shown').selectOption('60')
  expect(await banner(page).innerText()).toMatch(/cannot be reached/) // what is drawn anew is as old as before
  await expectAccessible(page, 'offline')

  await page.context().setOffline(false)
  await expectWell(page)
  expectComplaint(/ERR_INTERNET_DISCONNECTED/)
})

test('the page shows errors of the API, and a refused token leads to the sign-in', async () => {
  const page = await openSignedIn()
  const problem = { type: 'about:blank', title: 'Not configured', status: 503, detail: 'DB is missing' }
  const contentType = 'application/problem+json'
  await page.route('**/v1/stats*', async (route) =>
    route.fulfill({ status: 503, contentType, body: JSON.stringify(problem) }),
  )
  await page.getByText('The API answered 503: DB is missing.').waitFor()
  expectComplaint(/503/)

  await page.unroute('**/v1/stats*')
  await page.route('**/v1/stats*', async (route) => {
    await route.continue({ headers: { ...route.request().headers(), authorization: 'Bearer rotated-meanwhile' } })
  })
  await page.getByText('The token is no longer valid. Sign in again.').waitFor({ timeout: 60_000 })
  expect(await hasFocus(page, '#token')).toBe(true)
  expect(await page.getByRole('heading', { name: 'Traffic' }).count()).toBe(0)
  expectComplaint(/401/)
})

test('while paused or hidden the page sends no requests', async () => {
  const page = await open()
  await page.clock.install()
  await page.reload()
  await page.getByLabel('Service token').fill(SERVICE_TOKEN)
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Traffic' }).waitFor()
  let asked = 0
  page.on('request', (request) => void (asked += Number(request.url().includes('/v1/stats'))))

  const answered = page.waitForResponse('**/v1/stats*')
  await page.clock.runFor(5_000)
  await answered
  expect(asked).toBe(1)

  await page.getByRole('button', { name: 'Pause' }).click()
  await page.clock.runFor(60_000)
  expect(asked).toBe(1)
  expect(await page.getByRole('button', { name: 'Pause', pressed: true }).count()).toBe(1)

  const resumed = page.waitForRequest('**/v1/stats?minutes=*')
  await page.getByRole('button', { name: 'Pause' }).click()
  await page.clock.runFor(1)
  const minutes = Number(new URL((await resumed).url()).searchParams.get('minutes'))
  expect(minutes).toBeLessThanOrEqual(4) // what was missed, not all again

  const hide = async (isHidden: boolean) =>
    page.evaluate((isHidden) => {
      Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true })
      document.dispatchEvent(new Event('visibilitychange'))
    }, isHidden)
  await hide(true)
  const before = asked
  await page.clock.runFor(60_000)
  expect(asked).toBe(before)
  const looked = page.waitForRequest('**/v1/stats?minutes=*')
  await hide(false)
  await page.clock.runFor(1)
  await looked
})

test('everything works with a keyboard', async () => {
  const page = await open()
  expect(await hasFocus(page, '#token')).toBe(true)
  await page.keyboard.type(SERVICE_TOKEN)
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Traffic' }).waitFor()

  // Once around: everything that can be used is reached, seen, and has a name.
  await page.evaluate(() => {
    document.body.tabIndex = -1
    document.body.focus()
  })
  const reached: string[] = []
  for (let i = 0; i < 200; i += 1) {
    await page.keyboard.press('Tab')
    const name = await page.evaluate(() => {
      const node = document.activeElement
      if (!node || node === document.body) return ''
      const { outlineStyle, outlineWidth } = getComputedStyle(node)
      const { width, height } = node.getBoundingClientRect()
      const isSeen = outlineStyle !== 'none' && outlineWidth !== '0px' && width > 0 && height > 0
      const labels = node instanceof HTMLSelectElement ? [...node.labels].map((label) => label.textContent).join() : ''
      const name = node.getAttribute('aria-label') ?? (labels || node.textContent?.trim())
      return `${isSeen ? '' : 'unseen '}${name}`
    })
    if (name === '' || name === reached[0]) break
    reached.push(name)
  }
  expect(reached.slice(0, 5)).toEqual(['Skip to the figures', 'API reference', 'Time shown', 'Pause', 'Sign out'])
  expect(reached).toContain('Figures of Likes per second')
  expect(reached).toContain('Cost per million')
  expect(reached.filter((name) => name.startsWith('unseen'))).toEqual([])

  await page.getByRole('link', { name: 'Skip to the figures' }).focus()
  await page.keyboard.press('Enter')
  expect(await hasFocus(page, 'main')).toBe(true)

  await page.getByLabel('Time shown').focus()
  await page.keyboard.press('ArrowDown')
  await expect.poll(async () => page.locator('#chart-0-summary').textContent()).toContain('The last 60 minutes.')

  await page.getByRole('button', { name: 'Cost per million' }).focus()
  await page.keyboard.press('Enter')
  const heading = page.getByRole('columnheader', { name: 'Cost per million' })
  expect(await heading.getAttribute('aria-sort')).toBe('descending')
  const costs = async () => page.getByRole('table', { name: 'Routes' }).locator('tbody td:last-child').allInnerTexts()
  const numbers = (await costs()).map((text) => Number(text.replace('$', '')))
  expect(numbers).toEqual(numbers.toSorted((a, b) => b - a))
  await page.keyboard.press('Space')
  expect(await heading.getAttribute('aria-sort')).toBe('ascending')
})

test('a dead delivery can be retried', async () => {
  const receiver = await startReceiver()
  const publish = async (type: string) => {
    await service('POST', '/v1/events', { channel: 'custom_shop', type, data: {} })
    await product.cron()
  }
  try {
    const webhook = { url: `http://${receiver.host}/hook`, channels: ['custom_shop'] }
    const { id } = (await service('POST', '/v1/webhooks', webhook)) as { id: string }
    const page = await openSignedIn()
    const retry = (type: string) => page.getByRole('button', { name: `Retry ${type} to ${receiver.host}` })
    await publish('order_paid')
    await publish('order_sent')
    await retry('order_paid').waitFor({ timeout: 60_000 })
    await retry('order_sent').waitFor({ timeout: 60_000 })
    expect(await page.getByRole('row', { name: /order_paid/ }).innerText()).toMatch(/\t2\t.*\t500 no room\t/)
    receiver.status = 410 // of it the endpoint is disabled
    await publish('order_lost')
    await page.getByRole('row', { name: `${receiver.host} not enabled` }).waitFor({ timeout: 60_000 })
    await expectAccessible(page, 'deliveries')

    await retry('order_sent').focus()
    await page.keyboard.press('Enter')
    await page
      .getByRole('row', { name: /order_sent/ })
      .getByText(/The API answered 409: .* is disabled/)
      .waitFor()
    expect(await page.getByRole('status').innerText()).toMatch(/order_sent to .* could not be retried/)
    expectComplaint(/409/)

    receiver.status = 200
    await service('POST', `/v1/webhooks/${id}/enable`)
    await page.keyboard.press('Enter')
    await expect.poll(async () => page.getByRole('status').innerText()).toMatch(/order_sent to .* is queued again/)
    await expect.poll(async () => retry('order_sent').count()).toBe(0)
    expect(await hasFocus(page, '[aria-label^="Retry order_paid"]')).toBe(true) // not lost with its row
    await page.keyboard.press('Enter')
    await page.getByText('No dead deliveries.').waitFor()
    await expect.poll(() => receiver.received.length, { timeout: 60_000 }).toBe(2 + 2 + 1 + 3)
    expect(new Set(receiver.received).size).toBe(3) // the same ids as before
    const endpoint = page.getByRole('row', { name: `${receiver.host} enabled` })
    await expect.poll(async () => endpoint.innerText(), { timeout: 60_000 }).toMatch(/\t0\t0$/) // none waits, none is given up
  } finally {
    await receiver.close()
  }
})

test('dead deliveries reload each minute and when the window gets the focus, even if their number is unchanged', async () => {
  const receiver = await startReceiver()
  try {
    const webhook = { url: `http://${receiver.host}/hook`, channels: ['custom_news'] }
    const { id } = (await service('POST', '/v1/webhooks', webhook)) as { id: string }
    const deliveries = `/v1/webhooks/${id}/deliveries?status=dead`
    const given = async () =>
      ((await service('GET', deliveries)) as { items: { id: string }[] }).items.map(({ id }) => id)
    const giveUp = async (type: string) => {
      receiver.status = 500
      await service('POST', '/v1/events', { channel: 'custom_news', type, data: {} })
      await product.cron()
      await expect.poll(given, { timeout: 60_000 }).toHaveLength(1)
    }
    const sendAgain = async () => {
      receiver.status = 200
      await service('POST', `/v1/deliveries/${(await given())[0]}/replay`)
      await product.cron()
      await expect.poll(given, { timeout: 60_000 }).toEqual([])
    }
    const page = await open()
    await page.clock.install()
    await page.reload()
    await page.getByLabel('Service token').fill(SERVICE_TOKEN)
    await page.keyboard.press('Enter')
    const retry = (type: string) => page.getByRole('button', { name: `Retry ${type} to ${receiver.host}` })
    const pause = page.getByRole('button', { name: 'Pause' })
    /** One goes and another comes, and the page sees neither. */
    const replaceWith = async (type: string) => {
      await pause.click()
      await sendAgain()
      await giveUp(type)
      await pause.click()
    }
    await giveUp('sold')
    await retry('sold').waitFor()

    await replaceWith('lost')
    await page.clock.fastForward(60_000)
    await retry('lost').waitFor()
    expect(await retry('sold').count()).toBe(0)

    await replaceWith('sent')
    await page.evaluate(() => dispatchEvent(new Event('focus')))
    await retry('sent').waitFor()
    expect(await retry('lost').count()).toBe(0)
  } finally {
    await receiver.close()
  }
})

test('a phone scrolls vertically only', async () => {
  const page = await openSignedIn({ viewport: { width: 360, height: 780 }, isMobile: true, hasTouch: true })
  const isWide = () => page.evaluate(() => document.documentElement.scrollWidth > 360)
  expect(await isWide()).toBe(false)
  const routes = page.getByRole('group', { name: 'Routes' })
  expect(await overflow(page, 'Routes')).toBeGreaterThan(0) // it scrolls by itself
  expect(await routes.getAttribute('tabindex')).toBe('0')

  // Whole routes stay in sight beside their figures, from the first to the last.
  const shown = () =>
    routes.evaluate((card) => {
      const { left, right } = card.getBoundingClientRect()
      const cells = [...card.querySelectorAll('tbody tr:first-child > *')].map((cell) => cell.getBoundingClientRect())
      const name = card.querySelector('.name')
      const [route] = cells
      const inSight = cells.flatMap((cell, i) =>
        cell.left >= (route?.right ?? 0) - 1 && cell.right <= right ? [i] : [],
      )
      const isWhole = name !== null && name.scrollWidth <= name.clientWidth && name.scrollHeight <= name.clientHeight
      return {
        isHeld: Math.abs((route?.left ?? 0) - left) < 2,
        isWhole,
        share: (route?.width ?? 0) / card.clientWidth,
        inSight,
      }
    })
  const first = await shown()
  expect(first).toMatchObject({ isHeld: true, isWhole: true })
  expect(first.inSight).toContain(1)
  await page.getByRole('button', { name: 'Cost per million' }).focus()
  const last = await shown()
  expect(last).toMatchObject({ isHeld: true, isWhole: true })
  expect(last.inSight).toContain(9)
  expect(Math.max(first.share, last.share)).toBeLessThan(0.46)

  const small = await page.evaluate(() =>
    [...document.querySelectorAll('button, select, summary')].flatMap((node) => {
      const { width, height } = node.getBoundingClientRect()
      return width > 0 && Math.min(width, height) < 44 ? [`${node.textContent}: ${width} x ${height}`] : []
    }),
  )
  expect(small).toEqual([])
  await expectWell(page)
  await expectAccessible(page, 'phone')
  await product.redis.fault({ kind: 'refuse' })
  await page.getByRole('alert').getByText('Redis is down.').waitFor({ timeout: 60_000 })
  expect(await isWide()).toBe(false)
  await expectAccessible(page, 'phone-redis-down')
})

test('dark mode includes the charts, and reduced motion is respected', async () => {
  const page = await openSignedIn({ colorScheme: 'light', reducedMotion: 'reduce' })
  const ink = async () =>
    page.evaluate(() => {
      const canvas = document.querySelector('canvas')
      const pixels = canvas?.getContext('2d')?.getImageData(0, 0, canvas.width, canvas.height).data ?? []
      return [...pixels].reduce((sum, value) => sum + value, 0)
    })
  const light = await ink()
  await page.emulateMedia({ colorScheme: 'dark' })
  expect(await page.evaluate(() => getComputedStyle(document.body).backgroundColor)).toBe('rgb(15, 19, 25)')
  await expect.poll(ink).not.toBe(light)
  await expectWell(page)
  await expectAccessible(page, 'dark')
  const moving = await page.evaluate(
    () =>
      [...document.querySelectorAll('*')].filter((node) => getComputedStyle(node).transitionDuration !== '0s').length,
  )
  expect(moving).toBe(0)
})
