/** Translates Lua scripts from Upstash to the engine. Only the first line differs. */
import { createHash } from 'node:crypto'

export interface Script {
  /** The SHA-1 that the client knows: that of the source it sent. */
  sha: string
  /** The source that the engine runs. */
  source: string
  /** The SHA-1 that the engine knows. */
  engineSha: string
}

const sha1 = (text: string): string => createHash('sha1').update(text).digest('hex')

/**
 * Removes Upstash's own flag `allow-key-locking` from the `#!lua` line, or the whole line if the engine rejects
 * it. An empty line remains, so the line numbers of errors are those of the original.
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

/** Creates a function that translates scripts. `shebangs`: whether the engine accepts `#!lua` lines. */
export function createScriptReader(shebangs: boolean): (source: string) => Script {
  /** Clients send the same few scripts repeatedly, and hashing costs more than a lookup. */
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
