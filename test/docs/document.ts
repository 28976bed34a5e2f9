import { dereference, type Schema, validate } from '@cfworker/json-schema'
import { describeApp } from '../../src/docs/document.ts'
import examples from '../../src/docs/examples.json'
import { headers as describedHeaders } from '../../src/docs/headers.ts'
import { newApp } from '../edge.ts'

export interface Parameter {
  in: string
  name: string
  required?: boolean
  description?: string
  schema: Schema
}

export interface Operation {
  operationId: string
  summary?: string
  description?: string
  tags?: string[]
  security?: Record<string, string[]>[]
  'x-rate-limit'?: string
  parameters?: Parameter[]
  requestBody?: { content: Record<string, { schema: Schema }> }
  responses: Record<
    string,
    {
      description: string
      headers?: Record<string, { $ref: string }>
      content?: Record<string, { schema: Schema; example?: unknown }>
    }
  >
}

export interface Document {
  openapi: string
  info: { title: string; version: string }
  tags: { name: string; description: string }[]
  paths: Record<string, Record<string, Operation>>
  webhooks: Record<string, { post: { requestBody: { content: Record<string, { schema: Schema }> } } }>
  components: { schemas: Record<string, Schema>; headers: Record<string, object> }
}

let read: Promise<Document> | undefined

/** The document, which the first call reads: it takes as long as a hundred requests. */
export const readDocument = (): Promise<Document> =>
  (read ??= describeApp(newApp(), examples).then((document) => JSON.parse(JSON.stringify(document)) as Document)) // as it is served

/** Every operation by its name, `GET /v1/users/{id}`, in a new map. */
export async function readOperations() {
  const document = await readDocument()
  const operations = new Map(
    Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]): [string, Operation] => [
        `${method.toUpperCase()} ${path}`,
        operation,
      ]),
    ),
  )
  return { document, operations }
}

/**
 * `schema`, closed: a field that it does not describe is an error. Problems may have members of their own (RFC 9457 §3.2),
 * and an object without described fields may have any.
 */
function strict(schema: unknown, name?: string): unknown {
  if (Array.isArray(schema)) return schema.map((part) => strict(part))
  if (typeof schema !== 'object' || schema === null) return schema
  const parts = Object.fromEntries(Object.entries(schema).map(([key, part]) => [key, strict(part)]))
  const isDescribed = 'properties' in schema && Object.keys(schema.properties ?? {}).length > 0
  const isClosed = isDescribed && !('additionalProperties' in schema) && name !== 'Problem'
  return isClosed ? { ...parts, additionalProperties: false } : parts
}

/** The schemas that a document's values are checked with: closed, and by the address of each. */
interface Schemas {
  closed: Map<Schema, Schema>
  lookup: Record<string, Schema | boolean>
}
const known = new WeakMap<Document, Schemas>()

function schemasOf(document: Document): Schemas {
  let schemas = known.get(document)
  if (!schemas) {
    const named = Object.entries(document.components.schemas)
    const components = { schemas: Object.fromEntries(named.map(([name, schema]) => [name, strict(schema, name)])) }
    schemas = { closed: new Map(), lookup: dereference({ components }) }
    known.set(document, schemas)
  }
  return schemas
}

/** Where `value` differs from `schema` of `document`. */
export function errorsOf(document: Document, schema: Schema, value: unknown): string[] {
  const { closed, lookup } = schemasOf(document)
  let strictSchema = closed.get(schema)
  if (!strictSchema) {
    strictSchema = strict(schema) as Schema // still a schema
    dereference(strictSchema, lookup, undefined, `/checked/${closed.size}`)
    closed.set(schema, strictSchema)
  }
  return validate(value, strictSchema, '2020-12', lookup, false).errors.map(
    (error) => `${error.instanceLocation}: ${error.error}`,
  )
}

/** Where an answer differs from the document: its status, its media type, each field of its body. */
export async function errorsIn(document: Document, operation: Operation, response: Response): Promise<string[]> {
  const type = response.headers.get('Content-Type')?.split(';')[0] ?? ''
  const media = operation.responses[response.status]?.content?.[type]
  if (!media) return [`${response.status} ${type} is not documented`]
  const value: unknown =
    type.endsWith('json') && !type.endsWith('ndjson')
      ? await response.json()
      : new TextDecoder().decode(await response.arrayBuffer())
  return errorsOf(document, media.schema, value)
}

/** Headers that are always there where they are documented. */
const REQUIRED_HEADERS = ['ETag', 'Location', 'X-Request-Id', 'Traceresponse', 'Set-Cookie', 'WWW-Authenticate']

/** Where the headers of an answer differ from the document. Answers of routes that refuse may lack those of later middleware. */
export function headerErrors(operation: Operation, { status, headers }: Response): string[] {
  const documented = operation.responses[status]?.headers ?? {}
  const missing = REQUIRED_HEADERS.filter((name) => name in documented && !headers.has(name))
  const sent =
    status < 400 ? Object.keys(describedHeaders) : ['Retry-After', 'WWW-Authenticate', 'Set-Cookie', 'Location']
  const unknown = sent.filter((name) => headers.has(name) && !(name in documented))
  return [...missing.map((name) => `${name} is missing`), ...unknown.map((name) => `${name} is not documented`)]
}
