/**
 * Whether anyone but root could change what steers root: the configuration, the repositories with their keys, the
 * checks, and each folder on the way to them. The runner then refuses to begin, as sudo(8) and sshd(8) do, and the
 * agent says so before anything is asked of the machine. Used by both halves.
 */
import { realpathSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Refusal } from '../../protocol/errors.ts'
import type { AgentConfig } from '../config.ts'
import { type Disk, listNames, readIfExists } from '../disk/disk.ts'
import { quietly } from './kernel.ts'
import { keyFilesOf } from './sources.ts'

export type Ownership = { readonly uid: number; readonly gid: number; readonly mode: number }
/** What a path leads to; null when there is nothing, or it may not be looked at. */
export type Look = (path: string) => (Ownership & { readonly path: string }) | null

const lookReally: Look = (path) =>
  quietly(() => {
    const { uid, gid, mode } = statSync(path)
    return { uid, gid, mode, path: realpathSync(path) }
  }, null)

/** Everything that a run by root reads and obeys. */
export function steeringPaths(disk: Disk, config: AgentConfig): string[] {
  const { file, reposDir, checksDir } = config
  const repos = listNames(disk, reposDir)
    .filter((name) => name.endsWith('.sources') || name.endsWith('.sources.in'))
    .map((name) => join(reposDir, name))
  const keys = repos.flatMap((path) =>
    // Nothing else than a regular file is ever read as sources.
    disk.factsOf(path)?.kind === 'file'
      ? keyFilesOf(quietly(() => readIfExists(disk, path)?.toString('utf8') ?? '', ''))
      : [],
  )
  const checks = ['pre', 'post'].flatMap((when) => {
    const folder = join(checksDir, when)
    return [folder, ...listNames(disk, folder).map((name) => join(folder, name))]
  })
  return [...new Set([file, reposDir, ...repos, ...keys, ...checks])]
}

/** The first of the paths that someone besides root could change, with the command that mends it. */
export function distrusted(paths: readonly string[], look: Look = lookReally): Refusal | null {
  const seen = new Set<string>()
  for (const path of paths) {
    const real = look(path)?.path ?? path
    for (const part of [...wayTo(path), ...wayTo(real)]) {
      if (seen.has(part)) continue
      seen.add(part)
      const is = look(part)
      if (is === null) continue
      if (is.uid !== 0) return refusal(part, `belongs to user ${is.uid}`, `chown root ${part}`)
      // In a folder like /tmp nobody can put another thing in the place of what is root's.
      const isSticky = (is.mode & 0o1000) !== 0 && part !== real
      if ((is.mode & 0o002) !== 0 && !isSticky) return refusal(part, 'may be written by anyone', `chmod o-w ${part}`)
      if ((is.mode & 0o020) !== 0 && is.gid !== 0 && !isSticky)
        return refusal(part, `may be written by group ${is.gid}`, `chmod g-w ${part}`)
    }
  }
  return null
}

/** The path itself and all folders above it. */
function wayTo(path: string): string[] {
  const above = dirname(path)
  return above === path ? [path] : [path, ...wayTo(above)]
}

function refusal(path: string, what: string, command: string): Refusal {
  return {
    kind: 'unavailable',
    message: `${path} ${what}, and what it says is done by root, so no run begins`,
    subject: path,
    remedy: `On the machine, as root: see that its content is right, then ${command}`,
  }
}
