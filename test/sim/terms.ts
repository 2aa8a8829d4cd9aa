/**
 * What people asked about how a project goes - phases, soak, failures, window - and the checkers that hold grants
 * against it. Phases, shares and windows are reckoned here from the words, never taken from the coordinator.
 */
import { type Schedule, openMs } from './schedule.ts'
import type { Dice } from './random.ts'

const MINUTE_MS = 60_000

export type Terms = {
  /** Cumulative shares, each as it is written. */
  readonly phases: readonly string[]
  readonly soakMinutes: number
  readonly onFailure: 'stop' | 'continue' | null
  readonly maxFailures: string | null
  readonly window: { readonly start: number; readonly end: number } | null
}
/** Nothing asked: one phase, and the first failure stops. */
export const PLAIN_TERMS: Terms = { phases: [], soakMinutes: 0, onFailure: null, maxFailures: null, window: null }

/** A project as it was laid before the one who approves it: its machines in their order, without those skipped. */
type Shown = {
  readonly terms: Terms
  readonly machines: readonly { readonly name: string; readonly isEmpty: boolean }[]
}
export type Grant = {
  readonly project: string
  readonly name: string
  readonly at: number
  readonly outageMinutes: number
}
type Progress = {
  /** The highest phase of which a grant was sent. */
  phase: number
  /** The highest phase of which a grant was sent before an older database took the place of the present one. */
  readonly forgotten: number
  readonly granted: Set<string>
  readonly retried: Set<string>
  /** One that was never granted is tried again: it had failed before its turn, and its phase may have opened with that. */
  isOpenUnseen: boolean
  readonly ends: { readonly phase: number; readonly at: number }[]
  /** A person wanted no more soak at this instant. */
  resumedAt: number
}

/** What a person might ask; most ask for nothing special. */
export function chooseTerms(dice: Dice, now: number): Terms {
  const phases = dice.pick([[], [], [], ['1', '50%', '100%'], ['50%', '100%'], ['1', '2', '100%']])
  const onFailure = dice.pick([null, null, 'stop', 'continue', 'continue'] as const)
  const start = Math.floor(now / MINUTE_MS + dice.between(-5, 4)) * MINUTE_MS
  return {
    phases,
    soakMinutes: phases.length === 0 ? 0 : dice.pick([0, 1, 2, 5]),
    onFailure,
    maxFailures: onFailure === 'stop' ? null : dice.pick([null, null, '1', '2', '3', '25%', '60%']),
    window: dice.chance(0.2) ? { start, end: start + dice.between(10, 60) * MINUTE_MS } : null,
  }
}

/** As the words of a request, with a blank before each. */
export function textOf({ phases, soakMinutes, onFailure, maxFailures, window }: Terms): string {
  const time = (at: number) => `${new Date(at).toISOString().slice(0, 16)}Z`
  return [
    phases.length > 0 ? ` phases:${phases.join(',')}` : '',
    soakMinutes > 0 ? ` soak:${soakMinutes}` : '',
    onFailure === null ? '' : ` on-failure:${onFailure}`,
    maxFailures === null ? '' : ` max-failures:${maxFailures}`,
    window === null ? '' : ` window:${time(window.start)}/${time(window.end)}`,
  ].join('')
}

/** With so many failures that nobody has decided about, nothing more is granted. */
function failuresMax({ onFailure, maxFailures }: Terms, machines: number): number {
  if (onFailure === 'stop' || (onFailure === null && maxFailures === null)) return 1
  if (maxFailures === null) return Number.POSITIVE_INFINITY
  const number = Number.parseInt(maxFailures, 10)
  return maxFailures.endsWith('%') ? Math.max(1, Math.floor((number * machines) / 100)) : number
}

/** The phase of the machine at this place: the first whose share reaches so far, without the phases that are empty. */
function phaseAt({ phases }: Terms, machines: number, index: number): number {
  const through = phases.map((share) => {
    const number = Number.parseInt(share, 10)
    return Math.min(machines, share.endsWith('%') ? Math.ceil((number * machines) / 100) : number)
  })
  const ends = [...new Set(through)].filter((end, place, all) => all.slice(0, place).every((before) => before < end))
  return Math.max(
    0,
    ends.findIndex((end) => index < end),
  )
}

function beginning(): Progress {
  return {
    phase: 0,
    forgotten: -1,
    granted: new Set(),
    retried: new Set(),
    isOpenUnseen: false,
    ends: [],
    resumedAt: Number.NEGATIVE_INFINITY,
  }
}

/** Owns what was asked and approved, and how far each project went by what was really sent and done. */
export class TermsJudge {
  readonly #asked = new Map<string, Terms>()
  readonly #shown = new Map<string, Shown>()
  readonly #progress = new Map<string, Progress>()
  /** Projects of which a machine has passed, or may have said so: it is known how long one takes. */
  readonly #passed = new Set<string>()
  readonly #violate: (rule: string, text: string) => void
  readonly #schedule: () => Schedule
  #isClockTrue = true

  constructor(violate: (rule: string, text: string) => void, schedule: () => Schedule) {
    this.#violate = violate
    this.#schedule = schedule
  }

  asked(text: string, terms: Terms): void {
    this.#asked.set(text, terms)
  }
  /** Laid before the one who approves; what was shown first is what was approved. */
  shown(project: string, text: string, machines: Shown['machines']): void {
    const terms = this.#asked.get(text)
    if (terms !== undefined && !this.#shown.has(project)) this.#shown.set(project, { terms, machines })
  }
  retried(project: string, name: string): void {
    const progress = this.#of(project)
    progress.retried.add(name)
    if (!progress.granted.has(name)) progress.isOpenUnseen = true
  }
  resumed(project: string, at: number): void {
    this.#of(project).resumedAt = at
  }
  /** A soak is as long as the coordinator's clock says: when that was set, nobody can hold it to one. */
  clockWasSet(): void {
    this.#isClockTrue = false
  }
  /** An older database knows less of how far its projects went: the phases that were open are not judged again. */
  forget(): void {
    for (const [project, progress] of this.#progress)
      this.#progress.set(project, { ...progress, forgotten: progress.phase, ends: [] })
  }

  #of(project: string): Progress {
    const known = this.#progress.get(project)
    const progress = known ?? beginning()
    this.#progress.set(project, progress)
    return progress
  }

  #phaseOf({ terms, machines }: Shown, name: string): number {
    return phaseAt(
      terms,
      machines.length,
      machines.findIndex((one) => one.name === name),
    )
  }

  /** A grant was put on the wire for the first time. */
  granted({ project, name, at, outageMinutes }: Grant): void {
    const shown = this.#shown.get(project)
    if (shown === undefined) return
    const progress = this.#of(project)
    const phase = this.#phaseOf(shown, name)
    const isFirst = !progress.granted.has(name) && !progress.retried.has(name)
    if (phase < progress.phase && progress.phase > progress.forgotten && isFirst)
      this.#violate('SIM-17 phases', `${name} of phase ${phase} was granted first after phase ${progress.phase} began`)
    if (phase > progress.phase) this.#judgeSoak(shown, progress, { phase, name, at })
    progress.granted.add(name)
    progress.phase = Math.max(progress.phase, phase)
    this.#judgeTime(shown, { project, name, at, outageMinutes })
  }

  #judgeSoak({ terms, machines }: Shown, progress: Progress, now: { phase: number; name: string; at: number }): void {
    // Machines without anything to do open their phase unseen, and what is tried again after that has no soak.
    const isSeen = machines.every((one) => !one.isEmpty || this.#phaseOf({ terms, machines }, one.name) !== now.phase)
    if (!this.#isClockTrue || !isSeen || progress.isOpenUnseen) return
    const last = Math.max(...progress.ends.map((end) => end.at))
    const opensAt = last + terms.soakMinutes * MINUTE_MS
    if (now.at < opensAt && progress.resumedAt < last)
      this.#violate(
        'SIM-17 phases',
        `${now.name} opened phase ${now.phase} at ${now.at}, ${opensAt - now.at} ms before the soak was over`,
      )
  }

  #judgeTime(shown: Shown, grant: Grant): void {
    const { window } = shown.terms
    const schedule = this.#schedule()
    // Once one has passed it is known better how long one takes, and then only the end of the window counts here.
    const needMs = this.#passed.has(grant.project) ? 1 : schedule.runMsExpected + grant.outageMinutes * MINUTE_MS
    if (window !== null && (grant.at < window.start || grant.at + needMs > window.end))
      this.#violate('SIM-18 windows', `${grant.name} was granted at ${grant.at}, outside the window that was asked for`)
    if (openMs(schedule, grant.at) < needMs)
      this.#violate('SIM-18 windows', `${grant.name} was granted at ${grant.at}, outside the instance's schedule`)
  }

  /** A machine is at work while so many of its project have failed and nobody has decided about them. */
  claimed(project: string, name: string, failures: number): void {
    const shown = this.#shown.get(project)
    if (shown === undefined) return
    const max = failuresMax(shown.terms, shown.machines.length)
    if (failures >= max)
      this.#violate('SIM-19 failures', `${name} was claimed after ${failures} failures, and ${max} stop its project`)
  }

  ended(project: string, name: string, at: number, outcome: 'succeeded' | 'failed'): void {
    const shown = this.#shown.get(project)
    const progress = this.#of(project)
    if (outcome === 'succeeded') this.#passed.add(project)
    if (shown !== undefined) progress.ends.push({ phase: this.#phaseOf(shown, name), at })
  }
  /** What a liar told of its run may have been taken for how long one takes. */
  lied(project: string): void {
    this.#passed.add(project)
  }
}
