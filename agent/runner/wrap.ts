/**
 * What the wrapper decides, over ports: whether its try is still wanted, the latch, apt, and how it ended. wrapper.ts
 * gives it descriptors and processes, a simulator its own.
 * Invariant: the latch is the last act before apt; apt is started by whoever took the latch and by nobody else, ever.
 */
import type { Plan } from '../../protocol/plan.ts'
import { type Disk, writeFileDurably } from '../disk/disk.ts'
import type { OrderLayout } from '../disk/layout.ts'
import { readFate } from '../disk/order-state.ts'
import { type InstallCommand, type InstallExit, readCommand, readTry, takeLatch } from './command-file.ts'

/** Exit statuses, for the log of a person who looks; the runner decides by the files alone. */
const STALE = 76
const LATCHED_ALREADY = 78

export type Ended = { readonly status: number | null; readonly signal: string | null; readonly problem: string | null }
export type WrapPorts = {
  readonly disk: Disk
  readonly now: () => number
  /** Opens what apt writes to; after it nothing is left to go wrong before apt but the latch. */
  readonly open: () => void
  /** Starts a program that holds the lock of the order; descriptor 4 is the progress. */
  readonly start: (argv: readonly string[], command: InstallCommand, then: (ended: Ended) => void) => void
}

/** Called under the order's lock. `done` gets the exit status, when all is written down. */
export function wrap(ports: WrapPorts, files: OrderLayout, ownTry: number, done: (status: number) => void): void {
  const { disk } = ports
  const command = readCommand(disk, files)
  // Read under the lock: the runner raises the number before it looks whether the lock is free.
  if (command === null || command.try !== ownTry || readTry(disk, files) !== command.try) return done(STALE)
  if (readFate(disk, files)?.fate !== 'claim') return done(STALE)
  ports.open()
  const startedAt = ports.now()
  if (!takeLatch(disk, files, { by: 'wrapper', at: startedAt, try: command.try })) return done(LATCHED_ALREADY)
  const end = (ended: Ended, repairStatus: number | null) => {
    const exit: InstallExit = { ...ended, repairStatus, startedAt, endedAt: ports.now() }
    disk.fsync(files.output)
    writeFileDurably(disk, files.exit, `${JSON.stringify(exit)}\n`, { mode: 0o640 })
    done(0)
  }
  const install = (repairStatus: number | null) =>
    ports.start(command.install, command, (ended) => end(ended, repairStatus))
  if (command.repair === null) return install(null)
  // dpkg would hand the lock on to daemons, so a shell keeps it beside dpkg instead.
  const repair = ['sh', '-c', '"$@" 3>&- 4>&-; exit $?', 'sh', ...command.repair]
  ports.start(repair, command, (ended) => {
    // A package that still can't be configured is no reason to stop where apt brings something: the new version may
    // be the cure, and dpkg goes from half-configured to it without the old script. With nothing to bring, apt would
    // only run the script that just failed once more.
    if (ended.status !== 0 && !bringsAnything(command.plan)) return end(ended, ended.status)
    install(ended.status)
  })
}

function bringsAnything(plan: Plan): boolean {
  return plan.installs.length > 0 || plan.removes.length > 0
}
