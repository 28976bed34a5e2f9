import { execFileSync } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
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
const Concurrency = v.object({ group: v.string(), 'cancel-in-progress': v.boolean() })
const Workflow = v.object({
  name: v.string(),
  on: v.record(v.string(), v.unknown()),
  permissions: v.record(v.string(), v.string()),
  concurrency: v.optional(Concurrency),
  jobs: v.record(
    v.string(),
    v.looseObject({
      steps: v.array(Step),
      'timeout-minutes': v.number(),
      permissions: v.optional(v.never()),
      concurrency: v.optional(Concurrency),
    }),
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

test('the newest commit of main that passed CI is deployed to staging, then to production', () => {
  const { on, jobs } = read('deploy.yml')
  expect(on).toEqual({ workflow_run: { workflows: [read('ci.yml').name], types: ['completed'], branches: ['main'] } })
  expect(Object.keys(jobs)).toEqual(['newest', 'staging', 'production'])
  const { newest, staging, production } = jobs
  expect(newest).toMatchObject({
    if: "github.event.workflow_run.conclusion == 'success' && github.event.workflow_run.event == 'push'",
    outputs: { 'is-newest': '${{ steps.compare.outputs.is-newest }}' },
  })
  expect(staging).toMatchObject({ needs: 'newest', if: "needs.newest.outputs.is-newest == 'true'" })
  expect(production).toMatchObject({ needs: 'staging' })
  for (const [environment, job] of Object.entries({ staging, production })) {
    expect(job?.['environment']).toBe(environment)
    expect(job?.steps[0]?.with['ref']).toBe('${{ github.event.workflow_run.head_sha }}')
    const deploying = job?.steps.at(-1)
    expect(deploying?.run).toBe(`npm run deploy -- --env ${environment}`)
    expect(deploying?.env).toEqual({
      CLOUDFLARE_ACCOUNT_ID: '${{ secrets.CLOUDFLARE_ACCOUNT_ID }}',
      CLOUDFLARE_API_TOKEN: '${{ secrets.CLOUDFLARE_API_TOKEN }}',
      UPSTASH_REDIS_REST_TOKEN: '${{ secrets.UPSTASH_REDIS_REST_TOKEN }}',
    })
  }
})

// A job that waits for a reviewer holds its group. As a group of the workflow it held up the next deployment to staging.
test('a deployment that waits for its reviewer holds up no other environment', () => {
  const { concurrency, jobs } = read('deploy.yml')
  expect(concurrency).toBeUndefined()
  const groups = Object.entries(jobs).map(([name, job]) => [name, job.concurrency])
  expect(Object.fromEntries(groups)).toEqual({
    newest: undefined,
    staging: { group: 'deploy-staging', 'cancel-in-progress': false },
    production: { group: 'deploy-production', 'cancel-in-progress': false },
  })
})

test.each([
  ['the newest commit of main', 'aaaa', 'is-newest=true\n'],
  ['an old commit whose CI was run again', 'bbbb', 'is-newest=false\n'],
])('of %s the workflow says: %s', async (_, passed, expected) => {
  const step = read('deploy.yml').jobs['newest']?.steps[0]
  const folder = await mkdtemp(join(tmpdir(), 'threads-edge-'))
  await writeFile(join(folder, 'gh'), '#!/bin/sh\n[ "$2" = repos/o/r/commits/main ] && echo aaaa\n', { mode: 0o755 })
  const output = join(folder, 'output')
  execFileSync('bash', ['-e', '-c', step?.run ?? ''], {
    env: {
      PATH: `${folder}:${process.env['PATH']}`,
      GITHUB_REPOSITORY: 'o/r',
      GITHUB_OUTPUT: output,
      PASSED: passed,
    },
  })
  expect(await readFile(output, 'utf8')).toBe(expected)
  await rm(folder, { recursive: true })
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
