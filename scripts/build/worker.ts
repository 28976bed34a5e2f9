import { fileURLToPath } from 'node:url'
import { type InputOptions, type Plugin, rolldown } from 'rolldown'
import { removeDocumentation } from './documentation.ts'
import { compactEmbedded } from './embedded.ts'
import { removeUnusedMembers } from './members.ts'

const pathOf = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url))

/** Members that are unused although other things have their names, by class or object. */
const UNUSED = {
  // The Redis SDK.
  Redis: ['json', 'functions', 'search', 'vector', 'autoPipeline'],
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

const source: Plugin = {
  name: 'source of the Worker',
  transform: {
    filter: { id: /\/src\/.*\.ts$/ },
    handler: (code) => ({ code: compactEmbedded(removeDocumentation(code)), map: null }),
  },
}

const PROGRAM = 'program.js'

/**
 * Bundles a Worker into one module: the program without its documentation and without what it never calls. Throws if the
 * libraries of the OpenAPI document are still in it: then a description is not an argument, as `removeDocumentation` expects.
 */
export async function bundleWorker(entry: string, { minify }: { minify: boolean }): Promise<string> {
  const options: InputOptions = {
    external: /^(node|cloudflare):/,
    platform: 'browser',
    resolve: { conditionNames: ['workerd', 'worker', 'browser', 'import'], alias: ALIASES },
    transform: { target: 'es2024' },
    // No library does anything when it is loaded.
    treeshake: { moduleSideEffects: [{ test: /node_modules/, sideEffects: false }] },
  }
  const whole = await generate({ ...options, input: pathOf(entry), plugins: [source] }, false)
  const isDocumented = Object.entries(whole.modules).some(([id, module]) => /hono-openapi/.test(id) && module.code)
  if (isDocumented) throw new Error(`${entry} has descriptions of routes that the build cannot remove`)

  const code = removeUnusedMembers(whole.code, UNUSED)
  if (!minify) return code
  const inMemory: Plugin = {
    name: 'program in memory',
    resolveId: (id) => (id === PROGRAM ? id : null),
    load: (id) => (id === PROGRAM ? code : null),
  }
  return (await generate({ ...options, input: PROGRAM, plugins: [inMemory] }, true)).code
}

async function generate(options: InputOptions, minify: boolean) {
  await using build = await rolldown(options)
  const { output } = await build.generate({ format: 'esm', minify, comments: !minify, codeSplitting: false })
  return output[0]
}
