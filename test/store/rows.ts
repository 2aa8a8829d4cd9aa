/** Rows, records and turns for the store's tests: whole, valid, and different only in what a test names. */
import { createHash } from 'node:crypto'
import type { RunRecord } from '../../protocol/files.ts'
import type { Turn } from '../../coordinator/ports.ts'
import type { LogAppend } from '../../coordinator/domain/events.ts'
import {
  type Bag,
  type Instance,
  type Line,
  type Machine,
  type Order,
  type Project,
  type Target,
  type Write,
  placeKey,
} from '../../coordinator/domain/state.ts'

export const T0 = 1_700_000_000_000

/** A seeded stand-in for the random port: each call gives other bytes, each seed the same calls (SHAKE256). */
export function seededRandom(seed: number): { readonly bytes: (count: number) => Uint8Array } {
  let calls = 0
  return {
    bytes: (count) => {
      calls += 1
      return createHash('shake256', { outputLength: count }).update(`${seed}/${calls}`).digest()
    },
  }
}

export const id = (text: string): string => Buffer.from(text.padEnd(16, '.')).toString('hex').slice(0, 32)

export const machine = (name: string, more: Partial<Machine> = {}): Machine => ({
  id: id(name),
  name,
  state: 'active',
  publicKey: 'AAAA',
  counter: 1,
  quarantined: null,
  fence: 0,
  facts: null,
  builds: ['prod'],
  template: false,
  enrolledAt: T0,
  enrolledBy: 'ana',
  lastSeenAt: null,
  lastPatchedAt: null,
  rebootPending: false,
  project: null,
  ...more,
})

const counts = { pass: 0, fail: 0, unstarted: 1, running: 0, unknown: 0, skipped: 0, cancelled: 0 }

export const project = (name: string, more: Partial<Project> = {}): Project => ({
  id: id(name),
  request: id(`r-${name}`),
  change: null,
  requester: 'ana',
  text: 'prod machines: a outage:0',
  title: 'a',
  build: '725',
  region: 'us-south',
  options: {
    outageMinutes: 0,
    offline: 'refuse',
    busy: 'refuse',
    phases: [],
    soakMinutes: 0,
    onFailure: 'stop',
    maxFailures: null,
    window: null,
  },
  digest: '0'.repeat(64),
  createdAt: T0,
  state: 'raising',
  outcome: null,
  approval: null,
  targets: 1,
  bags: 1,
  counts,
  cursor: 0,
  phase: 0,
  soakFrom: null,
  failuresMax: 1,
  runMsMax: null,
  wasShut: false,
  checksOpen: 0,
  active: null,
  freeSince: T0,
  checkRound: 0,
  denied: null,
  undecided: [],
  paused: null,
  cancelling: null,
  stop: null,
  closedAt: null,
  closeNotes: null,
  ...more,
})

export const order = (name: string, more: Partial<Order> = {}): Order => ({
  id: id(name),
  project: id('p'),
  target: 0,
  machine: id('a'),
  name: 'a',
  attempt: 1,
  state: 'offered',
  fence: 0,
  grantedAt: null,
  startBy: null,
  boot: '',
  taken: false,
  claimed: false,
  latched: false,
  step: null,
  stepAt: null,
  firstAt: null,
  progress: null,
  upTo: 0,
  heardAt: null,
  silentSince: null,
  revoking: false,
  unknownReason: null,
  endedAt: null,
  result: null,
  resolvedBy: null,
  ...more,
})

export const line = (key: string, more: Partial<Line> = {}): Line => ({
  key,
  project: id('p'),
  target: 0,
  order: id('o'),
  machine: id('a'),
  since: T0,
  ...more,
})

export const bag = (projectName: string, index: number): Bag => ({
  project: id(projectName),
  index,
  phase: 0,
  name: `bag-${index}`,
  task: null,
  first: 0,
  count: 1,
  counts,
})

export const target = (projectName: string, index: number, more: Partial<Target> = {}): Target => ({
  project: id(projectName),
  index,
  bag: 0,
  machine: id(`m${index}`),
  name: `m${index}`,
  cluster: 'c',
  planHash: '0'.repeat(64),
  isEmpty: false,
  state: 'planned',
  order: null,
  attempt: 0,
  check: 'none',
  step: null,
  progress: null,
  startedAt: null,
  endedAt: null,
  cause: null,
  message: null,
  evidence: [],
  advice: [],
  reason: null,
  rebootPending: false,
  keepsLine: false,
  ...more,
})

export const instance = (more: Partial<Instance> = {}): Instance => ({
  frozen: null,
  fence: 0,
  change: 0,
  task: 0,
  ...more,
})

export const put = {
  machine: (row: Machine): Write => ({ table: 'machines', key: row.id, row, live: true }),
  project: (row: Project, live = true): Write => ({ table: 'projects', key: row.id, row, live }),
  order: (row: Order, live = true): Write => ({ table: 'orders', key: row.id, row, live }),
  line: (row: Line): Write => ({ table: 'lines', key: row.key, row, live: true }),
  noLine: (key: string): Write => ({ table: 'lines', key, row: null, live: false }),
  target: (row: Target, live = true): Write => ({ table: 'targets', key: placeKey(row.project, row.index), row, live }),
  bag: (row: Bag): Write => ({ table: 'bags', key: placeKey(row.project, row.index), row, live: true }),
  instance: (row: Instance): Write => ({ table: 'instance', key: 'instance', row, live: true }),
}

export function turn(rev: number, writes: readonly Write[] = [], logs: readonly LogAppend[] = [], at = T0 + rev): Turn {
  return {
    rev,
    at,
    actor: 'ana',
    row: { rev, at, actor: 'ana', facts: [{ fact: 'requestMade', text: `turn ${rev}` }] },
    writes,
    logs,
  }
}

export const lineRecord = (n: number, text = `line ${n}\n`): RunRecord => ({
  n,
  at: T0 + n,
  type: 'line',
  step: 'install',
  offset: n * 10,
  text,
})

export const append = (orderName: string, from: number, count: number): LogAppend => ({
  order: id(orderName),
  from,
  records: Array.from({ length: count }, (_, index) => lineRecord(from + index)),
})
