/** Base64 of `bytes`, by the runtime. Stands in for `@stablelib/base64` in the bundle. */
export const encode = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
export const decode = (text: string): Uint8Array => Buffer.from(text, 'base64')
