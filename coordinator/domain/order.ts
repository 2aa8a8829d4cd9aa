/**
 * One order's life (its diagram stands at `Order` in state.ts): the edges that end it, lose it, or hear of it again.
 * Each edge asserts the states that it may leave. Who is next, and when, is rollout.ts.
 */
import type { Fact } from '../../protocol/feed.ts'
import type { Cause, GrantPayload, Result, Step } from '../../protocol/files.ts'
import type { MachineState } from '../../protocol/status.ts'
import { assert } from './assert.ts'
import type { Draft } from './draft.ts'
import { freeLine, noteBag, releaseMachine, touchWaiting } from './lines.ts'
import { runMsOf } from './schedule.ts'
import type { Order, Project, Session, Target } from './state.ts'
import { changeProject, changeTarget, dropAsk, mustHave, projectOf, sayOf, targetOf } from './targets.ts'

/** The order of the target's present try, made when there is none yet. */
export function ensureOrder(draft: Draft, project: Project, target: Target): Order {
  const present = target.order === null ? undefined : draft.get('orders', target.order)
  if (present !== undefined && present.state === 'offered') return present
  const order: Order = {
    id: draft.tools.newId(),
    project: project.id,
    target: target.index,
    machine: target.machine,
    name: target.name,
    attempt: target.attempt + 1,
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
  }
  draft.put('orders', order.id, order)
  if (present !== undefined) draft.retire('orders', present.id, present)
  return order
}

/** What the grant of an order says; the same again each time it is sent. */
export function grantPayloadOf(project: Project, order: Order, target: Target): GrantPayload {
  return {
    type: 'smith-grant-v1',
    order: order.id,
    machine: order.machine,
    change: mustHave(project.change ?? undefined, `the change of project ${project.id}`),
    fence: order.fence,
    build: project.build,
    planHash: target.planHash,
    attempt: order.attempt,
    outageMinutes: project.options.outageMinutes,
    issuedAt: order.grantedAt ?? 0,
    startBy: order.startBy ?? 0,
  }
}

/**
 * Why the machine of this session, which does not have the order in hand, can't simply be given it again: another
 * holder of the same disk may have it. Null when the grant can only have been lost on its way.
 */
export function lossOf(order: Order, session: Session): string | null {
  if (session.orders.some((entry) => entry.order === order.id)) return null
  if (order.claimed) return `${order.name} no longer knows the order that it had begun; its state folder was lost`
  if (order.taken)
    return `${order.name} no longer has the grant that it had kept; its state folder was lost, or this is a copy of it`
  return session.bootId === order.boot
    ? null
    : `${order.name} was started anew and does not have the grant that was on its way; it was lost, or this is a copy of it`
}

/** True while the order is anywhere between granted and finished and known. */
export function isActive(order: Order): boolean {
  return order.state === 'granted' || order.state === 'running' || order.state === 'unknown'
}

function sayOrder(
  draft: Draft,
  project: Project,
  order: Order,
  fact: Omit<Fact, 'change' | 'project' | 'machine' | 'order'>,
): void {
  sayOf(draft, project, { ...fact, machine: order.name, order: order.id })
}

/** What a machine at work is shown as in this step. */
export function stateInStep(step: Step | null): MachineState {
  return step === 'reboot' ? 'rebooting' : step === 'verify' ? 'verifying' : 'running'
}

/** granted, running -> unknown: nothing was heard for too long, or the machine itself can't tell. */
export function loseOrder(draft: Draft, order: Order, reason: string, advice: readonly string[] = []): void {
  assert(order.state === 'granted' || order.state === 'running', 'only an order in the works can become unknown')
  draft.put('orders', order.id, { ...order, state: 'unknown', unknownReason: reason })
  changeTarget(draft, targetOf(draft, order.project, order.target), { state: 'unknown', message: reason, advice })
  sayOrder(draft, projectOf(draft, order.project), order, { fact: 'orderUnknown', reason })
  draft.touch(order.project)
}

/** unknown -> running: the machine speaks and is still at it. */
export function hearOrder(draft: Draft, order: Order): Order {
  if (order.state !== 'unknown') return order
  const heard: Order = {
    ...order,
    state: order.claimed ? 'running' : 'granted',
    unknownReason: null,
    silentSince: null,
  }
  draft.put('orders', order.id, heard)
  changeTarget(draft, targetOf(draft, order.project, order.target), {
    state: heard.state === 'running' ? stateInStep(heard.step) : 'granted',
    message: null,
    advice: [],
  })
  sayOrder(draft, projectOf(draft, order.project), order, { fact: 'orderHeard' })
  draft.touch(order.project)
  return heard
}

export type Ending = {
  readonly state: 'succeeded' | 'failed'
  readonly cause: Cause | null
  readonly message: string
  readonly evidence: readonly string[]
  readonly advice: readonly string[]
  /** True when the machine may have been changed: then its failure keeps the cluster. */
  readonly latched: boolean
  readonly rebootPending: boolean
  readonly result: Result | null
  readonly resolvedBy: string | null
  /** True when a person has already decided about the failure, so that it stops nothing. */
  readonly isDecided: boolean
}

/** granted, running, unknown -> succeeded, failed. The line is free, but for a cluster that its failure keeps. */
export function endOrder(draft: Draft, order: Order, ending: Ending): void {
  assert(isActive(order), 'only an order in the works can end')
  const ended: Order = {
    ...order,
    state: ending.state,
    endedAt: draft.at,
    result: ending.result,
    resolvedBy: ending.resolvedBy,
    latched: order.latched || ending.latched,
    silentSince: null,
    revoking: false,
  }
  draft.put('orders', order.id, ended)
  const failed = ending.state === 'failed'
  const before = projectOf(draft, order.project)
  // A cancelled project tries nothing again, so a failure that changed nothing needs no decision.
  const isDecided = ending.isDecided || (before.cancelling !== null && !ended.latched)
  const target = changeTarget(draft, targetOf(draft, order.project, order.target), {
    state: ending.state,
    endedAt: draft.at,
    cause: failed ? ending.cause : null,
    message: ending.message,
    evidence: ending.evidence,
    advice: ending.advice,
    rebootPending: ending.rebootPending,
    keepsLine: failed && ended.latched && !isDecided,
    reason: ending.resolvedBy === null ? null : ending.message,
  })
  const undecided =
    failed && !isDecided ? [...before.undecided, target.index].toSorted((a, b) => a - b) : before.undecided
  // How long it took counts only by its own word: a person decides whenever that may be.
  const hasPassed = !failed && ended.result !== null && ending.resolvedBy === null
  const project = changeProject(draft, order.project, {
    active: null,
    freeSince: draft.at,
    undecided,
    ...(before.options.soakMinutes > 0 ? { soakFrom: draft.at } : {}),
    ...(hasPassed ? { runMsMax: Math.max(before.runMsMax ?? 0, runMsOf(ended, draft.at)) } : {}),
  })
  dropAsk(draft, project.id)
  sayOrder(draft, project, order, {
    fact: failed ? 'orderFailed' : 'orderSucceeded',
    ...(failed && ending.cause !== null ? { cause: ending.cause } : {}),
    reason: ending.message,
  })
  releaseMachine(draft, target, {
    ...(failed ? {} : { lastPatchedAt: draft.at }),
    // A person who resolves an order knows no more of it than the machine's own last word.
    ...(ending.result === null ? {} : { rebootPending: ending.rebootPending }),
  })
  // Until it is decided about, a failed machine stays in its project: nobody else may ask for it.
  if (failed && !isDecided) keepMachine(draft, target)
  freeLine(draft, `project:${order.project}`, target)
  if (target.keepsLine) touchWaiting(draft, order.project)
  else freeLine(draft, `cluster:${target.cluster}`, target)
  draft.touch(project.id)
  noteBag(
    draft,
    project,
    target,
    `${target.name}: ${ending.state}${ending.cause === null ? '' : ` (${ending.cause})`}: ${ending.message}${pendingNote(target)}${diagnosisOf(ending)}`,
  )
}

const DIAGNOSIS_LINES_MAX = 20

/** What whoever reads the task needs to understand a failure without smith at hand. */
function diagnosisOf({ state, evidence, advice }: Ending): string {
  if (state === 'succeeded') return ''
  const quoted = evidence.slice(-DIAGNOSIS_LINES_MAX).map((line) => `\n> ${line}`)
  const tips = advice.slice(0, DIAGNOSIS_LINES_MAX).map((line) => `\n- ${line}`)
  return [...quoted, ...tips].join('')
}

/** What is said of a reboot that is due and was not done. */
export function pendingNote(target: Target): string {
  return target.rebootPending ? '; a reboot is pending' : ''
}

function keepMachine(draft: Draft, target: Target): void {
  const machine = draft.get('machines', target.machine)
  if (machine !== undefined && machine.state === 'active')
    draft.put('machines', machine.id, { ...machine, project: target.project })
}

/** granted -> voided: the machine's root half has proved that the run never began and never will. */
export function voidOrder(draft: Draft, order: Order, result: Result): void {
  assert(isActive(order) && !order.claimed, 'only a grant that was never claimed can be void')
  const target = targetOf(draft, order.project, order.target)
  const project = projectOf(draft, order.project)
  if (project.cancelling === null) {
    sayOrder(draft, project, order, { fact: 'orderVoided' })
    endOrder(draft, order, {
      state: 'failed',
      cause: 'unreachable',
      // Why is known to the machine alone: its clock may be wrong, or the grant was not to its liking.
      message: `${result.message}; nothing was changed`,
      evidence: result.evidence,
      advice: [
        `look on ${order.name} why the grant was not taken up: /opt/smith-agent.log`,
        `then: smith retry ${project.change ?? ''} ${order.name}`,
      ],
      latched: false,
      rebootPending: target.rebootPending,
      result,
      resolvedBy: null,
      isDecided: false,
    })
    return
  }
  draft.put('orders', order.id, { ...order, state: 'voided', endedAt: draft.at, result, revoking: false })
  changeTarget(draft, target, { state: 'cancelled', endedAt: draft.at, message: 'called back before it began' })
  const after = changeProject(draft, order.project, { active: null, freeSince: draft.at })
  dropAsk(draft, order.project)
  sayOrder(draft, after, order, { fact: 'orderVoided' })
  releaseMachine(draft, target, {})
  freeLine(draft, `project:${order.project}`, target)
  freeLine(draft, `cluster:${target.cluster}`, target)
  draft.touch(order.project)
}
