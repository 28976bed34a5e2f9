/** `threads-edge/emulator`: the Upstash REST API for tests, over an embedded engine or your Redis. For Node. */
export { type Emulator, type EmulatorOptions, startEmulator } from '../emulator/server.ts'
export {
  type Control,
  type Counts,
  createControl,
  type Eviction,
  type Fault,
  type FaultKind,
} from '../emulator/control.ts'
