/** What requests cost, in dollars. Prices without what a plan includes, as of September 2026. */

/** https://upstash.com/pricing/redis: pay as you go. */
export const DOLLARS_PER_COMMAND = 0.2 / 100_000

/** https://developers.cloudflare.com/d1/platform/pricing/. Rows of Durable Objects cost the same. */
const DOLLARS_PER_ROW_READ = 0.001 / 1_000_000
const DOLLARS_PER_ROW_WRITTEN = 1 / 1_000_000

/** https://developers.cloudflare.com/durable-objects/platform/pricing/ */
const DOLLARS_PER_OBJECT_CALL = 0.15 / 1_000_000
const DOLLARS_PER_GB_SECOND = 12.5 / 1_000_000
/** Billed for an active object, whatever it uses. */
const OBJECT_GB = 0.128
/** How long a call keeps its object active: the figure of Cloudflare's examples. Local objects answer faster. */
const OBJECT_SECONDS = 0.01

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
