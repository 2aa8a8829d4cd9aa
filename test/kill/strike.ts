/**
 * One kill: the runner of the machine is stopped for a moment, so that the step that is read is the step that it is
 * in; the oracle is written; then SIGKILL. What nothing else would start again is started again. Invariant: apt is
 * never killed, and nothing is killed that the oracle does not name.
 */
import type { Site } from '../demo/site.ts'
import type { Accounted } from './judge.ts'
import type { Oracle } from './oracle.ts'
import { type Actor, type Stage, placeOn, runnerOf, wrapperOf } from './stages.ts'
import type { Tally } from './tally.ts'

export type Aim = { readonly actor: Actor; readonly stage: Stage; readonly delayMs: number }
/** `isLater`: the one who is to be killed is not there yet; `isHeld`: the runner stays stopped until it is. */
export type Struck = { readonly isLater: boolean; readonly isHeld: boolean; readonly restarted: Promise<void> }

const NOT_NOW: Struck = { isLater: false, isHeld: false, restarted: Promise.resolve() }

/** Owns who is being started again at the moment. */
export class Striker {
  readonly #site: Site
  readonly #oracle: Oracle
  readonly #tally: Tally
  readonly #isDown = new Set<string>()

  constructor(site: Site, oracle: Oracle, tally: Tally) {
    this.#site = site
    this.#oracle = oracle
    this.#tally = tally
  }

  strike(host: Accounted, { actor, stage: aimed }: Aim): Struck {
    const runner = runnerOf(host.machine)
    if (runner !== null) signal(runner, 'SIGSTOP')
    let isHeld = false
    try {
      const place = placeOn(host.machine, host.known)
      const stage = place?.stage ?? 'plan'
      if (stage !== aimed && !this.#tally.isWelcome(actor, stage)) return NOT_NOW
      const order = place?.order ?? null
      const pid = this.#pidOf(host, actor, runner, order)
      if (pid === null) {
        // Most stages are shorter than a start of the coordinator, so the machine waits there for it.
        isHeld = stage === aimed && this.#isDown.has(actor)
        return { ...NOT_NOW, isLater: stage === aimed || this.#isDown.has(actor), isHeld }
      }
      this.#oracle.write({ what: 'killed', actor, pid, machine: host.name, order, stage })
      if (!signal(pid, 'SIGKILL')) return NOT_NOW
      this.#tally.count(actor, stage)
      return { ...NOT_NOW, restarted: this.#startAgain(host, actor) }
    } finally {
      if (runner !== null && !isHeld) signal(runner, 'SIGCONT')
    }
  }

  #pidOf(host: Accounted, actor: Actor, runner: number | null, order: string | null): number | null {
    switch (actor) {
      case 'coordinator':
        return this.#isDown.has('coordinator') ? null : (this.#site.coordinator?.pid ?? null)
      case 'agent':
        return this.#isDown.has(host.name) ? null : (this.#site.machine(host.name).agent?.pid ?? null)
      case 'runner':
        return runner
      case 'wrapper':
        return order === null ? null : wrapperOf(host.machine, order)
    }
  }

  async #startAgain({ name: machineName }: Accounted, actor: Actor): Promise<void> {
    if (actor !== 'coordinator' && actor !== 'agent') return
    const machine = this.#site.machine(machineName)
    const name = actor === 'coordinator' ? 'coordinator' : machineName
    this.#isDown.add(name)
    await (actor === 'coordinator' ? this.#site.coordinator : machine.agent)?.ended
    await (actor === 'coordinator' ? this.#site.startCoordinator() : machine.startAgent())
    this.#isDown.delete(name)
  }
}

/** False when the process has ended by itself. */
function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    throw error
  }
}
