import * as v from 'valibot'
import { Count } from '../http/input.ts'

/** The answer to a like: what the caller asked for, and the exact count. */
export const Liked = v.pipe(
  v.object({
    liked: v.pipe(v.boolean(), v.description('Whether I like it now.')),
    likes: v.pipe(Count, v.description('The exact count.')),
  }),
  v.description('My like, and the count.'),
)
export type Liked = v.InferOutput<typeof Liked>

/** A user's latest like state for a post or comment, queued for D1. */
export const LikeMessage = v.object({
  kind: v.picklist(['post', 'comment']),
  contentId: v.string(),
  userId: v.string(),
  isLiked: v.boolean(),
  /** Unix ms, by the clock of Redis. Of two states of one user and content, the higher wins. */
  changedAt: v.pipe(v.number(), v.integer()),
  /**
   * When this state began (Unix ms). Null: unknown. It stays as D1 has it where the state is the same, else it is
   * `changedAt`.
   */
  stateSince: v.optional(v.nullable(v.pipe(v.number(), v.integer())), null),
  /** The trace of the request (W3C Trace Context). */
  traceparent: v.exactOptional(v.string()),
})
export type LikeMessage = v.InferOutput<typeof LikeMessage>

/** A like whose reply was lost: Redis may have counted it. Queued, so that a loss of the unwritten likes does not lose it. */
export const UnansweredLike = v.object({
  unanswered: v.object({ contentId: v.string(), userId: v.string(), isLiked: v.boolean() }),
  /** The trace of the request (W3C Trace Context). */
  traceparent: v.exactOptional(v.string()),
})
export type UnansweredLike = v.InferOutput<typeof UnansweredLike>
