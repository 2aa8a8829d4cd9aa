/**
 * What this machine allows at all, whoever grants: times of the week, days between runs, reboots. The rules stand in
 * the root-owned agent.toml; the root half refuses by them before the latch, the agent only warns. Pure: the local
 * time comes in.
 */

const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'] as const
const DAY_MINUTES = 24 * 60
const DAY_MS = 86_400_000

/** Open from `from` to `to` (minutes of the day) on `days`; one that ends before it begins ends on the next day. */
export type Window = {
  readonly text: string
  readonly days: readonly number[]
  readonly from: number
  readonly to: number
}
export type Allow = {
  readonly reboot: 'never' | 'as-ordered'
  /** None means at any time. */
  readonly windows: readonly Window[]
  readonly daysBetweenRunsMin: number
}
/** Local time: the day of the week from Sunday (0) and the minute of the day. */
export type WeekTime = { readonly day: number; readonly minute: number }

export function weekTimeOf(at: number): WeekTime {
  const date = new Date(at)
  return { day: date.getDay(), minute: date.getHours() * 60 + date.getMinutes() }
}

/** `22:00-04:00`, or with days before it: `Mon-Fri,Sun 22:00-04:00`; null when it is neither. */
export function parseWindow(text: string): Window | null {
  const match = /^(?:(\S+) )?([0-2][0-9]):([0-5][0-9])-([0-2][0-9]):([0-5][0-9])$/.exec(text.trim())
  if (match === null) return null
  const [, dayText, fromHour, fromMinute, toHour, toMinute] = match
  const from = Number(fromHour) * 60 + Number(fromMinute)
  const to = Number(toHour) * 60 + Number(toMinute)
  if (from >= DAY_MINUTES || to > DAY_MINUTES || from === to) return null
  const days = dayText === undefined ? DAYS.map((_, day) => day) : parseDays(dayText)
  return days === null ? null : { text: text.trim(), days, from, to }
}

function parseDays(text: string): number[] | null {
  const days = new Set<number>()
  for (const part of text.split(',')) {
    const [first, last = first, more] = part.split('-').map((name) => DAYS.findIndex((day) => day === name))
    if (first === undefined || last === undefined || more !== undefined || first < 0 || last < 0) return null
    for (let day = first; ; day = (day + 1) % 7) {
      days.add(day)
      if (day === last) break
    }
  }
  return [...days].toSorted((a, b) => a - b)
}

export function isOpen(windows: readonly Window[], now: WeekTime): boolean {
  if (windows.length === 0) return true
  const yesterday = (now.day + 6) % 7
  return windows.some((window) =>
    window.from < window.to
      ? window.days.includes(now.day) && now.minute >= window.from && now.minute < window.to
      : (window.days.includes(now.day) && now.minute >= window.from) ||
        (window.days.includes(yesterday) && now.minute < window.to),
  )
}

/** When the next window opens, as `Mon 22:00`. */
export function nextOpening(windows: readonly Window[], now: WeekTime): string {
  const waits = windows.flatMap((window) =>
    window.days.map((day) => {
      const ahead = ((day - now.day + 7) % 7) * DAY_MINUTES + window.from - now.minute
      return { day, from: window.from, wait: ahead <= 0 ? ahead + 7 * DAY_MINUTES : ahead }
    }),
  )
  const [first] = waits.toSorted((a, b) => a.wait - b.wait)
  if (first === undefined) return 'never'
  const two = (value: number) => String(value).padStart(2, '0')
  return `${DAYS[first.day]} ${two(Math.floor(first.from / 60))}:${two(first.from % 60)}`
}

export type LastRun = { readonly at: number; readonly change: string }

/** Why a run for `change` may not begin now, or null. A retry under the same change is the same run to these rules. */
export function runObjection(
  allow: Allow,
  facts: { readonly now: number; readonly local: WeekTime; readonly last: LastRun | null; readonly change: string },
): string | null {
  if (!isOpen(allow.windows, facts.local)) {
    const windows = allow.windows.map((one) => one.text).join('; ')
    return `this machine takes runs only in its windows (${windows}, local time); the next opens ${nextOpening(allow.windows, facts.local)}`
  }
  const { last } = facts
  if (last === null || last.change === facts.change || allow.daysBetweenRunsMin === 0) return null
  const openAt = last.at + allow.daysBetweenRunsMin * DAY_MS
  if (facts.now >= openAt) return null
  return `this machine takes one run in ${allow.daysBetweenRunsMin} days; the last was for ${last.change}, the next may begin ${new Date(openAt).toISOString()}`
}

/** Why a reboot can't be done on this machine, whatever was declared; null when it can. */
export function rebootObjection(config: {
  readonly aptRoot: string | null
  readonly runMode: 'detached' | 'systemd'
  readonly allow: Allow
}): string | null {
  if (config.aptRoot !== null) return "a private package root can't be rebooted"
  if (config.runMode === 'detached') return "a machine whose runner is not systemd's can't be rebooted by it"
  if (config.allow.reboot === 'never') return 'this machine allows no reboot ([allow] reboot = "never" in agent.toml)'
  return null
}
