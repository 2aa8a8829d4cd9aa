/**
 * What is done with one seed: it is run again, seen to have one history, stopped at an instant, and its failure made
 * smaller. Used by the program (main.ts), which prints what these answer.
 */
import { execFileSync } from 'node:child_process'
import { type Coming, type Faults, noFaults } from './faults.ts'
import type { Options, Outcome } from './world.ts'

export type Run = (seed: number, options?: Options) => Promise<Outcome>

/** The first event in which two runs of a seed differ; null when they are one history. */
export type Difference = { readonly event: number; readonly first: string; readonly second: string }

/** Runs a seed twice. */
export async function twice(
  run: Run,
  seed: number,
  options: Options = {},
): Promise<{ readonly outcome: Outcome; readonly difference: Difference | null }> {
  const [outcome, other] = [
    await run(seed, { ...options, traced: true }),
    await run(seed, { ...options, traced: true }),
  ]
  if (outcome.history === other.history) return { outcome, difference: null }
  const lines = Math.max(outcome.trace.length, other.trace.length)
  const event = Array.from({ length: lines }, (_, index) => index).find(
    (index) => outcome.trace[index] !== other.trace[index],
  )
  const at = event ?? lines
  const lineOf = ({ trace }: Outcome) => trace[at] ?? '(none)'
  return { outcome, difference: { event: at, first: lineOf(outcome), second: lineOf(other) } }
}

export type Smaller = {
  readonly violation: string
  /** The faults without which the rule is not violated on this seed. */
  readonly faults: readonly string[]
  /** The options of a run that has those alone. */
  readonly options: Options
}

/** Turns off one fault after another for as long as the same rule is violated, until each that is left is needed. */
export async function minimised(run: Run, seed: number, violation: string, until: Options = {}): Promise<Smaller> {
  const rule = violation.split(' ')[0] ?? ''
  const off = new Set<string>()
  const optionsWithout = (more: readonly string[]): Options => {
    const gone = new Set([...off, ...more])
    return { ...until, change: (faults) => reduced(faults, gone) }
  }
  const found = async (options: Options) =>
    (await run(seed, options)).violations.find((one) => one.startsWith(`${rule} `))
  const names = await chosenOn(run, seed)
  let before = -1
  while (before !== off.size) {
    before = off.size
    for (const name of names) if (!off.has(name) && (await found(optionsWithout([name]))) !== undefined) off.add(name)
  }
  const options = optionsWithout([])
  const faults = names.filter((name) => !off.has(name))
  return { violation: (await found(options)) ?? violation, faults, options }
}

/** The faults that a seed has turned on. */
async function chosenOn(run: Run, seed: number): Promise<string[]> {
  let chosen: Faults = noFaults()
  await run(seed, { untilMs: 0, change: (faults) => (chosen = faults) })
  const calm = noFaults()
  const isOn = (key: string) => chosen[key as keyof Faults] !== calm[key as keyof Faults]
  return [...chosen.rates.keys(), ...Object.keys(calm).filter((key) => key !== 'rates' && isOn(key))]
}

/** The faults of a seed without these. */
export function reduced(faults: Faults, off: ReadonlySet<string>): Faults {
  const calm = Object.entries(noFaults()).filter(([key]) => off.has(key))
  const rates = new Map([...faults.rates].filter(([kind]: readonly [Coming, number]) => !off.has(kind)))
  return { ...faults, ...Object.fromEntries(calm), rates }
}

/** The command that shows a seed again, and the commit that it belongs to. */
export function again(seed: number, bug?: string): string {
  const planted = bug === undefined ? '' : ` --bug='${bug}'`
  return `again: npm run sim -- ${seed}${planted}   (commit ${commitOf()})`
}

function commitOf(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim()
  } catch (error) {
    // Outside a checkout there is none to name.
    return error instanceof Error ? 'unknown' : 'none'
  }
}
