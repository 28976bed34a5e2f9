import { expect, test } from 'vitest'
import { joinTrace, traceparentOf } from '../src/trace.ts'

const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736'
const PARENT_ID = '00f067aa0ba902b7'

test.each([
  [`00-${TRACE_ID}-${PARENT_ID}-01`, '01'],
  [`00-${TRACE_ID}-${PARENT_ID}-00`, '00'],
  [`00-${TRACE_ID}-${PARENT_ID}-ff`, 'ff'],
  [`01-${TRACE_ID}-${PARENT_ID}-01`, '01'], // a version to come
  [`cc-${TRACE_ID}-${PARENT_ID}-01-what-the-future-will-be-like`, '01'],
])('the traceparent %s is joined', (header, flags) => {
  const trace = joinTrace(header)
  expect(trace).toMatchObject({ traceId: TRACE_ID, flags })
  expect(traceparentOf(trace)).toBe(`00-${TRACE_ID}-${trace.spanId}-${flags}`)
  expect(trace.spanId).not.toBe(PARENT_ID)
})

test.each([
  undefined,
  '',
  'nonsense',
  TRACE_ID,
  `ff-${TRACE_ID}-${PARENT_ID}-01`,
  `00-${TRACE_ID}-${PARENT_ID}-01-more`,
  `00-${TRACE_ID}-${PARENT_ID}-01-`,
  `00-${TRACE_ID}-${PARENT_ID}-01.5`,
  `cc-${TRACE_ID}-${PARENT_ID}-01.what`,
  `00-${'0'.repeat(32)}-${PARENT_ID}-01`,
  `00-${TRACE_ID}-${'0'.repeat(16)}-01`,
  `00-${TRACE_ID.toUpperCase()}-${PARENT_ID}-01`,
  `00-${TRACE_ID.slice(1)}-${PARENT_ID}-01`,
  `00-${TRACE_ID}a-${PARENT_ID}-01`,
  `00-${TRACE_ID}-${PARENT_ID}-1`,
  `0-${TRACE_ID}-${PARENT_ID}-01`,
  `00-${TRACE_ID}-${PARENT_ID}`,
  `00-${TRACE_ID}-${PARENT_ID}-0g`,
  `00-${TRACE_ID}-${PARENT_ID}-01, 00-${TRACE_ID}-${PARENT_ID}-01`,
])('the traceparent %j is replaced', (header) => {
  const [first, second] = [joinTrace(header), joinTrace(header)]
  expect(first.traceId).toMatch(/^(?!0+$)[\da-f]{32}$/)
  expect(first.traceId).not.toBe(TRACE_ID)
  expect(first.traceId).not.toBe(second.traceId)
  expect(first.flags).toBe('00')
})
