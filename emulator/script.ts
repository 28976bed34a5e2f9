/** How Upstash takes a Lua script and how the engine does: the same but for the first line. */
import { createHash } from 'node:crypto'

export interface Script {
  /** The name the client knows it by: the SHA-1 of what it sent. */
  sha: string
  /** What the engine runs. */
  source: string
  /** The name the engine knows it by. */
  engineSha: string
}

const sha1 = (text: string): string => createHash('sha1').update(text).digest('hex')

/**
 * Takes `allow-key-locking`, a flag of Upstash's own, off the `#!lua` line; or the whole line, for an engine that does
 * not know it. An emptied line stays, so that the line numbers of errors are those of the original.
 */
function adapt(source: string, shebangs: boolean): string {
  const shebang = /^#!lua[^\n]*/.exec(source)?.[0]
  if (shebang === undefined) return source
  const body = source.slice(shebang.length)
  if (!shebangs) return body
  if (!shebang.includes('allow-key-locking')) return source
  const flags = /flags=(\S*)/.exec(shebang)?.[1]?.split(',') ?? []
  const others = flags.filter((flag) => flag !== '' && flag !== 'allow-key-locking')
  return others.length > 0 ? `#!lua flags=${others.join(',')}${body}` : body
}

const maxKnown = 1_000

/** Reads scripts for an engine that takes `#!lua` lines, or one that does not. */
export function createScriptReader(shebangs: boolean): (source: string) => Script {
  /** Those seen: clients send the same few over and over, and hashing costs more than looking up. */
  const known = new Map<string, Script>()
  return (source) => {
    const seen = known.get(source)
    if (seen) return seen
    const adapted = adapt(source, shebangs)
    const script = { sha: sha1(source), source: adapted, engineSha: sha1(adapted) }
    if (known.size >= maxKnown) known.clear()
    known.set(source, script)
    return script
  }
}
