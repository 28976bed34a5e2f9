import { ulid } from 'ulid'

/**
 * Kinds of ids: user, post, comment, follow, block or mute (`r_`), mention, notification, session, event, webhook,
 * delivery, challenge, service token, report, entry of the moderation log. The kind is part of the id, because the Redis
 * client parses a bare `123` as a number.
 */
export type IdKind = 'u' | 'p' | 'c' | 'f' | 'r' | 'm' | 'n' | 's' | 'ev' | 'wh' | 'dl' | 'ch' | 'st' | 'rp' | 'ml'

/** A new id of a kind: `p_01jd…`. Ids sort by their time `now` (Unix ms): a ULID in lower case. */
export const newId = (kind: IdKind, now = Date.now()): string => `${kind}_${ulid(now).toLowerCase()}`

/** The longest part after the kind. The id of a notification contains another id. */
const maxLength = (kind: IdKind) => (kind === 'n' ? 60 : 40)

/** The pattern of an id, for regular expressions and JSON Schema. */
export const idPattern = (kind: IdKind): string => `${kind}_[a-z0-9]{1,${maxLength(kind)}}`
