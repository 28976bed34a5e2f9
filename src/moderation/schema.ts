import * as v from 'valibot'
import { id, pageQuery, Time, written } from '../http/input.ts'

const SubjectId = v.pipe(
  v.string(),
  v.regex(/^[pcu]_[a-z0-9]{1,40}$/, 'must be the id of a post, a comment or a user'),
  v.description('The id of a post, a comment or a user.'),
)
const ContentId = v.pipe(
  v.string(),
  v.regex(/^[pc]_[a-z0-9]{1,40}$/, 'must be the id of a post or a comment'),
  v.description('The id of a post or a comment.'),
)

const Reason = v.picklist(['spam', 'harassment', 'hate', 'violence', 'sexual', 'self-harm', 'illegal', 'other'])
const Status = v.picklist(['open', 'dismissed', 'acted'])
const note = v.pipe(written({ max: 500, isLong: true }), v.description('Why. The log keeps it.'))

export const NewReport = v.strictObject({
  subjectId: v.pipe(SubjectId, v.description('What the report is about: a post, a comment or a user.')),
  reason: Reason,
  text: v.optional(written({ max: 500, isLong: true, isOptional: true }), ''),
})
export type NewReport = v.InferOutput<typeof NewReport>

/** What the reporter sees. */
export const Reported = v.pipe(
  v.object({ id: v.string(), subjectId: v.string(), reason: Reason, createdAt: Time }),
  v.description('The report, or the first one of the member about this subject.'),
)

export const Report = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time.')),
    subjectId: v.pipe(v.string(), v.description('What it is about.')),
    reason: v.pipe(Reason, v.description('Why.')),
    createdAt: v.pipe(Time, v.description('When.')),
    reporterId: v.pipe(v.string(), v.description('Who reported it.')),
    text: v.pipe(v.string(), v.description('The text.')),
    status: v.pipe(Status, v.description('What has become of it.')),
    resolvedAt: v.pipe(v.nullable(Time), v.description('When moderators resolved it. Null: it is open.')),
  }),
  v.metadata({ ref: 'Report', description: 'A report of a member.' }),
)
export type Report = v.InferOutput<typeof Report>

export const ReportsQuery = v.object({
  ...pageQuery('rp').entries,
  status: v.pipe(v.optional(Status, 'open'), v.description('What has become of the reports.')),
})

export const Resolution = v.strictObject({
  subjectId: SubjectId,
  outcome: v.pipe(v.picklist(['dismissed', 'acted']), v.description('Whether a moderator did something about it.')),
  note,
})
export type Resolution = v.InferOutput<typeof Resolution>
export const Resolved = v.pipe(
  v.object({ resolved: v.number(), hasMore: v.boolean() }),
  v.description('How many reports were resolved, and whether more are open.'),
)

export const Ruling = v.strictObject({ note })
export const ContentParam = v.object({ id: ContentId })
export const UserParam = v.object({ id: id('u') })

/** A post or comment as moderators see it. */
export const Content = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time.')),
    authorId: v.pipe(v.string(), v.description('Who wrote it.')),
    postId: v.pipe(v.string(), v.description('Of a comment: its post.')),
    text: v.pipe(v.string(), v.description('The text.')),
    takenDown: v.pipe(
      v.nullable(v.object({ at: Time, note: v.string() })),
      v.description('When and why it was taken down. Null: it is up.'),
    ),
  }),
  v.metadata({ ref: 'ModeratedContent', description: 'A post or comment, and whether it is taken down.' }),
)
export type Content = v.InferOutput<typeof Content>

export const LogEntry = v.pipe(
  v.object({
    id: v.pipe(v.string(), v.description('Sorts by time.')),
    action: v.pipe(
      v.picklist(['take-down', 'restore', 'suspend', 'reinstate', 'dismiss-reports', 'act-on-reports']),
      v.description('What the moderator did.'),
    ),
    subjectId: v.pipe(v.string(), v.description('What it is about. `u_deleted`: a user who has deleted the account.')),
    note: v.pipe(v.string(), v.description('Why. Empty once the user has deleted the account.')),
    tokenId: v.pipe(v.string(), v.description('The service token that acted: `st_…`, or `root`.')),
    tokenName: v.pipe(v.string(), v.description('The name of the token at that time.')),
    createdAt: v.pipe(Time, v.description('When.')),
  }),
  v.metadata({ ref: 'ModerationLogEntry', description: 'What a moderator did.' }),
)
export type LogEntry = v.InferOutput<typeof LogEntry>
