/**
 * The simulator as a program: replays one seed, shows it, makes its failure smaller, or runs many and says what they
 * met. Every failure is printed with its seed, the commit and the command that replays it.
 */
import { execFileSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { type Coming, type Faults, noFaults } from './faults.ts'
import { exhaustAndSay } from './exhausting.ts'
import { simulatorWith } from './planting.ts'
import type { Options, Outcome } from './world.ts'
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

type Run = (seed: number, options?: Options) => Promise<Outcome>

function bugNamed(name: string | undefined): BugName | null {
  if (name === undefined) return null
  if (Object.hasOwn(ZOO, name)) return name as BugName
  throw new Error(`there is no planted bug ${name}; there are: ${Object.keys(ZOO).join(', ')}`)
}

function again(seed: number): string {
  const bug = values.bug === undefined ? '' : ` --bug='${values.bug}'`
  return `again: npm run sim -- ${seed}${bug}   (commit ${commitOf()})`
}

function commitOf(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim()
  } catch (error) {
    // Outside a checkout there is none to name.
    return error instanceof Error ? 'unknown' : 'none'
  }
}

function show(seed: number, { violations }: Outcome): void {
  console.log(`seed ${seed}: ${violations.length} violations`)
  for (const violation of violations.slice(0, 10)) console.log(`  ${violation}`)
  console.log(again(seed))
}

/** Runs a seed twice, and says where the two differ, should they. */
async function replay(run: Run, seed: number): Promise<number> {
  const options = { traced: true, ...(values.until === undefined ? {} : { untilMs: Number(values.until) }) }
  const [first, second] = [await run(seed, options), await run(seed, options)]
  if (values.trace) for (const line of first.trace) console.log(line)
  if (first.history !== second.history) {
    const at = first.trace.findIndex((line, index) => line !== second.trace[index])
    console.log(`seed ${seed} has two histories; they differ first at event ${at}:`)
    console.log(`  ${first.trace[at] ?? '(none)'}\n  ${second.trace[at] ?? '(none)'}`)
    return 1
  }
  if (first.violations.length === 0) {
    console.log(`seed ${seed}: no violation, history ${first.history}`, first.counts)
    return 0
  }
  show(seed, first)
  if (values.minimise) await minimise(run, seed, first.violations[0] ?? '')
  return 1
}

/** Turns off one fault after another for as long as the same rule is violated. */
async function minimise(run: Run, seed: number, violation: string): Promise<void> {
  const rule = violation.split(' ')[0] ?? ''
  const off = new Set<string>()
  const without = (more: string) => (faults: Faults) => reduced(faults, new Set([...off, more]))
  let chosen: Faults = noFaults()
  await run(seed, { untilMs: 0, change: (faults) => (chosen = faults) })
  const names = [
    ...chosen.rates.keys(),
    ...Object.keys(noFaults()).filter((key) => key !== 'rates' && !key.endsWith('Max')),
  ]
  for (const name of names) {
    const { violations } = await run(seed, { change: without(name) })
    if (violations.some((one) => one.startsWith(rule))) off.add(name)
  }
  const left = names.filter((name) => !off.has(name))
  const { violations } = await run(seed, { change: without('') })
  console.log(`the same rule is violated with these faults alone: ${left.join(', ') || 'none'}`)
  console.log(`  ${violations[0] ?? ''}`)
}

function reduced(faults: Faults, off: ReadonlySet<string>): Faults {
  const calm = Object.entries(noFaults()).filter(([key]) => off.has(key))
  const rates = new Map([...faults.rates].filter(([kind]: readonly [Coming, number]) => !off.has(kind)))
  return { ...faults, ...Object.fromEntries(calm), rates }
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? 0
}

/** Many seeds, and what they met. */
async function runMany(run: Run, first: number, last: number, failuresMax: number): Promise<number> {
  const startedAt = performance.now()
  const cells = new Map<string, number>()
  const all: Outcome['counts'][] = []
  let failures = 0
  for (let seed = first; seed <= last && failures < failuresMax; seed += 1) {
    const outcome = await run(seed)
    all.push(outcome.counts)
    for (const [cell, count] of outcome.cells) cells.set(cell, (cells.get(cell) ?? 0) + count)
    if (outcome.violations.length === 0) continue
    failures += 1
    show(seed, outcome)
  }
  const seconds = (performance.now() - startedAt) / 1000
  const sum = (key: keyof Outcome['counts']) => all.reduce((total, one) => total + one[key], 0)
  const of = (key: keyof Outcome['counts']) => median(all.map((one) => one[key]))
  table(cells)
  console.log(
    `${all.length} seeds, ${failures} with a violation, in ${seconds.toFixed(1)} s (${(all.length / seconds).toFixed(1)} a second); ` +
      `${(sum('simulatedMs') / 3_600_000).toFixed(1)} simulated hours, ${sum('claims')} claims, ${sum('starts')} runs of apt, ${sum('reboots')} reboots`,
  )
  console.log(
    `median of a seed: ${of('machines')} machines, ${of('turns')} turns, ${of('faults')} faults that met an order`,
  )
  return failures === 0 ? 0 : 1
}

/** How often each fault met each state of an order. */
function table(cells: ReadonlyMap<string, number>): void {
  const parts = [...cells].map(([cell, count]) => {
    const [fault = '', state = ''] = cell.split(' x ')
    return { fault, state, count }
  })
  const states = [...new Set(parts.map((one) => one.state))].toSorted()
  const faults = [...new Set(parts.map((one) => one.fault))].toSorted()
  const row = (name: string, numbers: readonly (string | number)[]) =>
    `${name.padEnd(24)}${numbers.map((one) => String(one).padStart(12)).join('')}`
  console.log(row('fault x order state', states))
  for (const fault of faults)
    console.log(
      row(
        fault,
        states.map((state) => cells.get(`${fault} x ${state}`) ?? '-'),
      ),
    )
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
