/** @import { Session } from './api.js' */
/** @import { Section } from './sections.js' */
import { api, Failure } from './api.js'
import { part, write } from './dom.js'
import { followFigures, say, showControls } from './figures.js'
import { createJobs } from './jobs.js'
import { createOverview } from './overview.js'
import { createRedis } from './redis.js'
import { createReports } from './reports.js'
import { createRoutes } from './routes.js'
import { createSections } from './sections.js'
import { createWebhooks } from './webhooks.js'

// The session, which is a cookie that this page cannot read, and the sections that its scopes allow.

const form = part('sign-in', HTMLFormElement)
const tokenInput = part('token', HTMLInputElement)
const tokenError = part('token-error', HTMLElement)
const dashboard = part('dashboard', HTMLElement)
const linkEnded = part('ended', HTMLElement)
const signOutButton = part('sign-out', HTMLButtonElement)

/** Ends what the session shows. */
let leaving = new AbortController()
let isPortal = false

form.addEventListener('submit', (event) => {
  event.preventDefault()
  void signIn(tokenInput.value.trim())
})
signOutButton.addEventListener('click', () => void signOut())
part('skip', HTMLAnchorElement).addEventListener('click', (event) => {
  event.preventDefault() // the address names the section
  part('main', HTMLElement).focus()
})
addEventListener('hashchange', () => linkOf(location.hash) && void resume())
void resume()

/** The token of a portal link. @param {string} hash */
function linkOf(hash) {
  return /^#portal=(.+)$/.exec(hash)?.[1]
}

/** Continues the session of the browser, or begins that of a portal link. */
async function resume() {
  const link = linkOf(location.hash)
  if (link) {
    leave()
    history.replaceState(null, '', location.pathname) // the token must not stay in the history
    isPortal = true
  }
  try {
    begin(await (link ? api.signIn({ link }) : api.session()))
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    if (error.kind === 'session') return leave()
    leave(error.message)
  }
}

/** @param {string} token */
async function signIn(token) {
  const submit = form.querySelector('button')
  if (!submit || form.ariaBusy === 'true') return
  form.ariaBusy = 'true'
  write(submit, 'Signing in …')
  sayTokenError('')
  try {
    const session = await api.signIn({ token })
    tokenInput.value = ''
    begin(session)
    part('title', HTMLElement).focus()
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    sayTokenError(error.kind === 'session' ? 'This token is not valid.' : error.message)
    tokenInput.focus()
    tokenInput.select()
  } finally {
    form.ariaBusy = 'false'
    write(submit, 'Sign in')
  }
}

/** @param {Session} session */
function begin({ scopes, tenant }) {
  leaving.abort()
  leaving = new AbortController()
  const { signal } = leaving
  isPortal = tenant !== null
  form.hidden = linkEnded.hidden = true
  dashboard.hidden = signOutButton.hidden = false

  /** @param {Failure} failure */
  const onEnd = (failure) => leave(failure.message)
  const context = { api, say, ended: signal, onEnd }
  const hasFigures = scopes.includes('stats:read')
  /** @type {Section[]} */
  const shown = [
    ...(hasFigures ? [createOverview(context), createRoutes(context), createRedis()] : []),
    ...(scopes.includes('webhooks:manage') ? [createWebhooks({ ...context, tenant })] : []),
    ...(hasFigures ? [createJobs()] : []),
    ...(scopes.includes('moderation') ? [createReports(context)] : []),
  ]
  if (shown.length === 0) return leave('This token has no scope that the dashboard uses.')
  const figures = hasFigures ? followFigures(api, (found) => sections.update(found), onEnd, signal) : undefined
  const sections = createSections(
    shown,
    (section) => {
      showControls(section.hasRange ?? false, hasFigures && section.update !== undefined)
      figures?.draw()
    },
    signal,
  )
}

async function signOut() {
  signOutButton.ariaBusy = 'true'
  try {
    await api.signOut()
    leave()
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    if (error.kind === 'session') return leave()
    say(`You are still signed in. ${error.message}`)
    write(part('banner', HTMLElement), `You are still signed in. ${error.message}`)
  } finally {
    signOutButton.ariaBusy = 'false'
  }
}

/** Shows the sign-in. @param {string} [reason] empty if the user signed out */
function leave(reason = '') {
  leaving.abort()
  dashboard.hidden = signOutButton.hidden = true
  if (isPortal) {
    linkEnded.hidden = false
    return linkEnded.querySelector('h1')?.focus()
  }
  form.hidden = false
  tokenInput.focus()
  sayTokenError(reason)
}

/** @param {string} text */
function sayTokenError(text) {
  tokenError.textContent = text
  tokenInput.setAttribute('aria-invalid', String(text !== ''))
}
