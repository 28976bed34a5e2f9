/**
 * Runs a D1 write that is safe to repeat, a second time if the first fails: its reply may have been lost after it was
 * executed. The second run must find that state and answer the same. What a constraint refuses is not repeated.
 */
export async function repeatOnce<T>(write: () => Promise<T>): Promise<T> {
  try {
    return await write()
  } catch (error) {
    if (hasMessage(error, 'SQLITE_CONSTRAINT')) throw error
    return write()
  }
}

/** Whether the message of an error, or of one of its causes, contains `part`. Drizzle wraps the errors of D1. */
export const hasMessage = (error: unknown, part: string): boolean =>
  error instanceof Error && (error.message.includes(part) || hasMessage(error.cause, part))
