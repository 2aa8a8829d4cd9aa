/**
 * What the coordinator itself knows of a machine, for its health report: a file of every report, and all there is of
 * a machine that is out of reach, with what to do at its console. Pure.
 */
import type { MachineReport, ReportedRun } from '../../protocol/report.ts'
import { createCleaner, withHits } from '../../protocol/cleaning.ts'
import { visible } from '../../protocol/visible.ts'
import { instanceOf, type View } from '../domain/draft.ts'
import type { Machine, Order, Project, Target } from '../domain/state.ts'
import { projectState } from '../domain/status.ts'

export type Known = {
  readonly machine: Machine
  readonly isConnected: boolean
  readonly change: string | null
  readonly order: string | null
  readonly run: ReportedRun | null
  /** Its order was granted, and nobody knows that it has ended. */
  readonly mayBeAtWork: boolean
  /** The machine has failed, or is unknown, as far as the coordinator knows. */
  readonly isTrouble: boolean
  /** The command for the stop, where it is this machine's. */
  readonly lift: string | null
  readonly text: string
}

const AT_WORK: ReadonlySet<Order['state']> = new Set(['granted', 'running', 'unknown'])

/** `order` is the one that the report is for; without it the one of the project that has the machine. */
export function knownOf(view: View, machine: Machine, wanted: string | null): Known {
  const live = wanted === null ? undefined : (view.get('orders', wanted) ?? view.archived('orders', wanted))
  const project = projectFor(view, machine, live)
  const target = project === undefined ? undefined : targetFor(view, project, machine)
  const order =
    live ??
    (target?.order == null ? undefined : (view.get('orders', target.order) ?? view.archived('orders', target.order)))
  const session = view.get('sessions', machine.id)
  const frozen = instanceOf(view).frozen
  const lines = [
    `machine ${machine.name} (${machine.id}), ${machine.state}, enrolled ${timeOf(machine.enrolledAt)} by ${machine.enrolledBy}`,
    session === undefined
      ? `not connected; last heard of ${timeOf(machine.lastSeenAt)}`
      : `connected from ${session.address} since ${timeOf(session.since)}`,
    ...(session?.impediment == null
      ? []
      : [visible(`takes no orders: ${session.impediment.message}; ${session.impediment.remedy}`)]),
    ...(machine.quarantined === null ? [] : [`quarantined: ${machine.quarantined}`]),
    `last patched ${timeOf(machine.lastPatchedAt)}; reboot ${machine.rebootPending ? 'pending' : 'not pending'}`,
    ...(machine.facts === null ? [] : [`says of itself: ${fieldsText(machine.facts)}`]),
    ...(frozen === null ? [] : [`the instance is frozen: ${frozen.reason}`]),
    ...(project === undefined ? [] : projectLines(project)),
    ...(target === undefined ? [] : [`in it: ${fieldsText(target)}`]),
    ...(order === undefined
      ? []
      : [`order: ${fieldsText({ ...order, result: order.result === null ? null : '(see run.txt)' })}`]),
  ]
  const stop = project?.state === 'closed' ? null : project?.stop
  const isStop = stop?.machine === machine.name || target?.state === 'unknown'
  return {
    machine,
    isConnected: session !== undefined,
    change: project?.change ?? null,
    order: order?.id ?? null,
    run: target === undefined || hasNoRun(target) ? null : runOf(order, target, project?.change ?? null),
    mayBeAtWork: order !== undefined && AT_WORK.has(order.state),
    isTrouble: target?.state === 'failed' || target?.state === 'unknown',
    lift: isStop ? (stop?.lift ?? null) : null,
    text: lines.join('\n'),
  }
}

function projectFor(view: View, machine: Machine, order: Order | undefined): Project | undefined {
  const id = order?.project ?? machine.project
  return id === null || id === undefined ? undefined : (view.get('projects', id) ?? view.archived('projects', id))
}

function targetFor(view: View, project: Project, machine: Machine): Target | undefined {
  for (const target of view.all('targets'))
    if (target.project === project.id && target.machine === machine.id) return target
  return undefined
}

function projectLines(project: Project): string[] {
  return [
    `${project.change ?? 'a project without a change'}: ${projectState(project)}, build ${project.build}, asked by ${project.requester}: ${project.text}`,
    ...(project.stop === null
      ? []
      : [`its stop: ${project.stop.kind}: ${project.stop.reason}; lift: ${project.stop.lift}`]),
  ]
}

/** One below the other and as they are: what JSON does to a text hides a secret from the rules. */
function fieldsText(row: object): string {
  return Object.entries(row)
    .flatMap(([name, value]) => {
      const all: readonly unknown[] = Array.isArray(value) ? value : [value]
      if (all.length === 0) return [`\n    ${name}: none`]
      return all.map(
        (one) => `\n    ${name}: ${typeof one === 'object' && one !== null ? fieldsText(one) : visible(String(one))}`,
      )
    })
    .join('')
}

function timeOf(at: number | null): string {
  return at === null ? 'never' : new Date(at).toISOString()
}

/** It was left out, and nothing of it is awaited. */
function hasNoRun({ state }: Target): boolean {
  return state === 'skipped' || state === 'cancelled'
}

function runOf(order: Order | undefined, target: Target, change: string | null): ReportedRun {
  return {
    order: order?.id ?? null,
    change,
    step: order?.step ?? target.step,
    outcome: outcomeOf(order, target),
    cause: target.cause,
    message: (target.message ?? order?.unknownReason ?? target.state).slice(0, 2000),
    evidence: target.evidence.slice(0, 40).map((line) => line.slice(0, 2000)),
    advice: target.advice.slice(0, 40).map((line) => line.slice(0, 2000)),
    at: target.endedAt ?? order?.heardAt ?? order?.grantedAt ?? 0,
  }
}

function outcomeOf(order: Order | undefined, { state }: Target): ReportedRun['outcome'] {
  if (state === 'succeeded' || state === 'failed' || state === 'unknown') return state
  return order?.state === 'voided' ? 'void' : null
}

const CONSOLE = [
  'journalctl -u smith-agent -n 50',
  'smith-agent status',
  'tail -n 100 /opt/smith-agent.log',
  'df -h; ip route; timedatectl; systemctl --failed; dpkg --audit',
]

/** The report of a machine that gave none: nothing is guessed of it. */
export function withoutMachine(known: Known, problem: string, at: number): MachineReport {
  const { machine, run } = known
  const clean = createCleaner()
  return {
    at,
    tookMs: 0,
    run: run === null ? null : clean.run(run),
    findings: [
      {
        text: (known.isConnected
          ? `${problem}; look on the machine`
          : `the machine is out of reach; if it does not answer, go to its console; ${problem}`
        ).slice(0, 2000),
        evidence: `last heard of ${timeOf(machine.lastSeenAt)}`,
        next: known.isConnected ? 'journalctl -u smith-report -n 50' : `ping -c 3 ${machine.name}`,
      },
      ...(known.isConnected ? [] : [{ text: 'at its console, as root', evidence: null, next: CONSOLE.join('; ') }]),
      ...(known.mayBeAtWork
        ? [
            {
              text: 'its run may still be at work: do not stop apt or dpkg there, and do not reboot it while they are; it tells its result by itself when it is back',
              evidence: 'nothing but the machine itself, or a person who has looked, knows how the run ended',
              next: 'ps -ef | grep -E "apt|dpkg"',
            },
          ]
        : []),
    ],
    files: [],
    redacted: clean.hits,
  }
}

/**
 * The report with what the coordinator knows as one more of its files. The cause is the one that the run found; where
 * the trouble is not of the machine's newest run, as with a plan that drifted before the grant, it is the coordinator's.
 */
export function withKnown(report: MachineReport, known: Known): MachineReport {
  const isElsewhere = known.isTrouble && known.run !== null && known.run.order !== report.run?.order
  const clean = createCleaner()
  const text = clean.text(known.text)
  const file = { name: COORDINATOR_FILE, what: 'what the coordinator knows of the machine', text }
  return {
    ...report,
    run: isElsewhere && known.run !== null ? clean.run(known.run) : report.run,
    redacted: withHits(report.redacted, clean.hits),
    files: [file, ...report.files.filter((one) => one.name !== COORDINATOR_FILE)],
  }
}
const COORDINATOR_FILE = 'coordinator.txt'
