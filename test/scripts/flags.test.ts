import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { dirname } from 'node:path'
import { text } from 'node:stream/consumers'
import { expect, test } from 'vitest'

const root = dirname(dirname(import.meta.dirname))

// Most of the time is spent on loading wrangler.
test.concurrent.each([
  ['scripts/soak/main.ts --seconds 0', '--seconds is 0: it must be a whole number, 1 or more\n'],
  ['bench/webhooks.ts --events x', '--events is x: it must be a whole number, 0 or more\n'],
  ['bench/webhooks.ts --failing 2', '--failing is 2: it must be a number from 0 to 1\n'],
  ['scripts/receiver.ts --fails', /^Unknown option '--fails'.*\n$/],
  ['bench/main.ts --latencies 0,,5', '--latencies is : it must be a whole number, 0 or more\n'],
  ['bench/main.ts quick', /^Unexpected argument 'quick'.*\n$/],
  ['bench/costs.ts --quick', /^Unknown option '--quick'.*\n$/],
])('%s is refused in one line', { timeout: 120_000 }, async (command, line) => {
  expect(await run(command)).toEqual({ code: 1, stdout: '', stderr: expect.stringMatching(line) })
})

test.concurrent.each([
  ['scripts/soak/main.ts', '--seconds 600  --seed …'],
  ['bench/webhooks.ts', '--events 10000  --endpoints 20  --failing 0.2  --dead 0  --rate 0  --minutes 30'],
  ['scripts/receiver.ts', '--fail'],
])('%s --help lists its flags and does nothing', { timeout: 120_000 }, async (script, flags) => {
  expect(await run(`${script} --help`)).toEqual({ code: 0, stdout: `Flags: ${flags}\n`, stderr: '' })
})

async function run(command: string) {
  const child = spawn(process.execPath, command.split(' '), { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  const closed = once(child, 'close')
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
  const [code] = (await closed) as [number | null]
  return { code, stdout, stderr }
}
