/**
 * From a request to a project: understands and selects, asks every machine to plan (in parallel, bounded), and makes
 * the project with its bags in order, or refuses with every reason at once. A request survives a restart: what was
 * asked and not answered is asked again.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { type Plan, type PlanEvidence, digestText, isEmptyPlan, planText } from '../../protocol/plan.ts'
import type { Draft } from './draft.ts'
import type { Command, Reply } from './events.ts'
import { type Bagged, bagsIn } from './bags.ts'
import { failuresMaxOf, termsOf, windowOf } from './pace.ts'
import { askQuery, putQuery, queryId } from './queries.ts'
import { policyFor } from './trains.ts'
import { parseRequest } from './request.ts'
import { clusterOf, impedimentOf, maySkip, selectMachines } from './selection.ts'
import type { Actor, Machine, Project, Query, Request, Target } from './state.ts'
import { placeKey } from './state.ts'
import { NO_COUNTS, countOf, mustHave, sayOf, targetOf } from './targets.ts'
import { releaseMachine } from './lines.ts'

export { requestQueryPrefix } from './queries.ts'

export function actorName(actor: Actor): string {
  switch (actor.kind) {
    case 'person':
    case 'machine':
      return actor.name
    case 'local-admin':
    case 'change':
    case 'smith':
      return actor.kind
  }
}

/** As it stands in the journal: a person, and the bot that spoke for them. No name has a space. */
export function journalName(actor: Actor): string {
  const via = actor.kind === 'person' && actor.via !== undefined ? ` via ${actor.via}` : ''
  return `${actorName(actor)}${via}`
}

type Ask = Omit<Extract<Command, { type: 'request' }>, 'type'>

/** Takes a request. The reply has its id; what became of it is read from the request itself. */
export function makeRequest(draft: Draft, ask: Ask): Reply {
  const repeated = ask.key === null ? undefined : draft.archived('requestKeys', ask.key)
  if (repeated !== undefined) return repeat(draft, ask, repeated.request)
  const parse = parseRequest(ask.text)
  const { parsed } = parse
  const selection = selectMachines(draft, parsed, draft.tools, ask.known ?? null)
  const refusals = [...(parse.ok ? [] : parse.refusals), ...selection.refusals]
  const own = windowOf(parsed.pace, draft.at, draft.tools.calendar, refusals)
  const { policy, window } = policyFor(
    {
      ...{ at: draft.at, actor: draft.actor, preview: ask.preview, leftOut: selection.leftOut },
      names: [...selection.machines, ...selection.skipped].map(({ machine }) => machine.name),
      ...{ word: parsed.pace.window, window: own },
      needMs: draft.tools.settings.schedule.runMsExpected + parsed.outageMinutes * 60_000,
    },
    draft.tools,
    refusals,
  )
  if (refusals.length > 0) return refuseAtOnce(draft, ask, refusals)
  const id = draft.tools.newId()
  const request: Request = {
    id,
    key: ask.key,
    text: ask.text,
    by: actorName(draft.actor),
    at: draft.at,
    preview: ask.preview,
    state: 'planning',
    build: parsed.build,
    region: selection.region,
    title: selection.title,
    options: {
      outageMinutes: parsed.outageMinutes,
      offline: parsed.offline,
      busy: parsed.busy,
      ...parsed.pace,
      window,
      ...(policy === null ? {} : { policy }),
      ...(ask.known === undefined ? {} : { lookup: { source: ask.known.source, at: ask.known.at } }),
    },
    total: selection.machines.length,
    answered: 0,
    refusals: [],
    skipped: selection.skipped.map(({ machine, reason, before }) => ({
      index: before,
      name: machine.name,
      machine: machine.id,
      reason,
    })),
    project: null,
    change: null,
    deadline: draft.at + draft.tools.settings.limits.planTimeMsMax,
  }
  draft.put('requests', id, request)
  if (ask.key !== null) draft.put('requestKeys', ask.key, { request: id })
  selection.machines.forEach(({ machine, matched }, index) => {
    putQuery(draft, { purpose: 'request', owner: id, round: 0, index, machine, matched })
  })
  const preview = ask.preview ? { state: 'preview' } : {}
  draft.say({ fact: 'requestMade', request: id, text: ask.text.slice(0, 1000), ...preview })
  askNext(draft, request)
  return { ok: true, value: { request: id } }
}

/** The answer to a request was lost and it is made again: the same key, the same request. */
function repeat(draft: Draft, ask: Ask, id: string): Reply {
  const request = mustHave(draft.archived('requests', id), `request ${id}`)
  if (request.text === ask.text && request.preview === ask.preview && request.by === actorName(draft.actor))
    return { ok: true, value: { request: id } }
  const message = 'this key was used for another request'
  return {
    ok: false,
    refusals: [{ kind: 'conflict', message, remedy: 'make a new key for each request; the same one only repeats it' }],
  }
}

function refuseAtOnce(draft: Draft, ask: Ask, refusals: readonly Refusal[]): Reply {
  const text = refusals.map((refusal) => refusal.message).join('; ')
  draft.say({ fact: 'requestRefused', text: ask.text.slice(0, 1000), reason: text.slice(0, 1000) })
  return { ok: false, refusals }
}

function queriesOf(draft: Draft, request: Request): Query[] {
  return Array.from({ length: request.total }, (_, index) =>
    mustHave(draft.get('queries', queryId(request.id, 0, index)), `query ${index} of request ${request.id}`),
  )
}

/** Asks as many more machines as may plan at a time. A machine out of reach waits until it is back or its time is over. */
export function askNext(draft: Draft, request: Request): void {
  const queries = queriesOf(draft, request)
  let free = draft.tools.settings.limits.plansInParallelMax - queries.filter((query) => query.state === 'asked').length
  for (const query of queries) {
    if (free <= 0) return
    if (query.state !== 'queued' || draft.get('sessions', query.machine) === undefined) continue
    askQuery(draft, query, { build: request.build, outageMinutes: request.options.outageMinutes })
    free -= 1
  }
}

/** After a restart nobody remembers the question: what was asked is asked again. */
export function reopenRequest(draft: Draft, request: Request): void {
  for (const query of queriesOf(draft, request)) {
    if (query.state === 'asked') draft.put('queries', query.id, { ...query, state: 'queued', deadline: null })
  }
  draft.put('requests', request.id, { ...request, deadline: draft.at + draft.tools.settings.limits.planTimeMsMax })
}

/** Puts a plan into the store, once per content. `since`: when the request was made that it answers, if it answers one. */
export function keepPlan(draft: Draft, plan: Plan, evidence: PlanEvidence, since: number | null): string {
  const hash = draft.tools.sha256(planText(plan))
  const kept = draft.archived('plans', hash)
  // What another request once came to is approved anew with the archives of now, behind which nothing may go back.
  const isOfOld = since !== null && kept !== undefined && kept.evidence.madeAt < since
  if (kept === undefined || isOfOld) draft.retire('plans', hash, { hash, plan, evidence })
  return hash
}

/** A machine's answer to a query of a request: its plan or why it has none. */
export function answerQuery(
  draft: Draft,
  query: Query,
  answer: { readonly planHash: string; readonly warnings: readonly string[] } | { readonly refusal: Refusal },
): void {
  const request = mustHave(draft.get('requests', query.owner), `request ${query.owner}`)
  if (query.state === 'answered' || request.state !== 'planning') return
  const made = 'planHash' in answer
  draft.put('queries', query.id, {
    ...query,
    state: 'answered',
    deadline: null,
    planHash: made ? answer.planHash : null,
    warnings: made ? answer.warnings : [],
    refusal: made ? null : about(answer.refusal, query.name),
  })
  draft.say({ fact: made ? 'planMade' : 'planRefused', request: request.id, machine: query.name })
  const next = { ...request, answered: request.answered + 1 }
  draft.put('requests', request.id, next)
  if (next.answered === next.total) finishRequest(draft, next)
  else askNext(draft, next)
}

/** A machine's own refusal, with its name in front, since many stand together. */
function about(refusal: Refusal, name: string): Refusal {
  const message = refusal.message.includes(name) ? refusal.message : `${name}: ${refusal.message}`
  return { ...refusal, message, subject: name }
}

function finishRequest(draft: Draft, request: Request): void {
  const refusals: Refusal[] = []
  const skipped = [...request.skipped]
  const planned: Query[] = []
  for (const query of queriesOf(draft, request)) {
    const machine = draft.get('machines', query.machine)
    // Another request may have taken the machine while this one was planning.
    const gone = machine === undefined || machine.state === 'retired' ? retired(query.name) : null
    const busy = machine === undefined || gone !== null ? null : busyOf(draft, machine, request.build)
    const problem = query.refusal ?? gone ?? (request.preview ? null : busy)
    if (problem === null) planned.push(query)
    else if (query.matched && maySkip(problem, request.options)) {
      skipped.push({ index: query.index, name: query.name, machine: query.machine, reason: problem.message })
    } else refusals.push(problem)
  }
  const builds = new Set(planned.map((query) => planOf(draft, query).build))
  if (refusals.length === 0 && planned.length === 0) {
    refusals.push({
      kind: 'no-match',
      message: 'no machine is left to patch',
      remedy: 'see smith machines for what each of them lacks',
    })
  }
  if (builds.size > 1) {
    refusals.push({
      kind: 'unknown-build',
      message: `${request.build} means several builds on these machines: ${[...builds].toSorted().join(', ')}`,
      remedy: 'ask again if it has just moved; else make the repositories of the machines equal, or name a build',
    })
  }
  if (refusals.length > 0) {
    endRequest(draft, { ...request, state: 'refused', refusals })
    const reason = refusals.map((refusal) => refusal.message).join('; ')
    draft.say({
      fact: 'requestRefused',
      request: request.id,
      text: request.text.slice(0, 1000),
      reason: reason.slice(0, 1000),
    })
    return
  }
  const build = [...builds][0] ?? request.build
  if (request.preview) {
    endRequest(draft, { ...request, state: 'previewed', build, skipped })
    draft.say({ fact: 'requestPreviewed', request: request.id })
    return
  }
  makeProject(draft, { ...request, build, skipped }, planned)
}

function retired(name: string): Refusal {
  return {
    kind: 'unknown-machine',
    message: `${name} was enrolled anew in the meantime`,
    subject: name,
    remedy: 'ask again',
  }
}

function busyOf(draft: Draft, machine: Machine, build: string): Refusal | null {
  const problem = impedimentOf(draft, machine, build)
  return problem?.kind === 'machine-busy' ? problem : null
}

function planOf(draft: Draft, query: Query): Plan {
  const hash = mustHave(query.planHash ?? undefined, `the plan of ${query.name}`)
  return mustHave(draft.archived('plans', hash), `plan ${hash}`).plan
}

/** Drops an ended request from memory; the store keeps it with its queries. */
export function endRequest(draft: Draft, request: Request): void {
  draft.retire('requests', request.id, request)
  if (request.key !== null) draft.retire('requestKeys', request.key, { request: request.id })
  for (const query of queriesOf(draft, request)) draft.retire('queries', query.id, query)
}

/** No change will be raised for it: the request is refused, and nothing is left of the project. */
export function abandonProject(draft: Draft, project: Project, refusal: Refusal): void {
  for (let index = 0; index < project.targets; index += 1) {
    releaseMachine(draft, targetOf(draft, project.id, index), {})
    draft.remove('targets', placeKey(project.id, index))
  }
  for (let index = 0; index < project.bags; index += 1) draft.remove('bags', placeKey(project.id, index))
  draft.remove('projects', project.id)
  const request = mustHave(draft.get('requests', project.request), `request ${project.request}`)
  endRequest(draft, { ...request, state: 'refused', project: null, refusals: [refusal] })
  draft.say({ fact: 'requestRefused', request: project.request, reason: refusal.message })
}

type Place = {
  readonly machine: Pick<Machine, 'id' | 'name'>
  readonly name: string
  readonly isSkipped: boolean
  readonly cluster: string
  readonly planHash: string
  readonly isEmpty: boolean
  readonly rebootPending: boolean
  readonly skipReason: string | null
}

/** The bags of a request with their machines, in the order that will be kept. */
function placesOf(draft: Draft, request: Request, planned: readonly Query[]): Bagged<Place>[] {
  const entries = [
    // The sort is stable: a machine skipped at the outset stands before the one whose place it bears.
    ...request.skipped.map((skip) => ({ ...skip, query: null })),
    ...planned.map((query) => ({ index: query.index, name: query.name, machine: query.machine, query, reason: null })),
  ].toSorted((a, b) => a.index - b.index)
  const places = entries.map((entry) => {
    // One that only the source of machines knows has no row.
    const row = entry.machine === '' ? null : mustHave(draft.get('machines', entry.machine), `machine ${entry.machine}`)
    const machine = row ?? { id: '', name: entry.name }
    const cluster = clusterOf(machine, draft.tools)
    const plan = entry.query === null ? null : planOf(draft, entry.query)
    return {
      machine,
      name: machine.name,
      isSkipped: entry.reason !== null,
      cluster,
      planHash: entry.query?.planHash ?? '',
      isEmpty: plan !== null && isEmptyPlan(plan) && !(plan.rebootDue && request.options.outageMinutes > 0),
      // What the machine said at its hello may be days old.
      rebootPending: plan?.rebootDue ?? row?.rebootPending ?? false,
      skipReason: entry.reason,
    }
  })
  return bagsIn(places, request.options.phases)
}

function makeProject(draft: Draft, request: Request, planned: readonly Query[]): void {
  const id = draft.tools.newId()
  const bags = placesOf(draft, request, planned)
  const places = bags.flatMap((bag) => bag.places)
  const digest = draft.tools.sha256(
    digestText(
      places
        .filter((place) => place.skipReason === null)
        .map((place) => ({ machine: place.machine.id, planHash: place.planHash })),
    ),
  )
  putBags(draft, id, bags)
  const skipped = places.filter((place) => place.skipReason !== null).length
  const project: Project = {
    id,
    request: request.id,
    change: null,
    requester: request.by,
    text: request.text,
    title: request.title,
    build: request.build,
    region: request.region,
    options: request.options,
    digest,
    createdAt: draft.at,
    state: 'raising',
    outcome: null,
    approval: null,
    targets: places.length,
    bags: bags.length,
    counts: { ...NO_COUNTS, unstarted: places.length - skipped, skipped },
    cursor: 0,
    phase: bags[0]?.phase ?? 0,
    soakFrom: null,
    failuresMax: failuresMaxOf(request.options, places.length - skipped),
    runMsMax: null,
    wasShut: false,
    checkRound: 0,
    checksOpen: 0,
    active: null,
    freeSince: draft.at,
    undecided: [],
    denied: null,
    paused: null,
    cancelling: null,
    stop: null,
    closedAt: null,
    closeNotes: null,
  }
  draft.put('projects', id, project)
  draft.put('requests', request.id, { ...request, state: 'raising', project: id })
  sayOf(draft, project, { fact: 'projectMade', request: request.id, text: request.text.slice(0, 1000) })
  raiseChange(draft, project)
}

/** Writes the bags with their targets. */
function putBags(draft: Draft, id: string, bags: readonly Bagged<Place>[]): void {
  let index = 0
  bags.forEach((bag, bagIndex) => {
    const first = index
    let counts = NO_COUNTS
    for (const place of bag.places) {
      const target = newTarget(id, index, bagIndex, place)
      const key = countOf(target.state)
      counts = { ...counts, [key]: counts[key] + 1 }
      draft.put('targets', placeKey(id, index), target)
      if (place.skipReason === null) {
        const machine = mustHave(draft.get('machines', place.machine.id), `machine ${place.machine.id}`)
        draft.put('machines', machine.id, { ...machine, project: id })
      }
      index += 1
    }
    draft.put('bags', placeKey(id, bagIndex), {
      project: id,
      index: bagIndex,
      phase: bag.phase,
      name: bag.name,
      task: null,
      first,
      count: bag.places.length,
      counts,
    })
  })
}

function newTarget(project: string, index: number, bag: number, place: Place): Target {
  return {
    project,
    index,
    bag,
    machine: place.machine.id,
    name: place.machine.name,
    cluster: place.cluster,
    planHash: place.planHash,
    isEmpty: place.isEmpty,
    state: place.skipReason === null ? 'planned' : 'skipped',
    order: null,
    attempt: 0,
    check: 'none',
    step: null,
    progress: null,
    startedAt: null,
    endedAt: null,
    cause: null,
    message: null,
    evidence: [],
    advice: [],
    reason: place.skipReason,
    rebootPending: place.rebootPending,
    keepsLine: false,
  }
}

/** Asks the provider to raise the change; repeated until it has answered, idempotent by project. */
export function raiseChange(draft: Draft, project: Project): void {
  const bags = Array.from({ length: project.bags }, (_, index) =>
    mustHave(draft.get('bags', placeKey(project.id, index)), 'a bag'),
  )
  draft.send({
    to: 'change',
    call: {
      call: 'raise',
      project: project.id,
      requester: project.requester,
      summary: `Patch: ${project.region} ${project.title} with Build ${project.build}`,
      digest: project.digest,
      build: project.build,
      outageMinutes: project.options.outageMinutes,
      bags: bags.map((bag) => ({
        name: bag.name,
        machines: Array.from(
          { length: bag.count },
          (_, place) => draft.get('targets', placeKey(project.id, bag.first + place))?.name ?? '',
        ),
      })),
      terms: termsOf(project.options, draft.tools.calendar),
      window: project.options.window,
      approvedBy: project.options.policy?.approvedBy ?? [],
      warnings: warningsOf(draft, project),
    },
  })
}

function warningsOf(draft: Draft, project: Project): string[] {
  const request = draft.get('requests', project.request)
  if (request === undefined) return []
  return queriesOf(draft, request).flatMap((query) => query.warnings.map((warning) => `${query.name}: ${warning}`))
}
