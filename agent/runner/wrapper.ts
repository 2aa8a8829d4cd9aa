/**
 * Starts apt for one order and stays until it has ended. Run as `flock -F -E 75 <order>/lock node wrapper.ts
 * <order> <try>`, in a session of its own. The lock's descriptor goes on to apt, so that the lock lives as long as
 * apt even when this program is killed; dpkg and the packages' daemons don't get it.
 * Invariant: the latch is taken after all code is loaded and is the last act before apt; apt is started by whoever
 * took the latch and by nobody else, ever.
 */
import { closeSync, constants, openSync, readdirSync, readlinkSync, realpathSync } from 'node:fs'
import { execa } from 'execa'
import type { Plan } from '../../protocol/plan.ts'
import { fileDescriptor } from '../apt/processes.ts'
import { createRealDisk, type Disk, writeFileDurably } from '../disk/disk.ts'
import { type OrderLayout, orderFilesOf } from '../disk/layout.ts'
import { readFate } from '../disk/order-state.ts'
import { type InstallCommand, type InstallExit, readCommand, readTry, takeLatch } from './command-file.ts'

/** Exit statuses, for the log of a person who looks; the runner decides by the files alone. */
const STALE = 76
const NO_LOCK = 77
const LATCHED_ALREADY = 78

type Ended = { readonly status: number | null; readonly signal: string | null; readonly problem: string | null }
type Descriptors = { readonly lock: number; readonly output: number; readonly status: number }

async function main(): Promise<number> {
  const [folder, ownTry] = process.argv.slice(2)
  if (folder === undefined || ownTry === undefined) return 2
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => undefined)
  const disk = createRealDisk()
  const files = orderFilesOf(folder)
  const lock = lockDescriptor(files.lock)
  if (lock === null) return NO_LOCK
  const command = readCommand(disk, files)
  // Read under the lock: the runner raises the number before it looks whether the lock is free.
  if (command === null || command.try !== Number(ownTry) || readTry(disk, files) !== command.try) return STALE
  if (readFate(disk, files)?.fate !== 'claim') return STALE
  const append = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | constants.O_NOFOLLOW
  const descriptors = {
    lock,
    output: openSync(files.output, append, 0o640),
    status: openSync(files.status, append, 0o640),
  }
  const startedAt = Date.now()
  if (!takeLatch(disk, files, { by: 'wrapper', at: startedAt, try: command.try })) return LATCHED_ALREADY
  await install(disk, files, command, descriptors, startedAt)
  return 0
}

async function install(
  disk: Disk,
  files: OrderLayout,
  command: InstallCommand,
  fds: Descriptors,
  startedAt: number,
): Promise<void> {
  // dpkg would hand the lock on to daemons, so a shell keeps it beside dpkg instead.
  const repair =
    command.repair === null
      ? null
      : await run(['sh', '-c', '"$@" 3>&- 4>&-; exit $?', 'sh', ...command.repair], command, fds)
  // A package that still can't be configured is no reason to stop where apt brings something: the new version may be
  // the cure, and dpkg goes from half-configured to it without the old script. With nothing to bring, apt would only
  // run the script that just failed once more.
  const isHopeless = repair !== null && repair.status !== 0 && !bringsAnything(command.plan)
  const ended = isHopeless ? repair : await run(command.install, command, fds)
  closeSync(fds.status)
  const exit: InstallExit = { ...ended, repairStatus: repair?.status ?? null, startedAt, endedAt: Date.now() }
  disk.fsync(files.output)
  writeFileDurably(disk, files.exit, `${JSON.stringify(exit)}\n`, { mode: 0o640 })
}

function bringsAnything(plan: Plan): boolean {
  return plan.installs.length > 0 || plan.removes.length > 0
}

/** Descriptors 3 (lock) and 4 (progress) are what the argv in command.json counts on. */
async function run(argv: readonly string[], command: InstallCommand, fds: Descriptors): Promise<Ended> {
  const result = await execa(argv[0] ?? '', argv.slice(1), {
    stdio: [
      'ignore',
      fileDescriptor(fds.output),
      fileDescriptor(fds.output),
      fileDescriptor(fds.lock),
      fileDescriptor(fds.status),
    ],
    env: command.environment,
    extendEnv: false,
    cwd: '/',
    detached: true,
    cleanup: false,
    reject: false,
    buffer: false,
  })
  const status = result.exitCode ?? null
  const signal = result.signal ?? null
  const problem =
    status === null && signal === null ? (result.originalMessage ?? result.shortMessage ?? 'unknown') : null
  return { status, signal, problem }
}

/** The descriptor that flock(1) opened and left to us. */
function lockDescriptor(path: string): number | null {
  const wanted = realpathSync(path)
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      if (readlinkSync(`/proc/self/fd/${name}`) === wanted) return Number(name)
    } catch (error) {
      // The descriptor of the listing itself is gone by now.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
  return null
}

process.exitCode = await main()
