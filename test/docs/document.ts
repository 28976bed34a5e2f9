import { type Schema, Validator } from '@cfworker/json-schema'
import { describeApp } from '../../src/http/document.ts'
import { newApp } from '../edge.ts'

export interface Parameter {
  in: string
  name: string
  required?: boolean
  schema: Schema
}

export interface Operation {
  operationId: string
  summary?: string
  description?: string
  tags?: string[]
  parameters?: Parameter[]
  requestBody?: { content: Record<string, { schema: Schema }> }
  responses: Record<string, { description: string; content?: Record<string, { schema: Schema }> }>
}

export interface Document {
  openapi: string
  info: { title: string; version: string }
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, Schema> }
}

/** As `npm start` and each deployment serve it, in JSON. */
export const readDocument = async () => JSON.parse(JSON.stringify(await describeApp(newApp()))) as Document

/** Every operation by its name, `GET /v1/users/{id}`. */
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

const validators = new WeakMap<Document, Map<Schema, Validator>>()

/** Where `value` differs from `schema` of `document`. */
export function errorsOf(document: Document, schema: Schema, value: unknown): string[] {
  const known = validators.get(document) ?? new Map<Schema, Validator>()
  validators.set(document, known)
  let validator = known.get(schema)
  if (!validator) {
    const schemas = Object.fromEntries(
      Object.entries(document.components.schemas).map(([name, schema]) => [name, strict(schema, name)]),
    )
    const closed = { ...(strict(schema) as Schema), components: { schemas } } // still a schema
    validator = new Validator(closed, '2020-12', false)
    known.set(schema, validator)
  }
  return validator.validate(value).errors.map((error) => `${error.instanceLocation}: ${error.error}`)
}

/** Where an answer differs from the document: its status, its media type, each field of its body. */
export async function errorsIn(document: Document, operation: Operation, response: Response): Promise<string[]> {
  const type = response.headers.get('Content-Type')?.split(';')[0] ?? ''
  const media = operation.responses[response.status]?.content?.[type]
  if (!media) return [`${response.status} ${type} is not documented`]
  const value: unknown = type.endsWith('json')
    ? await response.json()
    : new TextDecoder().decode(await response.arrayBuffer())
  return errorsOf(document, media.schema, value)
}
