/**
 * How the SQLite store is opened: whatever the rest leans on is set here and then asserted from SQLite's own answers,
 * and a database that can't give it is refused with a remedy. Called by sqlite.ts only. Keeps the invariant that a
 * connection which exists has the lock, the guarantees and the newest schema.
 */
import Database from 'better-sqlite3'
import { closeSync, existsSync, openSync, statfsSync } from 'node:fs'
import { dirname } from 'node:path'
import { RefusedError } from '../../protocol/errors.ts'
import type { Refusal } from '../../protocol/errors.ts'
import type { Random } from '../ports.ts'
import { stateFolder, syncFolder } from './durable.ts'
import { migrate, readMeta, writeMeta } from './migrations.ts'
import { messageOf } from './store-error.ts'

/** The first release without the race that could corrupt a write-ahead log on its reset. */
const SQLITE_VERSION_MIN = [3, 51, 3] as const
/** f_type of network filesystems, on which locks and fsync can't be relied upon (statfs(2)). */
const NETWORK_FILESYSTEMS = new Map([
  [0x6969, 'NFS'],
  [0xff534d42, 'CIFS'],
  [0xfe534d42, 'SMB'],
  [0x517b, 'SMB'],
])
export type SqliteOptions = {
  readonly path: string
  /** Where the epoch of a new database comes from. */
  readonly random: Random
  /** The version of this program, for the message of an older one that meets the database later. */
  readonly program: string
  /** Only to measure what durability costs. */
  readonly synchronous?: 'FULL' | 'OFF'
}

/** Opens or makes the database, takes its lock and migrates it; throws a RefusedError that says what to do. */
export function openDatabase(options: SqliteOptions): Database.Database {
  const { path } = options
  refuseUnfinishedRestore(path)
  refuseNetworkFilesystem(path)
  createPrivate(path)
  const db = new Database(path, { timeout: 0, fileMustExist: true })
  try {
    assertLibrary(db)
    takeLock(db, path)
    setPragmas(db, path, options.synchronous ?? 'FULL')
    assertSound(db, path)
    migrate(db, options)
    if (readMeta(db, 'epoch') === null) writeMeta(db, 'epoch', epochOf(options.random))
    return db
  } catch (error) {
    db.close()
    if (error instanceof RefusedError) throw error
    throw new RefusedError([refusalOf(error, path)])
  }
}

/** A new epoch: whoever followed the feed of another one starts anew. */
export function epochOf(random: Random): string {
  return Buffer.from(random.bytes(16)).toString('hex')
}

function refusalOf(error: unknown, path: string): Refusal {
  const code = error instanceof Database.SqliteError ? error.code : ''
  if (code.startsWith('SQLITE_BUSY')) {
    return {
      kind: 'conflict',
      message: `another process has ${path} open: one database serves one coordinator`,
      remedy: 'stop the other one first (fuser -v names it), or give this one another state_dir',
    }
  }
  if (code.startsWith('SQLITE_NOTADB') || code.startsWith('SQLITE_CORRUPT')) return damaged(path, messageOf(error))
  return {
    kind: 'unavailable',
    message: `can't open ${path}: ${messageOf(error)}`,
    remedy: 'see that the folder exists, is writable and has room',
  }
}

const damaged = (path: string, found: string): Refusal => ({
  kind: 'unavailable',
  message: `${path} is damaged: ${found}`,
  remedy:
    'keep a copy of the folder, then restore the newest backup into an empty state_dir (smith-coordinator restore)',
})

/** Opened and closed before SQLite locks it, and only when it is new: a close would drop this process's lock. */
function createPrivate(path: string): void {
  if (existsSync(path)) return
  try {
    closeSync(openSync(path, 'wx', 0o600))
    syncFolder(dirname(path))
  } catch (error) {
    throw new RefusedError([
      {
        kind: 'unavailable',
        message: `can't make ${path}: ${messageOf(error)}`,
        remedy: 'see that state_dir exists, is writable and has room',
      },
    ])
  }
}

function refuseUnfinishedRestore(path: string): void {
  if (!existsSync(stateFolder(dirname(path)).restoring)) return
  throw new RefusedError([
    {
      kind: 'conflict',
      message: `a restore into ${dirname(path)} did not finish`,
      remedy: `empty ${dirname(path)} and restore again`,
    },
  ])
}

function refuseNetworkFilesystem(path: string): void {
  const name = existsSync(dirname(path)) ? NETWORK_FILESYSTEMS.get(statfsSync(dirname(path)).type) : undefined
  if (name === undefined) return
  throw new RefusedError([
    {
      kind: 'bad-value',
      message: `${dirname(path)} is on ${name}, where a lock or an fsync can't be relied upon`,
      remedy: 'set state_dir to a local disk',
    },
  ])
}

function assertLibrary(db: Database.Database): void {
  const version = String(db.prepare('SELECT sqlite_version()').pluck().get())
  const parts = version.split('.').map(Number)
  const index = SQLITE_VERSION_MIN.findIndex((least, place) => parts[place] !== least)
  if (index < 0 || (parts[index] ?? 0) > (SQLITE_VERSION_MIN[index] ?? 0)) return
  throw new RefusedError([
    {
      kind: 'version',
      message: `SQLite ${version} is too old`,
      remedy: `use SQLite ${SQLITE_VERSION_MIN.join('.')} or newer: install smith's own dependencies again`,
    },
  ])
}

/** In this mode SQLite keeps fcntl locks until the connection closes or the process ends, however it ends. */
function takeLock(db: Database.Database, path: string): void {
  db.pragma('locking_mode = EXCLUSIVE')
  assertPragma(db, path, 'journal_mode = WAL', 'wal')
  db.exec('BEGIN IMMEDIATE; COMMIT')
  assertPragma(db, path, 'locking_mode', 'exclusive')
}

function setPragmas(db: Database.Database, path: string, synchronous: 'FULL' | 'OFF'): void {
  db.pragma(`synchronous = ${synchronous}`)
  db.pragma('foreign_keys = ON')
  db.pragma('trusted_schema = OFF')
  db.pragma('cell_size_check = ON')
  db.pragma('wal_autocheckpoint = 1000')
  db.pragma('journal_size_limit = 67108864')
  assertPragma(db, path, 'journal_mode', 'wal')
  assertPragma(db, path, 'synchronous', synchronous === 'FULL' ? 2 : 0)
  assertPragma(db, path, 'foreign_keys', 1)
  assertPragma(db, path, 'trusted_schema', 0)
  assertPragma(db, path, 'cell_size_check', 1)
}

/** A pragma that SQLite does not know or can't set is silently ignored, so what it answers is what counts. */
function assertPragma(db: Database.Database, path: string, pragma: string, wanted: string | number): void {
  const found = db.pragma(pragma, { simple: true })
  if (found === wanted) return
  throw new RefusedError([
    {
      kind: 'unavailable',
      message: `${path}: PRAGMA ${pragma} answered ${String(found)} instead of ${wanted}`,
      remedy: 'set state_dir to a local disk with a common filesystem (ext4, xfs)',
    },
  ])
}

function assertSound(db: Database.Database, path: string): void {
  const found = db.pragma('quick_check(5)', { simple: true })
  if (found !== 'ok') throw new RefusedError([damaged(path, String(found))])
}
