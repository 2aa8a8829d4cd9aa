/**
 * The questions to machines for a plan: for a request, or again for a project before its machines are granted. Called
 * by planning.ts and by whatever lets a project go on; the answers are news.ts's. A question outlives a restart.
 */
import type { CoordinatorFrame } from '../../protocol/agent.ts'
import type { Draft } from './draft.ts'
import type { Machine, Query } from './state.ts'
import { changeProject, changeTarget, isUnstarted, projectOf, targetOf } from './targets.ts'

/** A query's id begins with its owner's: 22 digits of it, 2 for the round, 8 for the place. */
export function queryId(owner: string, round: number, index: number): string {
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')
  return owner.slice(0, 22) + hex(round % 256, 2) + hex(index, 8)
}

/** What queries of a request begin with, to list them. */
export function requestQueryPrefix(request: string): string {
  return `${request.slice(0, 22)}00`
}

type NewQuery = {
  readonly purpose: Query['purpose']
  readonly owner: string
  readonly round: number
  readonly index: number
  readonly machine: Machine
  readonly matched: boolean
}

export function putQuery(draft: Draft, query: NewQuery): Query {
  const id = queryId(query.owner, query.round, query.index)
  const row: Query = {
    id,
    purpose: query.purpose,
    owner: query.owner,
    index: query.index,
    machine: query.machine.id,
    name: query.machine.name,
    matched: query.matched,
    state: 'queued',
    deadline: null,
    planHash: null,
    refusal: null,
    warnings: [],
  }
  draft.put('queries', id, row)
  return row
}

/** The project no longer waits for its machines (at these places) to plan again; answers how many it waited for. */
export function dropChecks(draft: Draft, project: string, places?: ReadonlySet<number>): number {
  const open = [...draft.all('queries')].filter(
    (query) => query.purpose === 'check' && query.owner === project && places?.has(query.index) !== false,
  )
  for (const query of open) draft.remove('queries', query.id)
  return open.length
}

/** Asks the unstarted machines (at these places) to plan again; nothing is granted until they have answered. */
export function checkAgain(draft: Draft, id: string, places?: readonly number[]): void {
  const project = projectOf(draft, id)
  const round = project.checkRound + 1
  const again = places ?? Array.from({ length: project.targets }, (_, place) => place)
  const dropped = project.checksOpen === 0 ? 0 : dropChecks(draft, id, new Set(again))
  let asked = 0
  for (const index of again) {
    const target = targetOf(draft, id, index)
    const machine = draft.get('machines', target.machine)
    const isThere = machine !== undefined && draft.get('sessions', target.machine) !== undefined
    if (!isUnstarted(target) || !isThere) continue
    changeTarget(draft, target, { check: 'due' })
    const query = putQuery(draft, { purpose: 'check', owner: id, round, index, machine, matched: false })
    askQuery(draft, query, { build: project.build, outageMinutes: project.options.outageMinutes })
    asked += 1
  }
  changeProject(draft, id, { checkRound: round, checksOpen: project.checksOpen - dropped + asked })
  draft.touch(id)
}

/** Sends the question of a query and starts its time. */
export function askQuery(
  draft: Draft,
  query: Query,
  frame: { readonly build: string; readonly outageMinutes: number },
): void {
  draft.put('queries', query.id, {
    ...query,
    state: 'asked',
    deadline: draft.at + draft.tools.settings.limits.planTimeMsMax,
  })
  const plan: CoordinatorFrame = { t: 'plan', query: query.id, ...frame }
  draft.send({ to: 'agent', machine: query.machine, frame: plan })
}

/** The question again, for a machine that connected anew while it planned; its time goes on. */
export function repeatQuery(draft: Draft, query: Query): void {
  const asker = query.purpose === 'request' ? draft.get('requests', query.owner) : draft.get('projects', query.owner)
  if (asker === undefined) return
  const frame: CoordinatorFrame = {
    t: 'plan',
    query: query.id,
    build: asker.build,
    outageMinutes: asker.options.outageMinutes,
  }
  draft.send({ to: 'agent', machine: query.machine, frame })
}
