/**
 * The change provider that lives in smith itself: numbers, the approval of a digest by someone other than the
 * requester, tasks, notes and the close code. A pure step over its own table, run by the same driver as the core, so
 * that every decision is in the journal with who and why. To the core it looks as ServiceNow will: asked, it answers.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { type Draft, type View, createDraft, instanceOf } from '../domain/draft.ts'
import type { ChangeCall, Command, Envelope, Outcome, Permission, Reply, Send, Tools } from '../domain/events.ts'
import { mayCommand } from '../domain/authority.ts'
import { refuseRight } from '../domain/rights.ts'
import { closeCodeOf } from '../domain/rollout.ts'
import type { Actor, LocalChange } from '../domain/state.ts'
import { policyName } from '../domain/trains.ts'

type Decision = Extract<Command, { type: 'decide' }>

/** Handles the two events that are not the core's: a call of the core, and a person's decision. */
export function localStep(view: View, envelope: Envelope, tools: Tools): Outcome {
  const draft = createDraft(view, envelope, tools)
  const { event } = envelope
  if (event.type === 'localCall') return draft.outcome(take(draft, event.call))
  if (event.type === 'command' && event.command.type === 'decide') return draft.outcome(decide(draft, event.command))
  throw new Error(`${event.type} does not belong to the local change provider`)
}

/** True for the events that localStep handles; the driver routes by it. */
export function isLocal(event: Envelope['event']): boolean {
  return event.type === 'localCall' || (event.type === 'command' && event.command.type === 'decide')
}

function take(draft: Draft, call: ChangeCall): Reply {
  switch (call.call) {
    case 'raise':
      return raise(draft, call)
    case 'permission': {
      const change = draft.get('localChanges', call.change)
      if (change === undefined) {
        draft.send({
          to: 'core',
          event: {
            type: 'providerFailed',
            project: call.project,
            ask: call.ask,
            reason: `there is no change ${call.change}`,
          },
        })
      } else {
        draft.send({
          to: 'core',
          event: { type: 'permission', project: call.project, ask: call.ask, permission: permissionOf(draft, change) },
        })
      }
      return { ok: true }
    }
    case 'task':
      return note(draft, call.change, `${call.task} ${call.state}: ${call.note}`)
    case 'close':
      return close(draft, call)
  }
}

/** Idempotent by project: asked twice, the same change answers. */
function raise(draft: Draft, call: Extract<ChangeCall, { call: 'raise' }>): Reply {
  const known = [...draft.all('localChanges')].find((change) => change.project === call.project)
  const change = known ?? newChange(draft, call)
  draft.send({
    to: 'core',
    event: { type: 'changeRaised', project: call.project, change: change.number, tasks: change.tasks },
  })
  if (known === undefined && change.policy !== undefined) draft.send(newsOf(draft, change))
  return { ok: true }
}

function newChange(draft: Draft, call: Extract<ChangeCall, { call: 'raise' }>): LocalChange {
  const instance = instanceOf(draft)
  const number = `CHG${String(instance.change + 1).padStart(7, '0')}`
  const tasks = call.bags.map((_, index) => `CTASK${String(instance.task + index + 1).padStart(7, '0')}`)
  draft.put('instance', 'instance', { ...instance, change: instance.change + 1, task: instance.task + tasks.length })
  const policy = call.approvedBy ?? []
  const change: LocalChange = {
    number,
    project: call.project,
    requester: call.requester,
    summary: call.summary,
    digest: call.digest,
    tasks,
    ...(policy.length === 0
      ? { approval: 'requested', decidedBy: null, decidedAt: null }
      : { approval: 'approved', decidedBy: policyName(policy), decidedAt: draft.at, policy }),
    reason: null,
    state: 'open',
    closeCode: null,
    closeNotes: null,
    notes: [...call.terms, ...call.warnings],
  }
  draft.put('localChanges', number, change)
  return change
}

/** What approved by its policy and no longer does takes its approval back, until a person approves. */
function permissionOf(draft: Draft, change: LocalChange): Permission {
  const { trains } = draft.tools.settings
  const strict = change.policy?.find((name) => trains.find((train) => train.name === name)?.approval !== false)
  const decided =
    strict === undefined || change.approval !== 'approved'
      ? { approval: change.approval, reason: change.reason }
      : { approval: 'requested' as const, reason: `the policy of train ${strict} asks for an approval now` }
  return {
    change: change.number,
    ...decided,
    by: change.decidedBy,
    digest: change.digest,
    state: change.state,
    onHold: false,
    window: null,
    readAt: draft.at,
  }
}

const NOTES_MAX = 200

function note(draft: Draft, number: string, text: string): Reply {
  const change = draft.get('localChanges', number)
  if (change !== undefined && change.notes.at(-1) !== text) {
    draft.put('localChanges', number, { ...change, notes: [...change.notes, text].slice(-NOTES_MAX) })
  }
  return { ok: true }
}

function close(draft: Draft, call: Extract<ChangeCall, { call: 'close' }>): Reply {
  const change = draft.get('localChanges', call.change)
  if (change === undefined) return { ok: true }
  draft.retire('localChanges', call.change, {
    ...change,
    state: 'closed',
    closeCode: call.code,
    closeNotes: call.notes,
  })
  draft.say({ fact: 'changeClosed', change: call.change, project: call.project, state: call.code, text: call.notes })
  return { ok: true }
}

function decide(draft: Draft, command: Decision): Reply {
  const refusal = mayCommand(draft.actor, command, draft.tools.settings) ?? mayDecide(draft, command)
  if (refusal?.kind === 'not-allowed') return refuseRight(draft, command, refusal)
  if (refusal !== null) return { ok: false, refusals: [refusal] }
  const change = draft.get('localChanges', command.change)
  if (change === undefined) return { ok: false, refusals: [notFound(draft, command.change)] }
  const by = personOf(draft.actor)
  const approval =
    command.decision === 'approve' ? 'approved' : change.approval === 'approved' ? 'withdrawn' : 'rejected'
  // A person may approve what a policy has approved: it stands by the person then.
  if (change.approval === approval && change.policy === undefined) return { ok: true }
  const { policy: _policy, ...rest } = change
  const decided: LocalChange = { ...rest, approval, decidedBy: by, decidedAt: draft.at, reason: command.reason }
  draft.put('localChanges', change.number, decided)
  const { number, project } = change
  const why = command.reason === '' ? {} : { reason: command.reason }
  draft.say({ fact: 'changeDecided', change: number, project, state: approval, ...why })
  draft.send(newsOf(draft, decided))
  return { ok: true }
}

/** What nobody asked about: it can open a project and grants nothing. */
function newsOf(draft: Draft, change: LocalChange): Send {
  const permission = permissionOf(draft, change)
  return { to: 'core', event: { type: 'permission', project: change.project, ask: null, permission } }
}

function mayDecide(draft: Draft, command: Decision): Refusal | null {
  const change = draft.get('localChanges', command.change)
  if (change === undefined) return notFound(draft, command.change)
  if (command.decision === 'reject') return null
  const { requesterMayApprove, localAdminMayApprove } = draft.tools.settings.approval
  const isSelf = personOf(draft.actor) === change.requester
  if (isSelf && !requesterMayApprove && !(draft.actor.kind === 'local-admin' && localAdminMayApprove)) {
    return {
      kind: 'not-allowed',
      message: `${change.requester} asked for ${change.number} and can't approve it`,
      subject: change.number,
      remedy: 'someone else with the role approver must: smith approve',
    }
  }
  if (command.digest === change.digest) return null
  return {
    kind: 'conflict',
    message: `the digest given is not that of ${change.number}`,
    subject: change.number,
    remedy: `look at the plan again: smith approve ${change.number} shows it with its digest ${change.digest}`,
  }
}

function notFound(draft: Draft, number: string): Refusal {
  const past = draft.archived('localChanges', number)
  return past === undefined
    ? {
        kind: 'not-found',
        message: `there is no change ${number} here`,
        subject: number,
        remedy: 'smith status lists the projects',
      }
    : {
        kind: 'conflict',
        message: `${number} is closed`,
        subject: number,
        remedy: 'ask for a new one with smith patch',
      }
}

function personOf(actor: Actor): string {
  return actor.kind === 'person' || actor.kind === 'machine' ? actor.name : actor.kind
}

/**
 * The closings that a stop between two turns lost: changes still open whose project has ended. Called once at the
 * start, before anything else.
 */
export function unfinishedClosings(view: View): ChangeCall[] {
  return [...view.all('localChanges')].flatMap((change) => {
    const project = view.get('projects', change.project) ?? view.archived('projects', change.project)
    if (project !== undefined && project.state !== 'closed') return []
    // Without a project its request was cancelled before it had a number.
    const code = project === undefined ? ('unsuccessful' as const) : closeCodeOf(project)
    const notes = project?.closeNotes ?? ''
    return [{ call: 'close' as const, project: change.project, change: change.number, code, notes }]
  })
}
