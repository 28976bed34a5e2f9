import { join } from 'node:path'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createClient } from '../../client/index.ts'
import { type Product, SERVICE_TOKEN, startProduct } from './product.ts'

const { CHROMIUM = '/usr/bin/chromium' } = process.env
const output = join(import.meta.dirname, '../../test-output')

let product: Product
let browser: Browser

beforeAll(async () => {
  product = await startProduct()
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] })
})

afterAll(async () => {
  await browser?.close()
  await product?.stop()
})

/** Opens the reference at an operation. `complaints` collects broken policies and errors of scripts. */
async function open(place = '', colorScheme: 'light' | 'dark' = 'light') {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, colorScheme })
  const complaints: string[] = []
  page.on('pageerror', (error) => complaints.push(String(error.stack)))
  page.on('console', (message) => {
    // A library of Scalar tries `Function('')` to learn whether it may, and does without.
    const isProbe = message.text().includes("'unsafe-eval' is not an allowed source of script")
    const isHint = message.text().includes("'script-src' was not explicitly set")
    if (message.type() === 'error' && !isProbe && !isHint) complaints.push(message.text())
  })
  await page.goto(`${product.url}/docs/${place}`)
  return { page, complaints }
}

/** Sends a request from the reference with a token, and returns the dialog with the answer. */
async function tryIt(page: Page, name: RegExp, token: string) {
  await page.getByRole('button', { name }).click()
  const dialog = page.getByRole('dialog')
  const input = dialog.getByPlaceholder('Token')
  const heading = dialog.getByRole('button', { name: /^Authentication/ })
  await heading.waitFor()
  if (!(await input.isVisible())) await heading.click()
  await input.fill(token)
  await dialog.getByRole('button', { name: /^Send/ }).first().click()
  await dialog.getByText('200 OK').waitFor()
  return dialog
}

test('the reference shows every operation, loads from its own origin alone, and keeps its policy', async () => {
  const policy = (await fetch(`${product.url}/docs/`)).headers.get('Content-Security-Policy')
  expect(policy).toMatch(/^default-src 'self';.*frame-ancestors 'none'$/)
  expect(policy).not.toMatch(/unsafe-eval|https?:|\*/)

  const { page, complaints } = await open()
  await page.getByRole('heading', { name: 'threads-edge' }).waitFor()
  for (const tag of ['Users', 'Posts', 'Presence']) await page.getByRole('link', { name: tag }).first().waitFor()
  await page.screenshot({ path: join(output, 'docs-light.png') })
  const origins = await page.evaluate(() =>
    performance
      .getEntriesByType('resource')
      .map(({ name }) => new URL(name))
      .filter(({ protocol }) => protocol !== 'data:')
      .map(({ origin }) => origin),
  )
  expect(new Set(origins)).toEqual(new Set([product.url]))
  expect(complaints).toEqual([])
  await page.close()
})

test('the reference follows the color scheme of the system, and has a switch', async () => {
  const { page } = await open('', 'dark')
  await page.locator('body.dark-mode').waitFor()
  await page.screenshot({ path: join(output, 'docs-dark.png') })
  await page.getByRole('button', { name: /light mode/i }).click()
  await page.locator('body.light-mode').waitFor()
  expect(await page.locator('body.dark-mode').count()).toBe(0)
  await page.close()
})

test('search finds an operation and goes to it', async () => {
  const { page } = await open()
  await page
    .getByRole('button', { name: /Search/ })
    .first()
    .click()
  await page.getByPlaceholder(/Search/).fill('unfollow')
  await page.getByRole('option', { name: /Unfollow a user/ }).click()
  await page.getByRole('heading', { name: 'Unfollow a user' }).waitFor()
  expect(page.url()).toContain('DELETE')
  await page.close()
})

test('a member tries a route with the token of a sign-in, and a service with the service token', async () => {
  const account = { username: 'reader', email: 'reader@example.test', password: 'correct horse', displayName: 'Reader' }
  const client = createClient({ url: product.url })
  await client.signUp(account)
  const { token } = await client.signIn({ login: account.username, password: account.password })

  const member = await open('#tag/sessions/GET/v1/sessions')
  const sessions = await tryIt(member.page, /Test Request.*get .v1.sessions\)/, token)
  await sessions.getByText('isCurrent').waitFor()
  await member.page.screenshot({ path: join(output, 'docs-member.png') })
  await member.page.close()

  const service = await open('#tag/webhooks/GET/v1/webhooks')
  const webhooks = await tryIt(service.page, /Test Request.*get .v1.webhooks\)/, SERVICE_TOKEN)
  await webhooks.getByText('nextCursor').waitFor()
  await service.page.screenshot({ path: join(output, 'docs-service.png') })
  await service.page.close()
  expect([member.complaints, service.complaints]).toEqual([[], []])
})
