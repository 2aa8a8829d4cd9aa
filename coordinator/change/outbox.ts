/**
 * The outbox of a change provider outside smith, as pure steps: what a turn wants to be told is written in that turn's
 * own commit, one line of calls for each change; a call leaves it in the turn that records what came of it. So a crash
 * at any point forgets nothing. sender.ts makes the calls.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { mayCommand } from '../domain/authority.ts'
import { type Draft, type View, createDraft } from '../domain/draft.ts'
import type { Delivered, Envelope, Event, Outcome, Reply, Tools } from '../domain/events.ts'
import { type OutboxRow, type RemoteChange, type Write, placeKey } from '../domain/state.ts'
import { step } from '../domain/step.ts'

/** The outcome of a step of the core, with its calls put into the outbox. The sends stay: they wake the sender. */
export function withOutbox(view: View, at: number, outcome: Outcome): Outcome {
  const changes = new Map<string, RemoteChange>()
  const rows: Write[] = []
  for (const send of outcome.sends) {
    if (send.to !== 'change' || send.call.call === 'permission') continue
    const { call } = send
    const known = changes.get(call.project) ?? view.get('remoteChanges', call.project)
    // It is asked for again until it is answered, and stands in the outbox once.
    if (call.call === 'raise' && known !== undefined) continue
    const change = known ?? (call.call === 'raise' ? newChange(call) : null)
    // Closing is the last call of a change: one that was closed takes no more.
    if (change === null) continue
    const row: OutboxRow = { project: call.project, place: change.queued, at, call }
    rows.push({ table: 'outbox', key: placeKey(row.project, row.place), row, live: true })
    changes.set(call.project, { ...change, queued: change.queued + 1 })
  }
  if (rows.length === 0) return outcome
  const writes = [...changes].map(([key, row]): Write => ({ table: 'remoteChanges', key, row, live: true }))
  return { ...outcome, writes: [...outcome.writes, ...writes, ...rows] }
}

function newChange(call: Extract<OutboxRow['call'], { call: 'raise' }>): RemoteChange {
  const { project, requester, digest } = call
  return { project, requester, digest, number: null, sysId: null, tasks: [], sent: 0, queued: 0 }
}

/** The call whose turn it is for a project; undefined when all were made. */
export function nextCall(view: View, project: string): OutboxRow | undefined {
  const change = view.get('remoteChanges', project)
  return change === undefined ? undefined : view.get('outbox', placeKey(project, change.sent))
}

/** True for the events that outboxStep handles; the driver routes by it. */
export function isOutbox(event: Event): boolean {
  return event.type === 'callDelivered' || (event.type === 'command' && event.command.type === 'decide')
}

export type OutboxOptions = {
  /** Where a person decides about a change. */
  readonly linkOf: (change: RemoteChange) => string
}

/** The core with the outbox around it: its calls are kept, and a change that it has ended with can be given up. */
export function createOutboxCore({ linkOf }: OutboxOptions): typeof step {
  return (view, envelope, tools) =>
    giveUp(view, envelope, tools) ??
    withOutbox(view, envelope.at, step(view, envelope, { ...tools, changeLink: linkOf }))
}

/** `smith cancel` of a project that has ended and whose change could not be closed: it is, or it is let go. */
function giveUp(view: View, envelope: Envelope, tools: Tools): Outcome | null {
  const { event, actor } = envelope
  if (event.type !== 'command' || event.command.type !== 'cancel') return null
  const { command } = event
  const project = view.get('changes', command.change) === undefined && view.archived('changes', command.change)?.project
  const change = typeof project === 'string' ? view.get('remoteChanges', project) : undefined
  if (change === undefined || mayCommand(actor, command, tools.settings) !== null) return null
  const draft = createDraft(view, envelope, tools)
  draft.put('remoteChanges', change.project, { ...change, givenUp: true })
  draft.say({ fact: 'cancelAsked', change: command.change, project: change.project, reason: command.reason })
  return draft.outcome({ ok: true })
}

/** What came of a call, and a person's decision, which is not for smith to take here. */
export function createOutboxStep(options: OutboxOptions): (view: View, envelope: Envelope, tools: Tools) => Outcome {
  return (view, envelope, tools) => {
    const draft = createDraft(view, envelope, tools)
    const { event } = envelope
    if (event.type === 'callDelivered') {
      take(draft, event)
      return draft.outcome({ ok: true })
    }
    if (event.type === 'command' && event.command.type === 'decide')
      return draft.outcome(refuseDecision(draft, event.command.change, options))
    throw new Error(`${event.type} does not belong to the outbox`)
  }
}

function take(draft: Draft, event: Extract<Event, { type: 'callDelivered' }>): void {
  const { project, place, delivered } = event
  const change = draft.get('remoteChanges', project)
  const row = draft.get('outbox', placeKey(project, place))
  if (change === undefined || row === undefined || change.sent !== place) return
  draft.remove('outbox', placeKey(project, place))
  const after = { ...change, sent: place + 1 }
  if (delivered.what === 'refused') return refuse(draft, project, delivered.refusal)
  if (delivered.what === 'raised') {
    const { number, sysId, tasks } = delivered
    draft.put('remoteChanges', project, { ...after, number, sysId, tasks })
    return tellRaised(draft, { project, number, tasks })
  }
  const { call } = row
  if (call.call !== 'close') return draft.put('remoteChanges', project, after)
  draft.retire('remoteChanges', project, after)
  draft.say({ fact: 'changeClosed', change: call.change, project, state: call.code, text: call.notes })
}

/** Nothing was raised: whatever else waited has nothing to be about. */
function refuse(draft: Draft, project: string, refusal: Refusal): void {
  const change = draft.get('remoteChanges', project)
  for (let place = change?.sent ?? 0; place < (change?.queued ?? 0); place += 1)
    draft.remove('outbox', placeKey(project, place))
  draft.remove('remoteChanges', project)
  draft.send({ to: 'core', event: { type: 'changeRefused', project, refusal } })
}

function tellRaised(draft: Draft, raised: { project: string; number: string; tasks: RemoteChange['tasks'] }): void {
  draft.send({ to: 'core', event: raisedEvent(raised) })
}

/** What the core is told of a change that was raised; told again when it asks again. */
export function raisedEvent({
  project,
  number,
  tasks,
}: {
  readonly project: string
  readonly number: string
  readonly tasks: RemoteChange['tasks']
}): Event {
  return { type: 'changeRaised', project, change: number, tasks: tasks.map((task) => task.number) }
}

function refuseDecision(draft: Draft, number: string, options: OutboxOptions): Reply {
  const id = (draft.get('changes', number) ?? draft.archived('changes', number))?.project
  const change = id === undefined ? undefined : draft.archived('remoteChanges', id)
  const refusal: Refusal =
    change === undefined
      ? {
          kind: 'not-found',
          message: `there is no change ${number} here`,
          subject: number,
          remedy: 'smith status lists the projects',
        }
      : {
          kind: 'not-allowed',
          message: `${number} is decided about where it was raised, not here; nothing was approved or rejected`,
          subject: number,
          remedy: `open ${options.linkOf(change)}`,
        }
  return { ok: false, refusals: [refusal] }
}

/** The form in which the outcome of a call is given back to the driver. */
export function deliveredEvent(row: OutboxRow, delivered: Delivered): Event {
  return { type: 'callDelivered', project: row.project, place: row.place, delivered }
}
