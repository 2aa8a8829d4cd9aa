/** The runner's view of the kernel: locks and processes, read from /proc. */
import { lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { createRealMachine } from '../apt/planning.ts'
import { createRealProcesses } from '../apt/processes.ts'
import { createRealDisk } from '../disk/disk.ts'
import type { LockHolder, ProcessFacts, RunnerPorts } from './ports.ts'

export async function createRealPorts(): Promise<RunnerPorts> {
  return {
    disk: createRealDisk(),
    now: () => Date.now(),
    after: (ms, then) => {
      const timer = setTimeout(then, ms)
      return () => clearTimeout(timer)
    },
    processes: await createRealProcesses(),
    machine: createRealMachine(),
    lockHolder,
    processesOf,
  }
}

/** A process can end while it is looked at, and another user's can't be looked into: both read as nothing. */
function quietly<T>(read: () => T, otherwise: T): T {
  try {
    return read()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES' || code === 'EPERM') return otherwise
    throw error
  }
}

/** proc_locks(5): `1: POSIX ADVISORY WRITE 1234 fe:01:5678 0 EOF`; `->` marks one who only waits. */
export function lockHolder(path: string): LockHolder | null {
  const facts = lstatSync(path, { throwIfNoEntry: false })
  if (facts === undefined) return null
  for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
    const match = /^\d+: (?:POSIX|FLOCK|OFDLCK)\s+\S+\s+(?:READ|WRITE)\s+(-?\d+) [0-9a-f]+:[0-9a-f]+:(\d+) /.exec(line)
    if (match === null || Number(match[2]) !== facts.ino) continue
    const pid = Number(match[1])
    // Inode numbers repeat across filesystems, and device numbers here differ from stat's on some of them.
    if (hasOpen(pid, path) === false) continue
    return { pid, command: commandOf(pid), forMs: ageOf(pid) }
  }
  return null
}

/** Null when we may not look. */
function hasOpen(pid: number, path: string): boolean | null {
  const folder = `/proc/${pid}/fd`
  const names = quietly<string[] | null>(() => readdirSync(folder), null)
  if (names === null) return null
  const wanted = realpathSync(path)
  return names.some((name) => quietly(() => readlinkSync(`${folder}/${name}`), '') === wanted)
}

function commandOf(pid: number): string {
  const text = quietly(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8'), '')
  return text.replaceAll('\0', ' ').trim().slice(0, 200) || `process ${pid}`
}

/** proc_pid_stat(5), field 22: when it was started, in clock ticks since boot (100 a second on Linux). */
function ageOf(pid: number): number {
  const fields = statFields(pid)
  const uptime = Number(quietly(() => readFileSync('/proc/uptime', 'utf8'), '0').split(' ')[0])
  const startedTicks = Number(fields[19] ?? '0')
  return Math.max(0, Math.round(uptime * 1000 - startedTicks * 10))
}

/** From field 3 on, since field 2 is a name that may hold anything. */
function statFields(pid: number): string[] {
  const text = quietly(() => readFileSync(`/proc/${pid}/stat`, 'utf8'), '')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}

/** By the mark that aptEnvironment sets and that children inherit. */
function processesOf(order: string): ProcessFacts[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^[0-9]+$/.test(name)) return []
    const pid = Number(name)
    const environment = quietly(() => readFileSync(`/proc/${pid}/environ`, 'utf8'), '')
    if (!environment.split('\0').includes(`SMITH_ORDER=${order}`)) return []
    return [{ pid, parent: Number(statFields(pid)[1] ?? '0'), command: commandOf(pid), forMs: ageOf(pid) }]
  })
}
