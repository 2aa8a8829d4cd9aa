/**
 * How a program is started: a port, and its implementation on execa. Output always goes to a file opened for
 * appending, never to a pipe of ours, so that no program ever meets a broken pipe because smith died.
 * Only programs that change nothing (update, simulate, download, checks) get a time limit.
 */
import { closeSync, constants, openSync } from 'node:fs'

export type ProcessSpec = {
  readonly argv: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  readonly folder: string
  /** Both stdout and stderr are appended here, in the order in which they were written. */
  readonly output: string
  /** The program and its children are killed after so long; null for never. */
  readonly timeLimitMs: number | null
  /** True: the kernel kills it when we die (not its children). */
  readonly diesWithUs: boolean
}
export type ProcessEnd = {
  readonly status: number | null
  readonly signal: string | null
  readonly timedOut: boolean
  /** Why it could not be started. */
  readonly problem: string | null
}
export type Processes = {
  readonly start: (spec: ProcessSpec, onEnd: (end: ProcessEnd) => void) => void
}

/** execa costs 5 MB, so an idle agent does not load it. */
export async function createRealProcesses(): Promise<Processes> {
  const { execa } = await import('execa')
  const start: Processes['start'] = (spec, onEnd) => {
    const fd = openSync(
      spec.output,
      constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | constants.O_NOFOLLOW,
      0o640,
    )
    // setpriv(1) sets the signal and then becomes the program, so the pid stays the program's.
    const argv = spec.diesWithUs ? ['setpriv', '--pdeathsig', 'KILL', '--', ...spec.argv] : [...spec.argv]
    const child = execa(argv[0] ?? '', argv.slice(1), {
      stdio: ['ignore', fileDescriptor(fd), fileDescriptor(fd)],
      env: spec.environment,
      extendEnv: false,
      cwd: spec.folder,
      detached: true,
      cleanup: false,
      reject: false,
      buffer: false,
    })
    closeSync(fd)
    let timedOut = false
    const timer =
      spec.timeLimitMs === null
        ? undefined
        : setTimeout(() => {
            timedOut = true
            killGroup(child.pid)
          }, spec.timeLimitMs)
    // With no pipe of ours it ends when the process exits, even if a child of it holds its files open for ever.
    void child.then((result) => {
      clearTimeout(timer)
      const signal = result.signal ?? null
      const status = result.exitCode ?? null
      const problem =
        status === null && signal === null ? (result.originalMessage ?? result.shortMessage ?? 'unknown') : null
      onEnd({ status, signal, timedOut, problem })
    })
  }
  return { start }
}

/** It is the leader of its own session, so the group is the program and what it started. */
function killGroup(pid: number | undefined): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch (error) {
    // It ended in the same moment, which is what was wanted.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** The same as a promise, for code that may wait. */
export function runProcess(processes: Processes, spec: ProcessSpec): Promise<ProcessEnd> {
  return new Promise((resolve) => {
    processes.start(spec, resolve)
  })
}

/** execa's types know descriptors 3 to 9 only; it hands any number to the child as it is. */
export function fileDescriptor(fd: number): 3 {
  return fd as 3
}
