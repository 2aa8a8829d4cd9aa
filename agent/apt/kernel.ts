/**
 * What the kernel tells of the machine through /proc: files that have no size of their own, and who holds a lock.
 * Used by both halves; what may not be looked into, or ends meanwhile, reads as nothing.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'

export type LockHolder = {
  readonly pid: number
  readonly command: string
  /** The unit of systemd that it belongs to; null where none is known. */
  readonly unit: string | null
  readonly forMs: number
}

/** A process can end while it is looked at, and another user's can't be looked into: both read as nothing. */
export function quietly<T>(read: () => T, otherwise: T): T {
  try {
    return read()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES' || code === 'EPERM' || code === 'ENOTDIR')
      return otherwise
    throw error
  }
}

/** The text of a file that a link may lead to; null when there is none or it may not be read. */
export function textOf(path: string): string | null {
  return quietly<string | null>(() => readFileSync(path, 'utf8'), null)
}

/** proc_locks(5): `1: POSIX ADVISORY WRITE 1234 fe:01:5678 0 EOF`; `->` marks one who only waits. */
export function lockHolder(path: string): LockHolder | null {
  const facts = quietly(() => lstatSync(path, { throwIfNoEntry: false }), undefined)
  if (facts === undefined) return null
  for (const line of (textOf('/proc/locks') ?? '').split('\n')) {
    const match = /^\d+: (?:POSIX|FLOCK|OFDLCK)\s+\S+\s+(?:READ|WRITE)\s+(-?\d+) [0-9a-f]+:[0-9a-f]+:(\d+) /.exec(line)
    if (match === null || Number(match[2]) !== facts.ino) continue
    const pid = Number(match[1])
    // Inode numbers repeat across filesystems, and device numbers here differ from stat's on some of them.
    if (hasOpen(pid, path) === false) continue
    return { pid, command: commandOf(pid), unit: unitIn(textOf(`/proc/${pid}/cgroup`) ?? ''), forMs: ageOf(pid) }
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

/**
 * How many processes of the unit that runs us the kernel killed for want of memory (cgroup v2, memory.events), since
 * the unit was started. 0 where nobody counts for us alone: without systemd we share a group with others.
 */
export function memoryKills(unit: string, read: (path: string) => string | null): number {
  const group = /^0::(\/.*)$/m.exec(read('/proc/self/cgroup') ?? '')?.[1] ?? ''
  if (!group.endsWith(`/${unit}`)) return 0
  const events = read(`/sys/fs/cgroup${group}/memory.events`) ?? ''
  return Number(/^oom_kill (\d+)$/m.exec(events)?.[1] ?? '0')
}

export function commandOf(pid: number): string {
  const text = textOf(`/proc/${pid}/cmdline`) ?? ''
  return text.replaceAll('\0', ' ').trim().slice(0, 200) || `process ${pid}`
}

/**
 * proc_pid_cgroup(5): `0::/system.slice/apt-daily.service`. The innermost unit counts; a person's session is a scope.
 */
export function unitIn(text: string): string | null {
  for (const line of text.split('\n')) {
    // Of version 1 the hierarchies of controllers say nothing of units for certain.
    const path = /^(?:0:|[0-9]+:name=systemd):(.*)$/.exec(line)?.[1] ?? ''
    const unit = path.split('/').findLast((part) => /\.(?:service|scope)$/.test(part))
    if (unit !== undefined && unit !== 'init.scope') return unit
  }
  return null
}

/** proc_pid_stat(5), field 22: when it was started, in clock ticks since boot (100 a second on Linux). */
export function ageOf(pid: number): number {
  const fields = statFields(pid)
  const uptime = Number((textOf('/proc/uptime') ?? '0').split(' ')[0])
  const startedTicks = Number(fields[19] ?? '0')
  return Math.max(0, Math.round(uptime * 1000 - startedTicks * 10))
}

/** From field 3 on, since field 2 is a name that may hold anything. */
export function statFields(pid: number): string[] {
  const text = textOf(`/proc/${pid}/stat`) ?? ''
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}
