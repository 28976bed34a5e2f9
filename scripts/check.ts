/** `npm run check`, after `npm run types`: runs what needs no test, as many checks at a time as there are processors. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { text } from 'node:stream/consumers'

/** The longest first. */
const waiting = [
  'npm run lint',
  'tsc',
  'npm run size',
  'npm run lint:openapi',
  'npm run unused',
  'tsc -p tsconfig.node.json',
  'tsc -p tsconfig.page.json',
  'tsc -p tsconfig.package.json',
  'oxfmt --check .',
]

/** Runs one check after the other, and prints each with its output when it has ended. */
async function work(): Promise<void> {
  for (let command = waiting.shift(); command !== undefined; command = waiting.shift()) {
    const child = spawn(`${command} 2>&1`, { shell: true, stdio: ['ignore', 'pipe', 'inherit'] })
    const closed = once(child, 'close')
    const output = await text(child.stdout)
    const [code] = (await closed) as [number | null]
    console.log(`> ${command}\n${output}`)
    if (code === 0) continue
    console.error(`${command} failed\n`)
    process.exitCode = 1
  }
}

await Promise.all(Array.from({ length: availableParallelism() }, work))
