/**
 * The people of one scripted project: one asks, another approves, and at the times that the plot names they do what it
 * says. Whatever else stops the project they lift as the stop itself says. An answer that never came is asked for
 * again, as a person does. What they decide goes to the ledger.
 */
import type { Command } from '../../coordinator/domain/events.ts'
import { type Order, type Project, type Target, placeKey } from '../../coordinator/domain/state.ts'
import { typed } from '../coordinator/typed.ts'
import { PEOPLE, type Person } from './givens.ts'
import type { Stage } from './script.ts'
import { PLAIN_TERMS, type Terms } from './terms.ts'

/** Something that happens to a project: what a person asks for, or what befalls it. */
export type Step = {
  readonly name: string
  readonly when: (now: { readonly project: Project; readonly orders: readonly Order[] }) => boolean
  readonly act: (stage: Stage, project: Project) => Command | null
}
export type Plot = {
  readonly request: string
  readonly steps: readonly Step[]
  readonly end: 'complete' | 'cancelled'
  /** What its request says of how it goes; nothing when it says nothing. */
  readonly terms?: Terms
  /** How often its people look. */
  readonly lookMs?: number
}
/** What people do and see, for those who write it down. */
export type Seen = {
  readonly asked: (who: string, command: Command) => void
  readonly refused: (who: string) => void
  readonly happened: (what: string) => void
}

const LOOK_MS = 1000
/** A person comes to a project that is stopped after this time. */
const COMES_MS = 30_000
const [REQUESTER, APPROVER] = PEOPLE as [Person, Person]

/** Owns how far a plot has got. */
export class Director {
  isOver = false
  /** What was asked for and refused; in a world without faults there is none. */
  readonly refused: string[] = []
  readonly plot: Plot
  readonly #stage: Stage
  readonly #name: string
  readonly #seen: Seen | null
  #tries = 1
  #step = 0
  #isAsking = false

  constructor(stage: Stage, plot: Plot, name: string, seen: Seen | null = null) {
    this.#stage = stage
    this.plot = plot
    this.#name = name
    this.#seen = seen
  }

  begin(afterMs: number): void {
    const look = () => {
      if (!this.#isAsking && this.#stage.coordinator.view() !== null) this.#look()
      if (!this.isOver) this.#stage.time.after(this.plot.lookMs ?? LOOK_MS, look)
    }
    this.#stage.time.after(afterMs, look)
  }

  /** The project that came of the request, when one has. */
  project(): Project | undefined {
    const { coordinator } = this.#stage
    const request = coordinator.onDisk('requestKeys', this.#key())?.request
    const project = request === undefined ? null : (coordinator.onDisk('requests', request)?.project ?? null)
    return project === null ? undefined : coordinator.onDisk('projects', project)
  }

  #key(): string {
    return `${this.#name}-${this.#tries}`
  }

  #look(): void {
    const { coordinator } = this.#stage
    const request = coordinator.onDisk('requestKeys', this.#key())?.request
    if (request === undefined) {
      const command: Command = { type: 'request', text: this.plot.request, preview: false, key: this.#key() }
      return this.#ask(REQUESTER, command, (ok) => ok === false && this.#again())
    }
    if (coordinator.onDisk('requests', request)?.state === 'refused') return this.#again()
    const project = this.project()
    if (project?.change == null) return
    this.isOver = project.state === 'closed'
    if (!this.isOver) this.#steer(project)
  }

  /** The request was refused, so it is made anew. */
  #again(): void {
    this.refused.push(`${this.plot.request}: refused`)
    this.#tries += 1
  }

  #steer(project: Project): void {
    const { time } = this.#stage
    const step = this.plot.steps[this.#step]
    const { stop } = project
    if (project.state === 'pending') return this.#lift(project, `smith approve ${project.change ?? ''}`)
    const orders = this.#orders(project)
    if (step?.when({ project, orders }) === true) {
      this.#seen?.happened(step.name)
      const command = step.act(this.#stage, project)
      if (command === null) this.#step += 1
      else this.#decide(REQUESTER, command, project, (ok) => (this.#step += ok === null ? 0 : 1))
      return
    }
    if (stop?.kind === 'hold' && time.now() >= stop.since + COMES_MS) this.#lift(project, stop.lift)
  }

  #orders(project: Project): Order[] {
    const { life } = this.#stage.coordinator
    return [...(life?.store.orders({ project: project.id }) ?? [])]
  }

  /** Types what the stop says, as soon as a person can. */
  #lift(project: Project, text: string): void {
    const { machines, ledger } = this.#stage
    const command = typed(text)
    if (command === null) {
      if (!/^(start|Put|Make|See|On|wait)/i.test(text)) ledger.violate('SIM-14 ends', `nobody can type ${text}`)
      return
    }
    if (command.type === 'decide') return this.#decide(APPROVER, { ...command, digest: project.digest }, project)
    if (command.type === 'resolve') {
      // A person looks at the machine first: an order that is still at it is never called ended.
      const machine = [...machines.values()].find((one) => one.name === command.machine)
      const order = project.active ?? ''
      const isOver = machine?.recordsOf(order).at(-1)?.type === 'result'
      const isNowhere = machine?.isUp === true && !machine.ordersInHand().includes(order)
      if (!isOver && !isNowhere) return
    }
    this.#decide(REQUESTER, command, project)
  }

  #decide(who: Person, command: Command, project: Project, then: (ok: boolean | null) => void = () => {}): void {
    const tell = this.#judged(command, project)
    this.#ask(who, command, (ok) => {
      if (ok === false) this.refused.push(JSON.stringify(command))
      tell(ok)
      then(ok)
    })
  }

  #ask(who: Person, command: Command, then: (ok: boolean | null) => void): void {
    this.#isAsking = true
    this.#seen?.asked(who.name, command)
    this.#stage.coordinator.submit(who, { type: 'command', command }, (ok) => {
      this.#isAsking = false
      if (ok === false) this.#seen?.refused(who.name)
      then(ok)
    })
  }

  /** Tells the ledger what is asked for; the answer is called with what came of it. */
  #judged(command: Command, project: Project): (ok: boolean | null) => void {
    const { ledger, coordinator } = this.#stage
    const now = () => coordinator.now()
    switch (command.type) {
      case 'decide': {
        ledger.terms.asked(project.text, this.plot.terms ?? PLAIN_TERMS)
        ledger.terms.shown(project.id, project.text, this.#targets(project))
        if (command.decision === 'reject') return (ok) => ok === true && ledger.unapproved(project.digest, now())
        const takeBack = ledger.approved(project.digest, now())
        return (ok) => ok === false && takeBack()
      }
      case 'pause':
        return (ok) => ok === true && ledger.halted(project.id, now())
      case 'resume':
        ledger.resumed(project.id, now())
        ledger.terms.resumed(project.id, now())
        return () => {}
      case 'cancel': {
        // It decides about the failures that changed nothing.
        const failed = project.undecided.map((index) => coordinator.onDisk('targets', placeKey(project.id, index)))
        const orders = failed.flatMap((target) =>
          target === undefined || target.keepsLine ? [] : [target.order ?? ''],
        )
        return (ok) => {
          if (ok === true) ledger.halted(project.id, now())
          if (ok !== false) for (const order of orders) ledger.decided(order)
        }
      }
      case 'retry':
      case 'skip':
      case 'resolve': {
        const order = this.#targets(project).find((target) => target.name === command.machine)?.order ?? ''
        if (command.type === 'retry') ledger.terms.retried(project.id, command.machine)
        // Where the coordinator ended before it answered, it may have been done.
        return (ok) => ok !== false && ledger.decided(order)
      }
      default:
        return () => {}
    }
  }

  #targets(project: Project): Target[] {
    const { coordinator } = this.#stage
    const indexes = Array.from({ length: project.targets }, (_, index) => index)
    return indexes.flatMap((index) => coordinator.onDisk('targets', placeKey(project.id, index)) ?? [])
  }
}
