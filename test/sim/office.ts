/**
 * The people of a simulated ServiceNow: they decide about changes, put them on hold and take them off, revert and cancel
 * them, and move their windows. While the world heals they only mend, and do what smith can't do there.
 */
import { dateText, instantOf } from '../../coordinator/change/servicenow/records.ts'
import type { Project } from '../../coordinator/domain/state.ts'
import type { Record_, Records } from '../servicenow/records.ts'
import type { Faults } from './faults.ts'
import type { Dice } from './random.ts'
import type { Time } from './time.ts'

type OfficeWorld = {
  readonly time: Time
  readonly dice: Dice
  readonly faults: Faults
  readonly healing: () => boolean
  readonly met: (fault: string) => void
  readonly trace: (text: string) => void
  /** The project of a change by its id, whether it is over or not. */
  readonly projectOf: (id: string) => Project | undefined
}
const [NEW, ASSESS, SCHEDULED, IMPLEMENT, REVIEW, CLOSED, CANCELED] = ['-5', '-4', '-2', '-1', '0', '3', '4'] as const
const DAY_MS = 86_400_000

export class Office {
  readonly #world: OfficeWorld
  readonly #records: Records

  constructor(world: OfficeWorld, records: Records) {
    this.#world = world
    this.#records = records
  }

  begin(): void {
    const { time, dice, healing } = this.#world
    const act = () => {
      const changes = this.#records.all('change_request').filter((row) => this.#isOpen(row))
      if (healing()) for (const change of changes) this.#mend(change)
      else if (changes.length > 0) this.#meddle(this.#pick(changes))
      time.after(dice.between(1000, 20_000), act)
    }
    time.after(dice.between(1, 20_000), act)
  }

  /** Where something is going on most harm is done. */
  #pick(changes: readonly Record_[]): Record_ {
    const { dice } = this.#world
    const busy = changes.filter((row) => row['state'] === SCHEDULED || row['state'] === IMPLEMENT)
    return dice.pick(busy.length > 0 && dice.chance(0.8) ? busy : changes)
  }

  /** smith's, and neither closed nor canceled. */
  #isOpen(row: Record_): boolean {
    return row['correlation_id'] !== '' && row['active'] === 'true'
  }

  #change(number: string): Record_ | undefined {
    return this.#records.all('change_request').find((row) => row['number'] === number)
  }

  /** True when it can't be decided about any more. */
  isOver(number: string): boolean {
    return this.#change(number)?.['active'] === 'false'
  }

  /** One click of a person on the way to the decision. */
  decide(number: string, who: string, decision: 'approve' | 'reject'): void {
    const row = this.#change(number)
    if (row === undefined || !this.#isOpen(row)) return
    this.#world.trace(`servicenow: ${who} means to ${decision} ${number}, which is in state ${row['state']}`)
    const isAsked = this.#approvals(row, 'requested').some((one) => one['approver.user_name'] === who)
    switch (row['state']) {
      case NEW:
        return this.#records.edit(number, { state: ASSESS })
      case ASSESS:
        if (!isAsked) return this.#records.revert(number)
        return decision === 'approve' ? this.#records.approve(number, who) : this.#records.reject(number, 'no', who)
      case REVIEW:
        return this.#records.edit(number, { state: IMPLEMENT })
      default: {
        // What smith does not take for an approval is asked for anew, as it says.
        const isApproved = this.#approvals(row, 'approved').some((one) => one['approver.user_name'] === who)
        if (decision === 'reject' || !isApproved || row['approval'] !== 'approved') this.#records.revert(number)
      }
    }
  }

  #approvals(change: Record_, state: string): Record_[] {
    return this.#records
      .all('sysapproval_approver')
      .filter((row) => row['sysapproval'] === change['sys_id'] && row['state'] === state)
  }

  #meddle(change: Record_): void {
    const { dice, faults } = this.#world
    const number = change['number'] ?? ''
    if (change['on_hold'] === 'true' && dice.chance(0.3)) return this.#records.hold(number, false)
    if (this.#isShut(change) && dice.chance(0.3)) return this.#open(change)
    if (dice.chance(faults.remoteHeld)) return this.#do('change held', number, () => this.#records.hold(number, true))
    if (dice.chance(faults.remoteWithdrawn))
      return this.#do('change withdrawn', number, () =>
        dice.chance(0.5)
          ? this.#records.revert(number)
          : this.#records.edit(number, { approval: dice.pick(['not_required', 'rejected']) }),
      )
    if (dice.chance(faults.remoteShut)) return this.#do('window over', number, () => this.#shut(change))
    if (!dice.chance(faults.remoteEnded)) return
    const state = change['state'] === IMPLEMENT && dice.chance(0.5) ? REVIEW : CANCELED
    this.#do('change ended', number, () => this.#records.edit(number, { state }))
  }

  #do(what: string, number: string, act: () => void): void {
    this.#world.met(what)
    this.#world.trace(`servicenow: ${what}: ${number}`)
    act()
  }

  #isShut(change: Record_): boolean {
    const now = this.#world.time.now()
    const [start, end] = ['start_date', 'end_date'].map((name) => instantOf(change[name] ?? '') ?? 0)
    return now < (start ?? 0) || now + DAY_MS / 24 > (end ?? 0)
  }

  /** Over, not yet begun, or the wrong way round. */
  #shut(change: Record_): void {
    const { time, dice } = this.#world
    const days = dice.pick([
      [-2, -1],
      [1, 2],
      [1, -1],
    ] as const)
    const [start, end] = days.map((day) => dateText(time.now() + day * DAY_MS))
    Object.assign(change, { start_date: start, end_date: end })
  }

  #open(change: Record_): void {
    const now = this.#world.time.now()
    Object.assign(change, { start_date: dateText(now - DAY_MS / 24), end_date: dateText(now + DAY_MS) })
  }

  #mend(change: Record_): void {
    const number = change['number'] ?? ''
    if (change['on_hold'] === 'true') this.#records.hold(number, false)
    if (this.#isShut(change)) this.#open(change)
    const project = this.#world.projectOf((change['correlation_id'] ?? '').replace('smith:', ''))
    if (project?.state !== 'closed') return
    // What somebody took to Review too early has open tasks, and what was patched and then reverted smith can't close.
    const isReview = change['state'] === REVIEW
    const isReverted = ![SCHEDULED, IMPLEMENT].some((state) => state === change['state'])
    if (!isReview && !(isReverted && project.counts.pass + project.counts.fail > 0)) return
    for (const task of this.#records.tasksOf(change))
      if (task['active'] === 'true') Object.assign(task, { state: CLOSED, active: 'false', close_code: 'successful' })
    if (!isReview) this.#records.edit(number, { state: CLOSED, close_code: 'unsuccessful' })
  }
}
