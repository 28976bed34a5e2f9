import * as v from 'valibot'
import { expect, test } from 'vitest'
import { meets } from '../../src/webhooks/filter.ts'
import { Filter } from '../../src/webhooks/schema.ts'

const event = {
  subject: 'p_1',
  type: 'counter_update',
  channel: 'counter_events',
  data: { contentId: 'p_1', value: 100, isHot: true, by: { id: 'u_1', tags: ['a'] }, none: null },
}

test.each([
  [{}, true],
  [{ subject: 'p_1' }, true],
  [{ subject: 'p_2' }, false],
  [{ subject: ['p_2', 'p_1'] }, true],
  [{ subject: ['p_2', 'p_3'] }, false],
  [{ type: 'counter_update', channel: 'counter_events' }, true],
  [{ type: 'counter_update', channel: 'post_events' }, false],
  [{ 'data.value': 100 }, true],
  [{ 'data.value': '100' }, false],
  [{ 'data.value': { gte: 100, lt: 101 } }, true],
  [{ 'data.value': { gt: 100 } }, false],
  [{ 'data.value': { lte: 99 } }, false],
  [{ 'data.contentId': { gte: 0 } }, false],
  [{ 'data.isHot': true }, true],
  [{ 'data.none': null }, true],
  [{ 'data.by.id': 'u_1' }, true],
  [{ 'data.by.tags.0': 'a' }, true],
  [{ 'data.by.id.length': 3 }, false],
  [{ 'data.missing': { exists: false } }, true],
  [{ 'data.value': { exists: false } }, false],
  [{ 'data.none': { exists: true } }, true],
  [{ 'data.missing': { gte: 0 } }, false],
  [{ 'data.missing': null }, false],
  [{ 'data.by.id': { not: 'u_2' } }, true],
  [{ 'data.by.id': { not: 'u_1' } }, false],
  [{ 'data.constructor': { exists: true } }, false],
  [{ 'data.__proto__.toString': { exists: true } }, false],
])('%j takes the event: %s', (filter, isTaken) => {
  expect(meets(event, v.parse(Filter, filter))).toBe(isTaken)
})

test.each([
  [{ id: 'ev_1' }, 'id'],
  [{ constructor: 1 }, 'constructor'],
  [JSON.parse('{"__proto__":{}}'), '__proto__'],
  [{ prototype: 1 }, 'prototype'],
  [[], undefined],
  [{ data: 1 }, 'data'],
  [{ 'data.': 1 }, 'data.'],
  [{ 'data.a.b.c.d.e.f': 1 }, 'data.a.b.c.d.e.f'],
  [{ 'data.a b': 1 }, 'data.a b'],
  [{ 'data.a': [] }, 'data.a'],
  [{ 'data.a': {} }, 'data.a'],
  [{ 'data.a': { like: 'x' } }, 'data.a'],
  [{ 'data.a': { gt: '1' } }, 'data.a'],
  [{ 'data.a': [['x']] }, 'data.a'],
  [{ 'data.a': 'x'.repeat(201) }, 'data.a'],
  [{ 'data.a': Array.from({ length: 51 }, (_, i) => i) }, 'data.a'],
  [Object.fromEntries(Array.from({ length: 11 }, (_, i) => [`data.a${i}`, i])), undefined],
])('%j is no filter', (filter, field) => {
  const parsed = v.safeParse(Filter, filter)
  expect(parsed.success).toBe(false)
  expect(parsed.issues?.[0].path?.[0].key).toBe(field)
})
