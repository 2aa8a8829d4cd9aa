/** A short loop of kills with another seed each time; the long one is `npm run kill`, its figures are in DECISIONS. */
import t from 'tap'
import { removeLoop, runLoop } from './loop.ts'

/** Only ends what would hang. */
t.setTimeout(1_200_000)
const KILLS = 30
const LINES = 2

t.test('[KIL-2] real programs killed at each step and at random instants', { timeout: 1_100_000 }, async (t) => {
  const seed = Date.now() % 1_000_000
  t.comment(`seed ${seed}`)
  const wanted = { kills: KILLS, eachCell: 0, eachActor: 3 }
  const outcome = await runLoop({ seed, lines: LINES, wanted, tell: (text) => t.comment(text) })
  t.comment(outcome.tally.text())
  const again = `again: npm run kill -- --seed ${seed} --kills ${KILLS} --each-actor 3 --lines ${LINES}`
  t.strictSame(outcome.violations, [], `nothing lost, doubled, overlapped or unapproved; ${again}`)
  t.ok(outcome.tally.total() >= KILLS)
  if (outcome.violations.length === 0) removeLoop(outcome)
  else t.comment(`left in ${outcome.dir}`)
})
