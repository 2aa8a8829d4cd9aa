/**
 * Files that must outlive a power cut: written whole under another name, fsynced, put in place, and their folder
 * fsynced. Used by the stores and sealed backups. Never open the live database with these: closing any file
 * descriptor of it would drop the lock that keeps a second coordinator out (fcntl(2)).
 */
import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** Makes what was renamed, linked or created in a folder durable. */
export function syncFolder(path: string): void {
  syncPath(path)
}

/** Makes the content of a file durable. */
export function syncFile(path: string): void {
  syncPath(path)
}

function syncPath(path: string): void {
  const descriptor = openSync(path, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

/** Writes a file that must not exist yet; it is there whole, or not at all. */
export function writeNewFile(path: string, content: string | Uint8Array, mode = 0o600): void {
  const partial = `${path}.partial`
  rmSync(partial, { force: true })
  const descriptor = openSync(partial, 'wx', mode)
  try {
    const bytes = Buffer.from(content)
    for (let offset = 0; offset < bytes.length;) offset += writeSync(descriptor, bytes, offset)
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
  publish(partial, path)
}

/** Gives a finished, fsynced file its name, and fails (EEXIST) rather than replace another. */
export function publish(partial: string, path: string): void {
  linkSync(partial, path)
  rmSync(partial)
  syncFolder(dirname(path))
}

/** Makes a folder that only its owner may read, with its parents, and makes that durable. */
export function makeFolder(path: string): void {
  const first = mkdirSync(path, { recursive: true, mode: 0o700 })
  if (first === undefined) return
  for (let folder = path; ; folder = dirname(folder)) {
    syncFolder(folder)
    if (folder === dirname(first)) return
  }
}

/** What lies where in the coordinator's state folder. */
export function stateFolder(stateDir: string): {
  readonly database: string
  readonly keys: string
  readonly restoring: string
  readonly logs: string
  readonly reports: string
} {
  return {
    database: join(stateDir, 'smith.db'),
    keys: join(stateDir, 'keys'),
    restoring: join(stateDir, 'restoring'),
    logs: join(stateDir, 'logs'),
    reports: join(stateDir, 'reports'),
  }
}
