import { EventSourceParserStream } from 'eventsource-parser/stream'

/** Reads the body of a stream as a browser would: its events, and beside them what has no event. */
export function newReader(body: ReadableStream<Uint8Array> | null) {
  let lastEventId = ''
  const comments: string[] = []
  const retries: number[] = []
  const parser = new EventSourceParserStream({
    onId: (id) => void (lastEventId = id),
    onComment: (comment) => void comments.push(comment),
    onRetry: (retry) => void retries.push(retry),
  })
  if (!body) throw new Error('there is no body')
  const reader = body
    .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>) // its type wants more than bytes
    .pipeThrough(parser)
    .getReader()
  return {
    comments,
    retries,
    /** With which it would resume. */
    lastEventId: () => lastEventId,
    /** The next event; undefined: the stream is over. */
    next: async () => (await reader.read()).value,
    /** The CloudEvent of the next. */
    async event(): Promise<{ id: string; type: string; data: Record<string, unknown> }> {
      const message = (await reader.read()).value
      if (message === undefined) throw new Error('the stream is over')
      return JSON.parse(message.data) as never // what a test expects of it
    },
    close: () => reader.cancel(),
  }
}
