/**
 * The honest answer to "how far is it, what failed, why": made from the rows of one project, live or finished, as
 * data (protocol/status.ts) and as the text of DESIGN section 1, to the letter. Pure; called by api and chat.
 */
import type { Holder, ProjectState, Status, Stop, Elsewhere } from '../../protocol/status.ts'
import type { View } from './draft.ts'
import type { Bag, Counts, Instant, Line, Project, Target } from './state.ts'
import { shortList } from './selection.ts'
import { bagOf, countOf, namesPending, targetNamed, targetOf, targetsOf } from './targets.ts'
import { duration } from './time-text.ts'

export { duration } from './time-text.ts'

/** The rows of one project. Finished ones come from the store. */
export type ProjectRows = {
  readonly project: Project
  readonly bags: readonly Bag[]
  readonly targets: readonly Target[]
  /** Null for a project that has ended. */
  readonly holder: Holder | null
}

export function rowsOf(view: View, project: Project): ProjectRows {
  return {
    project,
    targets: targetsOf(view, project),
    bags: Array.from({ length: project.bags }, (_, index) => bagOf(view, project.id, index)),
    holder: holderOf(view, project),
  }
}

/** Who has the cluster of the machine at which the project stands; null when nobody has. */
export function holderOf(view: View, project: Project): Holder | null {
  const active = project.active === null ? undefined : view.get('orders', project.active)
  const named = project.stop?.machine == null ? undefined : targetNamed(view, project, project.stop.machine)
  const next = project.cursor < project.targets ? targetOf(view, project.id, project.cursor) : undefined
  const target = active === undefined ? (named ?? next) : targetOf(view, project.id, active.target)
  const line = target === undefined ? undefined : view.get('lines', `cluster:${target.cluster}`)
  return line === undefined ? null : holderOfLine(view, line)
}

export function holderOfLine(view: View, line: Line): Holder {
  const owner = view.get('projects', line.project)
  const order = view.get('orders', line.order)
  return {
    line: line.key,
    change: owner?.change ?? null,
    requester: owner?.requester ?? '',
    machine: line.machine,
    order: line.order,
    state: targetOf(view, line.project, line.target).state,
    since: line.since,
    step: order?.step ?? null,
    stepAt: order?.stepAt ?? null,
  }
}

export function projectState(project: Project): ProjectState {
  if (project.state === 'closed') return project.outcome ?? 'complete'
  if (project.state === 'raising' || project.state === 'pending') return 'pending'
  if (project.stop !== null) return project.stop.kind === 'hold' ? 'held' : 'waiting'
  return 'running'
}

/** Which bag a stop stands under: that of the machine it names, else that of the next machine. */
function stopBag({ project, targets }: ProjectRows): number | null {
  if (project.stop === null || project.state === 'closed') return null
  const named = targets.find((target) => target.name === project.stop?.machine)
  return named?.bag ?? targets[Math.min(project.cursor, targets.length - 1)]?.bag ?? null
}

/** `isStopped`: the project stands still, here or elsewhere, so that nothing here is at work unless a machine is. */
function stateOf(counts: Counts, stop: Stop | null, isClosed: boolean, isStopped: boolean): ProjectState {
  const { pass, fail, unstarted, running, unknown, cancelled } = counts
  if (unknown > 0) return 'held'
  if (stop !== null) return stop.kind === 'hold' ? 'held' : 'waiting'
  if (running > 0) return 'running'
  if (unstarted > 0) return isStopped || pass + fail === 0 ? 'pending' : 'running'
  if (fail > 0) return 'failed'
  if (cancelled > 0) return pass > 0 && !isClosed ? 'complete' : 'cancelled'
  return 'complete'
}

function sumOf(bags: readonly Bag[]): Counts {
  const zero: Counts = { pass: 0, fail: 0, unstarted: 0, running: 0, unknown: 0, skipped: 0, cancelled: 0 }
  return bags.reduce(
    (sum, bag) => {
      const next = { ...sum }
      for (const key of Object.keys(sum) as (keyof Counts)[]) next[key] += bag.counts[key]
      return next
    },
    zero as { -readonly [Key in keyof Counts]: number },
  )
}

export function statusOf(rows: ProjectRows, instance: string, elsewhere: Elsewhere | null = null): Status {
  const { project, bags, targets } = rows
  const isClosed = project.state === 'closed'
  const stopAt = stopBag(rows)
  const isStopped = project.stop !== null || project.state === 'pending'
  const numbers = [...new Set(bags.map((bag) => bag.phase))].toSorted((a, b) => a - b)
  return {
    change: project.change,
    instance,
    build: project.build,
    region: project.region,
    title: project.title,
    requester: project.requester,
    approvedBy: project.approval?.by ?? null,
    state: projectState(project),
    stop: isClosed || project.state === 'pending' ? null : project.stop,
    holder: rows.holder,
    digest: project.digest,
    createdAt: project.createdAt,
    closedAt: project.closedAt,
    closeNotes: project.closeNotes,
    ...(elsewhere === null ? {} : { elsewhere }),
    ...(project.options.lookup === undefined ? {} : { lookup: project.options.lookup }),
    totals: project.counts,
    phases: numbers.map((number) => {
      const inPhase = bags.filter((bag) => bag.phase === number)
      const stop = inPhase.some((bag) => bag.index === stopAt) ? project.stop : null
      return {
        number,
        name: inPhase.map((bag) => bag.name).join(', '),
        state: stateOf(sumOf(inPhase), stop, isClosed, isStopped),
        bags: inPhase.map((bag) => ({
          name: bag.name,
          task: bag.task,
          state: stateOf(bag.counts, bag.index === stopAt ? project.stop : null, isClosed, isStopped),
          machines: targets.filter((target) => target.bag === bag.index).map(machineStatus),
        })),
      }
    }),
  }
}

function machineStatus(target: Target): Status['phases'][number]['bags'][number]['machines'][number] {
  const { name, state, order, attempt, step, progress, startedAt, endedAt, cause, message, reason, rebootPending } =
    target
  return {
    ...{ name, state, order, attempt, step, progress, startedAt, endedAt, cause, message, reason, rebootPending },
    evidence: [...target.evidence],
    advice: [...target.advice],
  }
}

/** The text of DESIGN section 1, without a line end after the last line. `at` is for "for <time>". */
export function renderStatus(status: Status, at: Instant): string {
  const machines = status.phases.flatMap((phase) => phase.bags.flatMap((bag) => bag.machines))
  const named = (count: keyof Counts) =>
    machines.filter((machine) => countOf(machine.state) === count).map((machine) => machine.name)
  const extra = (label: string, count: keyof Counts) =>
    named(count).length === 0 ? '' : `, ${label} ${shortList(named(count))}`
  const listed = (count: keyof Counts) => (named(count).length === 0 ? 'NONE' : shortList(named(count)))
  const lines = [
    `Project: ${status.change ?? ''} Patch: ${status.region} ${status.title} with Build \`${status.build}\``,
    `TOTALS: Pass: ${status.totals.pass}, Failed ${listed('fail')}, Unstarted ${listed('unstarted')}` +
      `${extra('Running', 'running')}${extra('Unknown', 'unknown')}${extra('Skipped', 'skipped')}${extra('Cancelled', 'cancelled')}`,
    ...elsewhereLines(status.elsewhere),
  ]
  const stopAt = status.stop === null ? null : bagOfStop(status)
  for (const phase of status.phases) {
    const inPhase = phase.bags.flatMap((bag) => bag.machines)
    lines.push(
      '',
      ` *Phase ${phase.number}*, ${phase.name}, \`${phase.state}\` Pass: ${tally(inPhase, 'pass')}, Fail: ${tally(inPhase, 'fail')} Unstarted: ${tally(inPhase, 'unstarted')}`,
    )
    for (const bag of phase.bags) {
      lines.push(
        `   Bag: *${bag.name}* - ${bag.task ?? ''}, State: \`${bag.state}\` MachineCount: ${bag.machines.length} Pass:${tally(bag.machines, 'pass')} Fail:${tally(bag.machines, 'fail')}`,
        ...nowLines(bag.machines, at),
        ...pendingLines(bag.machines),
        ...(status.stop !== null && bag === stopAt ? stopLines(status.stop, status.holder, at) : []),
      )
    }
  }
  return lines.map(oneLine).join('\n')
}

/** Only a change outside smith has them: those of smith's own are looked at and decided about here. */
function elsewhereLines(elsewhere: Elsewhere | undefined): string[] {
  if (elsewhere === undefined) return []
  return [`CHANGE: ${elsewhere.link}`, ...elsewhere.troubles.map((text) => `TO DO: ${text}`)]
}

/** Machines and people are quoted; what they wrote must not look like a line of the status itself. */
function oneLine(text: string): string {
  return text.replace(/[\n\r\v\f\u0085\u2028\u2029]+/g, ' ')
}

type Machines = Status['phases'][number]['bags'][number]['machines']

function bagOfStop(status: Status): Status['phases'][number]['bags'][number] | null {
  const bags = status.phases.flatMap((phase) => phase.bags)
  const named = bags.find((bag) => bag.machines.some((machine) => machine.name === status.stop?.machine))
  return named ?? bags.find((bag) => bag.state === 'held' || bag.state === 'waiting') ?? bags.at(-1) ?? null
}

function tally(machines: Machines, count: keyof Counts): number {
  return machines.filter((machine) => countOf(machine.state) === count).length
}

function nowLines(machines: Machines, at: Instant): string[] {
  return machines
    .filter((machine) => countOf(machine.state) === 'running')
    .map((machine) => {
      const progress = machine.progress === null ? '' : ` ${machine.progress}`
      return `       Now: ${machine.name} ${machine.step ?? machine.state}${progress} for ${duration(at - (machine.startedAt ?? at))}`
    })
}

function pendingLines(machines: Machines): string[] {
  const names = namesPending(machines)
  return names.length === 0 ? [] : [`       Reboot pending: ${shortList(names)}`]
}

function stopLines(stop: Stop, holder: Holder | null, at: Instant): string[] {
  const now = stop.code === 'cluster-busy' && holder !== null ? `, ${progressOf(holder, at)}` : ''
  return [`       ${stop.kind === 'hold' ? 'Held' : 'Waiting'}: ${stop.reason}${now}`, `       Lift: ${stop.lift}`]
}

/** What whoever has a line is doing now, which no turn of those who wait for it writes down. */
function progressOf({ state, step, stepAt, since }: Holder, at: Instant): string {
  return countOf(state) === 'running' ? `${step ?? state} for ${duration(at - (stepAt ?? since))}` : state
}
