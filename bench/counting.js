// The module in front of a measured Worker: the Worker itself, and a socket that answers its calls to D1 and queues. Only
// those calls are wrapped. The wrapper takes nanoseconds, a query hundreds of microseconds.
import worker from './index.js'

const counts = { queries: 0, calls: 0, sent: 0, received: 0 }
let isCounting = false

const before = (prototype, name, note) => {
  const method = prototype[name]
  prototype[name] = function (...args) {
    note(...args)
    return method.apply(this, args)
  }
}

/** Starts counting the calls of this isolate to D1 and queues. */
function count(env) {
  isCounting = true
  if (env.DB) {
    before(Object.getPrototypeOf(env.DB), 'batch', (statements) => {
      counts.queries += statements.length
      counts.calls += 1
    })
    for (const name of ['all', 'first', 'raw', 'run']) {
      before(Object.getPrototypeOf(env.DB.prepare('SELECT 1')), name, () => {
        counts.queries += 1
        counts.calls += 1
      })
    }
  }
  const queue = Object.values(env).find((binding) => typeof binding?.sendBatch === 'function')
  if (queue) {
    before(Object.getPrototypeOf(queue), 'send', () => (counts.sent += 1))
    before(Object.getPrototypeOf(queue), 'sendBatch', (messages) => (counts.sent += [...messages].length))
  }
}

export default {
  fetch(request, env, context) {
    if (!isCounting) count(env)
    return worker.fetch(request, env, context)
  },

  scheduled(controller, env, context) {
    if (!isCounting) count(env)
    return worker.scheduled(controller, env, context)
  },

  async queue(batch, env, context) {
    if (!isCounting) count(env)
    try {
      await worker.queue(batch, env, context)
    } finally {
      counts.received += batch.messages.length
    }
  },
}

/** Responds with the counts of this isolate. */
export const Counts = { fetch: () => Response.json(counts) }
