/**
 * What the golden scenarios say and show, held to the letter against golden/*.txt. `SMITH_GOLDEN=write node
 * test/sim/golden.test.ts` writes them anew: the diff is what is reviewed.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { SCENARIOS, type ScenarioName } from './scenarios.ts'
import { transcriptOf } from './transcript.ts'
import { runSeed } from './world.ts'

const FOLDER = new URL('golden/', import.meta.url)
const isWriting = process.env['SMITH_GOLDEN'] === 'write'
const SHOWN: readonly ScenarioName[] = [
  'one machine',
  'connection cut',
  'failure and retry',
  'reboot',
  'pause and resume',
  'revoke before the claim',
  'withdrawn approval',
]

for (const name of SHOWN) {
  t.test(`[GLD-1] ${name}: every frame and every status, to the letter`, async (t) => {
    const path = new URL(`${name.replaceAll(' ', '-')}.txt`, FOLDER)
    const text = await transcriptOf(runSeed, SCENARIOS[name])
    if (isWriting) writeFileSync(path, text)
    t.equal(text, readFileSync(path, 'utf8'), `golden/${name.replaceAll(' ', '-')}.txt`)
  })
}
