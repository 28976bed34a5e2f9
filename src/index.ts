import { createApp } from './app.ts'

/** The Worker. Tests make their own, each with the memory of an isolate of its own. */
export function createWorker() {
  const app = createApp()
  return {
    fetch: (request, env, ctx) => app.fetch(request, env, ctx),
  } satisfies ExportedHandler<Env>
}

export default createWorker()
