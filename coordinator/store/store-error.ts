/**
 * What a store throws when it does not commit. `conflict`: the turn breaks a rule of the schema, nothing changed.
 * `io`: the disk or SQLite failed, and the store takes no further commits, since what is on disk is no longer known.
 * `closed`: the store was closed, or an earlier commit failed that way. In each case the caller ends the process.
 */
export class StoreError extends Error {
  readonly kind: 'conflict' | 'io' | 'closed'
  /** The statement that failed, null when no statement was run. */
  readonly sql: string | null
  constructor(
    kind: 'conflict' | 'io' | 'closed',
    message: string,
    details: { readonly sql?: string; readonly cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'StoreError'
    this.kind = kind
    this.sql = details.sql ?? null
  }
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
