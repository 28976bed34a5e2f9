/**
 * `npm start` runs this before `wrangler dev`: `node scripts/database.ts STATE_DIR` brings the local D1 up to date and
 * loads demo data into an empty one. With DEMO=false it loads none, with DEMO=0.1 a tenth.
 * It sends `{ isNew }`, whether it loaded demo data, to the process that spawned it.
 */
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { getPlatformProxy } from 'wrangler'
import { generateDemo } from './demo/data.ts'
import { type Database, isEmpty, loadDemo } from './demo/load.ts'

const root = dirname(import.meta.dirname)
const [, , stateDir = '.wrangler/state'] = process.argv

const { env, dispose } = await getPlatformProxy<{ DB: Database }>({
  configPath: join(root, 'wrangler.toml'),
  persist: { path: join(stateDir, 'v3') }, // where `wrangler dev --persist-to` looks
})
await migrate(env.DB)
const isNew = await isEmpty(env.DB)
const demoShare = process.env['DEMO'] === 'false' ? 0 : Number(process.env['DEMO'] || 1)
const isDemo = isNew && demoShare > 0
if (isDemo) await loadDemoData(env.DB)
else if (!isNew) console.log('The database has data. Demo data is loaded only into an empty database')
await dispose()
process.send?.({ isNew: isDemo })

/**
 * Applies the pending migrations, each with its record in one transaction, in the table that wrangler keeps. Within this
 * process that takes a second. `wrangler d1 migrations apply` takes twenty.
 */
async function migrate(db: Database): Promise<void> {
  await db.batch([
    db.prepare(`CREATE TABLE IF NOT EXISTS d1_migrations(
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      name TEXT UNIQUE,
      applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
    )`),
  ])
  const folder = join(root, 'migrations')
  const names = (await readdir(folder)).filter((name) => name.endsWith('.sql')).sort()
  for (const name of names) {
    const isApplied = db.prepare('SELECT EXISTS (SELECT 1 FROM d1_migrations WHERE name = ?1) AS isApplied').bind(name)
    if ((await isApplied.first<number>('isApplied')) === 1) continue
    const statements = (await readFile(join(folder, name), 'utf8')).split('--> statement-breakpoint')
    await db.batch([
      ...statements.map((statement) => db.prepare(statement)),
      db.prepare('INSERT INTO d1_migrations (name) VALUES (?1)').bind(name),
    ])
    console.log(`Applied migration ${name}`)
  }
}

async function loadDemoData(db: Database): Promise<void> {
  const startedAt = Date.now()
  const demo = generateDemo(startedAt, demoShare)
  process.stdout.write(`Loading demo data: ${demo.users.length} users, ${demo.posts.length} posts … `)
  // Generating blocks the event loop. Meanwhile workerd can close the idle connection: notice that before using it.
  await setImmediate()
  await loadDemo(db, demo)
  console.log(`done in ${((Date.now() - startedAt) / 1_000).toFixed(1)} s`)
}
