/**
 * A lock for the life of this process: it becomes flock(1), which then becomes this program again with the lock open,
 * under the same process id. The kernel gives it back at the end, however that comes; no child inherits it, since Node
 * closes at exec what it did not open.
 */
import { existsSync, readdirSync, readlinkSync, realpathSync } from 'node:fs'

/** Whether this process has `path` open, a file or a folder: after `becomeHolder` it is locked then. */
export function isHolder(path: string): boolean {
  if (!existsSync(path)) return false
  const wanted = realpathSync(path)
  return readdirSync('/proc/self/fd').some((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`) === wanted
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
      throw error
    }
  })
}

/** Never returns: this process is `argv` under the lock, or ends with `busyStatus` because another one has it. */
export function becomeHolder(path: string, busyStatus: number, argv: readonly string[]): never {
  const flock = ['flock', '-n', '-F', '-E', String(busyStatus), path, process.execPath, ...process.execArgv, ...argv]
  process.execve?.('/usr/bin/flock', flock, { ...process.env })
  throw new Error('this Node has no process.execve; start smith with Node 24')
}
