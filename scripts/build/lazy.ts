import { analyze, type Reference } from 'eslint-scope'
import type { ESTree } from 'rolldown/utils'
import { parseAst } from 'rolldown/parseAst'
import { childrenOf, type Edit, edited, nodesOf } from './syntax.ts'

/** A comment of the bundler before each module. */
const MODULE = /^\/\/ (\S+\.\w+)$/gm

/** Functions that make next to nothing: their results are constants as they are. */
const CHEAP = new Set(['service', 'provide', 'provideForIsolate'])

const LAZY = `
function lazy(make) {
  let value
  return () => (value ??= make())
}
`

/**
 * A whole program whose constants are made at their first use, so that a new isolate makes only the tables, schemas and
 * routes that it needs: `const Post = object(…)` becomes `const Post = lazy(() => object(…))`, and each mention of it
 * `Post()`. These are the constants at the top of modules below `folder` whose values calls make, and what is made of such
 * constants. So a value must not depend on when it is made.
 */
export function deferConstants(code: string, folder: string): string {
  const modules = [...code.matchAll(MODULE)]
  const isOurs = ({ start }: ESTree.Node) =>
    modules.findLast(({ index }) => index < start)?.[1]?.startsWith(folder) ?? false
  if (!modules.some(([, path]) => path?.startsWith(folder))) throw new Error(`The program has no modules of ${folder}`)

  const program = parseAst(code)
  const parents = new Map<ESTree.Node, ESTree.Node>()
  for (const node of nodesOf(program)) {
    Object.assign(node, { range: [node.start, node.end] }) // as eslint-scope expects it
    for (const child of childrenOf(node)) parents.set(child, node)
  }
  const scopes = analyze(program as never, { ecmaVersion: 2024, sourceType: 'module' }) // both are ESTree

  /** Constants of ours that may wait, by their declaration. */
  const waiting = new Map<ESTree.Node, { value: ESTree.Expression; references: Reference[] }>()
  for (const { defs, references } of scopes.globalScope?.childScopes[0]?.variables ?? []) {
    const declarator = defs[0]?.node as unknown as ESTree.Node | undefined // the same tree
    if (declarator?.type !== 'VariableDeclarator' || declarator.id.type !== 'Identifier' || !declarator.init) continue
    const declaration = parents.get(declarator)
    if (declaration?.type !== 'VariableDeclaration' || declaration.kind !== 'const' || !isOurs(declarator)) continue
    waiting.set(declarator, { value: declarator.init, references: references.filter(({ init }) => !init) })
  }

  const edits: Edit[] = []
  function defer(declarator: ESTree.Node): void {
    const constant = waiting.get(declarator)
    if (!waiting.delete(declarator) || !constant) return
    const { value, references } = constant
    edits.push({ start: value.start, end: value.start, text: '/* @__PURE__ */ lazy(() => (' })
    edits.push({ start: value.end, end: value.end, text: '))' })
    for (const { identifier, from } of references) {
      const mention = identifier as unknown as ESTree.IdentifierReference // the same tree
      const { name, start, end } = mention
      const parent = parents.get(mention)
      const isShorthand = parent?.type === 'Property' && parent.shorthand
      edits.push({ start, end, text: isShorthand ? `${name}: ${name}()` : `(${name}())` })
      // A constant that needs this one when it is made waits too.
      if (from.type === 'module') for (let node = parent; node; node = parents.get(node)) defer(node)
    }
  }
  for (const [declarator, { value }] of waiting) if (isMadeByCall(value)) defer(declarator)
  return edited(code, edits) + LAZY
}

/** Modules of these kinds are alike, those of a folder too, and gzip finds what is alike within 32 KB only. */
const KINDS = ['schema.ts', 'routes.ts', 'feature.ts']

/**
 * A program of `deferConstants` with the functions and deferred constants of `folder` by kind and folder, after the
 * libraries. What else is at the top of our modules comes last, in its order.
 */
export function sortModules(code: string, folder: string): string {
  let at = 0
  let path = ''
  const placeOf = (statement: ESTree.Node) => {
    const isLibrary = path === '' || /node_modules|rolldown/.test(path)
    if (isLibrary) return '0'
    if (!path.startsWith(folder)) return '3'
    if (!isMovable(statement)) return '2'
    const kind = KINDS.findIndex((name) => path.endsWith(name))
    return `1 ${kind < 0 ? KINDS.length : kind} ${path}`
  }
  const parts = parseAst(code).body.map((statement) => {
    path = [...code.slice(at, statement.start).matchAll(MODULE)].at(-1)?.[1] ?? path
    const text = code.slice(at, statement.end)
    at = statement.end
    return { text, place: placeOf(statement) }
  })
  return parts
    .toSorted((a, b) => a.place.localeCompare(b.place, 'en'))
    .map(({ text }) => text)
    .join('\n')
}

/** Whether a statement declares what evaluates nothing until it is used. */
function isMovable(statement: ESTree.Node): boolean {
  if (statement.type === 'FunctionDeclaration') return true
  if (statement.type !== 'VariableDeclaration' || statement.kind !== 'const') return false
  return statement.declarations.every(({ init }) => {
    const isDeferred =
      init?.type === 'CallExpression' && init.callee.type === 'Identifier' && init.callee.name === 'lazy'
    return isDeferred || init?.type === 'ArrowFunctionExpression' || init?.type === 'Literal'
  })
}

/** Whether evaluating an expression calls something, but for what functions in it do later. */
function isMadeByCall(node: ESTree.Node): boolean {
  switch (node.type) {
    case 'ArrowFunctionExpression':
    case 'FunctionExpression':
      return false
    case 'CallExpression':
      return !(node.callee.type === 'Identifier' && CHEAP.has(node.callee.name))
    case 'NewExpression':
    case 'TaggedTemplateExpression':
      return true
    default:
      return childrenOf(node).some(isMadeByCall)
  }
}
