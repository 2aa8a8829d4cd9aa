/**
 * What the unprivileged half of the agent needs from the world. main.ts gives it the real thing, tests and the
 * simulator their own; the agent's core (agent.ts and session/) touches nothing else, and none of these calls
 * answers with a promise: a crash can then be tried at every single one of them.
 */
import type { Facts } from '../protocol/agent.ts'
import type { Refusal } from '../protocol/errors.ts'
import type { Plan, PlanEvidence } from '../protocol/plan.ts'
import type { AgentLimits } from './config.ts'
import type { Disk } from './disk/disk.ts'
import type { Layout } from './disk/layout.ts'

/** Wall time in milliseconds, monotonic time in milliseconds, and one-shot timers. */
export type Clock = {
  readonly wallNow: () => number
  readonly monotonicNow: () => number
  /** Calls back once; the answer cancels it. */
  readonly after: (delayMs: number, callback: () => void) => Cancel
}
export type Cancel = () => void

export type Random = { readonly bytes: (count: number) => Uint8Array }

/** Structured logging, pino's shape: an object of fields and a message. */
export type Log = {
  readonly debug: (fields: object, message: string) => void
  readonly info: (fields: object, message: string) => void
  readonly warn: (fields: object, message: string) => void
  readonly error: (fields: object, message: string) => void
}

/** A connection under way or open. Calls after its end are harmless. */
export type Link = {
  readonly send: (text: string) => void
  readonly close: (code: number, reason: string) => void
  readonly terminate: () => void
  readonly bufferedBytes: () => number
}
export type LinkEvents = {
  readonly onMessage: (data: string | Uint8Array, isBinary: boolean) => void
  /** Comes once, last, also when no connection was made; `code` is null when the peer said none. */
  readonly onClosed: (code: number | null, reason: string) => void
}
/** Begins to connect; events come later, never from within the call. */
export type Connect = (events: LinkEvents) => Link

export type PlanAnswer =
  | { readonly plan: Plan; readonly evidence: PlanEvidence; readonly warnings: readonly string[] }
  | { readonly refusal: Refusal }

/** The machine's identity, made at enrolment. `sign` is Ed25519 over the bytes, base64. */
export type Identity = {
  readonly machine: string
  readonly name: string
  readonly instance: string
  readonly sign: (bytes: Uint8Array) => string
}

/** What hello says besides what the core knows by itself. Read anew at each hello. */
export type Description = {
  readonly facts: Facts
  readonly bootId: string
  readonly builds: readonly string[]
  readonly template: boolean
  readonly impediment: Refusal | null
}

export type AgentPorts = {
  readonly clock: Clock
  readonly random: Random
  readonly disk: Disk
  readonly layout: Layout
  readonly log: Log
  readonly identity: Identity
  readonly limits: AgentLimits
  readonly connect: Connect
  readonly describe: () => Description
  /** Calls back once, later, unless cancelled. */
  readonly plan: (
    query: { readonly build: string; readonly outageMinutes: number; readonly clockAheadMs: number | null },
    done: (answer: PlanAnswer) => void,
  ) => Cancel
  /** Calls back once, later, with null or why the download failed, unless cancelled. */
  readonly prefetch: (
    offer: { readonly order: string; readonly plan: Plan },
    done: (problem: string | null) => void,
  ) => Cancel
  /**
   * Starts a runner that outlives the agent and calls back with its exit status (null for a signal or when it could
   * not be started). Null where something else starts it (systemd's path unit).
   */
  readonly startRunner: ((onExit: (status: number | null) => void) => void) | null
  /** Starts the collector of health reports where nothing else does (systemd's path unit); absent where something does. */
  readonly startCollector?: () => void
  /** Calls back when something in a folder may have changed; may do so never, or without a reason. */
  readonly watch: (folder: string, onChange: () => void) => Cancel
  /** Gives back the memory that the work took; absent where that can't be done. Called when nothing was done for a while. */
  readonly rest?: () => void
  /** Where something starts the agent again when it ends; absent where nothing does. */
  readonly ownFiles?: OwnFiles
}

/** The files that the agent was loaded from. */
export type OwnFiles = {
  readonly folders: readonly string[]
  readonly areReplaced: () => boolean
}
