/** What a service token may be allowed to do. `http/document.ts` explains each. */
export const SCOPES = [
  'backup',
  'cache:invalidate',
  'events:publish',
  'events:read',
  'locks',
  'mail',
  'maintenance',
  'moderation',
  'stats:read',
  'webhooks:manage',
] as const
export type Scope = (typeof SCOPES)[number]

/** What a service route requires: a scope, or the root token itself. */
export type ServiceRule = Scope | 'root'
