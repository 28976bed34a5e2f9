import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createVault, UnreadableError } from '../../src/webhooks/vault.ts'

const [first, second] = ['the first key of this test', 'the second key of this test']

test('what is sealed opens again, differs each time, and shows nothing of the text', () => {
  const vault = createVault([first])
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.string(), (text, context) => {
      const sealed = vault.seal(text, context)
      expect(sealed).toMatch(/^v1\.[0-9a-f]{8}\.[\w-]{16}\.[\w-]{22,}$/)
      expect(sealed.startsWith(vault.prefix)).toBe(true)
      expect(vault.open(sealed, context)).toBe(text)
      expect(vault.seal(text, context)).not.toBe(sealed)
    }),
  )
  expect(vault.seal('whsec_plain', 'wh_1')).not.toContain('plain')
})

test('the first key encrypts, all decrypt, and another key does not', () => {
  const old = createVault([first]).seal('secret', 'wh_1')
  const rotated = createVault([second, first])
  expect(rotated.open(old, 'wh_1')).toBe('secret')
  expect(old.startsWith(rotated.prefix)).toBe(false)
  const fresh = rotated.seal('secret', 'wh_1')
  expect(createVault([second]).open(fresh, 'wh_1')).toBe('secret')
  expect(() => createVault([first]).open(fresh, 'wh_1')).toThrow(UnreadableError)
})

test('a value that was altered, or copied to another row, does not open', () => {
  const vault = createVault([first])
  const sealed = vault.seal('secret', 'wh_1')
  expect(() => vault.open(sealed, 'wh_2')).toThrow(UnreadableError)
  fc.assert(
    fc.property(fc.integer({ min: 12, max: sealed.length - 2 }), (at) => {
      const altered = sealed.slice(0, at) + (sealed[at] === 'A' ? 'B' : 'A') + sealed.slice(at + 1)
      if (sealed[at] === '.') return
      expect(() => vault.open(altered, 'wh_1')).toThrow(UnreadableError)
    }),
  )
})

test('plain text from before encryption is read as it is', () => {
  const vault = createVault([first])
  for (const plain of ['whsec_c2VjcmV0', 'Bearer v1.token', 'v1.0123abcd.short.x', '']) {
    expect(vault.open(plain, 'wh_1')).toBe(plain)
  }
})
