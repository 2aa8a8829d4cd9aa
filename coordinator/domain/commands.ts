/**
 * The operator's hand: pause, resume, cancel, freeze, retry, skip, resolve. Each answers at once and waits for
 * nothing: stopping is cheap. What may not be done now is refused with what to do first.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { type Draft, instanceOf } from './draft.ts'
import type { Command, Reply } from './events.ts'
import { freeLine, noteBag, releaseMachine } from './lines.ts'
import { endOrder, isActive, lossOf } from './order.ts'
import { abandonProject, actorName } from './planning.ts'
import { checkAgain, dropChecks } from './queries.ts'
import type { Order, Project, Target } from './state.ts'
import { failuresStop } from './stops.ts'
import {
  changeProject,
  changeTarget,
  dropAsk,
  isUnstarted,
  projectOf,
  sayOf,
  targetNamed,
  targetOf,
} from './targets.ts'

type Steering = Extract<Command, { change: string }>

/** The open project of a change, or why there is none. */
export function openProject(
  draft: Draft,
  change: string,
): { readonly project: Project } | { readonly refusal: Refusal } {
  const entry = draft.get('changes', change)
  // A project whose change has no number yet is known by its request.
  const id = entry?.project ?? draft.get('requests', change)?.project
  if (id != null) return { project: projectOf(draft, id) }
  const past = draft.archived('changes', change)
  if (past === undefined) {
    return {
      refusal: {
        kind: 'not-found',
        message: `there is no project ${change} here`,
        subject: change,
        remedy: 'smith status lists the projects',
      },
    }
  }
  const outcome = draft.archived('projects', past.project)?.outcome ?? 'closed'
  return {
    refusal: {
      kind: 'conflict',
      message: `${change} is closed (${outcome})`,
      subject: change,
      remedy: 'ask for a new one with smith patch',
    },
  }
}

/** Every command about one project but the decision about its change. */
export function steer(draft: Draft, command: Exclude<Steering, { type: 'decide' }>): Reply {
  const found = openProject(draft, command.change)
  if ('refusal' in found) return no(found.refusal)
  const { project } = found
  draft.touch(project.id)
  switch (command.type) {
    case 'pause':
      return pause(draft, project, command.reason)
    case 'resume':
      return resume(draft, project, command.reason)
    case 'cancel':
      return cancel(draft, project, command.reason)
    case 'retry':
    case 'skip':
    case 'resolve': {
      const target = targetNamed(draft, project, command.machine)
      if (target === undefined) {
        return no({
          kind: 'not-found',
          message: `${command.machine} is not in ${command.change}`,
          subject: command.machine,
          remedy: `smith status ${command.change} shows its machines`,
        })
      }
      return decideMachine(draft, project, target, command)
    }
  }
}

function decideMachine(
  draft: Draft,
  project: Project,
  target: Target,
  command: Extract<Command, { machine: string }>,
): Reply {
  switch (command.type) {
    case 'retry':
      return retry(draft, project, target, command.reason)
    case 'skip':
      return skip(draft, project, target, command.reason)
    case 'resolve':
      return resolve(draft, project, target, command)
  }
}

function no(refusal: Refusal): Reply {
  return { ok: false, refusals: [refusal] }
}

function pause(draft: Draft, project: Project, reason: string): Reply {
  if (project.paused !== null) return { ok: true }
  const by = actorName(draft.actor)
  changeProject(draft, project.id, { paused: { by, at: draft.at, reason } })
  dropAsk(draft, project.id)
  sayOf(draft, project, { fact: 'paused', reason })
  return { ok: true }
}

function resume(draft: Draft, project: Project, reason: string): Reply {
  const open = project.undecided.map((index) => targetOf(draft, project.id, index).name)
  const [first] = open
  if (first !== undefined && failuresStop(project)) {
    return no({
      kind: 'conflict',
      message: `${open.join(', ')} failed and nobody has decided what becomes of ${open.length === 1 ? 'it' : 'them'}`,
      subject: first,
      remedy: `smith retry ${project.change ?? ''} ${first}, smith skip ${project.change ?? ''} ${first} --reason REASON, or smith resolve`,
    })
  }
  const active = project.active === null ? undefined : draft.get('orders', project.active)
  if (active?.state === 'unknown') {
    return no({
      kind: 'conflict',
      message: `how the run on ${active.name} ended is unknown`,
      subject: active.name,
      remedy: `look at the machine, then: smith resolve ${project.change ?? ''} ${active.name} --as succeeded|failed --reason REASON`,
    })
  }
  const { stop } = project
  const isBeyond = stop !== null && ['approval', 'window', 'failed', 'drift'].includes(stop.code)
  if (stop?.kind === 'hold' && isBeyond && project.paused === null)
    return no({ kind: 'conflict', message: stop.reason, subject: project.change ?? '', remedy: stop.lift })
  // A hold that began as a wait is lifted here: it may wait once more. A soak that a person has seen enough of is over.
  const soakFrom = stop?.code === 'soak' ? null : project.soakFrom
  changeProject(draft, project.id, { paused: null, stop: null, soakFrom, denied: lostApproval(project) })
  dropAsk(draft, project.id)
  sayOf(draft, project, { fact: 'resumed', ...reasonOf(reason) })
  return { ok: true }
}

/** What a person gave as the reason, for the feed; nothing when they gave none. */
function reasonOf(reason: string): { readonly reason?: string } {
  return reason === '' ? {} : { reason }
}

/** Why there is no approval stays known until there is one. */
function lostApproval(project: Project): Project['denied'] {
  return project.approval === null ? project.denied : null
}

function cancel(draft: Draft, project: Project, reason: string): Reply {
  if (project.cancelling !== null) return { ok: true }
  if (project.state === 'raising') return cancelRaising(draft, project, reason)
  changeProject(draft, project.id, {
    cancelling: { by: actorName(draft.actor), at: draft.at, reason },
    paused: null,
  })
  dropAsk(draft, project.id)
  sayOf(draft, project, { fact: 'cancelAsked', reason })
  cancelUnstarted(draft, project, reason)
  const active = project.active === null ? undefined : draft.get('orders', project.active)
  if (active !== undefined && !active.claimed) callBack(draft, active)
  return { ok: true }
}

/** Nothing has a number yet: what remains is a request that was refused, by its own wish. */
function cancelRaising(draft: Draft, project: Project, reason: string): Reply {
  abandonProject(draft, project, {
    kind: 'conflict',
    message: `cancelled by ${actorName(draft.actor)}${reason === '' ? '' : `: ${reason}`}, before its change had a number`,
    remedy: 'ask again',
  })
  return { ok: true }
}

/**
 * Nothing more is granted: machines not yet granted are cancelled, and failures that changed nothing need no decision
 * any more. One that keeps its cluster goes on to keep it until it is skipped or resolved (SER-3).
 */
export function cancelUnstarted(draft: Draft, project: Project, reason: string): void {
  const bags = new Map<number, Target>()
  for (let index = project.cursor; index < project.targets; index += 1) {
    const target = targetOf(draft, project.id, index)
    if (!isUnstarted(target)) continue
    const order = target.order === null ? undefined : draft.get('orders', target.order)
    if (order?.state === 'offered') draft.put('orders', order.id, { ...order, state: 'cancelled', endedAt: draft.at })
    // The line that a failure kept for its retry is let go with it.
    const after = changeTarget(draft, target, { state: 'cancelled', endedAt: draft.at, reason, keepsLine: false })
    freeLine(draft, `cluster:${after.cluster}`, after)
    releaseMachine(draft, after, {})
    sayOf(draft, project, { fact: 'machineCancelled', machine: after.name })
    bags.set(after.bag, after)
  }
  for (const index of projectOf(draft, project.id).undecided) {
    const failed = targetOf(draft, project.id, index)
    if (failed.keepsLine) continue
    settleFailure(draft, project.id, index)
    bags.set(failed.bag, failed)
  }
  for (const last of bags.values()) noteBag(draft, projectOf(draft, project.id), last, `cancelled: ${reason}`)
  // Machines that are planning again give answers that no longer matter.
  dropChecks(draft, project.id)
  changeProject(draft, project.id, { checksOpen: 0 })
}

/** It keeps no line any more, whether its failure was not decided about or waited for its retry. */
function settleFailure(draft: Draft, project: string, index: number): void {
  const target = changeTarget(draft, targetOf(draft, project, index), { keepsLine: false })
  const before = projectOf(draft, project)
  changeProject(draft, project, { undecided: before.undecided.filter((one) => one !== index) })
  freeLine(draft, `cluster:${target.cluster}`, target)
  releaseMachine(draft, target, {})
}

/**
 * Calls a grant back that was not claimed yet. Only the machine can say which of the two came first: whoever is in
 * reach of an unknown order does not have it (UNK-8), and its void would free the line of another holder at work.
 */
export function callBack(draft: Draft, order: Order): void {
  draft.put('orders', order.id, { ...order, revoking: true })
  if (order.state === 'unknown') return
  draft.send({ to: 'agent', machine: order.machine, frame: { t: 'revoke', order: order.id } })
}

function retry(draft: Draft, project: Project, target: Target, reason: string): Reply {
  const change = project.change ?? ''
  if (!project.undecided.includes(target.index)) {
    return no({
      kind: 'conflict',
      message: `${target.name} is ${target.state}; only a machine that failed and is not decided about is tried again`,
      subject: target.name,
      remedy:
        target.state === 'unknown'
          ? `smith resolve ${change} ${target.name} --as failed --reason REASON, then retry`
          : `smith status ${change}`,
    })
  }
  if (project.cancelling !== null) {
    return no({
      kind: 'conflict',
      message: `${change} is being cancelled`,
      subject: change,
      remedy: `smith skip ${change} ${target.name} --reason REASON, and ask for it in a new request`,
    })
  }
  const machine = draft.get('machines', target.machine)
  if (machine === undefined || machine.state === 'retired') {
    return no({
      kind: 'conflict',
      message: `${target.name} was enrolled anew; the approved plan was made for what it was before`,
      subject: target.name,
      remedy: `smith skip ${change} ${target.name} --reason reinstalled, and ask for it in a new request`,
    })
  }
  const isDrift = target.cause === 'plan-drift' && !target.keepsLine
  const undecided = project.undecided.filter((index) => index !== target.index)
  changeTarget(draft, target, {
    state: 'planned',
    order: null,
    attempt: orderAttempt(draft, target),
    check: 'none',
    step: null,
    progress: null,
    endedAt: null,
    cause: null,
    message: null,
    evidence: [],
    advice: [],
    isEmpty: false,
  })
  retireOrder(draft, target)
  changeProject(draft, project.id, {
    undecided,
    cursor: Math.min(project.cursor, target.index),
    denied: lostApproval(project),
  })
  sayOf(draft, project, { fact: 'retryAsked', machine: target.name, ...reasonOf(reason) })
  // Drift is asked about again at once: the machine says without a run whether the archive is as it was.
  if (isDrift && draft.get('sessions', target.machine) !== undefined) checkAgain(draft, project.id, [target.index])
  return { ok: true }
}

function orderAttempt(draft: Draft, target: Target): number {
  const order = target.order === null ? undefined : draft.get('orders', target.order)
  return order === undefined || order.state === 'offered' ? target.attempt : order.attempt
}

function retireOrder(draft: Draft, target: Target): void {
  const order = target.order === null ? undefined : draft.get('orders', target.order)
  if (order === undefined) return
  draft.retire(
    'orders',
    order.id,
    order.state === 'offered' ? { ...order, state: 'cancelled', endedAt: draft.at } : order,
  )
}

function skip(draft: Draft, project: Project, target: Target, reason: string): Reply {
  const change = project.change ?? ''
  const mayBeSkipped = project.undecided.includes(target.index) || isUnstarted(target)
  if (!mayBeSkipped) {
    return no({
      kind: 'conflict',
      message: `${target.name} is ${target.state} and can't be skipped`,
      subject: target.name,
      remedy:
        target.state === 'unknown'
          ? `smith resolve ${change} ${target.name} --as failed --reason REASON`
          : `smith status ${change}`,
    })
  }
  const order = target.order === null ? undefined : draft.get('orders', target.order)
  if (order?.state === 'offered') draft.put('orders', order.id, { ...order, state: 'cancelled', endedAt: draft.at })
  changeTarget(draft, target, { state: 'skipped', endedAt: draft.at, reason })
  settleFailure(draft, project.id, target.index)
  sayOf(draft, project, { fact: 'machineSkipped', machine: target.name, reason })
  noteBag(
    draft,
    projectOf(draft, project.id),
    target,
    `${target.name}: skipped by ${actorName(draft.actor)}: ${reason}`,
  )
  return { ok: true }
}

function resolve(
  draft: Draft,
  project: Project,
  target: Target,
  command: Extract<Command, { type: 'resolve' }>,
): Reply {
  const by = actorName(draft.actor)
  const message = `resolved as ${command.as} by ${by}: ${command.reason}`
  const order = project.active === null ? undefined : draft.get('orders', project.active)
  if (order !== undefined && order.target === target.index && isActive(order)) {
    if (order.result === null && isAtIt(draft, order)) {
      const isThere = draft.get('sessions', order.machine) !== undefined
      return no({
        kind: 'conflict',
        message: `${target.name} is ${isThere ? 'in reach and still at it' : `${order.state}, and was heard of a moment ago`}`,
        subject: target.name,
        remedy: `wait for its own word (smith logs ${project.change ?? ''} --follow); if none can come, stop smith-agent there, and resolve it when it is unknown`,
      })
    }
    const { startBy } = order
    if (!order.claimed && order.result === null && startBy !== null && draft.at <= startBy) {
      return no({
        kind: 'conflict',
        message: `the grant of ${target.name} may still be taken up until ${draft.tools.calendar.show(startBy)}`,
        subject: target.name,
        remedy: 'see that nothing runs there, and resolve it after that',
      })
    }
    // Whoever still has the grant somewhere is never to take it up.
    if (!order.claimed) draft.send({ to: 'agent', machine: order.machine, frame: { t: 'revoke', order: order.id } })
    endOrder(draft, order, {
      state: command.as,
      cause: command.as === 'failed' ? (target.cause ?? 'unreachable') : null,
      message,
      evidence: target.evidence,
      advice: [],
      // Nobody knows whether apt had begun: in doubt the failure keeps its cluster.
      latched: order.latched || command.as === 'failed',
      rebootPending: target.rebootPending,
      result: order.result,
      resolvedBy: by,
      // Otherwise it is a failure to retry, skip or resolve; a cancelled project tries nothing again.
      isDecided: project.cancelling !== null,
    })
    sayOf(draft, project, { fact: 'machineResolved', machine: target.name, state: command.as, reason: command.reason })
    return { ok: true }
  }
  if (!project.undecided.includes(target.index)) {
    return no({
      kind: 'conflict',
      message: `${target.name} is ${target.state}; there is nothing to resolve`,
      subject: target.name,
      remedy: `smith status ${project.change ?? ''}`,
    })
  }
  changeTarget(draft, target, {
    state: command.as,
    reason: message,
    ...(command.as === 'succeeded' ? { cause: null } : {}),
  })
  settleFailure(draft, project.id, target.index)
  sayOf(draft, project, { fact: 'machineResolved', machine: target.name, state: command.as, reason: command.reason })
  noteBag(draft, projectOf(draft, project.id), target, `${target.name}: ${message}`)
  return { ok: true }
}

/** Whether the machine may still say how the order ended: not when it came back and no longer knows what it had begun. */
function isAtIt(draft: Draft, order: Order): boolean {
  if (order.state !== 'unknown') return true
  const session = draft.get('sessions', order.machine)
  if (session === undefined) return false
  return session.since < (order.grantedAt ?? 0) || lossOf(order, session) === null
}

export function freeze(draft: Draft, reason: string): Reply {
  const instance = instanceOf(draft)
  if (instance.frozen !== null) return { ok: true }
  const by = actorName(draft.actor)
  draft.put('instance', 'instance', { ...instance, frozen: { by, at: draft.at, reason } })
  draft.say({ fact: 'frozen', reason })
  touchAll(draft)
  return { ok: true }
}

export function unfreeze(draft: Draft, reason: string): Reply {
  const instance = instanceOf(draft)
  if (instance.frozen === null) return { ok: true }
  draft.put('instance', 'instance', { ...instance, frozen: null })
  draft.say({ fact: 'unfrozen', ...reasonOf(reason) })
  touchAll(draft)
  return { ok: true }
}

export function touchAll(draft: Draft): void {
  for (const project of draft.all('projects')) draft.touch(project.id)
}
