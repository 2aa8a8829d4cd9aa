/**
 * Sealed backups: one file that holds the database and the keys, readable only with its passphrase. A restore goes
 * into an empty state folder only, gives the database a new epoch and freezes the instance: the machines may know of
 * more than the backup does, and nothing may be granted until a person has looked. Called by the API (backup) and by
 * the coordinator's own command line (restore).
 */
import { createHash } from 'node:crypto'
import {
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  rmdirSync,
  statSync,
  writeSync,
} from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { devNull, tmpdir } from 'node:os'
import { join } from 'node:path'
import * as v from 'valibot'
import { countSchema, instantSchema, sha256Schema } from '../../protocol/ids.ts'
import type { Random, Store, Turn } from '../ports.ts'
import type { Instance } from '../domain/state.ts'
import { makeFolder, publish, stateFolder, syncFile, syncFolder } from './durable.ts'
import { damagedAt, openStream, refused, sealStream } from './sealed-stream.ts'
import { describeStoreFile, openSqliteStore, renewEpoch } from './sqlite.ts'

const READ_BYTES = 1_048_576
const PASSPHRASE_LENGTH_MIN = 8

/** What stands before the files' bytes: nothing else is in a sealed backup, and no name in it can leave the folder. */
const manifestSchema = v.strictObject({
  version: v.literal(1),
  madeAt: instantSchema,
  program: v.string(),
  rev: countSchema,
  files: v.pipe(
    v.array(
      v.strictObject({
        name: v.pipe(v.string(), v.regex(/^(smith\.db|keys\/[a-z.]+\.pem)$/)),
        bytes: countSchema,
        sha256: sha256Schema,
      }),
    ),
    v.minLength(1),
    v.maxLength(20),
  ),
})
type Manifest = v.InferOutput<typeof manifestSchema>

export type SealOptions = {
  /** A closed copy of the database (Store.backup), never the one in use. */
  readonly storeFile: string
  readonly keysDir: string
  readonly passphrase: string
  /** What is written; it must not exist yet. */
  readonly file: string
  readonly at: number
  readonly program: string
  readonly random: Random
  /** The cost of scrypt; less than the default is for tests only. */
  readonly cost?: number
}

/** Writes the sealed file, fsynced; gives its size and SHA-256. */
export async function seal(
  options: SealOptions,
): Promise<{ readonly bytes: number; readonly sha256: string; readonly rev: number; readonly head: string }> {
  if (options.passphrase.length < PASSPHRASE_LENGTH_MIN)
    throw refused(
      `the passphrase is shorter than ${PASSPHRASE_LENGTH_MIN} characters`,
      'choose a longer one',
      'bad-value',
    )
  if (existsSync(options.file)) throw refused(`${options.file} exists`, 'name a file that does not exist yet', 'exists')
  const sources = [
    { name: 'smith.db', path: options.storeFile },
    ...readdirSync(options.keysDir)
      .filter((name) => name.endsWith('.pem'))
      .toSorted()
      .map((name) => ({ name: `keys/${name}`, path: join(options.keysDir, name) })),
  ]
  const files = await Promise.all(
    sources.map(async ({ name, path }) => ({ name, bytes: statSync(path).size, sha256: await hashOf(path) })),
  )
  const { rev, head } = describeStoreFile(options.storeFile)
  const manifest: Manifest = {
    version: 1,
    madeAt: options.at,
    program: options.program,
    rev,
    files,
  }
  const partial = `${options.file}.partial`
  rmSync(partial, { force: true })
  const hash = createHash('sha256')
  let bytes = 0
  const target = openSync(partial, 'wx', 0o600)
  try {
    for await (const piece of sealStream(plainOf(manifest, sources), options)) {
      writeAll(target, piece)
      hash.update(piece)
      bytes += piece.length
    }
    fsyncSync(target)
  } catch (error) {
    rmSync(partial, { force: true })
    throw error
  } finally {
    closeSync(target)
  }
  publish(partial, options.file)
  return { bytes, sha256: hash.digest('hex'), rev, head }
}

/** The whole backup: a consistent copy of the store, sealed together with the keys; the copy does not stay. */
export async function backupSealed(
  options: Omit<SealOptions, 'storeFile' | 'keysDir'> & {
    readonly store: Pick<Store, 'backup'>
    readonly stateDir: string
  },
): Promise<{
  readonly path: string
  readonly bytes: number
  readonly sha256: string
  readonly rev: number
  readonly head: string
}> {
  if (existsSync(options.file)) throw refused(`${options.file} exists`, 'name a file that does not exist yet', 'exists')
  // In the state folder, since that one is private and what is copied here is not sealed yet.
  const copy = join(options.stateDir, `backup-${Buffer.from(options.random.bytes(8)).toString('hex')}.db`)
  try {
    await options.store.backup(copy)
    const sealed = await seal({ ...options, storeFile: copy, keysDir: stateFolder(options.stateDir).keys })
    return { path: options.file, ...sealed }
  } finally {
    rmSync(copy, { force: true })
  }
}

export type RestoreOptions = {
  readonly file: string
  readonly passphrase: string
  readonly stateDir: string
  readonly at: number
  readonly program: string
  readonly random: Random
}

/** Puts a sealed backup into an empty state folder, frozen and with a new epoch. It is there whole, or not at all. */
export async function restore(
  options: RestoreOptions,
): Promise<{ readonly rev: number; readonly epoch: string; readonly madeAt: number }> {
  const places = stateFolder(options.stateDir)
  makeFolder(options.stateDir)
  const found = readdirSync(options.stateDir).filter((name) => name !== 'lost+found')
  if (found.length > 0) {
    throw refused(
      `${options.stateDir} is not empty (${found.slice(0, 5).join(', ')})`,
      'stop the coordinator, move the folder away and restore into an empty one',
      'exists',
    )
  }
  // The database can't be opened while this folder stands beside it.
  mkdirSync(places.restoring, { mode: 0o700 })
  try {
    const manifest = await unpack(options, places.restoring)
    const database = join(places.restoring, 'smith.db')
    renewEpoch(database, options.random)
    const restored = freeze(database, options, manifest)
    // Closing folds the write-ahead log into the database; moved without it, the database would lose turns.
    if (existsSync(`${database}-wal`))
      throw refused(`${database} was not closed cleanly`, 'see that the disk has room and restore again')
    giveToOwnerOf(options.stateDir, places.restoring)
    renameSync(join(places.restoring, 'keys'), places.keys)
    renameSync(database, places.database)
    syncFolder(options.stateDir)
    rmdirSync(places.restoring)
    syncFolder(options.stateDir)
    return { ...restored, madeAt: manifest.madeAt }
  } catch (error) {
    // As before: empty, so that it can be tried again.
    for (const path of [places.database, places.keys, places.restoring]) rmSync(path, { recursive: true, force: true })
    throw error
  }
}

/** Safe mode is a turn like any other: who reads the journal sees where the history was cut. */
function freeze(
  database: string,
  options: RestoreOptions,
  manifest: Manifest,
): { readonly rev: number; readonly epoch: string } {
  const store = openSqliteStore({ path: database, random: options.random, program: options.program })
  try {
    const at = Math.max(options.at, store.lastAt())
    const reason = `restored from the backup of ${new Date(manifest.madeAt).toISOString()} (revision ${manifest.rev}): machines may have done more since than this database knows. Wait until they are connected, compare \`smith machines\` and \`smith status\` with the changes made since, then run: smith unfreeze`
    const before: Instance = store.get('instance', 'instance') ?? { frozen: null, fence: 0, change: 0, task: 0 }
    const rev = store.rev() + 1
    const turn: Turn = {
      rev,
      at,
      actor: 'restore',
      row: { rev, at, actor: 'restore', facts: [{ fact: 'frozen', reason }] },
      writes: [
        { table: 'instance', key: 'instance', row: { ...before, frozen: { by: 'restore', at, reason } }, live: true },
      ],
      logs: [],
    }
    void store.commit(turn)
    return { rev, epoch: store.epoch }
  } finally {
    store.close()
  }
}

/** A restore run by root must leave files that the coordinator's own user can open. */
function giveToOwnerOf(stateDir: string, folder: string): void {
  const { uid, gid } = statSync(stateDir)
  if (process.getuid?.() !== 0 || uid === 0) return
  for (const name of readdirSync(folder, { recursive: true })) chownSync(join(folder, String(name)), uid, gid)
}

/** The database of a sealed backup alone, in a folder that only its owner can read and that is gone afterwards. */
export async function withDatabaseOf<Value>(
  options: Pick<RestoreOptions, 'file' | 'passphrase'>,
  use: (database: string) => Promise<Value> | Value,
): Promise<Value> {
  const folder = mkdtempSync(join(tmpdir(), 'smith-backup-'))
  try {
    await unpack(options, folder, (name) => name === 'smith.db')
    return await use(join(folder, 'smith.db'))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function unpack(
  options: Pick<RestoreOptions, 'file' | 'passphrase'>,
  folder: string,
  isWanted: (name: string) => boolean = () => true,
): Promise<Manifest> {
  const file = await openSealed(options.file)
  try {
    const source = openStream(file, options.passphrase, options.file)
    const first = (await source.next()).value as Buffer | undefined
    const end = first?.indexOf('\n') ?? -1
    const result = v.safeParse(manifestSchema, end < 0 ? null : JSON.parse(String(first?.subarray(0, end))))
    if (!result.success || first === undefined)
      throw refused(
        `${options.file} was written by another version of smith`,
        'restore it with the version that wrote it',
        'version',
      )
    mkdirSync(join(folder, 'keys'), { mode: 0o700 })
    const bytes = joined(first.subarray(end + 1), source)
    await unpackFiles({ manifest: result.output, folder, isWanted }, bytes, options.file)
    return result.output
  } finally {
    await file.close()
  }
}

async function openSealed(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r')
  } catch (error) {
    throw refused(
      `can't read ${path}: ${error instanceof Error ? error.message : String(error)}`,
      'name a backup file that can be read',
    )
  }
}

async function* joined(first: Buffer, rest: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  yield first
  yield* rest
}

async function unpackFiles(
  to: { readonly manifest: Manifest; readonly folder: string; readonly isWanted: (name: string) => boolean },
  source: AsyncGenerator<Buffer>,
  name: string,
): Promise<void> {
  const { manifest, folder, isWanted } = to
  let left: Buffer = Buffer.alloc(0)
  for (const entry of manifest.files) {
    // What is not wanted is read to its end all the same, and goes nowhere.
    const path = isWanted(entry.name) ? join(folder, entry.name) : devNull
    const target = openSync(path, path === devNull ? 'w' : 'wx', 0o600)
    const hash = createHash('sha256')
    try {
      for (let missing = entry.bytes; missing > 0;) {
        if (left.length === 0) {
          const next = await source.next()
          if (next.done === true) throw damagedAt(name, statSync(name).size)
          left = next.value
        }
        const piece = left.subarray(0, missing)
        writeAll(target, piece)
        hash.update(piece)
        left = left.subarray(piece.length)
        missing -= piece.length
      }
    } finally {
      closeSync(target)
    }
    if (hash.digest('hex') !== entry.sha256)
      throw refused(`${name} does not hold ${entry.name} as it was`, 'use another copy of the file')
    if (path !== devNull) syncFile(path)
  }
  // To the end, because only the last chunk proves that nothing was cut off.
  for await (const rest of source) if (rest.length > 0) throw damagedAt(name, statSync(name).size)
  syncFolder(join(folder, 'keys'))
  syncFolder(folder)
}

async function* plainOf(manifest: Manifest, sources: readonly { readonly path: string }[]): AsyncGenerator<Buffer> {
  yield Buffer.from(`${JSON.stringify(manifest)}\n`)
  for (const { path } of sources) yield* piecesOf(path)
}

async function* piecesOf(path: string): AsyncGenerator<Buffer> {
  const file = await open(path, 'r')
  try {
    for (;;) {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(READ_BYTES), 0, READ_BYTES)
      if (bytesRead === 0) return
      yield buffer.subarray(0, bytesRead)
    }
  } finally {
    await file.close()
  }
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const piece of piecesOf(path)) hash.update(piece)
  return hash.digest('hex')
}

function writeAll(descriptor: number, bytes: Buffer): void {
  for (let offset = 0; offset < bytes.length;) offset += writeSync(descriptor, bytes, offset)
}
