/** Which request a fault befalls. */
import type { Fault, FaultKind } from './control.ts'

const faultKinds: readonly FaultKind[] = ['refuse', 'status', 'delay', 'delay-after', 'cut', 'cut-mid', 'hang']

/** The first fault that befalls this request, and one request less for it to befall. */
export function takeFault(faults: Fault[], path: string, body: Buffer): Fault | undefined {
  const index = faults.findIndex(({ match }) => match === undefined || mentions(match, path, body))
  const fault = faults[index]
  if (fault?.times !== undefined && --fault.times <= 0) faults.splice(index, 1)
  return fault
}

/** Whether a request's path is, or one of its commands is called, `match`. */
function mentions(match: string, path: string, body: Buffer): boolean {
  const wanted = match.toLowerCase()
  if (path.toLowerCase() === wanted || path.slice(1).split('/')[0]?.toLowerCase() === wanted) return true
  if (path !== '/' && path !== '/pipeline' && path !== '/multi-exec') return false
  try {
    const json: unknown = JSON.parse(body.toString())
    const commands = Array.isArray(json) && path === '/' ? [json] : json
    return (
      Array.isArray(commands) &&
      commands.some((command: unknown) => Array.isArray(command) && String(command[0]).toLowerCase() === wanted)
    )
  } catch {
    return false
  }
}

/** A fault as asked for over HTTP; undefined when there is no such kind. */
export function readFault(json: Record<string, unknown>): Fault | undefined {
  const kind = faultKinds.find((known) => known === json.kind)
  if (kind === undefined) return undefined
  const fault: Fault = { kind }
  const { status, message, delayMs, times, match } = json
  if (typeof status === 'number') fault.status = status
  if (typeof message === 'string') fault.message = message
  if (typeof delayMs === 'number') fault.delayMs = delayMs
  if (typeof times === 'number') fault.times = times
  if (typeof match === 'string') fault.match = match
  return fault
}
