/**
 * The only loop of the coordinator: one turn in flight; step, check, commit, apply, send, tell the feed, arm the
 * timer. Everything that changes the state goes through `submit`.
 */
import type { FeedRow } from '../protocol/feed.ts'
import type { Event, Reply } from './domain/events.ts'
import type { Actor, TableName, Tables } from './domain/state.ts'

/** The state in memory, read-only. Rows of finished projects are in the store only. */
export type View = {
  readonly get: <Name extends TableName>(table: Name, key: string) => Tables[Name] | undefined
  readonly all: <Name extends TableName>(table: Name) => Iterable<Tables[Name]>
  readonly size: (table: TableName) => number
}

export type Driver = {
  readonly view: View
  /** Resolves after the commit; `rev` is the newest journal row then. Rejects only when the coordinator must end. */
  readonly submit: (actor: Actor, event: Event) => Promise<{ readonly reply: Reply; readonly rev: number }>
  /** Calls back with each journal row after its commit, in order; the answer ends it. Must not throw. */
  readonly onRow: (listener: (row: FeedRow) => void) => () => void
  readonly rev: () => number
  readonly start: () => Promise<void>
  readonly stop: () => Promise<void>
}
