/** What is done with a seed that fails, tried on planted bugs: replay, stopping, making it smaller. */
import t from 'tap'
import { simulatorEdited, simulatorWith } from './planting.ts'
import { minimised, reduced, twice } from './replay.ts'

t.test('[SIM-20] a seed is stopped at an instant, and what it did until then is what it does', async (t) => {
  const { runSeed } = await simulatorWith(null)
  const whole = await runSeed(3, { traced: true })
  const part = await runSeed(3, { traced: true, untilMs: 100_000 })
  t.ok(part.trace.length > 10 && part.trace.length < whole.trace.length)
  const isOver = (line: string) => Number(line.split(' ')[0]) > 100_000
  const end = whole.trace.findIndex(isOver)
  const shared = part.trace.filter((line) => !isOver(line) && !line.endsWith(' everything heals'))
  t.strictSame(shared.slice(0, end), whole.trace.slice(0, end))
})

t.test('[SIM-20] two histories of one seed are seen, with the first event in which they differ', async (t) => {
  const { runSeed } = await simulatorEdited('people who throw dice of their own', [
    ['test/sim/people.ts', 'time.after(dice.between(500,', 'time.after(Math.random() + dice.between(500,'],
  ])
  const { outcome, difference } = await twice(runSeed, 3, { untilMs: 200_000 })
  t.ok(difference !== null)
  t.not(difference?.first, difference?.second)
  t.equal(outcome.trace[difference?.event ?? 0], difference?.first)
  t.equal((await twice((await simulatorWith(null)).runSeed, 3, { untilMs: 200_000 })).difference, null)
})

t.test('[SIM-21] a failure is made smaller: the faults that are left are needed for it, each of them', async (t) => {
  const rule = 'SIM-7'
  const { runSeed } = await simulatorWith('drift is not looked at')
  const until = { untilMs: 300_000 }
  let seed = 1
  let violation: string | undefined
  for (; violation === undefined; seed += 1) [violation] = (await runSeed(seed, until)).violations
  seed -= 1
  const smaller = await minimised(runSeed, seed, violation, until)
  t.match(smaller.violation, new RegExp(`^${rule} `))
  t.match((await runSeed(seed, smaller.options)).violations[0], new RegExp(`^${rule} `), 'its options show it again')
  const { change } = smaller.options
  for (const one of smaller.faults) {
    const without = await runSeed(seed, {
      ...until,
      change: (faults) => reduced(change?.(faults) ?? faults, new Set([one])),
    })
    t.notOk(
      without.violations.some((other) => other.startsWith(`${rule} `)),
      one,
    )
  }
  t.comment(`left: ${smaller.faults.join(', ')}`)
})
