import { parseArgs, type ParseArgsConfig } from 'node:util'

/**
 * Parses the command line. A wrong flag ends the process with one line on stderr and exit code 1. `--help` lists the
 * flags.
 */
export function readFlags<T extends NonNullable<ParseArgsConfig['options']>>(options: T) {
  if (process.argv.slice(2).includes('--help')) {
    const known = Object.entries(options).map(([name, { type, default: value }]) =>
      type === 'boolean' ? `--${name}` : `--${name} ${String(value ?? '…')}`,
    )
    console.log(known.length > 0 ? `Flags: ${known.join('  ')}` : 'There are no flags')
    process.exit()
  }
  try {
    return parseArgs({ options }).values
  } catch (error) {
    // parseArgs throws only usage errors.
    return refuse(error instanceof Error ? error.message : String(error))
  }
}

/** Parses the number of a flag. Ends the process like `readFlags` if it is out of range. */
export function readNumber(
  flag: string,
  text: string,
  { min = 0, max = Infinity, isWhole = true }: { min?: number; max?: number; isWhole?: boolean } = {},
): number {
  const number = text.trim() === '' ? NaN : Number(text)
  if (number >= min && number <= max && number < Infinity && (Number.isInteger(number) || !isWhole)) return number
  const range = max === Infinity ? `, ${min} or more` : ` from ${min} to ${max}`
  return refuse(`--${flag} is ${text}: it must be a ${isWhole ? 'whole ' : ''}number${range}`)
}

function refuse(reason: string): never {
  console.error(reason)
  process.exit(1)
}
