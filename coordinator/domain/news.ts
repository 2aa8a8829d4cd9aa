/**
 * What agents say: plans, records of runs, and at each hello everything that they have in hand. Identity comes from
 * the authenticated session only. Records are taken exactly once and in order: what was committed before is passed
 * over, a gap is answered by the same acknowledgement. Keeps LOG-1, UNK-2, SES rules of resync and rule 8 of DESIGN.
 */
import type { OrderInHand } from '../../protocol/agent.ts'
import type { Refusal } from '../../protocol/errors.ts'
import type { Result, RunRecord } from '../../protocol/files.ts'
import { driftOf } from '../../protocol/plan.ts'
import type { Draft } from './draft.ts'
import type { AgentNews, Reply } from './events.ts'
import { shortList } from './selection.ts'
import { endOrder, grantPayloadOf, hearOrder, isActive, loseOrder, lossOf, stateInStep, voidOrder } from './order.ts'
import { answerQuery, keepPlan } from './planning.ts'
import type { Order, Query, Session, Target } from './state.ts'
import { changeProject, changeTarget, hasEnded, isUnstarted, mustHave, projectOf, sayOf, targetOf } from './targets.ts'

const DONE: Reply = { ok: true }

/** A frame of a machine in its session. News of a session that is no longer the machine's is dropped. */
export function takeNews(draft: Draft, machine: string, session: string, news: AgentNews): Reply {
  if (draft.get('sessions', machine)?.session !== session) return DONE
  switch (news.t) {
    case 'planned':
      return takePlan(draft, machine, news)
    case 'planRefused':
      return takePlanRefusal(draft, machine, news.query, news.refusal)
    case 'prefetched':
      return takePrefetched(draft, machine, news.order)
    case 'granted':
      return takeGranted(draft, machine, news)
    case 'records':
      return takeRecords(draft, machine, news.order, news.records)
  }
}

/** From now on the machine can't have lost the grant, unless it lost its state or is another machine. */
function takeGranted(draft: Draft, machine: string, { order: id, fence }: Extract<AgentNews, { t: 'granted' }>): Reply {
  const order = draft.get('orders', id)
  if (order?.machine === machine && order.fence === fence && isActive(order) && !order.taken)
    draft.put('orders', id, { ...order, taken: true })
  return DONE
}

function queryOf(draft: Draft, machine: string, id: string): Query | undefined {
  const query = draft.get('queries', id)
  return query?.machine === machine && query.state === 'asked' ? query : undefined
}

function takePlan(draft: Draft, machine: string, news: Extract<AgentNews, { t: 'planned' }>): Reply {
  const query = queryOf(draft, machine, news.query)
  if (query === undefined) return DONE
  const older = olderRelease(draft, query, news.evidence.releases)
  if (older !== null) return takePlanRefusal(draft, machine, news.query, older)
  const since = query.purpose === 'request' ? (draft.get('requests', query.owner)?.at ?? null) : null
  const planHash = keepPlan(draft, news.plan, news.evidence, since)
  if (query.purpose === 'request') answerQuery(draft, query, { planHash, warnings: news.warnings })
  else answerCheck(draft, query, { planHash })
  return DONE
}

/** The Date of a suite may never go back between approval and check: an older archive is a rollback. */
function olderRelease(
  draft: Draft,
  query: Query,
  releases: readonly { uri: string; suite: string; date: number }[],
): Refusal | null {
  if (query.purpose !== 'check') return null
  const target = targetOf(draft, query.owner, query.index)
  const approved = draft.archived('plans', target.planHash)
  for (const release of releases) {
    const before = approved?.evidence.releases.find((one) => one.uri === release.uri && one.suite === release.suite)
    if (before !== undefined && release.date < before.date) {
      return {
        kind: 'cannot-plan',
        message: `the archive ${release.uri} ${release.suite} is older than at the approval`,
        subject: query.name,
        remedy: 'find out who rolled it back; nothing is installed from an older archive',
      }
    }
  }
  return null
}

function takePlanRefusal(draft: Draft, machine: string, id: string, refusal: Refusal): Reply {
  const query = queryOf(draft, machine, id)
  if (query === undefined) return DONE
  refuseQuery(draft, query, refusal)
  return DONE
}

/** No plan will come of this query: the machine said so, went away, or took too long. */
export function refuseQuery(draft: Draft, query: Query, refusal: Refusal): void {
  if (query.purpose === 'request') answerQuery(draft, query, { refusal })
  else answerCheck(draft, query, { refusal })
}

/** A machine planned again after the approval: the same, or drift, which is a failure that touched nothing. */
function answerCheck(
  draft: Draft,
  query: Query,
  answer: { readonly planHash: string } | { readonly refusal: Refusal },
): void {
  draft.remove('queries', query.id)
  const project = draft.get('projects', query.owner)
  if (project === undefined || project.state === 'closed') return
  const target = targetOf(draft, project.id, query.index)
  changeProject(draft, project.id, { checksOpen: project.checksOpen - 1 })
  draft.touch(project.id)
  if (hasEnded(target) || target.check !== 'due') return
  if ('refusal' in answer) {
    // The run would meet the same trouble and name its cause with the output at hand, so this alone stops nothing.
    changeTarget(draft, target, { check: 'refused', message: answer.refusal.message })
    return
  }
  const drift = planDrift(draft, target, answer.planHash)
  if (drift.length === 0) {
    const { rebootDue } = mustHave(draft.archived('plans', answer.planHash), `plan ${answer.planHash}`).plan
    changeTarget(draft, target, { check: 'same', message: null, rebootPending: rebootDue })
    return
  }
  const message = `the plan is no longer the approved one: ${shortList(drift)}`
  changeTarget(draft, target, {
    check: 'drift',
    state: 'failed',
    endedAt: draft.at,
    cause: 'plan-drift',
    message,
    evidence: drift.slice(0, 20),
    advice: driftAdvice(project.change ?? '', target.name),
  })
  const now = projectOf(draft, project.id)
  changeProject(draft, project.id, { undecided: [...now.undecided, target.index].toSorted((a, b) => a - b) })
  sayOf(draft, project, {
    fact: 'driftFound',
    machine: target.name,
    cause: 'plan-drift',
    reason: message.slice(0, 1900),
  })
}

function driftAdvice(change: string, name: string): string[] {
  return [
    `if the archive is put back as it was: smith retry ${change} ${name}`,
    `to leave it out of this change: smith skip ${change} ${name} --reason REASON`,
    `to install what is there now: smith cancel ${change}, then ask again`,
  ]
}

function planDrift(draft: Draft, target: Target, planHash: string): string[] {
  const approved = mustHave(draft.archived('plans', target.planHash), `plan ${target.planHash}`).plan
  const now = mustHave(draft.archived('plans', planHash), `plan ${planHash}`).plan
  return driftOf(approved, now, target.attempt > 0).map((drift) => drift.message)
}

function takePrefetched(draft: Draft, machine: string, id: string): Reply {
  const order = draft.get('orders', id)
  if (order?.machine !== machine || order.state !== 'offered') return DONE
  const target = targetOf(draft, order.project, order.target)
  if (target.state !== 'offered') return DONE
  changeTarget(draft, target, { state: 'ready' })
  sayOf(draft, projectOf(draft, order.project), { fact: 'orderReady', machine: target.name, order: order.id })
  return DONE
}

function takeRecords(draft: Draft, machine: string, id: string, records: readonly RunRecord[]): Reply {
  const order = draft.get('orders', id) ?? draft.archived('orders', id)
  if (order !== undefined && order.machine !== machine) {
    return {
      ok: false,
      refusals: [
        {
          kind: 'not-allowed',
          message: `order ${id} is another machine's`,
          subject: id,
          remedy: 'none: these records are not taken',
        },
      ],
    }
  }
  if (order === undefined || order.fence === 0) {
    // A database that was restored does not know what was granted since: no fault of the machine, which keeps its records.
    return {
      ok: false,
      refusals: [
        {
          kind: 'not-found',
          message: `no order ${id} was granted here`,
          subject: id,
          remedy: 'the records stay on the machine: /opt/smith-agent.log',
        },
      ],
    }
  }
  const isWhole = records.every((record, index) => index === 0 || record.n === (records[index - 1]?.n ?? 0) + 1)
  const resultAt = records.findIndex((record) => record.type === 'result')
  if (!isWhole || (resultAt >= 0 && resultAt !== records.length - 1)) {
    return {
      ok: false,
      refusals: [
        {
          kind: 'malformed',
          message: 'the records are not numbered without a gap',
          subject: id,
          remedy: 'send them as they stand on disk',
        },
      ],
    }
  }
  const fresh = order.result === null ? records.filter((record) => record.n > order.upTo) : []
  const [first] = fresh
  if (first === undefined || first.n !== order.upTo + 1) {
    acknowledge(draft, order)
    return DONE
  }
  draft.append({ order: id, from: first.n, records: fresh })
  sayOf(draft, mustHave(draft.archived('projects', order.project), `project ${order.project}`), {
    fact: 'logAppended',
    machine: order.name,
    order: id,
    from: first.n,
    upTo: order.upTo + fresh.length,
  })
  const after = { ...order, upTo: order.upTo + fresh.length, heardAt: draft.at, silentSince: null }
  if (isActive(order)) followRecords(draft, after, fresh)
  else keepEvidence(draft, after, fresh)
  acknowledge(draft, draft.get('orders', id) ?? mustHave(draft.archived('orders', id), `order ${id}`))
  return DONE
}

function acknowledge(draft: Draft, order: Order): void {
  draft.send({ to: 'agent', machine: order.machine, frame: { t: 'ack', order: order.id, upTo: order.upTo } })
  if (order.result !== null)
    draft.send({ to: 'agent', machine: order.machine, frame: { t: 'forget', order: order.id } })
}

/** Records of an order that has ended by a person's word: kept, and changing nothing. */
function keepEvidence(draft: Draft, order: Order, records: readonly RunRecord[]): void {
  const result = records.find((record) => record.type === 'result')
  const row = { ...order, result: result ?? order.result }
  if (draft.get('orders', order.id) === undefined) draft.retire('orders', order.id, row)
  else draft.put('orders', order.id, row)
  if (result === undefined) return
  const project = mustHave(draft.archived('projects', order.project), `project ${order.project}`)
  sayOf(draft, project, {
    fact: 'evidenceRecorded',
    machine: order.name,
    order: order.id,
    state: result.outcome,
    reason: `the machine says ${result.outcome}: ${result.message}`.slice(0, 1900),
  })
}

function followRecords(draft: Draft, order: Order, records: readonly RunRecord[]): void {
  const result = records.find((record) => record.type === 'result')
  const steps = records.filter((record) => record.type === 'step')
  const progress = records.findLast((record) => record.type === 'progress')
  const last = steps.at(-1)
  const isClaimed = order.claimed || steps.length > 0
  let now: Order = {
    ...order,
    claimed: isClaimed,
    latched: order.latched || steps.some((record) => record.step === 'latch' || record.step === 'install'),
    step: last?.step ?? order.step,
    stepAt: last === undefined ? order.stepAt : draft.at,
    firstAt: order.firstAt ?? records[0]?.at ?? null,
    progress:
      progress !== undefined && progress.n > (last?.n ?? 0)
        ? `${Math.floor(progress.percent)}% ${progress.label}`.trim()
        : last === undefined
          ? order.progress
          : null,
    revoking: order.revoking && !isClaimed,
  }
  draft.put('orders', now.id, now)
  if (now.state === 'unknown' && result === undefined) now = hearOrder(draft, now)
  if (now.state === 'granted' && isClaimed) {
    now = { ...now, state: 'running' }
    draft.put('orders', now.id, now)
  }
  const project = projectOf(draft, now.project)
  for (const record of steps)
    sayOf(draft, project, { fact: 'stepStarted', machine: now.name, order: now.id, step: record.step })
  const target = targetOf(draft, now.project, now.target)
  changeTarget(draft, target, {
    step: now.step,
    progress: now.progress,
    ...(now.state === 'running' ? { state: stateInStep(now.step) } : {}),
  })
  if (result !== undefined) takeResult(draft, now, result)
}

function takeResult(draft: Draft, order: Order, result: Result): void {
  switch (result.outcome) {
    case 'void':
      if (order.claimed)
        loseWithResult(draft, order, result, 'the machine says that the run never began, after it had begun')
      else voidOrder(draft, order, result)
      return
    case 'unknown':
      loseWithResult(draft, order, result, result.message)
      return
    case 'succeeded':
    case 'failed':
      endOrder(draft, order, {
        state: result.outcome,
        cause: result.cause,
        message: result.message,
        evidence: result.evidence,
        advice: result.advice,
        latched: result.latched,
        rebootPending: result.rebootPending,
        result,
        resolvedBy: null,
        isDecided: false,
      })
  }
}

/** The run is over and even the machine can't tell how: a person must. */
function loseWithResult(draft: Draft, order: Order, result: Result, reason: string): void {
  draft.put('orders', order.id, { ...order, result })
  if (order.state === 'unknown') draft.put('orders', order.id, { ...order, result, unknownReason: reason })
  else loseOrder(draft, { ...order, result }, reason)
  changeTarget(draft, targetOf(draft, order.project, order.target), {
    cause: result.cause,
    message: reason,
    evidence: result.evidence,
    advice: result.advice,
  })
  draft.touch(order.project)
}

/** What a machine has in hand, told at its hello: each order is taken up where it stands. */
export function resync(draft: Draft, machine: string, inHand: readonly OrderInHand[]): void {
  for (const entry of inHand) {
    const order = draft.get('orders', entry.order) ?? draft.archived('orders', entry.order)
    if (order === undefined || order.machine !== machine) continue
    if (order.fence === 0) {
      dropUsedOrder(draft, order, entry)
      continue
    }
    acknowledge(draft, order)
    if (!isActive(order)) continue
    const started = ['claimed', 'latched', 'ended'].includes(entry.evidence)
    draft.put('orders', order.id, {
      ...order,
      // A revoke that came alone has no fence, and is no grant that was kept.
      taken: order.taken || started || entry.fence > 0,
      claimed: order.claimed || started,
      silentSince: null,
      heardAt: draft.at,
    })
    // Whatever the machine has on its disk, it is in reach and its own word is to come: nothing for a person to resolve.
    if (order.result === null) hearOrder(draft, mustHave(draft.get('orders', order.id), 'an order'))
    if (entry.evidence === 'refused' || order.revoking)
      draft.send({ to: 'agent', machine, frame: { t: 'revoke', order: order.id } })
  }
  const known = new Set(inHand.map((entry) => entry.order))
  for (const order of [...draft.all('orders')]) {
    if (order.machine !== machine) continue
    if (isActive(order) && !known.has(order.id))
      notInHand(draft, order, mustHave(draft.get('sessions', machine), 'a session'))
    if (order.state === 'offered') offerAgain(draft, order)
  }
}

/** An offer may have been lost on its way; without authority, it may be repeated. */
function offerAgain(draft: Draft, order: Order): void {
  const target = targetOf(draft, order.project, order.target)
  if (target.state === 'offered' && target.order === order.id)
    draft.send({ to: 'agent', machine: order.machine, offer: { order: order.id, planHash: target.planHash } })
}

/** The machine has a grant of an order that was only offered here: an older database was restored. Its id is used up. */
function dropUsedOrder(draft: Draft, order: Order, entry: OrderInHand): void {
  if (order.state !== 'offered' || entry.fence === 0) return
  draft.retire('orders', order.id, { ...order, state: 'cancelled', endedAt: draft.at })
  const target = targetOf(draft, order.project, order.target)
  if (target.order === order.id && isUnstarted(target)) changeTarget(draft, target, { state: 'planned', order: null })
  draft.touch(order.project)
}

/** The machine does not know an order that was granted to it. */
function notInHand(draft: Draft, order: Order, session: Session): void {
  const heard: Order = { ...order, silentSince: null, heardAt: draft.at }
  draft.put('orders', order.id, heard)
  if (order.result !== null) return
  const reason = lossOf(order, session)
  if (reason !== null) {
    if (order.state === 'unknown') draft.put('orders', order.id, { ...heard, unknownReason: reason })
    else loseOrder(draft, heard, reason)
    draft.touch(order.project)
    return
  }
  const project = projectOf(draft, order.project)
  const target = targetOf(draft, order.project, order.target)
  // A grant that was lost on its way may be sent again as long as it may start; later only the machine can say
  // that it never will.
  const mayStart = !order.revoking && project.cancelling === null && draft.at < (order.startBy ?? 0)
  if (!mayStart) {
    draft.put('orders', order.id, { ...hearOrder(draft, heard), revoking: true })
    draft.send({ to: 'agent', machine: order.machine, frame: { t: 'revoke', order: order.id } })
    return
  }
  hearOrder(draft, heard)
  draft.send({ to: 'agent', machine: order.machine, grant: grantPayloadOf(project, order, target) })
}
