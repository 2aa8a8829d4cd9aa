/** One run of one machine, with the kills that are meant for it: each comes when its stage is seen, or a while later. */
import type { Dice } from '../sim/random.ts'
import type { Accounted } from './judge.ts'
import { ACTORS, type Stage, watchPlaces } from './stages.ts'
import type { Aim, Striker } from './strike.ts'
import type { Tally } from './tally.ts'

/** How long a stage takes, roughly: a kill at a random instant of it comes within that time. Below 2, at once. */
const LASTS_MS: Readonly<Record<Stage, number>> = {
  plan: 600,
  granted: 200,
  claim: 1,
  update: 250,
  replan: 250,
  fetch: 200,
  'pre-checks': 1,
  latch: 150,
  install: 800,
  'post-checks': 100,
  verify: 1,
  result: 100,
}
/** Whoever is to be killed may still be starting. */
const AGAIN_MS = 5
const AGAIN_MAX = 1000

/** One who was killed less often than others, because it is down while another line would kill it, gets more. */
const LAGGARD = 0.9
const AIMS_OF_LAGGARD = 3

export function aimsFor(dice: Dice, tally: Tally, isPlanning: boolean): Aim[] {
  const most = Math.max(...ACTORS.map((actor) => tally.ofActor(actor)))
  return ACTORS.flatMap((actor) => {
    const count = actor !== 'wrapper' && tally.ofActor(actor) < most * LAGGARD ? AIMS_OF_LAGGARD : 1
    return Array.from({ length: count }).flatMap((): Aim[] => {
      const stage = tally.next(dice, actor, isPlanning)
      if (stage === null) return []
      return [{ actor, stage, delayMs: dice.chance(0.5) ? 0 : dice.below(LASTS_MS[stage]) }]
    })
  })
}

export type Hunt = {
  /** Plans are made now. */
  readonly planning: () => void
  /** No kill comes any more, and everything that was killed is up again. */
  readonly over: () => Promise<void>
}

export function hunt(striker: Striker, host: Accounted, aims: readonly Aim[]): Hunt {
  const open = new Set(aims)
  const restarts: Promise<void>[] = []
  const timers = new Set<NodeJS.Timeout>()
  const after = (ms: number, act: () => void): void => {
    const timer = setTimeout(() => {
      timers.delete(timer)
      act()
    }, ms)
    timers.add(timer)
  }
  const fire = (aim: Aim, tries: number): void => {
    const { isLater, isHeld, restarted } = striker.strike(host, aim)
    restarts.push(restarted)
    if (isHeld || (isLater && tries < AGAIN_MAX)) after(AGAIN_MS, () => fire(aim, tries + 1))
  }
  const reach = (stage: Stage): void => {
    for (const aim of open) {
      if (aim.stage !== stage) continue
      open.delete(aim)
      if (aim.delayMs === 0) fire(aim, 0)
      else after(aim.delayMs, () => fire(aim, 0))
    }
  }
  const watch = watchPlaces(host.machine, host.known, ({ stage }) => reach(stage))
  return {
    planning: () => reach('plan'),
    over: async () => {
      watch.stop()
      for (const timer of timers) clearTimeout(timer)
      await Promise.all(restarts)
    },
  }
}
