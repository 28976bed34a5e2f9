/** V8's inspector of an isolate (Chrome DevTools Protocol). */
export async function openInspector(url: string) {
  const socket = new WebSocket(url)
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve)
    socket.addEventListener('error', reject)
  })
  let id = 0
  return {
    /** Calls a method; returns its result, which has the shape `T`. */
    call: <T>(method: string, params: object = {}) =>
      new Promise<T>((resolve, reject) => {
        const own = (id += 1)
        const listen = ({ data }: MessageEvent) => {
          const answer = JSON.parse(String(data)) as { id?: number; result?: T; error?: object }
          if (answer.id !== own) return
          socket.removeEventListener('message', listen)
          if (answer.error) reject(new Error(`${method}: ${JSON.stringify(answer.error)}`))
          else resolve(answer.result as T) // what the protocol states
        }
        socket.addEventListener('message', listen)
        socket.send(JSON.stringify({ id: own, method, params }))
      }),
    close: () => socket.close(),
  }
}
