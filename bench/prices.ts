/** What requests cost, in dollars. Prices without what a plan includes, as of September 2026. */

/** https://upstash.com/pricing/redis: pay as you go. */
export const DOLLARS_PER_COMMAND = 0.2 / 100_000

/** https://developers.cloudflare.com/d1/platform/pricing/. Rows of Durable Objects cost the same. */
export const DOLLARS_PER_ROW_READ = 0.001 / 1_000_000
export const DOLLARS_PER_ROW_WRITTEN = 1 / 1_000_000

/** https://developers.cloudflare.com/durable-objects/platform/pricing/ */
const DOLLARS_PER_OBJECT_CALL = 0.15 / 1_000_000
const DOLLARS_PER_GB_SECOND = 12.5 / 1_000_000
/** Billed for an active object, whatever it uses. */
const OBJECT_GB = 0.128
/** How long a call keeps its object active: the figure of Cloudflare's examples. Local objects answer faster. */
const OBJECT_SECONDS = 0.01

/** https://developers.cloudflare.com/workers/platform/pricing/: a month of the paid plan, and what it includes. */
const PLAN_DOLLARS = 5
const INCLUDED = { requests: 10e6, d1RowsRead: 25e9, d1RowsWritten: 50e6 }
const DOLLARS_PER_REQUEST = 0.3 / 1_000_000

/** Upstash's fixed plans: any number of commands, up to so many per second, and so much traffic a month. */
const FIXED_PLANS = [
  { plan: '250 MB', dollars: 10, trafficGb: 50, commandsPerSecond: 10_000 },
  { plan: '1 GB', dollars: 20, trafficGb: 100, commandsPerSecond: 10_000 },
  { plan: '5 GB', dollars: 100, trafficGb: 500, commandsPerSecond: 10_000 },
  { plan: '10 GB', dollars: 200, trafficGb: 1_000, commandsPerSecond: 10_000 },
  { plan: '50 GB', dollars: 400, trafficGb: 5_000, commandsPerSecond: 10_000 },
  { plan: '100 GB', dollars: 800, trafficGb: 10_000, commandsPerSecond: 16_000 },
  { plan: '500 GB', dollars: 1_500, trafficGb: 20_000, commandsPerSecond: 16_000 },
]
const MONTH_SECONDS = 30 * 86_400
/** The busiest second has so many times the traffic of the mean one. */
const PEAK = 3

export interface Usage {
  /** Redis commands, those in scripts included. */
  commands: number
  d1RowsRead: number
  d1RowsWritten: number
  objectCalls: number
  objectRowsRead: number
  objectRowsWritten: number
}

/** Dollars for `times` this usage. The Worker's own request and CPU time, which all contenders have, are not part of it. */
export function dollarsOf(usage: Usage, times: number) {
  const redis = usage.commands * DOLLARS_PER_COMMAND
  const d1 = usage.d1RowsRead * DOLLARS_PER_ROW_READ + usage.d1RowsWritten * DOLLARS_PER_ROW_WRITTEN
  const objects =
    usage.objectCalls * (DOLLARS_PER_OBJECT_CALL + OBJECT_SECONDS * OBJECT_GB * DOLLARS_PER_GB_SECOND) +
    usage.objectRowsRead * DOLLARS_PER_ROW_READ +
    usage.objectRowsWritten * DOLLARS_PER_ROW_WRITTEN
  return { redis: redis * times, d1: d1 * times, objects: objects * times, total: (redis + d1 + objects) * times }
}

export interface Month {
  requests: number
  commandsPerSecond: number
  payAsYouGo: number
  /** The cheapest fixed plan of which one database is enough; else the cheapest number of databases, with the keys split. */
  fixed: { plan: string; databases: number; dollars: number }
  d1: number
  workers: number
  /** With the cheaper way to pay for Redis. */
  total: number
}

/** Dollars for a month with `requests` of this usage. `redisBytes`: traffic of one of them. Without CPU time and storage. */
export function monthOf(usage: Usage, redisBytes: number, requests: number): Month {
  const commandsPerSecond = (usage.commands * requests) / MONTH_SECONDS
  const trafficGb = (redisBytes * requests) / 1e9
  const [fixed = { plan: '', databases: NaN, dollars: NaN }] = FIXED_PLANS.map(({ plan, dollars, ...limits }) => {
    const bySpeed = (commandsPerSecond * PEAK) / limits.commandsPerSecond
    const databases = Math.ceil(Math.max(bySpeed, trafficGb / limits.trafficGb))
    return { plan, databases, dollars: databases * dollars }
  }).sort((a, b) => Number(a.databases > 1) - Number(b.databases > 1) || a.dollars - b.dollars)
  const payAsYouGo = usage.commands * requests * DOLLARS_PER_COMMAND
  const beyond = (used: number, included: number) => Math.max(0, used - included)
  const d1 =
    beyond(usage.d1RowsRead * requests, INCLUDED.d1RowsRead) * DOLLARS_PER_ROW_READ +
    beyond(usage.d1RowsWritten * requests, INCLUDED.d1RowsWritten) * DOLLARS_PER_ROW_WRITTEN
  const workers = PLAN_DOLLARS + beyond(requests, INCLUDED.requests) * DOLLARS_PER_REQUEST
  const total = Math.min(payAsYouGo, fixed.dollars) + d1 + workers
  return { requests, commandsPerSecond, payAsYouGo, fixed, d1, workers, total }
}
