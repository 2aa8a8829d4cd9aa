/** `npm run sim -- SEED` replays one seed; `npm run sim -- FIRST LAST` runs a range and stops at the first violation. */
import type { Bug } from './bugs.ts'
import { runSeed } from './world.ts'

const [first = 1, last = first] = process.argv
  .slice(2)
  .filter((word) => /^[0-9]+$/.test(word))
  .map(Number)
const bug = (process.argv
  .slice(2)
  .find((word) => word.startsWith('--bug='))
  ?.slice(6) ?? null) as Bug
const totals = { claims: 0, starts: 0, ends: 0, projects: 0, turns: 0 }
for (let seed = first; seed <= last; seed += 1) {
  const { violations, history, counts } = await runSeed(seed, bug)
  for (const key of Object.keys(totals) as (keyof typeof totals)[]) totals[key] += counts[key]
  if (violations.length > 0) {
    console.log(`seed ${seed}: ${violations.length} violations`)
    for (const violation of violations.slice(0, 10)) console.log(`  ${violation}`)
    console.log(`again: npm run sim -- ${seed}`)
    process.exit(1)
  }
  if (first === last) console.log(`seed ${seed}: no violation, history ${history}`, counts)
}
if (first !== last) console.log(`${last - first + 1} seeds without a violation:`, totals)
