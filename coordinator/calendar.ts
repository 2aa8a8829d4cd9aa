/**
 * When machines may be patched, as the configuration has it: windows and blackouts, recurring ones as cron expressions
 * (node-cron says what they mean) and single ones as two instants. It has no clock: the core asks about the instant of
 * its event, so that the same event always has the same answer.
 */
import { createTask, parse, validateDetailed } from 'node-cron'
import type { Calendar, Settings } from './domain/events.ts'
import type { Instant, Span } from './domain/state.ts'

const MINUTE_MS = 60_000
const DAY_MS = 86_400_000
const LENGTH_MS_MAX = 31 * DAY_MS
/** How far ahead an opening is looked for: a year, and room for one that comes once a year. */
const HORIZON_DAYS = 400
/** No zone changes its clocks but at a quarter of an hour. */
const QUARTER_MS = 15 * MINUTE_MS
const OFFSETS_MAX = 100_000
/** Cron expressions whose days are remembered. */
const TIMES_MAX = 500

/** What windows and blackouts are made of: what covers an instant, and what begins next. */
type Source = {
  /** The end of what covers the instant; null when nothing does. */
  readonly coveredUntil: (at: Instant) => Instant | null
  /** The first beginning after the instant; null when none is in sight. */
  readonly nextStart: (after: Instant) => Instant | null
}

export function createCalendar(schedule: Settings['schedule']): Calendar {
  const zone = createZone(schedule.timezone)
  const sourcesOf = (rules: readonly string[]) =>
    rules.map((text) => {
      const source = readRule(text, zone)
      if ('problem' in source) throw new Error(`${text}: ${source.problem}`)
      return source
    })
  const windows = joined(sourcesOf(schedule.windows))
  const blackouts = joined(sourcesOf(schedule.blackouts))
  return {
    nextTime: createTimes(zone),
    nextOpen: remembering({ windows, blackouts, show: zone.show }),
    readSpan: (text) => readSpan(text, zone),
    show: zone.show,
  }
}

/** Single times, as recurring requests have them: windows of no length. */
function createTimes(zone: Zone): Calendar['nextTime'] {
  const sources = new Map<string, Source | { readonly problem: string }>()
  return (cron, after) => {
    const source = sources.get(cron) ?? readCron(cron, 0, zone)
    if ('problem' in source) return source
    if (sources.size >= TIMES_MAX) sources.clear()
    sources.set(cron, source)
    return source.nextStart(after)
  }
}

/** What is wrong with a window or blackout of the configuration, null when nothing is. */
export function ruleProblem(text: string): string | null {
  const source = readRule(text, createZone('UTC'))
  return 'problem' in source ? source.problem : null
}

export function isTimezone(name: string): boolean {
  try {
    return createZone(name).show(0) !== ''
  } catch (error) {
    if (error instanceof RangeError) return false
    throw error
  }
}

type Parts = { readonly windows: Source | null; readonly blackouts: Source | null; readonly show: Zone['show'] }

/**
 * What does not fit into any window takes long to look for, and is asked about at every event of its project: it is
 * looked for a day further than is asked, so that for a day the answer is known.
 */
function remembering(parts: Parts): Calendar['nextOpen'] {
  let vain: { readonly from: Instant; readonly needMs: number } | null = null
  return (from, needMs) => {
    if (vain !== null && needMs >= vain.needMs && from >= vain.from && from <= vain.from + DAY_MS) return null
    const found = nextOpen(parts, from, needMs)
    if (found === null) vain = { from, needMs }
    return found === null || found.start - from > HORIZON_DAYS * DAY_MS ? null : found
  }
}

/** Goes from one boundary to the next until an open stretch is long enough. */
function nextOpen(
  { windows, blackouts, show }: Parts,
  from: Instant,
  needMs: number,
): ReturnType<Calendar['nextOpen']> {
  let at = from
  let why: string | null = null
  while (at - from <= (HORIZON_DAYS + 1) * DAY_MS) {
    const blackout = blackouts?.coveredUntil(at) ?? null
    if (blackout !== null) {
      why ??= `a blackout of the configuration lasts until ${show(blackout)}`
      at = blackout
      continue
    }
    if (windows !== null && windows.coveredUntil(at) === null) {
      why ??= 'the windows of the configuration are shut'
      const next = windows.nextStart(at)
      if (next === null) return null
      at = next
      continue
    }
    const end = endOfOpen(windows, blackouts, at, needMs)
    if (end === null || end - at >= needMs) return { start: at, end, why }
    why ??= `the window of the configuration ends at ${show(end)}`
    at = end
  }
  return null
}

/** The end of the open stretch around `at`; windows that overlap or touch are one. Null when no end is in sight. */
function endOfOpen(windows: Source | null, blackouts: Source | null, at: Instant, needMs: number): Instant | null {
  let end = windows === null ? null : windows.coveredUntil(at)
  while (end !== null && end - at < needMs) {
    const further = windows?.coveredUntil(end) ?? null
    if (further === null) break
    end = further
  }
  const blackout = blackouts?.nextStart(at) ?? null
  return blackout !== null && (end === null || blackout < end) ? blackout : end
}

/** Several sources as one; null for none. */
function joined(sources: readonly Source[]): Source | null {
  if (sources.length === 0) return null
  const known = (instants: readonly (Instant | null)[]) => instants.filter((instant) => instant !== null)
  return {
    coveredUntil: (at) => {
      const ends = known(sources.map((source) => source.coveredUntil(at)))
      return ends.length === 0 ? null : Math.max(...ends)
    },
    nextStart: (after) => {
      const starts = known(sources.map((source) => source.nextStart(after)))
      return starts.length === 0 ? null : Math.min(...starts)
    },
  }
}

/** `CRON for DURATION`, or `START/END`. */
function readRule(text: string, zone: Zone): Source | { readonly problem: string } {
  const match = /^(\S+ \S+ \S+ \S+ \S+) for (\S+)$/.exec(text)
  if (match === null) {
    const span = readSpan(text, zone)
    return 'problem' in span ? { problem: `neither CRON for DURATION nor START/END (${span.problem})` } : single(span)
  }
  const [, cron = '', length = ''] = match
  const lengthMs = durationMs(length)
  if (lengthMs === null) return { problem: `${length} is no duration from 1m to 31d, such as 6h or 1h30m` }
  return readCron(cron, lengthMs, zone)
}

function readCron(cron: string, lengthMs: number, zone: Zone): Source | { readonly problem: string } {
  if (!/^\S+ \S+ \S+ \S+ \S+$/.test(cron)) return { problem: 'it does not have five parts' }
  const { valid, errors } = validateDetailed(cron)
  return valid ? recurring(cron, lengthMs, zone) : { problem: errors[0]?.message ?? 'it is no cron expression' }
}

function durationMs(text: string): number | null {
  const [whole, days = '0', hours = '0', minutes = '0'] =
    /^(?:([0-9]{1,2})d)?(?:([0-9]{1,3})h)?(?:([0-9]{1,4})m)?$/.exec(text) ?? []
  if (whole === undefined) return null
  const ms = Number(days) * DAY_MS + Number(hours) * 60 * MINUTE_MS + Number(minutes) * MINUTE_MS
  return ms >= MINUTE_MS && ms <= LENGTH_MS_MAX ? ms : null
}

function single({ start, end }: Span): Source {
  return {
    coveredUntil: (at) => (start <= at && at < end ? end : null),
    nextStart: (after) => (start > after ? start : null),
  }
}

/** Day by day in the zone's own time, each day once; whether a minute is meant is node-cron's to say. */
function recurring(cron: string, lengthMs: number, zone: Zone): Source {
  const { month, hour, minute } = parse(cron)
  const task = createTask(cron, () => undefined, { timezone: zone.name })
  const days = new Map<number, readonly Instant[]>()
  const startsOn = (day: number): readonly Instant[] => {
    const known = days.get(day)
    if (known !== undefined) return known
    const isInMonth = month.includes(new Date(day * DAY_MS).getUTCMonth() + 1)
    const times = isInMonth ? hour.flatMap((one) => minute.map((other) => (one * 60 + other) * MINUTE_MS)) : []
    const starts = times.map((time) => zone.instantOf(day * DAY_MS + time)).filter((at) => task.match(new Date(at)))
    days.set(day, starts)
    return starts
  }
  const dayOf = (at: Instant) => Math.floor(zone.localOf(at) / DAY_MS)
  return {
    coveredUntil: (at) => {
      let end: Instant | null = null
      for (let day = dayOf(at - lengthMs); day <= dayOf(at); day += 1) {
        for (const start of startsOn(day)) if (start <= at && at < start + lengthMs) end = start + lengthMs
      }
      return end
    },
    nextStart: (after) => {
      for (let day = dayOf(after); day <= dayOf(after) + HORIZON_DAYS; day += 1) {
        const start = startsOn(day).find((one) => one > after)
        if (start !== undefined) return start
      }
      return null
    },
  }
}

const INSTANT = /^([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2})(Z|[+-][0-9]{2}:[0-9]{2})?$/
const TIME = /^([0-9]{2}:[0-9]{2})$/

/** `START/END`, each as `2026-11-24T22:00`, in the zone unless it says another; an end without a date is the next such time. */
function readSpan(text: string, zone: Zone): Span | { readonly problem: string } {
  const [from = '', to = '', more] = text.split('/')
  if (to === '' || more !== undefined) return { problem: 'write START/END, such as 2026-11-24T22:00/2026-11-25T04:00' }
  const start = readInstant(from, zone)
  if (start === null) return { problem: `${from} is no time such as 2026-11-24T22:00` }
  const time = TIME.exec(to)?.[1]
  const end = time === undefined ? readInstant(to, zone) : nextTime(from, time, { start, zone })
  if (end === null) return { problem: `${to} is no time such as 2026-11-25T04:00 or 04:00` }
  return end > start ? { start, end } : { problem: `${to} does not come after ${from}` }
}

function readInstant(text: string, zone: Zone): Instant | null {
  const [whole, day = '', time = '', offset = ''] = INSTANT.exec(text) ?? []
  if (whole === undefined) return null
  const local = Date.parse(`${day}T${time}Z`)
  // A day that its month does not have is taken for one of the next month.
  if (Number.isNaN(local) || new Date(local).toISOString().slice(0, 16) !== `${day}T${time}`) return null
  const at = offset === '' ? zone.instantOf(local) : Date.parse(`${day}T${time}${offset}`)
  return Number.isNaN(at) ? null : at
}

function nextTime(from: string, time: string, at: { readonly start: Instant; readonly zone: Zone }): Instant | null {
  const [, day = '', , offset = ''] = INSTANT.exec(from) ?? []
  const sameDay = readInstant(`${day}T${time}${offset}`, at.zone)
  if (sameDay === null || sameDay > at.start) return sameDay
  const next = new Date(Date.parse(`${day}T00:00Z`) + DAY_MS).toISOString().slice(0, 10)
  return readInstant(`${next}T${time}${offset}`, at.zone)
}

type Zone = {
  readonly name: string
  /** The zone's own time as if it were UTC. */
  readonly localOf: (at: Instant) => number
  readonly instantOf: (local: number) => Instant
  readonly show: (at: Instant) => string
}

function createZone(name: string): Zone {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: name,
    hourCycle: 'h23',
    ...{ year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric' },
  })
  const offsets = new Map<number, number>()
  const offsetOf = (at: Instant): number => {
    const quarter = Math.floor(at / QUARTER_MS) * QUARTER_MS
    const known = offsets.get(quarter)
    if (known !== undefined) return known
    const parts = new Map(format.formatToParts(quarter).map((part) => [part.type, Number(part.value)]))
    const part = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? 0
    const local = Date.UTC(part('year'), part('month') - 1, part('day'), part('hour'), part('minute'), part('second'))
    if (offsets.size >= OFFSETS_MAX) offsets.clear()
    offsets.set(quarter, local - quarter)
    return local - quarter
  }
  const localOf = (at: Instant) => at + offsetOf(at)
  const instantOf = (local: number): Instant => {
    // The offset of the first guess may be that of the other side of a change of the clocks.
    return local - offsetOf(local - offsetOf(local))
  }
  const show = (at: Instant) => `${new Date(localOf(at)).toISOString().slice(0, 16).replace('T', ' ')} ${name}`
  return { name, localOf, instantOf, show }
}
