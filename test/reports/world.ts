/** What the tests of the coordinator's side of health reports share: rows in tables, and machines that a test lets answer. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import type { Test } from 'tap'
import { type ReportsPorts, createReports } from '../../coordinator/reports/reports.ts'
import { type Kept, type Shelf, openShelf } from '../../coordinator/reports/shelf.ts'
import type { View } from '../../coordinator/domain/draft.ts'
import type { Machine } from '../../coordinator/domain/state.ts'
import type { CoordinatorFrame } from '../../protocol/agent.ts'
import { type MachineReport, REPORT_PART_BYTES_MAX } from '../../protocol/report.ts'
import { createFakeClock, createFakeLog, createFakeRandom } from '../sessions/fakes.ts'

export const hex = (n: number) => n.toString(16).padStart(32, '0')
export const ORDER = 'dd'.repeat(16)
export const PROJECT = 'ee'.repeat(16)
export const LIMITS = { keepMs: 3_600_000, perMachineMax: 3, bytesMax: 10_000_000 }

export const machineOf = (n: number): Machine => ({
  ...{ id: hex(n), name: `web-${n}`, state: 'active', publicKey: '', counter: 1, quarantined: null, fence: 0 },
  ...{
    facts: null,
    builds: [],
    template: true,
    enrolledAt: 1,
    enrolledBy: 'ann',
    lastSeenAt: 1_000,
    lastPatchedAt: null,
  },
  ...{ rebootPending: false, project: PROJECT },
})

export const reportOf = (text: string): MachineReport => ({
  ...{ at: 1, tookMs: 1500, findings: [], redacted: { named: 2 } },
  run: {
    ...{ order: ORDER, change: 'CHG0000001', step: 'install', outcome: 'failed', cause: 'maintainer-script', at: 5 },
    ...{ message: 'the postinst script of lamp failed', evidence: ['the lamp is broken'], advice: ['Mend it.'] },
  },
  files: [{ name: 'run-output.log', what: 'all that it printed', text }],
})

type Options = {
  /** Of another world, as after a restart. */
  readonly dir?: string
  readonly failed?: boolean
  /** The disk of the shelf has no room. */
  readonly isFull?: () => boolean
  /** Until it is committed that a report was told of. */
  readonly telling?: () => Promise<void>
  readonly seed?: number
}

const session = (n: number) => ({ machine: hex(n), address: '10.0.0.1', since: 1, impediment: null, orders: [] })
const order = {
  ...{ id: ORDER, project: PROJECT, machine: hex(1), name: 'web-1', state: 'unknown', step: 'install' },
  ...{ unknownReason: 'silent', result: null, endedAt: null },
}

/** Twenty machines that are connected, the first with an order that is unknown. */
function createTables({ failed }: Options) {
  const tables = new Map<string, Map<string, object>>()
  const table = (name: string): Map<string, object> => {
    const found = tables.get(name) ?? new Map<string, object>()
    tables.set(name, found)
    return found
  }
  const put = (name: string, key: string, row: object) => void table(name).set(key, row)
  const view = {
    get: (name: string, key: string) => table(name).get(key),
    entries: (name: string) => table(name).entries(),
    all: (name: string) => table(name).values(),
    size: (name: string) => table(name).size,
    archived: (name: string, key: string) => table(name).get(key),
  } as unknown as View
  put('instance', 'instance', { frozen: null })
  for (let n = 1; n <= 20; n += 1) {
    put('machines', hex(n), machineOf(n))
    put('sessions', hex(n), session(n))
  }
  const stop = { kind: 'hold', machine: 'web-1', reason: 'web-1 failed', lift: 'smith retry CHG0000001 web-1' }
  put('projects', PROJECT, {
    ...{ id: PROJECT, change: 'CHG0000001', state: 'open', build: '725', requester: 'ann', text: 'x', stop },
    counts: {},
  })
  put('targets', `${PROJECT}/0`, {
    ...{
      project: PROJECT,
      machine: hex(1),
      name: 'web-1',
      order: ORDER,
      state: failed === true ? 'failed' : 'running',
    },
    ...{ cause: null, message: 'silent', evidence: [], advice: [] },
  })
  put('orders', ORDER, order)
  return { view, put, offline: (n: number) => void table('sessions').delete(hex(n)) }
}

/** The shelf as it is, on a disk that a test can fill. */
function createShelf(dir: string, now: () => number, isFull: () => boolean): Shelf {
  const onDisk = openShelf(dir, LIMITS, now)
  return {
    ...onDisk,
    put: (...given) => {
      if (isFull()) throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
      onDisk.put(...given)
    },
  }
}

/** A coordinator's surroundings: rows in tables, and machines that a test lets answer. */
export function world(t: Test, options: Options = {}) {
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'smith-reports-'))
  if (options.dir === undefined) t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const { view, put, offline } = createTables(options)
  const clock = createFakeClock()
  const sent: { readonly machine: string; readonly frame: Extract<CoordinatorFrame, { t: 'report' }> }[] = []
  const kept: Kept[] = []
  const shelf = createShelf(dir, clock.wallNow, options.isFull ?? (() => false))
  const log = createFakeLog()
  const ports: ReportsPorts = {
    ...{ view, clock, now: clock.wallNow, random: createFakeRandom(options.seed), log, shelf },
    send: (machine, frame) => frame.t === 'report' && void sent.push({ machine, frame }),
    onKept: async (one) => {
      kept.push(one)
      await options.telling?.()
    },
  }
  const reports = createReports(ports)
  t.teardown(() => reports.stop())
  /** The machine answers everything that it was asked and has not answered yet. */
  const answer = (machine: string, report: MachineReport) => {
    const packed = gzipSync(JSON.stringify(report), { level: 0 })
    const of = Math.ceil(packed.length / REPORT_PART_BYTES_MAX)
    for (
      let frame = sent.findLast((one) => one.machine === machine)?.frame, done = -1;
      frame !== undefined && frame.part > done;
      frame = sent.findLast((one) => one.machine === machine)?.frame
    ) {
      done = frame.part
      const bytes = packed.subarray(done * REPORT_PART_BYTES_MAX, (done + 1) * REPORT_PART_BYTES_MAX)
      reports.onFrame(machine, {
        t: 'reportPart',
        report: frame.report,
        part: done,
        of,
        base64: bytes.toString('base64'),
      })
      if (done + 1 >= of) return
    }
  }
  const back = (n: number) => put('sessions', hex(n), session(n))
  const happens = (fact: 'orderFailed' | 'orderUnknown' | 'orderGranted') =>
    reports.onRow({ rev: 1, at: clock.wallNow(), actor: 'smith', facts: [{ fact, order: ORDER }] })
  /** The run ends, and the core has told so. */
  const fails = () => {
    put('orders', ORDER, { ...order, state: 'failed', endedAt: clock.wallNow() })
    happens('orderFailed')
  }
  return { dir, clock, log, shelf, sent, kept, reports, answer, offline, back, put, happens, fails }
}
