/**
 * The simulator as a program: replays one seed, shows it, makes its failure smaller, or runs many and says what they
 * met. Every failure is printed with its seed, the commit and the command that replays it.
 */
import { setImmediate } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { cellsText, neverMet } from './cells.ts'
import { exhaustAndSay } from './exhausting.ts'
import { simulatorWith } from './planting.ts'
import { type Run, again, minimised, twice } from './replay.ts'
import type { Outcome } from './world.ts'
import { type BugName, ZOO } from './zoo.ts'

const USAGE = `npm run sim -- SEED [--trace] [--until MS] [--minimise] [--bug NAME]
npm run sim -- FIRST LAST        a range, up to the first violation (--all: all of it)
npm run sim -- --seeds N [--from SEED]
npm run sim -- --zoo [NAME] [--seeds N]     looks for the first seed that finds each planted bug
npm run sim -- --exhaustive [SCENARIO [POINT]]     the golden scenarios, each actor ended at each of its calls`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    trace: { type: 'boolean', default: false },
    until: { type: 'string' },
    minimise: { type: 'boolean', default: false },
    bug: { type: 'string' },
    seeds: { type: 'string' },
    from: { type: 'string', default: '1' },
    all: { type: 'boolean', default: false },
    zoo: { type: 'boolean', default: false },
    exhaustive: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

function bugNamed(name: string | undefined): BugName | null {
  if (name === undefined) return null
  if (Object.hasOwn(ZOO, name)) return name as BugName
  throw new Error(`there is no planted bug ${name}; there are: ${Object.keys(ZOO).join(', ')}`)
}

function show(seed: number, { violations }: Outcome): void {
  console.log(`seed ${seed}: ${violations.length} violations`)
  for (const violation of violations.slice(0, 10)) console.log(`  ${violation}`)
  console.log(again(seed, values.bug))
}

/** Runs a seed twice, and says where the two differ, should they. */
async function replay(run: Run, seed: number): Promise<number> {
  const until = values.until === undefined ? {} : { untilMs: Number(values.until) }
  const { outcome, difference } = await twice(run, seed, until)
  if (values.trace) for (const line of outcome.trace) console.log(line)
  if (difference !== null) {
    console.log(`seed ${seed} has two histories; they differ first at event ${difference.event}:`)
    console.log(`  ${difference.first}\n  ${difference.second}`)
    return 1
  }
  const [violation] = outcome.violations
  if (violation === undefined) {
    console.log(`seed ${seed}: no violation, history ${outcome.history}`, outcome.counts)
    return 0
  }
  show(seed, outcome)
  if (!values.minimise) return 1
  const smaller = await minimised(run, seed, violation, until)
  console.log(`the same rule is violated with these faults alone: ${smaller.faults.join(', ') || 'none'}`)
  console.log(`  ${smaller.violation}`)
  return 1
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? 0
}

/** What many seeds met, in one paragraph. */
function figuresOf(all: readonly Outcome['counts'][], failures: number, seconds: number): string {
  const sum = (key: keyof Outcome['counts']) => all.reduce((total, one) => total + one[key], 0)
  const of = (key: keyof Outcome['counts']) => median(all.map((one) => one[key]))
  return (
    `${all.length} seeds, ${failures} with a violation, in ${seconds.toFixed(1)} s (${(all.length / seconds).toFixed(1)} a second); ` +
    `${(sum('simulatedMs') / 3_600_000).toFixed(1)} simulated hours, ${sum('claims')} claims, ${sum('starts')} runs of apt, ${sum('reboots')} reboots\n` +
    `median of a seed: ${of('machines')} machines, ${of('turns')} turns, ${of('faults')} faults that met an order`
  )
}

/** Seeds between two words of a long run on how far it is: should it be killed, its last word still counts. */
const WORD_EVERY = 1000

/** Many seeds, and what they met. */
async function runMany(run: Run, first: number, last: number, failuresMax: number): Promise<number> {
  const startedAt = performance.now()
  const cells = new Map<string, number>()
  const all: Outcome['counts'][] = []
  let failures = 0
  const stop = { isAsked: false }
  const figures = () => figuresOf(all, failures, (performance.now() - startedAt) / 1000)
  // Whoever ends a long run early still wants to know what it met.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => (stop.isAsked = true))
  for (let seed = first; seed <= last && failures < failuresMax && !stop.isAsked; seed += 1) {
    const outcome = await run(seed)
    // A seed is made of ticks alone; signals are heard between two of them.
    await setImmediate()
    all.push(outcome.counts)
    if (all.length % WORD_EVERY === 0) console.error(`up to seed ${seed}: ${figures()}`)
    for (const [cell, count] of outcome.cells) cells.set(cell, (cells.get(cell) ?? 0) + count)
    if (outcome.violations.length === 0) continue
    failures += 1
    show(seed, outcome)
  }
  console.log(cellsText(cells))
  console.log(figures())
  for (const line of neverMet(cells)) console.log(line)
  return failures === 0 ? 0 : 1
}

/** The first seed that finds each planted bug. */
async function searchZoo(names: readonly BugName[], seeds: number): Promise<number> {
  let missed = 0
  for (const name of names) {
    const { runSeed } = await simulatorWith(name)
    let found: string | null = null
    let seed = 1
    for (; seed <= seeds && found === null; seed += 1) {
      const { violations } = await runSeed(seed)
      found = violations[0] ?? null
    }
    if (found === null) missed += 1
    console.log(`${name}: ${found === null ? `not found in ${seeds} seeds` : `seed ${seed - 1}: ${found}`}`)
  }
  return missed === 0 ? 0 : 1
}

async function main(): Promise<number> {
  const numbers = positionals.filter((word) => /^[0-9]+$/.test(word)).map(Number)
  if (values.zoo) {
    const names = positionals.length > 0 ? positionals.map((name) => bugNamed(name)) : (Object.keys(ZOO) as BugName[])
    return searchZoo(
      names.flatMap((name) => name ?? []),
      Number(values.seeds ?? 1000),
    )
  }
  const { runSeed } = await simulatorWith(bugNamed(values.bug))
  if (values.exhaustive && !values.help) return exhaustAndSay(runSeed, positionals)
  const first = Number(values.from)
  if (values.seeds !== undefined)
    return runMany(runSeed, first, first + Number(values.seeds) - 1, Number.POSITIVE_INFINITY)
  const [from, to] = numbers
  if (from === undefined || values.help) {
    console.log(USAGE)
    return values.help ? 0 : 2
  }
  return to === undefined
    ? replay(runSeed, from)
    : runMany(runSeed, from, to, values.all ? Number.POSITIVE_INFINITY : 1)
}

process.exitCode = await main()
