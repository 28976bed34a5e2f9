import { expect, test } from 'vitest'
import type { Growth } from '../../bench/growth.ts'
import { bench } from './run.ts'

test('growth measures each request, queue step and cron step in a filled database', { timeout: 400_000 }, async () => {
  const { written: json, stdout } = await bench('--growth', '--max', '1000')
  const written = json as Growth // which the run has just written
  const steps = new Map(written.steps.map(({ step, figures }) => [step, figures[0]]))
  expect(written.sizes).toEqual([expect.objectContaining({ wanted: 1_000 })])
  expect(written.sizes[0]?.rows).toBeGreaterThan(1_000)
  expect(written.grown).toEqual([]) // there is one size
  expect(steps.get('profile')).toMatchObject({ rowsRead: expect.any(Number), rowsWritten: 0 })
  expect(steps.get('20 profiles')?.rowsRead).toBeGreaterThanOrEqual(20)
  expect(steps.get('queue likes, after 100 likes')?.rowsWritten).toBeGreaterThan(100)
  expect(steps.get('write a post')?.rowsWritten).toBeGreaterThan(0)
  // Each purge finds more than it deletes at once.
  expect(steps.get('cron: purge events')?.rowsWritten).toBeGreaterThanOrEqual(1_000)
  expect([...steps.keys()]).toContain('cron: reconcile counts')
  for (const name of steps.keys()) expect(stdout).toContain(name)
})
