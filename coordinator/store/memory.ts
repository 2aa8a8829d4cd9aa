/**
 * The store in memory, for tests and the simulator: the same rules (rules.ts), the same answers as SQLite (one
 * contract suite runs on both). A disk outlives the store that has it open, so a crash is to drop the store and
 * open the disk again. Rows are kept as JSON text: nobody shares a mutable object with it.
 */
import { writeNewFile } from './durable.ts'
import { RefusedError } from '../../protocol/errors.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import type { RunRecord } from '../../protocol/files.ts'
import type { LiveRow, Random, Store, Turn } from '../ports.ts'
import type { LogAppend } from '../domain/events.ts'
import { CHAIN_START, chainHash, hasAct } from '../domain/chain.ts'
import { TABLES } from '../domain/state.ts'
import type { Order, Project, TableName, Tables, Write } from '../domain/state.ts'
import { compareText } from '../../protocol/natural-order.ts'
import { RULED_TABLES, appendProblem, arrangeWrites, claimsOf, transitionProblem, turnProblem } from './rules.ts'
import { sha256 } from './sha256.ts'
import { StoreError } from './store-error.ts'

type StoredRow = { readonly doc: string; readonly live: boolean }

/** What a power cut leaves. */
export type MemoryDisk = {
  readonly epoch: string
  readonly tables: Map<TableName, Map<string, StoredRow>>
  /** Who holds what only one row may have. */
  readonly claims: Map<string, string>
  readonly journal: string[]
  /** That of each journal row. */
  readonly hashes: string[]
  readonly ledger: Map<string, string>
  readonly logs: Map<string, string[]>
  last: { rev: number; at: number }
  /** The store that has it open. */
  opener: object | null
}

export function createMemoryDisk(random: Random): MemoryDisk {
  return {
    epoch: Buffer.from(random.bytes(16)).toString('hex'),
    tables: new Map((Object.keys(TABLES) as TableName[]).map((table) => [table, new Map<string, StoredRow>()])),
    claims: new Map(),
    journal: [],
    hashes: [],
    ledger: new Map(),
    logs: new Map(),
    last: { rev: 0, at: 0 },
    opener: null,
  }
}

/** The process that had it open is gone, without a close. */
export function crashMemoryDisk(disk: MemoryDisk): void {
  disk.opener = null
}

/** A store on a disk of its own, for tests that open it only once. */
export function createMemoryStore(random: Random): Store {
  return openMemoryStore(createMemoryDisk(random))
}

export function openMemoryStore(disk: MemoryDisk): Store {
  if (disk.opener !== null) {
    throw new RefusedError([
      {
        kind: 'conflict',
        message: 'another process has the disk open: one database serves one coordinator',
        remedy: 'close the other store first',
      },
    ])
  }
  const self = {}
  disk.opener = self
  return {
    epoch: disk.epoch,
    rev: () => disk.last.rev,
    lastAt: () => disk.last.at,
    load: () => loadLive(disk),
    commit: (turn) => {
      if (disk.opener !== self) throw new StoreError('closed', 'the store takes no more turns: it was closed')
      commit(disk, turn)
    },
    ...readsOf(disk),
    ledger: ledgerOf(disk, () => disk.opener === self),
    backup: (path) => writeNewFile(path, JSON.stringify(dump(disk))),
    close: () => {
      if (disk.opener === self) disk.opener = null
    },
  }
}

function ledgerOf(disk: MemoryDisk, isOpen: () => boolean): Store['ledger'] {
  return {
    get: (key) => {
      const doc = disk.ledger.get(key)
      return doc === undefined ? undefined : (JSON.parse(doc) as unknown)
    },
    list: (prefix) =>
      [...disk.ledger]
        .filter(([key]) => key.startsWith(prefix))
        .toSorted(([left], [right]) => compareText(left, right))
        .map(([key, doc]) => ({ key, doc: JSON.parse(doc) as unknown })),
    put: (entries) => {
      if (!isOpen()) throw new StoreError('closed', 'the store takes no more documents: it was closed')
      const texts = entries.map(([key, doc]) => [key, doc === null ? undefined : JSON.stringify(doc)] as const)
      for (const [key, text] of texts) setEntry(disk.ledger, key, text, [])
    },
  }
}

/** All or nothing: each change leaves its way back, and a problem walks them all. */
function commit(disk: MemoryDisk, turn: Turn): void {
  const problem = turnProblem(turn, disk.last)
  if (problem !== null) throw new StoreError('conflict', problem)
  const undo: (() => void)[] = []
  try {
    for (const write of arrangeWrites(turn.writes)) writeRow(disk, write, undo)
    for (const append of turn.logs) appendLog(disk, append, undo)
  } catch (error) {
    for (const back of undo.toReversed()) back()
    throw error
  }
  disk.journal.push(JSON.stringify(turn.row))
  disk.hashes.push(chainHash(sha256, headOf(disk), { ...turn.row, facts: JSON.stringify(turn.row.facts) }))
  disk.last = { rev: turn.rev, at: turn.at }
}

function writeRow(disk: MemoryDisk, write: Write, undo: (() => void)[]): void {
  const rows = tableOf(disk, write.table)
  const stored = rows.get(write.key)
  const isRuled = stored !== undefined && RULED_TABLES.has(write.table)
  const before = isRuled ? (JSON.parse(stored.doc) as Tables[TableName]) : null
  const problem = before === null ? null : transitionProblem(write.table, before, write.row)
  if (problem !== null) throw new StoreError('conflict', `${write.table} ${write.key}: ${problem}`)
  const holder = `${write.table} ${write.key}`
  for (const claim of before === null ? [] : claimsOf(write.table, before))
    setEntry(disk.claims, claim, undefined, undo)
  for (const claim of write.row === null ? [] : claimsOf(write.table, write.row)) {
    const other = disk.claims.get(claim)
    if (other !== undefined) throw new StoreError('conflict', `${holder}: UNIQUE: ${claim} is taken by ${other}`)
    setEntry(disk.claims, claim, holder, undo)
  }
  setEntry(rows, write.key, write.row === null ? undefined : { doc: JSON.stringify(write.row), live: write.live }, undo)
}

function appendLog(disk: MemoryDisk, append: LogAppend, undo: (() => void)[]): void {
  const before = disk.logs.get(append.order) ?? []
  const problem = appendProblem(append, before.length)
  if (problem !== null) throw new StoreError('conflict', problem)
  const length = before.length
  before.push(...append.records.map((record) => JSON.stringify(record)))
  disk.logs.set(append.order, before)
  undo.push(() => {
    before.length = length
  })
}

/** Sets or deletes, and leaves the way back. A deletion that is undone comes back as the newest entry of its map. */
function setEntry<Value>(map: Map<string, Value>, key: string, value: Value | undefined, undo: (() => void)[]): void {
  const before = map.get(key)
  undo.push(() => (before === undefined ? map.delete(key) : map.set(key, before)))
  if (value === undefined) map.delete(key)
  else map.set(key, value)
}

const headOf = (disk: MemoryDisk) => disk.hashes.at(-1) ?? CHAIN_START

function tableOf(disk: MemoryDisk, table: TableName): Map<string, StoredRow> {
  const rows = disk.tables.get(table)
  if (rows === undefined) throw new Error(`there is no table ${table}`)
  return rows
}

function* loadLive(disk: MemoryDisk): Generator<LiveRow> {
  for (const [table, rows] of disk.tables) {
    if (!TABLES[table].inView) continue
    for (const [key, row] of [...rows]) if (row.live) yield { table, key, row: JSON.parse(row.doc) }
  }
}

type Reads = 'get' | 'list' | 'projects' | 'orders' | 'journal' | 'acts' | 'chain' | 'head' | 'records'

function readsOf(disk: MemoryDisk): Pick<Store, Reads> {
  const rowsOf = <Name extends TableName>(table: Name) =>
    [...tableOf(disk, table).values()].map((row) => JSON.parse(row.doc) as Tables[Name])
  return {
    get: <Name extends TableName>(table: Name, key: string) => {
      const row = tableOf(disk, table).get(key)
      return row === undefined ? undefined : (JSON.parse(row.doc) as Tables[Name])
    },
    list: <Name extends TableName>(table: Name, prefix: string) =>
      [...tableOf(disk, table)]
        .filter(([key]) => key.startsWith(prefix))
        .toSorted(([left], [right]) => compareText(left, right))
        .map(([, row]) => JSON.parse(row.doc) as Tables[Name]),
    projects: ({ limit, before }) =>
      rowsOf('projects')
        .filter((project: Project) => project.createdAt < (before ?? Number.MAX_SAFE_INTEGER))
        .toReversed()
        .toSorted((left, right) => right.createdAt - left.createdAt)
        .slice(0, limit),
    orders: (query) =>
      rowsOf('orders').filter((order: Order) =>
        'machine' in query ? order.machine === query.machine : order.project === query.project,
      ),
    journal: ({ since, limit }) => disk.journal.slice(since, since + limit).map((row) => JSON.parse(row) as FeedRow),
    acts: ({ before, limit }) =>
      disk.journal
        .slice(0, before === null ? undefined : Math.max(0, before - 1))
        .map((row) => JSON.parse(row) as FeedRow)
        .filter((row) => hasAct(row.facts))
        .toReversed()
        .slice(0, limit),
    chain: ({ since, limit }) =>
      disk.journal.slice(since, since + limit).map((text, index) => {
        const { facts, ...row } = JSON.parse(text) as FeedRow
        const hash = disk.hashes[since + index] ?? ''
        return { ...row, facts: JSON.stringify(facts), hash, act: hasAct(facts) }
      }),
    head: () => headOf(disk),
    records: ({ order, after, limit }) =>
      (disk.logs.get(order) ?? []).slice(after, after + limit).map((record) => JSON.parse(record) as RunRecord),
  }
}

type Dump = Omit<MemoryDisk, 'tables' | 'claims' | 'ledger' | 'logs' | 'opener'> & {
  readonly ledger: readonly [string, string][]
  readonly tables: readonly [TableName, [string, StoredRow][]][]
  readonly claims: readonly [string, string][]
  readonly logs: readonly [string, string[]][]
}

function dump(disk: MemoryDisk): Dump {
  const { epoch, journal, hashes, last } = disk
  return {
    epoch,
    journal,
    hashes,
    last,
    tables: [...disk.tables].map(([table, rows]) => [table, [...rows]]),
    claims: [...disk.claims],
    ledger: [...disk.ledger],
    logs: [...disk.logs],
  }
}

/** The disk that a memory store's backup was made of. */
export function readMemoryBackup(text: string): MemoryDisk {
  const read = JSON.parse(text) as Dump
  return {
    epoch: read.epoch,
    journal: [...read.journal],
    hashes: [...read.hashes],
    last: read.last,
    tables: new Map(read.tables.map(([table, rows]) => [table, new Map(rows)])),
    claims: new Map(read.claims),
    ledger: new Map(read.ledger),
    logs: new Map(read.logs),
    opener: null,
  }
}
