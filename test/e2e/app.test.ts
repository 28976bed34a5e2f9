import { readFile } from 'node:fs/promises'
import type { BrowserContextOptions, Locator, Page } from 'playwright-core'
import { expect, test } from 'vitest'
import { createClient } from '../../client/index.ts'
import { DEMO_PASSWORD } from '../../scripts/demo/data.ts'
import { expectAccessible, useBrowser } from './browser.ts'

// examples/app, as `npm start` serves it.
const web = useBrowser()
const { expectComplaint } = web

async function open(options: BrowserContextOptions = {}, path = '/app/'): Promise<Page> {
  const page = await web.open(path, options)
  await page.getByText('Live', { exact: true }).waitFor()
  return page
}

async function signIn(page: Page, login: string, password = DEMO_PASSWORD): Promise<void> {
  await page.getByRole('button', { name: 'Sign in' }).first().click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Username or email').fill(login)
  await dialog.getByLabel('Password').fill(password)
  await dialog.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('button', { name: 'Sign out' }).waitFor()
  await page.getByText('Live', { exact: true }).waitFor()
}

async function openAs(login: string, options: BrowserContextOptions = {}, password?: string): Promise<Page> {
  const page = await open(options)
  await signIn(page, login, password)
  return page
}

/** Signs a new user up. */
async function newUser(): Promise<{
  username: string
  displayName: string
  write: (text: string) => Promise<{ id: string }>
  id: string
}> {
  const username = `n${crypto.randomUUID().replaceAll('-', '').slice(0, 12)}`
  const api = createClient({ url: web.product.url })
  const { id, displayName } = await api.signUp({
    username,
    email: `${username}@example.com`,
    password: DEMO_PASSWORD,
    displayName: `New ${username}`,
  })
  await api.signIn({ login: username, password: DEMO_PASSWORD })
  return { id, username, displayName, write: (text) => api.createPost({ text }) }
}

const posts = (page: Page) => page.getByRole('article')

test('two users see who is online, new posts and the likes of each other, live', async () => {
  const [ada, bob] = [await openAs('ada'), await openAs('bob')]
  // Presence is a hint: the queue delivers it within some seconds.
  for (const page of [ada, bob]) {
    for (const name of [/^\W*A?Ada/, /^\W*B?Bob/]) await page.locator('#online').getByText(name).waitFor()
  }

  const text = `Hello from a test, ${crypto.randomUUID()}`
  await ada.getByLabel('What is new?').fill(text)
  await ada.getByRole('button', { name: 'Post', exact: true }).click()
  const adas = posts(ada).filter({ hasText: text })
  await adas.getByRole('button', { name: 'Like, 0 likes' }).waitFor()

  await bob.getByRole('button', { name: /^Show \d+ new post/ }).click()
  const bobs = posts(bob).filter({ hasText: text })
  await bobs.getByRole('button', { name: 'Like, 0 likes' }).click()
  await bobs.getByRole('button', { name: 'Like, 1 like', pressed: true }).waitFor()
  await adas.getByRole('button', { name: 'Like, 1 like', pressed: false }).waitFor()

  await adas.getByRole('button', { name: 'Like, 1 like' }).click()
  for (const card of [adas, bobs]) await card.getByRole('button', { name: 'Like, 2 likes', pressed: true }).waitFor()
  await bobs.getByRole('button', { name: 'Like, 2 likes' }).click()
  for (const card of [adas, bobs]) await card.getByRole('button', { name: 'Like, 1 like', exact: true }).waitFor()

  // Ada is notified of the like. Bob has taken it back by now, so the notification of another one.
  await bobs.getByRole('button', { name: 'Like, 1 like' }).click()
  await expect
    .poll(
      async () => {
        await ada.getByRole('link', { name: /^Hot/ }).click()
        await ada.getByRole('link', { name: /^Notifications/ }).click()
        await ada.locator('#content:not([aria-busy])').waitFor()
        return posts(ada).filter({ hasText: '@bob' }).filter({ hasText: 'liked your post' }).count()
      },
      { timeout: 60_000 },
    )
    .toBeGreaterThan(0)

  await bob.getByRole('button', { name: 'Sign out' }).click()
  await expect.poll(() => ada.locator('#online').innerText(), { timeout: 60_000 }).not.toContain('Bob')
})

test('what was liked while the stream was away is counted when it opens again', async () => {
  expectComplaint(/ERR_FAILED/)
  const [author, fan] = [await newUser(), createClient({ url: web.product.url })]
  await fan.signIn({ login: 'bob', password: DEMO_PASSWORD })
  const { id } = await author.write(`Unheard, ${crypto.randomUUID()}`)
  const [page, other] = [await open(), await open({}, `/app/#/user?id=${author.id}`)]
  await page.route('**/v1/events/stream*', (route) => route.abort())
  await page.goto(`${web.product.url}/app/?again#/user?id=${author.id}`)
  const likesOn = (at: Page, name: string) =>
    posts(at).filter({ hasText: 'Unheard' }).getByRole('button', { name, exact: true }).waitFor({ timeout: 60_000 })
  for (const at of [page, other]) await likesOn(at, 'Like, 0 likes')
  await fan.likePost({ id })
  await likesOn(other, 'Like, 1 like') // so the hint is over
  await page.getByText('Connecting again …').waitFor()
  await page.unroute('**/v1/events/stream*')
  await likesOn(page, 'Like, 1 like')
})

test('a session survives a reload, and ends with its sign-out elsewhere', async () => {
  expectComplaint(/status of 401/)
  const page = await openAs('carol')
  await page.reload()
  await page.getByRole('button', { name: 'Sign out' }).waitFor()
  await page.getByRole('link', { name: 'Following' }).click()
  await posts(page).first().waitFor()
  expect(await page.evaluate(() => document.cookie)).toBe('') // HttpOnly

  const elsewhere = createClient({ url: web.product.url })
  await elsewhere.signIn({ login: 'carol', password: DEMO_PASSWORD })
  await elsewhere.signOutEverywhere()
  await page.getByRole('link', { name: 'Hot' }).click()
  await posts(page).first().waitFor()
  await page.getByLabel('What is new?').fill('Who am I?')
  await page.getByRole('button', { name: 'Post', exact: true }).click()
  await page.getByRole('button', { name: 'Sign in' }).first().waitFor()
})

test('a wrong password is refused beside the form, and a stranger who likes is asked to sign in', async () => {
  expectComplaint(/status of 401/)
  const page = await open()
  await posts(page).first().getByRole('button', { name: /^Like/ }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Username or email').fill('dave')
  await dialog.getByLabel('Password').fill('wrong')
  await dialog.getByRole('button', { name: 'Sign in' }).click()
  await expect.poll(() => dialog.getByRole('alert').innerText()).toMatch(/wrong/)
})

test('search finds posts and people, and marks the words', async () => {
  const page = await open()
  await page.getByRole('searchbox').fill('ada')
  await page.keyboard.press('Enter')
  // The queue indexes the demo data after the start.
  await expect
    .poll(
      async () => {
        await page.reload()
        await page.locator('#content:not([aria-busy])').waitFor()
        return page.locator('#content').innerText()
      },
      { timeout: 60_000 },
    )
    .toContain('@ada')
  expect(await page.locator('mark').first().innerText()).toMatch(/^ada$/i)
  await page.getByRole('searchbox').fill('nothinghasthisword')
  await page.keyboard.press('Enter')
  await page.getByText('Nothing has the words').waitFor()
})

/** Shows the posts of a user. */
async function visit(page: Page, username: string): Promise<void> {
  const { id } = await createClient({ url: web.product.url }).getUserByUsername({ username })
  await page.goto(`${web.product.url}/app/#/user?id=${id}`)
  await page.locator('#content:not([aria-busy])').waitFor()
}

async function choose(page: Page, card: Locator, deed: string): Promise<void> {
  await card.getByLabel(/^More about/).click()
  await page.getByRole('button', { name: deed }).click()
}

test('a block takes both users off the page of the other one, live, until it is taken back', async () => {
  const [blocker, blocked] = [await newUser(), await newUser()]
  const [one, other] = [await openAs(blocker.username), await openAs(blocked.username)]
  for (const user of [blocker, blocked]) await user.write(`Hello from ${user.username}`)
  await visit(one, blocked.username)
  await visit(other, blocker.username)
  for (const [page, user] of [
    [one, blocked],
    [other, blocker],
  ] as const) {
    await posts(page)
      .filter({ hasText: `Hello from ${user.username}` })
      .waitFor()
    await page.locator('#online').getByText(user.displayName).waitFor({ timeout: 60_000 })
  }

  await choose(one, posts(one).filter({ hasText: `Hello from ${blocked.username}` }), `Block @${blocked.username}`)
  for (const [page, user] of [
    [one, blocked],
    [other, blocker],
  ] as const) {
    await page.getByText('There is no such user.').waitFor({ timeout: 60_000 })
    expect(await page.locator('body').innerText()).not.toContain(user.displayName)
  }

  await one.getByRole('link', { name: 'Account' }).click()
  await one.getByRole('button', { name: `Unblock ${blocked.displayName}` }).click()
  await one.locator('#blocks').getByText(blocked.displayName).waitFor({ state: 'detached' })
  await visit(one, blocked.username)
  await posts(one)
    .filter({ hasText: `Hello from ${blocked.username}` })
    .waitFor()
  await one.locator('#online').getByText(blocked.displayName).waitFor({ timeout: 60_000 })
})

test('a mute takes the posts of a user out of the hot feed, not off the profile, until it is taken back', async () => {
  const me = await newUser()
  const page = await openAs(me.username)
  await posts(page).first().waitFor()
  const author = (await posts(page).first().locator('.by .faint').first().innerText()).slice(1)
  const theirs = posts(page).filter({ hasText: `@${author}` })
  await choose(page, theirs.first(), `Mute @${author}`)
  await expect.poll(() => theirs.count()).toBe(0)
  await posts(page).first().waitFor()

  await visit(page, author)
  await choose(page, theirs.first(), `Unmute @${author}`)
  await page.getByRole('link', { name: 'Hot' }).click()
  await theirs.first().waitFor()
})

test('a user changes the password, downloads everything, and leaves with two clicks and the password', async () => {
  expectComplaint(/status of 40[13]/)
  const me = await newUser()
  await me.write(`Before I go, ${me.username}`)
  const [page, stranger] = [await openAs(me.username), await open()]
  await page.getByRole('link', { name: 'Account' }).click()

  const form = page.getByRole('region', { name: 'Password' })
  const password = 'a-better-horse-battery'
  await form.getByLabel('Current password').fill('wrong')
  await form.getByLabel('New password').fill(password)
  await form.getByRole('button').click()
  await expect.poll(() => form.getByRole('alert').innerText(), { timeout: 30_000 }).toMatch(/wrong/)
  await form.getByLabel('Current password').fill(DEMO_PASSWORD)
  await form.getByRole('button').click()
  await form.getByText('Your other devices are signed out').waitFor()

  const downloading = page.waitForEvent('download')
  await page.getByRole('button', { name: 'Download everything about me' }).click()
  const download = await downloading
  expect(download.suggestedFilename()).toBe('account.jsonl')
  const lines = (await readFile(await download.path(), 'utf8')).trimEnd().split('\n')
  expect(lines.some((line) => line.includes('Before I go'))).toBe(true)
  expect(JSON.parse(lines.at(-1) ?? '')).toEqual({ kind: 'end', next: null })

  await page.getByRole('button', { name: 'Delete my account' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Password').fill(password)
  await visit(stranger, me.username) // the browser may keep what it reads for some seconds
  await posts(stranger).filter({ hasText: 'Before I go' }).waitFor()
  await dialog.getByRole('button', { name: 'Delete for good' }).click()
  await page.getByRole('button', { name: 'Sign in' }).first().waitFor()
  await stranger.getByText('There is no such user.').waitFor({ timeout: 60_000 })
})

test('who has forgotten the password sets a new one with the link that is mailed, and signs in with it', async () => {
  const { username } = await newUser()
  const page = await open()
  await page.getByRole('button', { name: 'Sign in' }).first().click()
  await page.getByRole('button', { name: 'Forgot it?' }).click()
  await page.getByRole('textbox', { name: 'Email', exact: true }).fill(`${username}@example.com`)
  await page.getByRole('button', { name: 'Mail me a link' }).click()
  await page.getByText('a link is on its way').waitFor()
  // In development the mail is printed.
  const linkOf = () => new RegExp(`Mail to ${username}@[^]*?(#reset-password=\\S+)`).exec(web.product.output())?.[1]
  await expect.poll(linkOf, { timeout: 60_000 }).toBeTruthy()

  await page.goto(`${web.product.url}/app/${linkOf()}`)
  const password = 'a-brand-new-battery'
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('New password').fill(password)
  expect(page.url()).not.toContain('reset-password')
  await dialog.getByRole('button', { name: 'Set the password' }).click()
  await page.getByText('The password is changed').waitFor()
  await dialog.getByLabel('Username or email').fill(username)
  await dialog.getByLabel('Password').fill(password)
  await dialog.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('button', { name: 'Sign out' }).waitFor()
})

test.each([
  ['phone', 390, 'light'],
  ['phone', 390, 'dark'],
  ['desktop', 1280, 'light'],
  ['desktop', 1280, 'dark'],
] as const)('on a %s, %i pixels wide and %s, the page is accessible', async (device, width, colorScheme) => {
  const page = await openAs('erin', { viewport: { width, height: 844 }, colorScheme })
  await posts(page).nth(5).waitFor()
  await expectAccessible(page, `app-${device}-${colorScheme}`, false)
  await page.getByRole('link', { name: /^Notifications/ }).click()
  await page.locator('#content:not([aria-busy])').waitFor()
  await expectAccessible(page, `app-${device}-${colorScheme}-notifications`, false)
  await page.getByRole('link', { name: 'Hot' }).click()
  await posts(page)
    .first()
    .getByLabel(/^More about/)
    .click()
  await expectAccessible(page, `app-${device}-${colorScheme}-menu`, false)
  await page.getByRole('link', { name: 'Account' }).click()
  await page.locator('#content:not([aria-busy])').waitFor({ state: 'attached' }) // it is empty
  await expectAccessible(page, `app-${device}-${colorScheme}-account`, false)
  await page.getByRole('button', { name: 'Delete my account' }).click()
  await expectAccessible(page, `app-${device}-${colorScheme}-deletion`, false)
  await page.getByRole('button', { name: 'Cancel' }).click()
  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByRole('button', { name: 'Sign in' }).first().click()
  await expectAccessible(page, `app-${device}-${colorScheme}-sign-in`, false)
})
