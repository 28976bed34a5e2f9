import { bodyLimit } from 'hono/body-limit'
import { createMiddleware } from 'hono/factory'
import { Problem } from '../errors.ts'
import type { AppEnv } from './context.ts'

/**
 * Refuses bodies that are too large or compressed. Not for GET and HEAD: no route reads their bodies, and `bodyLimit` would
 * rebuild the request, which the platform does not allow for those methods.
 */
export const checkBody = createMiddleware<AppEnv>(async (c, next) => {
  const encoding = c.req.header('Content-Encoding')?.trim().toLowerCase() ?? ''
  if (encoding !== '' && encoding !== 'identity') {
    c.header('Accept-Encoding', 'identity') // RFC 9110 §12.5.3
    throw new Problem('unsupported-media-type', 'Send the body without Content-Encoding')
  }
  const maxSize = c.get('config').maxBodyBytes
  return bodyLimit({
    maxSize,
    onError: () => {
      throw new Problem('body-too-large', `A body has at most ${maxSize} bytes`)
    },
  })(c, next)
})
