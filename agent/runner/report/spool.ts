/**
 * The spool between the halves: the agent asks by the name of an entry in `asks/`, root answers with a file of that
 * name in `run/reports/`, which it alone writes. Nothing that lies in `asks/` is ever read, and whatever it is, it is
 * gone afterwards, so that the path unit comes to rest.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { ID_PATTERN } from '../../../protocol/ids.ts'
import { codeOf, type Disk, listNames, TEMPORARY_PREFIX, writeFileDurably } from '../../disk/disk.ts'
import type { Layout } from '../../disk/layout.ts'

/** So many reports are kept for the agent to carry away, the newest asked for. */
export const KEPT_MAX = 4
const ASKS_MAX = 16
const TAKEN = '.taken'

/** Empties `asks/` and answers with the ids in it. */
export function takeAsks(disk: Disk, layout: Layout): string[] {
  disk.nameAll(layout.asks)
  const names = disk.list(layout.asks)
  for (const name of names) discard(disk, join(layout.asks, name), join(layout.reports, TAKEN))
  return names.filter((name) => ID_PATTERN.test(name)).slice(0, ASKS_MAX)
}

/**
 * Moved out of the agent's folder first. rm(1) walks by open folders, so nobody who still owns one inside can lead it
 * elsewhere.
 */
function discard(disk: Disk, from: string, to: string): void {
  try {
    disk.rename(from, to)
  } catch (error) {
    // Its owner took it away, or put another in its place: the next look finds what is there then.
    if (codeOf(error) === 'ENOENT') return
    throw error
  }
  removeTree(disk, to)
}

function removeTree(disk: Disk, path: string): void {
  if (disk.factsOf(path)?.kind === 'folder')
    spawnSync('rm', ['-rf', '--', path], { stdio: 'ignore', env: { PATH: '/usr/bin:/bin' } })
  else disk.unlink(path)
}

/** The same report for all who asked. */
export function keepReport(disk: Disk, layout: Layout, asks: readonly string[], packed: Buffer): void {
  const old = listNames(disk, layout.reports)
    .filter((name) => ID_PATTERN.test(name) && !asks.includes(name))
    .toReversed()
  // By name no age is told; but more than these never stay.
  for (const name of old.slice(Math.max(0, KEPT_MAX - asks.length))) disk.remove(join(layout.reports, name))
  for (const name of asks) writeFileDurably(disk, join(layout.reports, name), packed, { mode: 0o640 })
}

/** What a crash left. */
export function sweepTemporary(disk: Disk, layout: Layout): void {
  for (const name of disk.list(layout.reports)) {
    if (name.startsWith(TEMPORARY_PREFIX) || name === TAKEN) removeTree(disk, join(layout.reports, name))
  }
}
