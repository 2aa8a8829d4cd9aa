/** Fixed seeds without a violation, one history per seed, and every checker seen to catch a bug planted for it. */
import t from 'tap'
import { BUGS, type Bug } from './bugs.ts'
import { runSeed } from './world.ts'

const SEEDS = Array.from({ length: 40 }, (_, index) => index + 1)

t.test('[SIM-1] fixed seeds end without a violation', async (t) => {
  for (const seed of SEEDS) {
    const { violations, counts } = await runSeed(seed)
    t.strictSame(violations, [], `seed ${seed}: again with npm run sim -- ${seed}`)
    t.ok(counts.turns > 0, `seed ${seed} did something`)
  }
})

t.test('[SIM-2] one seed gives one history', async (t) => {
  const [first, second] = [await runSeed(7), await runSeed(7)]
  t.equal(first.history, second.history)
  t.not((await runSeed(8)).history, first.history)
})

/** What finds each bug: the rule that the violation names. */
const FOUND_BY: { readonly [B in NonNullable<Bug>]: RegExp } = {
  'run-twice': /^ONCE-2/,
  'claim-twice': /^ONCE-1/,
  'record-repeated': /^LOG-1/,
  'lines-ignored': /^(SER-1|FATAL: .*line)/,
  'silence-is-success': /^SER-1/,
  'always-approved': /^APR-1/,
  'log-dropped': /^(LOG-1|FATAL: .*log)/,
  'grant-and-revoke-lost': /^LIV-1/,
  'plan-swapped': /^APR-5/,
  'row-lost': /^FED-1/,
}
for (const bug of BUGS) {
  t.test(`[SIM-3] the planted bug ${bug} is found`, async (t) => {
    for (const seed of SEEDS) {
      const { violations } = await runSeed(seed, bug)
      if (violations.length === 0) continue
      t.match(violations[0], FOUND_BY[bug], `seed ${seed}`)
      return
    }
    t.fail(`${bug} was not found in ${SEEDS.length} seeds`)
  })
}
