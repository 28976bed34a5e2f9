/**
 * Runs a D1 write that is safe to repeat, a second time if the first fails: its reply may have been lost after it was
 * executed. The second run must find that state and answer the same. What a constraint refuses is not repeated.
 */
export async function repeatOnce<T>(write: () => Promise<T>): Promise<T> {
  try {
    return await write()
  } catch (error) {
    if (isRefused(error)) throw error
    return write()
  }
}

/** Drizzle wraps the errors of D1. */
const isRefused = (error: unknown): boolean =>
  error instanceof Error && (error.message.includes('SQLITE_CONSTRAINT') || isRefused(error.cause))
