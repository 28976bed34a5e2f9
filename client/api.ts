// `npm run types` writes this file from the routes: see scripts/build/client.ts.

import type { CallOptions, Conditional, Keyed, Pages } from './call.ts'

/** The types of problems: the last part of the `type` of a problem document. */
export type ProblemType =
  | 'invalid-request'
  | 'malformed-json'
  | 'not-signed-in'
  | 'wrong-credentials'
  | 'service-token-required'
  | 'suspended'
  | 'scope-required'
  | 'wrong-password'
  | 'cross-site'
  | 'not-yours'
  | 'not-found'
  | 'no-such-route'
  | 'method-not-allowed'
  | 'taken'
  | 'lock-held'
  | 'lock-lost'
  | 'idempotency-key-in-use'
  | 'too-many-webhooks'
  | 'webhook-not-enabled'
  | 'event-gone'
  | 'not-empty'
  | 'not-restoring'
  | 'token-expired'
  | 'version-changed'
  | 'body-too-large'
  | 'unsupported-media-type'
  | 'idempotency-key-reused'
  | 'event-id-reused'
  | 'challenge-failed'
  | 'rate-limited'
  | 'internal'
  | 'misconfigured'
  | 'unavailable'

/** All figures. A part that is unavailable is null. */
export interface Stats {
  at: string
  unavailable: ("redis" | "d1" | "queues" | "outbox" | "webhooks" | "presence")[]
  dependencies: {
    redis: {
      isUp: boolean
      ms: number
      breaker: "closed" | "open" | "half-open"
    }
    d1: {
      isUp: boolean
      ms: number
    }
  }
  server: {
    version: string | null
    keys: number | null
    usedMemoryBytes: number | null
    maxMemoryBytes: number | null
    expiredKeys: number | null
    evictedKeys: number | null
  } | null
  window: {
    from: string
    until: string | null
    requests: number
    errors: number
    commands: number
    billedCommands: number
    roundTrips: number
    commandsPerRequest: number | null
    roundTripsPerRequest: number | null
    costPerMillionUsd: number | null
    meanMs: number | null
    p50Ms: number | null
    p95Ms: number | null
    p99Ms: number | null
  }
  routes: ({
    route: string
    requests: number
    statuses: {
      "2xx": number
      "3xx": number
      "4xx": number
      "5xx": number
    }
    commands: number
    billedCommands: number
    roundTrips: number
    commandsPerRequest: number | null
    roundTripsPerRequest: number | null
    costPerMillionUsd: number | null
    meanMs: number | null
    p50Ms: number | null
    p95Ms: number | null
    p99Ms: number | null
  })[]
  caches: ({
    cache: string
    memory: {
      hits: number
      staleHits: number
      negativeHits: number
      misses: number
      errors: number
      hitRate: number | null
    }
    redis: {
      hits: number
      staleHits: number
      negativeHits: number
      misses: number
      errors: number
      hitRate: number | null
    }
    loader: {
      loads: number
      errors: number
    }
    stores: {
      stored: number
      lost: number
      refused: number
    }
  })[]
  series: {
    stepSeconds: number
    at: number[]
    requests: (number | null)[]
    errors: (number | null)[]
    limited: (number | null)[]
    p50Ms: (number | null)[]
    p95Ms: (number | null)[]
    p99Ms: (number | null)[]
    memoryHitRate: (number | null)[]
    redisHitRate: (number | null)[]
    commands: (number | null)[]
    roundTrips: (number | null)[]
    commandsPerRequest: (number | null)[]
    likes: (number | null)[]
    likesPerSecond: (number | null)[]
    deliveriesSucceeded: (number | null)[]
    deliveriesFailed: (number | null)[]
    online: (number | null)[]
  }
  slowCommands: {
    at: string
    route: string
    commands: string[]
    count: number
    ms: number
    isAnswered: boolean
  }[]
  slowCommandMs: number
  jobs: ({
    job: string
    at: string
    durationMs: number
    remaining: number | null
    lastFailure: {
      at: string
      reason: string
    } | null
  })[]
  topKeys: ({
    key: string
    type: string | null
    ttlSeconds: number | null
    sizeBytes: number | null
    length: number | null
    asked: number
  })[]
  bigKeys: ({
    key: string
    type: string | null
    ttlSeconds: number | null
    sizeBytes: number | null
    length: number | null
    seenAt: string
  })[]
  scan: {
    scannedKeys: number
    startedAt: string | null
    completedAt: string | null
    patterns: ({
      pattern: string
      keys: number
      sizeBytes: number | null
    })[]
  } | null
  presence: {
    online: number
    capacity: number
  } | null
  queues: ({
    queue: string
    backlog: number
    backlogBytes: number
    oldestAgeSeconds: number | null
  })[] | null
  outbox: {
    pending: number
    oldestAgeSeconds: number
  } | null
  webhooks: ({
    id: string
    host: string
    isEnabled: boolean
    succeeded: number
    failed: number
    successRate: number | null
    pending: number
    dead: number
  })[] | null
}

/** The history of one route, by the minute. */
export interface RouteStats {
  /** Its name. */
  route: string
  /** The length of a step. */
  stepSeconds: number
  /** The start of each step (Unix seconds). */
  at: number[]
  /** How many there were. Null: unknown. */
  requests: (number | null)[]
  /** Answers with a status of 400 to 499. */
  refused: (number | null)[]
  /** Answers with a status of 500 or above. */
  errors: (number | null)[]
  /** The median latency. */
  p50Ms: (number | null)[]
  /** The latency that 95 % of the answers did not exceed. */
  p95Ms: (number | null)[]
  /** The latency that 99 % of the answers did not exceed. */
  p99Ms: (number | null)[]
  /** Redis commands. */
  commandsPerRequest: (number | null)[]
  /** Round trips to Redis. */
  roundTripsPerRequest: (number | null)[]
}

/** A profile as its owner sees it. */
export interface OwnUser {
  /** Sorts by time. */
  id: string
  /** Unique, in lower case. */
  username: string
  /** 1 to 50 characters. */
  displayName: string
  /** At most 160 characters. */
  bio: string
  /** How many users follow this user. */
  followersCount: number
  /** How many users this user follows. */
  followingsCount: number
  /** How many posts this user has. */
  postsCount: number
  /** When the user signed up. */
  createdAt: string
  /** The version of the profile, for `If-Match`. Counts do not raise it. */
  version: number
  /** Only the owner sees it. */
  email: string
  /** An address that I have not confirmed. Until I confirm the first one, it is also `email`. */
  pendingEmail: string | null
}

/** A profile as everyone sees it. */
export interface User {
  /** Sorts by time. */
  id: string
  /** Unique, in lower case. */
  username: string
  /** 1 to 50 characters. */
  displayName: string
  /** At most 160 characters. */
  bio: string
  /** How many users follow this user. */
  followersCount: number
  /** How many users this user follows. */
  followingsCount: number
  /** How many posts this user has. */
  postsCount: number
  /** When the user signed up. */
  createdAt: string
  /** The version of the profile, for `If-Match`. Counts do not raise it. */
  version: number
}

/** A post, as the caller sees it. */
export interface Post {
  /** Sorts by time. */
  id: string
  /** The user who wrote it. */
  authorId: string
  /** 1 to 500 characters. */
  text: string
  /** When it was written. */
  createdAt: string
  /** When its text last changed. */
  updatedAt: string
  /** The version of the text, for `If-Match`. Counts do not raise it. */
  version: number
  /** How many users like it. */
  likesCount: number
  /** How many comments it has. */
  commentsCount: number
  /** Unique viewers, approximate */
  viewsCount: number
  /** Whether the signed-in user likes it; absent for others */
  likedByMe?: boolean
}

/** The presence of a user, as the caller may see it. */
export interface Presence {
  /** The user. */
  userId: string
  /** Whether the user is online, as far as the caller may know. */
  isOnline: boolean
  /** Null: never, or hidden from the viewer */
  lastSeenAt: string | null
}

/** The lock that the owner holds now. */
export interface Lock {
  /** The name of the lock. */
  name: string
  /** Secret. Send it to extend or release the lock. */
  owner: string
  /** Rises with each acquisition. Let your storage refuse lower fences. */
  fence: number
  /** When it expires unless the owner extends it. */
  expiresAt: string
}

/** A comment on a post. */
export interface Comment {
  /** Sorts by time. */
  id: string
  /** The post it is about. */
  postId: string
  /** The comment that it replies to. Null: it replies to the post. */
  parentId: string | null
  /** The user who wrote it. Null: the comment was deleted, and its replies are still there. */
  authorId: string | null
  /** 1 to 500 characters. Empty where the comment was deleted. */
  text: string
  /** When it was written. */
  createdAt: string
  /** When its text was last edited. */
  updatedAt: string
  /** The version of the text, for `If-Match`. */
  version: number
  /** How many users like it. */
  likesCount: number
  /** How many comments reply to it directly. */
  repliesCount: number
}

/** A comment with its first replies. */
export interface Thread {
  /** Sorts by time. */
  id: string
  /** The post it is about. */
  postId: string
  /** The comment that it replies to. Null: it replies to the post. */
  parentId: string | null
  /** The user who wrote it. Null: the comment was deleted, and its replies are still there. */
  authorId: string | null
  /** 1 to 500 characters. Empty where the comment was deleted. */
  text: string
  /** When it was written. */
  createdAt: string
  /** When its text was last edited. */
  updatedAt: string
  /** The version of the text, for `If-Match`. */
  version: number
  /** How many users like it. */
  likesCount: number
  /** How many comments reply to it directly. */
  repliesCount: number
  /** Its first replies. */
  replies: {
    items: Comment[]
    /** Selects the next page. Null: this is the last one. */
    nextCursor: string | null
  }
}

/** An entry of my inbox. */
export interface Notification {
  /** Sorts by time. A new like gives the notification of its content a new id. */
  id: string
  /** What happened. */
  type: "post" | "like" | "comment" | "reply" | "mention" | "follow"
  /** The users who caused it. For likes: the latest three at most, the latest first. */
  actorIds: string[]
  /** The number of users who caused it. Of likes it includes users whom I do not see. */
  actorsCount: number
  /** The post it is about. */
  postId?: string
  /** The comment it is about. */
  commentId?: string
  /** When it last happened */
  createdAt: string
  /** Whether I have marked it as read. */
  isRead: boolean
}

/** One attempt to reach an endpoint. */
export interface Attempt {
  /** When it began. */
  at: string
  /** How long it took. */
  durationMs: number
  /** The HTTP status. Null: no answer */
  status: number | null
  /** Why there was no answer. */
  error: string | null
  /** The first KB of the answer */
  answer: string | null
  /** `content-type`, `location`, `retry-after`, `server` and `x-request-id` of the answer. Null: no answer, or not recorded. */
  answerHeaders: Record<string, string> | null
}

/** An endpoint with its health. */
export interface ListedWebhook {
  /** Sorts by time. */
  id: string
  /** Where deliveries go. */
  url: string
  /** The channels it subscribes to. */
  channels: string[]
  /** The types it accepts. Null: every type of the channels. */
  types: string[] | null
  /** What its events must match. Null: nothing. */
  filter: Record<string, unknown> | null
  /** A note of its owner. */
  description: string
  /** The names of its headers. Values are never shown. */
  headerNames: string[]
  /** Only an enabled endpoint receives events. */
  status: "unverified" | "enabled" | "paused" | "disabled"
  /** It answered 410, or failed for days. */
  disabledReason: "gone" | "failing" | null
  /** Null: its last attempt succeeded. */
  failingSince: string | null
  /** Until then, deliveries are signed with the previous secret too. */
  previousSecretUntil: string | null
  /** Whose people may manage it. Null: nobody. */
  tenant: string | null
  /** When it was added. */
  createdAt: string
  /** When it last changed. */
  updatedAt: string
  /** How well it answers. */
  health: {
    /** Open: it failed, and gets nothing until `openUntil`. Half-open: the next delivery tests it. */
    circuit: "closed" | "open" | "half-open"
    /** Null: the circuit is not open. */
    openUntil: string | null
    /** Attempts of the last 24 hours that succeeded. */
    succeeded: number
    /** Attempts of the last 24 hours that failed. */
    failed: number
    /** From 0 to 1. Null: no attempts. */
    successRate: number | null
    /** Deliveries that wait, counted up to 1,000. */
    pending: number
    /** Null: none in two days. */
    lastSuccessAt: string | null
    /** Null: none in two days. */
    lastFailureAt: string | null
  }
}

/** An endpoint, without its secret. */
export interface Webhook {
  /** Sorts by time. */
  id: string
  /** Where deliveries go. */
  url: string
  /** The channels it subscribes to. */
  channels: string[]
  /** The types it accepts. Null: every type of the channels. */
  types: string[] | null
  /** What its events must match. Null: nothing. */
  filter: Record<string, unknown> | null
  /** A note of its owner. */
  description: string
  /** The names of its headers. Values are never shown. */
  headerNames: string[]
  /** Only an enabled endpoint receives events. */
  status: "unverified" | "enabled" | "paused" | "disabled"
  /** It answered 410, or failed for days. */
  disabledReason: "gone" | "failing" | null
  /** Null: its last attempt succeeded. */
  failingSince: string | null
  /** Until then, deliveries are signed with the previous secret too. */
  previousSecretUntil: string | null
  /** Whose people may manage it. Null: nobody. */
  tenant: string | null
  /** When it was added. */
  createdAt: string
  /** When it last changed. */
  updatedAt: string
}

/** The delivery of one event to one endpoint. */
export interface Delivery {
  /** Sorts by time. */
  id: string
  /** The endpoint. */
  webhookId: string
  /** Also the `webhook-id` */
  eventId: string
  /** Null: the event has expired */
  type: string | null
  /** Dead: its last retry failed. */
  status: "pending" | "delivered" | "dead"
  /** The oldest first. */
  attempts: Attempt[]
}

/** A service token, without its secret. */
export interface ServiceToken {
  /** Sorts by time. */
  id: string
  /** Who uses the token. */
  name: string
  /** What the token may do. */
  scopes: string[]
  /** When it was created. */
  createdAt: string
  /** When the current secret was made. Null: with the token. */
  rotatedAt: string | null
  /** Until when a previous secret works. Null: none does. */
  previousUntil: string | null
  /** Accurate to ten minutes. Null: never. */
  lastUsedAt: string | null
}

/** A report of a member. */
export interface Report {
  /** Sorts by time. */
  id: string
  /** What it is about. */
  subjectId: string
  /** Why. */
  reason: "spam" | "harassment" | "hate" | "violence" | "sexual" | "self-harm" | "illegal" | "other"
  /** When. */
  createdAt: string
  /** Who reported it. */
  reporterId: string
  /** The text. */
  text: string
  /** What has become of it. */
  status: "open" | "dismissed" | "acted"
  /** When moderators resolved it. Null: it is open. */
  resolvedAt: string | null
}

/** A post or comment, and whether it is taken down. */
export interface ModeratedContent {
  /** Sorts by time. */
  id: string
  /** Who wrote it. */
  authorId: string
  /** Of a comment: its post. */
  postId: string
  /** The text. */
  text: string
  /** When and why it was taken down. Null: it is up. */
  takenDown: {
    at: string
    note: string
  } | null
}

/** What a moderator did. */
export interface ModerationLogEntry {
  /** Sorts by time. */
  id: string
  /** What the moderator did. */
  action: "take-down" | "restore" | "suspend" | "reinstate" | "dismiss-reports" | "act-on-reports"
  /** What it is about. `u_deleted`: a user who has deleted the account. */
  subjectId: string
  /** Why. Empty once the user has deleted the account. */
  note: string
  /** The service token that acted: `st_…`, or `root`. */
  tokenId: string
  /** The name of the token at that time. */
  tokenName: string
  /** When. */
  createdAt: string
}

/** The data of each type of event. */
export interface EventData {
  post_created: {
    /** The id of a post. */
    postId: string
    /** The id of a user. */
    authorId: string
    text?: string
    version?: number
  }
  post_updated: {
    /** The id of a post. */
    postId: string
    /** The id of a user. */
    authorId: string
    text?: string
    version?: number
  }
  post_deleted: {
    /** The id of a post. */
    postId: string
    /** The id of a user. */
    authorId: string
  }
  user_created: {
    /** The id of a user. */
    userId: string
    username?: string
    displayName?: string
    bio?: string
    version?: number
  }
  user_updated: {
    /** The id of a user. */
    userId: string
    username?: string
    displayName?: string
    bio?: string
    version?: number
  }
  user_deleted: {
    /** The id of a user. */
    userId: string
  }
  user_followed: {
    /** The id of a user. */
    followerId: string
    /** The id of a user. */
    followedId: string
  }
  user_unfollowed: {
    /** The id of a user. */
    followerId: string
    /** The id of a user. */
    followedId: string
  }
  user_status_change: {
    /** The id of a user. */
    userId: string
    status: "online" | "offline"
    at: string
  }
  comment_created: {
    /** The id of a comment. */
    commentId: string
    /** The id of a post. */
    postId: string
    /** The id of a user. */
    authorId: string
    /** The id of a comment. */
    parentId?: string
    text?: string
  }
  comment_updated: {
    /** The id of a comment. */
    commentId: string
    /** The id of a post. */
    postId: string
    /** The id of a user. */
    authorId: string
    /** The id of a comment. */
    parentId?: string
    text?: string
    version?: number
  }
  comment_deleted: {
    /** The id of a comment. */
    commentId: string
    /** The id of a post. */
    postId: string
    /** The id of a user. */
    authorId: string
    /** The id of a comment. */
    parentId?: string
  }
  counter_update: {
    contentId: string
    contentType: "post" | "comment"
    counterType: "likes" | "comments" | "views"
    value: number
  }
  user_blocked: {
    /** The id of a user. */
    userId: string
    /** The id of a user. */
    otherId: string
  }
  user_unblocked: {
    /** The id of a user. */
    userId: string
    /** The id of a user. */
    otherId: string
  }
  user_muted: {
    /** The id of a user. */
    userId: string
    /** The id of a user. */
    otherId: string
  }
  user_unmuted: {
    /** The id of a user. */
    userId: string
    /** The id of a user. */
    otherId: string
  }
  report_created: {
    /** The id of a report. */
    reportId: string
    subjectId: string
    reason: string
  }
  reports_resolved: {
    subjectId: string
    outcome: string
    tokenId: string
  }
  content_taken_down: {
    contentId: string
    /** The id of a user. */
    authorId: string
    tokenId: string
  }
  content_restored: {
    contentId: string
    /** The id of a user. */
    authorId: string
    tokenId: string
  }
  user_suspended: {
    /** The id of a user. */
    userId: string
    tokenId: string
  }
  user_reinstated: {
    /** The id of a user. */
    userId: string
    tokenId: string
  }
  mail_requested: {
    /** The id of a user. */
    userId: string
    to: string
    template: "reset" | "verify" | "taken" | "password-changed" | "email-changed"
    subject: string
    text: string
    link: string | null
  }
  webhook_disabled: {
    /** The id of a webhook. */
    webhookId: string
    url: string
    reason: string
  }
  webhook_enabled: {
    /** The id of a webhook. */
    webhookId: string
    url: string
    reason: string
  }
}

/** The types of the events on each channel. */
export interface ChannelEvents {
  post_events: 'post_created' | 'post_updated' | 'post_deleted'
  user_events: 'user_created' | 'user_updated' | 'user_deleted' | 'user_followed' | 'user_unfollowed' | 'user_status_change'
  comment_events: 'comment_created' | 'comment_updated' | 'comment_deleted'
  counter_events: 'counter_update'
  relation_events: 'user_blocked' | 'user_unblocked' | 'user_muted' | 'user_unmuted'
  moderation_events: 'report_created' | 'reports_resolved' | 'content_taken_down' | 'content_restored' | 'user_suspended' | 'user_reinstated'
  mail_events: 'mail_requested'
  webhook_events: 'webhook_disabled' | 'webhook_enabled'
}

/** What users and everyone can do. */
export interface MemberApi {
  /**
   * Sign up: `POST /v1/users`.
   *
   * The password must not be a common one. The address receives a link to confirm it. Until then sign in with the username. The answer is the same if an account has the address already; the mail says so.
   *
   * @throws {Problem} `invalid-request`, `cross-site`, `taken`, `unsupported-media-type`
   */
  signUp(input: {
    username: string
    email: string
    password: string
    /** 1 to 50 characters as people count them; one line */
    displayName: string
  }, options?: CallOptions): Promise<OwnUser>

  /**
   * Read users by ids: `GET /v1/users`.
   *
   * The answer keeps the order of the ids and omits unknown ids. Counts as many requests as there are ids.
   *
   * @throws {Problem} `invalid-request`
   */
  getUsers(input: {
    /** At most 100 ids, separated by commas. */
    ids: string[]
  }, options?: CallOptions): Promise<{
    items: User[]
    /** Selects the next page. Null: this is the last one. */
    nextCursor: string | null
  }>

  /**
   * Read a user by username: `GET /v1/users/by-username/{username}`.
   *
   * Upper and lower case are equal.
   *
   * @throws {Problem} `invalid-request`, `not-found`
   */
  getUserByUsername(input: {
    /** Upper and lower case are equal. */
    username: string
  }, options?: CallOptions): Promise<User>

  /**
   * Read a user: `GET /v1/users/{id}`.
   *
   * The owner also sees `email`.
   *
   * @throws {Problem} `invalid-request`, `not-found`
   */
  getUser(input: {
    /** The id of a user. */
    id: string
  }, options?: CallOptions): Promise<OwnUser | User>

  /**
   * Change my profile: `PATCH /v1/users/me`.
   *
   * Works without Redis. Then readers on other isolates may see the old profile for some minutes. With `If-Match`, a repeated change succeeds too.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `version-changed`, `unsupported-media-type`
   */
  updateProfile(input?: {
    /** 1 to 50 characters as people count them; one line */
    displayName?: string
    /** 0 to 160 characters as people count them; lines are fine */
    bio?: string
  }, options?: CallOptions & Conditional): Promise<OwnUser>

  /**
   * Delete my account: `DELETE /v1/users/me`.
   *
   * Requires the password. The account, its posts and its comments disappear from every answer at once, from caches within some seconds. Everything else that is stored about the user is then removed in steps, and the event `user_deleted` informs back ends. Username and email address are free again. It cannot be undone. Without Redis: 503, because attempts cannot be counted.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `wrong-password`, `cross-site`, `unsupported-media-type`
   */
  deleteAccount(input: {
    password: string
  }, options?: CallOptions): Promise<void>

  /**
   * Follow a user: `PUT /v1/users/{id}/follow`.
   *
   * Repeated requests count once. Works without Redis. Then cached counts follow later.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  followUser(input: {
    /** The id of a user. */
    id: string
  }, options?: CallOptions): Promise<{
    isFollowing: boolean
    followersCount: number
  }>

  /**
   * Unfollow a user: `DELETE /v1/users/{id}/follow`.
   *
   * Succeeds if I do not follow the user. Works without Redis. Then cached counts follow later.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  unfollowUser(input: {
    /** The id of a user. */
    id: string
  }, options?: CallOptions): Promise<{
    isFollowing: boolean
    followersCount: number
  }>

  /**
   * List the followers of a user, latest first: `GET /v1/users/{id}/followers`.
   *
   * @throws {Problem} `invalid-request`, `not-found`
   */
  listFollowers(input: {
    /** The id of a user. */
    id: string
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<User>

  /**
   * List the users whom a user follows, latest first: `GET /v1/users/{id}/followings`.
   *
   * @throws {Problem} `invalid-request`, `not-found`
   */
  listFollowings(input: {
    /** The id of a user. */
    id: string
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<User>

  /**
   * Export everything about me: `GET /v1/users/me/export`.
   *
   * Streams everything that is stored about me, as lines of JSON: one per row, with its `kind`. The last line is `{"kind":"end","next":null}`; without it the export broke off. After 900,000 rows `next` is a cursor: repeat the request with it. Works without Redis. Copies in events and caches, which expire, are not repeated.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`
   */
  exportAccount(input?: {
    /** The `next` of an earlier export. */
    cursor?: string
  }, options?: CallOptions): Promise<ArrayBuffer>

  /**
   * List the posts of a user, newest first: `GET /v1/users/{id}/posts`.
   *
   * @throws {Problem} `invalid-request`, `not-found`
   */
  listUserPosts(input: {
    /** The id of a user. */
    id: string
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<Post>

  /**
   * Write a post: `POST /v1/posts`.
   *
   * At most 500 characters. Works without Redis. Then caches follow later.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `idempotency-key-in-use`, `unsupported-media-type`, `idempotency-key-reused`
   */
  createPost(input: {
    /** 1 to 500 characters as people count them; lines are fine */
    text: string
  }, options?: CallOptions & Keyed): Promise<Post>

  /**
   * Read posts by ids: `GET /v1/posts`.
   *
   * The answer keeps the order of the ids and omits unknown ids.
   *
   * @throws {Problem} `invalid-request`
   */
  getPosts(input: {
    /** At most 100 ids, separated by commas. */
    ids: string[]
  }, options?: CallOptions): Promise<{
    items: Post[]
    /** Selects the next page. Null: this is the last one. */
    nextCursor: string | null
  }>

  /**
   * Read the hot feed: `GET /v1/posts/hot`.
   *
   * The posts of the last days with the most likes, comments and views, newer ones before older ones: twice as many are worth eight hours. Counts are current. A new post may take a minute to appear.
   *
   * @throws {Problem} `invalid-request`
   */
  listHotPosts(input?: {
    /** The most items to answer. */
    limit?: number
  }, options?: CallOptions): Promise<{
    items: Post[]
    /** Selects the next page. Null: this is the last one. */
    nextCursor: string | null
  }>

  /**
   * Read a post: `GET /v1/posts/{id}`.
   *
   * @throws {Problem} `invalid-request`, `not-found`
   */
  getPost(input: {
    /** The id of a post. */
    id: string
  }, options?: CallOptions): Promise<Post>

  /**
   * Edit my post: `PATCH /v1/posts/{id}`.
   *
   * Works without Redis. Then readers may see the old text for some minutes. With `If-Match`, a repeated change succeeds too.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `not-yours`, `cross-site`, `not-found`, `version-changed`, `unsupported-media-type`
   */
  updatePost(input: {
    /** The id of a post. */
    id: string
    /** 1 to 500 characters as people count them; lines are fine */
    text: string
  }, options?: CallOptions & Conditional): Promise<Post>

  /**
   * Delete my post: `DELETE /v1/posts/{id}`.
   *
   * Deletes its likes and comments too. Works without Redis. Then readers may see the post for some minutes.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `not-yours`, `cross-site`, `not-found`, `version-changed`, `unsupported-media-type`
   */
  deletePost(input: {
    /** The id of a post. */
    id: string
  }, options?: CallOptions & Conditional): Promise<void>

  /**
   * Record that I saw a post: `POST /v1/posts/{id}/views`.
   *
   * Each user, or else each address, counts once. The count is approximate. Without Redis: 503.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  recordView(input: {
    /** The id of a post. */
    id: string
  }, options?: CallOptions): Promise<{
    views: number
  }>

  /**
   * List the comments on a post, newest first: `GET /v1/posts/{id}/comments`.
   *
   * Each with its first replies, oldest first. `replies.nextCursor` continues them at `GET /v1/comments/{id}/replies`. A deleted comment with replies keeps its place, without text and author.
   *
   * @throws {Problem} `invalid-request`, `not-found`
   */
  listComments(input: {
    /** The id of a post. */
    id: string
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<Thread>

  /**
   * Comment on a post, or reply to a comment on it: `POST /v1/posts/{id}/comments`.
   *
   * At most 500 characters. With `parentId` it is a reply, at any depth. Works without Redis. Then the count follows later.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `idempotency-key-in-use`, `unsupported-media-type`, `idempotency-key-reused`
   */
  createComment(input: {
    /** The id of a post. */
    id: string
    /** 1 to 500 characters as people count them; lines are fine */
    text: string
    /** The comment on this post to reply to */
    parentId?: string
  }, options?: CallOptions & Keyed): Promise<Comment>

  /**
   * List the replies to a comment, oldest first: `GET /v1/comments/{id}/replies`.
   *
   * Each with its own first replies.
   *
   * @throws {Problem} `invalid-request`, `not-found`
   */
  listReplies(input: {
    /** The id of a comment. */
    id: string
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<Thread>

  /**
   * Edit my comment: `PATCH /v1/comments/{id}`.
   *
   * Works without Redis. With `If-Match`, a repeated change succeeds too.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `not-yours`, `cross-site`, `not-found`, `version-changed`, `unsupported-media-type`
   */
  updateComment(input: {
    /** The id of a comment. */
    id: string
    /** 1 to 500 characters as people count them; lines are fine */
    text: string
  }, options?: CallOptions & Conditional): Promise<Comment>

  /**
   * Delete a comment: `DELETE /v1/comments/{id}`.
   *
   * Deletes my comment, or a comment on my post. With replies it keeps its place, without text and author. Works without Redis. Then the count of comments follows later.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `not-yours`, `cross-site`, `not-found`, `version-changed`, `unsupported-media-type`
   */
  deleteComment(input: {
    /** The id of a comment. */
    id: string
  }, options?: CallOptions & Conditional): Promise<void>

  /**
   * Like a post: `PUT /v1/posts/{id}/like`.
   *
   * Repeated requests count once. Without Redis: 503, because it cannot be counted exactly.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  likePost(input: {
    /** The id of a post. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Whether I like it now. */
    liked: boolean
    /** The exact count. */
    likes: number
  }>

  /**
   * Remove my like of a post: `DELETE /v1/posts/{id}/like`.
   *
   * Repeated requests count once. Without Redis: 503, because it cannot be counted exactly.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  unlikePost(input: {
    /** The id of a post. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Whether I like it now. */
    liked: boolean
    /** The exact count. */
    likes: number
  }>

  /**
   * Like a comment: `PUT /v1/comments/{id}/like`.
   *
   * Repeated requests count once. Without Redis: 503, because it cannot be counted exactly.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  likeComment(input: {
    /** The id of a comment. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Whether I like it now. */
    liked: boolean
    /** The exact count. */
    likes: number
  }>

  /**
   * Remove my like of a comment: `DELETE /v1/comments/{id}/like`.
   *
   * Repeated requests count once. Without Redis: 503, because it cannot be counted exactly.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  unlikeComment(input: {
    /** The id of a comment. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Whether I like it now. */
    liked: boolean
    /** The exact count. */
    likes: number
  }>

  /**
   * List the posts of the users I follow, newest first: `GET /v1/feed`.
   *
   * Works without Redis. Then counts may be slightly old.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`
   */
  listFeed(input?: {
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<Post>

  /**
   * List posts recommended to me: `GET /v1/recommendations`.
   *
   * Posts with many likes, comments and views, younger posts first, and posts liked by users with a similar taste. Never my own posts, and none that I like already. A user without likes gets the hot feed. The list is refreshed every few minutes; counts are current. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`
   */
  listRecommendations(input?: {
    /** The most items to answer. */
    limit?: number
  }, options?: CallOptions): Promise<{
    items: Post[]
    /** Selects the next page. Null: this is the last one. */
    nextCursor: string | null
  }>

  /**
   * Search posts or users: `GET /v1/search`.
   *
   * Finds texts that contain all words of `q`. The last word may be a prefix. Case, accents, invisible characters and punctuation do not matter; `d` matches `đ`. Chinese, Japanese, Korean and Thai text matches any sequence of characters. The most relevant results come first; newer posts and users with more followers rank higher. Of more than 1 000 matches, only the newest are ranked. A new post is found after some seconds. Works without Redis. Then counts may be slightly old.
   *
   * @throws {Problem} `invalid-request`
   */
  search(input: {
    /** Words to find. */
    q: string
    /** What to find. */
    type?: "posts" | "users"
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<{
    post: Post
    snippets: {
      /** Parts of the text, in order. Matches are marked. Plain text, never HTML. */
      text: {
        text: string
        isMatch: boolean
      }[]
    }
  } | {
    user: User
    snippets: {
      /** Parts of the text, in order. Matches are marked. Plain text, never HTML. */
      username: {
        text: string
        isMatch: boolean
      }[]
      /** Parts of the text, in order. Matches are marked. Plain text, never HTML. */
      displayName: {
        text: string
        isMatch: boolean
      }[]
      /** Parts of the text, in order. Matches are marked. Plain text, never HTML. */
      bio: {
        text: string
        isMatch: boolean
      }[]
    }
  }>

  /**
   * List my notifications, newest first, with the unread count: `GET /v1/notifications`.
   *
   * Posts of users I follow, since I follow them; likes of my content, one notification for all likes of it; comments on my posts; replies to my comments; posts and comments that name me (`@name`); new followers. Nothing by users whom I mute, or whom a block hides. If the cause is undone, its notification disappears. Without Redis the answer comes from D1.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`
   */
  listNotifications(input?: {
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<Notification, {
    /** Counted among the newest notifications (INBOX_SIZE, by default 100) */
    unreadCount: number
  }>

  /**
   * Mark my notifications as read: all, or those up to a notification: `POST /v1/notifications/read`.
   *
   * Send `{}` for all. Repeating the request changes nothing. Later notifications are unread. Works without Redis. Then notifications may appear unread for some minutes.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `unsupported-media-type`
   */
  markNotificationsRead(input?: {
    /** The latest notification to mark. Without it: all. */
    until?: string
  }, options?: CallOptions): Promise<{
    /** Counted among the newest notifications (INBOX_SIZE, by default 100) */
    unreadCount: number
  }>

  /**
   * List the users whom I block, latest first: `GET /v1/users/me/blocks`.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`
   */
  listBlocks(input?: {
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<User>

  /**
   * List the users whom I mute, latest first: `GET /v1/users/me/mutes`.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`
   */
  listMutes(input?: {
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<User>

  /**
   * Block a user: `PUT /v1/users/{id}/block`.
   *
   * Neither of us sees the other: profiles, posts, comments, presence, events. Neither can follow, like or comment on the other, or is notified of the other. Follows between us end. What is hidden answers 404, for both of us. Likes and comments that exist stay, and count. Holds for my next request; in answers that another isolate has in memory, and on open streams, some seconds later; within a minute where Redis missed it. Works without Redis. Repeated requests change nothing.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  blockUser(input: {
    /** The id of a user. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Whether I block the user. */
    isBlocked: boolean
  }>

  /**
   * Unblock a user: `DELETE /v1/users/{id}/block`.
   *
   * Follows do not come back. If the user blocks me too, we stay hidden from each other. Holds for my next request; in answers that another isolate has in memory, and on open streams, some seconds later; within a minute where Redis missed it. Works without Redis. Repeated requests change nothing.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  unblockUser(input: {
    /** The id of a user. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Whether I block the user. */
    isBlocked: boolean
  }>

  /**
   * Mute a user: `PUT /v1/users/{id}/mute`.
   *
   * I get no notifications of the user, and see no posts of the user in my feed, the hot feed, recommendations and new posts on streams. Profiles, searches and comments still show them. The user does not learn it. Holds for my next request; in answers that another isolate has in memory, and on open streams, some seconds later; within a minute where Redis missed it. Works without Redis. Repeated requests change nothing.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  muteUser(input: {
    /** The id of a user. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Whether I mute the user. */
    isMuted: boolean
  }>

  /**
   * Unmute a user: `DELETE /v1/users/{id}/mute`.
   *
   * Holds for my next request; in answers that another isolate has in memory, and on open streams, some seconds later; within a minute where Redis missed it. Works without Redis. Repeated requests change nothing.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  unmuteUser(input: {
    /** The id of a user. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Whether I mute the user. */
    isMuted: boolean
  }>

  /**
   * Report that I am online: `POST /v1/presence/heartbeat`.
   *
   * Send it about every two minutes. After five minutes without a heartbeat, I am offline. A session is a device. Clients with several tabs send a `deviceId` per tab. Without Redis: 503; send the next heartbeat as usual.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `unsupported-media-type`
   */
  sendHeartbeat(input?: {
    /** One of my devices. The default is the session. */
    deviceId?: string
  }, options?: CallOptions): Promise<void>

  /**
   * Report that I leave: `DELETE /v1/presence`.
   *
   * I go offline with my last device. Without Redis: 503; I go offline after five minutes of silence.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `unsupported-media-type`
   */
  goOffline(input?: {
    /** One of my devices. The default is the session. */
    deviceId?: string
  }, options?: CallOptions): Promise<void>

  /**
   * List the users who are online, or read the presence of given users: `GET /v1/presence`.
   *
   * Without `ids`: the users who are online, latest first. With `ids`: up to 500 users, in the order of the ids, without unknown ones. Users who hide their presence from me, or whom a block hides, appear offline, never seen. Without Redis all users appear offline, with an earlier `lastSeenAt`.
   *
   * @throws {Problem} `invalid-request`
   */
  listPresence(input?: {
    /** At most 500 ids, separated by commas. */
    ids?: string[]
    /** The most items to answer. */
    limit?: number
  }, options?: CallOptions): Promise<{
    items: Presence[]
    nextCursor: null
  }>

  /**
   * Change who sees my presence: `PATCH /v1/presence`.
   *
   * Takes effect at once for all readers, with or without Redis. `nobody` takes me offline and deletes the time I was last seen.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `unsupported-media-type`
   */
  updatePresence(input: {
    visibility: "everyone" | "followers" | "nobody"
  }, options?: CallOptions): Promise<{
    visibility: "everyone" | "followers" | "nobody"
  }>

  /**
   * Sign in: `POST /v1/sessions`.
   *
   * The login is a username or a confirmed email address. Send the token as `Authorization: Bearer`. Browsers also get it as a cookie. If the request presents a session, sign-in ends that session. Without Redis: 503, because attempts cannot be counted.
   *
   * @throws {Problem} `invalid-request`, `wrong-credentials`, `suspended`, `cross-site`, `unsupported-media-type`
   */
  signIn(input: {
    login: string
    password: string
  }, options?: CallOptions): Promise<{
    /** Send it as `Authorization: Bearer`. */
    token: string
    /** When the session ends at the latest. */
    expiresAt: string
    user: OwnUser
  }>

  /**
   * List my devices: `GET /v1/sessions`.
   *
   * @throws {Problem} `not-signed-in`
   */
  listSessions(options?: CallOptions): Promise<{
    items: {
      id: string
      userAgent: string
      createdAt: string
      /** Accurate to a few minutes */
      lastSeenAt: string
      expiresAt: string
      isCurrent: boolean
    }[]
    nextCursor: null
  }>

  /**
   * Sign out everywhere: `DELETE /v1/sessions`.
   *
   * Ends all my sessions, including this one, everywhere. Works without Redis: the answer then takes `SESSION_RECHECK_SECONDS` (5 s).
   *
   * @throws {Problem} `not-signed-in`, `cross-site`, `unsupported-media-type`
   */
  signOutEverywhere(options?: CallOptions): Promise<void>

  /**
   * Sign out: `DELETE /v1/sessions/current`.
   *
   * Ends this session everywhere, and takes its device offline. Works without Redis: the answer then takes `SESSION_RECHECK_SECONDS` (5 s).
   *
   * @throws {Problem} `not-signed-in`, `cross-site`, `unsupported-media-type`
   */
  signOut(options?: CallOptions): Promise<void>

  /**
   * Change my password: `POST /v1/users/me/password`.
   *
   * Requires the old password. Ends my other sessions and keeps this one. A repeated request succeeds and changes nothing. Without Redis: 503, because attempts cannot be counted.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `wrong-password`, `cross-site`, `unsupported-media-type`
   */
  changePassword(input: {
    password: string
    newPassword: string
  }, options?: CallOptions): Promise<void>

  /**
   * Ask for a password reset: `POST /v1/password-resets`.
   *
   * Mails a link to this address, if an account has it. The link works once, for 30 minutes. Neither the answer nor its time shows whether an account has the address. Repeating the request sends another link. Without Redis: 503.
   *
   * @throws {Problem} `invalid-request`, `cross-site`, `unsupported-media-type`
   */
  requestPasswordReset(input: {
    email: string
  }, options?: CallOptions): Promise<{
  }>

  /**
   * Reset a password: `PUT /v1/password-resets`.
   *
   * Sets a new password with the token from the mail, and ends every session of the account. A token works once; a repeated request succeeds and changes nothing. Without Redis: 503, because attempts cannot be counted.
   *
   * @throws {Problem} `invalid-request`, `cross-site`, `token-expired`, `unsupported-media-type`
   */
  resetPassword(input: {
    token: string
    password: string
  }, options?: CallOptions): Promise<void>

  /**
   * Ask to confirm my email address: `POST /v1/email-verifications`.
   *
   * Mails a link to my address, if it is not confirmed yet. With `email` and `password`: to this address, which replaces mine once I confirm it. Whether another account has the address is not in the answer, only in the mail. Repeating the request sends another link.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `wrong-password`, `cross-site`, `unsupported-media-type`
   */
  requestEmailVerification(input?: {
    email?: string
    password?: string
  }, options?: CallOptions): Promise<{
  }>

  /**
   * Confirm an email address: `PUT /v1/email-verifications`.
   *
   * With the token from the mail, which is valid for a day and works once; a repeated request succeeds and changes nothing. No session is needed.
   *
   * @throws {Problem} `invalid-request`, `cross-site`, `taken`, `token-expired`, `unsupported-media-type`
   */
  verifyEmail(input: {
    token: string
  }, options?: CallOptions): Promise<void>

  /**
   * Read my limits: `GET /v1/rate-limit`.
   *
   * What remains of each policy, for the signed-in user or else the address. Spends no request of these policies. A token that is not valid, or whose session has ended, counts as none.
   */
  getRateLimits(options?: CallOptions): Promise<{
    items: {
      policy: string
      limit: number
      windowSeconds: number
      remaining: number
      resetsAt: string
    }[]
  }>

  /** Check that the Worker is alive: `GET /healthz`. */
  getHealth(options?: CallOptions): Promise<{
    status: "alive"
  }>

  /**
   * Check that D1 and Redis are up: `GET /readyz`.
   *
   * With the milliseconds of each. 503 if D1 or Redis is down. Reads work without Redis.
   */
  getReadiness(options?: CallOptions): Promise<{
    isReady: boolean
    redis: {
      isUp: boolean
      ms: number
    }
    d1: {
      isUp: boolean
      ms: number
    }
  }>

  /**
   * Report a post, a comment or a user: `POST /v1/reports`.
   *
   * For moderators. Each member reports a subject once: repeating the request answers the first report. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `not-signed-in`, `cross-site`, `not-found`, `unsupported-media-type`
   */
  createReport(input: {
    /** What the report is about: a post, a comment or a user. */
    subjectId: string
    reason: "spam" | "harassment" | "hate" | "violence" | "sexual" | "self-harm" | "illegal" | "other"
    /** 0 to 500 characters as people count them; lines are fine */
    text?: string
  }, options?: CallOptions): Promise<{
    id: string
    subjectId: string
    reason: "spam" | "harassment" | "hate" | "violence" | "sexual" | "self-harm" | "illegal" | "other"
    createdAt: string
  }>
}

export const MEMBER_OPERATIONS = {
  signUp: 'POST /v1/users body',
  getUsers: 'GET /v1/users',
  getUserByUsername: 'GET /v1/users/by-username/{username}',
  getUser: 'GET /v1/users/{id}',
  updateProfile: 'PATCH /v1/users/me body',
  deleteAccount: 'DELETE /v1/users/me body end',
  followUser: 'PUT /v1/users/{id}/follow',
  unfollowUser: 'DELETE /v1/users/{id}/follow',
  listFollowers: 'GET /v1/users/{id}/followers pages',
  listFollowings: 'GET /v1/users/{id}/followings pages',
  exportAccount: 'GET /v1/users/me/export bytes',
  listUserPosts: 'GET /v1/users/{id}/posts pages',
  createPost: 'POST /v1/posts body key',
  getPosts: 'GET /v1/posts',
  listHotPosts: 'GET /v1/posts/hot',
  getPost: 'GET /v1/posts/{id}',
  updatePost: 'PATCH /v1/posts/{id} body',
  deletePost: 'DELETE /v1/posts/{id}',
  recordView: 'POST /v1/posts/{id}/views again',
  listComments: 'GET /v1/posts/{id}/comments pages',
  createComment: 'POST /v1/posts/{id}/comments body key',
  listReplies: 'GET /v1/comments/{id}/replies pages',
  updateComment: 'PATCH /v1/comments/{id} body',
  deleteComment: 'DELETE /v1/comments/{id}',
  likePost: 'PUT /v1/posts/{id}/like',
  unlikePost: 'DELETE /v1/posts/{id}/like',
  likeComment: 'PUT /v1/comments/{id}/like',
  unlikeComment: 'DELETE /v1/comments/{id}/like',
  listFeed: 'GET /v1/feed pages',
  listRecommendations: 'GET /v1/recommendations',
  search: 'GET /v1/search pages',
  listNotifications: 'GET /v1/notifications pages',
  markNotificationsRead: 'POST /v1/notifications/read body again',
  listBlocks: 'GET /v1/users/me/blocks pages',
  listMutes: 'GET /v1/users/me/mutes pages',
  blockUser: 'PUT /v1/users/{id}/block',
  unblockUser: 'DELETE /v1/users/{id}/block',
  muteUser: 'PUT /v1/users/{id}/mute',
  unmuteUser: 'DELETE /v1/users/{id}/mute',
  sendHeartbeat: 'POST /v1/presence/heartbeat again',
  goOffline: 'DELETE /v1/presence',
  listPresence: 'GET /v1/presence',
  updatePresence: 'PATCH /v1/presence body again',
  signIn: 'POST /v1/sessions session body',
  listSessions: 'GET /v1/sessions bare',
  signOutEverywhere: 'DELETE /v1/sessions bare end',
  signOut: 'DELETE /v1/sessions/current bare end',
  changePassword: 'POST /v1/users/me/password body',
  requestPasswordReset: 'POST /v1/password-resets body',
  resetPassword: 'PUT /v1/password-resets body',
  requestEmailVerification: 'POST /v1/email-verifications body',
  verifyEmail: 'PUT /v1/email-verifications body',
  getRateLimits: 'GET /v1/rate-limit bare',
  getHealth: 'GET /healthz bare',
  getReadiness: 'GET /readyz bare',
  createReport: 'POST /v1/reports body',
} satisfies Record<keyof MemberApi, string>

/** What services can do. */
export interface ServiceApi {
  /**
   * Publish an event: `POST /v1/events`.
   *
   * The API stores the event, then delivers it to webhooks, listeners and streams, at least once each. Events on our channels must match the schema of their type. Channels that begin with `custom_` accept any type and data; only webhooks receive these events, unless you set `audience`. `counter_update` and `user_status_change` are hints: they have no `sequence`, and of several waiting ones about the same only the latest is delivered. Repeating a request with the same `id` changes nothing. Also takes a CloudEvent as SDKs send it in structured mode, with `channel` as an extension attribute. The API keeps `id`, `type`, `subject`, `data`, `channel` and `audience`, and ignores other attributes, such as `source` and `time`: the event gets the source of the API and the time of its publication. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `unsupported-media-type`, `event-id-reused`
   */
  publishEvent(input: {
    /** One of our channels, or `custom_` and a name of your own. */
    channel: string
    /** What happened. */
    type: string
    /** On our channels: the data of the type. Elsewhere: any object. */
    data: Record<string, unknown>
    /** Chosen by you. Repeating a request with the same id changes nothing. */
    id?: string
    /** What the event is about. The default is the type, or on our channels the id in the data. */
    subject?: string
    audience?: "everyone" | "followers" | "services" | string[]
  }, options?: CallOptions): Promise<{
    id: string
  }>

  /**
   * Rebuild the data of a listener from D1: `POST /v1/listeners/{name}/rebuild`.
   *
   * The queue does the work step by step after the answer. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  rebuildListener(input: {
    /** The name of a listener. */
    name: string
  }, options?: CallOptions): Promise<{
    listener: string
  }>

  /**
   * Add a webhook: `POST /v1/webhooks`.
   *
   * The API sends a challenge at once: `POST { "type": "endpoint.challenge", "challenge": "…" }`. The endpoint must answer 200 with `{ "challenge": "…" }`; before that it receives nothing else. A delivery is a CloudEvent with the headers of Standard Webhooks (standardwebhooks.com), signed with the secret. If a request caused the event, the delivery also has `traceparent` (W3C Trace Context). The maximum is 1 000 webhooks, or `WEBHOOK_MAX_ENDPOINTS`. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `too-many-webhooks`, `unsupported-media-type`
   */
  createWebhook(input: {
    /** https, on a public host, port 443 or 8443 */
    url: string
    channels: string[]
    /** Null: every type of the channels */
    types?: string[] | null
    /** Conditions by the path of a field. All must hold: `{ "data.authorId": "u_1", "type": ["a", "b"], "data.value": { "gte": 100 } }`. A path is `subject`, `type`, `channel`, or `data.` and up to five names; a condition is a value, a list of values, or an object of gt, gte, lt, lte, not, exists. */
    filter?: Record<string, string | number | boolean | null | (string | number | boolean | null)[] | {
      gt?: number
      gte?: number
      lt?: number
      lte?: number
      exists?: boolean
      not?: string | number | boolean | null
    }> | null
    /** 0 to 200 characters as people count them; one line */
    description?: string
    /** Sent with every delivery, for example `Authorization`. The API never shows their values again. */
    headers?: Record<string, string>
    /** Whose people may see and manage the endpoint in a portal. Null: nobody. */
    tenant?: string | null
    /** Choose it yourself to verify the challenge too. Otherwise the API creates one. */
    secret?: string
  }, options?: CallOptions): Promise<{
    /** Sorts by time. */
    id: string
    /** Where deliveries go. */
    url: string
    /** The channels it subscribes to. */
    channels: string[]
    /** The types it accepts. Null: every type of the channels. */
    types: string[] | null
    /** What its events must match. Null: nothing. */
    filter: Record<string, unknown> | null
    /** A note of its owner. */
    description: string
    /** The names of its headers. Values are never shown. */
    headerNames: string[]
    /** Only an enabled endpoint receives events. */
    status: "unverified" | "enabled" | "paused" | "disabled"
    /** It answered 410, or failed for days. */
    disabledReason: "gone" | "failing" | null
    /** Null: its last attempt succeeded. */
    failingSince: string | null
    /** Until then, deliveries are signed with the previous secret too. */
    previousSecretUntil: string | null
    /** Whose people may manage it. Null: nobody. */
    tenant: string | null
    /** When it was added. */
    createdAt: string
    /** When it last changed. */
    updatedAt: string
    /** The API shows it only this once */
    secret: string
    challenge: Attempt
  }>

  /**
   * List webhooks: `GET /v1/webhooks`.
   *
   * Newest first, each with its health. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`
   */
  listWebhooks(input?: {
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
    /** Only endpoints of this tenant. */
    tenant?: string
  }, options?: CallOptions): Pages<ListedWebhook>

  /**
   * Read a webhook: `GET /v1/webhooks/{id}`.
   *
   * Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`
   */
  getWebhook(input: {
    /** The id of a webhook. */
    id: string
  }, options?: CallOptions): Promise<Webhook>

  /**
   * Change a webhook: `PATCH /v1/webhooks/{id}`.
   *
   * Changes the given fields. A new URL must answer a challenge first; the API sends it at once. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  updateWebhook(input: {
    /** The id of a webhook. */
    id: string
    /** https, on a public host, port 443 or 8443 */
    url?: string
    channels?: string[]
    /** Null: every type of the channels */
    types?: string[] | null
    /** Conditions by the path of a field. All must hold: `{ "data.authorId": "u_1", "type": ["a", "b"], "data.value": { "gte": 100 } }`. A path is `subject`, `type`, `channel`, or `data.` and up to five names; a condition is a value, a list of values, or an object of gt, gte, lt, lte, not, exists. */
    filter?: Record<string, string | number | boolean | null | (string | number | boolean | null)[] | {
      gt?: number
      gte?: number
      lt?: number
      lte?: number
      exists?: boolean
      not?: string | number | boolean | null
    }> | null
    /** 0 to 200 characters as people count them; one line */
    description?: string
    /** Sent with every delivery, for example `Authorization`. The API never shows their values again. */
    headers?: Record<string, string>
    /** Whose people may see and manage the endpoint in a portal. Null: nobody. */
    tenant?: string | null
  }, options?: CallOptions): Promise<{
    /** Sorts by time. */
    id: string
    /** Where deliveries go. */
    url: string
    /** The channels it subscribes to. */
    channels: string[]
    /** The types it accepts. Null: every type of the channels. */
    types: string[] | null
    /** What its events must match. Null: nothing. */
    filter: Record<string, unknown> | null
    /** A note of its owner. */
    description: string
    /** The names of its headers. Values are never shown. */
    headerNames: string[]
    /** Only an enabled endpoint receives events. */
    status: "unverified" | "enabled" | "paused" | "disabled"
    /** It answered 410, or failed for days. */
    disabledReason: "gone" | "failing" | null
    /** Null: its last attempt succeeded. */
    failingSince: string | null
    /** Until then, deliveries are signed with the previous secret too. */
    previousSecretUntil: string | null
    /** Whose people may manage it. Null: nobody. */
    tenant: string | null
    /** When it was added. */
    createdAt: string
    /** When it last changed. */
    updatedAt: string
    challenge?: Attempt
  }>

  /**
   * Delete a webhook: `DELETE /v1/webhooks/{id}`.
   *
   * Its pending deliveries are discarded. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  deleteWebhook(input: {
    /** The id of a webhook. */
    id: string
  }, options?: CallOptions): Promise<void>

  /**
   * Rotate the secret of a webhook: `POST /v1/webhooks/{id}/rotate`.
   *
   * For 24 hours, deliveries are signed with the new and the previous secret. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  rotateWebhookSecret(input: {
    /** The id of a webhook. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Sorts by time. */
    id: string
    /** Where deliveries go. */
    url: string
    /** The channels it subscribes to. */
    channels: string[]
    /** The types it accepts. Null: every type of the channels. */
    types: string[] | null
    /** What its events must match. Null: nothing. */
    filter: Record<string, unknown> | null
    /** A note of its owner. */
    description: string
    /** The names of its headers. Values are never shown. */
    headerNames: string[]
    /** Only an enabled endpoint receives events. */
    status: "unverified" | "enabled" | "paused" | "disabled"
    /** It answered 410, or failed for days. */
    disabledReason: "gone" | "failing" | null
    /** Null: its last attempt succeeded. */
    failingSince: string | null
    /** Until then, deliveries are signed with the previous secret too. */
    previousSecretUntil: string | null
    /** Whose people may manage it. Null: nobody. */
    tenant: string | null
    /** When it was added. */
    createdAt: string
    /** When it last changed. */
    updatedAt: string
    /** The API shows it only this once */
    secret: string
  }>

  /**
   * Pause a webhook: `POST /v1/webhooks/{id}/pause`.
   *
   * The API stores later events and delivers them when you enable the webhook again. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `webhook-not-enabled`, `unsupported-media-type`
   */
  pauseWebhook(input: {
    /** The id of a webhook. */
    id: string
  }, options?: CallOptions): Promise<Webhook>

  /**
   * Enable a webhook: `POST /v1/webhooks/{id}/enable`.
   *
   * Sends the challenge again, and enables the webhook if the endpoint answers it. Then pending deliveries are sent. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`, `challenge-failed`
   */
  enableWebhook(input: {
    /** The id of a webhook. */
    id: string
  }, options?: CallOptions): Promise<Webhook>

  /**
   * Send a sample to a webhook: `POST /v1/webhooks/{id}/test`.
   *
   * One signed event of type `webhook_test`, without retries. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `webhook-not-enabled`, `unsupported-media-type`
   */
  testWebhook(input: {
    /** The id of a webhook. */
    id: string
  }, options?: CallOptions): Promise<{
    /** When it began. */
    at: string
    /** How long it took. */
    durationMs: number
    /** The HTTP status. Null: no answer */
    status: number | null
    /** Why there was no answer. */
    error: string | null
    /** The first KB of the answer */
    answer: string | null
    /** `content-type`, `location`, `retry-after`, `server` and `x-request-id` of the answer. Null: no answer, or not recorded. */
    answerHeaders: Record<string, string> | null
    isDelivered: boolean
    sample: Record<string, unknown>
  }>

  /**
   * List the deliveries of a webhook: `GET /v1/webhooks/{id}/deliveries`.
   *
   * Newest first, with every attempt. A delivery is dead after its last retry. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`
   */
  listDeliveries(input: {
    /** The id of a webhook. */
    id: string
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
    /** Only deliveries with this status. */
    status?: "pending" | "delivered" | "dead"
  }, options?: CallOptions): Pages<Delivery>

  /**
   * Replay the events that a webhook missed: `POST /v1/webhooks/{id}/replay`.
   *
   * Delivers matching events since that time that are dead or were never stored for the webhook, under the same `webhook-id`. With `includeDelivered`, delivered events too. Events expire after EVENT_DAYS. The queue does the work after the answer. Safe to repeat. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `webhook-not-enabled`, `unsupported-media-type`
   */
  replayMissedEvents(input: {
    /** The id of a webhook. */
    id: string
    since: string
    includeDelivered?: boolean
  }, options?: CallOptions): Promise<{
    webhookId: string
    since: string
  }>

  /**
   * Read a delivery: `GET /v1/deliveries/{id}`.
   *
   * With every attempt and the request. Values of secret headers are null. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`
   */
  getDelivery(input: {
    /** The id of a delivery. */
    id: string
  }, options?: CallOptions): Promise<{
    /** Sorts by time. */
    id: string
    /** The endpoint. */
    webhookId: string
    /** Also the `webhook-id` */
    eventId: string
    /** Null: the event has expired */
    type: string | null
    /** Dead: its last retry failed. */
    status: "pending" | "delivered" | "dead"
    /** The oldest first. */
    attempts: Attempt[]
    /** What the endpoint receives. */
    request: {
      /** The URL of the endpoint now. */
      url: string
      /** Of the last attempt. Null: the value is secret. */
      headers: Record<string, string | null>
      /** Null: the event has expired, or nobody may see it, such as a message to a user. */
      body: string | null
    }
  }>

  /**
   * Replay a delivery: `POST /v1/deliveries/{id}/replay`.
   *
   * Delivers the event again under the same `webhook-id`, with a new retry schedule. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `webhook-not-enabled`, `event-gone`, `unsupported-media-type`
   */
  replayDelivery(input: {
    /** The id of a delivery. */
    id: string
  }, options?: CallOptions): Promise<{
    id: string
  }>

  /**
   * Create a link to the webhooks of a tenant: `POST /v1/webhooks/portal-links`.
   *
   * Opens the dashboard with the endpoints of that tenant only: its people can add, verify, test, pause, enable, rotate and delete them, see their deliveries and replay them. The link ends at `expiresAt`, and when the service token that made it is revoked or rotated. Nothing is stored, so repeating the request is safe. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `unsupported-media-type`
   */
  createPortalLink(input: {
    /** Whose endpoints the link shows. */
    tenant: string
    /** How long the link works, and the sessions that it begins. */
    expiresInSeconds?: number
  }, options?: CallOptions): Promise<{
    /** The page. Its fragment has the token, which no server logs. */
    url: string
    /** When the link and its sessions end. */
    expiresAt: string
  }>

  /**
   * Acquire a lock: `POST /v1/locks/{name}`.
   *
   * The lock lasts `ttlMs`. The request tries for up to `waitMs`. Write with the `fence`, and let your storage refuse lower fences: your lock may expire while you work. To repeat a request safely after a lost answer, choose the `owner` yourself (random and secret): the same owner gets the same lock. Without Redis: 503.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `lock-held`, `unsupported-media-type`
   */
  acquireLock(input: {
    /** The name of the lock. */
    name: string
    ttlMs?: number
    waitMs?: number
    /** Who holds the lock: random and secret. */
    owner?: string
  }, options?: CallOptions): Promise<Lock>

  /**
   * Extend a lock: `PATCH /v1/locks/{name}`.
   *
   * The lock lasts `ttlMs` from now. 409 if the owner does not hold it. Without Redis: 503.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `lock-lost`, `unsupported-media-type`
   */
  extendLock(input: {
    /** The name of the lock. */
    name: string
    /** Who holds the lock: random and secret. */
    owner: string
    ttlMs?: number
  }, options?: CallOptions): Promise<Lock>

  /**
   * Release a lock: `DELETE /v1/locks/{name}`.
   *
   * 204 also if no owner holds it. 409 if another owner holds it. Without Redis: 503; the lock expires.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `lock-lost`, `unsupported-media-type`
   */
  releaseLock(input: {
    /** The name of the lock. */
    name: string
    /** Who holds the lock: random and secret. */
    owner: string
  }, options?: CallOptions): Promise<void>

  /**
   * Invalidate caches after a change in the database: `POST /v1/cache/invalidate`.
   *
   * For back ends that write the database themselves. The next read loads profiles and texts from D1, and the counts of the posts are set to those of D1. Isolates may answer from memory for some seconds. Safe to repeat. Without Redis: 503, and caches keep old values until they expire.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `unsupported-media-type`
   */
  invalidateCache(input?: {
    users?: string[]
    posts?: string[]
    hot?: boolean
  }, options?: CallOptions): Promise<void>

  /**
   * Read all figures: `GET /v1/stats`.
   *
   * For services, and for the dashboard. Figures and series cover the last `minutes`, and up to five more. The series has steps of ten seconds. Isolates report about every ten seconds, so the last step still grows. An unavailable part is null, and `unavailable` names it. Without Redis: the figures of this isolate, and those that D1 has from before, in steps of a minute.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`
   */
  getStats(input?: {
    /** How many minutes the figures cover. */
    minutes?: number
    /** Answers only later steps of the series (Unix seconds). */
    seriesFrom?: number
  }, options?: CallOptions): Promise<Stats>

  /**
   * Read the history of a route: `GET /v1/stats/route`.
   *
   * Requests, errors, latency and Redis commands by the minute, from D1, which has them up to the last minute. For `CRON` and queues too. Works without Redis. A route without requests has columns of 0 and null.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`
   */
  getRouteStats(input: {
    /** As `/v1/stats` names it: `GET /v1/posts/:id`. */
    route: string
    /** How many minutes the figures cover. */
    minutes?: number
  }, options?: CallOptions): Promise<RouteStats>

  /**
   * Read all figures, for Prometheus: `GET /metrics`.
   *
   * For services. By `Accept`: OpenMetrics 1.0, or the text format of Prometheus 0.0.4, which is the default. Counters cover all isolates. Without Redis the counters are absent.
   *
   * @throws {Problem} `service-token-required`, `scope-required`
   */
  getMetrics(options?: CallOptions): Promise<string>

  /**
   * Purge expired data now: `POST /v1/maintenance`.
   *
   * For services. The cron does the same each minute. `hasMore`: more is expired than one request purges. A failed purge fails alone: without Redis, expired rows in D1 are purged anyway.
   *
   * @throws {Problem} `service-token-required`, `scope-required`, `unsupported-media-type`
   */
  purgeExpiredData(options?: CallOptions): Promise<{
    purged: {
      name: string
      isDone: boolean
      removed: number
      hasMore: boolean
    }[]
  }>

  /**
   * List reports: `GET /v1/moderation/reports`.
   *
   * Newest first. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`
   */
  listReports(input?: {
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
    /** What has become of the reports. */
    status?: "open" | "dismissed" | "acted"
  }, options?: CallOptions): Pages<Report>

  /**
   * Resolve the open reports about a subject: `POST /v1/moderation/reports/resolve`.
   *
   * At most 500 at once. `hasMore`: repeat the request. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `unsupported-media-type`
   */
  resolveReports(input: {
    /** The id of a post, a comment or a user. */
    subjectId: string
    /** Whether a moderator did something about it. */
    outcome: "dismissed" | "acted"
    /** Why. The log keeps it. */
    note: string
  }, options?: CallOptions): Promise<{
    resolved: number
    hasMore: boolean
  }>

  /**
   * Read a post or comment, also if it is taken down: `GET /v1/moderation/contents/{id}`.
   *
   * Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`
   */
  getModeratedContent(input: {
    /** The id of a post or a comment. */
    id: string
  }, options?: CallOptions): Promise<ModeratedContent>

  /**
   * Take a post or comment down: `PUT /v1/moderation/takedowns/{id}`.
   *
   * It is gone from every answer, feed, search, count and stream, as if its author had deleted it. Isolates may show it from memory for some seconds. Everyone sees `post_deleted` or `comment_deleted`; services also `content_taken_down`. Works without Redis; then caches and sessions follow later.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  takeDownContent(input: {
    /** The id of a post or a comment. */
    id: string
    /** Why. The log keeps it. */
    note: string
  }, options?: CallOptions): Promise<ModeratedContent>

  /**
   * Restore a post or comment that was taken down: `DELETE /v1/moderation/takedowns/{id}`.
   *
   * With its likes and comments, and exact counts. Everyone sees `post_created` or `comment_created` again; services also `content_restored`. Works without Redis; then caches and sessions follow later.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  restoreContent(input: {
    /** The id of a post or a comment. */
    id: string
    /** Why. The log keeps it. */
    note: string
  }, options?: CallOptions): Promise<ModeratedContent>

  /**
   * Suspend an account: `PUT /v1/moderation/suspensions/{id}`.
   *
   * Its sessions end, and it cannot sign in. What it wrote stays. Works without Redis; then caches and sessions follow later.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  suspendUser(input: {
    /** The id of a user. */
    id: string
    /** Why. The log keeps it. */
    note: string
  }, options?: CallOptions): Promise<void>

  /**
   * Reinstate an account: `DELETE /v1/moderation/suspensions/{id}`.
   *
   * It can sign in again. Succeeds if it is not suspended. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  reinstateUser(input: {
    /** The id of a user. */
    id: string
    /** Why. The log keeps it. */
    note: string
  }, options?: CallOptions): Promise<void>

  /**
   * List what moderators did: `GET /v1/moderation/log`.
   *
   * Newest first, with the token of each. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`
   */
  listModerationLog(input?: {
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<ModerationLogEntry>

  /**
   * Create a service token: `POST /v1/service-tokens`.
   *
   * For one back end, with the scopes it needs. D1 keeps a hash: no later answer has the token. If this answer was lost, repeating the request answers 409; then rotate the token. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `taken`, `unsupported-media-type`
   */
  createServiceToken(input: {
    /** Who uses the token. Names are unique. */
    name: string
    /** What the token may do. */
    scopes: ("backup" | "cache:invalidate" | "events:publish" | "events:read" | "locks" | "mail" | "maintenance" | "moderation" | "stats:read" | "webhooks:manage")[]
  }, options?: CallOptions): Promise<{
    /** Sorts by time. */
    id: string
    /** Who uses the token. */
    name: string
    /** What the token may do. */
    scopes: string[]
    /** When it was created. */
    createdAt: string
    /** When the current secret was made. Null: with the token. */
    rotatedAt: string | null
    /** Until when a previous secret works. Null: none does. */
    previousUntil: string | null
    /** Accurate to ten minutes. Null: never. */
    lastUsedAt: string | null
    /** The bearer token: `st_…`. No later answer has it. */
    token: string
  }>

  /**
   * List service tokens: `GET /v1/service-tokens`.
   *
   * Newest first, without `SERVICE_TOKEN`. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`
   */
  listServiceTokens(input?: {
    /** The most items to answer. */
    limit?: number
    /** The `nextCursor` of the page before. */
    cursor?: string
  }, options?: CallOptions): Pages<ServiceToken>

  /**
   * Rotate a service token: `POST /v1/service-tokens/{id}/rotate`.
   *
   * Answers a token with a new secret. The previous one works for `overlapSeconds` more (a day), so that you can replace it without downtime. Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  rotateServiceToken(input: {
    /** The id of a service token. */
    id: string
    /** How long the previous secrets still work. 0: not at all, for a secret that leaked. */
    overlapSeconds?: number
  }, options?: CallOptions): Promise<{
    /** Sorts by time. */
    id: string
    /** Who uses the token. */
    name: string
    /** What the token may do. */
    scopes: string[]
    /** When it was created. */
    createdAt: string
    /** When the current secret was made. Null: with the token. */
    rotatedAt: string | null
    /** Until when a previous secret works. Null: none does. */
    previousUntil: string | null
    /** Accurate to ten minutes. Null: never. */
    lastUsedAt: string | null
    /** The bearer token: `st_…`. No later answer has it. */
    token: string
  }>

  /**
   * Revoke a service token: `DELETE /v1/service-tokens/{id}`.
   *
   * It stops working within `SERVICE_TOKEN_SECONDS` (30 s) everywhere. While D1 does not answer, isolates that know the token accept it for up to ten minutes. Its streams end with their next check (60 s). Works without Redis.
   *
   * @throws {Problem} `invalid-request`, `service-token-required`, `scope-required`, `not-found`, `unsupported-media-type`
   */
  revokeServiceToken(input: {
    /** The id of a service token. */
    id: string
  }, options?: CallOptions): Promise<void>
}

export const SERVICE_OPERATIONS = {
  publishEvent: 'POST /v1/events body fill:id',
  rebuildListener: 'POST /v1/listeners/{name}/rebuild',
  createWebhook: 'POST /v1/webhooks body',
  listWebhooks: 'GET /v1/webhooks pages',
  getWebhook: 'GET /v1/webhooks/{id}',
  updateWebhook: 'PATCH /v1/webhooks/{id} body',
  deleteWebhook: 'DELETE /v1/webhooks/{id}',
  rotateWebhookSecret: 'POST /v1/webhooks/{id}/rotate',
  pauseWebhook: 'POST /v1/webhooks/{id}/pause',
  enableWebhook: 'POST /v1/webhooks/{id}/enable',
  testWebhook: 'POST /v1/webhooks/{id}/test',
  listDeliveries: 'GET /v1/webhooks/{id}/deliveries pages',
  replayMissedEvents: 'POST /v1/webhooks/{id}/replay body',
  getDelivery: 'GET /v1/deliveries/{id}',
  replayDelivery: 'POST /v1/deliveries/{id}/replay',
  createPortalLink: 'POST /v1/webhooks/portal-links body',
  acquireLock: 'POST /v1/locks/{name} body fill:owner',
  extendLock: 'PATCH /v1/locks/{name} body',
  releaseLock: 'DELETE /v1/locks/{name}',
  invalidateCache: 'POST /v1/cache/invalidate body again',
  getStats: 'GET /v1/stats',
  getRouteStats: 'GET /v1/stats/route',
  getMetrics: 'GET /metrics text bare',
  purgeExpiredData: 'POST /v1/maintenance bare',
  listReports: 'GET /v1/moderation/reports pages',
  resolveReports: 'POST /v1/moderation/reports/resolve body',
  getModeratedContent: 'GET /v1/moderation/contents/{id}',
  takeDownContent: 'PUT /v1/moderation/takedowns/{id} body',
  restoreContent: 'DELETE /v1/moderation/takedowns/{id} body',
  suspendUser: 'PUT /v1/moderation/suspensions/{id} body',
  reinstateUser: 'DELETE /v1/moderation/suspensions/{id} body',
  listModerationLog: 'GET /v1/moderation/log pages',
  createServiceToken: 'POST /v1/service-tokens body',
  listServiceTokens: 'GET /v1/service-tokens pages',
  rotateServiceToken: 'POST /v1/service-tokens/{id}/rotate body',
  revokeServiceToken: 'DELETE /v1/service-tokens/{id}',
} satisfies Record<keyof ServiceApi, string>
