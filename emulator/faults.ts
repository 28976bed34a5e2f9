/** What each kind of fault does, and which requests it hits. */
import * as v from 'valibot'
import type { Fault, FaultKind } from './control.ts'
import { type Command, Failure, textOf } from './resp.ts'

/** Upstash's error text for a token it does not know. */
export const wrongToken =
  'WRONGPASS invalid or missing auth token. See https://docs.upstash.com/redis/troubleshooting/http_unauthorized for details.'

interface Effect {
  /** Runs nothing, and ends the connection (with a reset or an orderly close) or never answers. */
  instead?: 'reset' | 'close' | 'hang'
  /** Runs nothing, and answers this. */
  answer?: { status: number; type: string; body: (message?: string) => string | Buffer }
  /** Fails commands with this error. The other commands of a pipeline run. */
  error?: string
  /** The commands that `error` fails; absent: all. */
  fails?: (name: string, flags: ReadonlySet<string>) => boolean
  /** `error` discards a whole transaction, as Redis does when it queues such a command. Otherwise one reply fails. */
  discardsTransaction?: true
  /** Waits for `delayMs`, before or after the commands run. */
  waits?: 'before' | 'after'
  /** Runs the commands and closes the connection after this much of the reply. */
  sends?: 'nothing' | 'half'
}

const isScript = (name: string): boolean => /^(eval|evalsha|fcall)$/.test(name)

const jsonError = (otherwise: string) => ({
  type: 'application/json',
  body: (message = otherwise) => JSON.stringify({ error: message }),
})

const page =
  '<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n'

/** The table of faults. A kind takes one line here and one in `FaultKind`. */
export const effects: Record<FaultKind, Effect> = {
  refuse: { instead: 'reset' },
  'cut-before': { instead: 'close' },
  cut: { sends: 'nothing' },
  'cut-mid': { sends: 'half' },
  hang: { instead: 'hang' },
  delay: { waits: 'before' },
  'delay-after': { waits: 'after' },
  status: { answer: { status: 500, ...jsonError('ERR fault injected by the emulator') } },
  html: { answer: { status: 502, type: 'text/html; charset=utf-8', body: (message = page) => message } },
  garbage: {
    answer: {
      status: 200,
      type: 'application/json',
      body: (message) => message ?? Buffer.from('{"result":\xff\xfe\0\x80"', 'latin1'), // neither UTF-8 nor JSON
    },
  },
  wrongpass: { answer: { status: 401, ...jsonError(wrongToken) } },
  oom: {
    error: "OOM command not allowed when used memory > 'maxmemory'.",
    fails: (name, flags) => flags.has('denyoom') || isScript(name),
    discardsTransaction: true,
  },
  readonly: {
    error: "READONLY You can't write against a read only replica.",
    fails: (name, flags) => flags.has('write') || isScript(name),
    discardsTransaction: true,
  },
  loading: { error: 'LOADING Redis is loading the dataset in memory', discardsTransaction: true },
  noscript: {
    error: 'NOSCRIPT No matching script. Please use EVAL.',
    fails: (name) => name.startsWith('evalsha'),
  },
}

/** What a fault needs to know about a request. */
export interface Target {
  path: string
  commands: readonly Command[]
  /** A stream has no reply to lose or delay. */
  isStream: boolean
  /** The flags that `COMMAND` reports for a command. */
  flagsOf: (command: Command) => ReadonlySet<string>
}

/** The first fault that hits this request. Uses up one of its `times`. */
export function takeFault(faults: Fault[], target: Target): Fault | undefined {
  const index = faults.findIndex((fault) => hitsRequest(fault, target))
  const fault = faults[index]
  if (fault?.times !== undefined && --fault.times === 0) faults.splice(index, 1)
  return fault
}

function hitsRequest(fault: Fault, target: Target): boolean {
  const { sends, waits } = effects[fault.kind]
  if (target.isStream && (sends || waits === 'after')) return false
  return target.commands.some((command) => hitsCommand(fault, command, target))
}

function hitsCommand({ kind, match }: Fault, command: Command, { path, flagsOf }: Target): boolean {
  const name = textOf(command[0]).toLowerCase()
  if (match !== undefined) {
    const isWanted = [match].flat().some((word) => [name, path].includes(word.toLowerCase()))
    if (!isWanted) return false
  }
  return effects[kind].fails?.(name, flagsOf(command)) ?? true
}

/** The error of each command that `fault` fails; undefined for the commands that run. */
export function commandErrors(fault: Fault | undefined, target: Target): (Failure | undefined)[] {
  if (!fault) return []
  const { error } = effects[fault.kind]
  if (error === undefined) return []
  return target.commands.map((command) =>
    hitsCommand(fault, command, target) ? new Failure(fault.message ?? error) : undefined,
  )
}

const FaultSchema = v.strictObject({
  kind: v.picklist(Object.keys(effects) as FaultKind[]), // `effects` has these keys only
  status: v.exactOptional(v.pipe(v.number(), v.integer(), v.minValue(200), v.maxValue(599))),
  message: v.exactOptional(v.string()),
  delayMs: v.exactOptional(v.pipe(v.number(), v.minValue(0))),
  times: v.exactOptional(v.pipe(v.number(), v.integer(), v.minValue(1))),
  match: v.exactOptional(v.union([v.string(), v.array(v.string())])),
})

/** Parses the body of `POST /control/faults`; throws a `ValiError` if it is not a fault. */
export const parseFault = (json: unknown): Fault => v.parse(FaultSchema, json)
