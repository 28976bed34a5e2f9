import { fileURLToPath } from 'node:url'
import { rolldown } from 'rolldown'

/** The part of JSON Schema that the document uses. */
interface Schema {
  $ref?: string
  type?: string | string[]
  properties?: Record<string, Schema>
  required?: string[]
  items?: Schema
  enum?: unknown[]
  const?: unknown
  /** `{}`: the property must be absent. */
  not?: Schema
  anyOf?: Schema[]
  oneOf?: Schema[]
  allOf?: Schema[]
  additionalProperties?: Schema | boolean
  pattern?: string
  description?: string
}

interface Operation {
  operationId: string
  summary: string
  tags?: string[]
  description?: string
  security?: Record<string, string[]>[]
  parameters?: { in: string; name: string; required?: boolean; description?: string; schema: Schema }[]
  requestBody?: { required?: boolean; content: Record<string, { schema: Schema }> }
  responses: Record<string, { description?: string; content?: Record<string, { schema: Schema }> }>
}

interface Document {
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, Schema> }
  webhooks: Record<string, { post: Operation }>
}

/**
 * Writes of which a repetition changes nothing, although their method does not say so. `fill:name` gives the request a random
 * value, by which the API recognizes the repetition. Writes with an `Idempotency-Key` are found in the document.
 */
const REPEATABLE: Record<string, string> = {
  'POST /v1/presence/heartbeat': 'again',
  'PATCH /v1/presence': 'again',
  'POST /v1/posts/{id}/views': 'again', // unique viewers
  'POST /v1/notifications/read': 'again',
  'POST /v1/cache/invalidate': 'again',
  'POST /v1/events': 'fill:id',
  'POST /v1/locks/{name}': 'fill:owner', // the same owner gets the same lock
}

/** After these the caller has no session. */
const ENDING = new Set(['DELETE /v1/sessions', 'DELETE /v1/sessions/current', 'DELETE /v1/users/me'])

/** Not in the client: it has a function of its own for streams, and `npm run backup` uses the routes of backups. */
const isLeftOut = (at: string, { tags = [] }: Operation) => at === 'GET /v1/events/stream' || tags.includes('Backup')

/** Problems of every operation, which its comment does not repeat. */
const COMMON = new Set(['rate-limited', 'internal', 'misconfigured', 'unavailable', 'body-too-large', 'malformed-json'])

const isName = (text: string) => /^[a-z_$][\w$]*$/i.test(text)
const property = (name: string) => (isName(name) ? name : JSON.stringify(name))
const indent = (text: string) => text.replaceAll(/^(?=.)/gm, '  ')

function comment(...lines: (string | undefined)[]): string {
  const text = lines.filter(Boolean).join('\n\n').replaceAll('*/', '*\\/')
  if (text === '') return ''
  return text.includes('\n')
    ? `/**\n${text.replaceAll(/^/gm, ' * ').replaceAll(/ +$/gm, '')}\n */\n`
    : `/** ${text} */\n`
}

/** The TypeScript type of a JSON schema. */
function typeOf(schema: Schema): string {
  if (schema.$ref) return schema.$ref.split('/').at(-1) ?? ''
  if (schema.const !== undefined) return JSON.stringify(schema.const)
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ')
  const alternatives = schema.anyOf ?? schema.oneOf
  if (alternatives) return [...new Set(alternatives.map(typeOf))].join(' | ')
  if (schema.allOf) return schema.allOf.map((part) => inParentheses(typeOf(part))).join(' & ')
  if (Array.isArray(schema.type)) return schema.type.map((type) => typeOf({ ...schema, type })).join(' | ')
  switch (schema.type) {
    case 'integer':
    case 'number':
      return 'number'
    case 'string':
    case 'boolean':
    case 'null':
      return schema.type
    case 'array':
      return `${inParentheses(typeOf(schema.items ?? {}))}[]`
    case 'object':
      return schema.properties ? objectOf(schema) : `Record<string, ${valueOf(schema)}>`
    default:
      return 'unknown'
  }
}

const inParentheses = (type: string) => (/ [|&] /.test(type) ? `(${type})` : type)

const valueOf = ({ additionalProperties: value }: Schema) => (typeof value === 'object' ? typeOf(value) : 'unknown')

function objectOf({ properties = {}, required = [] }: Schema): string {
  const fields = Object.entries(properties).map(
    ([name, schema]) =>
      `${comment(schema.description)}${property(name)}${required.includes(name) ? '' : '?'}: ${typeOf(schema)}\n`,
  )
  return `{\n${indent(fields.join(''))}}`
}

/** The parameter is a list that the URL separates by commas. */
const isList = ({ pattern = '' }: Schema) => pattern.includes('(,')

/** All that the caller states, from path, query and body, as one object. */
function inputOf(
  { parameters = [], requestBody }: Operation,
  at: string,
): { type: string; isRequired: boolean } | undefined {
  const properties: Record<string, Schema> = {}
  const required: string[] = []
  const content = requestBody?.content['application/json']?.schema
  const body = content?.oneOf?.[0] ?? content // the API accepts the other forms from other clients
  const fields = [
    ...parameters
      .filter((parameter) => parameter.in !== 'header')
      .map(({ name, schema, required, description }) => ({
        name,
        isRequired: required ?? false,
        schema: {
          ...(isList(schema) ? { type: 'array', items: { type: 'string' } } : schema),
          ...(description === undefined ? {} : { description }),
        },
      })),
    ...Object.entries(body?.properties ?? {}).flatMap(([name, schema]) =>
      schema.not ? [] : [{ name, schema, isRequired: body?.required?.includes(name) ?? false }],
    ),
  ]
  if (requestBody && !body?.properties) throw new Error(`The body of ${at} has no fields that the client can name`)
  if (requestBody && parameters.some((parameter) => parameter.in === 'query')) {
    throw new Error(`${at} has both a body and a query: the client cannot separate their fields`)
  }
  for (const { name, isRequired, schema } of fields) {
    if (name in properties) throw new Error(`${at} has two inputs named ${name}`)
    properties[name] = schema
    if (isRequired) required.push(name)
  }
  if (fields.length === 0) return undefined
  return { type: objectOf({ properties, required }), isRequired: required.length > 0 }
}

/** The pages that an answer is one of, if the operation takes a cursor. */
function pagesOf({ parameters = [] }: Operation, answer: Schema | undefined): Schema[] | undefined {
  if (!parameters.some(({ name }) => name === 'cursor')) return undefined
  const pages = answer?.anyOf ?? (answer ? [answer] : [])
  return pages.every(({ properties }) => properties?.['items'] && properties['nextCursor']) ? pages : undefined
}

function answerOf(operation: Operation): { type: string; words: string[] } {
  const content = ['200', '201', '202'].map((status) => operation.responses[status]?.content).find(Boolean)
  if (!content) return { type: 'Promise<void>', words: [] }
  const schema = content['application/json']?.schema
  if (!schema) {
    const isText = Object.keys(content).every((type) => /text/.test(type))
    return isText ? { type: 'Promise<string>', words: ['text'] } : { type: 'Promise<ArrayBuffer>', words: ['bytes'] }
  }
  const pages = pagesOf(operation, schema)
  if (!pages) {
    const isSession = ['token', 'expiresAt'].every((name) => schema.required?.includes(name))
    return { type: `Promise<${typeOf(schema)}>`, words: isSession ? ['session'] : [] }
  }
  const items = pages.map(({ properties }) => typeOf(properties?.['items']?.items ?? {}))
  const [{ properties = {}, required = [] } = {}] = pages
  const { items: _items, nextCursor: _nextCursor, ...others } = properties
  const extra = Object.keys(others).length > 0 ? `, ${objectOf({ properties: others, required })}` : ''
  return { type: `Pages<${items.join(' | ')}${extra}>`, words: ['pages'] }
}

function problemsOf({ responses }: Operation, known: Set<string>): string[] {
  const named = Object.values(responses).flatMap(({ description = '' }) =>
    [...description.matchAll(/`([a-z-]+)`/g)].map(([, name = '']) => name),
  )
  return [...new Set(named)].filter((name) => known.has(name) && !COMMON.has(name))
}

/** The signature of a method, with its comment. */
function methodOf(operation: Operation, at: string, problems: Set<string>): string {
  const input = inputOf(operation, at)
  const headers = new Set(
    operation.parameters?.flatMap((parameter) => (parameter.in === 'header' ? parameter.name : [])),
  )
  const options = [
    'CallOptions',
    ...(headers.has('Idempotency-Key') ? ['Keyed'] : []),
    ...(headers.has('If-Match') ? ['Conditional'] : []),
  ]
  const parameters = [
    ...(input ? [`input${input.isRequired ? '' : '?'}: ${input.type}`] : []),
    `options?: ${options.join(' & ')}`,
  ]
  const thrown = problemsOf(operation, problems).map((name) => `\`${name}\``)
  const text = comment(
    `${operation.summary.replace(/\.$/, '')}: \`${at}\`.`,
    operation.description,
    thrown.length > 0 ? `@throws {Problem} ${thrown.join(', ')}` : undefined,
  )
  return `${text}${operation.operationId}(${parameters.join(', ')}): ${answerOf(operation).type}\n`
}

/** What the client must know to send a request: its method, its path, and words about it. */
function entryOf(operation: Operation, at: string): string {
  const isWrite = !/^(GET|DELETE|PUT) /.test(at)
  const isKeyed = operation.parameters?.some(({ name }) => name === 'Idempotency-Key')
  const words = [
    ...answerOf(operation).words,
    ...(inputOf(operation, at) ? [] : ['bare']),
    ...(operation.requestBody ? ['body'] : []),
    ...(isKeyed ? ['key'] : isWrite && REPEATABLE[at] ? [REPEATABLE[at]] : []),
    ...(ENDING.has(at) ? ['end'] : []),
  ]
  return `${operation.operationId}: '${[at, ...words].join(' ')}',\n`
}

/** The types of the events on the channels of the API. Events on channels of back ends have any type. */
function eventsOf(webhooks: Document['webhooks']): string {
  const events = Object.entries(webhooks).flatMap(([type, { post }]) => {
    const { channel, data } = post.requestBody?.content['application/cloudevents+json']?.schema.properties ?? {}
    return typeof channel?.const === 'string' && data ? [{ type, channel: channel.const, data }] : []
  })
  const channels = [...Map.groupBy(events, ({ channel }) => channel)].map(
    ([channel, types]) => `${channel}: ${types.map(({ type }) => `'${type}'`).join(' | ')}\n`,
  )
  return `${comment('The data of each type of event.')}export interface EventData {
${indent(events.map(({ type, data }) => `${type}: ${typeOf(data)}\n`).join(''))}}

${comment('The types of the events on each channel.')}export interface ChannelEvents {
${indent(channels.join(''))}}`
}

/** Bundles the client for browsers into one module. */
export async function bundleClient(): Promise<string> {
  await using build = await rolldown({
    input: fileURLToPath(new URL('../../client/index.ts', import.meta.url)),
    platform: 'browser',
    tsconfig: false,
    transform: { target: 'es2022' },
    treeshake: { moduleSideEffects: false },
    checks: { pluginTimings: false },
  })
  const { output } = await build.generate({ format: 'esm', minify: true })
  return output[0].code
}

/** The generated part of the client, client/api.ts: the types of the API and a table of its operations. */
export function generateClient(document: string): string {
  const { paths, components, webhooks } = JSON.parse(document) as Document // as scripts/build/document.ts prints it
  const { Problem: _class, ProblemType, ...schemas } = components.schemas
  const problems = new Set(ProblemType?.enum?.map((type) => String(type).replace(/^.*\//, '')))
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ at: `${method.toUpperCase()} ${path}`, operation })),
  )
  for (const at of Object.keys(REPEATABLE)) {
    if (!operations.some((each) => each.at === at)) throw new Error(`The document has no ${at}`)
  }
  const offered = operations.filter(({ at, operation }) => !isLeftOut(at, operation))
  const isForServices = ({ operation: { security = [] } }: (typeof offered)[number]) =>
    security.length > 0 && security.every((credentials) => 'serviceToken' in credentials)

  const group = (name: string, table: string, meaning: string, members: typeof offered) =>
    [
      `${comment(meaning)}export interface ${name} {
${indent(members.map(({ operation, at }) => methodOf(operation, at, problems)).join('\n'))}}`,
      `export const ${table} = {
${indent(members.map(({ operation, at }) => entryOf(operation, at)).join(''))}} satisfies Record<keyof ${name}, string>`,
    ].join('\n\n')

  const named = Object.entries(schemas).map(([name, schema]) => {
    const isInterface = schema.type === 'object' && schema.properties
    const declared = isInterface ? `interface ${name} ${objectOf(schema)}` : `type ${name} = ${typeOf(schema)}`
    return `${comment(schema.description)}export ${declared}`
  })

  return [
    '// `npm run types` writes this file from the routes: see scripts/build/client.ts.',
    `import type { CallOptions, Conditional, Keyed, Pages } from './call.ts'`,
    `${comment('The types of problems: the last part of the `type` of a problem document.')}export type ProblemType =
${indent([...problems].map((name) => `| '${name}'`).join('\n'))}`,
    ...named,
    eventsOf(webhooks),
    group(
      'MemberApi',
      'MEMBER_OPERATIONS',
      'What users and everyone can do.',
      offered.filter((each) => !isForServices(each)),
    ),
    group('ServiceApi', 'SERVICE_OPERATIONS', 'What services can do.', offered.filter(isForServices)),
  ]
    .join('\n\n')
    .concat('\n')
}
