/**
 * The loop of kills: a site of real programs on a real disk, several lines patched at once, and everybody of smith
 * killed again and again, until each cell has had its share. Called by main.ts and by the test.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { MachineView } from '../../protocol/http.ts'
import { type Site, createSite } from '../demo/site.ts'
import { createDice } from '../sim/random.ts'
import { call, online } from '../site/harness.ts'
import { keepAccount, packagesOf } from './account.ts'
import { followFeed } from './follower.ts'
import { Accounted, Judge } from './judge.ts'
import { type Field, type Line, patchLine } from './line.ts'
import { type Oracle, openOracle } from './oracle.ts'
import { Striker } from './strike.ts'
import { Tally, type Wanted } from './tally.ts'

export type LoopOptions = {
  readonly seed: number
  readonly lines: number
  readonly wanted: Wanted
  readonly tell: (text: string) => void
}
export type LoopOutcome = { readonly violations: readonly string[]; readonly tally: Tally; readonly dir: string }

const TELL_MS = 60_000
const MACHINES_IN_LINE = 2
const versionOf = (project: number) => `1.${project}`
const BUILD_FIRST = 1000
/** Nothing is waited for but what has to be; kept long enough to be judged. */
const AGENT_LIMITS = `
[limits]
reconnect_min = 0.1
reconnect_max = 0.5
settle = 0
poll = 0.05
keep = 600
`

/** The folder of a loop without a violation is removed; else all that it left stays to be looked at. */
export async function runLoop(options: LoopOptions): Promise<LoopOutcome> {
  const dir = mkdtempSync(join(tmpdir(), 'smith-kill-'))
  // They are started again and again, which most of the time would go to.
  process.env['NODE_COMPILE_CACHE'] ??= join(dir, 'compiled')
  const oracle = openOracle(join(dir, 'oracle'))
  oracle.write({ what: 'began', seed: options.seed })
  const site = await createSite({ dir: join(dir, 'site'), limits: 'prefetch_ahead = 0' })
  const tally = new Tally(options.wanted)
  const violations: string[] = []
  try {
    await site.startCoordinator()
    const judges = await createLines(site, oracle, options.lines)
    const follower = followFeed(site, (text) => violations.push(`SIM-13 feed ${text}`))
    const all = () => [...violations, ...judges.flatMap((judge) => judge.ledger.violations)]
    const field: Field = {
      site,
      oracle,
      tally,
      striker: new Striker(site, oracle, tally),
      publish: publisher(site),
      isOver: () => tally.isEnough() || all().length > 0,
    }
    const lines = judges.map((judge, index): Line => {
      return { number: index + 1, dice: createDice(options.seed, `line ${index + 1}`), judge }
    })
    tally.begin()
    const telling = setInterval(() => options.tell(tally.text()), TELL_MS)
    const ends = await Promise.allSettled(lines.map((line) => patchLine(field, line)))
    clearInterval(telling)
    violations.push(...ends.flatMap((end) => (end.status === 'rejected' ? [`KIL-2 lost ${String(end.reason)}`] : [])))
    if (all().length === 0) {
      const wrong = await follower.compare().catch((error: unknown) => [String(error)])
      violations.push(...wrong.map((text) => `SIM-13 feed ${text}`))
    }
    follower.stop()
    return { violations: all(), tally, dir }
  } finally {
    await site.stop()
    oracle.close()
  }
}

/** Removes what a loop has left. */
export function removeLoop({ dir }: LoopOutcome): void {
  rmSync(dir, { recursive: true, force: true })
}

async function createLines(site: Site, oracle: Oracle, count: number): Promise<Judge[]> {
  const version = versionOf(0)
  const installed = []
  for (const spec of packagesOf(version)) installed.push(await site.build(spec))
  const names = Array.from({ length: count }, (_, line) =>
    Array.from({ length: MACHINES_IN_LINE }, (_one, index) => `prod-dal10-line${line + 1}-web-${index + 1}`),
  )
  for (const name of names.flat()) keepAccount(await site.addMachine(name, installed, { config: AGENT_LIMITS }))
  await online(site, ...names.flat())
  const { body } = await call<{ machines: MachineView[] }>(site, 'GET', '/machines')
  const idOf = (name: string) => body.machines.find((one) => one.name === name)?.id ?? ''
  return names.map((line) => {
    const hosts = line.map((name) => new Accounted(site.machine(name), idOf(name), version))
    for (const host of hosts) host.passOver()
    return new Judge(oracle, hosts)
  })
}

/** Each project of a line installs the next build; the lines share them. */
function publisher(site: Site): Field['publish'] {
  const published = new Map<number, Promise<string>>()
  const startedAt = Date.now()
  const publish = async (number: number) => {
    const packages = []
    for (const spec of packagesOf(versionOf(number))) packages.push(await site.build(spec))
    const suite = String(BUILD_FIRST + number)
    await site.archive.publish({ suite, packages, date: new Date(startedAt - 3_600_000 + number * 1000) })
    return suite
  }
  return (number) => {
    const known = published.get(number) ?? publish(number)
    published.set(number, known)
    return known
  }
}
