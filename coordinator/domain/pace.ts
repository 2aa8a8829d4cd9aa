/**
 * How a project goes, as its request says: in phases with a soak between them, what a failure means for the machines
 * after it, and in which window. Read from the line here, kept with the project, and shown to whoever approves.
 */
import type { Refusal } from '../../protocol/errors.ts'
import type { Calendar } from './events.ts'
import type { RequestOptions, Share, Span } from './state.ts'
import { policyTerms } from './trains.ts'
import { type Key, type Values, type Word, badValue, missing } from './words.ts'

export type Pace = {
  /** Cumulative shares of all machines, each the end of a phase; none for a single phase. */
  readonly phases: readonly Share[]
  readonly soakMinutes: number
  readonly onFailure: 'stop' | 'continue'
  readonly maxFailures: Share | null
  /** As it was written: the calendar turns it into two instants. */
  readonly window: Word | null
}

export const SOAK_MINUTES_MAX = 10_080
const PHASES_MAX = 20
const SHARE_MACHINES_MAX = 100_000

export function paceOf(values: Values, text: string, refusals: Refusal[]): Pace {
  const valueOf = (key: Key, example: string): Word | null => {
    const words = values.get(key)
    if (words !== undefined && words[0] === undefined)
      refusals.push(missing(`the value of ${key}:`, `write ${key}:${example}, or leave it out`, text))
    return words?.[0] ?? null
  }
  const phases = phasesOf(valueOf('phases', '1,10%,100%'), refusals)
  const soak = valueOf('soak', '30')
  const soakMinutes = soakOf(soak, refusals)
  if (soak !== null && !values.has('phases'))
    refusals.push(badValue('soak', soak, 'has no phases to stand between', 'add phases:, such as phases:1,10%,100%'))
  const failures = valueOf('max-failures', '3')
  const maxFailures = failures === null ? null : maxFailuresOf(failures, refusals)
  const wanted = onFailureOf(valueOf('on-failure', 'continue'), refusals)
  if (failures !== null && wanted === 'stop')
    refusals.push(
      badValue('max-failures', failures, 'and on-failure:stop contradict each other', 'leave one of them out'),
    )
  // Whoever says how many may fail wants to go on until then.
  const onFailure = wanted ?? (failures === null ? 'stop' : 'continue')
  const window = valueOf('window', '2026-11-24T22:00/2026-11-25T04:00')
  return { phases, soakMinutes, onFailure, maxFailures, window }
}

function shareOf(text: string): Share | null {
  const [whole, digits = '', percent] = /^([0-9]{1,6})(%)?$/.exec(text) ?? []
  const value = Number(digits)
  if (whole === undefined || value < 1) return null
  if (percent !== undefined) return value <= 100 ? { value, unit: 'percent' } : null
  return value <= SHARE_MACHINES_MAX ? { value, unit: 'machines' } : null
}

function phasesOf(word: Word | null, refusals: Refusal[]): readonly Share[] {
  if (word === null) return []
  const refuse = (problem: string, remedy: string) => {
    refusals.push(badValue('phases', word, problem, remedy))
    return []
  }
  const example = 'give shares of all machines that rise to 100%, such as phases:1,10%,100%'
  const shares = word.text.split(',').map(shareOf)
  const known = shares.filter((share) => share !== null)
  if (known.length < shares.length) return refuse('is no list of numbers and percentages', example)
  if (known.length > PHASES_MAX) return refuse(`has more than ${PHASES_MAX} phases`, example)
  const last = known.at(-1)
  if (last?.unit !== 'percent' || last.value !== 100) return refuse('does not end with all machines', example)
  for (const [index, share] of known.entries()) {
    const before = known.slice(0, index).findLast((one) => one.unit === share.unit)
    if (before !== undefined && before.value >= share.value) return refuse('does not rise', example)
  }
  return known
}

function soakOf(word: Word | null, refusals: Refusal[]): number {
  if (word === null) return 0
  if (/^[0-9]{1,5}$/.test(word.text) && Number(word.text) <= SOAK_MINUTES_MAX) return Number(word.text)
  refusals.push(
    badValue('soak', word, 'is no number of minutes', `give whole minutes from 0 to ${SOAK_MINUTES_MAX} (a week)`),
  )
  return 0
}

function maxFailuresOf(word: Word, refusals: Refusal[]): Share | null {
  const share = shareOf(word.text)
  if (share === null)
    refusals.push(
      badValue('max-failures', word, 'is no number of machines', 'give a number from 1, or a percentage: 3 or 5%'),
    )
  return share
}

function onFailureOf(word: Word | null, refusals: Refusal[]): Pace['onFailure'] | null {
  if (word === null) return null
  if (word.text === 'stop' || word.text === 'continue') return word.text
  refusals.push(badValue('on-failure', word, 'is not understood', 'the values of on-failure: are stop and continue'))
  return null
}

/** Turns the words of a window into instants; one that has ended or can't be read is a refusal. */
export function windowOf(pace: Pace, at: number, calendar: Calendar, refusals: Refusal[]): Span | null {
  const { window } = pace
  if (window === null) return null
  const span = calendar.readSpan(window.text)
  const remedy = `write window:START/END, such as window:2026-11-24T22:00/2026-11-25T04:00; it is ${calendar.show(at)} now`
  if ('problem' in span) refusals.push(badValue('window', window, `is no window: ${span.problem}`, remedy))
  else if (span.end <= at) refusals.push(badValue('window', window, 'has ended already', remedy))
  else return span
  return null
}

/** How many of so many machines a share means, rounded up. */
function countOfShare(share: Share, machines: number): number {
  return share.unit === 'percent' ? Math.ceil((share.value * machines) / 100) : share.value
}

/** How many machines are through when each phase ends, rising to all of them; a phase without machines vanishes. */
export function phaseEnds(phases: readonly Share[], machines: number): readonly number[] {
  const ends: number[] = []
  for (const share of [...phases, { value: 100, unit: 'percent' } as const]) {
    const end = Math.min(machines, countOfShare(share, machines))
    if (end > (ends.at(-1) ?? 0)) ends.push(end)
  }
  return ends
}

/**
 * How many failures that nobody has decided about stop a project of so many machines; null for no number of them. A
 * percentage is rounded down here, so that never more fail than were allowed, but one always may.
 */
export function failuresMaxOf(pace: Pick<Pace, 'onFailure' | 'maxFailures'>, machines: number): number | null {
  if (pace.onFailure === 'stop') return 1
  if (pace.maxFailures === null) return null
  const { value, unit } = pace.maxFailures
  return unit === 'machines' ? value : Math.max(1, Math.floor((value * machines) / 100))
}

/** What was asked of how the project goes, in words, for those who approve it; nothing for what goes without saying. */
export function termsOf(
  options: Omit<Pace, 'window'> & { readonly window: Span | null } & Pick<RequestOptions, 'policy' | 'lookup'>,
  calendar: Calendar,
): string[] {
  const { phases, soakMinutes, onFailure, maxFailures, window, policy, lookup } = options
  const shareText = (share: Share) => `${share.value}${share.unit === 'percent' ? '%' : ''}`
  const terms: string[] = []
  if (phases.length > 0) {
    const soak = soakMinutes === 0 ? '' : `, with ${soakMinutes} minutes of soak between them`
    terms.push(`phases: ${phases.map(shareText).join(', ')} of the machines${soak}`)
  }
  if (onFailure === 'continue') {
    const end = maxFailures === null ? '' : `, until ${shareText(maxFailures)} of the machines have failed`
    terms.push(`goes on after a failure${end}`)
  }
  const trains = policy?.windowOf ?? []
  const from = trains.length === 0 ? '' : `, from train${trains.length === 1 ? '' : 's'} ${trains.join(', ')}`
  if (window !== null) terms.push(`window: ${calendar.show(window.start)} to ${calendar.show(window.end)}${from}`)
  if (policy !== undefined) terms.push(...policyTerms(policy))
  if (lookup !== undefined) terms.push(`machines: as ${lookup.source} had them at ${calendar.show(lookup.at)}`)
  return terms
}
