import type { StoredEvent } from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'

/** The fields of our facts that name users whose profile or counts they change. */
const USERS = ['userId', 'authorId', 'followerId', 'followedId']
const CHANNELS = new Set(['post_events', 'user_events'])

const named = (events: StoredEvent[], fields: string[], kind: string): string[] =>
  [
    ...new Set(events.flatMap(({ data }) => fields.map((field) => data[field]).filter((id) => typeof id === 'string'))),
  ].filter((id) => id.startsWith(kind))

/**
 * Invalidates the posts and profiles that a change concerns, where the request that made it may have died before it did:
 * the client left, the Worker ended, or D1 lost its reply. Such a request has not enqueued its event either, so only events
 * that the cron enqueues are handled: no other event costs anything. Throws if Redis fails: the cron enqueues the event
 * again. Safe to repeat.
 */
export const createCompletion = (
  invalidate: (ids: { users: string[]; posts: string[] }) => Promise<unknown>,
): Listener => ({
  name: 'completion',
  wants: ({ channel, isResent = false }) => isResent && CHANNELS.has(channel),
  handle: async (events) =>
    void (await invalidate({ users: named(events, USERS, 'u_'), posts: named(events, ['postId'], 'p_') })),
})
