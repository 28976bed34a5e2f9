import { fileURLToPath } from 'node:url'
import { type InputOptions, type Plugin, rolldown } from 'rolldown'
import { removeDocumentation } from './documentation.ts'
import { compactEmbedded } from './embedded.ts'
import { removeUnusedMembers } from './members.ts'

const pathOf = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url))

/** Members that our Worker does not use although other things have their names, by class or object. */
const UNUSED = {
  // The Redis SDK.
  Redis: ['json', 'functions', 'search', 'vector', 'autoPipeline', 'subscribe', 'psubscribe'],
  Pipeline: ['json', 'functions'],
  // The rate limiter's Lua, of which the Worker uses one algorithm.
  SCRIPTS: [],
}

const ALIASES = {
  // The rate limiter's analytics are off: 6 KB.
  '@upstash/core-analytics': pathOf('src/rate-limit/no-analytics.ts'),
  // Its CommonJS file would be bundled whole.
  '@upstash/ratelimit': pathOf('node_modules/@upstash/ratelimit/dist/index.mjs'),
  // The library that signs webhooks brings these two in JavaScript: 9 KB. The runtime has them.
  'fast-sha256': pathOf('src/webhooks/native-sha256.ts'),
  '@stablelib/base64': pathOf('src/webhooks/native-base64.ts'),
}

/** Expressions of libraries whose value is known, because our Worker does not use an option: by module. */
const KNOWN: Record<string, [expression: string, value: string][]> = {
  '@upstash/ratelimit/dist/index.mjs': [
    ['config.analytics ?', 'false ?'],
    ['this.enableProtection ?', 'false ?'],
    ['__export(ip_deny_list_exports, {', 'void ({'],
    // Only the protection changes the response.
    ['resolveLimitPayload(this.primaryRedis, this.prefix, result, this.denyListThreshold)', 'result[0]'],
  ],
  // The app names its router. The apps of the features are mounted in it, and match nothing themselves.
  'hono/dist/hono.js': [['new SmartRouter({ routers: [new RegExpRouter(), new TrieRouter()] })', '{ add() {} }']],
  // Relational queries.
  'drizzle-orm/d1/driver.js': [['if (config.schema)', 'if (false)']],
  'drizzle-orm/sqlite-core/db.js': [['if (this._.schema)', 'if (false)']],
  // Columns as a callback.
  'drizzle-orm/sqlite-core/table.js': [['typeof columns === "function" ? columns(getSQLiteColumnBuilders()) :', '']],
}

const options: Plugin = {
  name: 'options of libraries',
  transform: {
    filter: { id: Object.keys(KNOWN).map((module) => `**/node_modules/${module}`) },
    handler(code, id) {
      const [, module = ''] = id.split('/node_modules/')
      for (const [expression, value] of KNOWN[module] ?? []) {
        if (!code.includes(expression)) throw new Error(`${module} has no ${expression} any more`)
        code = code.replace(expression, value)
      }
      return { code, map: null }
    },
  },
}

const source: Plugin = {
  name: 'source of the Worker',
  transform: {
    filter: { id: /\/src\/.*\.ts$/ },
    handler: (code) => ({ code: compactEmbedded(removeDocumentation(code)), map: null }),
  },
}

/** The Worker that is deployed, and the same with its cron jobs one by one. Others use their libraries as they like. */
const OURS = new Set(['src/index.ts', 'bench/steps.ts'])

const PROGRAM = 'program.js'
const ENTRY = 'entry.js'

/**
 * Bundles a Worker into one module: the program without its documentation and without what it never calls. Throws if the
 * libraries of the OpenAPI document are still in it: then a description is not an argument, as `removeDocumentation` expects.
 * `classes`: what it exports besides `default`, such as Durable Objects.
 */
export async function bundleWorker(
  entry: string,
  { minify, classes = [] }: { minify: boolean; classes?: string[] },
): Promise<string> {
  const isOurs = OURS.has(entry)
  const input: InputOptions = {
    external: /^(node|cloudflare):/,
    platform: 'browser',
    checks: { pluginTimings: false },
    resolve: { conditionNames: ['workerd', 'worker', 'browser', 'import'], alias: ALIASES },
    transform: { target: 'es2024' },
    treeshake: {
      // No library does anything when it is loaded, or when a property is read.
      moduleSideEffects: [{ test: /node_modules/, sideEffects: false }],
      propertyReadSideEffects: false,
    },
  }
  const whole = await generate({ ...input, input: pathOf(entry), plugins: isOurs ? [source, options] : [] }, false)
  const isDocumented = Object.entries(whole.modules).some(([id, module]) => /hono-openapi/.test(id) && module.code)
  if (isDocumented) throw new Error(`${entry} has descriptions of routes that the build cannot remove`)

  const code = removeUnusedMembers(whole.code, isOurs ? UNUSED : {})
  if (!minify) return code
  const names = ['default', ...classes].join()
  const inMemory: Plugin = {
    name: 'program in memory',
    resolveId: (id) => (id === PROGRAM || id === ENTRY ? id : null),
    // workerd takes every export of a Worker for an entry point.
    load: (id) => (id === PROGRAM ? code : id === ENTRY ? `export { ${names} } from '${PROGRAM}'` : null),
  }
  return (await generate({ ...input, input: ENTRY, plugins: [inMemory] }, true)).code
}

async function generate(options: InputOptions, minify: boolean) {
  await using build = await rolldown(options)
  const { output } = await build.generate({ format: 'esm', minify, comments: !minify, codeSplitting: false })
  return output[0]
}
