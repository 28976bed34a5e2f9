/** @import { Stats } from './api.js' */
/** @import { Figure } from './format.js' */
/** @import { Section } from './sections.js' */
import { createFacts, element } from './dom.js'
import { amount, count, duration, milliseconds, moment, NONE } from './format.js'
import { isRoute } from './routes.js'
import { addressOf } from './sections.js'
import { createTable } from './table.js'

/** Cron jobs, queues and the outbox. @returns {Section} */
export function createJobs() {
  const flow = createFacts('Queues and outbox')
  return {
    id: 'jobs',
    title: 'Jobs',
    hasRange: true,
    element: element('div', {}, flow.list, jobs.element, background.element),
    update({ stats }) {
      const isKnown = stats.jobs.length > 0 || !stats.unavailable.includes('redis')
      flow.update(flowOf(stats))
      jobs.update(isKnown ? stats.jobs : null)
      background.update(stats.routes.filter(({ route }) => !isRoute(route)))
    },
  }
}

/** @param {Stats} stats @returns {[string, string][]} */
function flowOf({ outbox, queues }) {
  /** @param {number} waiting @param {Figure} age */
  const waiting = (waiting, age) => `${count(waiting)} waiting${age ? `, oldest ${duration(age)}` : ''}`
  /** @type {[string, string][]} */
  const facts = [['Outbox', outbox ? waiting(outbox.pending, outbox.oldestAgeSeconds) : 'unknown']]
  if (!queues) return [...facts, ['Queues', 'unknown']]
  for (const { queue, backlog, oldestAgeSeconds } of queues) {
    facts.push([`Queue ${queue}`, waiting(backlog, oldestAgeSeconds)])
  }
  return facts
}

/** @typedef {Stats['jobs'][number]} Job */

const CRON = `curl "${location.origin}/cdn-cgi/local/scheduled?cron=*+*+*+*+*"`

const jobs = createTable({
  title: 'Cron jobs',
  note: 'their last runs',
  empty: `The cron has not run yet. It does so every minute. On your machine: ${CRON}`,
  columns: /** @type {import('./table.js').Column<Job>[]} */ ([
    { title: 'Job', text: ({ job }) => job, sortBy: ({ job }) => job, isText: true },
    {
      title: 'Outcome',
      text: ({ remaining }) => (remaining === null ? 'failed' : 'done'),
      sortBy: ({ remaining }) => Number(remaining === null),
      isText: true,
      isBad: ({ remaining }) => remaining === null,
    },
    { title: 'Took', text: ({ durationMs }) => milliseconds(durationMs), sortBy: ({ durationMs }) => durationMs },
    {
      title: 'Work left',
      text: ({ remaining }) =>
        remaining === null ? 'unknown' : remaining === 0 ? 'none' : `at least ${count(remaining)}`,
      sortBy: ({ remaining }) => remaining,
    },
    { title: 'Ended', text: ({ at }) => moment(at), sortBy: ({ at }) => at },
    {
      title: 'Last failure',
      text: ({ lastFailure }) => (lastFailure ? `${moment(lastFailure.at)}: ${lastFailure.reason}` : NONE),
      sortBy: ({ lastFailure }) => lastFailure?.at ?? null,
      isText: true,
      isLong: true,
    },
  ]),
})

/** @typedef {Stats['routes'][number]} Run */

const background = createTable({
  title: 'Batches of queues, and runs of the cron',
  note: 'select one to see it over time',
  empty: `None yet. Run: ${CRON}`,
  columns: /** @type {import('./table.js').Column<Run>[]} */ ([
    {
      title: 'Name',
      text: ({ route }) => route,
      sortBy: ({ route }) => route,
      href: ({ route }) => addressOf('routes', route),
      isText: true,
      isCode: true,
    },
    { title: 'Runs', text: ({ requests }) => count(requests), sortBy: ({ requests }) => requests },
    { title: 'p50', text: ({ p50Ms }) => milliseconds(p50Ms), sortBy: ({ p50Ms }) => p50Ms },
    { title: 'p95', text: ({ p95Ms }) => milliseconds(p95Ms), sortBy: ({ p95Ms }) => p95Ms },
    {
      title: 'Commands per run',
      text: ({ commandsPerRequest }) => amount(commandsPerRequest),
      sortBy: ({ commandsPerRequest }) => commandsPerRequest,
    },
    {
      title: 'Round trips per run',
      text: ({ roundTripsPerRequest }) => amount(roundTripsPerRequest),
      sortBy: ({ roundTripsPerRequest }) => roundTripsPerRequest,
    },
  ]),
})
