import type { ESTree } from 'rolldown/utils'
import { parseAst } from 'rolldown/parseAst'
import { cut, nodesOf, type Range } from './syntax.ts'

/** Functions whose result only documents: their calls are no arguments in the Worker. */
const DOCUMENTING = new Set(['doc', 'declare', 'v.description', 'v.metadata'])
/** The methods of an app that take `doc` as an argument. Elsewhere, the arguments after it would move. */
const ROUTES = /\.(?:get|post|put|patch|delete)$/
/** Functions that add documentation to their last argument: in the Worker, their calls are that argument. */
const DOCUMENTED = new Set(['described', 'describedInput'])
/** A parameter that only documents: texts for it are no arguments in the Worker. It is the last one. */
const DOCUMENTATION = 'meaning'

/**
 * A module of src/ without its documentation: the descriptions of routes, of schemas and of variables. They are for the
 * OpenAPI document and for docs/, which are made from the complete source.
 */
export function removeDocumentation(code: string): string {
  const nodes = [...nodesOf(parseAst(code, { lang: 'ts' }))]
  const explained = new Set(nodes.flatMap(explainedFunction))
  const removed: Range[] = []
  for (const node of nodes) {
    if (node.type !== 'CallExpression') continue
    const callee = nameOf(node.callee)
    const last = node.arguments.at(-1)
    if (DOCUMENTED.has(callee) && last) {
      removed.push({ start: node.start, end: last.start }, { start: last.end, end: node.end })
    }
    for (const [i, argument] of node.arguments.entries()) {
      const isText = argument === last && argument.type === 'Literal' && explained.has(callee)
      const isCall = argument.type === 'CallExpression' && DOCUMENTING.has(nameOf(argument.callee))
      if (!isText && !isCall) continue
      if (isCall && nameOf(argument.callee) === 'doc' && !ROUTES.test(callee)) {
        throw new Error(`Pass the doc() of a route to the app, not to ${callee || 'an expression'}`)
      }
      // With the commas around it, but for one between two arguments that stay.
      const start = node.arguments[i - 1]?.end ?? argument.start
      const next = node.arguments[i + 1]
      removed.push({ start, end: next ? (i === 0 ? next.start : argument.end) : node.end - 1 })
    }
  }
  return cut(code, removed)
}

/** The name of a function of the module whose last parameter only documents. */
function explainedFunction(node: ESTree.Node): string[] {
  if (node.type !== 'VariableDeclarator' || node.id.type !== 'Identifier') return []
  if (node.init?.type !== 'ArrowFunctionExpression') return []
  const last = node.init.params.at(-1)
  return last?.type === 'Identifier' && last.name === DOCUMENTATION ? [node.id.name] : []
}

/** `doc`, or `v.metadata`. Empty: any other expression. */
function nameOf(callee: ESTree.Expression | ESTree.Super): string {
  if (callee.type === 'Identifier') return callee.name
  if (callee.type !== 'MemberExpression' || callee.computed || callee.property.type !== 'Identifier') return ''
  return `${nameOf(callee.object)}.${callee.property.name}`
}
