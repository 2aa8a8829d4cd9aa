/** Counts the kills in each cell (actor x stage), says where the next ones are wanted, and when it is enough. */
import type { Dice } from '../sim/random.ts'
import { ACTORS, type Actor, CELLS, STAGES, type Stage, livesIn } from './stages.ts'

export type Wanted = {
  /** So many in all. */
  readonly kills: number
  /** So many in each cell. */
  readonly eachCell: number
  /** So many of each actor. */
  readonly eachActor: number
}

const keyOf = (actor: Actor, stage: Stage) => `${actor} ${stage}`

/** Owns the counts. */
export class Tally {
  readonly #counts = new Map<string, number>()
  readonly #wanted: Wanted
  #startedAt = Date.now()
  projects = 0
  orders = 0
  retries = 0

  constructor(wanted: Wanted) {
    this.#wanted = wanted
  }

  /** From now on time counts. */
  begin(): void {
    this.#startedAt = Date.now()
  }

  count(actor: Actor, stage: Stage): void {
    this.#counts.set(keyOf(actor, stage), this.of(actor, stage) + 1)
  }
  of(actor: Actor, stage: Stage): number {
    return this.#counts.get(keyOf(actor, stage)) ?? 0
  }
  ofActor(actor: Actor): number {
    return STAGES.reduce((sum, stage) => sum + this.of(actor, stage), 0)
  }
  total(): number {
    return ACTORS.reduce((sum, actor) => sum + this.ofActor(actor), 0)
  }

  isFull(actor: Actor, stage: Stage): boolean {
    return this.of(actor, stage) >= this.#wanted.eachCell
  }
  /** Whether a kill at a random instant, in a stage that was not aimed at, is welcome. */
  isWelcome(actor: Actor, stage: Stage): boolean {
    return livesIn(actor, stage) && (!this.isFull(actor, stage) || this.ofActor(actor) < this.#wanted.eachActor)
  }
  isEnough(): boolean {
    const { kills, eachActor } = this.#wanted
    const areActors = ACTORS.every((actor) => this.ofActor(actor) >= eachActor)
    return this.total() >= kills && areActors && CELLS.every(({ actor, stage }) => this.isFull(actor, stage))
  }

  /** The stage in which an actor is to be killed next: the emptiest, and when none is wanting, any. */
  next(dice: Dice, actor: Actor, isPlanning: boolean): Stage | null {
    const stages = STAGES.filter((stage) => livesIn(actor, stage) && (stage !== 'plan' || isPlanning))
    const wanting = stages.filter((stage) => !this.isFull(actor, stage))
    if (wanting.length > 0) return dice.pick(wanting)
    return this.ofActor(actor) < this.#wanted.eachActor || this.total() < this.#wanted.kills ? dice.pick(stages) : null
  }

  text(): string {
    const minutes = (Date.now() - this.#startedAt) / 60_000
    const rows = ACTORS.map((actor) => {
      const cells = STAGES.map((stage) =>
        (livesIn(actor, stage) ? String(this.of(actor, stage)) : '-').padStart(stage.length),
      )
      return `${actor.padEnd(11)} ${String(this.ofActor(actor)).padStart(5)}  ${cells.join(' ')}`
    })
    const rate = `${this.total()} kills in ${minutes.toFixed(1)} min (${(this.total() / minutes).toFixed(1)} a minute)`
    const work = `${this.projects} projects, ${this.orders} orders, ${this.retries} retries`
    return [`${rate}; ${work}`, `${'actor'.padEnd(11)}   all  ${STAGES.join(' ')}`, ...rows].join('\n')
  }
}
