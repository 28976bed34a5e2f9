/** @import { Stats } from './api.js' */
/** @typedef {Stats['series']} Series */

const KEEP_SECONDS = 3_600

/**
 * Merges new steps into the held series. A new step replaces the old one; steps older than an hour are dropped.
 *
 * @param {Series} held
 * @param {Series} fresh
 * @param {number} keptUntil Unix seconds: steps up to then stay as they are held
 * @returns {Series}
 */
export function merge(held, fresh, keptUntil) {
  const skipped = fresh.at.filter((at) => at <= keptUntil).length
  const first = fresh.at[skipped]
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
    merged[name] = [...(from === -1 ? [] : before.slice(from, to === -1 ? undefined : to)), ...column.slice(skipped)]
  }
  return /** @type {Series} */ (merged) // column by column, those of `fresh`
}

/**
 * How many minutes to request, so that no step after the last known one is missing.
 *
 * @param {number} last Unix seconds
 * @param {number} now Unix ms
 */
export const minutesToAsk = (last, now) => Math.min(60, Math.max(2, Math.ceil((now / 1_000 - last) / 60) + 1))

/**
 * The rate per second over the last minute, without the incomplete step.
 *
 * @param {Series} series
 * @param {readonly number[]} column counts by step
 */
export function perSecond({ stepSeconds }, column) {
  const steps = column.slice(-1 - Math.ceil(60 / stepSeconds), -1)
  return steps.length === 0 ? null : steps.reduce((sum, value) => sum + value, 0) / (steps.length * stepSeconds)
}
