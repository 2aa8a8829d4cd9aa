/**
 * The disk as both halves of the agent see it: a small synchronous port, its implementation over node:fs, and the
 * durable writes built on it. Everything that decides goes through this port, so that a simulator can crash at
 * every single call and drop what was not yet synced.
 * Invariant: when a function named "durably" or "exclusively" returns, a power cut can't take its effect back, and
 * at any moment before, a reader sees the old content or the new one, never a part.
 */
import { isUtf8 } from 'node:buffer'
import { spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'

export type FileKind = 'file' | 'folder' | 'link' | 'other'
export type FileFacts = { readonly kind: FileKind; readonly size: number; readonly mode: number; readonly uid: number }
export type OpenMode = 'read' | 'create' | 'append'

/** The calls that a simulator replaces. Each throws an error with `code` as node:fs does. */
export type Disk = {
  /** Null when there is nothing of that name; never follows a link in the last place. */
  readonly factsOf: (path: string) => FileFacts | null
  readonly list: (folder: string) => string[]
  /** Gives each entry whose name is no UTF-8, and so has no path here, a name that is; how many there were. */
  readonly nameAll: (folder: string) => number
  /** Reads at most `max` bytes from `offset`; never follows a link in the last place, refuses all but regular files. */
  readonly read: (path: string, offset: number, max: number) => Buffer
  /** `create` fails with EEXIST when the name is taken. */
  readonly write: (path: string, bytes: Uint8Array, how: 'create' | 'append', mode: number) => void
  readonly truncate: (path: string, size: number) => void
  readonly fsync: (path: string) => void
  readonly rename: (from: string, to: string) => void
  readonly link: (from: string, to: string) => void
  readonly unlink: (path: string) => void
  /** Removes a file or a whole folder; nothing there is no error. */
  readonly remove: (path: string) => void
  readonly makeFolder: (path: string, mode: number) => void
  /** Bytes and inodes that are free on the filesystem of `path`, and which filesystem that is. */
  readonly freeSpace: (path: string) => {
    readonly device: string
    readonly freeBytes: number
    /** Null where the filesystem makes inodes as it needs them. */
    readonly freeInodes: number | null
  }
}

/** The disk of this machine. */
export function createRealDisk(): Disk {
  return {
    factsOf: readFacts,
    list: (folder) => readdirSync(folder),
    nameAll,
    read: readRegular,
    write: writeWhole,
    truncate: (path, size) =>
      withFile(path, constants.O_WRONLY | constants.O_NOFOLLOW, (fd) => ftruncateSync(fd, size)),
    fsync: (path) => withFile(path, constants.O_RDONLY | constants.O_NOFOLLOW, fsyncSync),
    rename: renameSync,
    link: linkSync,
    unlink: unlinkSync,
    remove: removeAll,
    makeFolder: (path, mode) => {
      mkdirSync(path, { recursive: true, mode })
    },
    freeSpace: (path) => {
      const facts = statfsSync(path)
      const freeInodes = facts.files === 0 ? null : facts.ffree
      return { device: deviceOf(path), freeBytes: facts.bavail * facts.bsize, freeInodes }
    },
  }
}

function nameAll(folder: string): number {
  const names = readdirSync(folder, { encoding: 'buffer' }).filter((name) => !isUtf8(name))
  // By chance, so that whoever owns the folder can't have put anything there.
  for (const name of names)
    renameSync(Buffer.concat([Buffer.from(`${folder}/`), name]), join(folder, `unnamed-${randomUUID()}`))
  return names.length
}

function removeAll(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true })
  } catch (error) {
    // It keeps a file open for each level of a tree, and someone may have planted one with more levels than that.
    const { status } = spawnSync('rm', ['-rf', '--', path], { stdio: 'ignore', env: { PATH: '/usr/bin:/bin' } })
    if (status !== 0) throw error
  }
}

function withFile<T>(path: string, flags: number, use: (fd: number) => T): T {
  const fd = openSync(path, flags)
  try {
    return use(fd)
  } finally {
    closeSync(fd)
  }
}

function deviceOf(path: string): string {
  return String(lstatSync(path).dev)
}

function readFacts(path: string): FileFacts | null {
  const facts = lstatSync(path, { throwIfNoEntry: false })
  if (facts === undefined) return null
  const kind = facts.isFile() ? 'file' : facts.isDirectory() ? 'folder' : facts.isSymbolicLink() ? 'link' : 'other'
  return { kind, size: facts.size, mode: facts.mode & 0o7777, uid: facts.uid }
}

/** O_NONBLOCK, so that opening a FIFO that someone planted can't block us for ever. */
function readRegular(path: string, offset: number, max: number): Buffer {
  return withFile(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK, (fd) => {
    const facts = fstatSync(fd)
    if (!facts.isFile()) throw Object.assign(new Error(`${path} is not a regular file`), { code: 'EINVAL' })
    const bytes = Buffer.alloc(Math.max(0, Math.min(max, facts.size - offset)))
    let have = 0
    while (have < bytes.length) {
      const got = readSync(fd, bytes, have, bytes.length - have, offset + have)
      if (got === 0) break
      have += got
    }
    return bytes.subarray(0, have)
  })
}

function writeWhole(path: string, bytes: Uint8Array, how: 'create' | 'append', mode: number): void {
  const flags =
    how === 'create'
      ? constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY
      : constants.O_CREAT | constants.O_APPEND | constants.O_WRONLY
  const fd = openSync(path, flags | constants.O_NOFOLLOW, mode)
  try {
    // The umask must not decide who can read what smith shares between its two halves.
    if (how === 'create') fchmodSync(fd, mode)
    for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done, bytes.length - done)
  } finally {
    closeSync(fd)
  }
}

/** Replaces `path` by `bytes`: whole or not at all, and kept when this returns. */
export function writeFileDurably(
  disk: Disk,
  path: string,
  bytes: Uint8Array | string,
  options: { readonly mode: number },
): void {
  const temporary = temporaryOf(path)
  disk.remove(temporary)
  disk.write(temporary, bytesOf(bytes), 'create', options.mode)
  disk.fsync(temporary)
  disk.rename(temporary, path)
  disk.fsync(dirname(path))
}

/**
 * Creates `path` with `bytes` if nothing has that name; false when something has. A crash leaves nothing or the
 * whole file, which plain O_EXCL does not give: there the name appears before the bytes.
 */
export function createExclusively(disk: Disk, path: string, bytes: Uint8Array | string, mode = 0o640): boolean {
  const temporary = temporaryOf(path)
  disk.remove(temporary)
  disk.write(temporary, bytesOf(bytes), 'create', mode)
  disk.fsync(temporary)
  let created = true
  try {
    disk.link(temporary, path)
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error
    created = false
  }
  disk.unlink(temporary)
  disk.fsync(dirname(path))
  return created
}

/** Appends and syncs; the folder too when the file may be new. */
export function appendDurably(disk: Disk, path: string, bytes: Uint8Array | string, mode = 0o640): void {
  const isNew = disk.factsOf(path) === null
  disk.write(path, bytesOf(bytes), 'append', mode)
  disk.fsync(path)
  if (isNew) disk.fsync(dirname(path))
}

export function fsyncFile(disk: Disk, path: string): void {
  disk.fsync(path)
}

/** The whole of a regular file, or null when there is none; throws when it is longer than `bytesMax`. */
export function readIfExists(disk: Disk, path: string, bytesMax = 64 * 1024 * 1024): Buffer | null {
  const facts = disk.factsOf(path)
  if (facts === null) return null
  if (facts.size > bytesMax)
    throw Object.assign(new Error(`${path} has ${facts.size} bytes, more than ${bytesMax}`), { code: 'EFBIG' })
  try {
    return disk.read(path, 0, bytesMax)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw error
  }
}

/** The names in a folder, sorted, without those of unfinished writes; none when there is no such folder. */
export function listNames(disk: Disk, folder: string): string[] {
  try {
    return disk
      .list(folder)
      .filter((name) => !name.startsWith(TEMPORARY_PREFIX))
      .toSorted()
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return []
    throw error
  }
}

/** `code` of an error as node:fs sets it, or ''. */
export function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string'
    ? error.code
    : ''
}

export const TEMPORARY_PREFIX = '.new-'

function temporaryOf(path: string): string {
  return join(dirname(path), `${TEMPORARY_PREFIX}${basename(path)}`)
}

function bytesOf(bytes: Uint8Array | string): Uint8Array {
  return typeof bytes === 'string' ? Buffer.from(bytes) : bytes
}
