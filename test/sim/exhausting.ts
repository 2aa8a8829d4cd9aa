/** Every point of the golden scenarios, or each so many-th: tries them, counts them by actor, and says what it found. */
import { type Point, type Run, nameOf, play, pointsOf } from './exhaustive.ts'
import { SCENARIOS, type ScenarioName } from './scenarios.ts'

export type Tried = {
  readonly scenario: ScenarioName
  /** How many points of each actor were tried. */
  readonly counts: ReadonlyMap<string, number>
  /** Each ends with the command that plays it again. */
  readonly found: readonly string[]
}
export type Stride = {
  readonly stride: number
  readonly offset: number
  readonly foundMax: number
  /** Only points whose name is such. */
  readonly only?: RegExp
}
export const ALL: Stride = { stride: 1, offset: 0, foundMax: Number.POSITIVE_INFINITY }

const kindOf = ({ actor: { kind, how } }: Point): string => (how === 'commit fails' ? how : `${kind} ${how}`)

export async function exhaust(run: Run, scenario: ScenarioName, how: Stride = ALL): Promise<Tried> {
  const { calls } = await play(run, SCENARIOS[scenario], null)
  const counts = new Map<string, number>()
  const found: string[] = []
  const wanted = calls.filter((last) => how.only?.test(nameOf(last)) ?? true)
  for (const point of pointsOf(wanted, how.stride, how.offset)) {
    const { violations } = await play(run, SCENARIOS[scenario], point)
    counts.set(kindOf(point), (counts.get(kindOf(point)) ?? 0) + 1)
    if (violations.length === 0) continue
    found.push(`${violations[0] ?? ''}; again: npm run sim -- --exhaustive '${scenario}' '${nameOf(point)}'`)
    if (found.length >= how.foundMax) break
  }
  return { scenario, counts, found }
}

function scenarioNamed(name: string): ScenarioName {
  if (Object.hasOwn(SCENARIOS, name)) return name as ScenarioName
  throw new Error(`there is no scenario ${name}; there are: ${Object.keys(SCENARIOS).join(', ')}`)
}

/** What `npm run sim -- --exhaustive [SCENARIO [POINT]]` does; the answer is its exit status. */
export async function exhaustAndSay(run: Run, [name, point]: readonly string[]): Promise<number> {
  if (name !== undefined && point !== undefined) return playAndSay(run, scenarioNamed(name), point)
  const names = name === undefined ? (Object.keys(SCENARIOS) as ScenarioName[]) : [scenarioNamed(name)]
  let problems = 0
  let points = 0
  for (const one of names) {
    const startedAt = performance.now()
    const { counts, found } = await exhaust(run, one)
    problems += found.length
    const total = [...counts.values()].reduce((sum, count) => sum + count, 0)
    points += total
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
    const each = [...counts].map(([kind, count]) => `${kind} ${count}`).join(', ')
    console.log(`${one}: ${total} points in ${seconds} s, ${found.length} with a violation (${each})`)
    for (const text of found) console.log(`  ${text}`)
  }
  console.log(`${points} points, ${problems} with a violation`)
  return problems === 0 ? 0 : 1
}

async function playAndSay(run: Run, scenario: ScenarioName, name: string): Promise<number> {
  const { calls } = await play(run, SCENARIOS[scenario], null)
  const point = pointsOf(calls).find((one) => nameOf(one) === name)
  if (point === undefined) throw new Error(`${scenario} has no point ${name}; it has ${pointsOf(calls).length} others`)
  const { trace, violations } = await play(run, SCENARIOS[scenario], point, { traced: true })
  for (const line of trace) console.log(line)
  for (const violation of violations) console.log(violation)
  return violations.length === 0 ? 0 : 1
}
