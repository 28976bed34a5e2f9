import { createHash } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import { expect, test } from 'vitest'
import { deferBuiltins } from '../../scripts/build/builtins.ts'
import { removeDocumentation } from '../../scripts/build/documentation.ts'
import { compactEmbedded } from '../../scripts/build/embedded.ts'
import { replaceArrowFunctions } from '../../scripts/build/arrow-functions.ts'
import { deferConstants, sortModules } from '../../scripts/build/lazy.ts'
import { removeUnusedMembers } from '../../scripts/build/members.ts'
import { problemPages } from '../../scripts/build/problems.ts'
import { removeConstraints } from '../../scripts/build/tables.ts'
import { bundleWorker } from '../../scripts/build/worker.ts'
import { explanations } from '../../src/docs/problems.ts'
import { problems } from '../../src/errors.ts'
import { decode, encode } from '../../src/webhooks/native-base64.ts'
import { hmac } from '../../src/webhooks/native-sha256.ts'

const withoutBlanks = (code: string) => code.replaceAll(/\s+/g, '')

test.each([
  ["app.get('/', doc({ summary: 'Read' }), handler)", "app.get('/', handler)"],
  ["app.get('/', handler, doc({ summary: 'Read' }))", "app.get('/', handler)"],
  [
    "const list = (meaning: string) => 1; const x = list(\n  'Origins',\n)",
    'const list = (meaning: string) => 1; const x = list()',
  ],
  [
    "const whole = (min: number, meaning: string) => min; const x = whole(1, 'Bytes')",
    'const whole = (min: number, meaning: string) => min; const x = whole(1)',
  ],
  ["v.pipe(v.string(), v.metadata({ ref: 'A' }), v.description('b'), v.trim())", 'v.pipe(v.string(), v.trim())'],
  ['const f = described({ security: [] }, async (c) => c.json(1))', 'const f = async (c) => c.json(1)'],
  ["const doc = (a: string) => a; const kept = doc('b')", "const doc = (a: string) => a; const kept = doc('b')"],
])('without documentation, %j is %j', (code, expected) => {
  expect(withoutBlanks(removeDocumentation(code))).toBe(withoutBlanks(expected))
})

test('the build refuses documentation where its removal would move other arguments', () => {
  expect(() => removeDocumentation("route('/', doc({ summary: 'Read' }), handler)")).toThrow('not to route')
  expect(removeDocumentation("new Hono().put('/', doc({}), handler)")).toBe("new Hono().put('/', handler)")
})

test('every problem has a page at its type, with its meaning, its cause and what to do', () => {
  const pages = problemPages()
  const list = pages['public/problems/index.html']
  expect(Object.keys(pages)).toHaveLength(Object.keys(problems).length + 1)
  for (const [type, { title, status }] of Object.entries(problems)) {
    const text = pages[`public/problems/${type}.html`]?.replaceAll(/<\/?code>/g, '`') ?? ''
    const { meaning, cause, remedy } = explanations[type as keyof typeof problems]
    for (const part of [title, `status ${status}`, meaning, cause, remedy]) expect(text).toContain(part)
    expect(list).toContain(`<a href="/problems/${type}">`)
  }
})

test('SQL and Lua keep their lines, without indentation and without comments of Lua', () => {
  const code =
    "const a = sql`\n    SELECT ${x}\n      FROM t` + `\n  other`\nconst b = `#!lua flags\n-- usually calls 2\n  -- why\n  return '--'`"
  expect(compactEmbedded(code)).toBe(
    "const a = sql`\nSELECT ${x}\nFROM t` + `\n  other`\nconst b = `#!lua flags\n-- usually calls 2\nreturn '--'`",
  )
})

const CONSTANTS = `
// node_modules/library.js
const table = make('library')
// src/a/schema.ts
const User = make('User')
const Users = [User]
const names = { User, first: (User) => User }
const MAX = 2
const shadow = (User) => [User, { User }, Users.length, MAX]
// src/a/routes.ts
class Route extends Object {}
const routes = new Map([['users', Users]])
// src/b/schema.ts
const Post = make(User)
// bench/entry.ts
globalThis.answer = () => [table, names, shadow('given'), routes.get('users') === Users, Post, new Route() instanceof Object]
`

/** What a program makes, in its order, and its answer. */
function run(program: string): { made: unknown[]; answer: unknown } {
  const made: unknown[] = []
  const make = (value: unknown) => (made.push(value), value)
  const target: { answer?: () => unknown } = {}
  // oxlint-disable-next-line no-implied-eval -- the program of this test
  new Function('make', 'globalThis', program)(make, target)
  const first = [...made]
  return { made: first, answer: JSON.stringify(target.answer?.()) }
}

test('constants of our modules are made at their first use, whatever shadows their names, in any order', () => {
  const expected = run(CONSTANTS)
  expect(expected.made).toEqual(['library', 'User', 'User'])
  const deferred = deferConstants(CONSTANTS, 'src/')
  for (const program of [deferred, sortModules(deferred, 'src/')]) {
    const { made, answer } = run(program)
    expect(made).toEqual(['library'])
    expect(answer).toBe(expected.answer)
  }
  expect(() => deferConstants(CONSTANTS, 'lib/')).toThrow('no modules of lib/')
})

test('modules of a kind are together, after the libraries', () => {
  const sorted = sortModules(deferConstants(CONSTANTS, 'src/'), 'src/')
  const places = ['table', 'User', 'Post', 'routes'].map((name) => sorted.indexOf(`const ${name} =`))
  expect(places).toEqual(places.toSorted((a, b) => a - b))
})

test.each([
  ['const f=(a,b=1)=>a+b', 'const f=function(a,b=1){return a+b}'],
  ['const f=a=>({a})', 'const f=function(a){return ({a})}'],
  ['const f=async({a},...b)=>{await a}', 'const f=async function({a},...b){await a}'],
  ['run(()=>a=>b)', 'run(function(){return a=>b})'],
  ['const f=g||(async a=>a)', 'const f=g||(async function(a){return a})'],
  ['class A extends B{static f=()=>1;g=()=>this.a}', 'class A extends B{static f=function(){return 1};g=()=>this.a}'],
  ['const f=()=>()=>this', 'const f=()=>()=>this'],
  ['export default()=>1', 'export default function(){return 1}'],
  ['function f(){return()=>1}', 'function f(){return()=>1}'],
])('arrow functions at the top are functions: %j is %j', (code, expected) => {
  expect(replaceArrowFunctions(code, 0)).toBe(expected)
})

test('a short arrow function stays one', () => {
  const code = `const f=()=>1,g=()=>'${'a'.repeat(200)}'`
  expect(replaceArrowFunctions(code)).toBe(`const f=()=>1,g=function(){return '${'a'.repeat(200)}'}`)
})

test('a module of Node is loaded at the first call of one of its functions', () => {
  const code = "import { createHash as hash, hkdfSync } from 'node:crypto'\nanswer = hash('md5').digest('hex')"
  const deferred = deferBuiltins(code)
  expect(deferred).toMatch(/^import \{ createRequire \} from 'node:module'\n/)
  const loaded: string[] = []
  const load = (name: string) => (loaded.push(name), process.getBuiltinModule(name))
  const lazy = (make: () => unknown) => () => make()
  const program = deferred.replace(/^import .*/, 'let answer;').concat('; return [answer, hkdfSync.name]')
  // oxlint-disable-next-line no-implied-eval -- the program of this test
  const run = new Function('createRequire', 'lazy', program)
  expect(run(() => load, lazy)).toEqual([createHash('md5').digest('hex'), 'hkdfSync'])
  expect(loaded).toEqual(['node:crypto'])
  expect(() => deferBuiltins("import crypto from 'node:crypto'")).toThrow('as a whole')
  expect(deferBuiltins('const a = 1')).toBe('const a = 1')
})

test('tables lose what only migrations need', () => {
  const table =
    "sqliteTable('a', { id: text().primaryKey(), b: text('b').notNull().default('') }, (t) => [index('i').on(t.b)])"
  expect(removeConstraints(table)).toBe("sqliteTable('a', { id: text().primaryKey(), b: text('b').default('') })")
})

const CLASSES = `
class Unused { idle() { return 'never' } }
class Client {
  static make() { return new Client() }
  constructor() { this.ready = true }
  read = () => this.send('GET')
  send(name) { return name }
  ping() { return this.pong() }
  pong() { return this.ping() }
  byString() { return 1 }
  byPattern() { return 2 }
  toJSON() { return {} }
  hidden() { return 3 }
}
const { byPattern } = new Client()
`

test('a method stays if the reachable program calls it, names it or has it in a pattern; the others go', () => {
  const code = removeUnusedMembers(`${CLASSES} console.log(Client.make().read(), new Client()['byString'], byPattern)`)
  for (const kept of ['static make', 'constructor', 'read =', 'send(', 'byString(', 'byPattern(', 'toJSON(']) {
    expect(code).toContain(kept)
  }
  for (const gone of ['ping(', 'pong(', 'hidden(']) expect(code).not.toContain(gone)
})

test('a method is removed although its name occurs if its class is listed; other classes keep theirs', () => {
  const program = 'class A { json() { return 1 } }; class B { json() { return 2 } }; new A(); new B().json()'
  expect(removeUnusedMembers(program, { A: ['json'] })).toBe(
    'class A {  }; class B { json() { return 2 } }; new A(); new B().json()',
  )
})

test('functions of CommonJS and properties of listed objects are members too', () => {
  const program = 'P.prototype.used = function () {}; P.prototype.idle = function () {}; new P().used()'
  expect(removeUnusedMembers(program)).not.toContain('idle')
  expect(removeUnusedMembers(program)).toContain('used = function')
  const scripts = 'const SCRIPTS = { one: { take: 1, peek: 2 }, many: { take: 3 } }; run(SCRIPTS.one.take)'
  expect(removeUnusedMembers(scripts)).toBe(scripts)
  expect(withoutBlanks(removeUnusedMembers(scripts, { SCRIPTS: [] }))).toBe(
    'constSCRIPTS={one:{take:1,},};run(SCRIPTS.one.take)',
  )
})

test('what stands in for the libraries of webhook signatures signs like them', () => {
  for (const length of [1, 2, 3, 32, 63, 64, 65, 200]) {
    const secret = Buffer.from(crypto.getRandomValues(new Uint8Array(length))).toString('base64')
    const [body, at] = ['é'.repeat(length), new Date(1_700_000_000_000)]
    const data = new TextEncoder().encode(`msg_1.1700000000.${body}`)
    expect(`v1,${encode(hmac(decode(secret), data))}`).toBe(new Webhook(secret).sign('msg_1', at, body))
  }
})

test('the Worker has no description of a route, a variable or a schema, and none of the libraries for them', async () => {
  const code = await bundleWorker('src/index.ts', { minify: true })
  const holds = (text: string) => [text, code.includes(text)]
  const absent = ['Repeated requests count once', 'Largest request body', 'toJSONSchema', 'zunionstore', 'ipDenyList']
  for (const text of absent) expect(holds(text)).toEqual([text, false])
  for (const text of ['zadd', '#!lua flags=allow-key-locking', 'violated-policies'])
    expect(holds(text)).toEqual([text, true])
  expect(code).toMatch(/export\s*\{\s*\w+ as default\s*\};?\s*$/)
}, 90_000)
