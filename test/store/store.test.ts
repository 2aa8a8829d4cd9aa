/** The store's contract, run on each store, and what only a database on a disk can show. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, readFileSync, readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import Database from 'better-sqlite3'
import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import type { LogAppend } from '../../coordinator/domain/events.ts'
import type { Write } from '../../coordinator/domain/state.ts'
import type { Store } from '../../coordinator/ports.ts'
import { createMemoryDisk, openMemoryStore, readMemoryBackup } from '../../coordinator/store/memory.ts'
import { APPLICATION_ID, SCHEMA_VERSION } from '../../coordinator/store/migrations.ts'
import { describeStoreFile, openSqliteStore, renewEpoch } from '../../coordinator/store/sqlite.ts'
import { StoreError } from '../../coordinator/store/store-error.ts'
import { compareText } from '../../protocol/natural-order.ts'
import { type StoreUnderTest, contract } from './contract.ts'
import { append, id, instance, line, machine, order, project, put, seededRandom, turn } from './rows.ts'

const openAt = (path: string, program = '0.1.0') => openSqliteStore({ path, random: seededRandom(1), program })

/** Closes what a test opened; a store that is closed already doesn't mind. */
const kept = (tt: Test, store: Store) => {
  tt.teardown(() => store.close())
  return store
}

function sqliteUnderTest(tt: Test): StoreUnderTest {
  const folder = tt.testdir({ state: {}, crashed: {} })
  let crashes = 0
  return {
    folder,
    open: () => kept(tt, openAt(`${folder}/state/smith.db`)),
    crash: () => {
      crashes += 1
      copyLive(`${folder}/state`, `${folder}/crashed/${crashes}`)
      return kept(tt, openAt(`${folder}/crashed/${crashes}/smith.db`))
    },
    openBackup: (path) => kept(tt, openAt(path)),
  }
}

/** Another process copies: reading the live file in this one would drop its lock when the descriptor closes. */
function copyLive(from: string, to: string): void {
  const done = spawnSync('cp', ['-r', from, to])
  if (done.status !== 0) throw new Error(done.stderr.toString())
}

function memoryUnderTest(tt: Test): StoreUnderTest {
  const disk = createMemoryDisk(seededRandom(1))
  const folder = tt.testdir({})
  return {
    folder,
    open: () => openMemoryStore(disk),
    crash: () => openMemoryStore({ ...disk, opener: null }),
    openBackup: (path) => openMemoryStore(readMemoryBackup(readFileSync(path, 'utf8'))),
  }
}

t.test('memory', async (tt) => contract(tt, memoryUnderTest))
t.test('sqlite', async (tt) => contract(tt, sqliteUnderTest))

const oneOf = <const Value>(...values: readonly Value[]) => fc.constantFrom(...values)
const writes: fc.Arbitrary<Write> = fc.oneof(
  fc
    .record({
      name: oneOf('o1', 'o2', 'o3', 'o4'),
      machine: oneOf(id('a'), id('b')),
      project: oneOf(id('p'), id('q')),
      state: oneOf('offered', 'granted', 'running', 'unknown', 'succeeded', 'failed', 'voided', 'cancelled'),
      fence: oneOf(0, 1, 2, 3),
      live: fc.boolean(),
    })
    .map(({ name, live, ...more }) => put.order(order(name, more), live)),
  fc
    .record({
      key: oneOf('cluster:c', 'project:p'),
      machine: oneOf(id('a'), id('b')),
      project: oneOf(id('p'), id('q')),
    })
    .map(({ key, ...more }) => put.line(line(key, more))),
  fc
    .record({ number: oneOf('1', '2', '3'), name: oneOf('a', 'b'), state: oneOf('active', 'retired') })
    .map(({ number, name, state }) => put.machine(machine(name, { id: id(number), state }))),
  fc
    .record({ name: oneOf('p', 'q'), change: oneOf(null, 'CHG0000001', 'CHG0000002') })
    .map(({ name, change }) => put.project(project(name, { change }))),
  fc
    .record({ fence: fc.nat(3), change: fc.nat(3), task: fc.nat(3) })
    .map((counters) => put.instance(instance(counters))),
  fc
    .record({
      table: oneOf('orders', 'lines', 'machines', 'instance'),
      key: oneOf(id('o1'), id('1'), 'cluster:c', 'instance'),
    })
    .map(({ table, key }): Write => ({ table, key, row: null, live: false })),
)
const appends: fc.Arbitrary<LogAppend> = fc
  .tuple(oneOf('o1', 'o2'), fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 3 }))
  .map((parts) => append(...parts))

/** What a store did with a turn. */
const tried = (store: Store, next: ReturnType<typeof turn>) => {
  try {
    void store.commit(next)
    return 'committed'
  } catch (error) {
    if (error instanceof StoreError) return error.kind
    throw error
  }
}

const allOf = (store: Store) => ({
  rev: store.rev(),
  at: store.lastAt(),
  live: [...store.load()].map(({ table, key, row }) => JSON.stringify([table, key, row])).toSorted(compareText),
  orders: [id('a'), id('b')]
    .flatMap((key) => store.orders({ machine: key }))
    .map((row) => row.id)
    .toSorted(compareText),
  journal: store.journal({ since: 0, limit: 100 }),
  records: ['o1', 'o2'].map((name) => store.records({ order: id(name), after: 0, limit: 100 })),
})

t.test('[STO-5] memory and SQLite take and refuse the same turns, and then hold the same', async (tt) => {
  const folder = tt.testdir({})
  let runs = 0
  let refusals = 0
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.array(writes, { maxLength: 4 }), fc.array(appends, { maxLength: 2 })), { maxLength: 12 }),
      (turns) => {
        runs += 1
        const memory = openMemoryStore(createMemoryDisk(seededRandom(1)))
        const sqlite = openSqliteStore({
          path: `${folder}/${runs}.db`,
          random: seededRandom(1),
          program: '0.1.0',
          synchronous: 'OFF',
        })
        for (const [rows, logs] of turns) {
          const next = turn(memory.rev() + 1, rows, logs)
          const done = tried(memory, next)
          refusals += done === 'committed' ? 0 : 1
          tt.equal(tried(sqlite, next), done)
          tt.same(allOf(sqlite), allOf(memory))
        }
        sqlite.close()
        return tt.passing()
      },
    ),
    { numRuns: 60, seed: 20_261_122 },
  )
  tt.ok(refusals > 50, `${refusals} turns refused by both`)
})

t.test('[STO-12] the database is opened with every guarantee asserted', async (tt) => {
  const folder = tt.testdir({})
  openAt(`${folder}/smith.db`).close()
  const db = new Database(`${folder}/smith.db`)
  tt.equal(db.pragma('journal_mode', { simple: true }), 'wal')
  tt.equal(db.pragma('application_id', { simple: true }), APPLICATION_ID)
  tt.equal(db.pragma('user_version', { simple: true }), SCHEMA_VERSION)
  tt.same(
    db
      .prepare(`SELECT name FROM pragma_table_list WHERE type = 'table' AND strict = 0 AND name NOT LIKE 'sqlite_%'`)
      .all(),
    [],
    'every table is STRICT',
  )
  db.close()
  tt.equal(statSync(`${folder}/smith.db`).mode & 0o777, 0o600)
})

t.test('[STO-12] a damaged database, a foreign one and a missing folder are refused with a remedy', async (tt) => {
  const folder = tt.testdir({ a: {}, b: {}, c: {} })
  const store = openAt(`${folder}/a/smith.db`)
  await store.commit(
    turn(
      1,
      Array.from({ length: 200 }, (_, index) => put.machine(machine(`m${index}`))),
    ),
  )
  store.close()
  // One leaf page of a table: whoever only looks at the schema and the newest journal row does not meet it.
  const bytes = readFileSync(`${folder}/a/smith.db`)
  const page = Math.floor(bytes.indexOf('"name":"m100"') / 4096)
  bytes.fill(0x5a, page * 4096 + 8, page * 4096 + 200)
  writeFileSync(`${folder}/a/smith.db`, bytes)
  tt.throws(() => openAt(`${folder}/a/smith.db`), {
    name: 'RefusedError',
    refusals: [{ message: /damaged/, remedy: /restore/ }],
  })

  writeFileSync(`${folder}/b/smith.db`, 'this is no database at all, but long enough to have a header'.repeat(100))
  tt.throws(() => openAt(`${folder}/b/smith.db`), { name: 'RefusedError', message: /damaged/ })

  const foreign = new Database(`${folder}/c/smith.db`)
  foreign.exec('CREATE TABLE theirs (x)')
  foreign.close()
  tt.throws(() => openAt(`${folder}/c/smith.db`), { name: 'RefusedError', message: /of another program/ })

  tt.throws(() => openAt(`${folder}/nowhere/smith.db`), { name: 'RefusedError', message: /nowhere/ })
})

t.test('[STO-14] a database that a newer version wrote is refused with its name', async (tt) => {
  const path = `${tt.testdir({})}/smith.db`
  openAt(path, '9.9.0').close()
  const db = new Database(path)
  db.pragma(`user_version = ${SCHEMA_VERSION + 1}`)
  db.close()
  tt.throws(() => openAt(path), {
    name: 'RefusedError',
    refusals: [{ kind: 'version', message: /written by smith 9\.9\.0/, remedy: /install smith 9\.9\.0/ }],
  })
})

t.test('[STO-14] opening again changes no byte of the database', async (tt) => {
  const path = `${tt.testdir({})}/smith.db`
  openAt(path).close()
  const before = readFileSync(path)
  openAt(path).close()
  tt.ok(before.equals(readFileSync(path)))
})

t.test('[STO-8] the schema itself refuses an edited journal or log, and a gap in them', async (tt) => {
  const path = `${tt.testdir({})}/smith.db`
  const store = openAt(path)
  await store.commit(turn(1, [], [append('o', 1, 2)]))
  store.close()
  const db = new Database(path)
  tt.teardown(() => db.close())
  for (const sql of [
    `UPDATE journal SET actor = 'nobody'`,
    'DELETE FROM journal',
    `INSERT OR REPLACE INTO journal (rev, at, actor, facts) VALUES (1, 1, 'x', '[]')`,
    `INSERT INTO journal (rev, at, actor, facts) VALUES (3, 9000000000000, 'x', '[]')`,
    `INSERT INTO journal (rev, at, actor, facts) VALUES (2, 1, 'x', '[]')`,
    `UPDATE logs SET data = x'00'`,
    'DELETE FROM logs',
    `INSERT INTO logs ("order", first, upTo, codec, data) VALUES ('${id('o')}', 4, 4, 'json', x'5b5d')`,
    `INSERT INTO logs ("order", first, upTo, codec, data) VALUES ('${id('o')}', 2, 4, 'json', x'5b5d')`,
    `INSERT INTO logs ("order", first, upTo, codec, data) VALUES ('${id('n')}', 2, 4, 'json', x'5b5d')`,
  ]) {
    tt.throws(() => db.exec(sql), { code: 'SQLITE_CONSTRAINT_TRIGGER' }, sql)
  }
  db.exec(`INSERT INTO logs ("order", first, upTo, codec, data) VALUES ('${id('o')}', 3, 3, 'json', x'5b5d')`)
})

t.test('[STO-10] a write-ahead log torn at any byte opens as some committed turn, whole', async (tt) => {
  const folder = tt.testdir({ state: {} })
  const store = kept(tt, openAt(`${folder}/state/smith.db`))
  const turnsMax = 12
  for (let rev = 1; rev <= turnsMax; rev += 1) {
    await store.commit(
      turn(
        rev,
        [put.order(order(`o${rev}`)), put.machine(machine('a', { counter: rev }))],
        [append('o', rev * 20 - 19, 20)],
      ),
    )
  }
  copyLive(`${folder}/state`, `${folder}/torn`)
  const whole = statSync(`${folder}/torn/smith.db-wal`).size
  const seen = new Set<number>()
  for (let step = 0; step <= 40; step += 1) {
    const cut = `${folder}/cut-${step}`
    cpSync(`${folder}/torn`, cut, { recursive: true })
    truncateSync(`${cut}/smith.db-wal`, Math.floor((whole * step) / 40))
    if (statSync(`${cut}/smith.db`).size === 0 && step === 0) continue
    const after = openAt(`${cut}/smith.db`)
    const rev = after.rev()
    seen.add(rev)
    tt.equal(after.records({ order: id('o'), after: 0, limit: 1000 }).length, rev * 20)
    tt.equal(after.get('machines', id('a'))?.counter ?? 0, rev)
    tt.equal(after.orders({ project: id('p') }).length, rev)
    after.close()
  }
  tt.ok(seen.has(turnsMax) && seen.has(0) && seen.size > 5, `revisions seen: ${[...seen].join(' ')}`)
})

t.test('[STO-10] killed in the middle of its work, a coordinator has every turn that it spoke of', async (tt) => {
  const folder = tt.testdir({})
  const child = spawn(process.execPath, [new URL('committer.ts', import.meta.url).pathname, `${folder}/smith.db`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  tt.teardown(() => child.kill('SIGKILL'))
  let spoken = 0
  for await (const text of createInterface({ input: child.stdout })) {
    if (spoken === 0)
      tt.throws(() => openAt(`${folder}/smith.db`), {
        name: 'RefusedError',
        refusals: [{ kind: 'conflict', message: /another process/ }],
      })
    spoken = Number(text)
    if (spoken === 200) child.kill('SIGKILL')
  }
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  tt.equal(child.signalCode, 'SIGKILL')
  const store = kept(tt, openAt(`${folder}/smith.db`))
  tt.ok(store.rev() >= spoken, `${store.rev()} stored, ${spoken} spoken of`)
  tt.equal(store.records({ order: id('o'), after: 0, limit: 10_000 }).length, store.rev())
  tt.equal(store.journal({ since: 0, limit: 10_000 }).length, store.rev())
})

t.test(
  '[STO-15] a disk that fails stops the store: the error bears the SQL, and no later turn is taken',
  async (tt) => {
    const folder = tt.testdir({})
    // The limit of a file's size stands for a disk that writes no more: write(2) fails with EFBIG in the child only.
    const script = `ulimit -f 400; exec "$0" "$@"`
    const done = spawnSync('bash', [
      '-c',
      script,
      process.execPath,
      new URL('committer.ts', import.meta.url).pathname,
      `${folder}/smith.db`,
      'until-it-fails',
    ])
    const report = JSON.parse(done.stdout.toString().trim().split('\n').at(-1) ?? '{}') as Record<string, unknown>
    tt.match(report, {
      kind: 'io',
      sql: String,
      message: /SQLITE_(IOERR|FULL)/,
      next: 'closed',
      nextMessage: /takes no more turns/,
    })
    const store = kept(tt, openAt(`${folder}/smith.db`))
    tt.ok(store.rev() >= Number(report['committed']), 'what was committed before is there')
    tt.equal(store.records({ order: id('o'), after: 0, limit: 100_000 }).length, store.rev())
  },
)

t.test('[STO-11] a restore that did not finish keeps the database shut', async (tt) => {
  const folder = tt.testdir({ restoring: {} })
  tt.throws(() => openAt(`${folder}/smith.db`), { name: 'RefusedError', message: /did not finish/ })
})

t.test('[STO-13] a backup is one private file, and a failed one leaves nothing', async (tt) => {
  const folder = tt.testdir({ copies: {} })
  const store = kept(tt, openAt(`${folder}/smith.db`))
  await store.commit(turn(1, [put.machine(machine('a'))]))
  await Promise.all([store.backup(`${folder}/copies/one`), store.commit(turn(2))])
  tt.same(readdirSync(`${folder}/copies`), ['one'])
  tt.equal(statSync(`${folder}/copies/one`).mode & 0o777, 0o600)
  tt.match(describeStoreFile(`${folder}/copies/one`), { rev: 2, epoch: store.epoch, writtenBy: '0.1.0' })
  await tt.rejects(async () => store.backup(`${folder}/nowhere/one`))
  renewEpoch(`${folder}/copies/one`, seededRandom(2))
  tt.not(describeStoreFile(`${folder}/copies/one`).epoch, store.epoch)
})
