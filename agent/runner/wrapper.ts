/**
 * Starts apt for one order and stays until it has ended. Run as `flock -F -E 75 <order>/lock node wrapper.ts
 * <order> <try>`, in a session of its own. The lock's descriptor goes on to apt, so that the lock lives as long as
 * apt even when this program is killed; dpkg and the packages' daemons don't get it. What it decides is in wrap.ts,
 * which is called after all code is loaded.
 */
import { constants, openSync, readdirSync, readlinkSync, realpathSync } from 'node:fs'
import { execa } from 'execa'
import { fileDescriptor } from '../apt/processes.ts'
import { createRealDisk } from '../disk/disk.ts'
import { orderFilesOf } from '../disk/layout.ts'
import type { InstallCommand } from './command-file.ts'
import { type Ended, wrap } from './wrap.ts'

const NO_LOCK = 77

type Descriptors = { readonly lock: number; readonly output: number; readonly status: number }

function main(): Promise<number> {
  const [folder, ownTry] = process.argv.slice(2)
  if (folder === undefined || ownTry === undefined) return Promise.resolve(2)
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => undefined)
  const files = orderFilesOf(folder)
  const lock = lockDescriptor(files.lock)
  if (lock === null) return Promise.resolve(NO_LOCK)
  const append = constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | constants.O_NOFOLLOW
  let descriptors: Descriptors | null = null
  const over = Promise.withResolvers<number>()
  const ports = {
    disk: createRealDisk(),
    now: () => Date.now(),
    open: () => {
      descriptors = {
        lock,
        output: openSync(files.output, append, 0o640),
        status: openSync(files.status, append, 0o640),
      }
    },
    start: (argv: readonly string[], command: InstallCommand, then: (ended: Ended) => void) => {
      if (descriptors === null) throw new Error('nothing is open that apt could write to')
      run(argv, command, descriptors).then(then).catch(over.reject)
    },
  }
  wrap(ports, files, Number(ownTry), over.resolve)
  return over.promise
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
