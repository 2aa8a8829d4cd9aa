/**
 * The lines: what goes one at a time. A line is in use while its row exists; the row names the order that has it.
 * Called by rollout.ts, which takes lines, and by the edges of an order, which free them. Keeps SER-1.
 */
import { assert } from './assert.ts'
import type { Draft, View } from './draft.ts'
import type { Bag, Order, Project, Target } from './state.ts'
import { bagOf, changeProject, dropAsk, projectOf, sayOf, targetOf } from './targets.ts'

export function takeLine(draft: Draft, key: string, order: Order): void {
  const held = draft.get('lines', key)
  assert(
    held === undefined || (held.project === order.project && held.target === order.target),
    `SER-1: ${key} is in use`,
  )
  draft.put('lines', key, {
    key,
    project: order.project,
    target: order.target,
    order: order.id,
    machine: order.name,
    since: draft.at,
  })
  const project = projectOf(draft, order.project)
  const text = `for ${project.requester}`
  sayOf(draft, project, { fact: 'lineTaken', line: key, order: order.id, machine: order.name, text })
}

/** Frees a line, if this target has it, and lets those go on that wait for one. */
export function freeLine(draft: Draft, key: string, target: Target): void {
  const line = draft.get('lines', key)
  if (line === undefined || line.project !== target.project || line.target !== target.index) return
  draft.remove('lines', key)
  sayOf(draft, projectOf(draft, target.project), { fact: 'lineFreed', line: key, machine: target.name })
  if (!key.startsWith('cluster:')) return
  for (const project of [...draft.all('projects')]) {
    if (project.id === target.project || project.stop?.code !== 'cluster-busy') continue
    // The line became free just now, so a permission asked for before does not count.
    changeProject(draft, project.id, { freeSince: draft.at })
    dropAsk(draft, project.id)
    draft.touch(project.id)
  }
}

/** Those that wait for a cluster say what frees it: they look again when that has changed. */
export function touchWaiting(draft: Draft, id: string): void {
  for (const other of draft.all('projects')) {
    if (other.id !== id && other.stop?.code === 'cluster-busy' && other.stop.kind === 'waiting') draft.touch(other.id)
  }
}

/** The machine is no longer part of an open project. */
export function releaseMachine(
  draft: Draft,
  target: Target,
  fields: { readonly lastPatchedAt?: number; readonly rebootPending?: boolean },
): void {
  const machine = draft.get('machines', target.machine)
  if (machine === undefined) return
  const project = machine.project === target.project ? null : machine.project
  draft.put('machines', machine.id, { ...machine, ...fields, project })
}

/** Tells the change how a bag goes on: its task moves, with a note about the machine. */
export function noteBag(
  draft: Draft,
  project: Project,
  target: Target,
  note: string,
  attachment?: { readonly name: string; readonly text: string },
): void {
  const bag = bagOf(draft, project.id, target.bag)
  if (project.change === null || bag.task === null) return
  const isOver = isBagOver(draft, project, bag)
  draft.send({
    to: 'change',
    call: {
      call: 'task',
      project: project.id,
      change: project.change,
      task: bag.task,
      state: isOver ? 'closed' : 'working',
      note,
      ...(attachment === undefined ? {} : { attachment }),
    },
  })
  sayOf(draft, project, { fact: 'taskMoved', line: bag.task, state: isOver ? 'closed' : 'working' })
}

/** True when nothing more is to come of its machines, and nobody has to decide about one. */
export function isBagOver(view: View, project: Project, bag: Bag): boolean {
  const { unstarted, running, unknown } = bag.counts
  const isUndecided = project.undecided.some((index) => targetOf(view, project.id, index).bag === bag.index)
  return unstarted + running + unknown === 0 && !isUndecided
}
