/**
 * D1 as one request reads and writes it, where the database has read replicas. Replicas lag. A bookmark stands for a state
 * of the database, and bookmarks sort by age: a session that begins with one reads from an instance that has at least that
 * state. https://developers.cloudflare.com/d1/best-practices/read-replication/
 *
 * `constraint` is where the first read of a replica may run: a bookmark, `first-primary` or `first-unconstrained`.
 */
export function createReplication(database: D1Database, constraint: () => string) {
  const sessions: D1DatabaseSession[] = []
  function begin(from: string): D1DatabaseSession {
    const session = database.withSession(from)
    sessions.push(session)
    return session
  }

  /** The latest state that this request has written or read. Undefined: none. */
  function bookmark(): string | undefined {
    let latest: string | undefined
    for (const session of sessions) {
      const reached = session.getBookmark()
      if (reached !== null && (latest === undefined || reached > latest)) latest = reached
    }
    return latest
  }

  return {
    bookmark,
    /** The primary. Each query is a session of its own, because only the first query of a session is sure to run there. */
    primary: {
      prepare: (sql: string) => begin('first-primary').prepare(sql),
      batch: <T>(statements: D1PreparedStatement[]) => begin('first-primary').batch<T>(statements),
    },
    /** A replica or the primary: never behind what this request has written or read. */
    replica: () => begin(bookmark() ?? constraint()),
  }
}
