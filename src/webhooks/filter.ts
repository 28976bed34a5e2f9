import type { CloudEvent } from '../events/catalog.ts'
import type { Filter } from './schema.ts'

/** Whether `event` meets every condition. A field that is absent is `undefined`: it meets only `exists: false` and `not`. */
export function meets(event: Pick<CloudEvent, 'subject' | 'type' | 'channel' | 'data'>, filter: Filter): boolean {
  return Object.entries(filter).every(([path, condition]) => {
    const value = path.split('.').reduce<unknown>(fieldOf, event)
    if (Array.isArray(condition)) return condition.some((wanted) => wanted === value)
    if (typeof condition !== 'object' || condition === null) return value === condition
    const { gt, gte, lt, lte, exists, not } = condition
    if (exists !== undefined && exists !== (value !== undefined)) return false
    if (not !== undefined && value === not) return false
    if ([gt, gte, lt, lte].every((bound) => bound === undefined)) return true
    return (
      typeof value === 'number' &&
      (gt === undefined || value > gt) &&
      (gte === undefined || value >= gte) &&
      (lt === undefined || value < lt) &&
      (lte === undefined || value <= lte)
    )
  })
}

const fieldOf = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, name)
    ? (value as Record<string, unknown>)[name] // `hasOwn` has checked it
    : undefined
