import { service } from '../service.ts'
import type { Locks } from '../redis/lock.ts'
import type { Fences } from './fences.ts'

export const locksService = service<Locks>('locks')
export const fencesService = service<Fences>('fences')
