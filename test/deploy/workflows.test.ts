import { readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import * as v from 'valibot'
import { expect, test } from 'vitest'
import { parse } from 'yaml'

const folder = fileURLToPath(new URL('../../.github/workflows/', import.meta.url))

const Step = v.object({
  uses: v.optional(v.string()),
  run: v.optional(v.string()),
  with: v.optional(v.record(v.string(), v.unknown()), {}),
  env: v.optional(v.record(v.string(), v.string()), {}),
})
const Workflow = v.object({
  name: v.string(),
  on: v.record(v.string(), v.unknown()),
  permissions: v.record(v.string(), v.string()),
  concurrency: v.object({ group: v.string(), 'cancel-in-progress': v.boolean() }),
  jobs: v.record(
    v.string(),
    v.looseObject({ steps: v.array(Step), 'timeout-minutes': v.number(), permissions: v.optional(v.never()) }),
  ),
})

const Dependabot = v.object({
  updates: v.array(
    v.object({
      'package-ecosystem': v.string(),
      directory: v.string(),
      schedule: v.object({ interval: v.string() }),
    }),
  ),
})

const texts = new Map<string, string>()
for (const file of await readdir(folder)) texts.set(file, await readFile(folder + file, 'utf8'))
const read = (file: string) => v.parse(Workflow, parse(texts.get(file) ?? ''))
const stepsOf = (file: string) => Object.values(read(file).jobs).flatMap(({ steps }) => steps)

test.each([...texts])('%s pins actions by commit, names their version, and has read permission only', (file, text) => {
  const uses = stepsOf(file).flatMap((step) => step.uses ?? [])
  expect(uses.length).toBeGreaterThan(0)
  for (const action of uses) expect(action).toMatch(/^[\w-]+\/[\w/-]+@[0-9a-f]{40}$/)
  expect(text.match(/uses: \S+ # v\d+\.\d+\.\d+$/gm)).toHaveLength(uses.length)
  expect(read(file).permissions).toEqual({ contents: 'read' })
  for (const { uses, with: options } of stepsOf(file)) {
    if (uses?.startsWith('actions/checkout@')) expect(options['persist-credentials']).toBe(false)
  }
})

test.each([...texts.keys()])('%s puts no expression, which others can write, into a command', (file) => {
  for (const { run = '' } of stepsOf(file)) expect(run).not.toContain('${{')
})

test.each(['.github/workflows/ci.yml', 'compose.yaml', 'emulator/Dockerfile'])(
  '%s names each image by its exact version and its digest',
  async (file) => {
    const text = await readFile(new URL(`../../${file}`, import.meta.url), 'utf8')
    const images = [...text.matchAll(/^\s*(?:FROM|image:|container:)\s+(.+)$/gm)].map(([, image = '']) => image)
    expect(images.length).toBeGreaterThan(0)
    for (const image of images) expect(image).toMatch(/^[a-z]+:\d+\.\d+\.\d+-[a-z-]+@sha256:[0-9a-f]{64}$/)
  },
)

test('CI runs the gate and the dependency audit, and uses no secret', () => {
  expect(stepsOf('ci.yml').map(({ run }) => run)).toEqual(
    expect.arrayContaining(['bash .ci/run', 'npm audit --audit-level=high']),
  )
  expect(Object.keys(read('ci.yml').on)).toEqual(['push', 'pull_request'])
  expect(texts.get('ci.yml')).not.toContain('secrets.')
})

test('commits of main that passed CI are deployed to staging, then to production, one at a time', () => {
  const { on, jobs, concurrency } = read('deploy.yml')
  expect(on).toEqual({ workflow_run: { workflows: [read('ci.yml').name], types: ['completed'], branches: ['main'] } })
  expect(concurrency).toEqual({ group: 'deploy', 'cancel-in-progress': false })
  expect(Object.keys(jobs)).toEqual(['staging', 'production'])
  expect(jobs['staging']).toMatchObject({
    environment: 'staging',
    if: "github.event.workflow_run.conclusion == 'success' && github.event.workflow_run.event == 'push'",
  })
  expect(jobs['production']).toMatchObject({ environment: 'production', needs: 'staging' })
  for (const [environment, { steps }] of Object.entries(jobs)) {
    expect(steps[0]?.with['ref']).toBe('${{ github.event.workflow_run.head_sha }}')
    const deploying = steps.at(-1)
    expect(deploying?.run).toBe(`npm run deploy -- --env ${environment}`)
    expect(deploying?.env).toEqual({
      CLOUDFLARE_ACCOUNT_ID: '${{ secrets.CLOUDFLARE_ACCOUNT_ID }}',
      CLOUDFLARE_API_TOKEN: '${{ secrets.CLOUDFLARE_API_TOKEN }}',
      UPSTASH_REDIS_REST_TOKEN: '${{ secrets.UPSTASH_REDIS_REST_TOKEN }}',
    })
  }
})

test('Dependabot updates every ecosystem of this repository', async () => {
  const text = await readFile(new URL('../../.github/dependabot.yml', import.meta.url), 'utf8')
  const { updates } = v.parse(Dependabot, parse(text))
  expect(updates.map((update) => [update['package-ecosystem'], update.directory])).toEqual([
    ['npm', '/'],
    ['github-actions', '/'],
    ['docker', '/emulator'],
    ['docker-compose', '/'],
  ])
  for (const { schedule } of updates) expect(schedule.interval).toBe('weekly')
})
