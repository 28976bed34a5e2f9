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
    const space = /[\w$]/.test(code[start - 1] ?? '') ? ' ' : '' // after `default`, say
    const given = code.slice(params[0]?.start, params.at(-1)?.end ?? 0)
    const head = `${space}${node.async ? 'async ' : ''}function(${given})`
    const bodyAt = code.lastIndexOf('=>', body.start) + 2 // the body may be in parentheses
    if (body.type === 'BlockStatement') return void edits.push({ start, end: bodyAt, text: head })
    edits.push({ start, end: bodyAt, text: `${head}{return ` }, { start: end, end, text: '}' })
  }
  visit(parseAst(code))
  return edited(code, edits)
}

/** Whether a function would mean something else with a `this` of its own. */
function isBound(arrow: ESTree.Node): boolean {
  for (const node of nodesOf(arrow)) {
    if (node.type === 'ThisExpression' || node.type === 'Super') return true
    if (node.type === 'Identifier' && node.name === 'arguments') return true
  }
  return false
}
