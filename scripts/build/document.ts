/**
 * Prints the OpenAPI document. A program of its own, because it runs the source of the Worker, which has the types of
 * the Worker.
 */
import { createApp } from '../../src/app.ts'
import { describeApp } from '../../src/docs/document.ts'
import examples from '../../src/docs/examples.json' with { type: 'json' }

const app = createApp(() => {
  throw new Error('only its routes are read')
}).whole()
process.stdout.write(JSON.stringify(await describeApp(app, examples)))
