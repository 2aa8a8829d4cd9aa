/**
 * Finds the machines that a request means and says why any of them can't be patched. Called by planning.ts (requests)
 * and by the interface that lists machines. A name comes from enrolment and an address from the connection: nothing
 * that a machine says of itself makes it be chosen.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { compareNaturally, compareText } from '../../protocol/natural-order.ts'
import type { View } from './draft.ts'
import type { Settings, Tools } from './events.ts'
import { type Absent, type Finds, type KnownIndex, absentRefusals, findKnown, indexOf } from './known-search.ts'
import type { Known } from './known.ts'
import { nearestNames } from './nearest.ts'
import { type MachineWord, type ParsedRequest, machineWord, normalAddress } from './request.ts'
import type { Machine, Policy, RequestOptions } from './state.ts'
import { keepInTrains } from './trains.ts'

export type Chosen = { readonly machine: Machine; readonly matched: boolean }
/** The id is '' for a machine that only the source of machines knows. */
type Skipped = { readonly machine: Pick<Machine, 'id' | 'name'>; readonly reason: string; readonly before: number }
export type Selection = {
  readonly machines: readonly Chosen[]
  /** `before` is the place, among the machines kept, of the one that it stands before. */
  readonly skipped: readonly Skipped[]
  readonly region: string
  readonly title: string
  /** Machines that were only matched and that the policy of a train takes out. */
  readonly leftOut: Policy['leftOut']
  readonly refusals: readonly Refusal[]
}
/** The region of machines for which neither a label nor the configuration tells one. */
export const NO_REGION = 'no-region'

/**
 * Every machine of the request in its order, with every reason against it at once. `known` is what the configured
 * source said that there is; without a source it is null, and what is enrolled is what there is.
 */
export function selectMachines(view: View, parsed: ParsedRequest, tools: Tools, known: Known | null): Selection {
  const refusals: Refusal[] = []
  const unanswered = unansweredBy(known, tools)
  if (unanswered !== null)
    return { machines: [], skipped: [], region: NO_REGION, title: '', leftOut: [], refusals: [unanswered] }
  const index = known !== null && 'machines' in known ? indexOf(known) : null
  const except = { machines: [], absent: [], refusals } as Finds
  for (const word of parsed.except) find(view, word, tools, index, except)
  const asked = { machines: [], absent: [], refusals } as Finds
  for (const word of parsed.machines) find(view, word, tools, index, asked)
  const excluded = new Set(except.machines.map(({ machine }) => machine.id))
  const found = asked.machines
  const isOut = new Set(except.absent.map((one) => one.name))
  const absent = uniqueAbsent(asked.absent.filter((one) => !isOut.has(one.name)))
  const isLeft = (one: Absent) => one.matched && one.maySkip && parsed.offline === 'skip'
  refusals.push(...absentRefusals(absent.filter((one) => !isLeft(one))))
  const unenrolled = keepInTrains(
    absent
      .filter(isLeft)
      .map(({ name, why }) => ({ machine: { id: '', name }, matched: true, reason: `${name} is ${why}` })),
    tools,
    refusals,
  )
  // A machine that is both named and matched is named: it may not be left out quietly.
  const names = new Set(found.filter((entry) => !entry.matched).map(({ machine }) => machine.id))
  const seen = new Set<string>()
  const meant = found
    .filter(({ machine }) => !excluded.has(machine.id) && !seen.has(machine.id) && seen.add(machine.id))
    .map(({ machine }) => ({ machine, matched: !names.has(machine.id) }))
  const { kept: chosen, leftOut: chosenOut } = keepInTrains(meant, tools, refusals)
  const leftOut = [...chosenOut, ...unenrolled.leftOut]
  const total = chosen.length + unenrolled.kept.length
  if (total === 0 && found.length + asked.absent.length > 0 && refusals.length === 0) {
    const train = leftOut[0]?.train
    refusals.push({
      kind: 'no-match',
      message: `except: ${train === undefined ? '' : `of the request or of train ${train} `}takes out every machine`,
      remedy: train === undefined ? 'name fewer machines after except:' : 'ask for machines that are left in',
    })
  }
  const { machinesPerRequestMax } = tools.settings.limits
  if (total > machinesPerRequestMax) {
    refusals.push({
      kind: 'too-many',
      message: `${total} machines are more than one request may have (${machinesPerRequestMax})`,
      remedy: 'ask for them in several requests',
    })
  }
  const { kept, skipped } = sortOut(view, chosen, parsed, refusals)
  // They have no place among the others, and stand behind them.
  skipped.push(...unenrolled.kept.map(({ machine, reason }) => ({ machine, reason, before: kept.length })))
  if (skipped.length > 0 && skipped.length === total)
    refusals.push({
      kind: 'no-match',
      message: 'every machine that matches would be skipped',
      remedy: 'see smith machines for why, and ask again when one of them can be patched',
    })
  const region = regionOf(chosen, tools, refusals)
  return { machines: kept, skipped, region, title: titleOf(parsed, chosen, total), leftOut, refusals }
}

/** Named before matched, so that a machine which is both is told of on its own. */
function uniqueAbsent(absent: readonly Absent[]): Absent[] {
  const byName = new Map<string, Absent>()
  for (const one of absent) if (!one.matched || !byName.has(one.name)) byName.set(one.name, one)
  return [...byName.values()]
}

/** A source that did not answer refuses: an old list, or none, would say that machines are not there. */
function unansweredBy(known: Known | null, tools: Tools): Refusal | null {
  const { lookup } = tools.settings
  if (known === null) {
    if (lookup === undefined) return null
    const message = `which machines there are was not asked of ${lookup}`
    return { kind: 'internal', message, remedy: 'ask again; report it if it stays so' }
  }
  if ('machines' in known) return null
  const message = `which machines there are is not known: ${known.source} ${known.problem}`
  return { kind: 'unavailable', message, remedy: known.remedy }
}

function sortOut(view: View, chosen: readonly Chosen[], parsed: ParsedRequest, refusals: Refusal[]) {
  const kept: Chosen[] = []
  const skipped: Skipped[] = []
  for (const entry of chosen) {
    const problem = impedimentOf(view, entry.machine, parsed.build)
    if (problem === null) kept.push(entry)
    else if (entry.matched && maySkip(problem, parsed))
      skipped.push({ machine: entry.machine, reason: problem.message, before: kept.length })
    else refusals.push(problem)
  }
  return { kept, skipped }
}

/** Whether the request allows to leave a matched machine out for this reason. */
export function maySkip(problem: Refusal, options: Pick<RequestOptions, 'offline' | 'busy'>): boolean {
  if (problem.kind === 'machine-busy') return options.busy === 'skip'
  if (problem.kind === 'machine-offline' || problem.kind === 'cannot-plan') return options.offline === 'skip'
  return false
}

/** Why the machine can't be part of a new project now, or null. An empty build was not understood and is not looked at. */
export function impedimentOf(view: View, machine: Machine, build: string): Refusal | null {
  if (machine.quarantined !== null) {
    return {
      kind: 'cannot-plan',
      message: `${machine.name} is in quarantine: ${machine.quarantined}`,
      subject: machine.name,
      remedy: `find out which of the two is the real ${machine.name}, then smith enrol new --name ${machine.name} --replace`,
    }
  }
  if (machine.project !== null) {
    const project = view.get('projects', machine.project)
    const change = project?.change ?? null
    const request = project?.request ?? ''
    return {
      kind: 'machine-busy',
      message: `${machine.name} is in ${change === null ? 'a project whose change is being raised' : `the open project ${change}`}`,
      subject: machine.name,
      remedy: `${change === null ? `wait until the change has its number (smith cancel ${request} gives it up)` : `wait until it is closed (smith status ${change}), cancel it`}, or use except:${machine.name}`,
    }
  }
  const session = view.get('sessions', machine.id)
  if (session === undefined) {
    return {
      kind: 'machine-offline',
      message: `${machine.name} has no live agent`,
      subject: machine.name,
      remedy: `look at the agent on ${machine.name} (/opt/smith-agent.log), or use except:${machine.name}`,
    }
  }
  if (session.impediment !== null) {
    return {
      kind: 'cannot-plan',
      message: `${machine.name} can't plan: ${session.impediment.message}`,
      subject: machine.name,
      remedy: session.impediment.remedy,
    }
  }
  if (build !== '' && !machine.builds.includes(build) && !(machine.template && /^[0-9]+$/.test(build))) {
    const known = machine.builds.length === 0 ? 'none' : machine.builds.join(', ')
    return {
      kind: 'unknown-build',
      message: `${machine.name} does not know the build ${build}`,
      subject: machine.name,
      remedy: `it knows: ${known}; add /etc/smith/repos/${build}.sources on the machine`,
    }
  }
  return null
}

function find(view: View, word: MachineWord, tools: Tools, index: KnownIndex | null, finds: Finds): void {
  if (index === null) return void finds.machines.push(...machinesOf(view, word, tools, finds.refusals))
  const matches = word.kind === 'pattern' ? matcherOf(word, tools, finds.refusals) : () => false
  if (matches !== null) findKnown(view, index, word, matches, finds)
}

function machinesOf(view: View, word: MachineWord, tools: Tools, refusals: Refusal[]): Chosen[] {
  switch (word.kind) {
    case 'name':
      return named(view, word, refusals)
    case 'address':
      return addressed(view, word, refusals)
    case 'pattern':
      return matchedBy(view, word, tools, refusals)
  }
}

function named(view: View, word: Extract<MachineWord, { kind: 'name' }>, refusals: Refusal[]): Chosen[] {
  const machine = machineNamed(view, word.name)
  if (machine !== undefined) return [{ machine, matched: false }]
  const near = nearestNames(
    word.name,
    activeMachines(view).map((one) => one.name),
  )
  refusals.push({
    kind: 'unknown-machine',
    message: `there is no machine ${word.name}`,
    subject: word.name,
    position: { start: word.word.start, end: word.word.end },
    remedy: near.length > 0 ? `did you mean ${near.join(' or ')}?` : 'smith machines lists those enrolled',
  })
  return []
}

function addressed(view: View, word: Extract<MachineWord, { kind: 'address' }>, refusals: Refusal[]): Chosen[] {
  const found: Machine[] = []
  for (const session of view.all('sessions')) {
    if (normalAddress(session.address) !== word.address) continue
    const machine = view.get('machines', session.machine)
    if (machine !== undefined) found.push(machine)
  }
  const position = { start: word.word.start, end: word.word.end }
  const [only] = found
  if (found.length === 1 && only !== undefined) return [{ machine: only, matched: false }]
  refusals.push(
    only === undefined
      ? {
          kind: 'unknown-machine',
          message: `no agent is connected from ${word.address}`,
          subject: word.address,
          position,
          remedy: 'use the name of the machine; smith machines shows names and addresses',
        }
      : {
          kind: 'bad-value',
          message: `${word.address} is the address of ${found.length} agents: ${found
            .map((one) => one.name)
            .toSorted(compareNaturally)
            .join(', ')}`,
          subject: word.address,
          position,
          remedy: 'use the name of the one you mean',
        },
  )
  return []
}

function matchedBy(
  view: View,
  word: Extract<MachineWord, { kind: 'pattern' }>,
  tools: Tools,
  refusals: Refusal[],
): Chosen[] {
  const matches = matcherOf(word, tools, refusals)
  if (matches === null) return []
  const found = activeMachines(view)
    .filter((machine) => matches(machine.name))
    .toSorted((a, b) => compareNaturally(a.name, b.name))
  if (found.length === 0) {
    refusals.push({
      kind: 'no-match',
      message: `no machine matches ${word.word.text}`,
      subject: word.word.text,
      position: { start: word.word.start, end: word.word.end },
      remedy: 'smith machines lists those enrolled',
    })
  }
  return found.map((machine) => ({ machine, matched: true }))
}

/** Null when the pattern is none, which is refused. */
function matcherOf(
  word: Extract<MachineWord, { kind: 'pattern' }>,
  tools: Tools,
  refusals: Refusal[],
): ((name: string) => boolean) | null {
  const compiled = tools.compilePattern(`^(?:${word.source})$`)
  if ('matches' in compiled) return compiled.matches
  refusals.push({
    kind: 'bad-value',
    message: `${word.word.text} is no regular expression: ${compiled.problem}`,
    subject: word.word.text,
    position: { start: word.word.start, end: word.word.end },
    remedy: 'mend it; look-around and back-references are not supported (RE2 syntax)',
  })
  return null
}

/** The machines that a pattern, name or address means, for lists; the reason when the text is none of these. */
export function findMachines(
  view: View,
  text: string,
  tools: Tools,
): { readonly machines: Machine[]; readonly refusals: Refusal[] } {
  const word = machineWord({ text, start: 0, end: text.length })
  if (word === null) {
    return {
      machines: [],
      refusals: [
        {
          kind: 'bad-value',
          message: `${text} is no name, address or pattern`,
          subject: text,
          remedy: 'use a name, or * and ?',
        },
      ],
    }
  }
  const refusals: Refusal[] = []
  return { machines: machinesOf(view, word, tools, refusals).map(({ machine }) => machine), refusals }
}

export function machineNamed(view: View, name: string): Machine | undefined {
  const entry = view.get('names', name)
  return entry === undefined ? undefined : view.get('machines', entry.machine)
}

export function activeMachines(view: View): Machine[] {
  return [...view.all('machines')].filter((machine) => machine.state === 'active')
}

/** The machine's own label, else the table of the configuration. */
export function regionOfMachine(machine: Machine, tools: Tools): string {
  if (machine.facts?.region != null && machine.facts.region !== '') return machine.facts.region
  for (const { pattern, region } of tools.settings.regions) {
    const compiled = tools.compilePattern(pattern)
    if ('matches' in compiled && compiled.matches(machine.name)) return region
  }
  return NO_REGION
}

function regionOf(chosen: readonly Chosen[], tools: Tools, refusals: Refusal[]): string {
  const byRegion = new Map<string, string[]>()
  for (const { machine } of chosen) {
    const region = regionOfMachine(machine, tools)
    byRegion.set(region, [...(byRegion.get(region) ?? []), machine.name])
  }
  const regions = [...byRegion.keys()].toSorted(compareText)
  if (regions.length > 1) {
    const lists = regions.map((region) => `${region}: ${shortList(byRegion.get(region) ?? [])}`)
    refusals.push({
      kind: 'several-regions',
      message: `the machines lie in ${regions.length} regions: ${lists.join('; ')}`,
      remedy: 'ask for one region at a time',
    })
  }
  return regions[0] ?? NO_REGION
}

/** At most five names, then how many more. */
export function shortList(names: readonly string[]): string {
  const shown = names.slice(0, 5).join(', ')
  return names.length > 5 ? `${shown}, +${names.length - 5} more` : shown
}

const TITLE_MAX = 200

function titleOf(parsed: ParsedRequest, chosen: readonly Chosen[], total: number): string {
  const [first] = chosen
  if (total === 1 && first !== undefined) return first.machine.name
  const [word] = parsed.machines
  if (parsed.machines.length === 1 && word?.kind === 'pattern' && word.word.text.length <= TITLE_MAX)
    return word.word.text
  return `${total} machines`
}

/** The machine's label, else a configured pattern, else the name without its last role and number, else the name. */
export function clusterOf(
  machine: Pick<Machine, 'name'> & Partial<Pick<Machine, 'facts'>>,
  tools: { readonly settings: Settings } & Pick<Tools, 'captureCluster'>,
): string {
  if (machine.facts?.cluster != null && machine.facts.cluster !== '') return machine.facts.cluster
  const captured = tools.captureCluster(machine.name)
  if (captured !== null) return captured
  return /^(.+)-[a-z]+-[0-9]+$/.exec(machine.name)?.[1] ?? machine.name
}
