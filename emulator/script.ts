/** Translates Lua scripts from Upstash to the engine. Lines keep their numbers. */
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

/**
 * For an engine whose `XADD` and `XTRIM` refuse `=` and hardly trim with `~`: what a script calls trims exactly, as
 * `trimExactly` does for a command.
 */
const EXACT_TRIMS = `local redis = (function(engine)
  local function exact(run)
    return function(...)
      local name = string.upper(tostring((...)))
      if name ~= 'XADD' and name ~= 'XTRIM' then return run(...) end
      local given, kept, i = { ... }, {}, 3
      local function keep() kept[#kept + 1] = given[i] i = i + 1 end
      kept[1], kept[2] = given[1], given[2]
      while i <= #given do
        local option = string.upper(tostring(given[i]))
        if option == 'NOMKSTREAM' then keep()
        elseif option == 'LIMIT' then i = i + 2
        elseif option == 'MAXLEN' or option == 'MINID' then
          keep()
          if given[i] == '=' or given[i] == '~' then i = i + 1 end
          keep()
        else break end
      end
      while i <= #given do keep() end
      return run(unpack(kept))
    end
  end
  return setmetatable({ call = exact(engine.call), pcall = exact(engine.pcall) }, { __index = engine })
end)(redis) `.replaceAll(/\n\s*/g, ' ')

/** Puts code before the first statement of a script. */
const withFirst = (code: string, source: string): string =>
  source.startsWith('#!') ? source.replace(/^[^\n]*(\n|$)/, (line) => `${line}${code}`) : code + source

const maxKnown = 1_000

/**
 * Creates a function that translates scripts. `shebangs`: whether the engine accepts `#!lua` lines. `trims`: whether its
 * `XADD` takes every option of trimming.
 */
export function createScriptReader(shebangs: boolean, trims: boolean): (source: string) => Script {
  /** Clients send the same few scripts repeatedly, and hashing costs more than a lookup. */
  const known = new Map<string, Script>()
  return (source) => {
    const seen = known.get(source)
    if (seen) return seen
    const own = adapt(source, shebangs)
    const adapted = !trims && /xadd|xtrim/i.test(own) ? withFirst(EXACT_TRIMS, own) : own
    const script = { sha: sha1(source), source: adapted, engineSha: sha1(adapted) }
    if (known.size >= maxKnown) known.clear()
    known.set(source, script)
    return script
  }
}
