import type { ESTree } from 'rolldown/utils'
import { parseAst } from 'rolldown/parseAst'
import { cut, childrenOf } from './syntax.ts'

/** Members that the runtime or the language calls, without a mention in the program. */
const PROTOCOL =
  'constructor then catch finally next return throw toString toJSON valueOf start pull cancel transform flush write close ' +
  'abort fetch queue scheduled alarm get set has apply'

const isFunction = (node: ESTree.Node | null) =>
  node?.type === 'FunctionExpression' || node?.type === 'ArrowFunctionExpression'

/** Whether evaluating an expression only makes a value: then it happens when something uses the value, or not at all. */
function isPure(node: ESTree.Node | null): boolean {
  switch (node?.type) {
    case 'ArrayExpression':
      return node.elements.every(isPure)
    case 'ObjectExpression':
      return node.properties.every(
        (property) => property.type === 'Property' && !property.computed && isPure(property.value),
      )
    case 'NewExpression':
      return (
        node.callee.type === 'Identifier' &&
        /^(Map|Set|WeakMap)$/.test(node.callee.name) &&
        node.arguments.every(isPure)
      )
    case 'ClassExpression':
    case 'Identifier':
    case 'Literal':
      return true
    default:
      return isFunction(node ?? null)
  }
}

/**
 * A whole program without the methods of its classes that nothing mentions. Bundlers keep all of them. In SDKs and query
 * builders these are most of the code, with everything that only they use.
 *
 * A method stays if the reachable part of the program mentions its name in any way: as a property of anything, as a
 * name in a pattern, or as a whole string. So a method found by a name that the program computes is the only thing it
 * could miss; `test/build` runs the result. `unused` lists members that are known to be unused although their names
 * occur, by class.
 */
export function removeUnusedMembers(code: string, unused: Record<string, string[]> = {}): string {
  const program = parseAst(code)
  /** Declarations at the top that have not been reached: nothing happens before they are used. */
  const declared = new Map<string, ESTree.Node>()
  const mentioned = new Set(PROTOCOL.split(' '))
  /** Members that have not been reached, by name. */
  const waiting = new Map<string, { node: ESTree.Node; parts: ESTree.Node[] }[]>()
  const dead = new Set<ESTree.Node>()
  /** Objects whose properties are members like those of classes. */
  const records = new Set<ESTree.Node>()
  const toVisit: ESTree.Node[] = []

  function mention(name: string): void {
    mentioned.add(name)
    for (const { node, parts } of waiting.get(name) ?? []) {
      dead.delete(node)
      toVisit.push(...parts)
    }
    waiting.delete(name)
  }
  function wait(name: string, node: ESTree.Node, parts: ESTree.Node[]): void {
    dead.add(node)
    waiting.set(name, [...(waiting.get(name) ?? []), { node, parts }])
  }
  /** Whether a member of the class `name` is listed as unused. */
  const isUnused = (name: string | undefined, member: ESTree.ClassElement) =>
    name !== undefined && 'key' in member && member.key.type === 'Identifier' && unused[name]?.includes(member.key.name)

  function visitClass(node: ESTree.Class, name = node.id?.name): void {
    if (node.superClass) toVisit.push(node.superClass)
    for (const member of node.body.body) {
      if (isUnused(name, member)) {
        dead.add(member)
        continue
      }
      const isMethod = member.type === 'MethodDefinition' && member.kind !== 'constructor'
      const isLambda = member.type === 'PropertyDefinition' && isFunction(member.value)
      if ((!isMethod && !isLambda) || member.computed || member.key.type !== 'Identifier') {
        toVisit.push(member)
        continue
      }
      const { name: key } = member.key
      const parts = member.value ? [member.value] : []
      if (mentioned.has(key)) toVisit.push(...parts)
      else wait(key, member, parts)
    }
  }
  function visitRecord(node: ESTree.ObjectExpression): void {
    for (const property of node.properties) {
      if (property.type !== 'Property' || property.key.type !== 'Identifier') {
        toVisit.push(property)
        continue
      }
      if (property.value.type === 'ObjectExpression') records.add(property.value)
      if (mentioned.has(property.key.name)) toVisit.push(property.value)
      else wait(property.key.name, property, [property.value])
    }
  }
  function visit(node: ESTree.Node): void {
    switch (node.type) {
      case 'ClassDeclaration':
      case 'ClassExpression':
        return visitClass(node)
      case 'ObjectExpression':
        if (records.has(node)) return visitRecord(node)
        break
      case 'VariableDeclarator':
        if (node.init?.type === 'ObjectExpression' && node.id.type === 'Identifier' && node.id.name in unused)
          records.add(node.init)
        // A class that esbuild or tsup has made an expression is known by the name of its variable.
        if (node.init?.type === 'ClassExpression' && node.id.type === 'Identifier')
          return visitClass(node.init, node.id.name)
        break
      case 'Identifier': {
        const declaration = declared.get(node.name)
        declared.delete(node.name)
        if (declaration) toVisit.push(declaration)
        return
      }
      case 'PrivateIdentifier':
        return mention(node.name)
      case 'Literal':
        return typeof node.value === 'string' ? mention(node.value) : undefined
      case 'MemberExpression':
        if (node.computed || node.property.type !== 'Identifier') break
        mention(node.property.name)
        toVisit.push(node.object)
        return
      case 'ObjectPattern':
        for (const property of node.properties) {
          if (property.type === 'RestElement') toVisit.push(property)
          else toVisit.push(property.computed ? property.key : property.value, property.value)
          if (property.type === 'Property' && property.key.type === 'Identifier') mention(property.key.name)
        }
        return
      case 'Property':
        toVisit.push(node.value)
        if (node.computed) toVisit.push(node.key)
        return
      case 'ExpressionStatement': {
        // A method as CommonJS has it: `IPv4.prototype.match = function …`
        const { expression } = node
        if (expression.type !== 'AssignmentExpression' || expression.operator !== '=' || !isFunction(expression.right))
          break
        const { left } = expression
        if (left.type !== 'MemberExpression' || left.computed || left.property.type !== 'Identifier') break
        if (mentioned.has(left.property.name)) break
        return wait(left.property.name, node, [left.object, expression.right])
      }
    }
    toVisit.push(...childrenOf(node))
  }

  for (const statement of program.body) {
    if (statement.type === 'FunctionDeclaration' || statement.type === 'ClassDeclaration') {
      if (statement.id) declared.set(statement.id.name, statement)
    } else if (statement.type === 'VariableDeclaration') {
      for (const declarator of statement.declarations) {
        if (isPure(declarator.init) && declarator.id.type === 'Identifier') declared.set(declarator.id.name, declarator)
        else toVisit.push(declarator)
      }
    } else {
      toVisit.push(statement)
    }
  }
  for (let node = toVisit.pop(); node; node = toVisit.pop()) visit(node)
  return cut(
    code,
    // A property with the comma after it.
    [...dead].map(({ type, start, end }) => ({ start, end: type === 'Property' && code[end] === ',' ? end + 1 : end })),
  )
}
