import { cloudflareTest, readD1Migrations } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'
import { isLong, run, seed } from './vitest.shared.ts'

const hasRedis = Boolean(process.env['REDIS_URL'])

/**
 * The short drill: none, and one fault of each sort. Each takes ten seconds of CPU time, so `npm run test:redis` drills
 * half of them.
 */
const DRILL_FAULTS = hasRedis
  ? 'delay-after,oom,flush,D1 refuses writes'
  : 'nothing,refuse,cut,D1 loses answers of writes,queues refuse'

/**
 * Suites of SQL, of policies and of pure functions, and of features that reach Redis only through what other suites test. No
 * Redis changes their results, so `npm run test:redis` skips them.
 */
const WITHOUT_REDIS = [
  'test/{client,comments,credentials,db,docs,export,feed,idempotency,moderation}/**',
  'test/{notifications,recommendations,relations,removals,search,service-tokens,users,webhooks}/**',
  'test/http/{authorization,edge-cache,errors,input,log,record}.test.ts',
  'test/posts/{hot,write}.test.ts',
  'test/monitoring/folded.test.ts',
  'test/redis/{bounded-map,memory,write-through}.test.ts',
  'test/trace.test.ts',
]

/** What `npm test` leaves to `npm run test:long`: every operation under faults, and as every caller; random requests. */
const LONG = ['test/drills/{drill,fuzz,matrix,relations}.test.ts']
const OF_NODE = ['test/{bench,deploy,e2e,emulator,scripts}/**']

// The suites that run in workerd: real D1 and queues, real Redis commands over HTTP.
export default defineConfig({
  plugins: [
    cloudflareTest(async ({ inject }) => ({
      main: './src/index.ts',
      wrangler: { configPath: './wrangler.toml' },
      verbose: false, // workerd would print a stack trace for each connection that a test cuts
      miniflare: {
        r2Buckets: ['TEST_BACKUPS'], // no test writes daily backups unless it binds this as BACKUPS
        d1Databases: {
          TEST_REPLICA: 'test-replica', // what a replica of DB shows, in tests of replicas
          ...Object.fromEntries([1, 2, 3, 4, 5, 6].map((i) => [`TEST_EMPTY_${i}`, `test-empty-${i}`])),
        },
        bindings: {
          UPSTASH_REDIS_REST_URL: inject('emulatorUrl'),
          UPSTASH_REDIS_REST_TOKEN: 'test',
          SERVICE_TOKEN: 'a-service-token-for-tests',
          // Tests count commands and read logs. The tests of monitoring and logging turn these on.
          STATS_FLUSH_SECONDS: '0',
          SCAN_COMMANDS: '0',
          LOG_REQUESTS: 'none',
          RECEIVER_URL: inject('receiverUrl'),
          // See CONTRIBUTING.md: `npm run drill`, `npm run fuzz`.
          DRILL_FAULTS: process.env['DRILL_FAULTS'] ?? DRILL_FAULTS,
          FUZZ_REQUESTS: process.env['FUZZ_REQUESTS'] ?? '2000',
          SEED: seed,
          USERS_ONLINE: hasRedis ? '1000000' : '100000',
          // How often the cron runs in the two hours of test/monitoring/growth.test.ts. 120: each minute.
          GROWTH_RUNS: process.env['GROWTH_RUNS'] ?? '6',
          MIGRATIONS: await readD1Migrations('./migrations'),
        },
      },
    })),
  ],
  test: {
    ...run,
    name: 'workerd',
    include: isLong ? LONG : ['test/**/*.test.ts'],
    exclude: isLong ? [] : [...LONG, ...OF_NODE, ...(hasRedis ? WITHOUT_REDIS : [])],
    isolate: false, // files share four runtimes: each loads the modules once
    setupFiles: ['./test/storage.setup.ts'],
    globalSetup: ['./test/assets.setup.ts', './test/emulator.setup.ts', './test/receiver.setup.ts'],
    testTimeout: 30_000, // scrypt, a thousand readers, busy machines
    hookTimeout: 60_000, // migrations
  },
})
