/**
 * The store on SQLite: one process, one connection, one fsync per turn. A turn is one transaction; after an I/O error
 * no further turn is committed, because what is on disk is no longer known. sqlite-open.ts asserts what it leans on.
 */
import Database from 'better-sqlite3'
import { closeSync, existsSync, openSync, rmSync } from 'node:fs'
import { RefusedError } from '../../protocol/errors.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import type { RunRecord } from '../../protocol/files.ts'
import type { LiveRow, Random, Store, Turn } from '../ports.ts'
import { CHAIN_START, type ChainRow, chainHash, hasAct } from '../domain/chain.ts'
import type { LogAppend } from '../domain/events.ts'
import { TABLES } from '../domain/state.ts'
import type { Instant, TableName, Tables, Write } from '../domain/state.ts'
import { publish, syncFile } from './durable.ts'
import { type Batch, decodeBatch, encodeBatch } from './log-batches.ts'
import { readMeta, writeMeta } from './migrations.ts'
import { appendProblem, arrangeWrites, turnProblem } from './rules.ts'
import { sha256 } from './sha256.ts'
import { type SqliteOptions, epochOf, openDatabase } from './sqlite-open.ts'
import { StoreError, messageOf } from './store-error.ts'

const PAGES_PER_BACKUP_STEP = 1000

type Handle = {
  readonly db: Database.Database
  readonly path: string
  readonly prepare: (sql: string) => Database.Statement
  last: { rev: number; at: Instant; hash: string }
  /** Why no further turn is committed, null while all is well. */
  broken: string | null
}

/** Opens or makes the database and takes its lock; throws a RefusedError that says what to do when it can't. */
export function openSqliteStore(options: SqliteOptions): Store {
  const handle = openHandle(options)
  const epoch = readMeta(handle.db, 'epoch') ?? ''
  return {
    epoch,
    rev: () => handle.last.rev,
    lastAt: () => handle.last.at,
    load: () => loadLive(handle),
    commit: (turn) => commit(handle, turn),
    ...readsOf(handle),
    ledger: ledgerOf(handle),
    backup: (path) => backup(handle, path),
    close: () => {
      handle.broken ??= 'it was closed'
      handle.db.close()
    },
  }
}

function openHandle(options: SqliteOptions): Handle {
  const db = openDatabase(options)
  const last = db.prepare('SELECT rev, at, hash FROM journal ORDER BY rev DESC LIMIT 1').get() as
    | Handle['last']
    | undefined
  return {
    db,
    path: options.path,
    prepare: cachedPrepare(db),
    last: last ?? { rev: 0, at: 0, hash: CHAIN_START },
    broken: null,
  }
}

function cachedPrepare(db: Database.Database): Handle['prepare'] {
  const statements = new Map<string, Database.Statement>()
  return (sql) => {
    const known = statements.get(sql)
    if (known !== undefined) return known
    const made = db.prepare(sql)
    statements.set(sql, made)
    return made
  }
}

function commit(handle: Handle, turn: Turn): void {
  if (handle.broken !== null)
    throw new StoreError('closed', `the store ${handle.path} takes no more turns: ${handle.broken}`)
  const problem = turnProblem(turn, handle.last)
  if (problem !== null) throw new StoreError('conflict', problem)
  const { rev, at, actor } = turn.row
  const facts = JSON.stringify(turn.row.facts)
  const hash = chainHash(sha256, handle.last.hash, { rev, at, actor, facts })
  const act = hasAct(turn.row.facts) ? 1 : 0
  try {
    run(handle, 'BEGIN IMMEDIATE', [])
    const sql = 'INSERT INTO journal (rev, at, actor, facts, hash, act) VALUES (?, ?, ?, ?, ?, ?)'
    run(handle, sql, [rev, at, actor, facts, hash, act])
    for (const write of arrangeWrites(turn.writes)) writeRow(handle, write)
    for (const append of turn.logs) appendLog(handle, append)
    run(handle, 'COMMIT', [])
  } catch (error) {
    const failure = error instanceof StoreError ? error : new StoreError('io', messageOf(error), { cause: error })
    if (failure.kind === 'io') handle.broken = `turn ${turn.rev} failed: ${failure.message}`
    rollback(handle, failure)
    throw failure
  }
  handle.last = { rev, at, hash }
}

function ledgerOf(handle: Handle): Store['ledger'] {
  const { prepare } = handle
  return {
    get: (key) => {
      const doc = prepare('SELECT doc FROM ledger WHERE key = ?').pluck().get(key)
      return typeof doc === 'string' ? (JSON.parse(doc) as unknown) : undefined
    },
    list: (prefix) =>
      (
        prepare('SELECT key, doc FROM ledger WHERE key >= ? AND key < ? ORDER BY key').all(
          prefix,
          prefix + LAST_CHARACTER,
        ) as { key: string; doc: string }[]
      ).map(({ key, doc }) => ({ key, doc: JSON.parse(doc) as unknown })),
    put: (entries) => {
      if (handle.broken !== null)
        throw new StoreError('closed', `the store ${handle.path} takes no more documents: ${handle.broken}`)
      const write = handle.db.transaction(() => {
        for (const [key, doc] of entries) {
          if (doc === null) run(handle, 'DELETE FROM ledger WHERE key = ?', [key])
          else run(handle, 'INSERT OR REPLACE INTO ledger (key, doc) VALUES (?, ?)', [key, JSON.stringify(doc)])
        }
      })
      write.immediate()
    },
  }
}

function rollback(handle: Handle, failure: StoreError): void {
  if (!handle.db.inTransaction) return
  try {
    handle.db.exec('ROLLBACK')
  } catch (error) {
    handle.broken = `${failure.message}; then ROLLBACK failed: ${messageOf(error)}`
  }
}

/** Runs one statement; whatever it throws bears the SQL and the row that it was about. */
function run(handle: Handle, sql: string, parameters: readonly unknown[], subject = ''): void {
  try {
    handle.prepare(sql).run(...parameters)
  } catch (error) {
    const code = error instanceof Database.SqliteError ? error.code : ''
    const kind = code.startsWith('SQLITE_CONSTRAINT') ? 'conflict' : 'io'
    const about = subject === '' ? '' : ` (${subject})`
    throw new StoreError(
      kind,
      `${handle.path}: ${messageOf(error)}${code === '' ? '' : ` [${code}]`}${about} in: ${sql}`,
      { sql, cause: error },
    )
  }
}

function writeRow(handle: Handle, write: Write): void {
  const subject = `${write.table} ${write.key}`
  if (write.row === null) return run(handle, `DELETE FROM "${write.table}" WHERE key = ?`, [write.key], subject)
  run(
    handle,
    `INSERT INTO "${write.table}" (key, live, doc) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET live = excluded.live, doc = excluded.doc`,
    [write.key, write.live ? 1 : 0, JSON.stringify(write.row)],
    subject,
  )
}

function appendLog(handle: Handle, append: LogAppend): void {
  const upTo = handle
    .prepare('SELECT upTo FROM logs WHERE "order" = ? ORDER BY first DESC LIMIT 1')
    .pluck()
    .get(append.order) as number | undefined
  const problem = appendProblem(append, upTo ?? 0)
  if (problem !== null) throw new StoreError('conflict', problem)
  if (append.records.length === 0) return
  const { codec, data } = encodeBatch(append.records)
  const last = append.from + append.records.length - 1
  run(
    handle,
    'INSERT INTO logs ("order", first, upTo, codec, data) VALUES (?, ?, ?, ?, ?)',
    [append.order, append.from, last, codec, data],
    `log of ${append.order}`,
  )
}

/** Table by table, so that no statement stays open between two rows: an open one would refuse a commit. */
function* loadLive(handle: Handle): Generator<LiveRow> {
  for (const table of storedTables()) {
    if (!TABLES[table].inView) continue
    const rows = handle.prepare(`SELECT key, doc FROM "${table}" WHERE live = 1 ORDER BY key`).all() as {
      key: string
      doc: string
    }[]
    for (const row of rows) yield { table, key: row.key, row: JSON.parse(row.doc) }
  }
}

function storedTables(): readonly TableName[] {
  return (Object.keys(TABLES) as TableName[]).filter((table) => TABLES[table].stored)
}

/** Sorts after every key that begins with what stands before it (SQLite compares UTF-8 bytes). */
const LAST_CHARACTER = '\u{10FFFF}'

type Reads = 'get' | 'list' | 'projects' | 'orders' | 'journal' | 'acts' | 'chain' | 'head' | 'records'

function readsOf(handle: Handle): Pick<Store, Reads> {
  const docs = <Name extends TableName>(sql: string, parameters: readonly unknown[]) =>
    (
      handle
        .prepare(sql)
        .pluck()
        .all(...parameters) as string[]
    ).map((doc) => JSON.parse(doc) as Tables[Name])
  return {
    get: <Name extends TableName>(table: Name, key: string) => {
      if (!TABLES[table].stored) return undefined
      const doc = handle.prepare(`SELECT doc FROM "${table}" WHERE key = ?`).pluck().get(key)
      return typeof doc === 'string' ? (JSON.parse(doc) as Tables[Name]) : undefined
    },
    list: <Name extends TableName>(table: Name, prefix: string) =>
      TABLES[table].stored
        ? docs<Name>(`SELECT doc FROM "${table}" WHERE key >= ? AND key < ? ORDER BY key`, [
            prefix,
            prefix + LAST_CHARACTER,
          ])
        : [],
    projects: ({ limit, before }) =>
      docs<'projects'>('SELECT doc FROM projects WHERE createdAt < ? ORDER BY createdAt DESC, seq DESC LIMIT ?', [
        before ?? Number.MAX_SAFE_INTEGER,
        limit,
      ]),
    orders: (query) =>
      'machine' in query
        ? docs<'orders'>('SELECT doc FROM orders WHERE machine = ? ORDER BY seq', [query.machine])
        : docs<'orders'>('SELECT doc FROM orders WHERE project = ? ORDER BY seq', [query.project]),
    journal: ({ since, limit }) => {
      const sql = 'SELECT rev, at, actor, facts FROM journal WHERE rev > ? ORDER BY rev LIMIT ?'
      return (handle.prepare(sql).all(since, limit) as JournalRow[]).map(feedRowOf)
    },
    acts: ({ before, limit }) => {
      const sql = 'SELECT rev, at, actor, facts FROM journal WHERE act = 1 AND rev < ? ORDER BY rev DESC LIMIT ?'
      return (handle.prepare(sql).all(before ?? Number.MAX_SAFE_INTEGER, limit) as JournalRow[]).map(feedRowOf)
    },
    chain: ({ since, limit }) => (handle.prepare(CHAIN_SQL).all(since, limit) as StoredChainRow[]).map(chainRowOf),
    head: () => handle.last.hash,
    records: (query) => recordsOf(handle, query),
  }
}

type JournalRow = { readonly rev: number; readonly at: number; readonly actor: string; readonly facts: string }
type StoredChainRow = JournalRow & { readonly hash: string; readonly act: number }

const CHAIN_SQL = 'SELECT rev, at, actor, facts, hash, act FROM journal WHERE rev > ? ORDER BY rev LIMIT ?'

const feedRowOf = (row: JournalRow): FeedRow => ({ ...row, facts: JSON.parse(row.facts) as FeedRow['facts'] })
const chainRowOf = (row: StoredChainRow): ChainRow => ({ ...row, act: row.act === 1 })

/** Begins at the batch that holds the first record wanted and stops when the page is full. */
function recordsOf(
  handle: Handle,
  query: { readonly order: string; readonly after: number; readonly limit: number },
): readonly RunRecord[] {
  const sql = `SELECT codec, data FROM logs WHERE "order" = ?
    AND first >= coalesce((SELECT max(first) FROM logs WHERE "order" = ? AND first <= ?), 0) ORDER BY first`
  const found: RunRecord[] = []
  if (query.limit <= 0) return found
  for (const batch of handle
    .prepare(sql)
    .iterate(query.order, query.order, query.after + 1) as IterableIterator<Batch>) {
    for (const record of decodeBatch(batch)) {
      if (record.n > query.after && found.length < query.limit) found.push(record)
    }
    if (found.length >= query.limit) break
  }
  return found
}

/**
 * Copies page by page between turns, so that agents are served meanwhile; the copy is whole as of its last step.
 * It gets its name only after it was checked and is on disk.
 */
async function backup(handle: Handle, path: string): Promise<void> {
  if (existsSync(path)) {
    throw new RefusedError([
      { kind: 'exists', message: `${path} exists`, remedy: 'name a file that does not exist yet' },
    ])
  }
  const partial = `${path}.partial`
  rmSync(partial, { force: true })
  closeSync(openSync(partial, 'wx', 0o600))
  try {
    await handle.db.backup(partial, { progress: () => PAGES_PER_BACKUP_STEP })
    const copy = new Database(partial, { fileMustExist: true })
    try {
      // A single file: the copy must not need a write-ahead log beside it.
      copy.pragma('journal_mode = DELETE')
      const found = copy.pragma('integrity_check(5)', { simple: true })
      if (found !== 'ok')
        throw new StoreError('io', `the copy ${partial} is damaged: ${String(found)}`, {
          sql: 'PRAGMA integrity_check',
        })
    } finally {
      copy.close()
    }
    syncFile(partial)
    publish(partial, path)
  } catch (error) {
    rmSync(partial, { force: true })
    throw error
  }
}

/** What a closed database file says of itself: for backups, and for a restore. */
export function describeStoreFile(path: string): {
  readonly rev: number
  readonly head: string
  readonly epoch: string
  readonly writtenBy: string
} {
  const db = new Database(path, { readonly: true, fileMustExist: true })
  try {
    const last = db.prepare('SELECT rev, hash FROM journal ORDER BY rev DESC LIMIT 1').get() as
      | { readonly rev: number; readonly hash: string }
      | undefined
    const { rev, hash: head } = last ?? { rev: 0, hash: CHAIN_START }
    return { rev, head, epoch: readMeta(db, 'epoch') ?? '', writtenBy: readMeta(db, 'writtenBy') ?? '' }
  } finally {
    db.close()
  }
}

/** The rows of the journal in a database that nobody writes, each once. */
export function* chainOfFile(path: string): Generator<ChainRow> {
  const db = new Database(path, { readonly: true, fileMustExist: true, timeout: 0 })
  try {
    const columns = db.prepare("SELECT name FROM pragma_table_info('journal')").pluck().all()
    if (!columns.includes('hash')) throw notChained(path)
    yield* Iterator.from(db.prepare(CHAIN_SQL).iterate(0, -1) as IterableIterator<StoredChainRow>).map(chainRowOf)
  } finally {
    db.close()
  }
}

function notChained(path: string): RefusedError {
  const message = `${path} has no journal with a chain of hashes: it is of an older smith, or of another program`
  return new RefusedError([{ kind: 'version', message, remedy: 'name a backup, or a database, of this version' }])
}

/** Gives a closed database a new epoch, so that whoever followed its feed before starts anew. */
export function renewEpoch(path: string, random: Random): void {
  const db = new Database(path, { fileMustExist: true })
  try {
    db.pragma('synchronous = FULL')
    writeMeta(db, 'epoch', epochOf(random))
  } finally {
    db.close()
  }
}
