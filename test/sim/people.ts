/**
 * The people of a simulated world: they ask, approve, reject, pause, cancel and freeze at random, race one another,
 * and lift holds as the stop tells them to. While the world heals they only lift. What they decide goes to the ledger.
 */
import type { View } from '../../coordinator/domain/draft.ts'
import type { Command } from '../../coordinator/domain/events.ts'
import { type Project, type Target, placeKey } from '../../coordinator/domain/state.ts'
import { PEOPLE, type Person } from './givens.ts'
import type { Coordinator } from './coordinator.ts'
import type { Ledger } from './ledger.ts'
import type { Machine } from './machine.ts'
import type { Office } from './office.ts'
import { chooseTerms, textOf } from './terms.ts'
import type { Dice } from './random.ts'
import type { Time } from './time.ts'

/** What of their world people see and touch. */
export type Scene = {
  readonly time: Time
  readonly dice: Dice
  readonly ledger: Ledger
  readonly machines: ReadonlyMap<string, Machine>
  readonly healing: boolean
  /** A machine, and its copy where someone made one. */
  readonly holdersOf: (machine: string) => readonly Machine[]
  readonly coordinator: Coordinator
  /** Where changes are decided about when that is not in smith. */
  readonly remote: { readonly office: Office } | null
}

export class People {
  readonly #world: Scene

  constructor(world: Scene) {
    this.#world = world
  }

  begin(): void {
    const { time, dice } = this.#world
    const act = () => {
      const view = this.#world.coordinator.view()
      if (view !== null) this.#actOnce(dice.pick(PEOPLE), view)
      time.after(dice.between(500, this.#world.healing ? 60_000 : 20_000), act)
    }
    for (let person = 0; person < 3; person += 1) time.after(dice.between(1, 20_000), act)
  }

  #actOnce(who: Person, view: View): void {
    const { dice } = this.#world
    const open = [...view.all('projects')]
    if (this.#world.healing) {
      for (const one of open) this.#lift(who, view, one)
      return
    }
    const project = open.length === 0 ? undefined : dice.pick(open)
    if (project?.change == null || dice.chance(0.2)) {
      this.#command(who, { type: 'request', text: this.#requestText(), preview: dice.chance(0.1), key: null })
      return
    }
    if (project.state === 'pending' || project.approval === null) {
      this.#decide(who, view, project, dice.chance(0.9) ? 'approve' : 'reject')
      return
    }
    const roll = dice.below(100)
    if (roll < 50) this.#lift(who, view, project)
    else if (roll < 54) this.#decide(who, view, project, 'reject')
    else if (roll < 60) this.#halt(who, { type: 'pause', change: project.change, reason: 'look' }, project.id)
    else if (roll < 64) this.#cancel(who, view, project)
    else if (roll < 66) this.#halt(who, { type: 'freeze', reason: 'storm' }, 'instance')
    else if (roll < 68) this.#unfreeze(who, view)
  }

  #requestText(): string {
    const { dice, machines, ledger, coordinator } = this.#world
    const names = [...machines.values()].map((machine) => machine.name)
    const cluster = `prod-dal10-carrier${dice.between(1, 3)}-worker-*`
    const patterns = ['prod-dal10-*', cluster, cluster]
    const which = dice.chance(0.6) ? dice.pick(patterns) : [dice.pick(names), dice.pick(names)].join(' ')
    const terms = chooseTerms(dice, coordinator.now())
    const outage = dice.chance(0.5) ? 0 : 15
    const skip = dice.chance(0.8) ? ' offline:skip busy:skip' : ''
    const text = `prod machines: ${which} outage:${outage}${skip}${textOf(terms)}`
    ledger.terms.asked(text, terms)
    return text
  }

  #command(who: Person, command: Command, then?: (ok: boolean | null) => void): void {
    this.#world.coordinator.submit(who, { type: 'command', command }, then)
  }

  /** From the answer on nothing more may be granted there. */
  #halt(who: Person, command: Command, what: string): void {
    const { ledger, coordinator } = this.#world
    this.#command(who, command, (ok) => ok === true && ledger.halted(what, coordinator.now()))
  }

  /** What was asked for counts at once, for nobody knows when it is done. */
  #resume(who: Person, command: Command, what: string, then?: (ok: boolean | null) => void): void {
    const { ledger, coordinator } = this.#world
    ledger.resumed(what, coordinator.now())
    ledger.terms.resumed(what, coordinator.now())
    this.#command(who, command, then)
  }

  /**
   * After a restored database a person waits until every machine is connected and none is at work for an order that
   * the database does not know, and then takes things as they are.
   */
  #unfreeze(who: Person, view: View): void {
    const { ledger, machines, coordinator } = this.#world
    const frozen = view.get('instance', 'instance')?.frozen
    const isOld = frozen?.by === 'restore' || frozen?.by === 'smith'
    const strange = [...ledger.runs].filter(([order]) => (coordinator.onDisk('orders', order)?.fence ?? 0) === 0)
    if (isOld) {
      const isAllThere = [...machines.keys()].every((machine) => view.get('sessions', machine) !== undefined)
      if (!isAllThere || strange.some(([, run]) => run.result === null)) return
    }
    this.#resume(who, { type: 'unfreeze', reason: '' }, 'instance', (ok) => {
      if (ok === false || !isOld) return
      for (const [order] of strange) ledger.decided(order)
      ledger.takenAsTheyAre(
        [...view.all('projects')].map((project) => project.digest),
        coordinator.now(),
      )
    })
  }

  #decide(who: Person, view: View, project: Project, decision: 'approve' | 'reject'): void {
    const { ledger, coordinator } = this.#world
    const { digest } = project
    const shown = this.#targets(view, project).filter((target) => target.state !== 'skipped')
    ledger.terms.shown(project.id, project.text, shown)
    const change = project.change ?? ''
    const { remote } = this.#world
    if (remote !== null) {
      // What is over there is given up here, as the stop says.
      if (remote.office.isOver(change)) this.#cancel(who, view, project)
      else remote.office.decide(change, who.name, decision)
      return
    }
    // The ledger takes an approval for given from the moment it is asked for, and takes it back if it is refused.
    const refused = decision === 'approve' ? ledger.approved(digest, coordinator.now()) : () => {}
    const given = decision === 'approve' ? digest : null
    this.#command(who, { type: 'decide', change, decision, digest: given, reason: '' }, (ok) => {
      if (ok === true && decision === 'approve' && who.name === project.requester)
        ledger.violate('SIM-6 approved', `${who.name} approved ${change}, which is their own`)
      if (ok === false) refused()
      else if (ok === true && decision === 'reject') ledger.unapproved(digest, coordinator.now())
    })
  }

  /** Who cancels decides about the failures that changed nothing; the others keep their cluster until they are settled. */
  #cancel(who: Person, view: View, project: Project): void {
    const failed = project.undecided.map((index) => view.get('targets', placeKey(project.id, index)))
    const orders = failed.flatMap((target) => (target === undefined || target.keepsLine ? [] : [target.order ?? '']))
    this.#command(who, { type: 'cancel', change: project.change ?? '', reason: 'no' }, (ok) => {
      if (ok === false) return
      if (ok === true) this.#world.ledger.halted(project.id, this.#world.coordinator.now())
      for (const order of orders) this.#world.ledger.decided(order)
    })
  }

  #targets(view: View, project: Project): Target[] {
    const all = Array.from({ length: project.targets }, (_, index) => view.get('targets', placeKey(project.id, index)))
    return all.flatMap((target) => target ?? [])
  }

  /** Does what the stop of a project says, as a person would. */
  #lift(who: Person, view: View, project: Project): void {
    const { dice, ledger, healing } = this.#world
    const change = project.change ?? ''
    const { stop } = project
    if (healing && (project.state === 'pending' || stop?.code === 'approval')) {
      this.#decide(PEOPLE.find((one) => one.name !== project.requester) ?? who, view, project, 'approve')
      return
    }
    if (stop?.kind === 'hold' && !/^(smith|start|Put|Make|See|On) /i.test(stop.lift))
      ledger.violate('SIM-14 ends', `no command lifts ${JSON.stringify(stop)}`)
    const failed = this.#targets(view, project).filter((target) => project.undecided.includes(target.index))
    // What goes on after its failures has them decided about at any time.
    const isAnswered = stop?.code === 'failed' || stop?.code === 'drift'
    if (failed.length > 0 && project.active === null && (isAnswered || dice.chance(0.3))) {
      this.#settle(who, project, failed.find((target) => target.name === stop?.machine) ?? dice.pick(failed))
      return
    }
    if (stop?.code === 'soak' && dice.chance(0.1))
      this.#resume(who, { type: 'resume', change, reason: 'seen enough' }, project.id)
    if (stop === null || stop.kind !== 'hold') return
    switch (stop.code) {
      case 'frozen':
        this.#unfreeze(who, view)
        return
      case 'unknown':
        // Where the coordinator ended before it answered, it may have been done.
        this.#resolve(who, view, project, (ok) => ok !== false && ledger.decided(project.active ?? ''))
        return
      case 'window':
        this.#cancel(who, view, project)
        return
      case 'offline':
        // What never comes back as what it was is left out; for the others it is waited once more.
        if (stop.lift.startsWith('smith skip') && stop.machine !== null)
          this.#command(who, { type: 'skip', change, machine: stop.machine, reason: 'gone' })
        else this.#resume(who, { type: 'resume', change, reason: '' }, project.id)
        return
      default:
        this.#resume(who, { type: 'resume', change, reason: '' }, project.id)
    }
  }

  /** Decides what becomes of a failure. */
  #settle(who: Person, project: Project, target: Target): void {
    const { dice, ledger } = this.#world
    const change = project.change ?? ''
    const machine = target.name
    const decided = (ok: boolean | null) => ok !== false && ledger.decided(target.order ?? '')
    if (dice.chance(0.3)) this.#command(who, { type: 'skip', change, machine, reason: 'later' }, decided)
    else {
      ledger.terms.retried(project.id, machine)
      this.#command(who, { type: 'retry', change, machine, reason: '' }, decided)
    }
  }

  /** A person looks at the machine first: an order that is still at it is never called ended. */
  #resolve(who: Person, view: View, project: Project, decided: (ok: boolean | null) => void): void {
    const order = view.get('orders', project.active ?? '')
    const holders = order === undefined ? [] : this.#world.holdersOf(order.machine)
    // It has ended there, or nothing of it is on any machine that bears the name, should there be one at all.
    const isOver = holders.some((one) => one.recordsOf(order?.id ?? '').at(-1)?.type === 'result')
    // What an evil half leaves in its inbox only looks like a grant; a claim is the root half's.
    const isAtIt = (one: Machine, id: string) =>
      this.#world.ledger.isEvil(one) ? one.hasClaim(id) : one.ordersInHand().includes(id)
    const isNowhere = holders.every((one) => one.isUp && !isAtIt(one, order?.id ?? ''))
    if (order === undefined || !(isOver || isNowhere)) return
    const as = this.#world.dice.chance(0.5) ? 'failed' : 'succeeded'
    this.#command(
      who,
      { type: 'resolve', change: project.change ?? '', machine: order.name, as, reason: 'looked' },
      decided,
    )
  }
}
