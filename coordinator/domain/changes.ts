/**
 * What the change provider says: the change was raised, its approval came, went or was refused. Approval opens a
 * project by letting its machines plan once more; news never grants anything, only an answer to an ask does.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { cancelUnstarted } from './commands.ts'
import type { Draft } from './draft.ts'
import type { Event, Permission, Reply } from './events.ts'
import { abandonProject, actorName, endRequest } from './planning.ts'
import { checkAgain } from './queries.ts'
import { approvalLost, setDenied, usePermission } from './rollout.ts'
import type { Project } from './state.ts'
import { placeKey } from './state.ts'
import { bagOf, changeProject, dropAsk, mustHave, sayOf } from './targets.ts'

const DONE: Reply = { ok: true }

/** raising -> pending: the project bears the change's number from here on. */
export function takeChange(draft: Draft, event: Extract<Event, { type: 'changeRaised' }>): Reply {
  const project = draft.get('projects', event.project)
  if (project === undefined) return closeUnwanted(draft, event)
  if (project.state !== 'raising') return DONE
  draft.put('changes', event.change, { project: project.id })
  for (let index = 0; index < project.bags; index += 1) {
    const bag = bagOf(draft, project.id, index)
    draft.put('bags', placeKey(project.id, index), { ...bag, task: event.tasks[index] ?? null })
  }
  const request = mustHave(draft.get('requests', project.request), `request ${project.request}`)
  endRequest(draft, { ...request, state: 'raised', change: event.change })
  const raised = changeProject(draft, project.id, { state: 'pending', change: event.change })
  sayOf(draft, raised, {
    fact: 'changeRaised',
    request: project.request,
    text: `${raised.title} with build ${raised.build}`,
    reason: `asked for by ${raised.requester}`,
  })
  draft.touch(project.id)
  return DONE
}

/** It was raised for a request that was cancelled meanwhile: nobody knows its number, so it is closed at once. */
function closeUnwanted(draft: Draft, { project, change }: Extract<Event, { type: 'changeRaised' }>): Reply {
  if (draft.archived('projects', project) !== undefined) return DONE
  const notes = 'the request was cancelled before its change had a number'
  draft.send({ to: 'change', call: { call: 'close', project, change, code: 'unsuccessful', notes } })
  return DONE
}

/** The provider will not raise this change. */
export function refuseChange(draft: Draft, project: string, refusal: Refusal): Reply {
  const row = draft.get('projects', project)
  if (row?.state === 'raising') abandonProject(draft, row, refusal)
  return DONE
}

/** News of a change, or the answer to an ask. Only the answer can grant. */
export function takePermission(draft: Draft, event: Extract<Event, { type: 'permission' }>): Reply {
  const project = draft.get('projects', event.project)
  if (project === undefined || project.change !== event.permission.change) return DONE
  // An answer that is no longer waited for may be older than what is known: it can only deny.
  const isLate = event.ask !== null && draft.get('asks', project.id)?.id !== event.ask
  if (isLate && event.permission.approval === 'approved') return DONE
  takeNews(draft, project, event.permission)
  const now = draft.get('projects', event.project)
  if (now !== undefined && event.ask !== null) {
    if (now.state === 'open') usePermission(draft, now.id, event.ask, event.permission)
    else if (draft.get('asks', now.id)?.id === event.ask) dropAsk(draft, now.id)
  }
  draft.touch(event.project)
  return DONE
}

function takeNews(draft: Draft, project: Project, permission: Permission): void {
  const lost = approvalLost(project, permission)
  if (lost === null) {
    if (project.approval !== null) return
    const by = permission.by ?? 'unknown'
    const approved = changeProject(draft, project.id, { approval: { by, at: draft.at }, denied: null, stop: null })
    sayOf(draft, approved, { fact: 'changeApproved', reason: `by ${by}` })
    if (project.state === 'pending') changeProject(draft, project.id, { state: 'checking' })
    checkAgain(draft, project.id)
    return
  }
  const isRefused =
    permission.approval === 'rejected' || permission.approval === 'withdrawn' || permission.state === 'closed'
  if (project.state === 'pending') {
    if (isRefused) cancelRefused(draft, project, permission, lost)
    return
  }
  if (project.approval === null) return
  const without = changeProject(draft, project.id, {
    approval: null,
    denied: { code: 'approval', reason: lost },
  })
  dropAsk(draft, project.id)
  sayOf(draft, without, { fact: 'changeWithdrawn', reason: lost })
}

/** Rejected before anything ran: the project is over. */
function cancelRefused(draft: Draft, project: Project, permission: Permission, reason: string): void {
  const by = permission.by ?? actorName(draft.actor)
  const cancelled = changeProject(draft, project.id, { cancelling: { by, at: draft.at, reason } })
  dropAsk(draft, project.id)
  sayOf(draft, cancelled, { fact: 'changeRejected', reason })
  cancelUnstarted(draft, cancelled, reason)
}

/** The provider did not answer: that denies, and is asked again a little later. */
export function takeFailure(draft: Draft, event: Extract<Event, { type: 'providerFailed' }>): Reply {
  const project = draft.get('projects', event.project)
  if (project === undefined || event.ask === null || draft.get('asks', project.id)?.id !== event.ask) return DONE
  denyForProvider(draft, project, event.reason, event.isGone)
  return DONE
}

export function denyForProvider(draft: Draft, project: Project, reason: string, isGone?: true): void {
  dropAsk(draft, project.id)
  const gone = isGone === true ? { isGone } : {}
  if (project.state === 'open') setDenied(draft, project.id, { code: 'change-provider', reason, ...gone })
  draft.touch(project.id)
}
