/** Answers that the tests of the CLI serve: one plan, one status, orders and records, with what a test changes. */
import { type FactName } from '../../protocol/feed.ts'
import type { RunRecord } from '../../protocol/files.ts'
import type { MachineView, OrderView, PlanView, ProjectView, RequestView } from '../../protocol/http.ts'
import type { MachineStatus, Status } from '../../protocol/status.ts'

export const CHANGE = 'CHG0268453'
export const AT = 1_700_000_000_000
export const id = (digit: string) => digit.repeat(32)
export const hash = (digit: string) => digit.repeat(64)

export function planEntry(
  name: string,
  more: Partial<PlanView['machines'][number]> = {},
): PlanView['machines'][number] {
  return {
    name,
    phase: 0,
    bag: 'prod-dal10-carrier3',
    planHash: hash('a'),
    plan: {
      v: 1,
      build: '725',
      arch: 'amd64',
      installs: [
        { name: 'bash', arch: 'amd64', version: '5.2.15-3', from: '5.2.15-2', sha256: hash('b'), size: 1_200_000 },
        { name: 'libfresh', arch: 'amd64', version: '1.0', from: null, sha256: hash('c'), size: 34_000 },
      ],
      removes: [],
      repairs: [],
      holds: [],
      rebootDue: false,
      conffiles: 'keep',
    },
    evidence: { releases: [], downloadBytes: 1_234_000, installedBytesDelta: 0, madeAt: AT },
    warnings: [],
    ...more,
  }
}

export function planView(machines: PlanView['machines'], more: Partial<PlanView> = {}): PlanView {
  return { digest: hash('d'), build: '725', region: 'us-south', machines, skipped: [], terms: [], ...more }
}

export function requestView(state: RequestView['state'], more: Partial<RequestView> = {}): RequestView {
  return {
    request: id('1'),
    state,
    text: 'prod machines: web-1 outage:0',
    by: 'ann',
    at: AT,
    planned: 1,
    total: 1,
    refusals: [],
    change: state === 'raised' ? CHANGE : null,
    plan: state === 'planning' ? null : planView([planEntry('web-1')]),
    ...more,
  }
}

export function machineStatus(
  name: string,
  state: MachineStatus['state'],
  more: Partial<MachineStatus> = {},
): MachineStatus {
  return {
    name,
    state,
    order: null,
    attempt: 1,
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
    ...more,
  }
}

const HEADER = 'Project: CHG0268453 Patch: us-south 2 machines with Build `725`'

export function projectView(
  state: Status['state'],
  machines: MachineStatus[],
  more: Partial<Status> = {},
): ProjectView {
  const count = (...states: MachineStatus['state'][]) => machines.filter((one) => states.includes(one.state)).length
  const totals = {
    pass: count('succeeded'),
    fail: count('failed'),
    unstarted: count('planned', 'offered', 'ready'),
    running: count('granted', 'running', 'rebooting', 'verifying'),
    unknown: count('unknown'),
    skipped: count('skipped'),
    cancelled: count('cancelled'),
  }
  const text = [
    HEADER,
    `TOTALS: Pass: ${totals.pass}, Failed NONE, Unstarted NONE`,
    '',
    ` *Phase 0*, prod-dal10-carrier3, \`${state}\` Pass: ${totals.pass}, Fail: ${totals.fail} Unstarted: ${totals.unstarted}`,
    '',
  ].join('\n')
  const status: Status = {
    change: CHANGE,
    instance: 'prod',
    build: '725',
    region: 'us-south',
    title: '2 machines',
    requester: 'ann',
    approvedBy: null,
    state,
    stop: null,
    holder: null,
    digest: hash('d'),
    createdAt: AT,
    closedAt: null,
    closeNotes: null,
    totals,
    phases: [
      {
        number: 0,
        name: 'prod-dal10-carrier3',
        state,
        bags: [{ name: 'prod-dal10-carrier3', task: null, state, machines }],
      },
    ],
    ...more,
  }
  return { status, text, rev: 7 }
}

export function order(digit: string, machine: string, upTo: number, more: Partial<OrderView> = {}): OrderView {
  return {
    order: id(digit),
    change: CHANGE,
    machine,
    attempt: 1,
    state: 'running',
    upTo,
    grantedAt: AT,
    endedAt: null,
    ...more,
  }
}

export function line(n: number, text: string, at = AT): RunRecord {
  return { n, at, type: 'line', step: 'install', offset: 0, text }
}

/** The page that a coordinator would give, at most `limit` records. */
export function page(digit: string, records: readonly RunRecord[], after: string | undefined, limit = 1000) {
  const rest = records.filter((record) => record.n > Number(after ?? 0)).slice(0, limit)
  return { order: id(digit), upTo: records.at(-1)?.n ?? 0, ended: false, records: rest }
}

export function appended(digit: string, from: number, upTo: number) {
  return { fact: 'logAppended' as FactName, change: CHANGE, order: id(digit), from, upTo }
}

export function machineView(name: string, more: Partial<MachineView> = {}): MachineView {
  return {
    id: id('9'),
    name,
    online: true,
    since: null,
    address: '10.77.0.12',
    cluster: 'prod-dal10-carrier3',
    region: 'us-south',
    facts: null,
    builds: ['prod'],
    template: true,
    impediment: null,
    quarantined: null,
    project: null,
    lastPatchedAt: null,
    rebootPending: false,
    ...more,
  }
}
