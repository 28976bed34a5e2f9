import type axe from 'axe-core'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, expect } from 'vitest'
import { type Product, startProduct } from './product.ts'

const { CHROMIUM = '/usr/bin/chromium' } = process.env
/** Pictures of the pages as the tests saw them. */
const output = join(import.meta.dirname, '../../test-output')
const axePath = createRequire(import.meta.url).resolve('axe-core/axe.min.js')

/**
 * The product and a browser for the tests of a file. A test fails if a page complained: of a broken policy, of an error of
 * a script, or of a refusal that the test did not announce.
 */
export function useBrowser() {
  let product: Product | undefined
  let browser: Browser | undefined
  const pages: Page[] = []
  let complaints: string[] = []
  let expected: RegExp[] = []

  beforeAll(async () => {
    product = await startProduct()
    browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] })
  })

  afterEach(async () => {
    for (const page of pages.splice(0)) await page.context().close()
    await product?.redis.reset()
    const found = complaints.filter((complaint) => !expected.some((about) => about.test(complaint)))
    complaints = []
    expected = []
    if (found.length > 0) throw new Error(`The page complained:\n${found.join('\n')}`)
  })

  afterAll(async () => {
    await browser?.close()
    await product?.stop()
  })

  return {
    get product(): Product {
      if (!product) throw new Error('The product has not started')
      return product
    },

    /** Announces a complaint. Browsers make one of each refusal, sometimes late. */
    expectComplaint: (about: RegExp): void => void expected.push(about),

    async open(path = '/', options: BrowserContextOptions = {}): Promise<Page> {
      if (!browser || !product) throw new Error('The product has not started')
      const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
      await context.addInitScript({ path: axePath })
      await context.addInitScript(() => {
        addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) =>
          console.error(`policy: ${violatedDirective} ${blockedURI}`),
        )
      })
      const page = await context.newPage()
      page.on('console', (message) => {
        const isOurs = message.text().startsWith('Canvas2D: Multiple readback') // tests look at charts, pages do not
        if (['error', 'warning'].includes(message.type()) && !isOurs) complaints.push(message.text())
      })
      page.on('pageerror', (error) => complaints.push(String(error.stack)))
      pages.push(page)
      await page.goto(product.url + path)
      return page
    },
  }
}

/** Keeps a picture of the page, and expects axe to find nothing. Only parts that scroll may be wider than the window. */
export async function expectAccessible(page: Page, name: string, fullPage = true): Promise<void> {
  await page.screenshot({ path: join(output, `${name}.png`), fullPage })
  const violations = await page.evaluate(async () => {
    const { axe: engine } = globalThis as unknown as { axe: typeof axe } // by the script of `open`
    const results = await engine.run(document, { preload: false })
    return results.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`)
  })
  expect([name, violations]).toEqual([name, []])
  const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
  expect([name, tooWide <= 0]).toEqual([name, true])
}
