// The module in front of a measured Worker: the Worker itself, and a socket that answers what it has used. Only calls to
// D1, queues and Durable Objects are wrapped. The wrapper takes microseconds, a query hundreds of them.
import { DurableObject } from 'cloudflare:workers'
import * as module from './index.js'

const worker = module.default

const counts = {
  queries: 0,
  calls: 0,
  rowsRead: 0,
  rowsWritten: 0,
  sent: 0,
  received: 0,
  objectCalls: 0,
  objectRowsRead: 0,
  objectRowsWritten: 0,
}
/** With `BENCH_DETAILS`: SQL texts with their number of queries and the rows that these read and wrote. */
const statements = new Map()
/** With `BENCH_DETAILS`: what was sent to queues, for a caller who delivers it. */
let messages = []
let isCounting = false

/** Replaces a method by `around(call, args, self)`. */
const wrap = (prototype, name, around) => {
  const method = prototype[name]
  if (typeof method !== 'function') throw new Error(`There is no ${name} to count`)
  prototype[name] = function (...args) {
    return around(() => method.apply(this, args), args, this)
  }
}

/** Starts counting the calls of this isolate to D1 and queues. */
function count(env) {
  isCounting = true
  if (env.DB) {
    // Every query passes through this method of workerd's client. A batch is one call.
    const session = Object.getPrototypeOf(Object.getPrototypeOf(env.DB.alwaysPrimarySession))
    wrap(session, '_send', async (send, [, sql]) => {
      const texts = [sql].flat()
      counts.queries += texts.length
      counts.calls += 1
      const answers = await send()
      for (const [i, { meta }] of [answers].flat().entries()) {
        const { rows_read: read = 0, rows_written: written = 0 } = meta ?? {} // a failed query has none
        counts.rowsRead += read
        counts.rowsWritten += written
        if (!env.BENCH_DETAILS) continue
        const [queries, allRead, allWritten] = statements.get(texts[i]) ?? [0, 0, 0]
        statements.set(texts[i], [queries + 1, allRead + read, allWritten + written])
      }
      return answers
    })
  }
  const queues = Object.entries(env).filter(([, binding]) => typeof binding?.sendBatch === 'function')
  if (queues.length === 0) return
  const note = (queue, sent) => {
    counts.sent += sent.length
    if (!env.BENCH_DETAILS) return
    const [binding] = queues.find(([, candidate]) => candidate === queue)
    messages.push(...sent.map(({ body, delaySeconds = 0 }) => ({ binding, body, delaySeconds })))
  }
  const prototype = Object.getPrototypeOf(queues[0][1])
  wrap(prototype, 'send', (send, [body, options], queue) => (note(queue, [{ body, ...options }]), send()))
  wrap(prototype, 'sendBatch', (send, [batch], queue) => (note(queue, [...batch]), send()))
}

/** What the objects asked SQLite since the last call of an object ended. */
let cursors = []
let isCountingRows = false
/** The storages of objects that write something behind soon. As with a queue, a measurement waits for it. */
const writingBehind = new Set()
const SOON_MS = 5_000

function countRows({ storage }) {
  isCountingRows = true
  wrap(Object.getPrototypeOf(storage.sql), 'exec', (exec) => {
    const cursor = exec()
    cursors.push(cursor)
    return cursor
  })
  wrap(Object.getPrototypeOf(storage), 'setAlarm', (set, [at], self) => {
    counts.objectRowsWritten += 1 // as Cloudflare bills it
    if (at - Date.now() < SOON_MS && !writingBehind.has(self)) {
      writingBehind.add(self)
      counts.sent += 1
    }
    return set()
  })
}

// Objects run in the isolate of the Worker, so they share `counts`.
for (const exported of Object.values(module)) {
  if (!(exported?.prototype instanceof DurableObject)) continue
  for (const name of Object.getOwnPropertyNames(exported.prototype)) {
    if (name === 'constructor') continue
    wrap(exported.prototype, name, async (run, _args, object) => {
      counts.objectCalls += 1
      if (!isCountingRows) countRows(object.ctx)
      const isWriting = name === 'alarm' && writingBehind.delete(object.ctx.storage)
      try {
        return await run()
      } finally {
        for (const { rowsRead, rowsWritten } of cursors) {
          counts.objectRowsRead += rowsRead
          counts.objectRowsWritten += rowsWritten
        }
        cursors = []
        if (isWriting) counts.received += 1
      }
    })
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

/** Responds with the counts of this isolate. `/details` empties and answers what `BENCH_DETAILS` keeps. */
export const Counts = {
  fetch(request) {
    if (new URL(request.url).pathname !== '/details') return Response.json(counts)
    const details = { messages, statements: [...statements] }
    messages = []
    statements.clear()
    return Response.json(details)
  },
}
