/**
 * When a simulated instance may patch: windows and blackouts that come every so many minutes, written as cron for the
 * real calendar, and read by an arithmetic of their own, so that the checker does not ask what it judges.
 */
import type { Settings } from '../../coordinator/domain/events.ts'
import type { Dice } from './random.ts'

const MINUTE_MS = 60_000

/** Begins at the minute `at` of each `every` minutes, a divisor of 60, and lasts `length` of them. */
type Rule = { readonly every: number; readonly at: number; readonly length: number }
export type Schedule = {
  readonly windows: readonly Rule[]
  readonly blackouts: readonly Rule[]
  readonly runMsExpected: number
}

/** Open at all times. */
export const ALWAYS: Schedule = { windows: [], blackouts: [], runMsExpected: 900_000 }

/** Most instances are always open, as most sites begin. */
export function chooseSchedule(dice: Dice): Schedule {
  const at = dice.below(30)
  const windows = [{ every: 30, at, length: 20 }]
  // What is left of a window has room for a run with its outage: what never fits stands still until it is cancelled.
  const blackouts = [{ every: 30, at: (at + 18) % 30, length: 8 }]
  return dice.pick([
    ...[ALWAYS, ALWAYS, ALWAYS, ALWAYS],
    { windows, blackouts: [], runMsExpected: 240_000 },
    { windows: [], blackouts, runMsExpected: 240_000 },
    { windows, blackouts, runMsExpected: 60_000 },
  ])
}

/** As the configuration would have it. */
export function settingsOf({ windows, blackouts, runMsExpected }: Schedule): Settings['schedule'] {
  return { timezone: 'UTC', windows: windows.map(textOf), blackouts: blackouts.map(textOf), runMsExpected }
}

function textOf({ every, at, length }: Rule): string {
  const minutes = Array.from({ length: 60 / every }, (_, index) => at + index * every)
  return `${minutes.join(',')} * * * * for ${length}m`
}

/** How long the schedule is still open at this instant: 0 when it is shut, infinite where nothing ever shuts it. */
export function openMs({ windows, blackouts }: Schedule, at: number): number {
  const phaseOf = (rule: Rule) => (at - rule.at * MINUTE_MS) % (rule.every * MINUTE_MS)
  const isIn = (rule: Rule) => phaseOf(rule) < rule.length * MINUTE_MS
  if (blackouts.some(isIn) || (windows.length > 0 && !windows.some(isIn))) return 0
  const ends = windows.filter(isIn).map((rule) => rule.length * MINUTE_MS - phaseOf(rule))
  const starts = blackouts.map((rule) => rule.every * MINUTE_MS - phaseOf(rule))
  return Math.min(ends.length === 0 ? Number.POSITIVE_INFINITY : Math.max(...ends), ...starts)
}
