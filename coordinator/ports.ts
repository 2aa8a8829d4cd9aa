/** What the coordinator needs from the world. `createCoordinator(ports)` is what main, the tests and the simulator call. */
import type { FeedRow } from '../protocol/feed.ts'
import type { RunRecord } from '../protocol/files.ts'
import type { ChainRow } from './domain/chain.ts'
import type { ChangeCall, Event, LogAppend, Send } from './domain/events.ts'
import type { Instant, TableName, Tables, Write } from './domain/state.ts'

/** Wall time in milliseconds, monotonic time in milliseconds, and one-shot timers. */
export type Clock = {
  readonly wallNow: () => number
  readonly monotonicNow: () => number
  /** Calls back once; the answer cancels it. */
  readonly after: (delayMs: number, callback: () => void) => () => void
}

export type Random = {
  /** Cryptographically strong outside the simulator. */
  readonly bytes: (count: number) => Uint8Array
}

/** One turn as it is committed, all or nothing. `rev` is the journal's row; turns without facts and rows have none. */
export type Turn = {
  readonly rev: number
  readonly at: Instant
  readonly actor: string
  readonly row: FeedRow
  readonly writes: readonly Write[]
  readonly logs: readonly LogAppend[]
}

export type LiveRow = {
  readonly [Name in TableName]: { readonly table: Name; readonly key: string; readonly row: Tables[Name] }
}[TableName]

/**
 * Where everything is kept. Synchronous reads, one writer. A commit that returned is on disk; one that threw has
 * changed nothing, and the caller must stop granting and end the process.
 */
export type Store = {
  /** Random; changes when the database was restored from a backup. */
  readonly epoch: string
  /** The newest journal row, 0 for none. */
  readonly rev: () => number
  /** The instant of the newest journal row, so that time never goes back over a restart. */
  readonly lastAt: () => Instant
  /** All rows that are live, in no particular order. */
  readonly load: () => Iterable<LiveRow>
  readonly commit: (turn: Turn) => void | Promise<void>
  /** A row whether live or not. */
  readonly get: <Name extends TableName>(table: Name, key: string) => Tables[Name] | undefined
  /** Rows whose key begins with `prefix`, by key. */
  readonly list: <Name extends TableName>(table: Name, prefix: string) => readonly Tables[Name][]
  /** Projects, newest first, those before `before` (an instant) when given. */
  readonly projects: (query: { readonly limit: number; readonly before?: Instant }) => readonly Tables['projects'][]
  /** Orders of a machine (by id) or of a project, in the order in which they were made. */
  readonly orders: (query: { readonly machine: string } | { readonly project: string }) => readonly Tables['orders'][]
  /** Journal rows after `since`, at most `limit`, in order. */
  readonly journal: (query: { readonly since: number; readonly limit: number }) => readonly FeedRow[]
  /** Journal rows that have an act, before `before` when given: at most `limit`, the newest first. */
  readonly acts: (query: { readonly before: number | null; readonly limit: number }) => readonly FeedRow[]
  /** As `journal`, as it is stored. */
  readonly chain: (query: { readonly since: number; readonly limit: number }) => readonly ChainRow[]
  /** The hash of the newest journal row. */
  readonly head: () => string
  /** Records of an order after number `after`, at most `limit`, in order. */
  readonly records: (query: {
    readonly order: string
    readonly after: number
    readonly limit: number
  }) => readonly RunRecord[]
  readonly ledger: Ledger
  /** A consistent copy of the whole store at `path`, fsynced. */
  readonly backup: (path: string) => void | Promise<void>
  readonly close: () => void
}

/** What the bot keeps, outside the journal: JSON documents by key. */
export type Ledger = {
  readonly get: (key: string) => unknown
  /** Those whose key begins with `prefix`, by key. */
  readonly list: (prefix: string) => readonly { readonly key: string; readonly doc: unknown }[]
  /** All or nothing, and on disk when it returns; `null` deletes. */
  readonly put: (entries: readonly (readonly [key: string, doc: object | null])[]) => void
}

/** What the core's sends become. Called after the commit, in order; must not throw for a peer that is gone. */
export type Outbound = {
  readonly toAgent: (send: AgentSend) => void
  readonly toChange: (call: ChangeCall) => void
  /** Where a source of machines is configured: asks it and gives the event back to the core with its answer. */
  readonly toLookup?: (event: Event) => void
}

/** Which records of the coordinator's own log are wanted: those after number `after`, as old as `since` or younger. */
export type ServiceLogQuery = {
  readonly after: number
  readonly since: Instant
  readonly change: string | null
  readonly machine: string | null
  readonly limit: number
}

/** The dashboard's files as they are sent, by path; the page itself is at `/`. */
export type DashboardFiles = () => Promise<ReadonlyMap<string, { readonly type: string; readonly bytes: Buffer }>>

/** What Prometheus reads, in its text format. */
export type Metrics = () => Promise<{ readonly type: string; readonly text: string }>

/** Structured logging, pino's shape: an object of fields and a message. */
export type Log = {
  readonly debug: (fields: object, message: string) => void
  readonly info: (fields: object, message: string) => void
  readonly warn: (fields: object, message: string) => void
  readonly error: (fields: object, message: string) => void
}
export type AgentSend = Extract<Send, { to: 'agent' }>

/** One HTTP exchange with another system: http.ts does it for real, a test plays it. */
export type HttpAsk = {
  readonly method: 'GET' | 'POST' | 'PATCH'
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | null
  readonly timeoutMs: number
  readonly bytesMax?: number
  /** Certificates (PEM) that are trusted instead of the system's. */
  readonly ca?: string
}
/** Header names in lower case. */
export type HttpAnswer = {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly text: string
}
/** Throws an HttpError when there was no whole answer. */
export type Http = (ask: HttpAsk) => Promise<HttpAnswer>

export class HttpError extends Error {
  /** Whether what was asked may have been done all the same. */
  readonly isAmbiguous: boolean
  constructor(message: string, options: { readonly isAmbiguous: boolean; readonly cause?: unknown }) {
    super(message, { cause: options.cause })
    this.name = 'HttpError'
    this.isAmbiguous = options.isAmbiguous
  }
}
