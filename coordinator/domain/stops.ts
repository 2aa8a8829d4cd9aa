/**
 * What stops a project: the one thing that stands between it and its next grant, by urgency, with the command that
 * lifts it. Called by rollout.ts after every event that may matter to the project. Keeps STA-4 (a stopped line names
 * its one blocker) and HLD-4 (a wait that lasts too long is a hold).
 */
import type { Stop, StopReason } from '../../protocol/status.ts'
import { type Draft, instanceOf } from './draft.ts'
import { shortList } from './selection.ts'
import { touchWaiting } from './lines.ts'
import { shutNow } from './schedule.ts'
import type { Instant, Line, Project, Target } from './state.ts'
import { bagOf, changeProject, dropAsk, hasEnded, projectOf, sayOf, targetOf } from './targets.ts'

/**
 * The first target that still has to be granted, from the cursor on; before it one of its cluster that an earlier try
 * has touched and that a person wants tried again: until that one is well, nothing else there is (FAI-3).
 */
export function nextTarget(draft: Draft, project: Project): Target | null {
  if (project.cursor >= project.targets) return null
  const first = targetOf(draft, project.id, project.cursor)
  const line = draft.get('lines', `cluster:${first.cluster}`)
  const keeper = line?.project === project.id ? targetOf(draft, project.id, line.target) : first
  return hasEnded(keeper) ? first : keeper
}

/** A stop without its beginning. */
type Blocker = Omit<Stop, 'since'>
type Words = {
  readonly code: StopReason
  readonly reason: string
  readonly lift: string
  readonly machine: string | null
}

const hold = (words: Words): Blocker => ({ kind: 'hold', ...words, until: null })
const waiting = (words: Words, until: Instant | null = null): Blocker => ({ kind: 'waiting', ...words, until })

/**
 * True when failures that nobody has decided about stop the project: as many as its request allows, or any when
 * nothing else is left to do. One that keeps the cluster of the next machine stops it too (waitFor).
 */
export function failuresStop(project: Project): boolean {
  const count = project.undecided.length
  if (count === 0) return false
  return count >= (project.failuresMax ?? count + 1) || project.cancelling !== null || project.cursor >= project.targets
}

/** The one thing that keeps the project from its next grant, by urgency; null when nothing does. */
export function blockerOf(draft: Draft, project: Project): Blocker | null {
  const change = project.change ?? ''
  if (project.state === 'raising' || project.state === 'pending' || project.state === 'closed') return null
  if (project.active !== null) return unknownBlocker(draft, project)
  const [first] = project.undecided
  if (first !== undefined && failuresStop(project))
    return failureBlocker(draft, project, targetOf(draft, project.id, first))
  if (project.cancelling !== null) return null
  const stop = stopsOf(draft, project)
  if (stop !== null) return stop
  if (project.checksOpen > 0) {
    const reason = `${project.checksOpen} of ${project.targets} machines are planning again, to see that nothing has changed since the approval`
    return waiting({ code: 'checking', reason, lift: `wait; smith status ${change} --watch`, machine: null })
  }
  const target = nextTarget(draft, project)
  if (target === null) return null
  const turn = gateBlocker(draft, project, target) ?? windowBlocker(draft, project, target)
  if (turn !== null) return turn
  // A wait that has become a hold stays one until a person has looked.
  const wait = waitFor(draft, project, target)
  const isKept = project.stop?.kind === 'hold' && isWait(project.stop.code) && project.stop.machine === target.name
  return isKept && wait?.kind !== 'hold' ? project.stop : wait
}

/** Those that become a hold when they last too long. */
function isWait(code: StopReason): boolean {
  return ['change-on-hold', 'change-provider', 'cluster-busy', 'offline'].includes(code)
}

/** Keeps PHA-2: a machine of the next phase waits until the soak of the one before is over, or a person ends it. */
export function gateBlocker(draft: Draft, project: Project, target: Target): Blocker | null {
  const { phase } = bagOf(draft, project.id, target.bag)
  if (phase <= project.phase || project.soakFrom === null) return null
  const { soakMinutes } = project.options
  const opensAt = project.soakFrom + soakMinutes * 60_000
  if (draft.at >= opensAt) return null
  const reason = `phase ${project.phase} soaks for ${soakMinutes} minutes; phase ${phase} opens at ${draft.tools.calendar.show(opensAt)}`
  return waiting({ code: 'soak', reason, lift: `smith resume ${project.change ?? ''}`, machine: target.name }, opensAt)
}

/** A window that opens again is waited for; one that does not can only be given up. */
function windowBlocker(draft: Draft, project: Project, target: Target): Blocker | null {
  const shut = shutNow(draft, project)
  if (shut === null) return null
  const change = project.change ?? ''
  const { reason, until } = shut
  if (until === null) return hold({ code: 'window', reason, lift: `smith cancel ${change}`, machine: target.name })
  return waiting({ code: 'window', reason, lift: `wait, or smith cancel ${change}`, machine: target.name }, until)
}

/** Stops that a person set, or that come with the approval. */
export function stopsOf(draft: Draft, project: Project): Blocker | null {
  const change = project.change ?? ''
  const { frozen } = instanceOf(draft)
  if (frozen !== null) {
    const reason = `the instance is frozen by ${frozen.by}${because(frozen.reason)}`
    return hold({ code: 'frozen', reason, lift: 'smith unfreeze', machine: null })
  }
  if (project.paused !== null) {
    const reason = `paused by ${project.paused.by}${because(project.paused.reason)}`
    return hold({ code: 'paused', reason, lift: `smith resume ${change}`, machine: null })
  }
  if (project.approval === null) {
    const reason = project.denied?.code === 'approval' ? project.denied.reason : 'the approval was withdrawn'
    return hold({ code: 'approval', reason, lift: liftOfApproval(draft, project), machine: null })
  }
  return null
}

/** Where the change is kept elsewhere, it is approved there and nowhere else. */
function liftOfApproval(draft: Draft, project: Project): string {
  const change = project.change ?? ''
  const remote = draft.get('remoteChanges', project.id)
  if (remote === undefined || draft.tools.changeLink === undefined) return `smith approve ${change}`
  return `have ${change} approved at ${draft.tools.changeLink(remote)} or give it up: smith cancel ${change}`
}

export function because(reason: string): string {
  return reason === '' ? '' : `: ${reason}`
}

function unknownBlocker(draft: Draft, project: Project): Blocker | null {
  const order = draft.get('orders', project.active ?? '')
  if (order?.state !== 'unknown') return null
  const change = project.change ?? ''
  return hold({
    code: 'unknown',
    reason: order.unknownReason ?? `we no longer know how the run on ${order.name} goes`,
    lift: `smith resolve ${change} ${order.name} --as succeeded|failed --reason REASON`,
    machine: order.name,
  })
}

function failureBlocker(draft: Draft, project: Project, target: Target): Blocker {
  const others = project.undecided.filter((index) => index !== target.index)
  const names = shortList(others.map((index) => targetOf(draft, project.id, index).name))
  const more = others.length === 0 ? '' : ` (and ${others.length} more: ${names})`
  return hold({
    code: target.cause === 'plan-drift' ? 'drift' : 'failed',
    reason: `${target.name} failed: ${target.cause ?? 'internal'}: ${target.message ?? ''}${more}`.slice(0, 1900),
    lift: decisionFor(draft, project, target),
    machine: target.name,
  })
}

/** The command that decides about a failed machine. */
function decisionFor(draft: Draft, project: Project, target: Target): string {
  const change = project.change ?? ''
  return mayRetry(draft, project, target)
    ? `smith retry ${change} ${target.name}`
    : `smith skip ${change} ${target.name} --reason REASON`
}

/** A cancelled project grants nothing more, and a host that was enrolled anew is not what the plan was made for. */
function mayRetry(draft: Draft, project: Project, target: Target): boolean {
  return project.cancelling === null && draft.get('machines', target.machine)?.state === 'active'
}

/** What the next machine waits for. */
function waitFor(draft: Draft, project: Project, target: Target): Blocker | null {
  const change = project.change ?? ''
  const wait = (code: StopReason, reason: string, lift: string, until: Instant | null = null): Blocker =>
    waiting({ code, reason, lift, machine: target.name }, until)
  const line = draft.get('lines', `cluster:${target.cluster}`)
  if (line?.project === project.id && line.target !== target.index) {
    // The project goes on after failures, and one of them keeps the cluster of this very machine.
    return failureBlocker(draft, project, targetOf(draft, project.id, line.target))
  }
  if (line !== undefined && line.project !== project.id) {
    const other = projectOf(draft, line.project)
    const since = draft.tools.calendar.show(line.since)
    const reason = `${target.cluster} is in use by ${other.change ?? 'another project'} for ${other.requester} with ${line.machine} since ${since}`
    return wait('cluster-busy', reason, liftOfLine(draft, line, other))
  }
  const skipIt = `smith skip ${change} ${target.name} --reason REASON`
  const quarantined = draft.get('machines', target.machine)?.quarantined
  // It never comes back as what it was, so this is no wait.
  if (quarantined != null)
    return hold({
      code: 'offline',
      reason: `${target.name} is in quarantine: ${quarantined}`,
      lift: skipIt,
      machine: target.name,
    })
  const session = draft.get('sessions', target.machine)
  if (session === undefined) {
    return wait('offline', `${target.name} has no live agent`, `start smith-agent on ${target.name}, or ${skipIt}`)
  }
  if (session.impediment !== null)
    return wait('offline', `${target.name}: ${session.impediment.message}`, session.impediment.remedy)
  if (project.denied === null || project.denied.code === 'approval') return null
  const { code, reason, until } = project.denied
  return wait(code, reason, liftOfGone(project) ?? `smith status ${change}, or smith cancel ${change}`, until)
}

/** A change that is not there any more is given up, or put back; null when nothing says that it is gone. */
function liftOfGone({ change, denied }: Project): string | null {
  return denied?.isGone === true
    ? `smith cancel ${change ?? ''}, or smith resume ${change ?? ''} once it is back`
    : null
}

/** What frees a line that another project has: the decision about a failure that keeps it, or what lifts its stop. */
function liftOfLine(draft: Draft, line: Line, other: Project): string {
  if (other.undecided.includes(line.target)) return decisionFor(draft, other, targetOf(draft, other.id, line.target))
  return other.stop === null ? `wait; smith status ${other.change ?? ''}` : other.stop.lift
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
  if (kind === 'waiting' && isWait(blocker.code) && draft.at - since >= draft.tools.settings.limits.waitMsMax) {
    kind = 'hold'
    lift = liftOfGone(project) ?? `smith resume ${project.change ?? ''}`
  }
  const stop: Stop = { ...blocker, kind, lift, since, until: kind === 'hold' ? null : blocker.until }
  if (
    same &&
    before.kind === kind &&
    before.reason === stop.reason &&
    before.lift === lift &&
    before.until === stop.until
  )
    return
  // The ask was made for a line that was free of stops; an answer to it must grant nothing now.
  changeProject(draft, project.id, { stop })
  if (!isWaitForProvider(blocker.code)) dropAsk(draft, project.id)
  touchWaiting(draft, project.id)
  sayOf(draft, project, {
    fact: 'stopSet',
    state: kind,
    reason: stop.reason,
    lift,
    ...(stop.machine === null ? {} : { machine: stop.machine }),
  })
}

function isWaitForProvider(code: StopReason): boolean {
  return code === 'window' || code === 'change-on-hold' || code === 'change-provider'
}
