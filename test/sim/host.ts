/**
 * What the parts of a simulated machine know of one another: its processes and how they end, what programs and the
 * halves of smith may do on it, and who is told what it really did.
 */
import type { LockHolder } from '../../agent/apt/kernel.ts'
import type { Processes } from '../../agent/apt/processes.ts'
import type { AgentConfig } from '../../agent/config.ts'
import type { Disk } from '../../agent/disk/disk.ts'
import type { Layout } from '../../agent/disk/layout.ts'
import type { Link, LinkEvents } from '../../agent/ports.ts'
import type { RunRecord } from '../../protocol/files.ts'
import type { SimDisk } from './disk.ts'
import type { Faults } from './faults.ts'
import type { Clock } from './clock.ts'
import type { Dice } from './random.ts'
import type { Installed, Packages, Repository, Upgrade } from './repository.ts'
import type { Time } from './time.ts'

/** Thrown at a port call of a process that ends there; nothing that the process still does has an effect. */
export class Crash extends Error {
  // Where it was thrown stands in the trace.
  override stack = ''
}

export type Doom = { calls: number; readonly how: 'killed' | 'power cut' }
export type Proc = {
  readonly kind: string
  readonly diesWithParent: boolean
  readonly children: Proc[]
  alive: boolean
  onDeath: (status: number | null) => void
}

/** What a machine sees of its world. */
export type Surroundings = {
  readonly time: Time
  readonly faults: Faults
  readonly ledger: Judge
  readonly repository: Repository
  readonly config: AgentConfig
  readonly met: (fault: string, machine: Host) => void
  readonly trace: (text: string) => void
  readonly connect: (machine: Host, proc: Proc, events: LinkEvents) => Link
  /** Its connections are no more; a process's are closed by the kernel, a machine's say nothing. */
  readonly disconnected: (machine: Host, isPowerLoss: boolean) => void
  readonly isReachable: (machine: Host) => boolean
  /** Something ran outside the queue of time: what it promised has to settle first. */
  readonly stirred: () => void
}
/** All that the judge asks of a machine, so that real ones can stand before it too. */
export type Judged = Pick<Host, 'id' | 'name' | 'bootId' | 'packages' | 'wallNow' | 'isInDpkg' | 'hasClaim'>
/** Is told what a machine really did. */
export type Judge = {
  readonly claimed: (machine: Judged, order: string, entryText: string) => void
  readonly aptStarted: (machine: Judged, order: string) => void
  readonly installed: (machine: Judged, order: string, upgrade: Upgrade) => void
  readonly rebooted: (machine: Judged, order: string | null) => void
  /** Something of smith ended apt. */
  readonly interrupted: (machine: Judged) => void
  readonly ended: (machine: Judged, order: string, record: RunRecord) => void
  readonly wentDown: (machine: Judged) => void
  readonly defect: (text: string) => void
  readonly orderAtWork: (machine: Judged) => string | null
}

/** A machine, as those see it who work on it. */
export type Host = {
  readonly id: string
  readonly name: string
  readonly disk: SimDisk
  readonly dice: Dice
  readonly world: Surroundings
  readonly packages: Packages
  readonly isDetached: boolean
  readonly isUp: boolean
  readonly bootId: string
  readonly layout: Layout
  readonly clock: Clock
  readonly wallNow: () => number
  readonly upgrades: (build: string) => Upgrade[]
  readonly setPackage: (name: string, version: string, state: Installed['state']) => void
  readonly print: (path: string, text: string) => void
  readonly rebootSoon: () => void
  // Processes.
  readonly call: (proc: Proc, what: string) => void
  readonly run: (proc: Proc, act: () => void) => void
  readonly later: (proc: Proc | null, delayMs: number, act: () => void) => () => void
  readonly spawn: (parent: Proc | null, kind: string, diesWithParent: boolean) => Proc
  readonly gone: (proc: Proc) => void
  readonly diskOf: (proc: Proc) => Disk
  readonly processesOf: (proc: Proc) => Processes
  // Locks.
  readonly lock: (proc: Proc, path: string, act: () => void) => void
  readonly holdAlso: (proc: Proc, path: string) => void
  readonly takeDpkg: (proc: Proc) => void
  readonly freeDpkg: (proc: Proc) => void
  readonly isInDpkg: () => boolean
  readonly lockHolder: (path: string) => LockHolder | null
  // What its disk says of an order.
  readonly orderAtWork: () => string | null
  /** How many records of an order no power cut could take. */
  readonly safeRecordsOf: (order: string) => number
  readonly isGrantSafe: (order: string) => boolean
  readonly hasClaim: (order: string) => boolean
}
