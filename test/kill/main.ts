/**
 * The loop of kills as a program: prints a table of the kills every minute and at the end, and on a violation what was
 * violated, the seed and the command that begins it anew, with everything left in its folder.
 */
import { execFileSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { removeLoop, runLoop } from './loop.ts'

const USAGE = `npm run kill -- [--kills N] [--each-cell N] [--each-actor N] [--seed S] [--lines N]
  Kills coordinator, agents, runners and wrappers of a real site, at each step and at random instants, until there
  were N kills in all (100), in each cell of actor and stage (0) and of each actor (0), and judges what happened.
  --seed S    which kills are aimed at; when they land is the machine's own affair, so no two runs are the same
  --lines N   so many lines of two machines are patched at once (6)`

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '100' },
    'each-cell': { type: 'string', default: '0' },
    'each-actor': { type: 'string', default: '0' },
    seed: { type: 'string' },
    lines: { type: 'string', default: '6' },
    help: { type: 'boolean', default: false },
  },
})

function commitOf(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim()
  } catch (error) {
    // Outside a checkout there is none to name.
    return error instanceof Error ? 'unknown' : 'none'
  }
}

async function main(): Promise<number> {
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  const seed = values.seed === undefined ? Date.now() % 1_000_000 : Number(values.seed)
  const wanted = {
    kills: Number(values.kills),
    eachCell: Number(values['each-cell']),
    eachActor: Number(values['each-actor']),
  }
  const lines = Number(values.lines)
  if (![seed, lines, ...Object.values(wanted)].every((number) => Number.isSafeInteger(number) && number >= 0)) {
    console.error(`each of the values must be a whole number\n${USAGE}`)
    return 2
  }
  console.log(`seed ${seed}, commit ${commitOf()}`)
  const outcome = await runLoop({ seed, lines, wanted, tell: (text) => console.log(text) })
  console.log(outcome.tally.text())
  if (outcome.violations.length === 0) {
    removeLoop(outcome)
    console.log('nothing was lost, doubled, overlapped or unapproved')
    return 0
  }
  for (const violation of outcome.violations.slice(0, 20)) console.log(`VIOLATION ${violation}`)
  console.log(`left in ${outcome.dir}; again: npm run kill -- --seed ${seed} --kills ${wanted.kills} --lines ${lines}`)
  return 1
}

process.exitCode = await main()
