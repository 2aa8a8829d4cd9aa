/**
 * Each golden scenario ends as it should, also with each actor ended at each of its calls: one scenario whole, of the
 * others each so many-th point, others at each run. All of them: `npm run sim -- --exhaustive`.
 */
import t from 'tap'
import { exhaust } from './exhausting.ts'
import { play } from './exhaustive.ts'
import { simulatorWith } from './planting.ts'
import { SCENARIOS, type ScenarioName } from './scenarios.ts'
import type { Stage } from './script.ts'
import { runSeed } from './world.ts'
import type { BugName } from './zoo.ts'

const NAMES = Object.keys(SCENARIOS) as ScenarioName[]
const WHOLE: ScenarioName = 'interrupted dpkg'
/** Of the other scenarios one point in so many is tried; which ones depends on the minute. */
const STRIDE = 61
const OFFSET = Math.floor(Date.now() / 60_000) % STRIDE

t.test('[EXH-1] each golden scenario ends as its plot says, and nothing that people ask for is refused', async (t) => {
  const isDetached = new Set<boolean>()
  for (const name of NAMES) {
    const staged = (stage: Stage) => {
      for (const machine of stage.machines.values()) isDetached.add(machine.isDetached)
    }
    const { violations, refused, calls } = await play(runSeed, SCENARIOS[name], null, { watch: { staged } })
    t.strictSame([violations, refused], [[], []], name)
    for (const kind of ['coordinator', 'agent', 'runner'] as const)
      t.ok(
        calls.some(({ actor, call }) => actor.kind === kind && call > 0),
        `${name}: the calls of the ${kind} are counted`,
      )
  }
  t.equal(isDetached.size, 2, 'runners of both kinds, a unit and detached, are met')
})

t.test(`[EXH-2] ${WHOLE}, with each actor ended at each of its calls, ends as it should`, async (t) => {
  const { counts, found } = await exhaust(runSeed, WHOLE)
  t.strictSame(found, [])
  const kinds = ['coordinator killed', 'commit fails', 'agent killed', 'agent power cut', 'runner killed']
  for (const kind of [...kinds, 'runner power cut', 'wrapper killed', 'wrapper power cut'])
    t.ok((counts.get(kind) ?? 0) > 0, `${kind}: ${counts.get(kind)} points`)
})

t.test(`[EXH-2] of the other scenarios each ${STRIDE}th point from ${OFFSET} on ends as it should`, async (t) => {
  for (const name of NAMES) {
    if (name === WHOLE) continue
    const { found } = await exhaust(runSeed, name, { stride: STRIDE, offset: OFFSET, foundMax: 3 })
    t.strictSame(found, [], name)
  }
})

/** Bugs that a single end shows: by which rule, and at which ends. */
const SHOWN: readonly (readonly [bug: BugName, rule: string, only: RegExp, stride: number])[] = [
  ['nothing is said again at a hello', 'SIM-14', /^coordinator:killed/, 1],
  ['a run under way is called failed after a restart', 'SIM-12', /^runner.*:killed/, 7],
  ['lines are cut again after a restart', 'SIM-8', /^runner.*:killed/, 7],
  ['torn records stay', 'SIM-14', /^runner.*:power cut/, 3],
  ['a file is not synced before its rename', 'EXH-2', /:power cut/, 5],
]

for (const [bug, rule, only, stride] of SHOWN) {
  t.test(`[EXH-4] planted: ${bug}: one end of one actor finds it`, async (t) => {
    const planted = await simulatorWith(bug)
    const { found } = await exhaust(planted.runSeed, 'one machine', { stride, offset: 0, foundMax: 1, only })
    t.match(found[0] ?? 'nothing', new RegExp(`^${rule} `), bug)
  })
}
