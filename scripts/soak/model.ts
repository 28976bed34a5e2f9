/**
 * What the soak knows of its writes. Everything that a write changes is a register: the like state of a user and a post,
 * the text of a post, a follow. Each register has one writer, who sends one write at a time.
 */

/** `done`: acknowledged. `refused`: answered with a 4xx, so it did not happen. `unknown`: a 5xx or no answer. */
export type Outcome = 'done' | 'refused' | 'unknown'

/** The value of a register. Null: there is none (no post, no like). */
export type Value = string | null

/** How a register in the database compares with what was acknowledged. */
export type Verdict = 'right' | 'lost' | 'ghost'

export type Kind = 'post' | 'comment' | 'like' | 'follow' | 'profile' | 'session'

interface Register {
  /** The values it may have: one after an acknowledged write; more after writes whose reply was lost. */
  possible: Set<Value>
  /** Every value that a write may have given it. */
  written: Set<Value>
  /** When the client sent the last of these writes (Unix ms). */
  sentAt: number
}

export type Model = ReturnType<typeof createModel>

export function createModel() {
  const registers = new Map<Kind, Map<string, Register>>()
  const outcomes = new Map<string, Record<Outcome, number>>()
  /** Events that were, or may have been, published. */
  const events = new Map<string, 'certain' | 'possible'>()

  return {
    /** Counts a write by its name, for the report. */
    count(name: string, outcome: Outcome): void {
      const counts = outcomes.get(name) ?? { done: 0, refused: 0, unknown: 0 }
      counts[outcome] += 1
      outcomes.set(name, counts)
    },

    /** The outcomes of writes, by name. */
    outcomes: () => [...outcomes].toSorted(([a], [b]) => (a < b ? -1 : 1)),

    /**
     * Notes that a write wanted `value` in a register. Acknowledged, it is the only possible value. If the outcome is
     * unknown it is one more, until a later write is acknowledged or `settle` reads what is true.
     */
    write(kind: Kind, key: string, value: Value, outcome: Outcome, sentAt = Date.now()): void {
      if (outcome === 'refused') return
      const ofKind = registers.get(kind) ?? new Map<string, Register>()
      registers.set(kind, ofKind)
      const register = ofKind.get(key) ?? { possible: new Set([null]), written: new Set(), sentAt }
      ofKind.set(key, register)
      register.sentAt = sentAt
      register.written.add(value)
      if (outcome === 'done') register.possible.clear()
      register.possible.add(value)
    },

    /** The values that a register may have. */
    possible: (kind: Kind, key: string): ReadonlySet<Value> =>
      registers.get(kind)?.get(key)?.possible ?? new Set([null]),

    /** The words of every text that a register may have had, but for the first word, which all of them have. */
    words: (kind: Kind, key: string): string[] =>
      [...(registers.get(kind)?.get(key)?.written ?? [])].flatMap((value) => value?.split(' ').slice(1, 2) ?? []),

    /** When the last write to a register was sent (Unix ms). */
    sentAt: (kind: Kind, key: string): number => registers.get(kind)?.get(key)?.sentAt ?? 0,

    keys: (kind: Kind): string[] => [...(registers.get(kind)?.keys() ?? [])],

    /**
     * Whether a register can have `value`: nothing acknowledged is missing (`lost`), and nothing is there that must not
     * be (`ghost`).
     */
    judge(kind: Kind, key: string, value: Value): Verdict {
      const register = registers.get(kind)?.get(key)
      if (!register) return value === null ? 'right' : 'ghost'
      if (register.possible.has(value)) return 'right'
      const isGone = register.possible.size === 1 && register.possible.has(null)
      return !isGone && (value === null || register.written.has(value)) ? 'lost' : 'ghost'
    },

    /** Notes that a write publishes an event, named so that the event can be recognized. */
    publish(name: string, outcome: Outcome): void {
      if (outcome === 'done') events.set(name, 'certain')
      else if (outcome === 'unknown' && !events.has(name)) events.set(name, 'possible')
    },

    /** Compares the names of the events that arrived with those published. */
    judgeEvents(arrived: ReadonlySet<string>): { lost: string[]; ghosts: string[] } {
      return {
        lost: [...events].filter(([name, state]) => state === 'certain' && !arrived.has(name)).map(([name]) => name),
        ghosts: [...arrived].filter((name) => !events.has(name)),
      }
    },
  }
}

/** The numbers that `seen` lacks among those of `wanted` above `after`. */
export const gapsIn = (seen: ReadonlySet<number>, wanted: Iterable<number>, after = 0): number[] =>
  [...wanted].filter((number) => number > after && !seen.has(number))
