/** The chain of the journal, on a real database: any one row that was edited, removed or moved is named. */
import { cpSync, existsSync, readdirSync, rmSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import Database from 'better-sqlite3'
import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import { createVerifier } from '../../coordinator/domain/chain.ts'
import type { Store } from '../../coordinator/ports.ts'
import { createMemoryStore } from '../../coordinator/store/memory.ts'
import { stateFolder } from '../../coordinator/store/durable.ts'
import { backupSealed, restore, withDatabaseOf } from '../../coordinator/store/sealed.ts'
import { openSqliteStore } from '../../coordinator/store/sqlite.ts'
import { sha256 } from '../../coordinator/store/sha256.ts'
import { verifyFile } from '../../coordinator/store/verify.ts'
import { loadOrCreateKeys } from '../../coordinator/keys.ts'
import type { Fact } from '../../protocol/feed.ts'
import { T0, seededRandom } from '../store/rows.ts'

const ROWS = 12
const random = seededRandom(5)
const noPassphrase = () => {
  throw new Error('a database needs none')
}

function fill(store: Store): void {
  for (let rev = store.rev() + 1; rev <= ROWS; rev += 1) {
    const facts: Fact[] =
      rev % 3 === 0
        ? [{ fact: 'logAppended', order: 'ab'.repeat(16), from: 1, upTo: rev }]
        : [{ fact: 'paused', reason: `why ${rev}` }]
    const row = { rev, at: T0 + rev, actor: rev % 2 === 0 ? 'ann' : 'ben via igorina', facts }
    void store.commit({ rev, at: row.at, actor: row.actor, row, writes: [], logs: [] })
  }
}

function database(t: Test): string {
  const path = `${t.testdir({ state: {} })}/state/smith.db`
  const store = openSqliteStore({ path, random, program: '0.1.0' })
  fill(store)
  store.close()
  return path
}

/** What somebody does who can write the file: without the triggers, and without the other guards. */
function changed(path: string, sql: string): string {
  const copy = `${path}.copy`
  cpSync(path, copy)
  const db = new Database(copy)
  db.pragma('ignore_check_constraints = ON')
  for (const name of db
    .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'journal'")
    .pluck()
    .all())
    db.exec(`DROP TRIGGER "${String(name)}"`)
  db.exec(sql)
  db.close()
  return copy
}

const verify = async (path: string, head: string | null = null) => {
  try {
    return await verifyFile({ file: path, head, passphrase: noPassphrase })
  } finally {
    if (path.endsWith('.copy')) rmSync(path)
  }
}

t.test('[AUD-1] every row is chained to the one before, and a journal that nobody touched is whole', async (t) => {
  const path = database(t)
  const verdict = await verify(path)
  t.match(verdict, { rows: ROWS, known: null, problems: [] })
  t.equal(verdict.head.rev, ROWS)
  const memory = createMemoryStore(random)
  fill(memory)
  t.equal(memory.head(), verdict.head.hash, 'the store in memory has the same chain')
  const store = openSqliteStore({ path, random, program: '0.1.0' })
  t.equal(store.head(), verdict.head.hash, 'and goes on from it after a start')
  t.same(store.chain({ since: 3, limit: 4 }), memory.chain({ since: 3, limit: 4 }))
  t.same(store.acts({ before: null, limit: 99 }), memory.acts({ before: null, limit: 99 }))
  t.same(
    store.acts({ before: 8, limit: 2 }).map(({ rev }) => rev),
    [7, 5],
    'only what has an act, the newest first',
  )
  store.close()
})

const rowNumber = fc.integer({ min: 1, max: ROWS })
const edits = fc.constantFrom(
  "actor = actor || 'x'",
  'at = at + 1',
  "facts = replace(facts, 'why', 'because')",
  "facts = facts || ' '",
  "facts = '[]'",
  "hash = replace(hash, substr(hash, 1, 1), 'g')",
  'act = 1 - act',
)

t.test('[AUD-2] any one row that is edited in a copy is named', async (t) => {
  const path = database(t)
  await fc.assert(
    fc.asyncProperty(rowNumber, edits, async (rev, edit) => {
      if (rev % 3 === 0 && edit.includes('why')) return
      const { problems } = await verify(changed(path, `UPDATE journal SET ${edit} WHERE rev = ${rev}`))
      t.equal(problems[0]?.rev, rev, `${edit} in row ${rev}`)
    }),
    { numRuns: 60 },
  )
})

t.test('[AUD-2] any one row that is removed is named, whether those after it close the gap or not', async (t) => {
  const path = database(t)
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: ROWS - 1 }), fc.boolean(), async (rev, closes) => {
      const close = `UPDATE journal SET rev = -rev WHERE rev > ${rev}; UPDATE journal SET rev = -rev - 1 WHERE rev < 0;`
      const sql = `DELETE FROM journal WHERE rev = ${rev}; ${closes ? close : ''}`
      const { problems } = await verify(changed(path, sql))
      t.equal(problems[0]?.rev, rev, `row ${rev}`)
    }),
    { numRuns: 30 },
  )
})

t.test('[AUD-2] any two rows that change places are named, and one that was put between', async (t) => {
  const path = database(t)
  const move = (from: number, to: number) => `UPDATE journal SET rev = ${to} WHERE rev = ${from};`
  await fc.assert(
    fc.asyncProperty(rowNumber, rowNumber, async (one, other) => {
      if (one === other) return
      const sql = move(one, -1) + move(other, one) + move(-1, other)
      const named = (await verify(changed(path, sql))).problems.map(({ rev }) => rev)
      t.ok(named.includes(one) && named.includes(other), `${one} and ${other}: ${named.join()}`)
    }),
    { numRuns: 40 },
  )
  const sql = `UPDATE journal SET rev = -rev WHERE rev > 4; UPDATE journal SET rev = 1 - rev WHERE rev < 0;
    INSERT INTO journal SELECT 5, at, 'eve', facts, hash, act FROM journal WHERE rev = 4`
  t.equal((await verify(changed(path, sql))).problems[0]?.rev, 5)
})

t.test('[AUD-3] what is missing at the end, or was made anew as a whole, is seen when the head is known', async (t) => {
  const path = database(t)
  const { head } = await verify(path)
  t.match(await verify(path, head.hash), { known: ROWS, problems: [] })
  const cut = `DELETE FROM journal WHERE rev > ${ROWS - 2}`
  t.same((await verify(changed(path, cut))).problems, [], 'without a head nobody can see it')
  const { problems } = await verify(changed(path, cut), head.hash)
  t.match(problems, [{ rev: ROWS - 1, text: /no row has the head/ }])
  const whole = changed(path, '')
  const db = new Database(whole)
  const rows = db.prepare("SELECT rev, at, 'eve' AS actor, facts, hash, act = 1 AS act FROM journal ORDER BY rev").all()
  db.close()
  const forged = createVerifier(sha256, head.hash)
  let before = '0'.repeat(64)
  for (const row of rows as { rev: number; at: number; actor: string; facts: string; act: number }[]) {
    before = sha256(JSON.stringify([before, row.rev, row.at, row.actor, row.facts]))
    forged.take({ ...row, hash: before, act: row.act === 1 })
  }
  t.match(forged.verdict().problems, [{ text: /no row has the head/ }])
  t.equal(forged.verdict().problems.length, 1, 'the chain itself fits')
})

t.test(
  '[AUD-4] a backup is checked offline, its keys are not unpacked, and a restore goes on with the chain',
  async (t) => {
    const folder = t.testdir({ state: {}, restored: {} })
    const places = stateFolder(`${folder}/state`)
    await loadOrCreateKeys({ dir: places.keys, instance: 'prod', names: [], clock: { wallNow: () => T0 }, random })
    const store = openSqliteStore({ path: places.database, random, program: '0.1.0' })
    fill(store)
    const file = `${folder}/sealed`
    const passphrase = 'correct horse battery staple'
    const common = { passphrase, file, program: '0.1.0', random, at: T0 + 99 }
    const made = await backupSealed({ ...common, cost: 1024, store, stateDir: `${folder}/state` })
    t.equal(made.head, store.head())
    const ask = (head: string) => verifyFile({ file, head, passphrase: () => passphrase })
    t.match(await ask(made.head), { rows: ROWS, known: ROWS, problems: [] })
    t.match(await ask('1'.repeat(64)), { problems: [{ text: /no row has the head/ }] })
    await t.rejects(verifyFile({ file, head: null, passphrase: () => 'another one' }))
    const unpacked = await withDatabaseOf({ file, passphrase }, (path) => {
      t.equal(statSync(dirname(path)).mode & 0o777, 0o700)
      return { path, names: readdirSync(dirname(path), { recursive: true, encoding: 'utf8' }) }
    })
    t.same(new Set<string>(unpacked.names), new Set(['keys', 'smith.db']))
    t.notOk(existsSync(dirname(unpacked.path)))
    await t.rejects(verify(places.database), /can't be read: .*locked/, 'one in use is asked over the network')
    store.close()
    await restore({ ...common, stateDir: `${folder}/restored` })
    const restored = stateFolder(`${folder}/restored`).database
    t.match(await verify(restored, made.head), { rows: ROWS + 1, known: ROWS, problems: [] })
  },
)

t.test('[AUD-5] a database of before gets its chain, with what it has', async (t) => {
  const path = database(t)
  const { head } = await verify(path)
  const old = changed(
    path,
    `DROP INDEX journal_acts;
    CREATE TABLE plain (rev INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, facts TEXT NOT NULL) STRICT;
    INSERT INTO plain SELECT rev, at, actor, facts FROM journal;
    DROP TABLE journal; ALTER TABLE plain RENAME TO journal;
    CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal BEGIN SELECT RAISE(ABORT, 'no'); END;
    PRAGMA user_version = 2`,
  )
  await t.rejects(verifyFile({ file: old, head: null, passphrase: noPassphrase }), /no journal with a chain/)
  const store = openSqliteStore({ path: old, random, program: '0.1.0' })
  t.equal(store.head(), head.hash)
  t.same(
    store.acts({ before: 3, limit: 9 }).map(({ rev }) => rev),
    [2, 1],
  )
  store.close()
  const db = new Database(old)
  t.throws(() => db.exec('DELETE FROM journal WHERE rev = 1'), /append-only/)
  t.throws(() => db.exec("UPDATE journal SET actor = 'x' WHERE rev = 1"), /append-only/)
  db.close()
})
