import type { BrowserContextOptions, Page } from 'playwright-core'
import { expect, test } from 'vitest'
import { simulate } from '../../scripts/demo/traffic.ts'
import { expectAccessible, useBrowser } from './browser.ts'
import { SERVICE_TOKEN } from './product.ts'

// The figures of the dashboard, and its session.
const web = useBrowser()
let traffic: Promise<void> | undefined

async function openDashboard(path = '/', options: BrowserContextOptions = {}): Promise<Page> {
  web.expectComplaint(/status of 401/) // the browser has no session yet
  return web.open(path, options)
}

async function signIn(page: Page): Promise<void> {
  await page.getByLabel('Service token').fill(SERVICE_TOKEN)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('button', { name: 'Sign out' }).waitFor()
}

/** There is something to see, unless it is to be found as `npm start` leaves it. */
async function openSignedIn(path = '/', options: BrowserContextOptions = {}, isUntouched = false): Promise<Page> {
  if (!isUntouched) await (traffic ??= simulate(web.product.url, 3))
  const page = await openDashboard(path, options)
  await signIn(page)
  await page.getByText(/^As of/).waitFor()
  return page
}

const banner = (page: Page) => page.locator('#banner')
/** Waits for a section: browsers tell of a new address after the click. */
async function expectTitle(page: Page, name: string): Promise<void> {
  await expect.poll(async () => page.getByRole('heading', { level: 1 }).innerText()).toBe(name)
}
const section = (page: Page, name: string) =>
  page.getByRole('navigation', { name: 'Sections' }).getByRole('link', { name })
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
  return Math.round(10 * rates.reduce((sum, rate) => sum + (Number(rate) || 0), 0))
}
/** A busy machine may have kept Redis from answering in time. */
async function expectWell(page: Page): Promise<void> {
  await expect.poll(async () => banner(page).innerText(), { timeout: 60_000 }).toBe('')
}
const hasFocus = (page: Page, selector: string) =>
  page.evaluate((selector) => document.activeElement?.matches(selector) ?? false, selector)

test('empty states say what to run', async () => {
  const page = await openSignedIn('/', {}, true)
  for (const text of [
    'No likes yet. Run: npm run traffic',
    'Nobody was online yet. Run: npm run traffic',
    'No deliveries yet. Add a webhook: npm run receiver',
  ]) {
    expect([text, await page.getByText(text, { exact: true }).first().isVisible()]).toEqual([text, true])
  }
  expect(await headline(page, 'Online')).toBe('0')
  await expectAccessible(page, 'empty')
  await section(page, 'Webhooks').click()
  await page.getByText('There are no webhooks. Add one, or run: npm run receiver').waitFor()
  await section(page, 'Reports').click()
  await page.getByText('No open reports. Members send them: POST /v1/reports').waitFor()
})

test('the policy of the page allows its own origin alone, and no framing', async () => {
  const { headers } = await fetch(web.product.url)
  const policy = headers.get('Content-Security-Policy') ?? ''
  expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'")
  expect(policy).toContain("form-action 'none'; frame-ancestors 'none'")
  expect(policy).not.toMatch(/unsafe|https?:|\*/)
  expect([headers.get('X-Content-Type-Options'), headers.get('Referrer-Policy')]).toEqual(['nosniff', 'no-referrer'])

  const page = await openDashboard()
  const origins = await page.evaluate(() =>
    performance.getEntriesByType('resource').map(({ name }) => new URL(name).origin),
  )
  expect(new Set(origins)).toEqual(new Set([web.product.url]))
  expect(await page.getByRole('link', { name: 'API reference' }).getAttribute('href')).toBe('/docs/')
})

test('a wrong token shows an error beside the field', async () => {
  const page = await openDashboard()
  const input = page.getByLabel('Service token')
  await input.waitFor()
  await expectAccessible(page, 'sign-in')
  for (const wrong of ['no-such-token-at-all', 'of no header: ü\u2028']) {
    await input.fill(wrong)
    await page.keyboard.press('Enter')
    await page.getByText('This token is not valid.').waitFor()
    expect(await input.getAttribute('aria-invalid')).toBe('true')
    await expect.poll(() => hasFocus(page, '#token')).toBe(true)
  }
  await expectAccessible(page, 'wrong-token')
})

test('a reload keeps the session, the page and its storage have no token, and signing out ends it', async () => {
  const page = await openSignedIn()
  expect(await hasFocus(page, 'h1')).toBe(true)
  const kept = () =>
    page.evaluate(async () => ({
      storage: localStorage.length + sessionStorage.length,
      databases: (await indexedDB.databases()).length,
      caches: (await caches.keys()).length,
      cookie: document.cookie,
      text:
        document.documentElement.outerHTML + [...document.querySelectorAll('input')].map(({ value }) => value).join(),
    }))
  const cookies = await page.context().cookies()
  expect(cookies.map(({ httpOnly, path, sameSite }) => ({ httpOnly, path, sameSite }))).toEqual([
    { httpOnly: true, path: '/dashboard', sameSite: 'Strict' },
  ])
  for (const when of ['before', 'after the reload']) {
    const { text, ...rest } = await kept()
    expect([when, rest]).toEqual([when, { storage: 0, databases: 0, caches: 0, cookie: '' }])
    expect(text).not.toContain(SERVICE_TOKEN)
    expect(text).not.toContain(cookies[0]?.value)
    if (when === 'before') await page.reload()
    await page.getByRole('heading', { name: 'Traffic' }).waitFor()
  }

  await page.getByRole('button', { name: 'Sign out' }).click()
  await expect.poll(() => hasFocus(page, '#token')).toBe(true)
  expect(await page.getByRole('heading', { name: 'Traffic' }).count()).toBe(0)
  await page.reload()
  await page.getByLabel('Service token').waitFor()
  await page.context().addCookies(cookies) // of who has copied it
  await page.reload()
  await page.getByLabel('Service token').waitFor()
  expect(await page.getByRole('heading', { name: 'Traffic' }).count()).toBe(0)
})

test('each section has an address, which reloads and the back button follow, and the header stays', async () => {
  const page = await openSignedIn('/#/jobs', { viewport: { width: 1280, height: 600 } })
  await expectTitle(page, 'Jobs')
  await section(page, 'Redis').click()
  await expectTitle(page, 'Redis')
  expect(new URL(page.url()).hash).toBe('#/redis')
  await expect.poll(() => hasFocus(page, 'h1')).toBe(true)
  await page.reload()
  await page.getByRole('button', { name: 'Sign out' }).waitFor()
  await expectTitle(page, 'Redis')
  expect(await page.title()).toBe('Redis · threads-edge')
  await section(page, 'Routes').click()
  await page.getByRole('link', { name: 'GET /v1/posts/hot', exact: true }).click()
  await page.getByRole('heading', { name: 'GET /v1/posts/hot' }).waitFor()
  await page.goBack()
  await page.getByRole('heading', { name: 'GET /v1/posts/hot' }).waitFor({ state: 'hidden' })
  await page.goBack()
  await expectTitle(page, 'Redis')
  await section(page, 'Overview').click()
  await page.mouse.wheel(0, 400)
  await expect.poll(() => page.evaluate(() => scrollY)).toBeGreaterThan(0)
  expect(await page.locator('.bar').evaluate((bar) => bar.getBoundingClientRect().top)).toBe(0)
})

test('figures, charts and tables change under traffic', async () => {
  const page = await openSignedIn()
  await page.getByText('Figures of Requests per second').click()
  const steps = page.getByRole('table', { name: 'Requests per second' }).locator('tbody tr')
  await expect.poll(async () => drawnRequests(page), { timeout: 60_000 }).toBeGreaterThan(9)
  const before = await drawnRequests(page)

  await simulate(web.product.url, 15)
  await web.product.cron()
  await expect.poll(async () => drawnRequests(page), { timeout: 60_000 }).toBeGreaterThanOrEqual(before + 60)
  expect(await steps.count()).toBe(30)
  expect(await headline(page, 'Requests')).toMatch(/^[1-9][\d.]* \/s$/)
  expect(await headline(page, 'Latency, p95')).toMatch(/^[\d.]+ m?s$/)
  expect(await headline(page, 'Cache hit rate')).toMatch(/^[\d.]+%$/)
  expect(await headline(page, 'Redis per request')).toMatch(/^[\d.]+ commands$/)
  expect(await headline(page, 'Redis cost')).toMatch(/^\$[\d.]+$/)
  expect(Number(await headline(page, 'Online'))).toBeGreaterThan(0)
  const summary = page.getByRole('figure', { name: 'Requests per second' }).locator('p.hidden')
  expect(await summary.textContent()).toMatch(/all: now [\d.]+, between [\d.]+ and [\d.]+, highest at \d\d:\d\d/)

  await section(page, 'Routes').click()
  const row = page.getByRole('row', { name: 'GET /v1/posts/hot ' })
  const requests = Number((await row.locator('td').first().innerText()).replaceAll(/\D/g, ''))
  expect(requests).toBeGreaterThanOrEqual(15)
  expect(await page.getByRole('row', { name: /^(CRON|QUEUE)/ }).count()).toBe(0) // the cron is no route
  await section(page, 'Redis').click()
  const server = page.locator('dl').filter({ hasText: 'Scanned keys' })
  await expect
    .poll(() => server.innerText(), { timeout: 60_000 })
    .toMatch(/Scanned keys\s+[\d,]+ of [\d,]+\s+Last complete scan\s+/)
  expect(await page.getByRole('table', { name: 'Top keys' }).getByRole('row').count()).toBeGreaterThan(2)
  await section(page, 'Jobs').click()
  const job = page.getByRole('row', { name: /^purge expired data/ })
  const told = (await job.innerText()).replaceAll(/\s+/g, ' ')
  expect(told).toMatch(/^purge expired data done [\d.]+ m?s none \d\d:\d\d:\d\d –$/)
  expect(await page.getByRole('row', { name: /^CRON/ }).innerText()).not.toContain('$')
})

test('one range is that of figures and charts', async () => {
  const page = await openSignedIn()
  const asked = page.waitForRequest('**/v1/stats?minutes=60*')
  await page.getByLabel('Time shown').selectOption('60')
  expect(new URL((await asked).url()).searchParams.has('seriesFrom')).toBe(false) // the page held less
  const chart = page.getByRole('img', { name: /^Requests per second The last (59|6\d) minutes\./ })
  await expect.poll(() => chart.count(), { timeout: 60_000 }).toBe(1)
})

test('a selected route shows its latency, requests and commands over time', async () => {
  await (traffic ??= simulate(web.product.url, 3))
  await web.product.cron()
  const page = await openSignedIn('/#/routes/GET%20%2Fv1%2Fposts%2Fhot')
  for (const name of ['Latency', 'Requests per minute', 'Redis per request']) {
    const plot = page.getByRole('figure', { name, exact: true }).getByRole('img')
    await plot.waitFor()
  }
  await page.getByText('By the minute, from D1.').waitFor()
  // A dot alone says little: the first minutes tell that nothing is known from before.
  const chart = page.getByRole('figure', { name: 'Latency', exact: true })
  await chart.getByText(/^The history begins at \d\d:\d\d\.$/).waitFor()
  await expectAccessible(page, 'route')
})

test('moving the pointer over charts and tables moves nothing', async () => {
  const page = await openSignedIn('/', { viewport: { width: 1280, height: 1100 } })
  await page.getByRole('button', { name: 'Pause' }).click() // new figures may change texts
  await page.waitForLoadState('networkidle')
  const boxes = () =>
    page.evaluate(() =>
      [...document.querySelectorAll('figure, figure *, h2, .headline *')]
        .filter((node) => !node.closest('.u-over, .u-axis, .moment'))
        .map((node) => {
          const { x, y, width, height } = node.getBoundingClientRect()
          return [node.tagName, x, y, width, height].join()
        }),
    )
  const before = await boxes()
  let seen = 0
  for (const plot of await page.locator('.plot .u-over').all()) {
    const box = await plot.boundingBox()
    if (!box) continue // an empty chart
    for (const share of [0.2, 0.5, 0.95]) {
      await page.mouse.move(box.x + box.width * share, box.y + box.height / 2)
      expect(await boxes()).toEqual(before)
      seen += await page
        .locator('.moment')
        .filter({ hasText: /\d\d:\d\d/ })
        .count()
    }
  }
  expect(seen).toBeGreaterThan(0) // the charts saw the pointer
})

test('an outlier is marked, and flattens nothing; few failures are more than 0%', async () => {
  await (traffic ??= simulate(web.product.url, 3))
  const page = await openDashboard()
  await page.route('**/dashboard/v1/stats?*', async (route) => {
    const response = await route.fetch()
    const stats = await response.json()
    const { series } = stats
    series.p50Ms = series.at.map(() => 5)
    series.p95Ms = series.at.map(() => 10)
    series.p99Ms = series.at.map((_: number, i: number) => (i === series.at.length - 9 ? 9_000 : 20))
    Object.assign(stats.window, { requests: 75_000, errors: 3 })
    await route.fulfill({ response, json: stats })
  })
  await signIn(page)
  const chart = page.getByRole('figure', { name: 'Latency of answers' })
  await chart.getByText('▲ 1 above the scale, up to 9 s', { exact: true }).waitFor()
  expect(await headline(page, 'Failed')).toBe('<0.1%')
  // 20 ms is at two thirds of a scale that ends at 30 ms: a line of p99 is in the upper half of the canvas.
  const upper = await chart.locator('canvas').evaluate((canvas) => {
    const { width, height } = canvas as HTMLCanvasElement
    const color = getComputedStyle(document.documentElement).getPropertyValue('--line-3').trim()
    const [r = 0, g = 0, b = 0] = [1, 3, 5].map((i) => Number.parseInt(color.slice(i, i + 2), 16))
    const pixels = (canvas as HTMLCanvasElement).getContext('2d')?.getImageData(0, 0, width, height / 2).data ?? []
    let found = 0
    for (let i = 0; i < pixels.length; i += 4) {
      if (Math.abs((pixels[i] ?? 0) - r) + Math.abs((pixels[i + 1] ?? 0) - g) + Math.abs((pixels[i + 2] ?? 0) - b) < 30)
        found += 1
    }
    return found
  })
  expect(upper).toBeGreaterThan(50)
  await expectAccessible(page, 'outlier')
})

test('without Redis the history stays, also after a reload, and unknown figures are not 0', async () => {
  const page = await openSignedIn()
  await web.product.cron()
  await expectWell(page)
  await page.getByText('Figures of Requests per second').click()
  await expect.poll(async () => drawnRequests(page), { timeout: 60_000 }).toBeGreaterThan(9)
  const drawn = await drawnRequests(page)
  await web.product.redis.fault({ kind: 'refuse' })
  await page
    .getByRole('alert')
    .getByText(/Redis is down\..* Figures and charts are from \d\d:\d\d:\d\d\./)
    .waitFor({ timeout: 60_000 })
  expect(await page.getByRole('list', { name: 'Dependencies' }).innerText()).toContain('Redis down')
  expect(await drawnRequests(page)).toBeGreaterThanOrEqual(drawn)
  expect(await headline(page, 'Online')).toBe('unknown')
  await expectAccessible(page, 'redis-down')

  await page.reload()
  await page
    .getByRole('alert')
    .getByText(/Figures and charts are from \d\d:\d\d:\d\d, as D1 has them\./)
    .waitFor({ timeout: 60_000 })
  await page.getByRole('img', { name: /^Requests per second The last/ }).waitFor()
  await section(page, 'Redis').click()
  await page.getByText('Unknown: the API cannot read this now.').first().waitFor()
  await expectAccessible(page, 'redis-down-reloaded')

  await web.product.redis.clearFaults()
  await expectWell(page)
  expect(await page.getByRole('status').first().innerText()).toBe('All dependencies work again.')
})

test('without the network the last figures stay, and updates continue afterwards', async () => {
  const page = await openSignedIn()
  web.expectComplaint(/ERR_INTERNET_DISCONNECTED/)
  await page.context().setOffline(true)
  await page.getByText(/The API cannot be reached\. These figures are from \d\d:\d\d:\d\d\./).waitFor()
  await page.getByLabel('Time shown').selectOption('60')
  expect(await banner(page).innerText()).toMatch(/cannot be reached/) // what is drawn anew is as old as before
  await expectAccessible(page, 'offline')
  await page.context().setOffline(false)
  await expectWell(page)
})

test('the page shows errors of the API, and a session that has ended leads to the sign-in', async () => {
  const page = await openSignedIn()
  web.expectComplaint(/503/)
  const problem = { type: 'about:blank', title: 'Not configured', status: 503, detail: 'DB is missing' }
  const contentType = 'application/problem+json'
  await page.route('**/v1/stats*', async (route) =>
    route.fulfill({ status: 503, contentType, body: JSON.stringify(problem) }),
  )
  await page.getByText('The API answered 503: DB is missing.').waitFor()
  await page.unroute('**/v1/stats*')
  await page.context().clearCookies()
  await page.getByText('Sign in to the dashboard first.').waitFor({ timeout: 60_000 })
  expect(await hasFocus(page, '#token')).toBe(true)
  expect(await page.getByRole('heading', { name: 'Traffic' }).count()).toBe(0)
})

test('while paused or hidden the page sends no requests', async () => {
  const page = await openDashboard()
  await page.clock.install()
  await page.reload()
  await signIn(page)
  await page.getByText(/^As of/).waitFor()
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

  const resumed = page.waitForRequest('**/v1/stats?*')
  await page.getByRole('button', { name: 'Pause' }).click()
  await page.clock.runFor(1)
  const from = Number(new URL((await resumed).url()).searchParams.get('seriesFrom'))
  expect(from).toBeGreaterThan(0) // what was missed, not all again

  const hide = async (isHidden: boolean) =>
    page.evaluate((isHidden) => {
      Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true })
      document.dispatchEvent(new Event('visibilitychange'))
    }, isHidden)
  await hide(true)
  const before = asked
  await page.clock.runFor(60_000)
  expect(asked).toBe(before)
  const looked = page.waitForRequest('**/v1/stats?*')
  await hide(false)
  await page.clock.runFor(1)
  await looked
})

test('everything works with a keyboard', async () => {
  const page = await openDashboard('/#/routes')
  await expect.poll(() => hasFocus(page, '#token')).toBe(true)
  await page.keyboard.type(SERVICE_TOKEN)
  await page.keyboard.press('Enter')
  await page.getByText(/^As of/).waitFor()
  const once = async () => {
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
        const { width, height, top, bottom } = node.getBoundingClientRect()
        const bar = document.querySelector('.bar')
        const isCovered =
          !bar?.contains(node) &&
          !node.matches('.skip') &&
          bottom <= (bar?.getBoundingClientRect().bottom ?? 0) &&
          top > 0
        const isSeen = outlineStyle !== 'none' && outlineWidth !== '0px' && width > 0 && height > 0 && !isCovered
        const labels =
          node instanceof HTMLSelectElement ? [...node.labels].map((label) => label.textContent).join() : ''
        const name = node.getAttribute('aria-label') ?? (labels || node.textContent?.trim())
        return `${isSeen ? '' : 'unseen '}${name}`
      })
      if (name === '' || name === reached[0]) break
      reached.push(name)
    }
    return reached
  }
  // Once around: everything that can be used is reached, seen, and has a name.
  const reached = await once()
  const sections = ['Overview', 'Routes', 'Redis', 'Webhooks', 'Jobs', 'Reports']
  const bar = [...sections, 'API reference', 'Sign out', 'Time shown', 'Pause']
  expect(reached.slice(0, 11)).toEqual(['Skip to the content', ...bar])
  expect(reached).toContain('Cost per million')
  expect(reached.filter((name) => name.startsWith('unseen'))).toEqual([])

  await page.getByRole('link', { name: 'Skip to the content' }).focus()
  await page.keyboard.press('Enter')
  expect(await hasFocus(page, 'main')).toBe(true)
  expect(new URL(page.url()).hash).toBe('#/routes')

  await page.getByRole('button', { name: 'Cost per million' }).focus()
  await page.keyboard.press('Enter')
  const heading = page.getByRole('columnheader', { name: 'Cost per million' })
  expect(await heading.getAttribute('aria-sort')).toBe('descending')
  const costs = async () =>
    page.getByRole('table', { name: 'Requests by route' }).locator('tbody td:last-child').allInnerTexts()
  const numbers = (await costs()).map((text) => Number(text.replace('$', '')))
  expect(numbers).toEqual(numbers.toSorted((a, b) => b - a))
  await page.keyboard.press('Space')
  expect(await heading.getAttribute('aria-sort')).toBe('ascending')
})

test('a phone scrolls vertically only, and what is touched is large enough', async () => {
  const page = await openSignedIn('/#/routes', {
    viewport: { width: 360, height: 780 },
    isMobile: true,
    hasTouch: true,
  })
  const routes = page.getByRole('group', { name: 'Requests by route' })
  expect(await routes.evaluate((card) => card.scrollWidth - card.clientWidth)).toBeGreaterThan(0) // it scrolls by itself
  expect(await routes.getAttribute('tabindex')).toBe('0')

  // Whole routes stay in sight beside their figures, from the first to the last.
  const shown = () =>
    routes.evaluate((card) => {
      const { left, right } = card.getBoundingClientRect()
      const cells = [...card.querySelectorAll('tbody tr:first-child > *')].map((cell) => cell.getBoundingClientRect())
      const [route] = cells
      const inSight = cells.flatMap((cell, i) =>
        cell.left >= (route?.right ?? 0) - 1 && cell.right <= right ? [i] : [],
      )
      return { isHeld: Math.abs((route?.left ?? 0) - left) < 2, share: (route?.width ?? 0) / card.clientWidth, inSight }
    })
  const first = await shown()
  expect(first.isHeld).toBe(true)
  expect(first.inSight).toContain(1)
  await page.getByRole('button', { name: 'Cost per million' }).focus()
  const last = await shown()
  expect(last.isHeld).toBe(true)
  expect(last.inSight).toContain(9)
  expect(Math.max(first.share, last.share)).toBeLessThan(0.46)

  const small = await page.evaluate(() =>
    [...document.querySelectorAll('button, select, summary, nav a')].flatMap((node) => {
      const { width, height } = node.getBoundingClientRect()
      return width > 0 && Math.min(width, height) < 44 ? [`${node.textContent}: ${width} x ${height}`] : []
    }),
  )
  expect(small).toEqual([])
})

test('charts follow the color scheme', async () => {
  const page = await openSignedIn('/', { colorScheme: 'light' })
  const ink = async () =>
    page.evaluate(() => {
      const canvas = document.querySelector('canvas')
      const pixels = canvas?.getContext('2d')?.getImageData(0, 0, canvas.width, canvas.height).data ?? []
      return [...pixels].reduce((sum, value) => sum + value, 0)
    })
  await page.getByRole('button', { name: 'Pause' }).click()
  const light = await ink()
  await page.emulateMedia({ colorScheme: 'dark' })
  expect(await page.evaluate(() => getComputedStyle(document.body).backgroundColor)).toBe('rgb(15, 19, 25)')
  await expect.poll(ink).not.toBe(light)
})
