import { cloudflareTest, readD1Migrations } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'

// The suites that run in workerd: real D1, real Redis commands over HTTP. Those of the emulator run on Node.
export default defineConfig({
  plugins: [
    cloudflareTest(async ({ inject }) => ({
      main: './src/index.ts',
      wrangler: { configPath: './wrangler.toml' },
      miniflare: {
        bindings: {
          UPSTASH_REDIS_REST_URL: inject('emulatorUrl'),
          UPSTASH_REDIS_REST_TOKEN: 'test',
          SERVICE_TOKEN: 'a-service-token-for-tests',
          // Tests count commands, and read what they print: those of monitoring turn it on.
          STATS_FLUSH_SECONDS: '0',
          SCAN_COMMANDS: '0',
          LOG_REQUESTS: 'none',
          RECEIVER_URL: inject('receiverUrl'),
          MIGRATIONS: await readD1Migrations('./migrations'),
        },
      },
    })),
  ],
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/bench/**', 'test/deploy/**', 'test/e2e/**', 'test/emulator/**', 'test/scripts/**'],
    globalSetup: ['./test/emulator.setup.ts', './test/receiver.setup.ts'],
    maxWorkers: 4,
    testTimeout: 30_000, // scrypt, 1 000 readers, and machines that are busy
  },
})
