import type { Hono } from 'hono'
import type { GenericSchema } from 'valibot'
import type { Config } from './config.ts'
import type { Listener } from './events/dispatch.ts'
import type { AppEnv } from './http/context.ts'
import type { FencedRun } from './locks/fences.ts'
import type { FigureSources } from './monitoring/stats.ts'
import type { Platform } from './platform.ts'
import type { RemovedKind } from './removals/removals.ts'
import type { Service } from './service.ts'

/** How a service is built: per invocation from the platform, or once per isolate from the configuration. */
export type Provider = { service: Service<unknown> } & (
  | { per: 'invocation'; build: (platform: Platform) => unknown }
  | { per: 'isolate'; build: (config: Config) => unknown }
)

/** Provides a service, built at its first use in an invocation. */
export const provide = <T>(service: Service<T>, build: (platform: Platform) => T): Provider => ({
  service,
  per: 'invocation',
  build,
})

/** Provides state that outlives a request, built at its first use in an isolate. */
export const provideForIsolate = <T>(service: Service<T>, build: (config: Config) => T): Provider => ({
  service,
  per: 'isolate',
  build,
})

/** Handles one kind of queue message. */
export interface Consumer<M = never> {
  /** Accepts the messages of this consumer and no others. */
  message: GenericSchema<unknown, M>
  /**
   * Handles messages, which may arrive more than once and in any order. Answers those that failed: the queue retries
   * them.
   */
  consume: (platform: Platform, messages: M[]) => Promise<Set<M>>
}

/** Types a consumer by its message. */
export const consumer = <M>(declared: Consumer<M>): Consumer => declared as unknown as Consumer // `index.ts` gives it only messages of its schema

/** One run of the cron, at `now`: the scheduled time (Unix ms). */
export interface Tick {
  now: number
}

/** One run of the exclusive jobs, under their lock. */
export interface ExclusiveTick extends Tick, FencedRun {}

/**
 * Work of the cron, every minute. A failed job fails alone. `run` answers how much work it leaves, 0 for none: at least
 * so much, in the unit of the job. `/metrics` shows it.
 */
export type Job = {
  /** In logs: verb and object, for example `resend events`. */
  name: string
} & (
  | { isExclusive: false; run: (platform: Platform, tick: Tick) => Promise<number> }
  /** Runs in one invocation at a time. */
  | { isExclusive: true; run: (platform: Platform, tick: ExclusiveTick) => Promise<number> }
)

/**
 * Deletes expired data: at most `most` rows or keys, as of `now` (Unix ms). Answers how many. Safe to repeat and to run
 * twice at once.
 */
export type Purge = (platform: Platform, most: number, now: number) => Promise<number>

/**
 * Deletes at most `most` rows that belong to what was deleted, by its id. Answers how many: fewer than `most` means that
 * none is left. Or it walks data that has no index, and answers where it continues: it receives that as `from`, and at
 * first what the deletion noted for it, or undefined. Safe to repeat.
 */
export type Removal = (
  platform: Platform,
  id: string,
  most: number,
  from: string | undefined,
) => Promise<number | { next: string | null }>

/**
 * Reads a page of what is stored about a user, after the place `after` (null: from the beginning). `next` is the place of
 * its last row, null at the end. One D1 query, by an index, of bounded size.
 */
export type Export = (
  platform: Platform,
  userId: string,
  after: string | null,
) => Promise<{ rows: object[]; next: string | null }>

/** Routes below a path. The first request below it needs them. */
export type Mount = [path: string, routes: () => Hono<AppEnv>]

/** Everything a feature contributes to the Worker. `features.ts` lists them all. */
export interface Feature {
  name: string
  provides?: Provider[]
  routes?: Mount[]
  /** Routes that the dashboard reaches too, below `/dashboard`, by its cookie. */
  dashboard?: Mount[]
  /** Routes that answer even when the Worker is not configured. */
  unconfiguredRoutes?: () => Hono<AppEnv>
  consumers?: () => Consumer[]
  jobs?: Job[]
  /** Receives every stored event at least once. */
  listener?: (platform: Platform) => Listener
  /** By the name that `POST /v1/maintenance` shows. */
  purges?: Record<string, Purge>
  /** What it keeps about a content or user: `removals` deletes it in steps once that is deleted. */
  removals?: Partial<Record<RemovedKind, Removal>>
  /** What it stores about a user, by the `kind` of the lines in `GET /v1/users/me/export`. */
  exports?: () => Record<string, Export>
  /** Figures for `/v1/stats` and `/metrics`. */
  figures?: (platform: Platform) => Partial<FigureSources>
  /** Runs at the end of every invocation, after its answer. Must be cheap. */
  afterInvocation?: (platform: Platform) => void
}
