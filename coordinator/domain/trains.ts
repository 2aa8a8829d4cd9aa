/**
 * What the trains of the configuration say about a request: who may ask, which machines are left out, in which window,
 * and whether a person must approve. A train only narrows what the rest of smith allows, but for the approval, which
 * it may give itself. A machine of no train needs an approval; over several trains the strictest word counts (TRN-2).
 */
import type { Refusal } from '../../protocol/errors.ts'
import type { Calendar, Tools, Train } from './events.ts'
import type { Actor, Instant, Machine, Policy, Span } from './state.ts'
import { duration } from './time-text.ts'
import { type Word, badValue } from './words.ts'

export function trainsOf(machine: string, { trains }: Tools): readonly Train[] {
  return trains.filter((train) => train.has(machine))
}

/** The machines that no train leaves out. One that was named and is left out all the same is a refusal. */
export function keepInTrains<Chosen extends { readonly machine: Pick<Machine, 'name'>; readonly matched: boolean }>(
  chosen: readonly Chosen[],
  tools: Tools,
  refusals: Refusal[],
): { readonly kept: readonly Chosen[]; readonly leftOut: Policy['leftOut'] } {
  const leftOut: { name: string; train: string }[] = []
  const kept = chosen.filter(({ machine: { name }, matched }) => {
    const train = trainsOf(name, tools).find((one) => one.leavesOut(name))
    if (train === undefined) return true
    if (matched) leftOut.push({ name, train: train.name })
    else
      refusals.push({
        kind: 'not-allowed',
        message: `${name} is left out by the policy of train ${train.name}`,
        subject: name,
        remedy: `ask without it; an admin of the coordinator can change except of the train in coordinator.toml`,
      })
    return false
  })
  return { kept, leftOut }
}

export type Asked = {
  readonly at: Instant
  readonly actor: Actor
  readonly preview: boolean
  readonly names: readonly string[]
  readonly leftOut: Policy['leftOut']
  /** The request's own window, as it was written and as two instants; null when it has none. */
  readonly word: Word | null
  readonly window: Span | null
  /** How long a machine is expected to take. */
  readonly needMs: number
}

/** The policy of all the machines of a request together, and the window that the request has under it. */
export function policyFor(
  asked: Asked,
  tools: Tools,
  refusals: Refusal[],
): { readonly policy: Policy | null; readonly window: Span | null } {
  const perMachine = asked.names.map((name) => trainsOf(name, tools))
  const trains = tools.trains.filter((train) => perMachine.some((those) => those.includes(train)))
  if (trains.length === 0 && asked.leftOut.length === 0) return { policy: null, window: asked.window }
  if (!asked.preview) refusals.push(...trains.flatMap((train) => mayAsk(train, asked.actor) ?? []))
  const isFree = perMachine.length > 0 && perMachine.every((those) => those.length > 0)
  const names = trains.map((train) => train.name)
  const shut = trains.filter((train) => train.windows !== null)
  const window = shut.length === 0 ? asked.window : windowIn(shut, asked, tools, refusals)
  const policy: Policy = {
    trains: names,
    approvedBy: isFree && trains.every((train) => !train.approval) ? names : [],
    windowOf: asked.word === null ? shut.map((train) => train.name) : [],
    leftOut: asked.leftOut,
  }
  return { policy, window }
}

function mayAsk({ name, roles, people }: Train, actor: Actor): Refusal | null {
  if (roles.length === 0 && people.length === 0) return null
  // The admin socket asks only where the configuration says that one person may do all.
  if (actor.kind !== 'person') return null
  if (people.includes(actor.name) || actor.roles.some((role) => roles.includes(role))) return null
  const who = [...people, ...roles.map((role) => `whoever has the role ${role}`)].join(', ')
  return {
    kind: 'not-allowed',
    message: `${actor.name} may not ask for machines of train ${name}`,
    subject: name,
    remedy: `these may: ${who}`,
  }
}

/** A request's own window must lie within those of its trains; without one it gets the next that they all have. */
function windowIn(trains: readonly Train[], asked: Asked, tools: Tools, refusals: Refusal[]): Span | null {
  const { at, word, window, needMs } = asked
  const names = trains.map((train) => train.name).join(', ')
  const of = `of train${trains.length === 1 ? '' : 's'} ${names}`
  if (word !== null) {
    if (window === null) return null
    const start = Math.max(at, window.start)
    const outside = trains.find((train) => train.windows?.nextOpen(start, window.end - start)?.start !== start)
    if (outside === undefined) return window
    const next = outside.windows?.nextOpen(start, needMs) ?? null
    const remedy =
      next === null ? 'leave it out' : `leave it out; from ${tools.calendar.show(next.start)} on it is open`
    refusals.push(badValue('window', word, `does not lie within the windows of train ${outside.name}`, remedy))
    return null
  }
  const calendars = [tools.calendar, ...trains.flatMap((train) => train.windows ?? [])]
  const found = commonWindow(calendars, at, needMs)
  if (found !== null) return found
  refusals.push({
    kind: 'no-match',
    message: `the windows ${of} and of the configuration have no ${duration(needMs)} in common`,
    remedy: `ask for machines of one train at a time, or change windows in coordinator.toml`,
  })
  return null
}

const TRIES_MAX = 1000

/** The first stretch that is open in all of them for long enough. */
function commonWindow(calendars: readonly Pick<Calendar, 'nextOpen'>[], from: Instant, needMs: number): Span | null {
  let start = from
  for (let tries = 0; tries < TRIES_MAX; tries += 1) {
    const opens = calendars.map((calendar) => calendar.nextOpen(start, needMs))
    const known = opens.filter((open) => open !== null)
    if (known.length < opens.length) return null
    const latest = Math.max(...known.map((open) => open.start))
    if (latest === start) {
      const ends = known.flatMap((open) => open.end ?? [])
      return ends.length === 0 ? null : { start, end: Math.min(...ends) }
    }
    start = latest
  }
  return null
}

/** How an approval by policy is signed. */
export function policyName(trains: readonly string[]): string {
  return trains.length === 1 ? `the policy of train ${trains[0]}` : `the policies of trains ${trains.join(', ')}`
}

const SHOWN_MAX = 5

/** What the trains add to the terms of a request, for those who see its plan. */
export function policyTerms({ approvedBy, leftOut }: Policy): string[] {
  const byTrain = Map.groupBy(leftOut, ({ train }) => train)
  const left = [...byTrain].map(([train, machines]) => {
    const names = machines.slice(0, SHOWN_MAX).map(({ name }) => name)
    const more = machines.length > SHOWN_MAX ? `, +${machines.length - SHOWN_MAX} more` : ''
    return `left out by train ${train}: ${names.join(', ')}${more}`
  })
  return [...(approvedBy.length === 0 ? [] : [`approved by ${policyName(approvedBy)}`]), ...left]
}
