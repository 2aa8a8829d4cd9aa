/**
 * Recurring requests: a schedule makes a request by itself at the times of its cron expression, in the name of the
 * person who made it and with the rights that this person has then. It never approves. A firing is one turn with the
 * request that it makes, so that no crash can leave one without the other. A time that was missed is told and not made
 * up for. Where a source of machines is configured, it is asked when a time has come, and the firing waits for its answer:
 * until then nothing of it is stored, so that a restart finds the time due again, or missed.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { mayCommand } from './authority.ts'
import type { Draft, View } from './draft.ts'
import type { Command, Event, Reply } from './events.ts'
import type { Known } from './known.ts'
import { actorName, makeRequest } from './planning.ts'
import { parseRequest } from './request.ts'
import type { Firing, Schedule } from './schedule-rows.ts'
import type { Actor, Instant } from './state.ts'
import { badValue } from './words.ts'

type Add = Extract<Command, { type: 'scheduleAdd' }>
type Run = Extract<Command, { type: 'scheduleRun' }>

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
  draft.remove('scheduleAsks', name)
  draft.say({ fact: 'scheduleRemoved', text: name })
  return { ok: true }
}

/**
 * Asks now, in the name of whoever says so: in that of the schedule's person somebody else could ask without being
 * seen, and then approve it.
 */
export function runSchedule(draft: Draft, { name, known }: Run): Reply {
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
  return ask(draft, schedule, { at: draft.at, actor: draft.actor, key: null, known })
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

/** Fires what is due; where a source of machines is configured, once it has been asked. */
export function fireDue(draft: Draft, schedule: Schedule): void {
  const { name, next } = schedule
  if (next === null || next > draft.at || draft.get('scheduleAsks', name) !== undefined) return
  const due = dueAt(draft, schedule, { first: next, now: draft.at })
  if (due.isLate || draft.tools.settings.lookup === undefined) return fireAt(draft, schedule, due)
  const id = draft.tools.newId()
  draft.put('scheduleAsks', name, { id, at: draft.at })
  draft.send({ to: 'lookup', event: { type: 'scheduleDue', name, ask: id } })
}

/** The source was asked: fires what was due when it was, whatever time the answer took. */
export function takeDue(draft: Draft, event: Extract<Event, { type: 'scheduleDue' }>): Reply {
  const { name, known } = event
  const asked = draft.get('scheduleAsks', name)
  const schedule = draft.get('schedules', name)
  if (asked?.id !== event.ask || schedule === undefined || schedule.next === null) return { ok: true }
  draft.remove('scheduleAsks', name)
  fireAt(draft, schedule, dueAt(draft, schedule, { first: schedule.next, now: asked.at }), known)
  return { ok: true }
}

/** The times that have come: the latest counts when it is not late, and all others were missed. */
type Due = {
  readonly first: Instant
  readonly latest: Instant
  readonly missed: number
  readonly isLate: boolean
  readonly next: Instant | null
}

function dueAt(draft: Draft, schedule: Schedule, { first, now }: { first: Instant; now: Instant }): Due {
  let latest = first
  let passed = 0
  let next = nextOf(draft, schedule, latest)
  while (next !== null && next <= now && passed < MISSED_COUNTED_MAX) {
    passed += 1
    latest = next
    next = nextOf(draft, schedule, latest)
  }
  if (next !== null && next <= now) next = nextOf(draft, schedule, now)
  const isLate = now - latest > LATE_MS_MAX
  return { first, latest, missed: isLate ? passed + 1 : passed, isLate, next }
}

function fireAt(draft: Draft, schedule: Schedule, due: Due, known?: Known): void {
  draft.put('schedules', schedule.name, { ...schedule, next: due.next })
  if (due.missed > 0) tellMissed(draft, schedule, due)
  if (!due.isLate) fire(draft, schedule, due.latest, known)
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
  pass(draft, schedule, { at: first, what: 'missed', reason })
}

const PASSED_FACTS = { missed: 'scheduleMissed', skipped: 'scheduleSkipped', refused: 'scheduleRefused' } as const

/** A time goes by, and nothing is asked for. */
function pass(
  draft: Draft,
  schedule: Schedule,
  { at, what, reason }: { readonly at: Instant; readonly what: keyof typeof PASSED_FACTS; readonly reason: string },
): void {
  note(draft, schedule, { at, by: schedule.by, what, request: null, reasons: [reason] })
  draft.say({ fact: PASSED_FACTS[what], text: schedule.name, reason })
}

function fire(draft: Draft, schedule: Schedule, at: Instant, known?: Known): void {
  const busy = overlapOf(draft, schedule)
  if (busy !== null) return pass(draft, schedule, { at, what: 'skipped', reason: busy })
  const actor = actorOf(draft, schedule.by)
  if ('problem' in actor) return pass(draft, schedule, { at, what: 'refused', reason: actor.problem })
  if (known !== undefined && 'problem' in known) {
    const reason = `this time was missed, since which machines there are was not known: ${known.source} ${known.problem}`
    return pass(draft, schedule, { at, what: 'missed', reason: `${reason}; ${known.remedy}`.slice(0, REASON_MAX) })
  }
  // The same time of the same schedule is the same request, whatever was restored or repeated.
  const key = draft.tools.sha256(`schedule ${schedule.id} ${at}`).slice(0, 32)
  ask(draft, schedule, { at, actor, key, known })
}

/** The person as they are now; the rights are checked with the command. */
function actorOf(draft: Draft, name: string): Actor | { readonly problem: string } {
  if (name === 'local-admin') return { kind: 'local-admin' }
  const user = draft.get('users', name)
  if (user === undefined || user.revokedAt !== null) return { problem: `${name} is no user any more` }
  if (user.expiresAt !== null && user.expiresAt <= draft.at) return { problem: `the token of ${name} has expired` }
  return { kind: 'person', name, roles: user.roles }
}

type Asking = {
  readonly at: Instant
  readonly actor: Actor
  readonly key: string | null
  readonly known: Known | undefined
}

function ask(draft: Draft, schedule: Schedule, { at, actor, key, known }: Asking): Reply {
  const from = known === undefined ? {} : { known }
  const command = { type: 'request', text: schedule.text, preview: false, key, ...from } as const
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
