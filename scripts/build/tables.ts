import { parseAst } from 'rolldown/parseAst'
import { cut, nodesOf, type Range } from './syntax.ts'

/**
 * A module with tables, without what only migrations need: `NOT NULL`, and the third argument of `sqliteTable` with indexes and
 * composite keys. References stay, because a restore reads them.
 */
export function removeConstraints(code: string): string {
  const removed: Range[] = []
  for (const node of nodesOf(parseAst(code, { lang: 'ts' }))) {
    if (node.type !== 'CallExpression') continue
    const { callee, arguments: given } = node
    const [, columns, constraints] = given
    if (callee.type === 'MemberExpression' && !callee.computed && callee.property.name === 'notNull')
      removed.push({ start: callee.object.end, end: node.end })
    if (callee.type === 'Identifier' && callee.name === 'sqliteTable' && columns && constraints)
      removed.push({ start: columns.end, end: constraints.end })
  }
  return cut(code, removed)
}
