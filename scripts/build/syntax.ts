import type { ESTree } from 'rolldown/utils'

/** A part of a source text, in UTF-16 units. */
export interface Range {
  start: number
  end: number
}

const isNode = (value: unknown): value is ESTree.Node => typeof value === 'object' && value !== null && 'type' in value

/** The children of a node, in order. */
export function childrenOf(node: ESTree.Node): ESTree.Node[] {
  return Object.values(node).flatMap((value: unknown) =>
    Array.isArray(value) ? value.filter(isNode) : isNode(value) ? [value] : [],
  )
}

/** A node and all nodes in it. */
export function* nodesOf(node: ESTree.Node): Generator<ESTree.Node> {
  yield node
  for (const child of childrenOf(node)) yield* nodesOf(child)
}

/** A part of a text, and what replaces it. */
export interface Edit extends Range {
  text: string
}

/** A text with some of its parts replaced. */
export function edited(code: string, edits: Edit[]): string {
  const kept: string[] = []
  let at = 0
  for (const { start, end, text } of edits.toSorted((a, b) => a.start - b.start || a.end - b.end)) {
    kept.push(code.slice(at, Math.max(at, start)), text)
    at = Math.max(at, end)
  }
  return kept.join('') + code.slice(at)
}

/** A text without some of its parts. */
export const cut = (code: string, ranges: Range[]): string =>
  edited(
    code,
    ranges.map(({ start, end }) => ({ start, end, text: '' })),
  )
