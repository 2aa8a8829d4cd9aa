/**
 * The core's one entry: an event and the state go in; the rows to write, the messages to send and the answer come
 * out. Pure and synchronous: the driver commits before it sends. Every event ends with a look at the projects that
 * it touched, so that nothing that could go on is left standing.
 */
import { takeReport } from './reported.ts'
import { unreachable } from '../../protocol/errors.ts'
import { mayCommand } from './authority.ts'
import { refuseChange, takeChange, takeFailure, takePermission } from './changes.ts'
import { open, tick } from './clock.ts'
import { freeze, steer, unfreeze } from './commands.ts'
import { type Draft, type View, createDraft } from './draft.ts'
import { refuseCall, refuseRight } from './rights.ts'
import type { Command, Envelope, Event, Outcome, Reply, Tools } from './events.ts'
import {
  addUser,
  closeSession,
  enrol,
  newEnrolment,
  openSession,
  revokeEnrolment,
  revokeUser,
  quarantine,
} from './fleet.ts'
import { takeNews } from './news.ts'
import { makeRequest } from './planning.ts'
import { addSchedule, removeSchedule, runSchedule, takeDue } from './recurring.ts'
import { advanceTouched } from './rollout.ts'

export function step(view: View, envelope: Envelope, tools: Tools): Outcome {
  const draft = createDraft(view, envelope, tools)
  const reply = handle(draft, envelope.event)
  advanceTouched(draft)
  return draft.outcome(reply)
}

function handle(draft: Draft, event: Event): Reply {
  switch (event.type) {
    case 'opened':
      open(draft)
      return { ok: true }
    case 'tick':
      tick(draft)
      return { ok: true }
    case 'command':
      return command(draft, event.command)
    case 'backupMade':
      draft.say({ fact: 'backupMade', text: event.path.slice(0, 1000) })
      return { ok: true }
    case 'reportAsked':
      draft.say({ fact: 'reportAsked', machine: event.machine })
      return { ok: true }
    case 'loggedIn':
    case 'loggedOut':
      draft.say({ fact: event.type, text: event.address })
      return { ok: true }
    case 'callRefused':
      return refuseCall(draft, event)
    case 'enrol':
      return enrol(draft, event)
    case 'sessionOpened':
      return openSession(draft, event)
    case 'sessionClosed':
      return closeSession(draft, event)
    case 'keyShared':
      return quarantine(draft, event)
    case 'agentNews':
      return takeNews(draft, event.machine, event.session, event.news)
    case 'changeRaised':
      return takeChange(draft, event)
    case 'changeRefused':
      return refuseChange(draft, event.project, event.refusal)
    case 'permission':
      return takePermission(draft, event)
    case 'providerFailed':
      return takeFailure(draft, event)
    case 'scheduleDue':
      return takeDue(draft, event)
    case 'reportKept':
      return takeReport(draft, event)
    case 'localCall':
    case 'callDelivered':
      throw new Error(`${event.type} belongs to the change provider, not to the core`)
    default:
      return unreachable(event)
  }
}

function command(draft: Draft, given: Command): Reply {
  const refusal = mayCommand(draft.actor, given, draft.tools.settings)
  if (refusal !== null) return refuseRight(draft, given, refusal)
  switch (given.type) {
    case 'request':
      return makeRequest(draft, given)
    case 'pause':
    case 'resume':
    case 'cancel':
    case 'retry':
    case 'skip':
    case 'resolve':
      return steer(draft, given)
    case 'freeze':
      return freeze(draft, given.reason)
    case 'unfreeze':
      return unfreeze(draft, given.reason)
    case 'enrolNew':
      return newEnrolment(draft, given)
    case 'enrolRevoke':
      return revokeEnrolment(draft, given.name)
    case 'userAdd':
      return addUser(draft, given)
    case 'userRevoke':
      return revokeUser(draft, given.name)
    case 'scheduleAdd':
      return addSchedule(draft, given)
    case 'scheduleRemove':
      return removeSchedule(draft, given.name)
    case 'scheduleRun':
      return runSchedule(draft, given)
    case 'decide':
      throw new Error('decide belongs to change/local, not to the core')
    default:
      return unreachable(given)
  }
}
