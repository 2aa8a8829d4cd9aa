/** The runner on this machine's disk, clock and processes, until nothing is left to do; main.ts holds its lock. */
import { fileURLToPath } from 'node:url'
import { visible } from '../apt/diagnosis.ts'
import { dpkgLocksOf } from '../apt/preflight.ts'
import type { AgentConfig } from '../config.ts'
import { codeOf, type Disk, writeFileDurably } from '../disk/disk.ts'
import { layoutOf, type OrderLayout, orderLayoutOf } from '../disk/layout.ts'
import { knownOrders, lastRecord } from '../disk/order-state.ts'
import { readExit, readLatch, readTry } from './command-file.ts'
import type { RunnerPorts } from './ports.ts'
import { createRealPorts } from './real-ports.ts'
import { readReboot } from './reboot.ts'
import { createRunner } from './runner.ts'

/** Not 0: an order may be left, and whoever keeps the runner has to start it again. */
const ENDED_BY_SIGNAL = 143

export async function runUntilIdle(config: AgentConfig): Promise<void> {
  const layout = layoutOf(config.stateDir)
  const ports = await createRealPorts()
  const unfinished = () =>
    knownOrders(ports.disk, layout)
      .map((order) => orderLayoutOf(layout, order))
      .filter((files) => lastRecord(ports.disk, files)?.type !== 'result')
  const isAptAtWork = () => unfinished().some((files) => mayBeAtWork(ports, files, config.aptRoot))
  // A shutdown must not overtake apt, so the runner stays until apt has ended. Then it goes at once: the health of a
  // machine whose services are being stopped says nothing, and the run is taken up again after the boot.
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      for (const files of unfinished()) callOff(ports.disk, files)
      const look = () => {
        if (isAptAtWork()) return void ports.after(config.limits.pollMs, look)
        for (const files of unfinished()) leave(ports.disk, files)
        process.exit(ENDED_BY_SIGNAL)
      }
      look()
    })
  }
  // In a checkout they are sources beside this one, in a package bundles beside the bundle that this is part of.
  const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'mjs'
  const here = (name: string) => fileURLToPath(new URL(`${name}.${suffix}`, import.meta.url))
  const programs = { node: process.execPath, wrapper: here('wrapper'), hook: here('hook') }
  const failed = (error: unknown) => tellFailure(ports, config, error)
  // For what is thrown in a callback; it ends the program all the same.
  process.on('uncaughtExceptionMonitor', failed)
  try {
    await new Promise<void>((resolve) => {
      createRunner(ports, config, programs, resolve).start()
    })
  } catch (error) {
    failed(error)
    throw error
  }
}

/** What stays wrong is found again every second; told as often, it would fill the disk that it may be about. */
const SAME_AGAIN_MS = 60_000
const TAIL_BYTES = 8192

/** Whether the end of the log says this already, and not long ago. */
function isToldAlready({ disk, now }: Pick<RunnerPorts, 'disk' | 'now'>, file: string, text: string): boolean {
  const size = disk.factsOf(file)?.size ?? 0
  if (size === 0) return false
  const tail = disk.read(file, Math.max(0, size - TAIL_BYTES), TAIL_BYTES).toString('utf8')
  const [at = '', ...rest] = (tail.trimEnd().split('\n').at(-1) ?? '').split(' ')
  return rest.join(' ') === text && Math.abs(now() - Date.parse(at)) < SAME_AGAIN_MS
}

/** Where stderr goes may be the very disk that is full, so the log that people read on the machine says it too. */
export function tellFailure(
  ports: Pick<RunnerPorts, 'disk' | 'now'>,
  config: Pick<AgentConfig, 'logFile' | 'stateDir'>,
  error: unknown,
): void {
  const advice =
    codeOf(error) === 'ENOSPC' ? `; make room where ${config.stateDir} lies (df -h), and it goes on by itself` : ''
  const text = `the runner failed and is started again: ${error instanceof Error ? error.message : String(error)}${advice}`
  const told = `- - ${visible(text)}`
  try {
    if (isToldAlready(ports, config.logFile, told)) return
    const line = `${new Date(ports.now()).toISOString()} ${told}\n`
    ports.disk.write(config.logFile, Buffer.from(line), 'append', 0o644)
  } catch (problem) {
    // stderr, where the error goes besides, is all that is left.
    if (codeOf(problem) === '') throw problem
  }
}

function mayBeAtWork(ports: RunnerPorts, files: OrderLayout, root: string | null): boolean {
  const { disk } = ports
  // From its own reboot on, a run waits for the machine to go down, so it must not be what holds that up.
  if (readReboot(disk, files) !== null || readExit(disk, files) !== null) return false
  const latch = readLatch(disk, files)
  if (latch !== null && latch.by !== 'wrapper') return false
  // Without a latch it is a wrapper that may be about to take it; with one, a dpkg may have outlived its apt.
  const locks = latch === null ? [files.lock] : [files.lock, ...dpkgLocksOf({ root })]
  return locks.some((path) => ports.lockHolder(path) !== null)
}

/** A wrapper that was started and has not read the number yet sees that it is too late. */
function callOff(disk: Disk, files: OrderLayout): void {
  if (readLatch(disk, files) !== null || readTry(disk, files) === 0) return
  writeFileDurably(disk, files.tries, `${readTry(disk, files) + 1}\n`, { mode: 0o640 })
}

/** Left in good order: what was printed is on disk, so the next boot need not say that some of it may be lost. */
function leave(disk: Disk, files: OrderLayout): void {
  if (disk.factsOf(files.output) !== null) disk.fsync(files.output)
  disk.remove(files.boot)
}
