/**
 * Recurring requests: a schedule makes a request by itself at the times of its cron expression, in the name of the
 * person who made it and with the rights that this person has then. It never approves. A firing is one turn with the
 * request that it makes, so that no crash can leave one without the other. A time that was missed is told and not made
 * up for.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { mayCommand } from './authority.ts'
import type { Draft, View } from './draft.ts'
import type { Command, Reply } from './events.ts'
import { actorName, makeRequest } from './planning.ts'
import { parseRequest } from './request.ts'
import type { Firing, Schedule } from './schedule-rows.ts'
import type { Actor, Instant } from './state.ts'
import { badValue } from './words.ts'

type Add = Extract<Command, { type: 'scheduleAdd' }>

const SCHEDULES_MAX = 200
const FIRINGS_KEPT = 20
const REASONS_KEPT = 20
const REASON_MAX = 500
/** A firing that is later than this was missed: the coordinator was down, or its clock jumped. */
const LATE_MS_MAX = 60_000
const MISSED_COUNTED_MAX = 1000

export function addSchedule(draft: Draft, { name, cron, text }: Add): Reply {
  const refusals: Refusal[] = []
  if (draft.get('schedules', name) !== undefined)
    refusals.push({
      kind: 'exists',
      message: `there is a schedule ${name} already`,
      subject: name,
      remedy: `give another name, or first: smith schedule remove ${name}`,
    })
  if (draft.size('schedules') >= SCHEDULES_MAX)
    refusals.push({
      kind: 'too-many',
      message: `there are ${SCHEDULES_MAX} schedules`,
      remedy: 'remove one that is no longer needed (smith schedule list)',
    })
  const next = draft.tools.calendar.nextTime(cron, draft.at)
  if (next === null || typeof next === 'object')
    refusals.push({
      kind: 'bad-value',
      message: `${cron} is no cron expression: ${next === null ? 'its time never comes' : next.problem}`,
      subject: cron,
      remedy: 'give minute, hour, day, month and weekday, such as "0 22 * * 1-5"',
    })
  const parse = parseRequest(text)
  if (!parse.ok) refusals.push(...parse.refusals)
  const { window } = parse.parsed.pace
  if (window !== null)
    refusals.push(
      badValue(
        'window',
        window,
        'is one time, and a schedule asks again and again',
        'leave it out; a train has windows',
      ),
    )
  if (refusals.length > 0) return { ok: false, refusals }
  const by = actorName(draft.actor)
  const id = draft.tools.newId()
  const schedule: Schedule = {
    ...{ id, name, cron, text, by },
    createdAt: draft.at,
    next: typeof next === 'number' ? next : null,
    firings: [],
  }
  draft.put('schedules', name, schedule)
  draft.say({ fact: 'scheduleMade', text: `${name}: ${cron} ${text}`.slice(0, 1000) })
  return { ok: true, value: { id, name } }
}

export function removeSchedule(draft: Draft, name: string): Reply {
  if (draft.get('schedules', name) === undefined) return noSchedule(name)
  draft.remove('schedules', name)
  draft.say({ fact: 'scheduleRemoved', text: name })
  return { ok: true }
}

/**
 * Asks now, in the name of whoever says so: in that of the schedule's person somebody else could ask without being
 * seen, and then approve it.
 */
export function runSchedule(draft: Draft, name: string): Reply {
  const schedule = draft.get('schedules', name)
  if (schedule === undefined) return noSchedule(name)
  const busy = overlapOf(draft, schedule)
  if (busy !== null)
    return {
      ok: false,
      refusals: [
        { kind: 'conflict', message: `${name}: ${busy}`, subject: name, remedy: 'wait for its end, or cancel it' },
      ],
    }
  return ask(draft, schedule, { at: draft.at, actor: draft.actor, key: null })
}

function noSchedule(name: string): Reply {
  const remedy = 'smith schedule list has those that there are'
  return {
    ok: false,
    refusals: [{ kind: 'not-found', message: `there is no schedule ${name}`, subject: name, remedy }],
  }
}

/** Times were written in the time zone of the configuration, which may be another since the last start. */
export function reopenSchedules(draft: Draft): void {
  for (const schedule of [...draft.all('schedules')]) {
    const next = nextOf(draft, schedule, draft.at)
    if (schedule.next !== null && schedule.next > draft.at && next !== schedule.next)
      draft.put('schedules', schedule.name, { ...schedule, next })
  }
}

/** Fires what is due. The latest of several times that have come counts, when it is not late either. */
export function fireDue(draft: Draft, schedule: Schedule): void {
  if (schedule.next === null || schedule.next > draft.at) return
  const first = schedule.next
  let due = first
  let passed = 0
  let next = nextOf(draft, schedule, due)
  while (next !== null && next <= draft.at && passed < MISSED_COUNTED_MAX) {
    passed += 1
    due = next
    next = nextOf(draft, schedule, due)
  }
  if (next !== null && next <= draft.at) next = nextOf(draft, schedule, draft.at)
  draft.put('schedules', schedule.name, { ...schedule, next })
  const isLate = draft.at - due > LATE_MS_MAX
  const missed = isLate ? passed + 1 : passed
  if (missed > 0) tellMissed(draft, schedule, { first, missed })
  if (!isLate) fire(draft, schedule, due)
}

function nextOf({ tools }: Draft, { cron }: Schedule, after: Instant): Instant | null {
  const next = tools.calendar.nextTime(cron, after)
  return typeof next === 'number' ? next : null
}

function tellMissed(draft: Draft, schedule: Schedule, { first, missed }: { first: Instant; missed: number }): void {
  const times =
    missed === 1
      ? 'this time was'
      : `${missed > MISSED_COUNTED_MAX ? `over ${MISSED_COUNTED_MAX}` : missed} times from this on were`
  const reason = `${times} missed, since the coordinator was not running or its clock jumped; nothing was asked for`
  note(draft, schedule, { at: first, by: schedule.by, what: 'missed', request: null, reasons: [reason] })
  draft.say({ fact: 'scheduleMissed', text: schedule.name, reason })
}

function fire(draft: Draft, schedule: Schedule, at: Instant): void {
  const skip = (what: 'refused' | 'skipped', reason: string) => {
    note(draft, schedule, { at, by: schedule.by, what, request: null, reasons: [reason] })
    draft.say({ fact: what === 'skipped' ? 'scheduleSkipped' : 'scheduleRefused', text: schedule.name, reason })
  }
  const busy = overlapOf(draft, schedule)
  if (busy !== null) return skip('skipped', busy)
  const actor = actorOf(draft, schedule.by)
  if ('problem' in actor) return skip('refused', actor.problem)
  // The same time of the same schedule is the same request, whatever was restored or repeated.
  const key = draft.tools.sha256(`schedule ${schedule.id} ${at}`).slice(0, 32)
  ask(draft, schedule, { at, actor, key })
}

/** The person as they are now; the rights are checked with the command. */
function actorOf(draft: Draft, name: string): Actor | { readonly problem: string } {
  if (name === 'local-admin') return { kind: 'local-admin' }
  const user = draft.get('users', name)
  if (user === undefined || user.revokedAt !== null) return { problem: `${name} is no user any more` }
  if (user.expiresAt !== null && user.expiresAt <= draft.at) return { problem: `the token of ${name} has expired` }
  return { kind: 'person', name, roles: user.roles }
}

type Asking = { readonly at: Instant; readonly actor: Actor; readonly key: string | null }

function ask(draft: Draft, schedule: Schedule, { at, actor, key }: Asking): Reply {
  const command = { type: 'request', text: schedule.text, preview: false, key } as const
  const denied = mayCommand(actor, command, draft.tools.settings)
  const reply: Reply = denied === null ? makeRequest({ ...draft, actor }, command) : { ok: false, refusals: [denied] }
  const by = actorName(actor)
  const request = reply.ok ? (reply.value?.request ?? null) : null
  const refusals = reply.ok ? [] : reply.refusals.map(({ message }) => message.slice(0, REASON_MAX))
  const reasons = refusals.slice(0, REASONS_KEPT)
  note(draft, schedule, { at, by, what: reply.ok ? 'asked' : 'refused', request, reasons })
  if (request === null)
    draft.say({ fact: 'scheduleRefused', text: schedule.name, reason: reasons.join('; ').slice(0, 1000) })
  else draft.say({ fact: 'scheduleFired', text: schedule.name, request, reason: `in the name of ${by}` })
  return reply
}

function note(draft: Draft, { name }: Schedule, firing: Firing): void {
  const now = draft.get('schedules', name)
  if (now === undefined) return
  draft.put('schedules', name, { ...now, firings: [...now.firings, firing].slice(-FIRINGS_KEPT) })
}

/** What of the last firing is not over yet, null when nothing is. */
function overlapOf(view: View, schedule: Schedule): string | null {
  const last = schedule.firings.findLast(({ request }) => request !== null)
  const request = last?.request == null ? undefined : view.archived('requests', last.request)
  if (request === undefined) return null
  if (request.state === 'planning' || request.state === 'raising') return `its last request (${request.id}) is not done`
  const project = request.project === null ? undefined : view.get('projects', request.project)
  return project === undefined || project.state === 'closed' ? null : `its last project ${project.change} is still open`
}
