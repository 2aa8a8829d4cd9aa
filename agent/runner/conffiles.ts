/**
 * What dpkg and ucf leave beside a configuration file that the machine keeps: the maintainer's new version, for a
 * person to look at. Found by name in /etc, before the latch and after the run; what is new or other is the run's.
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { codeOf, type Disk, listNames } from '../disk/disk.ts'

const LEFT_BEHIND = /\.(?:dpkg-dist|dpkg-new|ucf-dist|ucf-new)$/
const DEPTH_MAX = 12
const BYTES_MAX = 16 * 1024 * 1024

/** Path and SHA-256 of each such file. */
export type ConffileDebt = Readonly<Record<string, string>>

export function conffileDebt(disk: Disk, folder: string): ConffileDebt {
  const debt: Record<string, string> = {}
  const look = (path: string, depth: number): void => {
    for (const name of namesIn(disk, path)) {
      const full = join(path, name)
      const facts = disk.factsOf(full)
      if (facts?.kind === 'folder' && depth < DEPTH_MAX) look(full, depth + 1)
      else if (facts?.kind === 'file' && LEFT_BEHIND.test(name))
        debt[full] = createHash('sha256')
          .update(disk.read(full, 0, BYTES_MAX))
          .digest('hex')
    }
  }
  look(folder, 0)
  return debt
}

/** A folder that goes away while it is looked at has nothing to say. */
function namesIn(disk: Disk, folder: string): string[] {
  try {
    return listNames(disk, folder)
  } catch (error) {
    if (codeOf(error) === 'ENOTDIR' || codeOf(error) === 'EACCES') return []
    throw error
  }
}

/** What is there now and was not there before, or had other content. */
export function newDebt(before: ConffileDebt, now: ConffileDebt): string[] {
  return Object.keys(now)
    .filter((path) => before[path] !== now[path])
    .toSorted()
}
