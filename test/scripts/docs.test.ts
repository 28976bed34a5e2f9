import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { appendFile, readFile, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { generate, startFrom } from '../../scripts/docs.ts'
import { freePort } from '../../scripts/ports.ts'
import { cloneProject } from '../../scripts/clone.ts'

const root = dirname(dirname(import.meta.dirname))
const documents = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'bench/README.md',
  'examples/README.md',
  ...globSync('docs/**/*.md', { cwd: root }).toSorted(),
]

/** Commands that another file runs, by that file. `needs` is what the file must contain for this to be true. */
const RUN_ELSEWHERE: { command: RegExp; file: string; needs: string }[] = [
  { command: /^npm install && npm start$/, file: 'test/scripts/start.test.ts', needs: "run('npm', ['start']" },
  { command: /^npm pack\b/, file: 'test/e2e/package.test.ts', needs: "run('npm', ['pack'" },
  {
    command: /^npm install \.\/threads-edge-\S+\.tgz/,
    file: 'test/e2e/package.test.ts',
    needs: "run('npm', ['install'",
  },
  { command: /^npm install && npm test$/, file: '.ci/run', needs: 'npm install && npm test' },
  { command: /^REDIS_URL=\S+ npm run test:redis$/, file: '.ci/run', needs: 'npm run test:redis' },
  {
    command: /^npm run setup( -- --env \w+( --dry-run)?)?$/,
    file: 'test/deploy/setup.test.ts',
    needs: "['setup', '--env'",
  },
  { command: /^npm run deploy( -- --env \w+)?$/, file: 'test/deploy/deploy.test.ts', needs: "'deploy'" },
  { command: /^REDIS_PASSWORD=.* docker compose up/, file: 'test/deploy/compose.test.ts', needs: 'compose.yaml' },
  { command: /^npm run bench\b/, file: 'test/bench/run.ts', needs: 'bench/main.ts' },
  { command: /^npm run backup -- --to \S+$/, file: 'test/scripts/backup.test.ts', needs: "run('backup'" },
  { command: /^npm run restore -- --from \S+ --url \S+$/, file: 'test/scripts/backup.test.ts', needs: "run('restore'" },
  { command: /^DEMO=false .* npm start$/, file: 'test/scripts/backup.test.ts', needs: "DEMO: 'false'" },
  // It runs for minutes: the test runs the script up to the reading of its flags.
  { command: /^npm run costs\b/, file: 'test/scripts/flags.test.ts', needs: 'bench/costs.ts' },
]

test.each(globSync('docs/primitives/*.md', { cwd: root }))(
  'the page %s names its round trips, and its example has at most ten lines',
  (page) => {
    const text = readFileSync(join(root, page), 'utf8')
    expect(text.replaceAll('\n', ' ')).toMatch(/round trip/)
    const [, example = ''] = /^```js\n(.*?)^```$/ms.exec(text) ?? []
    expect(example).toContain('console.log')
    expect(example.trimEnd().split('\n').length).toBeLessThanOrEqual(10)
  },
)

/** Commands that run until they are ended. */
const isLasting = (command: string) => /npm run receiver$|^curl -sN /.test(command)

interface Step {
  command: string
  output: string
}

interface Product {
  folder: string
  port: number
  emulatorPort: number
  process: ChildProcess
}

let product: Product

beforeAll(async () => {
  const [port, emulatorPort] = [await freePort(), await freePort()]
  const folder = await cloneProject()
  // On a busy machine Redis does not answer within the timeouts of production.
  const patience = 'REDIS_READ_TIMEOUT_MS="5000"\nREDIS_WRITE_TIMEOUT_MS="5000"\n'
  await appendFile(join(folder, '.dev.vars.example'), patience)
  const environment = { ...process.env, PORT: String(port), EMULATOR_PORT: String(emulatorPort) }
  const child = spawn(process.execPath, ['scripts/start.ts'], { cwd: folder, env: environment, stdio: 'pipe' })
  product = { folder, port, emulatorPort, process: child }
  const output = collect(child)
  while (!output().includes('Stop:')) {
    if (child.exitCode !== null) throw new Error(`npm start failed:\n${output()}`)
    await sleep(50)
  }
  // The queue indexes the demo data after the start, posts before users.
  const search = `http://127.0.0.1:${port}/v1/search?q=ada&type=users`
  while (!(await (await fetch(search)).text()).includes('"username":"ada"')) await sleep(200)
}, 180_000)

afterAll(async () => {
  await end(product.process)
  await rm(product.folder, { recursive: true, force: true })
}, 60_000)

function collect(child: ChildProcess): () => string {
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => void (output += chunk))
  return () => output
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return
  const ended = new Promise((resolve) => child.once('close', resolve))
  child.kill()
  await ended
}

/** The commands in fenced blocks: in `console` after `$`, with their output; in `sh` every line. */
function stepsOf(text: string): Step[] {
  const steps: Step[] = []
  for (const [, indent = '', language, block = ''] of text.matchAll(/^( *)```(console|sh)\n([^]*?)^ *```$/gm)) {
    for (const line of block
      .replaceAll(new RegExp(`^${indent}`, 'gm'), '')
      .replaceAll('\\\n', '\\\u0000')
      .split('\n')) {
      const whole = line.replaceAll('\u0000', '\n')
      const last = steps.at(-1)
      if (language === 'sh') {
        const [command = ''] = whole.split(/\s+# /)
        if (command) steps.push({ command, output: '' })
      } else if (whole.startsWith('$ ')) steps.push({ command: whole.slice(2), output: '' })
      else if (last) last.output += `${whole}\n`
    }
  }
  return steps
}

const isRunElsewhere = (command: string) => RUN_ELSEWHERE.some((entry) => entry.command.test(command))

const documentsWithCommands = documents.filter((path) => stepsOf(readFileSync(join(root, path), 'utf8')).length > 0)

/** Replaces what differs between runs: ids, times, durations, remaining requests. */
const stable = (text: string) =>
  text
    .replaceAll('\r', '')
    .replaceAll(/\b(n|u|p|c|ev|wh|dl)_[0-9a-z]{20,}\b/g, '$1_ID')
    .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, 'TIME')
    .replaceAll(/\d\d:\d\d:\d\d\.\d{3}/g, 'CLOCK')
    .replaceAll(/\b(ttl|dur|r|t)=\d+(\.\d+)?/g, '$1=N')
    .replaceAll(/"durationMs":\d+/g, '"durationMs":N')
    .replaceAll(/"sequence":"\d{16}"/g, '"sequence":"N"')
    .replaceAll(/"challenge\\?":\\?"[\w-]{20,}/g, '"challenge":"C')
    .replaceAll(/^id: \d+-\d+/gm, 'id: ENTRY')
    .replaceAll(/\bretry: \d+/g, 'retry: N')
    .replaceAll(/\b00-[0-9a-f]{32}-[0-9a-f]{16}-\d\d\b/g, 'TRACE')
    .trim()

/** In a document `…` stands for anything. */
const pattern = (output: string) => {
  const parts = stable(output).split('…')
  return new RegExp(`^${parts.map((part) => part.replaceAll(/[$()*+./?[\\\]^{|}]/g, '\\$&')).join('[^]*?')}$`)
}

test.each(['README.md', 'docs/configuration.md', 'docs/deploying.md', 'docs/events.md', 'docs/operations.md'])(
  '%s is what npm run docs writes',
  async (path) => {
    const generated = await generate()
    expect(await readFile(join(root, path), 'utf8')).toBe(generated[path])
  },
)

test('the button and the template name the repository of package.json, and without one there is no link to nowhere', () => {
  const written = startFrom('github:ada/threads')
  expect(written).toContain('npm create cloudflare@latest -- my-app --template ada/threads`')
  expect(written).toContain('(https://deploy.workers.cloudflare.com/?url=https://github.com/ada/threads)')
  for (const same of ['git+https://github.com/ada/threads.git', 'https://github.com/ada/threads', 'ada/threads'])
    expect(startFrom(same)).toBe(written)
  expect(startFrom(undefined)).not.toContain('https://')
  expect(() => startFrom('https://gitlab.com/ada/threads')).toThrow('repository in package.json')
})

test('docs/configuration.md has every variable that the Worker reads', async () => {
  const source = await readFile(join(root, 'src/config.ts'), 'utf8')
  const read = [...source.matchAll(/\bset\.([A-Z_]+)/g)].map(([, name = '']) => name)
  expect(read.length).toBeGreaterThan(50)
  const text = await readFile(join(root, 'docs/configuration.md'), 'utf8')
  expect(read.filter((name) => !text.includes(`| \`${name}\``))).toEqual([])
})

test.each(documentsWithCommands)('the commands of %s do what it says', { timeout: 180_000 }, async (path) => {
  const text = await readFile(join(root, path), 'utf8')
  const steps = stepsOf(text).filter(({ command }) => !isRunElsewhere(command))
  const ports = { 8787: product.port, 8079: product.emulatorPort, 9000: await freePort() }
  const toTestPorts = (line: string) =>
    Object.entries(ports).reduce(
      (line, [from, to]) => line.replaceAll(new RegExp(`(localhost:|PORT=)${from}`, 'g'), `$1${to}`),
      line,
    )
  const toDocumentedPorts = (line: string) =>
    Object.entries(ports).reduce((line, [to, from]) => line.replaceAll(`localhost:${from}`, `localhost:${to}`), line)
  const bash = (script: string) => spawn('bash', ['-c', toTestPorts(script)], { cwd: product.folder, stdio: 'pipe' })

  // Each of these runs in another terminal until the test ends it.
  const lasting = steps
    .filter(({ command }) => isLasting(command))
    .map(({ command, output }) => {
      const process = bash(`exec env ${command}`)
      return { process, printed: collect(process), expected: output }
    })
  // Documents show what the receiver prints after the commands that cause it.
  const receiver = lasting.find(({ expected }) => expected === '')
  for (const [, block = ''] of text.matchAll(/^```text\n([^]*?)^```$/gm)) if (receiver) receiver.expected += block
  const processes = lasting.map(({ process }) => process)
  try {
    for (const { printed } of lasting) await expect.poll(printed, { timeout: 30_000 }).toMatch(/open|listening/)

    // When a window of the rate limit ends between two requests, the second one does not state what is left.
    const secondOfWindow = new Date().getUTCSeconds()
    if (secondOfWindow > 45) await sleep((60 - secondOfWindow) * 1_000)

    const finite = steps.filter(({ command }) => !isLasting(command))
    const mark = `--- ${crypto.randomUUID()} ---`
    const run = bash(finite.map(({ command }) => `${command}\nprintf '\\n%s\\n' '${mark}'`).join('\n'))
    processes.push(run)
    const printed = collect(run)
    await new Promise((resolve) => run.once('close', resolve))
    const outputs = printed().split(mark)
    for (const [i, { command, output }] of finite.entries()) {
      const actual = { command, output: stable(toDocumentedPorts(outputs[i] ?? '')) }
      expect(actual).toEqual({ command, output: expect.stringMatching(pattern(output)) })
    }

    for (const { printed, expected } of lasting) {
      for (const line of expected.split('\n').filter(Boolean)) {
        const lines = () => stable(toDocumentedPorts(printed())).split('\n')
        await expect.poll(lines, { timeout: 60_000 }).toContainEqual(expect.stringMatching(pattern(line)))
      }
    }
  } finally {
    for (const process of processes) await end(process)
  }
})

test.each(documents)('%s names npm scripts, files and headings that exist', async (path) => {
  const text = await readFile(join(root, path), 'utf8')
  const { scripts } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { scripts: object }
  const named = [...text.matchAll(/npm run ([\w:]+)/g)].map(([, name = '']) => name)
  expect(named.filter((name) => !(name in scripts))).toEqual([])

  for (const [, target = ''] of text.matchAll(/\]\((?!https?:)([^)]+)\)/g)) {
    const [file, heading] = target.split('#')
    const linked = file ? join(root, dirname(path), file) : join(root, path)
    expect([target, existsSync(linked)]).toEqual([target, true])
    if (heading === undefined) continue
    const headings = (await readFile(linked, 'utf8')).matchAll(/^#+ (.+)$/gm)
    const slugs = [...headings].map(([, title = '']) =>
      title
        .toLowerCase()
        .replaceAll(/[^\w\- ]/g, '')
        .replaceAll(' ', '-'),
    )
    expect(slugs).toContain(heading)
  }
})

test('each file that is said to run a documented command does', async () => {
  const texts = await Promise.all(documents.map((path) => readFile(join(root, path), 'utf8')))
  const steps = texts.flatMap(stepsOf)
  for (const { command, file, needs } of RUN_ELSEWHERE) {
    expect([command, steps.some((step) => command.test(step.command))]).toEqual([command, true])
    const text = await readFile(join(root, file), 'utf8')
    expect([file, needs, text.includes(needs)]).toEqual([file, needs, true])
  }
})

test('the README has at most 200 lines', async () => {
  const lines = (await readFile(join(root, 'README.md'), 'utf8')).split('\n')
  expect(lines.length).toBeLessThanOrEqual(200)
})
