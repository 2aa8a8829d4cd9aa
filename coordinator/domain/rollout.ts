/**
 * The serial order itself: what a project does next, and why not. `advance` is called for a project after every
 * event that may matter to it; it moves past machines that have ended, asks for permission when nothing stands in
 * the way, and records the one thing that does (stops.ts). A grant is made only in the turn that brings its
 * permission.
 *
 * Keeps SER-1 (a line has one order at a time), SER-2 (the next grant needs the one before finished and known) and
 * APR-1 (no grant without a fresh permission).
 */
import { assert } from './assert.ts'
import { type Draft, instanceOf } from './draft.ts'
import type { Permission } from './events.ts'
import { freeLine, noteBag, releaseMachine, takeLine } from './lines.ts'
import { ensureOrder, grantPayloadOf, pendingNote } from './order.ts'
import { checkAgain, dropChecks } from './queries.ts'
import { shortList } from './selection.ts'
import type { Order, Project, Target } from './state.ts'
import { placeKey } from './state.ts'
import { expectedMs, shutNow, windowShut } from './schedule.ts'
import { because, blockerOf, failuresStop, gateBlocker, nextTarget, setStop, stopsOf } from './stops.ts'
import {
  bagOf,
  changeProject,
  changeTarget,
  hasEnded,
  mustHave,
  dropAsk,
  namesPending,
  projectOf,
  sayOf,
  targetOf,
  targetsOf,
} from './targets.ts'

/** Looks at every project that the event touched, until none is left. */
export function advanceTouched(draft: Draft): void {
  for (let id = draft.takeTouched(); id !== undefined; id = draft.takeTouched()) {
    if (draft.get('projects', id) !== undefined) advance(draft, id)
  }
}

/** Goes as far as it can without another event, then states what stops the project, if anything. */
function advance(draft: Draft, id: string): void {
  let project = projectOf(draft, id)
  if (project.state === 'checking' && project.checksOpen === 0) project = changeProject(draft, id, { state: 'open' })
  if (project.state === 'open' || project.cancelling !== null) {
    project = passEnded(draft, project)
    if (project.cursor >= project.targets && project.active === null && project.undecided.length === 0) {
      closeProject(draft, project)
      return
    }
    offerAhead(draft, projectOf(draft, id))
  }
  if (hasReopened(draft, projectOf(draft, id))) planAfterShut(draft, id)
  project = projectOf(draft, id)
  const blocker = blockerOf(draft, project)
  setStop(draft, project, blocker)
  if (blocker?.code === 'window') changeProject(draft, id, { wasShut: true })
  project = projectOf(draft, id)
  if (blocker === null && isReadyToAsk(draft, project)) askPermission(draft, project)
}

/** The window of the request or of the configuration is open again; that of the change only its provider opens. */
function hasReopened(draft: Draft, project: Project): boolean {
  const isWaiting = project.state === 'open' && project.active === null && project.cancelling === null
  return isWaiting && project.wasShut && project.denied?.code !== 'window' && shutNow(draft, project) === null
}

/** A window has opened: all drift since the approval is named before the first grant. */
function planAfterShut(draft: Draft, id: string): void {
  changeProject(draft, id, { wasShut: false })
  checkAgain(draft, id)
}

/** Moves the cursor over machines that have ended, and lets those pass that have nothing to do. */
function passEnded(draft: Draft, project: Project): Project {
  let cursor = project.cursor
  while (cursor < project.targets) {
    const target = targetOf(draft, project.id, cursor)
    if (!hasEnded(target) && target.isEmpty && mayPass(draft, projectOf(draft, project.id), target))
      passTarget(draft, project, target)
    else if (!hasEnded(target)) break
    cursor += 1
  }
  return changeProject(draft, project.id, { cursor })
}

/** Whether a machine with nothing to do has its turn: it needs no permission, and never passes a stop. */
function mayPass(draft: Draft, project: Project, target: Target): boolean {
  const isBusy = project.checksOpen > 0 || project.approval === null || project.active !== null
  return (
    !isBusy &&
    !failuresStop(project) &&
    stopsOf(draft, project) === null &&
    gateBlocker(draft, project, target) === null &&
    shutNow(draft, project) === null
  )
}

function passTarget(draft: Draft, project: Project, target: Target): void {
  openPhase(draft, project, target)
  changeTarget(draft, target, { state: 'succeeded', startedAt: draft.at, endedAt: draft.at, message: 'nothing to do' })
  releaseMachine(draft, target, { lastPatchedAt: draft.at, rebootPending: target.rebootPending })
  sayOf(draft, project, { fact: 'machinePassed', machine: target.name })
  noteBag(draft, projectOf(draft, project.id), target, `${target.name}: nothing to do${pendingNote(target)}`)
}

/** The first machine of a phase is granted or passes: the phase is open. */
function openPhase(draft: Draft, project: Project, target: Target): void {
  const bag = bagOf(draft, project.id, target.bag)
  if (bag.phase <= project.phase) return
  changeProject(draft, project.id, { phase: bag.phase, soakFrom: null })
  sayOf(draft, project, { fact: 'phaseOpened', machine: target.name, text: `phase ${bag.phase}` })
}

function isReadyToAsk(draft: Draft, project: Project): boolean {
  return (
    project.state === 'open' &&
    project.active === null &&
    draft.get('asks', project.id) === undefined &&
    !failuresStop(project) &&
    project.cancelling === null
  )
}

export function askPermission(draft: Draft, project: Project): void {
  if (project.change === null) return
  const ask = { id: draft.tools.newId(), at: draft.at }
  draft.put('asks', project.id, ask)
  draft.send({ to: 'change', call: { call: 'permission', project: project.id, change: project.change, ask: ask.id } })
}

/** The provider's answer to the project's ask: grants the next order in this very turn, or says why not. */
export function usePermission(draft: Draft, id: string, ask: string, permission: Permission): void {
  const project = projectOf(draft, id)
  const asked = draft.get('asks', id)
  if (asked?.id !== ask) return
  dropAsk(draft, id)
  const age = draft.at - Math.min(asked.at, permission.readAt)
  if (
    Math.min(asked.at, permission.readAt) < project.freeSince ||
    age > draft.tools.settings.limits.permissionAgeMsMax
  ) {
    // Too old to count, so it is asked again; it says nothing about the change.
    draft.touch(id)
    return
  }
  const denied = denialOf(draft, project, permission)
  setDenied(draft, id, denied)
  if (denied !== null) {
    draft.touch(id)
    return
  }
  if (project.wasShut) {
    planAfterShut(draft, id)
    return
  }
  const now = projectOf(draft, id)
  const target = nextTarget(draft, now)
  if (
    target === null ||
    now.state !== 'open' ||
    now.active !== null ||
    now.cancelling !== null ||
    blockerOf(draft, now) !== null
  ) {
    draft.touch(id)
    return
  }
  grant(draft, now, target)
}

/** The same denial again writes nothing. */
export function setDenied(draft: Draft, id: string, denied: Project['denied']): void {
  const before = projectOf(draft, id).denied
  const isSame = before?.code === denied?.code && before?.reason === denied?.reason && before?.until === denied?.until
  if (!isSame) changeProject(draft, id, { denied })
}

/** Why this permission permits nothing now. Any doubt denies. */
function denialOf(draft: Draft, project: Project, permission: Permission): Project['denied'] {
  const lost = approvalLost(project, permission)
  if (lost !== null) return { code: 'approval', reason: lost }
  if (permission.onHold) return { code: 'change-on-hold', reason: 'the change is on hold' }
  const { window } = permission
  if (window === null) return null
  const { calendar, settings } = draft.tools
  const now = { at: draft.at, needMs: expectedMs(settings, project), calendar }
  const shut = windowShut('the window of the change', window, now)
  return shut === null
    ? null
    : { code: 'window', reason: shut.reason, ...(shut.until === null ? {} : { until: shut.until }) }
}

/** Why this is no approval of the project's plans, null when it is one. */
export function approvalLost(project: Project, permission: Permission): string | null {
  if (permission.state !== 'open') return 'the change is closed'
  if (permission.approval === 'approved')
    return permission.digest === project.digest ? null : 'the approval is for another plan than the one at hand'
  const by = permission.by === null ? '' : ` by ${permission.by}`
  const why = permission.reason === null || permission.reason === '' ? '' : `: ${permission.reason}`
  return permission.approval === 'requested'
    ? `the change waits for approval${why}`
    : `the approval was ${permission.approval}${by}${why}`
}

/** The linearisation point: takes both lines, raises the fence, commits, and only then is the grant sent. */
function grant(draft: Draft, project: Project, target: Target): void {
  assert(project.active === null, 'SER-1: the project already has an order in the works')
  openPhase(draft, project, target)
  const instance = instanceOf(draft)
  const machine = mustHave(draft.get('machines', target.machine), `machine ${target.machine}`)
  const fence = Math.max(instance.fence, machine.fence) + 1
  draft.put('instance', 'instance', { ...instance, fence })
  const offered = ensureOrder(draft, project, target)
  const order: Order = {
    ...offered,
    state: 'granted',
    fence,
    grantedAt: draft.at,
    startBy: draft.at + draft.tools.settings.limits.grantLifeMs,
    boot: draft.get('sessions', target.machine)?.bootId ?? '',
    heardAt: draft.at,
  }
  draft.put('orders', order.id, order)
  takeLine(draft, `project:${project.id}`, order)
  takeLine(draft, `cluster:${target.cluster}`, order)
  changeTarget(draft, target, {
    state: 'granted',
    order: order.id,
    attempt: order.attempt,
    startedAt: draft.at,
    endedAt: null,
    keepsLine: false,
  })
  changeProject(draft, project.id, { active: order.id })
  setStop(draft, projectOf(draft, project.id), null)
  // Whoever is asking for the same cluster now asks too early: it must ask again when this order has ended.
  for (const other of draft.all('projects')) if (draft.get('asks', other.id) !== undefined) draft.touch(other.id)
  sayOf(draft, project, {
    fact: 'orderGranted',
    machine: target.name,
    machineId: target.machine,
    order: order.id,
    fence,
  })
  draft.send({ to: 'agent', machine: target.machine, grant: grantPayloadOf(project, order, target) })
  noteBag(draft, projectOf(draft, project.id), target, `${target.name}: try ${order.attempt} granted`)
}

/** Lets the next machines download what their plan names, a few at a time; an offer has no authority. */
function offerAhead(draft: Draft, project: Project): void {
  if (project.state !== 'open' || project.approval === null || project.cancelling !== null || project.checksOpen > 0)
    return
  let ahead = 0
  for (
    let index = project.cursor;
    index < project.targets && ahead < draft.tools.settings.limits.prefetchAheadMax;
    index += 1
  ) {
    const target = targetOf(draft, project.id, index)
    if (hasEnded(target) || target.isEmpty) continue
    ahead += 1
    if (target.state !== 'planned' || target.check === 'refused' || draft.get('sessions', target.machine) === undefined)
      continue
    const order = ensureOrder(draft, project, target)
    changeTarget(draft, target, { state: 'offered', order: order.id })
    sayOf(draft, project, { fact: 'orderOffered', machine: target.name, order: order.id })
    draft.send({ to: 'agent', machine: target.machine, offer: { order: order.id, planHash: target.planHash } })
  }
}

/** The code with which the change of a closed project is closed. Nothing passed is no success, whoever wanted it so. */
export function closeCodeOf(project: Project): 'successful' | 'successful_issues' | 'unsuccessful' {
  const { pass, fail, skipped } = project.counts
  if (pass === 0 || fail > 0) return 'unsuccessful'
  return project.outcome === 'complete' && skipped === 0 ? 'successful' : 'successful_issues'
}

/** Every machine has ended and been decided about: closes the change and leaves memory. */
export function closeProject(draft: Draft, project: Project): void {
  const { pass, fail, skipped, cancelled } = project.counts
  const outcome =
    project.cancelling !== null && (cancelled > 0 || pass + fail === 0) ? 'cancelled' : fail > 0 ? 'failed' : 'complete'
  const pending = namesPending(targetsOf(draft, project))
  const notes =
    `${pass} passed, ${fail} failed, ${skipped} skipped, ${cancelled} cancelled` +
    (project.cancelling === null
      ? ''
      : `; cancelled by ${project.cancelling.by}${because(project.cancelling.reason)}`) +
    (pending.length === 0 ? '' : `; a reboot is pending on ${shortList(pending)}`)
  const closed: Project = {
    ...project,
    state: 'closed',
    outcome,
    stop: null,
    closedAt: draft.at,
    closeNotes: notes,
  }
  for (let index = 0; index < project.targets; index += 1) {
    const target = targetOf(draft, project.id, index)
    freeLine(draft, `cluster:${target.cluster}`, target)
    releaseMachine(draft, target, {})
    const order = target.order === null ? undefined : draft.get('orders', target.order)
    if (order !== undefined)
      draft.retire(
        'orders',
        order.id,
        order.state === 'offered' ? { ...order, state: 'cancelled', endedAt: draft.at } : order,
      )
    draft.retire('targets', placeKey(project.id, index), target)
  }
  for (let index = 0; index < project.bags; index += 1)
    draft.retire('bags', placeKey(project.id, index), bagOf(draft, project.id, index))
  dropChecks(draft, project.id)
  dropAsk(draft, project.id)
  draft.retire('projects', project.id, closed)
  if (project.change !== null) {
    draft.retire('changes', project.change, { project: project.id })
    draft.send({
      to: 'change',
      call: { call: 'close', project: project.id, change: project.change, code: closeCodeOf(closed), notes },
    })
  }
  sayOf(draft, closed, { fact: 'projectClosed', state: outcome, text: notes })
}
