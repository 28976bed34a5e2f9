import { invalidField } from '../errors.ts'
import { service } from '../service.ts'

/** The pages of one kind of rows, for one user. */
type ReadPage = (userId: string, after: string | null) => Promise<{ rows: object[]; next: string | null }>

/** Pages that one answer has at most: D1 answers a thousand queries of an invocation. */
const MAX_PAGES = 900

export type AccountExport = ReturnType<typeof createAccountExport>
export const exportService = service<AccountExport>('account export')

/**
 * Everything that is stored about a user, as lines of JSON (https://jsonlines.org): one per row, with its `kind`. The
 * last line is `{ "kind": "end", "next": … }`: without it the export broke off. `next` continues an export of more than
 * 900,000 rows, null at the end.
 *
 * Memory: one page of a thousand rows. The next page is loaded when the client has taken this one. One D1 query per page,
 * by an index. No Redis. The pages are no snapshot: each row is as it was when its page was loaded.
 */
export function createAccountExport(kinds: Map<string, ReadPage>) {
  const names = [...kinds.keys()]

  return {
    /** The body of an export of `userId`, from the `cursor` of an earlier one. Throws if that is not one. */
    stream(userId: string, cursor?: string): ReadableStream<Uint8Array> {
      const encoder = new TextEncoder()
      const separator = cursor?.indexOf(':') ?? -1
      let at = cursor === undefined ? 0 : names.indexOf(cursor.slice(0, separator))
      if (at < 0) throw invalidField('query', 'cursor', 'must be the next of an earlier export')
      let after = cursor?.slice(separator + 1) || null
      let pages = 0

      return new ReadableStream(
        {
          async pull(controller) {
            for (; at < names.length && pages < MAX_PAGES; pages += 1) {
              const kind = names[at] ?? ''
              const page = await kinds.get(kind)?.(userId, after)
              after = page?.next ?? null
              if (after === null) at += 1
              if (!page || page.rows.length === 0) continue
              controller.enqueue(encoder.encode(page.rows.map((row) => lineOf(kind, row)).join('')))
              return
            }
            const next = at < names.length ? `${names[at]}:${after ?? ''}` : null
            controller.enqueue(encoder.encode(`${JSON.stringify({ kind: 'end', next })}\n`))
            controller.close()
          },
        },
        { highWaterMark: 0 }, // loads a page when it is wanted
      )
    },
  }
}

/** A row as a line. Times are RFC 3339: their names end in `At`. */
const lineOf = (kind: string, row: object) =>
  `${JSON.stringify({ kind, ...row }, (name, value: unknown) =>
    name.endsWith('At') && typeof value === 'number' ? new Date(value).toISOString() : value,
  )}\n`
