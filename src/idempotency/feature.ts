import { type Feature, provide } from '../feature.ts'
import { idempotencyExports } from './export.ts'
import { createIdempotency, idempotencyService } from './idempotency.ts'

/** Idempotency keys of requests that create something. */
export const idempotency: Feature = {
  name: 'idempotency',
  provides: [provide(idempotencyService, ({ db }) => createIdempotency(db))],
  exports: () => idempotencyExports,
  removals: { user: ({ use }, id, most) => use(idempotencyService).removeOf(id, most) },
  purges: { idempotencyKeys: ({ use }, most, now) => use(idempotencyService).purge(most, now) },
}
