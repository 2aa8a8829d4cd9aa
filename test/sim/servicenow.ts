/**
 * The ServiceNow of a simulated world: the stand-in of test/servicenow in virtual time, behind a network that is slow,
 * loses answers and answers with something else; and the real provider over it in each life of the coordinator.
 */
import { createOutboxStep, isOutbox, withOutbox } from '../../coordinator/change/outbox.ts'
import { type ServiceNow, createServiceNow } from '../../coordinator/change/servicenow/provider.ts'
import { type ServiceNowSettings, linkOf } from '../../coordinator/change/servicenow/settings.ts'
import type { View } from '../../coordinator/domain/draft.ts'
import type { Event } from '../../coordinator/domain/events.ts'
import { step } from '../../coordinator/domain/step.ts'
import type { DriverPorts } from '../../coordinator/driver.ts'
import { type Clock, type Http, type HttpAnswer, type HttpAsk, HttpError } from '../../coordinator/ports.ts'
import { settingsOf } from '../servicenow/settings.ts'
import { type Answer, type Fault, SECRET, StandIn } from '../servicenow/stand-in.ts'
import type { ChangeJudge, Read } from './changes.ts'
import type { Faults } from './faults.ts'
import { PEOPLE, PERMISSION_AGE_MS_MAX, SILENT } from './givens.ts'
import type { Dice } from './random.ts'
import type { Time } from './time.ts'

export type SiteWorld = {
  readonly time: Time
  readonly dice: Dice
  readonly faults: Faults
  readonly met: (fault: string) => void
  /** What waits for a promise goes on before the next thing happens. */
  readonly stirred: () => void
  /** A program ended a thought with an error that is no failed call. */
  readonly defect: (text: string) => void
}
/** One life of the coordinator, as its provider needs it. */
export type LifePorts = {
  readonly view: View
  readonly submit: (event: Event) => Promise<unknown>
  readonly now: () => number
  readonly clock: Clock
  /** False when the process is gone, or ends at this call. */
  readonly isAlive: () => boolean
  /** The process ends at its next call. */
  readonly doom: () => void
}
/** How a call fares on its way there and back. */
type Trip = {
  /** Null when it never gets there. */
  readonly arrivesMs: number | null
  /** What is answered in the place of the truth. */
  readonly instead: Fault | null
  /** Whether what it asks for is done, whatever is answered. */
  readonly isDone: boolean
  /** It is answered about something else than was asked. */
  readonly isOther: boolean
  /** Null when no answer comes. */
  readonly answersMs: number | null
  /** After how long the connection breaks; null when it does not. */
  readonly breaksMs: number | null
}

/** Less than what the coordinator waits for, by its own clock, before it makes anything anew. */
const LATE_MS_MAX = 27_000
const SETTLE_S = 30
const TIMEOUT_S = 20
const LIST_PATH = /^\/api\/now\/(table\/[a-z_]+|attachment)$/
const CHANGE_PATH = /^\/api\/now\/table\/change_request\/([0-9a-f]{32})$/
const OTHER_CHANGE = 'CHG0100000'

export const never = <T>() => new Promise<T>(() => {})

/** Owns the instance, and how its network is. */
export class Site {
  readonly standIn: StandIn
  readonly steps: Pick<DriverPorts, 'core' | 'local'>
  readonly judge: ChangeJudge
  readonly #world: SiteWorld
  readonly #settings: ServiceNowSettings
  #outage: { readonly kind: Fault | 'refused'; readonly until: number } | null = null

  constructor(world: SiteWorld, judge: (standIn: StandIn) => ChangeJudge) {
    this.#world = world
    this.standIn = new StandIn(world.time.now)
    this.judge = judge(this.standIn)
    const { plannedMinutes } = world.faults
    this.#settings = settingsOf(
      `settle = ${SETTLE_S}\ntimeout = ${TIMEOUT_S}\nretry_max = 60\nplanned = ${plannedMinutes * 60}`,
    )
    const settings = this.#settings
    this.steps = {
      core: (view, envelope, tools) => withOutbox(view, envelope.at, step(view, envelope, tools)),
      local: { isLocal: isOutbox, step: createOutboxStep({ linkOf: (row) => linkOf(settings, row.sysId ?? '') }) },
    }
    this.#populate()
  }

  /** The provider of one life. */
  plug(life: LifePorts): ServiceNow {
    const { dice, defect } = this.#world
    return createServiceNow({
      settings: this.#settings,
      view: life.view,
      submit: life.submit,
      now: life.now,
      http: this.#http(life),
      readSecret: () => SECRET,
      clock: life.clock,
      random: dice,
      log: { ...SILENT, error: (fields, text) => defect(`the provider: ${text} ${problemIn(fields)}`) },
      permissionMsMax: PERMISSION_AGE_MS_MAX,
      requesterMayApprove: false,
    })
  }

  /** Records that are not smith's: whoever takes what it did not ask for takes these. */
  #populate(): void {
    const { records } = this.standIn
    for (const { name } of PEOPLE) records.put('sys_user', { user_name: name, name })
    const change = records.put('change_request', {
      ...{ number: OTHER_CHANGE, state: '-1', approval: 'approved', on_hold: 'false', active: 'true' },
      ...{ start_date: '2020-01-01 00:00:00', end_date: '2040-01-01 00:00:00' },
    })
    const of = change['sys_id'] ?? ''
    records.put('change_task', { number: 'CTASK0100000', state: '2', change_request: of, active: 'true' })
    records.put('sysapproval_approver', { sysapproval: of, 'approver.user_name': 'grace', state: 'approved' })
    records.put('sys_attachment', { table_sys_id: of, file_name: 'plan.txt' })
    records.put('sys_journal_field', { element_id: of, element: 'work_notes', value: 'done' })
    records.put('cmdb_ci_server', { name: 'another' })
  }

  #http(life: LifePorts): Http {
    return (ask) => (life.isAlive() ? this.#play(life, ask) : never())
  }

  #play(life: LifePorts, ask: HttpAsk): Promise<HttpAnswer> {
    const later = (ms: number, act: () => void) =>
      this.#world.time.after(ms, () => {
        this.#world.stirred()
        act()
      })
    const sentAt = life.now()
    const trip = this.#trip(ask)
    // What is still on its way when the process ends is what the next life must wait for.
    const { dice, faults } = this.#world
    const isLate = trip.arrivesMs !== null && trip.arrivesMs > faults.delayMsMax
    if (isLate && faults.rates.has('coordinator killed') && dice.chance(0.2)) life.doom()
    return new Promise((resolve, reject) => {
      let isOver = false
      const end = (act: () => void) => {
        if (isOver) return
        isOver = true
        disarm()
        if (life.isAlive()) act()
      }
      const fail = (text: string, isAmbiguous: boolean) => end(() => reject(new HttpError(text, { isAmbiguous })))
      const disarm = life.clock.after(ask.timeoutMs, () => fail('no answer in time', true))
      if (trip.breaksMs !== null)
        later(trip.breaksMs, () => fail('it was cut off', trip.arrivesMs !== null || trip.isDone))
      if (trip.arrivesMs === null) return
      later(trip.arrivesMs, () => {
        const served = this.#serve(ask, trip, sentAt)
        if (trip.answersMs === null) return
        later(trip.answersMs, () => {
          void served.then(({ answer, read }) =>
            end(() => {
              if (read !== null) read.isHeard = true
              if (typeof answer === 'string') reject(new HttpError('it was cut off', { isAmbiguous: true }))
              else resolve({ status: answer.status, headers: answer.headers, text: answer.body })
            }),
          )
        })
      })
    })
  }

  /** At this very instant what was asked for is done and read. */
  async #serve(ask: HttpAsk, trip: Trip, sentAt: number): Promise<{ answer: Answer; read: Read | null }> {
    const { standIn } = this
    const { pathname, searchParams } = new URL(ask.url)
    const handle = (fault: Fault | null) => {
      standIn.fault = () => fault ?? undefined
      return standIn.handle(ask.method, ask.url, ask.headers, ask.body ?? '')
    }
    standIn.ignoresQueries = trip.isOther
    standIn.wrongRecord = trip.isOther ? this.#otherChange(CHANGE_PATH.exec(pathname)?.[1]) : null
    const done = trip.isDone ? handle(null) : null
    standIn.ignoresQueries = false
    standIn.wrongRecord = null
    const [, sysId] = CHANGE_PATH.exec(pathname) ?? []
    const columns = searchParams.get('sysparm_fields')?.split(',') ?? []
    const isPermission = sysId !== undefined && columns.includes('on_hold') && columns.includes('correlation_display')
    const isTrue = ask.method === 'GET' && trip.isDone && !trip.isOther && trip.instead === null
    const read = isPermission && isTrue ? this.judge.read(sysId, sentAt) : null
    const answer = trip.instead === null && done !== null ? await done : await handle(trip.instead)
    // A refusal of the token is no look at the change.
    return { answer, read: typeof answer !== 'string' && answer.status === 200 ? read : null }
  }

  #otherChange(sysId: string | undefined) {
    const others = this.standIn.records.all('change_request').filter((row) => row['sys_id'] !== sysId)
    return this.#world.dice.pick(others)
  }

  /** What befalls this call. */
  #trip(ask: HttpAsk): Trip {
    const { dice, faults, met } = this.#world
    const wayMs = () => dice.between(1, faults.delayMsMax)
    const plain: Trip = {
      ...{ arrivesMs: wayMs(), instead: null, isDone: true, isOther: false, answersMs: wayMs(), breaksMs: null },
    }
    const down = this.#downNow()
    if (down !== null) {
      met('servicenow down')
      if (down === 'refused') return { ...plain, arrivesMs: null, isDone: false, breaksMs: wayMs() }
      if (down === 'hang') return { ...plain, arrivesMs: null, isDone: false }
      return { ...plain, instead: down, isDone: false }
    }
    if (dice.chance(faults.remoteLost)) {
      met('answer lost')
      return this.#lost(plain)
    }
    if (dice.chance(faults.remoteSlow)) {
      met('servicenow slow')
      // Slow is either that it is read late, or that its answer comes late and says how it was.
      return dice.chance(0.5)
        ? { ...plain, arrivesMs: dice.between(1000, LATE_MS_MAX) }
        : { ...plain, answersMs: dice.between(1000, 60_000) }
    }
    const { pathname } = new URL(ask.url)
    const isList = LIST_PATH.test(pathname)
    if (ask.method !== 'GET' || !(isList || CHANGE_PATH.test(pathname)) || !dice.chance(faults.remoteOther))
      return plain
    met(isList ? 'other rows' : 'other record')
    return { ...plain, isOther: true }
  }

  /** It is done, now or a while later, and whoever asked does not hear so. */
  #lost(plain: Trip): Trip {
    const { dice } = this.#world
    const arrivesMs = dice.chance(0.3) ? dice.between(1000, LATE_MS_MAX) : plain.arrivesMs
    const how = dice.pick(['silent', 'cut', 'html', { status: 503 }, { status: 500 }] as const)
    if (how === 'silent') return { ...plain, arrivesMs, answersMs: null }
    if (how === 'cut') return { ...plain, arrivesMs, answersMs: null, breaksMs: dice.between(1, 5000) }
    return { ...plain, instead: how }
  }

  /** What it does in the place of its work, for this call or for a while. */
  #downNow(): Exclude<Fault, 'lost' | 'late' | 'cut'> | 'refused' | null {
    const { time, dice, faults } = this.#world
    if (faults.remoteDown === 0) return null
    const { standIn } = this
    let outage = this.#outage
    if (outage === null || time.now() >= outage.until) {
      this.#outage = null
      if (!dice.chance(faults.remoteDown)) return null
      const retry = { 'retry-after': String(dice.between(1, 60)) }
      const kinds = ['refused', 'refused', 'hang', 'html', { status: 503 }, { status: 401 }] as const
      const kind = dice.chance(0.1) ? ({ status: 429, headers: retry } as const) : dice.pick(kinds)
      // A token that was taken back is asked for anew at once.
      if (dice.chance(0.2)) standIn.expireTokens()
      outage = { kind, until: time.now() + (dice.chance(0.2) ? dice.between(5000, 300_000) : 1) }
      this.#outage = outage
    }
    return outage.kind as Exclude<Fault, 'lost' | 'late' | 'cut'> | 'refused'
  }
}

function problemIn(fields: object): string {
  const error = 'err' in fields ? fields.err : null
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
