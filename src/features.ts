import { backup } from './backup/feature.ts'
import { comments } from './comments/feature.ts'
import { credentials } from './credentials/feature.ts'
import { dashboard } from './dashboard/feature.ts'
import { events } from './events/feature.ts'
import { accountExport } from './export/feature.ts'
import type { Feature } from './feature.ts'
import { feed } from './feed/feature.ts'
import { idempotency } from './idempotency/feature.ts'
import { invalidation } from './invalidation/feature.ts'
import { likes } from './likes/feature.ts'
import { locks } from './locks/feature.ts'
import { mail } from './mail/feature.ts'
import { moderation } from './moderation/feature.ts'
import { monitoring } from './monitoring/feature.ts'
import { notifications } from './notifications/feature.ts'
import { posts } from './posts/feature.ts'
import { presence } from './presence/feature.ts'
import { rateLimit } from './rate-limit/feature.ts'
import { recommendations } from './recommendations/feature.ts'
import { relations } from './relations/feature.ts'
import { removals } from './removals/feature.ts'
import { search } from './search/feature.ts'
import { serviceTokens } from './service-tokens/feature.ts'
import { sessions } from './sessions/feature.ts'
import { streams } from './streams/feature.ts'
import { users } from './users/feature.ts'
import { webhooks } from './webhooks/feature.ts'

/** The features of the Worker. The order is that of routes, of queue consumers, and of purges. */
export const features: readonly Feature[] = [
  monitoring,
  users,
  accountExport,
  sessions,
  relations,
  credentials,
  mail,
  posts,
  presence,
  locks,
  comments,
  likes,
  feed,
  notifications,
  recommendations,
  search,
  rateLimit,
  events,
  removals,
  streams,
  webhooks,
  serviceTokens,
  moderation,
  invalidation,
  idempotency,
  backup,
  dashboard,
]
