/**
 * The real database beside the simulated one, on every tenth seed: each turn is committed to SQLite first and to the
 * memory store after it, each read is asked of both, and any difference is told. A crash leaves the database file and
 * its write-ahead log as they are in that instant, so that the next life recovers them as SQLite does after a kill.
 */
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { Random, Store } from '../../coordinator/ports.ts'
import { type MemoryDisk, openMemoryStore } from '../../coordinator/store/memory.ts'
import { openSqliteStore, renewEpoch } from '../../coordinator/store/sqlite.ts'

const FILES = ['', '-wal'] as const
/** Its epoch is never shown: the simulated disk has that of the feed. */
const RANDOM: Random = { bytes: (count) => new Uint8Array(count) }

/** Owns the files of one simulated coordinator's database. */
export class Database {
  readonly #folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'smith-sim-'))
  readonly #differ: (text: string) => void
  #open: Store | null = null

  constructor(differ: (text: string) => void) {
    this.#differ = differ
  }

  #path(name = 'now'): string {
    return join(this.#folder, `${name}.db`)
  }

  /** A store that is both; what it answers is what SQLite answers. */
  open(disk: MemoryDisk): Store {
    const memory = openMemoryStore(disk)
    const real = openSqliteStore({ path: this.#path(), random: RANDOM, program: 'sim' })
    this.#open = real
    const same = <Answer>(what: string, given: Answer, wanted: Answer): Answer => {
      if (!isDeepStrictEqual(given, wanted))
        this.#differ(`${what} is ${text(given)} in SQLite, ${text(wanted)} in memory`)
      return given
    }
    return {
      epoch: memory.epoch,
      rev: () => same('rev', real.rev(), memory.rev()),
      lastAt: () => same('the newest instant', real.lastAt(), memory.lastAt()),
      load: () => {
        const byKey = (rows: Iterable<{ readonly table: string; readonly key: string }>) =>
          [...rows].toSorted((one, other) => (`${one.table} ${one.key}` < `${other.table} ${other.key}` ? -1 : 1))
        same('what is live', byKey(real.load()), byKey(memory.load()))
        return real.load()
      },
      commit: (turn) => {
        void real.commit(turn)
        void memory.commit(turn)
        same('the head', real.head(), memory.head())
      },
      get: (table, key) => same(`${table} ${key}`, real.get(table, key), memory.get(table, key)),
      list: (table, prefix) => same(`${table} ${prefix}*`, real.list(table, prefix), memory.list(table, prefix)),
      projects: (query) => same('the projects', real.projects(query), memory.projects(query)),
      orders: (query) => same('the orders', real.orders(query), memory.orders(query)),
      journal: (query) => same('the journal', real.journal(query), memory.journal(query)),
      acts: (query) => same('the acts', real.acts(query), memory.acts(query)),
      chain: (query) => same('the chain', real.chain(query), memory.chain(query)),
      head: () => same('the head', real.head(), memory.head()),
      records: (query) => same(`the log of ${query.order}`, real.records(query), memory.records(query)),
      // Only a bot keeps something there, and there is none here.
      ledger: memory.ledger,
      backup: (path) => real.backup(path),
      close: () => {
        this.#close()
        memory.close()
      },
    }
  }

  /** The process is gone, and nobody closed anything. */
  crash(): void {
    this.#copy('now', 'left')
    this.#close()
    this.#copy('left', 'now')
  }

  /** Keeps the state of now for later. */
  keep(): void {
    this.#copy('now', 'old')
  }

  /** Puts what was kept into the place of the present one, as a restore does. */
  restore(): void {
    this.#close()
    this.#copy('old', 'now')
    renewEpoch(this.#path(), RANDOM)
  }

  end(): void {
    this.#close()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #close(): void {
    this.#open?.close()
    this.#open = null
  }

  #copy(from: string, to: string): void {
    for (const file of FILES) {
      rmSync(`${this.#path(to)}${file}`, { force: true })
      if (existsSync(`${this.#path(from)}${file}`))
        copyFileSync(`${this.#path(from)}${file}`, `${this.#path(to)}${file}`)
    }
  }
}

function text(value: unknown): string {
  return (JSON.stringify(value) ?? 'nothing').slice(0, 300)
}
