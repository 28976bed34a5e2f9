import * as v from 'valibot'

/** The name of an error, and the code of its message if it has one. */
const ErrorCode = v.looseObject({ name: v.string(), code: v.optional(v.string()) })

/** The line of JSON that the Worker logs when a cron job fails. */
const JobFailure = v.looseObject({
  level: v.literal('error'),
  job: v.string(),
  ...ErrorCode.entries,
  cause: v.optional(ErrorCode),
})

/**
 * A filter for the lines that `wrangler dev` prints. It drops the warning that nothing triggers the cron, which is wrong
 * under `npm start`, and puts a sentence before the log line of a failed cron job.
 */
export function createOutputFilter(): (line: string) => string[] {
  let isInWarning = false
  return (line) => {
    if (line.includes('Scheduled Workers are not automatically triggered')) isInWarning = true
    if (isInWarning) {
      if (line.includes('test-cron-triggers-locally')) isInWarning = false // the warning's last line
      return []
    }
    const failure = parseFailure(line)
    if (!failure) return [line]
    const cause = failure.cause ? `, caused by ${toText(failure.cause)}` : ''
    return [`The cron job "${failure.job}" failed: ${toText(failure)}${cause}`, line]
  }
}

const toText = ({ name, code }: v.InferOutput<typeof ErrorCode>) => (code ? `${name} (${code})` : name)

function parseFailure(line: string): v.InferOutput<typeof JobFailure> | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    const parsed = v.safeParse(JobFailure, JSON.parse(line))
    return parsed.success ? parsed.output : undefined
  } catch {
    return undefined // not JSON
  }
}
