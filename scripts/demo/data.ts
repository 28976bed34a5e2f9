import { faker } from '@faker-js/faker/locale/en'
import { ulid } from 'ulid'
import type * as schema from '../../src/db/schema.ts'
import { bioText, commentText, postText } from './text.ts'

export type Demo = ReturnType<typeof generateDemo>

/** The password of every demo user. */
export const DEMO_PASSWORD = 'correct-horse-battery'

/** scrypt of that password with a fixed salt, precomputed: hashing per user would take a minute. */
const PASSWORD_HASH = 'scrypt$16384$8$5$G8UmNg2u1pjK2xqkO2RyIQ$Hb5Oa9X6-vZCNEEJWUZlMn8AcAiplSj5EQjFUJKnVCE'

/** The usernames of the most popular users, most followers first. faker names the others. */
export const FAMOUS = [
  'ada',
  'bob',
  'carol',
  'dave',
  'erin',
  'frank',
  'grace',
  'heidi',
  'ivan',
  'judy',
  'mallory',
  'trent',
]

const SIZES = { users: 200, posts: 5_000, comments: 10_000 }
const SEED = 20_260_401
const MINUTE_MS = 60_000
const DAY_MS = 86_400_000

/**
 * Generates users, posts, comments, likes and follows. Every call returns the same data, with times relative to `now`
 * (Unix ms). Popularity follows Zipf's law. `share`: of the posts, comments and likes; all users are there.
 *
 * Rows are in the order of their ids, without counts: the triggers of the database maintain those.
 */
export function generateDemo(now: number, share = 1) {
  faker.seed(SEED)
  const random = () => faker.number.float()
  const newId = (kind: string, time: number) => `${kind}_${ulid(time, random).toLowerCase()}`

  const users = oldestFirst(SIZES.users, () => between(60 * DAY_MS, 700 * DAY_MS)).map((ageMs, i) => {
    const createdAt = now - ageMs
    const firstName = FAMOUS[i] ?? faker.person.firstName()
    const lastName = faker.person.lastName()
    // numbered, because two users can have the same name
    const username =
      FAMOUS[i] ??
      `${firstName}_${lastName}`
        .toLowerCase()
        .replaceAll(/[^a-z_]/g, '')
        .slice(0, 26) + i
    return {
      id: newId('u', createdAt),
      username,
      email: `${username}@example.com`,
      passwordHash: PASSWORD_HASH,
      displayName: `${firstName.charAt(0).toUpperCase()}${firstName.slice(1)} ${lastName}`,
      bio: bioText(),
      createdAt,
      updatedAt: createdAt,
    } satisfies typeof schema.users.$inferInsert
  })
  const ids = users.map((user) => user.id)

  /** A random user. Popular users are more likely. */
  const someone = () => at(ids, zipfRank(ids.length, 20))

  // Half of the posts are from the last seven days, the window of the hot feed.
  const posts = oldestFirst(SIZES.posts * share, () => MINUTE_MS + Math.floor(30 * DAY_MS * random() ** 2.2)).map(
    (ageMs) => {
      const createdAt = now - ageMs
      return {
        id: newId('p', createdAt),
        authorId: someone(),
        text: postText(),
        createdAt,
        updatedAt: createdAt,
      } satisfies typeof schema.posts.$inferInsert
    },
  )
  const postsByPopularity = faker.helpers.shuffle(posts)

  const postLikes = postsByPopularity.flatMap((post, rank) =>
    others(ids, post.authorId, zipf(rank, 188 * share, 26)).map(
      (userId) =>
        ({
          postId: post.id,
          userId,
          isLiked: true,
          changedAt: soonAfter(post.createdAt, now),
        }) satisfies typeof schema.postLikes.$inferInsert,
    ),
  )

  const comments = Array.from({ length: SIZES.comments * share }, () => {
    const post = at(postsByPopularity, zipfRank(posts.length, 26))
    return { post, createdAt: soonAfter(post.createdAt, now) }
  })
    .sort((a, b) => a.createdAt - b.createdAt)
    .map(
      ({ post, createdAt }) =>
        ({
          id: newId('c', createdAt),
          postId: post.id,
          authorId: someone(),
          text: commentText(),
          createdAt,
        }) satisfies typeof schema.comments.$inferInsert,
    )

  const commentLikes = faker.helpers.shuffle(comments).flatMap((comment, rank) =>
    others(ids, comment.authorId, zipf(rank, 80 * share, 10)).map(
      (userId) =>
        ({
          commentId: comment.id,
          userId,
          isLiked: true,
          changedAt: soonAfter(comment.createdAt, now),
        }) satisfies typeof schema.commentLikes.$inferInsert,
    ),
  )

  const follows = ids
    .flatMap((followedId, rank) =>
      others(ids, followedId, zipf(rank, 170, 10)).map((followerId) => ({
        followerId,
        followedId,
        createdAt: now - between(MINUTE_MS, 55 * DAY_MS),
      })),
    )
    .sort((a, b) => a.createdAt - b.createdAt)
    .map(
      ({ followerId, followedId, createdAt }) =>
        ({ id: newId('f', createdAt), followerId, followedId, createdAt }) satisfies typeof schema.follows.$inferInsert,
    )

  return { users, posts, follows, postLikes, comments, commentLikes }
}

/** Zipf's law: the value at `rank` (from 0) when the first has `top`. The rank `flat` has half of it. */
const zipf = (rank: number, top: number, flat: number) => Math.round(top / (1 + rank / flat))

/** A random rank below `count`, distributed by that law. */
const zipfRank = (count: number, flat: number) =>
  Math.floor(flat * ((count + flat) / flat) ** faker.number.float() - flat)

const between = (min: number, max: number) => faker.number.int({ min, max })

const oldestFirst = (count: number, newAgeMs: () => number) =>
  Array.from({ length: count }, newAgeMs).sort((a, b) => b - a)

/** Picks `count` of `ids`, without `self`. */
const others = (ids: string[], self: string, count: number) =>
  faker.helpers
    .arrayElements(ids, count + 1)
    .filter((id) => id !== self)
    .slice(0, count)

/** A random time between the two, more likely near the first. */
const soonAfter = (start: number, now: number) => start + Math.floor((now - start) * faker.number.float() ** 3)

function at<T>(items: T[], index: number): T {
  const item = items[index]
  if (item === undefined) throw new Error(`there is no item ${index} of ${items.length}`)
  return item
}
