import { createHmac } from 'node:crypto'

/** HMAC-SHA-256 of `data`, by the runtime. Stands in for `fast-sha256` in the bundle. */
export const hmac = (key: Uint8Array, data: Uint8Array): Uint8Array => createHmac('sha256', key).update(data).digest()
