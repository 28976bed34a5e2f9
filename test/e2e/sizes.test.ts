import type { Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { createClient, createServiceClient } from '../../client/index.ts'
import { DEMO_PASSWORD } from '../../scripts/demo/data.ts'
import { simulate } from '../../scripts/demo/traffic.ts'
import { expectAccessible, useBrowser } from './browser.ts'
import { SERVICE_TOKEN } from './product.ts'
import { startReceiver } from './receiver.ts'

// Every section of the dashboard with data, as phones, laptops and large screens show it, light and dark.
const web = useBrowser()
let receiver: Awaited<ReturnType<typeof startReceiver>>
/** The address of each section or detail, and a row or text that it has once its data is there. */
let places: { name: string; path: string; shows: string | RegExp }[]
let service: ReturnType<typeof createServiceClient>

/** Waits until the endpoint has a delivery in this state. */
const findDelivery = async (id: string, status: 'delivered' | 'dead'): Promise<string> =>
  vi.waitUntil(async () => (await service.listDeliveries({ id, status })).items[0]?.id, {
    timeout: 60_000,
    interval: 200,
  })

/** Publishes an event that the people of a tenant may see. */
async function publish(type: string): Promise<void> {
  await service.publishEvent({ channel: 'custom_shop', type, data: { amount: 7 }, audience: 'everyone' })
  await web.product.cron()
}

beforeAll(async () => {
  const { url } = web.product
  receiver = await startReceiver()
  service = createServiceClient({ url, token: SERVICE_TOKEN })
  await simulate(url, 8)

  const hook = { url: `http://${receiver.host}/hook`, channels: ['custom_shop'], tenant: 'acme' }
  const { id } = await service.createWebhook(hook)
  await publish('order_paid')
  const delivery = await findDelivery(id, 'dead')
  receiver.status = 200
  await publish('order_sent')
  await findDelivery(id, 'delivered')
  await service.createWebhook({ ...hook, url: `${hook.url}/of/another/tenant/with/a/long/address`, tenant: 'other' })

  const [ada, bob] = [createClient({ url }), createClient({ url })]
  await ada.signIn({ login: 'ada', password: DEMO_PASSWORD })
  await bob.signIn({ login: 'bob', password: DEMO_PASSWORD })
  const post = await ada.createPost({ text: 'Buy my looms!' })
  const other = await ada.createPost({ text: 'Buy all my looms: they are cheaper today than ever before.' })
  await bob.likePost({ id: post.id }) // chance decides on the likes and heartbeats of the traffic
  await bob.sendHeartbeat()
  await bob.createReport({ subjectId: post.id, reason: 'spam', text: 'An advertisement.' })
  await bob.createReport({ subjectId: other.id, reason: 'spam', text: 'One more advertisement for looms.' })
  await service.takeDownContent({ id: other.id, note: 'It is spam' })

  // The cron records the history of routes, a step for each minute.
  await vi.waitUntil(
    async () => {
      await web.product.cron()
      const { requests } = await service.getRouteStats({ route: 'GET /v1/posts/hot', minutes: 15 })
      return requests.some((value) => value !== null)
    },
    { timeout: 150_000, interval: 1_000 },
  )

  places = [
    { name: 'overview', path: '#/overview', shows: 'Figures of Deliveries per minute' },
    { name: 'routes', path: '#/routes', shows: 'GET /v1/users/by-username/:username' },
    { name: 'route', path: '#/routes/GET%20%2Fv1%2Fposts%2Fhot', shows: /^By the minute, from D1\./ },
    { name: 'redis', path: '#/redis', shows: /^user:/ },
    { name: 'webhooks', path: '#/webhooks', shows: 'other' },
    { name: 'endpoint', path: `#/webhooks/${id}`, shows: 'order_paid' },
    { name: 'delivery', path: `#/webhooks/${id}/${delivery}`, shows: 'order_paid: dead' },
    { name: 'jobs', path: '#/jobs', shows: 'purge expired data' },
    { name: 'reports', path: '#/reports', shows: 'Buy my looms!' },
  ]
}, 300_000)

afterAll(async () => receiver?.close())

/** What people could not read or would stumble over. */
const faultsOf = async (page: Page): Promise<string[]> =>
  page.evaluate(() => {
    const isShown = (node: Element) =>
      node.getClientRects().length > 0 &&
      getComputedStyle(node).visibility === 'visible' &&
      !node.closest('.hidden, .skip')
    const all = [...document.querySelectorAll('body *')].filter(isShown)
    const canScroll = (node: Element) => /auto|scroll/.test(getComputedStyle(node).overflowX)
    const isHeld = (node: Element | null): boolean => node !== null && (canScroll(node) || isHeld(node.parentElement))
    const nameOf = (node: Element) =>
      `<${node.tagName.toLowerCase()} class="${node.className}"> ${node.textContent?.slice(0, 40)}`

    const outside = all.filter((node) => !isHeld(node) && node.getBoundingClientRect().right > innerWidth + 1)
    const cut = all.filter(
      (node) => getComputedStyle(node).overflowX === 'hidden' && node.scrollWidth > node.clientWidth + 1,
    )
    // Texts of a canvas end before its edge: its last columns are empty.
    const clipped = [...document.querySelectorAll('canvas')].filter(isShown).filter((canvas) => {
      const { width, height } = canvas
      const { data } = canvas.getContext('2d')?.getImageData(width - 2, 0, 2, height) ?? { data: [] }
      return data.some((value, i) => i % 4 === 3 && value > 0)
    })
    const repeated = [...document.querySelectorAll('table')].filter((table) => {
      const headings = new Set([...table.querySelectorAll('thead th')].map((heading) => heading.textContent))
      return [...table.querySelectorAll('td button')].some((button) => headings.has(button.textContent))
    })
    const uneven = [...document.querySelectorAll('.pair')].filter((pair) => {
      const [left, right] = [...pair.children].map((card) => card.getBoundingClientRect())
      return left && right && left.right <= right.left && left.top !== right.top
    })
    const hollow = [...document.querySelectorAll('.chart')].filter((chart) => {
      const body = chart.querySelector(chart.matches('[data-empty]') ? '.empty' : '.plot')?.getBoundingClientRect()
      return (chart.querySelector('summary')?.getBoundingClientRect().top ?? 0) - (body?.bottom ?? 0) > 12
    })
    return Object.entries({ outside, cut, clipped, repeated, uneven, hollow }).flatMap(([fault, nodes]) =>
      nodes.map((node) => `${fault}: ${nameOf(node)}`),
    )
  })

test.each([
  [390, 'light'],
  [390, 'dark'],
  [1280, 'light'],
  [1280, 'dark'],
  [1920, 'light'],
  [1920, 'dark'],
] as const)(
  'at %i pixels, %s, each section with data is accessible, and nothing is cut',
  async (width, colorScheme) => {
    web.expectComplaint(/status of 401/) // the browser has no session yet
    const options = { viewport: { width, height: 900 }, colorScheme, reducedMotion: 'reduce' } as const
    const page = await web.open('/', options)
    await page.getByLabel('Service token').fill(SERVICE_TOKEN)
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.getByText(/^As of/).waitFor()
    const check = async (shown: Page, name: string) => {
      await expect.poll(() => shown.getByText('Loading …').filter({ visible: true }).count()).toBe(0)
      await expectAccessible(shown, `${name}-${width}-${colorScheme}`)
      await expect.poll(async () => [name, await faultsOf(shown)]).toEqual([name, []]) // charts follow a new size a little later
    }
    for (const { name, path, shows } of places) {
      await page.evaluate((hash) => void (location.hash = hash), path)
      await page.locator('#section').getByText(shows, { exact: true }).first().waitFor({ state: 'attached' })
      await check(page, name)
    }
    const moving = await page.evaluate(
      () =>
        [...document.querySelectorAll('*')].filter((node) => getComputedStyle(node).transitionDuration !== '0s').length,
    )
    expect(moving).toBe(0)

    const { url } = await service.createPortalLink({ tenant: 'acme' })
    const portal = await web.open(url.slice(web.product.url.length), options)
    await portal.getByRole('link', { name: receiver.host }).waitFor()
    await check(portal, 'portal')
    await portal.getByRole('link', { name: receiver.host }).click()
    await portal.getByRole('link', { name: 'order_paid' }).waitFor()
    await check(portal, 'portal-endpoint')
  },
)
