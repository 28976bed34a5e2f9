import { defineConfig } from 'drizzle-kit'

// `npm run migration` writes the next file of migrations/ from the schema.
export default defineConfig({ dialect: 'sqlite', schema: './src/db/schema.ts', out: './migrations' })
