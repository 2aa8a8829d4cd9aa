/** The rows of recurring requests (recurring.ts). All instants are milliseconds since the epoch. */

/** The key of its row is its name; `id` is never used again, also when the name is. */
export type Schedule = {
  readonly id: string
  readonly name: string
  readonly cron: string
  /** The line of the request. */
  readonly text: string
  readonly by: string
  readonly createdAt: number
  /** Null when its cron expression has no time in sight. */
  readonly next: number | null
  /** The newest last, a bounded number. */
  readonly firings: readonly Firing[]
}
export type Firing = {
  readonly at: number
  readonly by: string
  readonly what: 'asked' | 'refused' | 'skipped' | 'missed'
  /** Of what was asked: what became of it is read from the request. */
  readonly request: string | null
  readonly reasons: readonly string[]
}
