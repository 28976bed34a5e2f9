/**
 * Preloaded into the processes that `npm start` spawns. Each leads a process group. When the process that spawned it is
 * gone, however it ended, this kills the group: nothing keeps a port.
 */
import { isMainThread } from 'node:worker_threads'

const parent = Number(process.env['PARENT_PID'])
if (isMainThread) {
  setInterval(() => {
    if (process.ppid !== parent) process.kill(-process.pid, 'SIGKILL')
  }, 300).unref()
}
