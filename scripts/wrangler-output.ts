import * as v from 'valibot'

/** What the Worker logs when a cron job fails: one line of JSON. */
const JobFailure = v.looseObject({
  level: v.literal('error'),
  job: v.string(),
  name: v.string(),
  error: v.optional(v.string()),
  cause: v.optional(v.string()),
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
    const error = failure.error ? `: ${failure.error}` : ''
    const cause = failure.cause ? `, caused by ${failure.cause}` : ''
    return [`The cron job "${failure.job}" failed: ${failure.name}${error}${cause}`, line]
  }
}

function parseFailure(line: string): v.InferOutput<typeof JobFailure> | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    const parsed = v.safeParse(JobFailure, JSON.parse(line))
    return parsed.success ? parsed.output : undefined
  } catch {
    return undefined // not JSON
  }
}
