/** @import { Stats } from './api.js' */
/** @typedef {Stats['series']} Series */

const KEEP_SECONDS = 3_900

/**
 * Merges new steps into the held series. A new step replaces the old one; steps older than an hour are dropped.
 *
 * @param {Series} held
 * @param {Series} fresh
 * @returns {Series}
 */
export function merge(held, fresh) {
  const first = fresh.at[0]
  const last = fresh.at.at(-1)
  if (first === undefined || last === undefined) return held
  if (held.stepSeconds !== fresh.stepSeconds) return fresh
  const from = held.at.findIndex((at) => at > last - KEEP_SECONDS)
  const to = held.at.findIndex((at) => at >= first)
  /** @type {Record<string, unknown>} */
  const merged = { stepSeconds: fresh.stepSeconds }
  for (const [name, column] of Object.entries(fresh)) {
    const before = held[/** @type {keyof Series} */ (name)]
    if (!Array.isArray(column) || !Array.isArray(before)) continue
    merged[name] = [...(from === -1 ? [] : before.slice(from, to === -1 ? undefined : to)), ...column]
  }
  return /** @type {Series} */ (merged) // column by column, those of `fresh`
}

/**
 * The steps from `from` on.
 *
 * @param {Series} series
 * @param {number} from Unix seconds
 * @param {number} [end] as of `slice`
 * @returns {Series}
 */
export function between(series, from, end) {
  const first = series.at.findIndex((at) => at >= from)
  const columns = Object.entries(series).map(([name, column]) => [
    name,
    Array.isArray(column) ? (first === -1 ? [] : column.slice(first, end)) : column,
  ])
  return /** @type {Series} */ (Object.fromEntries(columns)) // the same columns
}

/**
 * The rate per second over the last minute, without the incomplete step.
 *
 * @param {Series} series
 * @param {readonly (number | null)[]} column counts by step
 */
export function perSecond({ stepSeconds }, column) {
  const steps = column.slice(-1 - Math.ceil(60 / stepSeconds), -1).filter((value) => value !== null)
  return steps.length === 0 ? null : steps.reduce((sum, value) => sum + value, 0) / (steps.length * stepSeconds)
}
