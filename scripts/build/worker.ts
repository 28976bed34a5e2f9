import { fileURLToPath } from 'node:url'
import { type InputOptions, type Plugin, rolldown } from 'rolldown'
import { replaceArrowFunctions } from './arrow-functions.ts'
import { deferBuiltins } from './builtins.ts'
import { removeDocumentation } from './documentation.ts'
import { compactEmbedded } from './embedded.ts'
import { deferConstants, sortModules } from './lazy.ts'
import { removeUnusedMembers } from './members.ts'
import { removeConstraints } from './tables.ts'

const pathOf = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url))

/** Clauses that no query of ours has. The build fails if one does. */
const CLAUSES = ['unionAll', 'intersect', 'except', 'rightJoin', 'fullJoin', 'crossJoin', 'having', 'offset']
const CLAUSE = new RegExp(`(?<!\\bv)\\.(${[...CLAUSES, 'union', '\\$with'].join('|')})\\(`)

/** Members that our Worker does not use although other things have their names, by class or object. */
const UNUSED = {
  // The Redis SDK.
  Redis: ['json', 'functions', 'search', 'vector', 'autoPipeline', 'subscribe', 'psubscribe'],
  Pipeline: ['json', 'functions'],
  // The query builder of drizzle.
  SQLiteSelectQueryBuilderBase: [...CLAUSES, 'union', 'createSetOperator', 'addSetOperators'],
  SQLiteUpdateBase: ['leftJoin', 'rightJoin', 'innerJoin', 'fullJoin', 'createJoin'],
  BaseSQLiteDatabase: ['transaction'],
  SQLiteD1Session: ['transaction'],
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
    ['ctx.dynamicLimits ?', 'false ?'],
    ['if (ctx.cache', 'if (false'],
    ['config.ephemeralCache instanceof Map', 'false'],
    ['config.ephemeralCache === void 0', 'false'],
    ['this.timeout > 0', 'false'],
    ['addTelemetry(config.redis, config.enableTelemetry)', ''],
    ['__export(ip_deny_list_exports, {', 'void ({'],
    // Only the protection changes the response.
    ['resolveLimitPayload(this.primaryRedis, this.prefix, result, this.denyListThreshold)', 'result[0]'],
  ],
  // Replies in Base64, events and logs. `createConnection` passes a signal that is a function.
  '@upstash/redis/chunk-4WQYU7T6.mjs': [
    ['if (this.options.responseEncoding === "base64")', 'if (false)'],
    ['requestHeaders.Accept === "text/event-stream"', 'false'],
    ['typeof signal === "function"', 'true'],
    ['if (opts?.latencyLogging)', 'if (false)'],
    ['if (!this.hasCredentials)', 'if (false)'],
  ],
  // Telemetry, and warnings of an address and a token that `readConfig` has checked.
  '@upstash/redis/cloudflare.mjs': [
    ['this.addTelemetry({', 'void ({'],
    ['if (this.enableAutoPipelining)', 'if (false)'],
    ...['url', 'token'].flatMap((name): [string, string][] => [
      [`if (!config.${name})`, 'if (false)'],
      [`config.${name}.startsWith(" ") || config.${name}.endsWith(" ") || /\\r|\\n/.test(config.${name})`, 'false'],
    ]),
  ],
  // The source of random numbers.
  'ulid/dist/browser/index.js': [
    ['= detectRoot()', '= globalThis'],
    ['typeof globalCrypto?.getRandomValues === "function"', 'true'],
    ['typeof globalCrypto?.randomBytes === "function"', 'false'],
  ],
  // The short form of an IPv6 address. Only IPv4 addresses are written as text, IPv6 ones by their parts.
  'ipaddr.js/lib/ipaddr.js': [['return this.toRFC5952String()', 'return this.toNormalizedString()']],
  // The app names its router. The apps of the features are mounted in it, and match nothing themselves.
  'hono/dist/hono.js': [['new SmartRouter({ routers: [new RegExpRouter(), new TrieRouter()] })', '{ add() {} }']],
  // Views, common table expressions, unions, and a type of columns.
  'drizzle-orm/sqlite-core/dialect.js': [
    ['this.buildWithCTE(withList)', 'void 0'],
    ['if (setOperators.length > 0)', 'if (false)'],
    ['if (field.columnType === "SQLiteNumericBigInt")', 'if (false)'],
    ['is(table, SQLiteViewBase)', 'false'],
  ],
  'drizzle-orm/sql/sql.js': [['is(chunk, View)', 'false']],
  'drizzle-orm/selection-proxy.js': [
    ['prop === ViewBaseConfig', 'false'],
    ['is(subquery, View)', 'false'],
  ],
  'drizzle-orm/utils.js': [['is(table, View)', 'false']],
  'drizzle-orm/sqlite-core/query-builders/update.js': [['is(table, SQLiteViewBase)', 'false']],
  // The cache of drizzle.
  'drizzle-orm/sqlite-core/session.js': [
    ['if (this.cache === void 0 || is(this.cache, NoopCache) || this.queryMetadata === void 0)', 'if (true)'],
    ['if (cache && cache.strategy() === "all" && cacheConfig === void 0)', 'if (false)'],
  ],
  'drizzle-orm/sqlite-core/query-builders/select.js': [
    ['this.config.setOperators.length > 0', 'false'],
    ['is(source, SQLiteViewBase)', 'false'],
    ['is(table, View)', 'false'],
  ],
  // Spans of OpenTelemetry.
  'drizzle-orm/tracing.js': [['!otel', 'true']],
  // Relational queries, and the log and the cache of drizzle.
  'drizzle-orm/d1/driver.js': [
    ['if (config.schema)', 'if (false)'],
    ['if (config.logger === true)', 'if (false)'],
    ['if (db.$cache)', 'if (false)'],
  ],
  'drizzle-orm/sqlite-core/db.js': [['if (this._.schema)', 'if (false)']],
  // Indexes and composite keys, which `removeConstraints` removes.
  'drizzle-orm/sqlite-core/utils.js': [['if (extraConfigBuilder !== void 0)', 'if (false)']],
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
        code = code.replaceAll(expression, value)
      }
      return { code, map: null }
    },
  },
}

const source: Plugin = {
  name: 'source of the Worker',
  transform: {
    filter: { id: /\/src\/.*\.ts$/ },
    handler(code, id) {
      const [, clause] = CLAUSE.exec(code) ?? []
      if (clause) throw new Error(`${id} uses ${clause}, which UNUSED removes`)
      return { code: compactEmbedded(removeDocumentation(code)), map: null }
    },
  },
}

const tables: Plugin = {
  name: 'tables of the Worker',
  transform: {
    filter: { id: '**/src/db/schema.ts' },
    handler: (code) => ({ code: removeConstraints(code), map: null }),
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
    cwd: pathOf('.'), // paths of modules are below it
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
  const whole = await generate(
    { ...input, input: pathOf(entry), plugins: isOurs ? [tables, source, options] : [] },
    false,
  )
  const isDocumented = Object.entries(whole.modules).some(([id, module]) => /hono-openapi/.test(id) && module.code)
  if (isDocumented) throw new Error(`${entry} has descriptions of routes that the build cannot remove`)

  const needed = removeUnusedMembers(whole.code, isOurs ? UNUSED : {})
  const code = isOurs ? deferBuiltins(deferConstants(needed, 'src/')) : needed
  if (!minify) return code
  const sorted = isOurs ? sortModules(code, 'src/') : code
  const names = ['default', ...classes].join()
  const inMemory: Plugin = {
    name: 'program in memory',
    resolveId: (id) => (id === PROGRAM || id === ENTRY ? id : null),
    // workerd takes every export of a Worker for an entry point.
    load: (id) => (id === PROGRAM ? sorted : id === ENTRY ? `export { ${names} } from '${PROGRAM}'` : null),
  }
  const { code: minified } = await generate({ ...input, input: ENTRY, plugins: [inMemory] }, true)
  // V8 reads a program in ASCII sooner than any other.
  return (isOurs ? replaceArrowFunctions(minified) : minified).replaceAll(
    /[^\0-\x7f]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

async function generate(options: InputOptions, minify: boolean) {
  await using build = await rolldown(options)
  const { output } = await build.generate({ format: 'esm', minify, comments: !minify, codeSplitting: false })
  return output[0]
}
