/**
 * The one place where a machine's place in a project changes its state. It keeps the counts of project and bag equal
 * to the states of their targets (STA-3), so that the totals never lie and never have to be counted.
 */
import type { Fact } from '../../protocol/feed.ts'
import type { MachineState } from '../../protocol/status.ts'
import type { Draft, View } from './draft.ts'
import { type Bag, type Counts, type Project, type Target, placeKey } from './state.ts'

export const NO_COUNTS: Counts = { pass: 0, fail: 0, unstarted: 0, running: 0, unknown: 0, skipped: 0, cancelled: 0 }

/** Which total a state counts in. `Unstarted` is every machine not yet granted. */
export function countOf(state: MachineState): keyof Counts {
  switch (state) {
    case 'planned':
    case 'offered':
    case 'ready':
      return 'unstarted'
    case 'granted':
    case 'running':
    case 'rebooting':
    case 'verifying':
      return 'running'
    case 'succeeded':
      return 'pass'
    case 'failed':
      return 'fail'
    case 'unknown':
    case 'skipped':
    case 'cancelled':
      return state
  }
}

export function hasEnded(target: Target): boolean {
  return ['succeeded', 'failed', 'skipped', 'cancelled'].includes(target.state)
}

/** True until the machine's turn has come: it may still be cancelled, skipped or asked to plan again. */
export function isUnstarted(target: Target): boolean {
  return countOf(target.state) === 'unstarted'
}

/** The machines of which it is known that a reboot is due and that their run did not do it. */
export function namesPending(
  machines: readonly { readonly name: string; readonly state: MachineState; readonly rebootPending: boolean }[],
): string[] {
  return machines
    .filter(({ state, rebootPending }) => rebootPending && (state === 'succeeded' || state === 'failed'))
    .map(({ name }) => name)
}

export function mustHave<Row>(row: Row | undefined, what: string): Row {
  if (row === undefined) throw new Error(`the core lost ${what}`)
  return row
}

export function projectOf(view: View, id: string): Project {
  return mustHave(view.get('projects', id), `project ${id}`)
}

export function targetOf(view: View, project: string, index: number): Target {
  return mustHave(view.get('targets', placeKey(project, index)), `target ${index} of project ${project}`)
}

export function bagOf(view: View, project: string, index: number): Bag {
  return mustHave(view.get('bags', placeKey(project, index)), `bag ${index} of project ${project}`)
}

export function targetsOf(view: View, project: Project): Target[] {
  return Array.from({ length: project.targets }, (_, index) => targetOf(view, project.id, index))
}

/** The target by its machine's name; undefined when the project has none. */
export function targetNamed(view: View, project: Project, name: string): Target | undefined {
  for (let index = 0; index < project.targets; index += 1) {
    const target = targetOf(view, project.id, index)
    if (target.name === name) return target
  }
  return undefined
}

/** Writes nothing when nothing changes, so that a look at a project leaves no row in the journal. */
export function changeProject(draft: Draft, id: string, fields: Partial<Project>): Project {
  const before = projectOf(draft, id)
  if ((Object.keys(fields) as (keyof Project)[]).every((key) => before[key] === fields[key])) return before
  const project = { ...before, ...fields }
  draft.put('projects', id, project)
  return project
}

/** Whatever is answered to what the project has asked, it grants nothing now. */
export function dropAsk(draft: Draft, project: string): void {
  if (draft.get('asks', project) !== undefined) draft.remove('asks', project)
}

/** Writes the target's new fields and moves it in the counts of its project and bag. */
export function changeTarget(draft: Draft, target: Target, fields: Partial<Target>): Target {
  const before = targetOf(draft, target.project, target.index)
  const after = { ...before, ...fields }
  draft.put('targets', placeKey(after.project, after.index), after)
  const from = countOf(before.state)
  const to = countOf(after.state)
  if (from !== to) {
    const project = projectOf(draft, after.project)
    draft.put('projects', project.id, { ...project, counts: moved(project.counts, from, to) })
    const bag = bagOf(draft, after.project, after.bag)
    draft.put('bags', placeKey(bag.project, bag.index), { ...bag, counts: moved(bag.counts, from, to) })
  }
  return after
}

function moved(counts: Counts, from: keyof Counts, to: keyof Counts): Counts {
  return { ...counts, [from]: counts[from] - 1, [to]: counts[to] + 1 }
}

/** A fact about a project, which bears its change's number as soon as it has one. */
export function sayOf(draft: Draft, project: Project, fact: Omit<Fact, 'change' | 'project'>): void {
  draft.say({ ...fact, project: project.id, ...(project.change === null ? {} : { change: project.change }) })
}
