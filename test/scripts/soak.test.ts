import { expect, test } from 'vitest'
import { createModel, gapsIn } from '../../scripts/soak/model.ts'

test('an acknowledged write that the database does not have is lost', () => {
  const model = createModel()
  model.write('like', 'ada p_1', 'liked', 'done')
  expect(model.judge('like', 'ada p_1', 'liked')).toBe('right')
  expect(model.judge('like', 'ada p_1', null)).toBe('lost')
})

test('an older value than the acknowledged one is lost, and one that nobody wrote is a ghost', () => {
  const model = createModel()
  model.write('post', 'one', 'first', 'done')
  model.write('post', 'one', 'second', 'done')
  expect(model.judge('post', 'one', 'first')).toBe('lost')
  expect(model.judge('post', 'one', 'third')).toBe('ghost')
  expect(model.judge('post', 'two', 'first')).toBe('ghost')
})

test('what was deleted and is there again is a ghost', () => {
  const model = createModel()
  model.write('post', 'one', 'first', 'done')
  model.write('post', 'one', null, 'done')
  expect(model.judge('post', 'one', null)).toBe('right')
  expect(model.judge('post', 'one', 'first')).toBe('ghost')
})

test('a write of unknown outcome may have happened or not, until a later one is acknowledged', () => {
  const model = createModel()
  model.write('follow', 'ada bob', 'follows', 'done')
  model.write('follow', 'ada bob', null, 'unknown')
  expect(model.judge('follow', 'ada bob', null)).toBe('right')
  expect(model.judge('follow', 'ada bob', 'follows')).toBe('right')
  model.write('follow', 'ada bob', null, 'done')
  expect(model.judge('follow', 'ada bob', 'follows')).toBe('ghost')
})

test('a refused write changes nothing', () => {
  const model = createModel()
  model.write('profile', 'ada', 'Ada', 'done')
  model.write('profile', 'ada', 'Bob', 'refused')
  expect(model.judge('profile', 'ada', 'Ada')).toBe('right')
  expect(model.judge('profile', 'ada', 'Bob')).toBe('ghost')
})

test('events of acknowledged writes must arrive, those of unknown outcome may, and no others', () => {
  const model = createModel()
  model.publish('created one', 'done')
  model.publish('created two', 'unknown')
  model.publish('created two', 'done')
  model.publish('created three', 'unknown')
  model.publish('created four', 'refused')
  expect(model.judgeEvents(new Set(['created one', 'created four']))).toEqual({
    lost: ['created two'],
    ghosts: ['created four'],
  })
})

test('a gap is a number that was wanted after the last reset and not seen', () => {
  expect(gapsIn(new Set([1, 2, 4]), [1, 2, 3, 4])).toEqual([3])
  expect(gapsIn(new Set([4]), [1, 2, 3, 4], 3)).toEqual([])
})
