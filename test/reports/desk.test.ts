/** Reports that orders have by themselves: after their end, in their own words, told once; and what bounds a machine or a disk. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { openCoordinator } from '../../coordinator/app.ts'
import { parseConfig } from '../../coordinator/config.ts'
import { openShelf } from '../../coordinator/reports/shelf.ts'
import { RefusedError } from '../../protocol/errors.ts'
import { type MachineReport, REPORT_PART_BYTES_MAX } from '../../protocol/report.ts'
import { settle } from '../sessions/fakes.ts'
import { createWorld, random, realClock } from '../api/world.ts'
import { LIMITS, ORDER, hex, machineOf, reportOf, world } from './world.ts'

const FULL_PART = Buffer.alloc(REPORT_PART_BYTES_MAX).toString('base64')

/** As a machine tells it whose run is still at work. */
const atWork: MachineReport = {
  ...reportOf('at work'),
  run: {
    ...{ order: ORDER, change: 'CHG0000001', step: 'verify', outcome: null, cause: null, at: 5 },
    ...{ message: 'it verifies', evidence: [], advice: [] },
  },
}

/** What an answer is refused with. */
function refusedOf(call: () => unknown): RefusedError['refusals'] {
  try {
    call()
  } catch (error) {
    if (error instanceof RefusedError) return error.refusals
    throw error
  }
  return []
}

t.test('[RPT-25] a run that fails while a report is collected has one of its own, begun after its end', async (t) => {
  const w = world(t)
  const { report } = w.reports.ask(machineOf(1), 'ann')
  w.clock.advance(1000)
  w.fails()
  t.equal(w.sent.length, 1, 'one at a time')
  w.answer(hex(1), atWork)
  t.match(w.reports.find(hex(1), report), { state: 'done', by: 'ann', order: null })
  t.equal(w.sent.length, 2, 'and then another')
  w.answer(hex(1), reportOf('ended'))
  t.match(w.kept, [{ order: ORDER, by: 'smith', problem: null, summary: /^# web-1: failed at install/ }])
  w.happens('orderFailed')
  w.reports.start()
  t.equal(w.sent.length, 2, 'and no third')
})

t.test('[RPT-25] a report from before the end of its order is not the one that a failed order has', async (t) => {
  const w = world(t)
  w.offline(1)
  w.happens('orderUnknown')
  w.back(1)
  w.reports.onConnected(hex(1))
  w.answer(hex(1), atWork)
  t.match(w.kept.at(-1), { order: ORDER, problem: null, summary: /a run is at work, at verify/ })
  w.happens('orderUnknown')
  t.equal(w.sent.length, 1)
  w.clock.advance(30_000)
  w.fails()
  t.equal(w.sent.length, 2)
  w.answer(hex(1), reportOf('ended'))
  t.match(w.reports.find(hex(1), null), { order: ORDER, summary: /^# web-1: failed at install/ })
  t.equal(w.kept.length, 3)
  const waits = world(t, { failed: true })
  for (let n = 2; n <= 9; n += 1) waits.reports.ask(machineOf(n), 'ann')
  waits.happens('orderUnknown')
  waits.clock.advance(1000)
  waits.fails()
  for (let n = 1; n <= 9; n += 1) waits.answer(hex(n), reportOf('x'))
  waits.reports.start()
  t.equal(waits.sent.length, 9, 'one that had not begun at the end is the one')
})

t.test('[RPT-25] what a crash kept from being asked after the end is asked at the start', async (t) => {
  const w = world(t)
  w.happens('orderUnknown')
  w.answer(hex(1), atWork)
  const again = world(t, { dir: w.dir, failed: true, seed: 2 })
  again.clock.advance(1000)
  again.put('orders', ORDER, { id: ORDER, machine: hex(1), state: 'failed', endedAt: again.clock.wallNow() })
  again.reports.start()
  t.equal(again.sent.length, 1)
})

t.test('[RPT-26] a machine that can give none is asked at two reconnects, and it is told once', async (t) => {
  const w = world(t)
  w.offline(1)
  w.happens('orderUnknown')
  const [first] = w.kept
  for (let n = 0; n < 12; n += 1) {
    w.clock.advance(1000)
    w.back(1)
    w.reports.onConnected(hex(1))
    const report = w.sent.at(-1)?.frame.report ?? ''
    w.reports.onFrame(hex(1), { t: 'reportRefused', report, problem: `the collector is broken ${n}` })
    w.offline(1)
  }
  t.equal(w.sent.length, 2)
  t.equal(w.kept.length, 1)
  t.equal(w.shelf.labels(hex(1)).length, 1, 'no real report is pushed off the shelf')
  t.match(
    w.reports.find(hex(1), first?.report ?? ''),
    { order: ORDER, problem: 'the collector is broken 1' },
    'under the id that was told',
  )
})

t.test('[RPT-26] a machine gives its own for the order, whatever persons ask in between', async (t) => {
  const w = world(t)
  w.offline(1)
  w.happens('orderUnknown')
  w.clock.advance(1000)
  t.match(w.reports.ask(machineOf(1), 'ann'), { order: null, problem: 'it is not connected' })
  w.clock.advance(1000)
  w.back(1)
  w.reports.onConnected(hex(1))
  t.equal(w.sent.length, 1)
  const { report } = w.reports.ask(machineOf(1), 'ann')
  w.reports.onFrame(hex(1), { t: 'reportRefused', report, problem: 'the collector is broken' })
  t.match(w.reports.find(hex(1), report), { state: 'done', problem: 'the collector is broken' }, 'who asked reads it')
  t.equal(w.kept.length, 1)
  w.clock.advance(1000)
  w.reports.onConnected(hex(1))
  w.answer(hex(1), reportOf('its own'))
  t.match(w.kept, [{ problem: 'it is not connected' }, { order: ORDER, problem: null }])
  w.reports.onConnected(hex(1))
  t.equal(w.sent.length, 2)
})

t.test('[RPT-27] parts that the agent would not send end the report at once', async (t) => {
  const w = world(t)
  const given = (part: number, of: number, base64: string) => {
    const { report } = w.reports.ask(machineOf(1), 'ann')
    w.reports.onFrame(hex(1), { t: 'reportPart', report, part, of, base64 })
    return w.reports.find(hex(1), report)
  }
  t.match(given(0, 25, FULL_PART), { state: 'done', problem: /larger than the protocol allows/ })
  t.match(given(0, Number.MAX_SAFE_INTEGER, ''), { state: 'done', problem: /larger than the protocol allows/ })
  t.match(given(0, 2, ''), { state: 'done', problem: /part 1 of 2 of its report has 0 bytes/ })
  t.match(given(0, 2, FULL_PART.slice(8)), { state: 'done', problem: /has 262138 bytes/ })
  t.match(given(0, 1, `${FULL_PART.slice(0, -4)}AAAAAAAA`), { state: 'done', problem: /has 26214[5-9] bytes/ })
  t.match(given(0, 24, FULL_PART), { state: 'collecting', parts: { have: 1, of: 24 } })
})

t.test('[RPT-27] no reconnecting and no trickle of parts holds a place for ever', async (t) => {
  const w = world(t)
  w.reports.ask(machineOf(1), 'ann')
  const { report } = w.reports.ask(machineOf(2), 'ann')
  const endsOf = [0, 0]
  for (let ms = 0, part = 0; ms < 1_800_000; ms += 29_000) {
    for (const n of [1, 2]) if (w.reports.find(hex(n), null)?.state === 'collecting') endsOf[n - 1] = ms
    w.reports.onConnected(hex(1))
    w.reports.onFrame(hex(2), { t: 'reportPart', report, part, of: 24, base64: FULL_PART })
    part += 1
    w.clock.advance(29_000)
  }
  t.ok((endsOf[0] ?? 0) > 200_000 && (endsOf[0] ?? 0) < 300_000, `reconnecting: ${endsOf[0]}`)
  t.ok((endsOf[1] ?? 0) > 500_000 && (endsOf[1] ?? 0) < 600_000, `a trickle: ${endsOf[1]}`)
  t.match(w.reports.find(hex(1), null), { state: 'done', problem: /no report in 280 s/ })
  t.match(w.reports.find(hex(2), null), { state: 'done', problem: /not whole in 600 s/ })
})

t.test('[RPT-27] machines out of reach in the queue let no more than eight begin', async (t) => {
  const w = world(t)
  for (let n = 1; n <= 20; n += 1) w.reports.ask(machineOf(n), 'ann')
  for (let n = 9; n <= 12; n += 1) w.offline(n)
  const collecting = () => {
    const numbers = Array.from({ length: 20 }, (_, n) => n + 1)
    return numbers.filter((n) => w.reports.find(hex(n), null)?.state === 'collecting').length
  }
  t.equal(collecting(), 8)
  for (const n of [1, 2, 3]) {
    w.answer(hex(n), reportOf('x'))
    t.equal(collecting(), 8, `after ${n}`)
  }
})

t.test('[RPT-27] thousands out of reach in the queue cost the stack nothing', async (t) => {
  const w = world(t, { isFull: () => true })
  for (let n = 1; n <= 8; n += 1) w.reports.ask(machineOf(n), 'ann')
  for (let n = 100; n < 6100; n += 1) {
    w.put('machines', hex(n), machineOf(n))
    w.reports.ask(machineOf(n), 'ann')
  }
  w.answer(hex(1), reportOf('x'))
  t.equal(w.reports.find(hex(6099), null), undefined, 'the last has ended too')
})

t.test('[RPT-28] nothing beyond its age is kept or served, also where nothing new comes', async (t) => {
  const w = world(t)
  const { report } = w.reports.ask(machineOf(1), 'ann')
  w.answer(hex(1), reportOf('x'))
  const files = () => readdirSync(join(w.dir, hex(1)))
  w.clock.advance(LIMITS.keepMs + 1)
  t.equal(w.reports.find(hex(1), report), undefined)
  t.equal(w.reports.file(hex(1), report, 'run-output.log'), undefined)
  t.equal(w.reports.find(hex(1), null), undefined)
  t.equal(files().length, 1)
  openShelf(w.dir, LIMITS, w.clock.wallNow)
  t.same(files(), [], 'gone at the opening')
  w.reports.start()
  w.reports.ask(machineOf(1), 'ann')
  w.answer(hex(1), reportOf('x'))
  w.clock.advance(LIMITS.keepMs + 3_600_001)
  t.same(files(), [], 'and within the hour')
  w.reports.stop()
  t.equal(w.clock.armed(), 0)
})

t.test('[RPT-28] what can’t be written leaves nothing behind', async (t) => {
  const w = world(t)
  const { report } = w.reports.ask(machineOf(1), 'ann')
  w.answer(hex(1), reportOf('x'))
  const one = w.shelf.get(hex(1), report)
  if (one === undefined) throw new Error('it is there')
  const folder = join(w.dir, hex(2))
  mkdirSync(folder)
  const name = `${one.askedAt}-${report}-none-machine.json.gz`
  symlinkSync('/dev/full', join(folder, `${name}.partial`))
  t.throws(() => w.shelf.put({ ...one, machine: hex(2) }), { code: 'ENOSPC' })
  t.same(readdirSync(folder), [])
  t.same(w.shelf.labels(hex(2)), [])
  w.shelf.put(one)
  t.same(readdirSync(join(w.dir, hex(1))), [name], 'and one that is written again is there')
})

t.test('[RPT-28] on a full disk who asks is told what to do', async (t) => {
  const w = world(t, { isFull: () => true })
  w.offline(1)
  const refusal = {
    kind: 'unavailable',
    message: /web-\d could not be kept \(ENOSPC\)/,
    remedy: /make room[^]*smith report web-\d/,
  }
  t.match(
    refusedOf(() => w.reports.ask(machineOf(1), 'ann')),
    [refusal],
  )
  const { report } = w.reports.ask(machineOf(2), 'ann')
  w.answer(hex(2), reportOf('x'))
  t.match(
    refusedOf(() => w.reports.find(hex(2), report)),
    [refusal],
  )
  const api = await createWorld(t, { ports: () => ({ reports: w.reports }) })
  const machine = await api.machine('web-1')
  w.put('machines', machine.id, { ...machineOf(1), id: machine.id })
  t.match(await api.call('reportAsk', 'ana', { params: { machine: 'web-1' } }), {
    status: 503,
    body: { refusals: [refusal] },
  })
})

t.test('[RPT-28] an order’s report that could not be kept is made again later, and not for ever', async (t) => {
  let isFull = true
  const w = world(t, { isFull: () => isFull })
  w.happens('orderUnknown')
  w.answer(hex(1), reportOf('lost'))
  t.equal(w.kept.length, 0)
  w.clock.advance(300_000)
  t.equal(w.sent.length, 2)
  isFull = false
  w.answer(hex(1), reportOf('kept'))
  t.match(w.kept, [{ order: ORDER }])
  w.clock.advance(86_400_000)
  t.equal(w.sent.length, 2)
  isFull = true
  w.clock.advance(1000)
  w.fails()
  for (let n = 0; n < 100; n += 1) {
    w.answer(hex(1), reportOf('lost'))
    w.clock.advance(300_000)
  }
  t.equal(w.sent.length, 2 + 1 + 12)
  w.reports.stop()
  t.equal(w.clock.armed(), 0)
})

t.test('[RPT-29] what a crash kept from being told is told at the start, and what was told is not', async (t) => {
  const crashed = world(t, { telling: () => new Promise(() => undefined) })
  crashed.happens('orderUnknown')
  crashed.answer(hex(1), reportOf('x'))
  crashed.clock.advance(1000)
  crashed.reports.ask(machineOf(1), 'ann')
  crashed.answer(hex(1), reportOf('y'))
  t.equal(crashed.kept.length, 1)
  const next = world(t, { dir: crashed.dir, seed: 2 })
  next.reports.start()
  next.reports.start()
  t.match(next.kept, [{ order: ORDER, report: crashed.kept[0]?.report }])
  await settle()
  next.reports.start()
  const last = world(t, { dir: crashed.dir, seed: 3 })
  last.reports.start()
  t.equal(next.kept.length + last.kept.length, 1)
  t.equal(last.shelf.labels(hex(1)).length, 2)
  t.match(last.reports.find(hex(1), crashed.kept[0]?.report ?? ''), { state: 'done', order: ORDER })
})

t.test('[RPT-29] a coordinator that starts marks what it has told', async (t) => {
  const w = world(t, { telling: () => new Promise(() => undefined) })
  w.happens('orderUnknown')
  w.answer(hex(1), reportOf('x'))
  const [kept] = w.kept
  if (kept === undefined) throw new Error('it was kept')
  const stateDir = mkdtempSync(join(tmpdir(), 'smith-told-'))
  t.teardown(() => rmSync(stateDir, { recursive: true, force: true }))
  const text = `instance = "test"\nlisten = "127.0.0.1:0"\nstate_dir = "${stateDir}"\nadmin_socket = "${stateDir}/s"\n`
  const answer = parseConfig(text, 'c.toml')
  if (!answer.ok) throw new Error(JSON.stringify(answer.refusals))
  const folder = join(stateDir, 'reports')
  openShelf(folder, LIMITS, w.clock.wallNow).put({ ...kept, askedAt: realClock.wallNow() }, false)
  const names = () => readdirSync(join(folder, hex(1)))
  t.match(names(), [/-machine-untold\.json\.gz$/])
  const ports = { config: answer.config, clock: realClock, random, log: w.log, version: '0', names: [] }
  const { coordinator } = await openCoordinator({ ...ports, onFatal: (error) => t.fail(error.message) })
  await coordinator.start()
  await coordinator.stop()
  t.match(names(), [/-machine\.json\.gz$/])
})

t.test('[RPT-29] a report that can’t be read, or can’t be told now, keeps the others from nothing', async (t) => {
  const w = world(t, { telling: () => Promise.reject(new Error('the coordinator ends')) })
  w.happens('orderUnknown')
  w.answer(hex(1), reportOf('x'))
  await settle()
  const next = world(t, { dir: w.dir, seed: 2 })
  const [label] = next.shelf.labels(hex(1))
  for (const name of readdirSync(join(w.dir, hex(1)))) rmSync(join(w.dir, hex(1), name))
  next.reports.start()
  t.equal(next.kept.length, 0)
  t.match(next.log.lines.at(-1), { level: 'error', fields: { report: label?.report } })
})

t.test('[RPT-11] one report is unpacked once for all that is read of it, and few are held unpacked', async (t) => {
  const w = world(t)
  const reports = [1, 2].map((n) => {
    const { report } = w.reports.ask(machineOf(n), 'ann')
    w.answer(hex(n), reportOf('x'.repeat(10_000)))
    return report
  })
  const shelf = openShelf(w.dir, { ...LIMITS, unpackedBytesMax: 15_000 }, w.clock.wallNow)
  const first = shelf.get(hex(1), reports[0] ?? '')
  t.ok(first)
  t.equal(shelf.get(hex(1), reports[0] ?? ''), first)
  const second = shelf.get(hex(2), reports[1] ?? '')
  t.equal(shelf.get(hex(2), reports[1] ?? ''), second)
  t.not(shelf.get(hex(1), reports[0] ?? ''), first, 'the one read longest ago goes')
  if (first === undefined) throw new Error('it is there')
  shelf.put({ ...first, summary: 'another' })
  t.equal(shelf.get(hex(1), reports[0] ?? '')?.summary, 'another')
})
