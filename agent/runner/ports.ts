/** What the runner needs of the world. Everything that it decides happens in its callbacks, synchronously. */
import type { LockHolder } from '../apt/kernel.ts'
import type { Machine } from '../apt/planning.ts'
import type { Processes } from '../apt/processes.ts'
import type { AgentConfig } from '../config.ts'
import type { Disk } from '../disk/disk.ts'
import type { Layout } from '../disk/layout.ts'

/** `refused`: its host answered and nothing listens there, so the way to it is open. `unknown`: it can't be tried. */
export type Connected = {
  readonly how: 'connected' | 'refused' | 'unreachable' | 'unknown'
  readonly problem: string | null
}
export type ProcessFacts = {
  readonly pid: number
  readonly parent: number
  readonly command: string
  readonly forMs: number
}

export type RunnerPorts = {
  readonly disk: Disk
  readonly now: () => number
  /** Calls back once; the answer takes it back. */
  readonly after: (ms: number, then: () => void) => () => void
  readonly processes: Processes
  readonly machine: Machine
  /** Who holds a lock of fcntl(2) or flock(2) on a file; null when nobody does. */
  readonly lockHolder: (path: string) => LockHolder | null
  /** The processes that belong to an order, for a person who wonders what hangs. */
  readonly processesOf: (order: string) => ProcessFacts[]
  /** Tries a new connection, of TLS unless `isPlain`, and closes it at once; always calls back, at the latest after the time given. */
  readonly connect: (
    to: { readonly host: string; readonly port: number; readonly isPlain?: boolean },
    timeoutMs: number,
    then: (connected: Connected) => void,
  ) => void
}

export type RunnerContext = {
  readonly ports: RunnerPorts
  readonly config: AgentConfig
  readonly layout: Layout
  /** A line into the log that people read on the machine. */
  readonly tell: (order: string, step: string, text: string) => void
}

/** The command of the runner's own helper programs. */
export type Programs = { readonly node: string; readonly wrapper: string; readonly hook: string }
