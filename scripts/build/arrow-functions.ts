import type { ESTree } from 'rolldown/utils'
import { parseAst } from 'rolldown/parseAst'
import { childrenOf, type Edit, edited, nodesOf } from './syntax.ts'

/** A shorter arrow function costs V8 less than the longer text costs the network. */
const MIN_LENGTH = 160

/**
 * A program whose arrow functions at the top, which are in no other function, are functions: `(a) => b` becomes
 * `function (a) { return b }`. V8 parses such an arrow function twice, when it reads the module and at the first call. Of a
 * function it only looks for the end, and parses it at the first call. What uses `this` stays an arrow function.
 */
export function replaceArrowFunctions(code: string, minLength = MIN_LENGTH): string {
  const edits: Edit[] = []
  const visit = (node: ESTree.Node): void => {
    if (node.type === 'FunctionExpression' || node.type === 'FunctionDeclaration') return
    if (node.type !== 'ArrowFunctionExpression') return childrenOf(node).forEach(visit)
    const { start, end, params, body } = node
    if (end - start < minLength || isBound(node)) return
    const [first] = params
    const space = /[\w$]/.test(code[start - 1] ?? '') ? ' ' : '' // after `return`, say
    const head = `${space}${node.async ? 'async ' : ''}function(`
    const open = body.type === 'BlockStatement' ? ')' : '){return '
    const bodyAt = code.lastIndexOf('=>', body.start) + 2
    if (first) edits.push({ start, end: first.start, text: head })
    edits.push({ start: params.at(-1)?.end ?? start, end: bodyAt, text: first ? open : head + open })
    if (body.type !== 'BlockStatement') edits.push({ start: end, end, text: '}' })
  }
  visit(parseAst(code))
  return edited(code, edits)
}

/** Whether a function would mean something else with a `this` of its own. */
function isBound(arrow: ESTree.Node): boolean {
  for (const { type, ...node } of nodesOf(arrow)) {
    if (type === 'ThisExpression' || type === 'Super') return true
    if (type === 'Identifier' && 'name' in node && node.name === 'arguments') return true
  }
  return false
}
