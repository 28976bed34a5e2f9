/** The result of `promise`, or undefined after `ms`. */
export async function within<R>(promise: Promise<R>, ms: number): Promise<R | undefined> {
  let timer
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), Math.max(0, ms))
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}
