/**
 * The golden scenarios with every actor ended at every call that it makes: counted in a run in which all is well, then
 * played once for each. What the ledger judges must hold, and each must end as it would have without.
 */
import { placeKey } from '../../coordinator/domain/state.ts'
import { Director, type Seen } from './director.ts'
import { noFaults } from './faults.ts'
import type { Scenario } from './scenarios.ts'
import type { Script, Stage } from './script.ts'
import type { Options, Outcome } from './world.ts'

export type How = 'killed' | 'power cut' | 'commit fails'
/** The coordinator, or a program of one machine (by name), and what ends it. */
export type Actor = {
  readonly kind: 'coordinator' | 'agent' | 'runner' | 'wrapper'
  readonly machine: string | null
  readonly how: How
}
/** An actor that is ended at one of its calls, the first is 1. */
export type Point = { readonly actor: Actor; readonly call: number }
export type Played = Pick<Outcome, 'violations' | 'trace' | 'history'> & {
  /** How many calls each actor made, when none was ended. */
  readonly calls: readonly Point[]
  /** What people asked for and were refused. */
  readonly refused: readonly string[]
}
/** What looks on. */
export type Watch = Pick<Script, 'said'> & { readonly seen?: Seen; readonly staged?: (stage: Stage) => void }
export type Run = (seed: number, options?: Options) => Promise<Outcome>

const PROGRAMS = ['agent', 'runner', 'wrapper'] as const
/** More calls than any scenario has. */
const NEVER = 1_000_000_000
/** Virtual time in which a scenario must have ended, whatever befell it. */
const ENDS_MS = 3 * 3_600_000
const FIRST_MS = 5000
const NEXT_MS = 3000

/** Plays a scenario, with one actor ended at one call or with none. */
export async function play(
  run: Run,
  scenario: Scenario,
  point: Point | null,
  options: { readonly traced?: boolean; readonly watch?: Watch } = {},
): Promise<Played> {
  const playing = new Playing(scenario, point, options.watch ?? {})
  const { violations, trace, history } = await run(scenario.seed, {
    change: noFaults,
    script: playing,
    traced: options.traced === true,
  })
  return {
    violations: [...violations, ...playing.misendings().map((text) => `EXH-2 ${text}`)],
    trace,
    history,
    calls: playing.calls,
    refused: playing.directors.flatMap((one) => one.refused),
  }
}

/** Owns one scenario at play. */
class Playing implements Script {
  readonly machines: readonly string[]
  readonly said: NonNullable<Script['said']>
  calls: Point[] = []
  directors: Director[] = []
  readonly #scenario: Scenario
  readonly #point: Point | null
  readonly #watch: Watch
  #stage: Stage | null = null
  #endsAt = 0
  #wasReached = false

  constructor(scenario: Scenario, point: Point | null, watch: Watch) {
    this.machines = scenario.machines
    this.said = watch.said ?? (() => {})
    this.#scenario = scenario
    this.#point = point
    this.#watch = watch
  }

  readonly begin = (stage: Stage): void => {
    this.#stage = stage
    this.#endsAt = stage.time.now() + ENDS_MS
    this.#watch.staged?.(stage)
    this.#scenario.setUp?.(stage)
    for (const actor of actorsOf(stage))
      if (this.#point === null) doom(stage, { actor, call: NEVER })
      else if (isSame(actor, this.#point.actor)) doom(stage, this.#point)
    const { plots } = this.#scenario
    this.directors = plots.map((plot, index) => new Director(stage, plot, `plot-${index}`, this.#watch.seen))
    this.directors.forEach((one, index) => one.begin(FIRST_MS + NEXT_MS * index))
  }

  readonly isOver = (): boolean => {
    const stage = this.#stage
    if (stage === null) return false
    this.#scenario.tend?.(stage)
    const isOver = this.directors.every((one) => one.isOver) || stage.time.now() > this.#endsAt
    if (!isOver) return false
    // After this everything heals, and what was not met any more never comes.
    if (this.#point === null)
      this.calls = actorsOf(stage).map((actor) => ({ actor, call: NEVER - callsLeft(stage, actor) }))
    else this.#wasReached = callsLeft(stage, this.#point.actor) === 0
    return true
  }

  /** In what way it did not end as it should. */
  misendings(): string[] {
    const stage = this.#stage
    if (stage === null) return ['it never began']
    const unmet = this.#point !== null && !this.#wasReached ? ['the call at which an actor was to end never came'] : []
    return [...unmet, ...this.directors.flatMap((one) => misendingsOf(stage, one))]
  }
}

function actorsOf({ machines }: Stage): Actor[] {
  const programs = [...machines.values()].flatMap(({ name }) =>
    PROGRAMS.flatMap((kind) => (['killed', 'power cut'] as const).map((how) => ({ kind, machine: name, how }))),
  )
  const coordinator = { kind: 'coordinator', machine: null } as const
  return [{ ...coordinator, how: 'killed' }, { ...coordinator, how: 'commit fails' }, ...programs]
}

function isSame(left: Actor, right: Actor): boolean {
  return left.kind === right.kind && left.machine === right.machine && left.how === right.how
}

function machineOf({ machines }: Stage, { machine }: Actor) {
  return [...machines.values()].find((one) => one.name === machine)
}

function doom(stage: Stage, { actor, call }: Point): void {
  if (actor.how === 'commit fails') stage.coordinator.commitDoom = call
  else if (actor.kind === 'coordinator') stage.coordinator.doom = call
  else machineOf(stage, actor)?.dooms.set(actor.kind, { calls: call, how: actor.how })
}

function callsLeft(stage: Stage, actor: Actor): number {
  if (actor.how === 'commit fails') return stage.coordinator.commitDoom
  if (actor.kind === 'coordinator') return stage.coordinator.doom
  return machineOf(stage, actor)?.dooms.get(actor.kind)?.calls ?? 0
}

function misendingsOf({ coordinator, machines }: Stage, director: Director): string[] {
  const project = director.project()
  const { end, request } = director.plot
  if (project === undefined || project.outcome !== end)
    return [
      `${request}: is ${project?.outcome ?? project?.state ?? 'nothing'} where it should be ${end}; ${JSON.stringify(project?.stop)}`,
    ]
  return Array.from({ length: project.targets }, (_, index) => {
    const target = coordinator.onDisk('targets', placeKey(project.id, index))
    const machine = machines.get(target?.machine ?? '')
    if (target === undefined || machine === undefined) return [`${request}: its target ${index} is nowhere`]
    const unclean = [...machine.packages].filter(([, one]) => one.state !== 'installed').map(([name]) => name)
    const late = end === 'complete' ? machine.upgrades('prod').map(({ name }) => name) : []
    const isWell = unclean.length + late.length === 0 && (end === 'cancelled' || target.state === 'succeeded')
    return isWell || target.keepsLine || target.state === 'skipped'
      ? []
      : [
          `${target.name} is ${target.state} ${target.cause ?? ''} with ${unclean.join()} unclean and ${late.join()} not upgraded`,
        ]
  }).flat()
}

/** Every point of a scenario: each actor at each of its calls, or at each `stride`th from `offset` on. */
export function pointsOf(calls: readonly Point[], stride = 1, offset = 0): Point[] {
  const all = calls.flatMap(({ actor, call }) =>
    Array.from({ length: call }, (_, index) => ({ actor, call: index + 1 })),
  )
  return all.filter((_, index) => index % stride === offset % stride)
}

export function nameOf({ actor, call }: Point): string {
  return `${actor.kind}${actor.machine === null ? '' : `@${actor.machine}`}:${actor.how}:${call}`
}
