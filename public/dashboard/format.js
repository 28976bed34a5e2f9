// Formats numbers, times and amounts in the locale of the browser.

/** Shown where there is no figure. */
export const NONE = '–'

/** @typedef {number | null | undefined} Figure */

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 })
const short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 })
const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumSignificantDigits: 3 })
const rate = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 1 })
const dollars = new Intl.NumberFormat(undefined, { style: 'currency', currency: 'USD' })
const minute = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const day = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short', hourCycle: 'h23' })
const second = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium', hourCycle: 'h23' })

/**
 * Formats a figure, or returns `NONE` if there is none.
 *
 * @param {(value: number) => string} format
 * @returns {(value: Figure) => string}
 */
const orNone = (format) => (value) => (value === null || value === undefined ? NONE : format(value))

/** 1,204 */
export const count = orNone((value) => whole.format(value))

/** Three digits: 0.417, 12.3, 1.2K */
export const amount = orNone((value) => (value >= 1_000 ? compact : short).format(value))

/** 0…1 as 92.4%. Only nothing is 0%, and only all is 100%. */
export const percent = orNone((value) => {
  if (value > 0 && value < 0.000_5) return `<${rate.format(0.001)}`
  if (value < 1 && value >= 0.999_5) return `>${rate.format(0.999)}`
  return rate.format(value)
})

export const usd = orNone((value) => dollars.format(value))

/** 2.4 ms, 1.25 s */
export const milliseconds = orNone((value) =>
  value < 1_000 ? `${short.format(value)} ms` : `${short.format(value / 1_000)} s`,
)

const SIZES = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']

/** 312 bytes, 80.1 KiB */
export const bytes = orNone((value) => {
  const step = value < 1 ? 0 : Math.min(SIZES.length - 1, Math.floor(Math.log2(value) / 10))
  return `${short.format(value / 1_024 ** step)} ${SIZES[step]}`
})

/** The two largest units: 45 s, 2 min 5 s, 23 h 55 min, 6 d 2 h */
export const duration = orNone((seconds) => {
  const total = Math.round(seconds)
  const parts = /** @type {const} */ ([
    [Math.floor(total / 86_400), 'd'],
    [Math.floor((total % 86_400) / 3_600), 'h'],
    [Math.floor((total % 3_600) / 60), 'min'],
    [total % 60, 's'],
  ])
  const first = parts.findIndex(([value]) => value > 0)
  if (first === -1) return '0 s'
  return parts
    .slice(first, first + 2)
    .flatMap(([value, unit]) => (value > 0 ? [`${value} ${unit}`] : []))
    .join(' ')
})

/**
 * 14:05
 *
 * @param {number | string | Date} time Unix ms, or RFC 3339
 */
export const clock = (time) => minute.format(new Date(time))

/**
 * 14:05:09
 *
 * @param {number | string | Date} time Unix ms, or RFC 3339
 */
export const exactClock = (time) => second.format(new Date(time))

/**
 * 14:05:09 of today, otherwise with its date.
 *
 * @param {string} time RFC 3339
 */
export function moment(time) {
  const date = new Date(time)
  return date.toDateString() === new Date().toDateString() ? exactClock(date) : day.format(date)
}
