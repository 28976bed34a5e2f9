import { parseAst } from 'rolldown/parseAst'
import { type Edit, edited, nodesOf } from './syntax.ts'

/** A comment of Lua in a line of its own, unless src/redis/client.ts reads it. */
const LUA_COMMENT = /^--(?! usually calls )/

/**
 * A module of src/ with its SQL and Lua in fewer bytes: without the indentation of lines, in Lua without comments too.
 * Lines stay lines. The SQL of drizzle's `sql` and Lua scripts, which begin with `#!lua`, have no strings of several
 * lines.
 */
export function compactEmbedded(code: string): string {
  const edits: Edit[] = []
  for (const node of nodesOf(parseAst(code, { lang: 'ts' }))) {
    const isSql = node.type === 'TaggedTemplateExpression' && node.tag.type === 'Identifier' && node.tag.name === 'sql'
    const template = isSql ? node.quasi : node
    if (template.type !== 'TemplateLiteral') continue
    const isLua = template.quasis[0]?.value.raw.startsWith('#!lua') ?? false
    if (!isSql && !isLua) continue
    for (const { start, end, value, tail } of template.quasis) {
      const [first = '', ...lines] = value.raw.split('\n').map((line, i) => (i === 0 ? line : line.trimStart()))
      const kept = isLua ? lines.filter((line) => !LUA_COMMENT.test(line)) : lines
      // In TypeScript, the range of a part has its delimiters: a backtick or a brace, and a backtick or `${`.
      edits.push({ start: start + 1, end: end - (tail ? 1 : 2), text: [first, ...kept].join('\n') })
    }
  }
  return edited(code, edits)
}
