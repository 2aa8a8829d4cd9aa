/**
 * ServiceNow as the change provider: its questions are asked at once, its calls go through the outbox. Made by the
 * composition; everything it does goes through the ports.
 */
import type { View } from '../../domain/draft.ts'
import type { ChangeCall, Delivered, Event } from '../../domain/events.ts'
import type { OutboxRow, RemoteChange } from '../../domain/state.ts'
import type { Clock, Http, Log, Random } from '../../ports.ts'
import { raisedEvent } from '../outbox.ts'
import { type Tried, createSender } from '../sender.ts'
import { createClient } from './client.ts'
import { closeChange } from './close.ts'
import type { Desk } from './desk.ts'
import { ServiceNowError } from './failures.ts'
import { type Finding, examine } from './doctor.ts'
import { readPermission } from './permission.ts'
import { raise } from './raise.ts'
import { type ServiceNowSettings, linkOf } from './settings.ts'
import { tellTask } from './task.ts'

export type ServiceNowPorts = {
  readonly settings: ServiceNowSettings
  readonly view: View
  readonly submit: (event: Event) => Promise<unknown>
  readonly now: () => number
  readonly http: Http
  readonly readSecret: (file: string) => string
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  /** An answer that takes longer is too old to permit anything. */
  readonly permissionMsMax: number
  readonly requesterMayApprove: boolean
}

export type ServiceNow = {
  readonly toChange: (call: ChangeCall) => void
  /** Takes up the calls that a former life has left. */
  readonly start: () => void
  readonly stop: () => void
  readonly linkOf: (change: RemoteChange) => string
  /** What keeps the change of a project from going on there: what a person must do, and what fails. */
  readonly troubles: (project: string) => readonly string[]
  readonly examine: () => Promise<readonly Finding[]>
}

const PARALLEL_MAX = 4

export function createServiceNow(ports: ServiceNowPorts): ServiceNow {
  const { settings, view, clock, log } = ports
  const asked = new Map<string, Map<string, string>>()
  const desk: Desk = {
    settings,
    client: createClient({ settings, http: ports.http, clock, readSecret: ports.readSecret }),
    view,
    clock,
    log,
    now: ports.now,
    startedAt: clock.monotonicNow(),
    requesterMayApprove: ports.requesterMayApprove,
    approvers: new Map(),
    ask: (project, subject, text) => {
      const mine = asked.get(project) ?? new Map<string, string>()
      if (text === null) mine.delete(subject)
      else mine.set(subject, text)
      asked.set(project, mine)
    },
  }
  const implementing = new Set<string>()
  const deliver = async (row: OutboxRow, change: RemoteChange, tried: Tried) => {
    const delivered = await make(desk, row, { change, tried, implementing })
    if (row.call.call === 'close') {
      asked.delete(row.project)
      desk.approvers.delete(row.project)
      implementing.delete(row.project)
    }
    return delivered
  }
  const { retryMsMin, retryMsMax } = settings
  const sender = createSender({
    ...{ view, submit: ports.submit, clock, random: ports.random, log },
    deliver,
    limits: { retryMsMin, retryMsMax, parallelMax: PARALLEL_MAX },
  })
  let isStopped = false
  const submit = (event: Event) => {
    if (isStopped) return
    ports.submit(event).catch((error: unknown) => log.debug({ err: error }, 'not told: the coordinator ends'))
  }
  return {
    toChange: (call) => {
      if (call.call === 'permission') {
        void answerOf(desk, call, ports.permissionMsMax).then(submit)
        return
      }
      const change = view.get('remoteChanges', call.project)
      // The core asks again until it knows the number.
      if (call.call === 'raise' && change?.number != null) submit(raisedEvent({ ...change, number: change.number }))
      sender.wake(call.project)
    },
    start: () => sender.start(),
    stop: () => {
      isStopped = true
      sender.stop()
    },
    linkOf: (change) => linkOf(settings, change.sysId ?? ''),
    troubles: (project) => {
      const problem = sender.problem(project)
      return [...(asked.get(project)?.values() ?? []), ...(problem === null ? [] : [problem])]
    },
    examine: () => examine(desk, sender.problem),
  }
}

function make(
  desk: Desk,
  row: OutboxRow,
  given: { readonly change: RemoteChange; readonly tried: Tried; readonly implementing: Set<string> },
): Promise<Delivered> {
  const { call } = row
  switch (call.call) {
    case 'raise':
      return raise(desk, call, given.tried)
    case 'task':
      return unlessGone(desk, given.change, tellTask(desk, row, call, given))
    case 'close':
      return unlessGone(desk, given.change, closeChange(desk, call, given.change, given.tried))
  }
}

/** A change that is not there any more keeps nobody who has given it up; else a person is told how to. */
async function unlessGone(desk: Desk, change: RemoteChange, doing: Promise<Delivered>): Promise<Delivered> {
  try {
    return await doing
  } catch (error) {
    if (!isGone(error)) throw error
    const project = desk.view.get('projects', change.project) ?? desk.view.archived('projects', change.project)
    if (change.givenUp !== true && project !== undefined && project.cancelling === null) throw goneError(change, error)
    desk.log.warn({ change: change.number, problem: error.message }, 'given up, since it is not there any more')
    return { what: 'done' }
  }
}

function isGone(error: unknown): error is ServiceNowError {
  return error instanceof ServiceNowError && error.kind === 'not-found'
}

function goneError({ number }: RemoteChange, cause: ServiceNowError): ServiceNowError {
  const text = `${number ?? ''} is not in ServiceNow any more, or smith's account may not read it (404); put it back, or give it up: smith cancel ${number ?? ''}`
  return new ServiceNowError('not-found', text, { cause })
}

/** Never fails: that there is no answer is one too, and denies. */
async function answerOf(
  desk: Desk,
  call: Extract<ChangeCall, { call: 'permission' }>,
  timeoutMs: number,
): Promise<Event> {
  const { project, ask } = call
  const change = desk.view.get('remoteChanges', project)
  try {
    if (change === undefined) throw new Error(`there is no change ${call.change}`)
    const permission = await readPermission(desk, change, timeoutMs)
    desk.ask(project, 'permission', null)
    return { type: 'permission', project, ask, permission }
  } catch (failure) {
    const gone = isGone(failure) && change !== undefined
    const error = gone ? goneError(change, failure) : failure
    const reason = error instanceof Error ? error.message : String(error)
    desk.log.warn({ change: call.change, problem: reason }, 'no permission')
    // An open project says it in its stop.
    const isPending = desk.view.get('projects', project)?.state === 'pending'
    desk.ask(project, 'permission', isPending ? reason : null)
    const how = gone ? { isGone: true as const } : {}
    return { type: 'providerFailed', project, ask, reason: reason.slice(0, 1000), ...how }
  }
}
