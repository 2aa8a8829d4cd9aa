/**
 * What stops a project: the one thing that stands between it and its next grant, by urgency, with the command that
 * lifts it. Called by rollout.ts after every event that may matter to the project. Keeps STA-4 (a stopped line names
 * its one blocker) and HLD-4 (a wait that lasts too long is a hold).
 */
import type { Stop, StopReason } from '../../protocol/status.ts'
import { type Draft, instanceOf } from './draft.ts'
import { shortList } from './selection.ts'
import type { Project, Target } from './state.ts'
import { changeProject, sayOf, targetOf } from './targets.ts'

/** The first target that still has to be granted, from the cursor on. */
export function nextTarget(draft: Draft, project: Project): Target | null {
  return project.cursor < project.targets ? targetOf(draft, project.id, project.cursor) : null
}

/** A stop without its beginning; `sticky` ones never lift themselves. */
type Blocker = Omit<Stop, 'since'>

/** The one thing that keeps the project from its next grant, by urgency; null when nothing does. */
export function blockerOf(draft: Draft, project: Project): Blocker | null {
  const change = project.change ?? ''
  if (project.state === 'raising' || project.state === 'pending' || project.state === 'closed') return null
  if (project.active !== null) return unknownBlocker(draft, project)
  const [first] = project.undecided
  if (first !== undefined) return failureBlocker(draft, project, targetOf(draft, project.id, first))
  if (project.cancelling !== null) return null
  const stop = stopsOf(draft, project)
  if (stop !== null) return stop
  if (project.checksOpen > 0) {
    const reason = `${project.checksOpen} of ${project.targets} machines are planning again, to see that nothing has changed since the approval`
    return { kind: 'waiting', code: 'checking', reason, lift: `wait; smith status ${change} --watch`, machine: null }
  }
  const target = nextTarget(draft, project)
  if (target === null) return null
  // A wait that has become a hold stays one until a person has looked.
  const wait = waitFor(draft, project, target)
  const isKept = project.stop?.kind === 'hold' && isWait(project.stop.code) && project.stop.machine === target.name
  return isKept && wait?.kind !== 'hold' ? withoutSince(project.stop) : wait
}

function withoutSince(stop: Stop): Blocker {
  return { kind: stop.kind, code: stop.code, reason: stop.reason, lift: stop.lift, machine: stop.machine }
}

function isWait(code: StopReason): boolean {
  return ['window', 'change-on-hold', 'change-provider', 'cluster-busy', 'offline'].includes(code)
}

/** Stops that a person set, or that come with the approval. */
export function stopsOf(draft: Draft, project: Project): Blocker | null {
  const change = project.change ?? ''
  const { frozen } = instanceOf(draft)
  if (frozen !== null) {
    return {
      kind: 'hold',
      code: 'frozen',
      reason: `the instance is frozen by ${frozen.by}${because(frozen.reason)}`,
      lift: 'smith unfreeze',
      machine: null,
    }
  }
  if (project.paused !== null) {
    const reason = `paused by ${project.paused.by}${because(project.paused.reason)}`
    return { kind: 'hold', code: 'paused', reason, lift: `smith resume ${change}`, machine: null }
  }
  if (project.approval === null) {
    const reason = project.denied?.code === 'approval' ? project.denied.reason : 'the approval was withdrawn'
    return { kind: 'hold', code: 'approval', reason, lift: `smith approve ${change}`, machine: null }
  }
  return null
}

export function because(reason: string): string {
  return reason === '' ? '' : `: ${reason}`
}

function unknownBlocker(draft: Draft, project: Project): Blocker | null {
  const order = draft.get('orders', project.active ?? '')
  if (order?.state !== 'unknown') return null
  const change = project.change ?? ''
  return {
    kind: 'hold',
    code: 'unknown',
    reason: order.unknownReason ?? `we no longer know how the run on ${order.name} goes`,
    lift: `smith resolve ${change} ${order.name} --as succeeded|failed --reason REASON`,
    machine: order.name,
  }
}

function failureBlocker(draft: Draft, project: Project, target: Target): Blocker {
  const more =
    project.undecided.length > 1
      ? ` (and ${project.undecided.length - 1} more: ${shortList(project.undecided.slice(1).map((index) => targetOf(draft, project.id, index).name))})`
      : ''
  const isDrift = target.cause === 'plan-drift'
  return {
    kind: 'hold',
    code: isDrift ? 'drift' : 'failed',
    reason: `${target.name} failed: ${target.cause ?? 'internal'}: ${target.message ?? ''}${more}`.slice(0, 1900),
    lift: mayRetry(draft, project, target)
      ? `smith retry ${project.change ?? ''} ${target.name}`
      : `smith skip ${project.change ?? ''} ${target.name} --reason REASON`,
    machine: target.name,
  }
}

/** A cancelled project grants nothing more, and a host that was enrolled anew is not what the plan was made for. */
function mayRetry(draft: Draft, project: Project, target: Target): boolean {
  return project.cancelling === null && draft.get('machines', target.machine)?.state === 'active'
}

/** What the next machine waits for. */
function waitFor(draft: Draft, project: Project, target: Target): Blocker | null {
  const change = project.change ?? ''
  const wait = (code: StopReason, reason: string, lift: string): Blocker => ({
    kind: 'waiting',
    code,
    reason,
    lift,
    machine: target.name,
  })
  const line = draft.get('lines', `cluster:${target.cluster}`)
  if (line !== undefined && !(line.project === project.id && line.target === target.index)) {
    const other = draft.get('projects', line.project)
    const lift = other?.stop == null ? `wait; smith status ${other?.change ?? ''}` : other.stop.lift
    return wait(
      'cluster-busy',
      `${target.cluster} is in use by ${other?.change ?? 'another project'} with ${line.machine}`,
      lift,
    )
  }
  const skipIt = `smith skip ${change} ${target.name} --reason REASON`
  const quarantined = draft.get('machines', target.machine)?.quarantined
  // It never comes back as what it was, so this is no wait.
  if (quarantined != null)
    return {
      kind: 'hold',
      code: 'offline',
      reason: `${target.name} is in quarantine: ${quarantined}`,
      lift: skipIt,
      machine: target.name,
    }
  const session = draft.get('sessions', target.machine)
  if (session === undefined) {
    return wait('offline', `${target.name} has no live agent`, `start smith-agent on ${target.name}, or ${skipIt}`)
  }
  if (session.impediment !== null)
    return wait('offline', `${target.name}: ${session.impediment.message}`, session.impediment.remedy)
  if (project.denied === null || project.denied.code === 'approval') return null
  return wait(project.denied.code, project.denied.reason, `smith status ${change}, or smith cancel ${change}`)
}

/** Records the stop; the same stop keeps its beginning, and a wait that lasts too long becomes a hold. */
export function setStop(draft: Draft, project: Project, blocker: Blocker | null): void {
  const before = project.stop
  if (blocker === null) {
    if (before === null) return
    changeProject(draft, project.id, { stop: null })
    sayOf(draft, project, { fact: 'stopLifted', state: before.kind, reason: before.code })
    return
  }
  const same = before !== null && before.code === blocker.code && before.machine === blocker.machine
  const since = same ? before.since : draft.at
  let kind = blocker.kind
  let lift = blocker.lift
  if (
    kind === 'waiting' &&
    isWait(blocker.code) &&
    blocker.code !== 'window' &&
    draft.at - since >= draft.tools.settings.limits.waitMsMax
  ) {
    kind = 'hold'
    lift = `smith resume ${project.change ?? ''}`
  }
  const stop: Stop = { ...blocker, kind, lift, since }
  if (same && before.kind === kind && before.reason === stop.reason && before.lift === lift) return
  // The ask was made for a line that was free of stops; an answer to it must grant nothing now.
  changeProject(draft, project.id, { stop, ask: isWaitForProvider(blocker.code) ? project.ask : null })
  touchWaiting(draft, project.id)
  sayOf(draft, project, {
    fact: 'stopSet',
    state: kind,
    reason: stop.reason,
    lift,
    ...(stop.machine === null ? {} : { machine: stop.machine }),
  })
}

/** Those that wait for a cluster say what lifts the stop of whoever has it. */
function touchWaiting(draft: Draft, id: string): void {
  for (const other of draft.all('projects')) {
    if (other.id !== id && other.stop?.code === 'cluster-busy' && other.stop.kind === 'waiting') draft.touch(other.id)
  }
}

function isWaitForProvider(code: StopReason): boolean {
  return code === 'window' || code === 'change-on-hold' || code === 'change-provider'
}
