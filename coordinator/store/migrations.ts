/**
 * The schema of the SQLite store, as steps that are never edited once released. Rows are JSON documents; what an
 * index needs stands beside as a generated column, which can't say anything else than the document. Partial unique
 * indexes and triggers carry the serial rule and at-most-once (rules.ts has them in words). A database that a
 * newer smith wrote is refused with that version's name.
 */
import type Database from 'better-sqlite3'
import { RefusedError } from '../../protocol/errors.ts'
import type { Fact } from '../../protocol/feed.ts'
import { CHAIN_START, chainHash, hasAct } from '../domain/chain.ts'
import { sha256 } from './sha256.ts'

/** `smth`: what file(1) and a wrong open see that this is ours. */
export const APPLICATION_ID = 0x73_6d_74_68

type Migration = {
  readonly version: number
  readonly sql: string
  /** SQL functions that the step needs. */
  readonly functions?: (db: Database.Database) => void
}

/** `seq` is the order in which rows were first written. Columns are taken out of the document by SQLite itself. */
const table = (name: string, columns = '') => `
CREATE TABLE "${name}" (
  seq INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  live INTEGER NOT NULL CHECK (live IN (0, 1)),
  doc TEXT NOT NULL CHECK (json_valid(doc))${columns}
) STRICT;
CREATE INDEX "${name}_live" ON "${name}" (key) WHERE live = 1;
`
const column = (name: string, type: 'TEXT' | 'INTEGER', rest = 'NOT NULL') =>
  `,\n  "${name}" ${type} GENERATED ALWAYS AS (doc ->> '$.${name}') VIRTUAL ${rest}`

const abort = (name: string, event: string, on: string, when: string, message: string) =>
  `CREATE TRIGGER "${name}" BEFORE ${event} ON "${on}"${when === '' ? '' : ` WHEN ${when}`}
BEGIN SELECT RAISE(ABORT, '${message}'); END;
`

const ACTIVE = `('granted', 'running', 'unknown')`
const ENDED = `('succeeded', 'failed', 'voided', 'cancelled')`

const plainTables = [
  'names',
  'users',
  'tokens',
  'enrolments',
  'requests',
  'requestKeys',
  'queries',
  'changes',
  'bags',
  'targets',
  'plans',
  'localChanges',
  'remoteChanges',
  'outbox',
  'schedules',
]

const journalGuards = `
${abort('journal_contiguous', 'INSERT', 'journal', 'new.rev IS NOT (SELECT coalesce(max(rev), 0) + 1 FROM journal)', 'a journal row must follow the newest one')}
${abort('journal_forward', 'INSERT', 'journal', 'new.at < (SELECT at FROM journal ORDER BY rev DESC LIMIT 1)', 'the time of a journal row may not go back')}
${abort('journal_no_update', 'UPDATE', 'journal', '', 'the journal is append-only')}
${abort('journal_no_delete', 'DELETE', 'journal', '', 'the journal is append-only')}`

const first = `
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE journal (
  rev INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  facts TEXT NOT NULL CHECK (json_valid(facts))
) STRICT;
${journalGuards}

CREATE TABLE logs (
  "order" TEXT NOT NULL,
  first INTEGER NOT NULL CHECK (first >= 1),
  upTo INTEGER NOT NULL CHECK (upTo >= first),
  codec TEXT NOT NULL CHECK (codec IN ('json', 'deflate')),
  data BLOB NOT NULL,
  PRIMARY KEY ("order", first)
) STRICT;
${abort('logs_contiguous', 'INSERT', 'logs', `new.first IS NOT coalesce((SELECT upTo FROM logs WHERE "order" = new."order" ORDER BY first DESC LIMIT 1), 0) + 1`, 'the records of an order must follow those that it has')}
${abort('logs_no_update', 'UPDATE', 'logs', '', 'the log of an order is append-only')}
${abort('logs_no_delete', 'DELETE', 'logs', '', 'the log of an order is append-only')}

${plainTables.map((name) => table(name)).join('')}

${table('instance', column('fence', 'INTEGER') + column('change', 'INTEGER') + column('task', 'INTEGER'))}
${abort('instance_counters_rise', 'UPDATE', 'instance', 'new.fence < old.fence OR new.change < old.change OR new.task < old.task', 'the counters of the instance only rise')}
${abort('instance_no_delete', 'DELETE', 'instance', '', 'the instance row can not be deleted')}

${table('machines', `${column('name', 'TEXT')}${column('state', 'TEXT', `NOT NULL CHECK (state IN ('active', 'retired'))`)}`)}
CREATE UNIQUE INDEX machines_name_once ON machines (name) WHERE state = 'active';

${table('projects', column('change', 'TEXT', '') + column('createdAt', 'INTEGER'))}
CREATE UNIQUE INDEX projects_change_once ON projects (change) WHERE change IS NOT NULL;
CREATE INDEX projects_by_time ON projects (createdAt, seq);

${table(
  'orders',
  column('machine', 'TEXT') +
    column('project', 'TEXT') +
    column('fence', 'INTEGER', 'NOT NULL CHECK (fence >= 0)') +
    column('state', 'TEXT', `NOT NULL CHECK (state = 'offered' OR state IN ${ACTIVE} OR state IN ${ENDED})`),
)}
CREATE UNIQUE INDEX orders_one_per_machine ON orders (machine) WHERE state IN ${ACTIVE};
CREATE UNIQUE INDEX orders_one_per_project ON orders (project) WHERE state IN ${ACTIVE};
CREATE UNIQUE INDEX orders_fence_once ON orders (fence) WHERE fence > 0;
CREATE INDEX orders_by_machine ON orders (machine, seq);
CREATE INDEX orders_by_project ON orders (project, seq);
${abort('orders_end_once', 'UPDATE', 'orders', `old.state IN ${ENDED} AND new.state NOT IN ${ENDED}`, 'an order that has ended can not be opened again')}
${abort('orders_grant_once', 'UPDATE', 'orders', 'old.fence > 0 AND new.fence IS NOT old.fence', 'an order that was granted keeps its fence')}
${abort('orders_no_delete', 'DELETE', 'orders', `old.state IN ${ACTIVE}`, 'an order between granted and known can not be deleted')}

${table('lines', column('project', 'TEXT') + column('machine', 'TEXT'))}
${abort('lines_one_holder', 'UPDATE', 'lines', 'new.project IS NOT old.project OR new.machine IS NOT old.machine', 'the line is in use by another machine and must be freed in a turn of its own')}
`

/** What the bot said where, so that a restart neither repeats nor forgets it. */
const ledger = `
CREATE TABLE ledger (key TEXT PRIMARY KEY, doc TEXT NOT NULL CHECK (json_valid(doc))) STRICT, WITHOUT ROWID;
`

/**
 * Each journal row bears the hash that chains it to the row before, and whether it has an act. A new table in the place
 * of the old one, since neither may be missing and SQLite adds no such column.
 */
const chain = `
CREATE TABLE journal_chained (
  rev INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  facts TEXT NOT NULL CHECK (json_valid(facts)),
  hash TEXT NOT NULL CHECK (length(hash) = 64),
  act INTEGER NOT NULL CHECK (act IN (0, 1))
) STRICT;
INSERT INTO journal_chained (rev, at, actor, facts, hash, act)
  SELECT rev, at, actor, facts, smith_chain(rev, at, actor, facts), smith_act(facts) FROM journal ORDER BY rev;
DROP TABLE journal;
ALTER TABLE journal_chained RENAME TO journal;
CREATE INDEX journal_acts ON journal (rev) WHERE act = 1;
${journalGuards}
`

/** The rows come in their order, so that the hash of the one before is at hand. */
function chainFunctions(db: Database.Database): void {
  let before = CHAIN_START
  db.function('smith_chain', (rev, at, actor, facts) => {
    const row = { rev: Number(rev), at: Number(at), actor: String(actor), facts: String(facts) }
    before = chainHash(sha256, before, row)
    return before
  })
  db.function('smith_act', (facts) => (hasAct(JSON.parse(String(facts)) as readonly Fact[]) ? 1 : 0))
}

const MIGRATIONS: readonly Migration[] = [
  { version: 1, sql: first },
  { version: 2, sql: ledger },
  { version: 3, sql: chain, functions: chainFunctions },
]
export const SCHEMA_VERSION = MIGRATIONS.at(-1)?.version ?? 0

/** Brings a database to SCHEMA_VERSION, each step a transaction; refuses one that is newer or not ours. */
export function migrate(db: Database.Database, options: { readonly path: string; readonly program: string }): void {
  const have = Number(db.pragma('user_version', { simple: true }))
  const owner = Number(db.pragma('application_id', { simple: true }))
  const tables = Number(db.prepare('SELECT count(*) FROM sqlite_schema').pluck().get())
  if (owner !== APPLICATION_ID && tables > 0) {
    throw new RefusedError([
      {
        kind: 'conflict',
        message: `${options.path} is a database of another program`,
        remedy: 'give smith-coordinator a state_dir of its own',
      },
    ])
  }
  if (have > SCHEMA_VERSION) throw new RefusedError([newerRefusal(db, options, have)])
  for (const step of MIGRATIONS.filter((migration) => migration.version > have)) {
    step.functions?.(db)
    db.transaction(() => {
      db.pragma(`application_id = ${APPLICATION_ID}`)
      db.exec(step.sql)
      db.pragma(`user_version = ${step.version}`)
    }).immediate()
  }
  writeMeta(db, 'writtenBy', options.program)
}

function newerRefusal(
  db: Database.Database,
  options: { readonly path: string; readonly program: string },
  have: number,
) {
  const writer = readMeta(db, 'writtenBy') ?? 'an unknown version'
  return {
    kind: 'version' as const,
    message: `${options.path} was written by smith ${writer} (schema ${have}); this is smith ${options.program}, which knows schemas up to ${SCHEMA_VERSION}`,
    remedy: `install smith ${writer} or newer, or restore a backup that smith ${options.program} made into an empty state_dir`,
  }
}

export function readMeta(db: Database.Database, name: string): string | null {
  const value = db.prepare('SELECT value FROM meta WHERE name = ?').pluck().get(name)
  return typeof value === 'string' ? value : null
}

/** Writes only what differs, so that an open changes nothing on disk. */
export function writeMeta(db: Database.Database, name: string, value: string): void {
  if (readMeta(db, name) === value) return
  db.prepare(
    'INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
  ).run(name, value)
}
