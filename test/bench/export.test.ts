import { expect, test } from 'vitest'
import type { ExportFigures } from '../../bench/export.ts'
import { bench } from './run.ts'

test('the export of an account is measured, and its isolate holds a few pages', { timeout: 120_000 }, async () => {
  const { written } = await bench('--export', '--export-rows', '20000')
  const { rows, bytes, heap } = written as ExportFigures // which the run has just written
  expect(rows).toBe(20_000 + 3) // the account, a session, the end
  expect(bytes).toBeGreaterThan(2_000_000)
  expect(heap.most).toBeGreaterThan(heap.before)
  expect(heap.most - heap.before).toBeLessThan(20_000_000)
})
