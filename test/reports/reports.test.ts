/** The coordinator's side of health reports: whom it asks, how many at a time, what it keeps, and what it says without a machine. */
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { openShelf } from '../../coordinator/reports/shelf.ts'
import { LIMITS, ORDER, PROJECT, hex, machineOf, reportOf, world } from './world.ts'

t.test(
  '[RPT-8] twenty machines at once: some at a time, each from its own, and a summary that names the cause',
  async (t) => {
    const w = world(t)
    for (let n = 1; n <= 20; n += 1) w.reports.ask(machineOf(n), 'ann')
    const asked = () => new Set(w.sent.map((one) => one.machine)).size
    t.equal(asked(), 8)
    t.equal(w.reports.find(hex(20), null)?.state, 'waiting')
    w.reports.ask(machineOf(1), 'bo')
    t.equal(asked(), 8, 'one that is asked for already is the same report')
    for (let n = 1; n <= 20; n += 1) w.answer(hex(n), reportOf(`of ${n} ${'x'.repeat(n === 3 ? 400_000 : 0)}`))
    t.equal(asked(), 20)
    for (let n = 1; n <= 20; n += 1) {
      const view = w.reports.find(hex(n), null)
      t.match(view, { state: 'done', machine: `web-${n}`, by: 'ann', problem: null })
      t.match(w.reports.file(hex(n), view?.report ?? '', 'run-output.log'), new RegExp(`^of ${n} `))
      t.match(w.reports.file(hex(n), view?.report ?? '', 'coordinator.txt'), new RegExp(`^machine web-${n} `))
    }
    t.equal(w.reports.file(hex(1), hex(99), 'run-output.log'), undefined)
    const summary = w.reports.find(hex(1), null)?.summary ?? ''
    t.match(summary, '# web-1: failed at install (maintainer-script)')
    t.match(summary, '**Cause (maintainer-script)**: the postinst script of lamp failed')
    t.match(summary, '    the lamp is broken')
    t.match(summary, '- Mend it.\n- `smith retry CHG0000001 web-1`\n')
    t.match(summary, 'Secrets taken out: named 2.')
  },
)

t.test('[RPT-8] trouble that is not of the newest run is named as the coordinator knows it', async (t) => {
  const w = world(t)
  const drifted = { state: 'failed', cause: 'plan-drift', message: 'the plan drifted', order: null, step: null }
  const target = {
    project: PROJECT,
    machine: hex(1),
    name: 'web-1',
    evidence: ['lamp is held'],
    advice: ['Plan again.'],
  }
  w.put('targets', `${PROJECT}/0`, { ...target, ...drifted })
  w.reports.ask(machineOf(1), 'ann')
  w.answer(hex(1), reportOf('of an older run'))
  const summary = w.reports.find(hex(1), null)?.summary ?? ''
  t.match(summary, '# web-1: failed before its run (plan-drift)\n\n**Cause (plan-drift)**: the plan drifted')
  t.match(summary, '    lamp is held\n')
  t.match(summary, '- Plan again.\n- `smith retry CHG0000001 web-1`\n')
})

t.test('[RPT-9] an order that failed or is unknown has one report by itself, also after a crash', async (t) => {
  const w = world(t, { failed: true })
  const row = (fact: 'orderFailed' | 'orderGranted') => ({
    rev: 1,
    at: 1,
    actor: 'web-1',
    facts: [{ fact, order: ORDER }],
  })
  w.reports.onRow(row('orderGranted'))
  t.equal(w.sent.length, 0)
  w.reports.onRow(row('orderFailed'))
  w.answer(hex(1), reportOf('x'))
  t.match(w.kept, [{ order: ORDER, change: 'CHG0000001', by: 'smith', problem: null }])
  w.reports.onRow(row('orderFailed'))
  t.equal(w.sent.length, 1, 'and no second one')
  w.reports.start()
  t.equal(w.sent.length, 1)
  const again = world(t, { failed: true, dir: w.dir })
  again.reports.start()
  t.equal(again.sent.length, 0, 'over a restart')
  const crashed = world(t, { failed: true })
  crashed.reports.start()
  t.equal(crashed.sent.length, 1, 'what a crash kept from being asked is asked at the start')
})

t.test(
  '[RPT-10] a machine out of reach: what is known of it and what to do at its console, and its own report when it is back',
  async (t) => {
    const w = world(t)
    w.offline(1)
    w.reports.onRow({ rev: 1, at: 1, actor: 'smith', facts: [{ fact: 'orderUnknown', order: ORDER }] })
    const first = w.reports.find(hex(1), null)
    t.match(first, { state: 'done', problem: 'it is not connected', order: ORDER })
    t.match(
      first?.summary,
      /out of reach[^]*last heard of 1970[^]*at its console, as root[^]*smith-agent status[^]*do not stop apt or dpkg/,
    )
    t.match(w.kept[0]?.summary, '`smith retry CHG0000001 web-1`')
    w.back(1)
    w.reports.onConnected(hex(1))
    w.answer(hex(1), reportOf('its own'))
    t.match(w.reports.find(hex(1), null), { state: 'done', problem: null, order: ORDER })
    w.reports.onConnected(hex(1))
    t.equal(w.sent.length, 1, 'once')
    w.offline(2)
    w.reports.ask(machineOf(2), 'ann')
    w.back(2)
    w.reports.onConnected(hex(2))
    t.equal(w.sent.length, 1, 'what a person asked for they ask for again')
  },
)

t.test('[RPT-10] a connection that breaks, a silent machine, and what is no report', async (t) => {
  const w = world(t)
  const ask = () => w.reports.ask(machineOf(1), 'ann').report
  const state = () => w.reports.find(hex(1), null)
  let report = ask()
  w.reports.onFrame(hex(2), { t: 'reportRefused', report, problem: 'of another' })
  w.reports.onFrame(hex(1), { t: 'reportPart', report: hex(77), part: 0, of: 1, base64: '' })
  t.equal(state()?.state, 'collecting')
  w.reports.onConnected(hex(1))
  t.same(
    w.sent.map((one) => one.frame.part),
    [0, 0],
    'asked again on the new connection',
  )
  w.clock.advance(200_000)
  t.match(state(), { state: 'done', problem: /no report in 200 s/ })
  t.match(state()?.summary, /journalctl -u smith-report/)
  for (const bytes of [Buffer.from('no gzip'), gzipSync('{"files":[]}'), gzipSync('x'.repeat(50_000_000))]) {
    report = ask()
    w.reports.onFrame(hex(1), { t: 'reportPart', report, part: 0, of: 1, base64: bytes.toString('base64') })
    t.match(state(), { state: 'done', problem: /can't be unpacked|does not have the form/ })
  }
  report = ask()
  const part = Buffer.alloc(1_000_000).toString('base64')
  for (let n = 0; n < 7; n += 1) w.reports.onFrame(hex(1), { t: 'reportPart', report, part: n, of: 50, base64: part })
  t.match(state(), { state: 'done', problem: /larger than the protocol allows/ })
})

t.test('[RPT-11] reports are kept over a restart, by number, age and bytes, and a torn one costs itself', async (t) => {
  const w = world(t)
  const times = ['a', 'b', 'c', 'd'].map((text) => {
    w.clock.advance(1000)
    const { report } = w.reports.ask(machineOf(1), 'ann')
    w.answer(hex(1), reportOf(text))
    return report
  })
  t.equal(w.reports.find(hex(1), times[0] ?? ''), undefined, 'the oldest of a machine goes')
  t.equal(w.reports.file(hex(1), times[3] ?? '', 'run-output.log'), 'd')
  writeFileSync(join(w.dir, hex(1), '17-torn.json.gz.partial'), 'x')
  const open = (limits: object, ms = 0) => openShelf(w.dir, { ...LIMITS, ...limits }, () => w.clock.wallNow() + ms)
  const shelf = open({})
  t.equal(shelf.labels(hex(1)).length, 3)
  t.equal(readdirSync(join(w.dir, hex(1))).length, 3)
  t.equal(shelf.get(hex(1), times[1] ?? '')?.of.files.at(-1)?.text, 'b')
  const one = shelf.get(hex(1), times[3] ?? '')
  if (one === undefined) throw new Error('it is there')
  const size = shelf.labels(hex(1))[0]?.bytes ?? 0
  const small = open({ bytesMax: size * 2 + 10 })
  small.put({ ...one, machine: hex(2), askedAt: one.askedAt + 1 })
  t.equal(small.labels(hex(1)).length + small.labels(hex(2)).length, 2, 'of all machines the oldest go')
  const late = open({}, 4_000_000)
  late.put({ ...one, machine: hex(3), askedAt: w.clock.wallNow() + 4_000_000 })
  t.same(
    [1, 2, 3].map((n) => late.labels(hex(n)).length),
    [0, 0, 1],
    'and what is older than its time',
  )
})
