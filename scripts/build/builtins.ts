import { parseAst } from 'rolldown/parseAst'
import { type Edit, edited } from './syntax.ts'

/**
 * A program of `deferConstants`, whose `lazy` it uses, that loads the modules of Node at the first call of one of their functions:
 * `node:crypto` takes workerd a tenth of the start of an isolate, and a request without a token does not need it. The program
 * imports only functions.
 */
export function deferBuiltins(code: string): string {
  const edits: Edit[] = []
  for (const node of parseAst(code).body) {
    if (node.type !== 'ImportDeclaration' || !node.source.value.startsWith('node:')) continue
    const load = node.source.value.replace(/\W/g, '_')
    const functions = node.specifiers.map((specifier) => {
      if (specifier.type !== 'ImportSpecifier' || specifier.imported.type !== 'Identifier')
        throw new Error(`${node.source.value} is imported as a whole`)
      return `function ${specifier.local.name}(...given) { return ${load}().${specifier.imported.name}(...given) }`
    })
    const loader = `const ${load} = lazy(() => createRequire('/')('${node.source.value}'))`
    edits.push({ start: node.start, end: node.end, text: [loader, ...functions].join('\n') })
  }
  return edits.length > 0 ? `import { createRequire } from 'node:module'\n${edited(code, edits)}` : code
}
