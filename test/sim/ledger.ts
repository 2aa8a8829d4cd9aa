/**
 * What the simulated machines really did, written down as it happens, and the checkers that judge it. None of them
 * asks the coordinator what it believes: the ledger knows who claimed what, when apt began and what it installed,
 * which digests people approved and when, and which failures they decided about.
 */
import { type GrantPayload, type RunRecord, grantPayloadSchema, inboxEntrySchema } from '../../protocol/files.ts'
import * as v from 'valibot'
import type { Plan } from '../../protocol/plan.ts'
import { PERMISSION_AGE_MS_MAX } from './givens.ts'
import type { Judge, Judged } from './host.ts'
import type { Upgrade } from './repository.ts'
import type { Schedule } from './schedule.ts'
import { TermsJudge } from './terms.ts'

/** What the coordinator had on its disk of an order when it sent the grant. */
export type Granted = {
  readonly project: string
  readonly name: string
  readonly fence: number
  readonly at: number
  readonly startBy: number
  readonly outageMinutes: number
  readonly cluster: string
  readonly digest: string
  readonly plan: Plan
  readonly planHash: string
}

type Use = { readonly order: string; state: 'running' | 'kept' | 'free' }
type Run = {
  readonly machine: Judged
  readonly grant: GrantPayload
  readonly plan: Plan
  starts: number
  /** The boots in which the command was given: given twice in one boot it is one reboot. */
  readonly rebootedIn: Set<string>
  result: Extract<RunRecord, { type: 'result' }> | null
  isOver: boolean
  /** A person has said what becomes of it. */
  isDecided: boolean
}
const isReboot = (record: string) => record.includes('"step":"reboot"')

/**
 * `began` and `ended`: the places among all that was told; a coordinator with an older database may have an earlier
 * clock again.
 */
type Period = { readonly from: number; to: number; readonly began: number; ended: number }

/** Owns the history of the machines and of what people decided; judges each entry as it comes. */
export class Ledger implements Judge {
  readonly violations: string[] = []
  readonly counts = { claims: 0, starts: 0, ends: 0, reboots: 0 }
  readonly runs = new Map<string, Run>()
  /** The records of an order on the coordinator's disk. */
  readonly storedOf: (order: string) => readonly string[]
  readonly terms: TermsJudge
  readonly #now: () => number
  readonly #grants = new Map<string, Granted>()
  /** Until when each grant could be taken up, and the place of its first sending among all that was told: with an older database the same one may be given anew. */
  readonly #startBys = new Map<string, Map<number, number>>()
  /** How much was told so far. */
  #told = 0
  readonly #uses = new Map<string, Use[]>()
  /** The highest that each machine claimed, a copy of one among them. */
  readonly #fences = new Map<Judged, number>()
  readonly #approvals = new Map<string, Period[]>()
  readonly #halts = new Map<string, Period[]>()
  readonly #evil = new Set<Judged>()
  readonly #lost = new Set<string>()
  /** An older database has taken the place of the present one. */
  #isOld = false
  /** What the coordinator knew before it got an older database. */
  readonly #rebootsTold = new Set<string>()

  constructor(seen: {
    readonly storedOf: (order: string) => readonly string[]
    /** The coordinator's clock, by which people count. */
    readonly now: () => number
    readonly schedule: () => Schedule
  }) {
    this.storedOf = seen.storedOf
    this.#now = seen.now
    this.terms = new TermsJudge((rule, text) => this.violate(rule, text), seen.schedule)
  }

  violate(rule: string, text: string): void {
    this.violations.push(`${rule} ${text}`)
  }

  /** A program ended with an error that no fault explains. */
  defect(text: string): void {
    this.violate('SIM-15 programs', text)
  }

  evil(machine: Judged): void {
    this.#evil.add(machine)
  }
  isEvil(machine: Judged): boolean {
    return this.#evil.has(machine)
  }
  /** What was made up of its own order may be taken for its end before the run itself ends, if it ever does. */
  lied(machine: Judged, order: string): void {
    const grant = this.#grants.get(order)
    if (grant?.name === machine.name) this.terms.lied(grant.project)
  }
  /** What an evil machine says of its own order nobody can check, so that order is not judged by it. */
  #isEvil(order: string): boolean {
    const run = this.runs.get(order)
    return run !== undefined && this.#evil.has(run.machine)
  }

  // --- what the coordinator sent -------------------------------------------------------------------------------

  granted(order: string, granted: Granted): void {
    const before = this.#grants.get(order)
    const startBys = this.#startBys.get(order) ?? new Map<number, number>()
    this.#startBys.set(order, startBys)
    if (!startBys.has(granted.startBy)) startBys.set(granted.startBy, ++this.#told)
    // With an older database a grant that never reached its machine may be given anew, with a fence of its own.
    if (before?.fence === granted.fence) return
    if (before !== undefined && !this.#isOld)
      this.violate('SIM-10 fences', `order ${order} was granted with fence ${before.fence} and with ${granted.fence}`)
    this.#grants.set(order, granted)
    this.terms.granted(granted)
  }

  // --- what machines did ---------------------------------------------------------------------------------------

  claimed(machine: Judged, order: string, entryText: string): void {
    this.counts.claims += 1
    const entry = v.parse(inboxEntrySchema, JSON.parse(entryText))
    if (entry.type !== 'grant') throw new Error('a claim without a grant')
    const grant = v.parse(grantPayloadSchema, JSON.parse(Buffer.from(entry.grant.payload, 'base64').toString()))
    const sent = this.#grants.get(order)
    if (sent === undefined)
      return this.violate('SIM-23 forged', `order ${order} was claimed, and no coordinator granted it`)
    const isOfIts = this.#startBys.get(order)?.has(grant.startBy) === true
    const isSame = grant.fence === sent.fence && grant.planHash === sent.planHash && isOfIts
    if (!isSame || JSON.stringify(entry.grant.plan) !== JSON.stringify(sent.plan))
      this.violate('SIM-23 forged', `order ${order} was claimed with another grant than was given`)
    if (this.runs.has(order)) this.violate('SIM-5 once', `order ${order} was claimed twice`)
    if (grant.machine !== machine.id) this.violate('SIM-5 once', `${machine.name} claimed an order of another machine`)
    const fence = this.#fenceBefore(machine)
    if (grant.fence <= fence)
      this.violate('SIM-10 fences', `${machine.name} claimed fence ${grant.fence} after ${fence}`)
    this.#fences.set(machine, Math.max(fence, grant.fence))
    if (machine.wallNow() > grant.startBy) this.violate('SIM-6 approved', `${machine.name} claimed ${order} too late`)
    this.runs.set(order, {
      machine,
      grant,
      plan: entry.grant.plan,
      starts: 0,
      rebootedIn: new Set(),
      result: null,
      isOver: false,
      isDecided: false,
    })
    // One that has said before that it was done is at work on a line that is free by its own lie.
    const isLiar = this.#evil.has(machine)
    if (!isLiar) this.#takeLines(order, sent)
    this.#judgePermission(order, grant, sent)
    if (!isLiar) this.terms.claimed(sent.project, machine.name, this.#failuresOf(sent.project))
  }

  /**
   * A machine and its copy have one key, and so one row of fences. A coordinator with an older database learns from
   * whoever comes first what it has forgotten, and a copy knows nothing of what the other has claimed.
   */
  #fenceBefore(machine: Judged): number {
    if (this.#isOld) return this.#fences.get(machine) ?? 0
    return Math.max(0, ...[...this.#fences].map(([one, fence]) => (one.id === machine.id ? fence : 0)))
  }

  copied(machine: Judged, copy: Judged): void {
    this.#fences.set(copy, this.#fences.get(machine) ?? 0)
  }

  /** How many machines of a project failed without a decision; of one that lies nobody knows. */
  #failuresOf(project: string): number {
    const failed = [...this.runs].filter(
      ([order, run]) =>
        run.result?.outcome === 'failed' &&
        !run.isDecided &&
        !this.#evil.has(run.machine) &&
        this.#grants.get(order)?.project === project,
    )
    return failed.length
  }

  #takeLines(order: string, { project, cluster }: Granted): void {
    for (const line of [`project:${project}`, `cluster:${cluster}`]) {
      const uses = this.#uses.get(line) ?? []
      const other = uses.find((use) => use.state !== 'free')
      if (other !== undefined)
        this.violate('SIM-4 serial', `${order} was claimed on ${line} while ${other.order} was ${other.state}`)
      this.#uses.set(line, [...uses, { order, state: 'running' }])
    }
  }

  #judgePermission(order: string, { issuedAt, startBy }: GrantPayload, { project, digest, planHash }: Granted): void {
    const isWithin = (period: Period, slackMs: number) => period.from <= issuedAt && issuedAt <= period.to + slackMs
    const sentAs = this.#startBys.get(order)?.get(startBy) ?? Number.POSITIVE_INFINITY
    const approvals = this.#approvals.get(digest) ?? []
    // With an older database a coordinator may have an earlier clock than when it granted: then what came first counts.
    const wasStanding = ({ began, ended }: Period) => began < sentAs && sentAs < ended
    if (!approvals.some((one) => isWithin(one, PERMISSION_AGE_MS_MAX) || (this.#isOld && wasStanding(one))))
      this.violate(
        'SIM-6 approved',
        `order ${order} with plan ${planHash} was granted at ${issuedAt} without an approval`,
      )
    for (const what of ['instance', project]) {
      const halts = (this.#halts.get(what) ?? []).filter(({ began }) => began < sentAs)
      const halt = halts.find((one) => one.from < issuedAt && issuedAt < one.to)
      if (halt !== undefined)
        this.violate(
          'SIM-6 approved',
          `order ${order} was granted at ${issuedAt}, though ${what} was stopped at ${halt.from}`,
        )
    }
  }

  aptStarted(machine: Judged, order: string): void {
    this.counts.starts += 1
    const run = this.runs.get(order)
    if (run === undefined) return this.violate('SIM-5 once', `apt was started for ${order}, which nobody claimed`)
    run.starts += 1
    if (run.starts > 1) this.violate('SIM-5 once', `apt was started ${run.starts} times for order ${order}`)
    if (run.result !== null) this.violate('SIM-5 once', `apt was started for order ${order} after its result`)
    if (machine.isInDpkg()) this.violate('SIM-11 dpkg', `apt was started on ${machine.name} while dpkg was at work`)
    if (this.#evil.has(machine)) return
    for (const [other, { isOver }] of this.runs)
      if (other !== order && !isOver && !this.#isEvil(other) && this.#isOnOneLine(other, order))
        this.violate('SIM-4 serial', `apt was started for ${order} while ${other} was at work`)
  }

  #isOnOneLine(left: string, right: string): boolean {
    return [...this.#uses.values()].some((uses) => {
      const is = (order: string) => uses.some((use) => use.order === order && use.state === 'running')
      return is(left) && is(right)
    })
  }

  installed(machine: Judged, order: string, { name, version }: Upgrade): void {
    const run = this.runs.get(order)
    const granted = this.#grants.get(order)
    const isMeant = granted?.plan.installs.some((one) => one.name === name && one.version === version) === true
    if (run === undefined || !isMeant)
      this.violate(
        'SIM-7 approved plan',
        `${machine.name} installed ${name} ${version}, which no approved plan of ${order} has`,
      )
  }

  rebooted(machine: Judged, order: string | null): void {
    this.counts.reboots += 1
    const run = order === null ? undefined : this.runs.get(order)
    if (run === undefined) return this.violate('SIM-11 reboots', `${machine.name} was rebooted for no order`)
    run.rebootedIn.add(machine.bootId)
    if (run.rebootedIn.size > 1)
      this.violate('SIM-11 reboots', `${machine.name} was rebooted ${run.rebootedIn.size} times for one order`)
    if (run.grant.outageMinutes === 0) this.violate('SIM-11 reboots', `${machine.name} was rebooted with outage:0`)
    const isTold = this.storedOf(order ?? '').some(isReboot) || this.#rebootsTold.has(order ?? '')
    if (!this.#evil.has(machine) && !isTold)
      this.violate('SIM-11 reboots', `${machine.name} was rebooted before the coordinator knew`)
    if (machine.isInDpkg()) this.violate('SIM-11 dpkg', `${machine.name} was rebooted while dpkg was at work`)
  }

  interrupted(machine: Judged): void {
    this.violate('SIM-11 dpkg', `smith ended apt on ${machine.name}`)
  }

  /** A power cut may have taken back a claim that was not synced yet. */
  wentDown(machine: Judged): void {
    for (const [order, run] of this.runs) {
      if (run.machine !== machine || run.isOver || run.starts > 0 || machine.hasClaim(order)) continue
      this.runs.delete(order)
      this.#fences.set(machine, run.grant.fence - 1)
      this.#setUses(order, () => 'free')
    }
  }

  ended(machine: Judged, order: string, record: RunRecord): void {
    const run = this.runs.get(order)
    // A machine may have called back, for itself, what is another's order: of that it has nothing to say.
    if (record.type !== 'result' || run?.machine !== machine || run.result !== null) return
    this.counts.ends += 1
    run.result = record
    run.isOver = record.outcome !== 'unknown'
    if (record.outcome === 'unknown') return
    if (machine.isInDpkg()) this.violate('SIM-5 once', `${machine.name} told the result of ${order} with dpkg at work`)
    if (run.starts > 0 && !record.latched)
      this.violate('SIM-12 truth', `${machine.name} says that it is untouched, and apt was started for ${order}`)
    if (record.outcome === 'succeeded') this.#judgeSuccess(machine, order, run)
    const { project } = this.#grants.get(order) ?? { project: '' }
    if (this.#evil.has(machine)) this.terms.lied(project)
    else if (record.outcome !== 'void') this.terms.ended(project, machine.name, this.#now(), record.outcome)
    // A failure keeps its cluster until a person decides when the machine was touched; terms.ts counts for the project.
    const isKept = (line: string) => record.outcome === 'failed' && record.latched && line.startsWith('cluster:')
    this.#setUses(order, (line) => (isKept(line) ? 'kept' : 'free'))
  }

  #judgeSuccess(machine: Judged, order: string, run: Run): void {
    const wrong = run.plan.installs.filter((one) => machine.packages.get(one.name)?.version !== one.version)
    const unclean = [...machine.packages].filter(([, one]) => one.state !== 'installed')
    if (wrong.length > 0 || unclean.length > 0)
      this.violate('SIM-12 truth', `${order} succeeded on ${machine.name} with ${JSON.stringify([wrong, unclean])}`)
  }

  orderAtWork(machine: Judged): string | null {
    for (const [order, run] of this.runs) if (run.machine === machine && run.result === null) return order
    return null
  }

  #setUses(order: string, stateOn: (line: string) => Use['state']): void {
    for (const [line, uses] of this.#uses) for (const use of uses) if (use.order === order) use.state = stateOn(line)
  }

  // --- what people decided -------------------------------------------------------------------------------------

  /** A person said how an order ended, or what becomes of its failure: from then on its lines are free. */
  decided(order: string): void {
    const run = this.runs.get(order)
    if (run !== undefined && run.result === null && !this.#isEvil(order))
      this.violate('SIM-4 serial', `order ${order} was settled by a person while it was at work`)
    if (run !== undefined) {
      run.isOver = true
      run.isDecided = true
    }
    this.#setUses(order, () => 'free')
  }

  /** The answer takes it back: nobody took the approval. */
  approved(digest: string, at: number): () => void {
    return this.#begin(this.#approvals, digest, at)
  }
  unapproved(digest: string, at: number): void {
    this.#finish(this.#approvals, digest, at)
  }
  /** Nothing more is to be granted: in the instance, or in one project. */
  halted(what: string, at: number): void {
    this.#begin(this.#halts, what, at)
  }
  resumed(what: string, at: number): void {
    // A wish that was lost may have borne a later instant, should the clock have been set back since.
    for (const period of this.#halts.get(what) ?? []) period.to = Math.min(period.to, at)
  }

  /** Machines that were made anew: what they were at is settled as lost. */
  replaced(machines: readonly Judged[]): void {
    for (const [order, run] of this.runs) {
      if (!machines.includes(run.machine)) continue
      this.#lost.add(order)
      this.decided(order)
    }
  }

  /** An older database takes the place of the present one, which had these records. */
  databaseLost(logs: ReadonlyMap<string, readonly string[]>): void {
    this.#isOld = true
    this.terms.forget()
    for (const [order, records] of logs) {
      if (records.at(-1)?.includes('"type":"result"') === true) this.#lost.add(order)
      if (records.some(isReboot)) this.#rebootsTold.add(order)
    }
    for (const [order, run] of this.runs) if (run.result !== null) this.#lost.add(order)
  }
  /** Its end was committed in a database that was replaced by an older one, and the machine may have let it go. */
  isLost(order: string): boolean {
    return this.#lost.has(order)
  }

  /** After a restored database: what it says of approvals and stops is what counts from now on. */
  takenAsTheyAre(digests: readonly string[], at: number): void {
    this.#halts.clear()
    this.terms.forget()
    for (const digest of digests) this.#begin(this.#approvals, digest, at)
  }

  #begin(periods: Map<string, Period[]>, key: string, at: number): () => void {
    const never = Number.POSITIVE_INFINITY
    const period: Period = { from: at, to: never, began: ++this.#told, ended: never }
    periods.set(key, [...(periods.get(key) ?? []), period])
    return () =>
      periods.set(
        key,
        (periods.get(key) ?? []).filter((one) => one !== period),
      )
  }

  #finish(periods: Map<string, Period[]>, key: string, at: number): void {
    for (const period of periods.get(key) ?? []) {
      if (period.to !== Number.POSITIVE_INFINITY) continue
      period.to = at
      period.ended = ++this.#told
    }
  }
}
