/**
 * The disk of a simulated machine, behind the agent's port. What was not synced a power cut may take: bytes of files
 * (a torn tail stays), and names in folders. A change of names stands in a list until its folder is synced; a power
 * cut keeps the older part of that list, as a journal does, and of a rename whose one folder was synced that half.
 */
import { join } from 'node:path'
import type { Disk } from '../../agent/disk/disk.ts'
import type { Dice } from './random.ts'

type File = {
  readonly kind: 'file'
  readonly mode: number
  bytes: Buffer
  size: number
  synced: number
  cut: Buffer | null
}
type Folder = { readonly kind: 'folder'; readonly mode: number; names: Names; kept: Names }
type Inode = File | Folder
type Names = Map<string, Inode>
/** One name in one folder that was set or taken away. */
type Change = { readonly folder: Folder; readonly name: string; readonly inode: Inode | null }

export type DiskFault = 'full' | 'broken' | null

/** An error as node:fs throws it. */
export function diskError(code: string, path: string): Error {
  const { stackTraceLimit } = Error
  // They are many and are caught; where they were made is of no interest.
  Error.stackTraceLimit = 0
  const error = new Error(`${code}: ${path}`)
  Error.stackTraceLimit = stackTraceLimit
  return Object.assign(error, { code })
}

/** Owns the files of one machine, in memory and as a power cut would leave them. */
export class SimDisk {
  /** What is wrong with it at present: nothing fits on it any more, or writing and syncing fail. */
  fault: DiskFault = null
  /** Called when bytes of a file have become safe from a power cut. */
  onSynced: (path: string) => void = () => {}
  /** Called when something new has got a name. */
  onNamed: (path: string) => void = () => {}
  readonly port: Disk
  readonly #root: Folder = newFolder()
  readonly #folders = new Map<string, Folder>()
  #pending: Change[][] = []

  constructor() {
    this.port = {
      factsOf: (path) => {
        const found = this.#find(path)
        if (found === null) return null
        return { kind: found.kind, size: found.kind === 'file' ? found.size : 0, mode: found.mode, uid: 0 }
      },
      list: (path) => [...this.#folder(path).names.keys()],
      // Every name on this disk is text.
      nameAll: () => 0,
      read: (path, offset, max) => {
        const file = this.#file(path)
        return Buffer.from(file.bytes.subarray(offset, Math.min(file.size, offset + Math.max(0, max))))
      },
      write: (path, bytes, how, mode) => this.#write(path, bytes, how, mode),
      truncate: (path, size) => {
        const file = this.#file(path)
        if (size < file.synced) {
          file.cut ??= Buffer.from(file.bytes.subarray(0, file.synced))
          file.synced = size
        }
        file.size = size
      },
      fsync: (path) => this.#fsync(path),
      rename: (from, to) => {
        const inode = this.#must(from)
        this.#change([this.#at(from, null), this.#at(to, inode)])
        this.onNamed(to)
      },
      link: (from, to) => {
        const inode = this.#must(from)
        if (this.#find(to) !== null) throw diskError('EEXIST', to)
        this.#room(to, 1)
        this.#change([this.#at(to, inode)])
        this.onNamed(to)
      },
      unlink: (path) => {
        this.#must(path)
        this.#change([this.#at(path, null)])
      },
      remove: (path) => {
        const found = this.#find(path)
        if (found === null) return
        this.#change([this.#at(path, null)])
        if (found.kind === 'folder') this.#folders.clear()
      },
      makeFolder: (path, mode) => this.#makeFolder(path, mode),
      freeSpace: () => ({ device: 'disk', freeBytes: this.fault === 'full' ? 0 : 1e12, freeInodes: null }),
    }
  }

  /** Everything is safe: an orderly shutdown, or the day the machine was made. */
  syncAll(): void {
    for (const changes of this.#pending) for (const change of changes) keep(change)
    this.#pending = []
    each(this.#root, 'names', (file) => {
      file.synced = file.size
      file.cut = null
    })
  }

  /** An image of another disk, as someone makes who clones a machine. */
  copyFrom(other: SimDisk, folder = '/'): void {
    for (const name of other.port.list(folder)) {
      const path = folder === '/' ? `/${name}` : `${folder}/${name}`
      const facts = other.port.factsOf(path)
      if (facts?.kind === 'folder') {
        this.port.makeFolder(path, facts.mode)
        this.copyFrom(other, path)
      } else if (facts !== null) {
        this.port.remove(path)
        this.port.write(path, other.port.read(path, 0, facts.size), 'create', facts.mode)
      }
    }
  }

  /** Goes back to what a power cut leaves; answers how many changes of names and how many bytes were lost. */
  powerCut(dice: Dice): { readonly names: number; readonly bytes: number } {
    const kept = dice.below(this.#pending.length + 1)
    for (const changes of this.#pending.slice(0, kept)) for (const change of changes) keep(change)
    const names = this.#pending.length - kept
    this.#pending = []
    this.#folders.clear()
    let bytes = 0
    const seen = new Set<File>()
    each(this.#root, 'kept', (file) => {
      if (seen.has(file)) return
      seen.add(file)
      bytes += tear(file, dice)
    })
    restore(this.#root)
    return { names, bytes }
  }

  /** What of a file a power cut could not take; null when not even its name is safe. */
  safeBytesOf(path: string): Buffer | null {
    let at: Inode | undefined = this.#root
    for (const name of path.split('/').filter((part) => part !== '')) {
      if (at?.kind !== 'folder') return null
      at = at.kept.get(name)
    }
    return at?.kind === 'file' ? at.bytes.subarray(0, at.synced) : null
  }

  #find(path: string): Inode | null {
    if (path === '/') return this.#root
    const folder = this.#cached(parentOf(path))
    return folder?.names.get(nameOf(path)) ?? null
  }

  #cached(path: string): Folder | null {
    const known = this.#folders.get(path)
    if (known !== undefined) return known
    const found = this.#find(path)
    if (found?.kind !== 'folder') return null
    this.#folders.set(path, found)
    return found
  }

  #must(path: string): Inode {
    const found = this.#find(path)
    if (found === null) throw diskError('ENOENT', path)
    return found
  }

  #file(path: string): File {
    const found = this.#must(path)
    if (found.kind !== 'file') throw diskError('EINVAL', path)
    return found
  }

  #folder(path: string): Folder {
    const found = this.#cached(path)
    if (found === null) throw diskError('ENOENT', path)
    return found
  }

  #at(path: string, inode: Inode | null): Change {
    return { folder: this.#folder(parentOf(path)), name: nameOf(path), inode }
  }

  #change(changes: Change[]): void {
    for (const { folder, name, inode } of changes) {
      if (inode === null) folder.names.delete(name)
      else folder.names.set(name, inode)
    }
    this.#pending.push(changes)
  }

  #room(path: string, bytes: number): void {
    if (this.fault === 'broken') throw diskError('EIO', path)
    if (this.fault === 'full' && bytes > 0) throw diskError('ENOSPC', path)
  }

  #write(path: string, bytes: Uint8Array, how: 'create' | 'append', mode: number): void {
    let file = this.#find(path)
    if (file !== null && how === 'create') throw diskError('EEXIST', path)
    if (file !== null && file.kind !== 'file') throw diskError('EISDIR', path)
    if (file === null) {
      file = { kind: 'file', mode, bytes: Buffer.alloc(0), size: 0, synced: 0, cut: null }
      this.#change([this.#at(path, file)])
    }
    // A disk that is full takes what still fits.
    if (this.fault !== null && bytes.length > 1) append(file, bytes.subarray(0, bytes.length >> 1))
    this.#room(path, bytes.length)
    append(file, bytes)
  }

  #fsync(path: string): void {
    const found = this.#must(path)
    if (this.fault === 'broken') throw diskError('EIO', path)
    if (found.kind === 'file') {
      found.synced = found.size
      found.cut = null
      this.onSynced(path)
      return
    }
    const left: Change[][] = []
    for (const changes of this.#pending) {
      const rest = changes.filter((change) => change.folder !== found)
      for (const change of changes) if (change.folder === found) keep(change)
      if (rest.length > 0) left.push(rest)
    }
    this.#pending = left
  }

  #makeFolder(path: string, mode: number): void {
    const found = this.#find(path)
    if (found?.kind === 'folder') return
    if (found !== null) throw diskError('EEXIST', path)
    this.#makeFolder(parentOf(path), mode)
    this.#room(path, 1)
    this.#change([this.#at(path, newFolder(mode))])
  }
}

function newFolder(mode = 0o755): Folder {
  return { kind: 'folder', mode, names: new Map(), kept: new Map() }
}

/** dirname(3) of a path that has neither dots nor double slashes, of which there are a great many here. */
function parentOf(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf('/')))
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

function keep({ folder, name, inode }: Change): void {
  if (inode === null) folder.kept.delete(name)
  else folder.kept.set(name, inode)
}

function append(file: File, bytes: Uint8Array): void {
  const size = file.size + bytes.length
  if (size > file.bytes.length || file.cut !== null) {
    const grown = Buffer.alloc(Math.max(256, size * 2))
    file.bytes.copy(grown, 0, 0, file.size)
    file.bytes = grown
  }
  file.bytes.set(bytes, file.size)
  file.size = size
}

/** Of what was not synced a first part may be there; a truncation may not have happened. */
function tear(file: File, dice: Dice): number {
  const before = file.size
  if (file.cut !== null && dice.chance(0.5)) {
    file.bytes = file.cut
    file.size = file.cut.length
  } else if (file.size > file.synced) {
    file.size = file.synced + dice.below(file.size - file.synced + 1)
  }
  file.synced = file.size
  file.cut = null
  return Math.max(0, before - file.size)
}

function each(folder: Folder, which: 'names' | 'kept', use: (file: File) => void): void {
  for (const inode of folder[which].values()) {
    if (inode.kind === 'file') use(inode)
    else each(inode, which, use)
  }
}

function restore(folder: Folder): void {
  folder.names = new Map(folder.kept)
  for (const inode of folder.names.values()) if (inode.kind === 'folder') restore(inode)
}

/** A disk whose every call is announced first, so that its user can be stopped there. */
export function announced(disk: Disk, announce: (call: keyof Disk, path: string) => void): Disk {
  return {
    factsOf: (path) => (announce('factsOf', path), disk.factsOf(path)),
    list: (path) => (announce('list', path), disk.list(path)),
    nameAll: (path) => (announce('nameAll', path), disk.nameAll(path)),
    read: (path, offset, max) => (announce('read', path), disk.read(path, offset, max)),
    write: (path, bytes, how, mode) => (announce('write', path), disk.write(path, bytes, how, mode)),
    truncate: (path, size) => (announce('truncate', path), disk.truncate(path, size)),
    fsync: (path) => (announce('fsync', path), disk.fsync(path)),
    rename: (from, to) => (announce('rename', to), disk.rename(from, to)),
    link: (from, to) => (announce('link', to), disk.link(from, to)),
    unlink: (path) => (announce('unlink', path), disk.unlink(path)),
    remove: (path) => (announce('remove', path), disk.remove(path)),
    makeFolder: (path, mode) => (announce('makeFolder', path), disk.makeFolder(path, mode)),
    freeSpace: (path) => (announce('freeSpace', path), disk.freeSpace(path)),
  }
}

/** Puts a whole file there, as others than smith do. */
export function plant(disk: SimDisk, path: string, text: string, mode = 0o644): void {
  const { fault } = disk
  disk.fault = null
  disk.port.makeFolder(parentOf(path), 0o755)
  disk.port.remove(path)
  disk.port.write(path, Buffer.from(text), 'create', mode)
  disk.port.fsync(path)
  disk.port.fsync(parentOf(path))
  disk.fault = fault
}

/** The text of a file, '' when there is none. */
export function textAt(disk: SimDisk, ...path: readonly string[]): string {
  const full = join(...path)
  return disk.port.factsOf(full) === null ? '' : disk.port.read(full, 0, 1e9).toString('utf8')
}
