/** `smith audit` as a person types it, and the check of a file without any coordinator. */
import { writeFileSync } from 'node:fs'
import t from 'tap'
import type { Act } from '../../protocol/audit.ts'
import { openSqliteStore } from '../../coordinator/store/sqlite.ts'
import { loadOrCreateKeys } from '../../coordinator/keys.ts'
import { stateFolder } from '../../coordinator/store/durable.ts'
import { backupSealed } from '../../coordinator/store/sealed.ts'
import { setUp } from '../cli/run-cli.ts'
import * as s from '../cli/samples.ts'
import { T0, put, instance, seededRandom, turn } from '../store/rows.ts'

const none = { change: null, machine: null, about: null, reason: null }
const ACTS: readonly Act[] = [
  { ...none, rev: 9, at: 120_000, who: 'change', what: 'changeApproved', change: s.CHANGE, reason: 'by bo' },
  {
    ...none,
    rev: 7,
    at: 60_000,
    who: 'ann via igorina',
    what: 'paused',
    change: s.CHANGE,
    reason: 'why \u001b[31m\nX',
  },
]

t.test('[AUD-9] the acts are a line each, the newest last, and safe on a terminal', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('audit', (call) => ({ acts: call.query['before'] === undefined ? ACTS : [], next: null }))
  t.match(await home.run(['audit', '--change', s.CHANGE.toLowerCase(), '--person', 'ann']), {
    status: 0,
    out: `1970-01-01 00:01:00 7 ann via igorina paused ${s.CHANGE}: why \\x1b[31m\\nX\n1970-01-01 00:02:00 9 change changeApproved ${s.CHANGE}: by bo\n`,
  })
  t.same(fake.calls.at(-1)?.query, { limit: '100', change: s.CHANGE, person: 'ann' })
  t.same(JSON.parse((await home.run(['audit', '--json'])).out), ACTS.toReversed())
  await home.run(['audit', '--since', '2026-11-22', '--until', '2026-11-22T03:00'])
  t.match(fake.calls.at(-1)?.query, { since: '1795305600000', until: '1795316400000' })
  fake.on('audit', () => ({ acts: ACTS, next: 7 }))
  const cut = await home.run(['audit', '--limit', '1'])
  t.match(cut, { out: /^1970-01-01 00:02:00 .*\n$/, err: /newest 1 act; --limit/ })
  for (const bad of [
    ['--since', 'soon'],
    ['--limit', 'many'],
    ['--change', 'x'],
  ])
    t.equal((await home.run(['audit', ...bad])).status, 2, bad.join(' '))
  fake.on('audit', () => ({ acts: [], next: null }))
  t.equal((await home.run(['audit'])).out, 'Nothing.\n')
})

t.test('[AUD-9] verify says whether the journal is whole, with its head, or names each row that is not', async (t) => {
  const { home, fake } = await setUp(t)
  const whole = { rows: 9, head: { rev: 9, hash: s.hash('7') }, known: 4, problems: [] }
  fake.on('auditVerify', () => whole)
  const good = await home.run(['audit', 'verify', '--head', s.hash('1')])
  t.equal(good.status, 0)
  t.match(good.out, /^Whole: 9 rows[^]*is row 4; 5 came after it\.\nHead: 7{64}\nKeep it/)
  t.same(fake.calls.at(-1)?.query, { head: s.hash('1') })
  fake.on('auditVerify', () => ({ ...whole, problems: [{ rev: 3, text: 'it was removed' }] }))
  t.match(await home.run(['audit', 'verify']), { status: 1, out: /was changed[^]*\n {2}row 3: it was removed\n/ })
  t.equal((await home.run(['audit', 'verify', '--head', 'x'])).status, 2)
})

t.test('[AUD-4] verify works on a backup and on a database without any coordinator', async (t) => {
  const { home, fake } = await setUp(t)
  const folder = t.testdir({ state: {} })
  const places = stateFolder(`${folder}/state`)
  const random = seededRandom(3)
  await loadOrCreateKeys({ dir: places.keys, instance: 'prod', names: [], clock: { wallNow: () => T0 }, random })
  const store = openSqliteStore({ path: places.database, random, program: '0.1.0' })
  await store.commit(turn(1, [put.instance(instance())]))
  const head = store.head()
  const file = `${folder}/sealed`
  const passphrase = 'correct horse'
  await backupSealed({
    ...{ passphrase, file, program: '0.1.0', random, at: T0, cost: 1024 },
    ...{ store, stateDir: `${folder}/state` },
  })
  store.close()
  t.match(await home.run(['audit', 'verify', file, '--head', head], { input: `${passphrase}\n` }), {
    status: 0,
    out: new RegExp(`^Whole: 1 row, [^]*is row 1; 0 came after it\\.\nHead: ${head}\n`),
  })
  const json = await home.run(['audit', 'verify', places.database, '--json'])
  t.match(JSON.parse(json.out), { rows: 1, head: { rev: 1, hash: head }, problems: [] })
  t.match(await home.run(['audit', 'verify', file], { input: 'wrong one here\n' }), {
    status: 1,
    err: /error: .*\n +do: /,
  })
  writeFileSync(`${folder}/noise`, 'x')
  t.equal((await home.run(['audit', 'verify', `${folder}/noise`], { input: 'whatever it is\n' })).status, 1)
  t.match(await home.run(['audit', 'verify', `${folder}/none`]), { status: 1, err: /can't be read/ })
  t.same(fake.calls, [], 'nobody was asked')
})
