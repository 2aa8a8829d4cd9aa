/**
 * What time does: silence makes an order unknown, a wait becomes a hold, a question that nobody answered is asked
 * again. Time alone never frees a line and never makes a success or a failure (UNK-1). `nextWake` tells the driver
 * when to look again; both go only over what is open now.
 */
import { callBack } from './commands.ts'
import { denyForProvider } from './changes.ts'
import type { Draft, View } from './draft.ts'
import type { Settings } from './events.ts'
import { refuseQuery } from './news.ts'
import { isActive, loseOrder } from './order.ts'
import { raiseChange, reopenRequest, askNext } from './planning.ts'
import { fireDue, reopenSchedules } from './recurring.ts'
import { askPermission } from './rollout.ts'
import type { Instant, Order, Project, Query } from './state.ts'
import { dropAsk } from './targets.ts'

/** After a start nobody is connected: whoever is in the works is silent from now on. */
export function open(draft: Draft): void {
  for (const order of [...draft.all('orders')]) {
    if (isActive(order) && order.silentSince === null)
      draft.put('orders', order.id, { ...order, silentSince: draft.at })
  }
  for (const request of [...draft.all('requests')]) if (request.state === 'planning') reopenRequest(draft, request)
  for (const query of [...draft.all('queries')]) {
    if (query.purpose === 'check') refuseQuery(draft, query, interrupted(query))
  }
  for (const project of [...draft.all('projects')]) {
    draft.touch(project.id)
  }
  reopenSchedules(draft)
  tick(draft)
  draft.say({ fact: 'instanceOpened' })
}

function interrupted(query: Query) {
  return {
    kind: 'unavailable' as const,
    message: `${query.name} was planning again when the coordinator stopped; its run compares the plan once more`,
    subject: query.name,
    remedy: 'nothing to do',
  }
}

/** Everything that is due at this instant. */
export function tick(draft: Draft): void {
  const { limits } = draft.tools.settings
  for (const query of [...draft.all('queries')]) endOverdueQuery(draft, query)
  for (const schedule of [...draft.all('schedules')]) fireDue(draft, schedule)
  for (const order of [...draft.all('orders')]) watchOrder(draft, order)
  for (const project of [...draft.all('projects')]) {
    if (project.state === 'raising') raiseChange(draft, project)
    watchAsk(draft, project)
    const { stop } = project
    if (stop?.kind === 'waiting' && (draft.at - stop.since >= limits.waitMsMax || isDue(stop.until, draft.at)))
      draft.touch(project.id)
  }
}

function isDue(until: Instant | null, at: Instant): boolean {
  return until !== null && until <= at
}

function endOverdueQuery(draft: Draft, query: Query): void {
  const request = query.purpose === 'request' ? draft.get('requests', query.owner) : undefined
  const deadline =
    query.deadline ??
    (query.state === 'queued' && draft.get('sessions', query.machine) === undefined ? request?.deadline : undefined)
  if (query.state === 'answered' || deadline === undefined || deadline > draft.at) {
    if (request !== undefined && request.state === 'planning' && query.state === 'queued') askNext(draft, request)
    return
  }
  refuseQuery(
    draft,
    query,
    query.state === 'queued'
      ? {
          kind: 'machine-offline',
          message: `${query.name} has no live agent`,
          subject: query.name,
          remedy: `look at the agent on ${query.name}`,
        }
      : {
          kind: 'cannot-plan',
          message: `${query.name} did not plan within ${Math.round(draft.tools.settings.limits.planTimeMsMax / 1000)} s`,
          subject: query.name,
          remedy: `see /opt/smith-agent.log on ${query.name}: its archives may be slow or out of reach`,
        },
  )
}

function watchOrder(draft: Draft, order: Order): void {
  if (order.state !== 'granted' && order.state !== 'running') return
  const end = silenceEnd(draft, draft.tools.settings, order)
  if (order.silentSince !== null && end !== null && draft.at >= end) {
    const seconds = Math.round((draft.at - order.silentSince) / 1000)
    loseOrder(
      draft,
      order,
      `${order.name} ${howSilent(draft, order)}; nothing was heard of it for ${seconds} s`,
      order.step === 'reboot' ? goneAdvice(order) : [],
    )
    return
  }
  // Connected and past its time: the grant can't be claimed any more, which the machine itself must confirm.
  if (!order.claimed && !order.revoking && order.silentSince === null && draft.at > (order.startBy ?? 0))
    callBack(draft, order)
}

function howSilent(view: View, order: Order): string {
  if (order.step === null) return 'fell silent before it took up the grant'
  if (order.step !== 'reboot') return `fell silent in step ${order.step}`
  const minutes = outageOf(view, order)
  return `did not come back from its reboot in the ${minutes} minute${minutes === 1 ? '' : 's'} declared`
}

function goneAdvice(order: Order): string[] {
  return [
    `look at the console of ${order.name} for where it hangs; nothing was being installed any more when it went down`,
    'once it is up it says by itself how the run ended; only when it never will, resolve it',
  ]
}

function outageOf(view: View, order: Order): number {
  return view.get('projects', order.project)?.options.outageMinutes ?? 0
}

/** When silence makes an order unknown, null while it is not silent. A reboot may take the outage that was declared. */
function silenceEnd(view: View, settings: Settings, order: Order): Instant | null {
  if (order.silentSince === null) return null
  const end = order.silentSince + settings.limits.silenceMsMax
  if (order.step !== 'reboot' || order.stepAt === null) return end
  return Math.max(end, order.stepAt + outageOf(view, order) * 60_000)
}

/** Asks about a change that waits for a decision, and asks again what was not answered. */
function watchAsk(draft: Draft, project: Project): void {
  const { limits } = draft.tools.settings
  if (project.state === 'closed' || project.state === 'raising') return
  const ask = draft.get('asks', project.id)
  if (ask !== undefined) {
    const patience = project.state === 'pending' ? limits.changePollMs : limits.permissionAgeMsMax
    if (draft.at - ask.at < patience) return
    if (project.state === 'open') denyForProvider(draft, project, 'the change provider does not answer')
    else dropAsk(draft, project.id)
    return
  }
  if (project.state === 'pending' || project.approval === null) askPermission(draft, project)
  else if (project.denied !== null && project.active === null) askPermission(draft, project)
}

/** The next instant at which time alone changes something, or null. */
export function nextWake(view: View, settings: Settings, at: Instant): Instant | null {
  const { limits } = settings
  let wake = Number.POSITIVE_INFINITY
  const consider = (instant: number) => (wake = Math.min(wake, Math.max(instant, at + 1)))
  for (const query of view.all('queries')) {
    if (query.state === 'asked' && query.deadline !== null) consider(query.deadline)
  }
  for (const { name, next } of view.all('schedules'))
    if (next !== null && view.get('scheduleAsks', name) === undefined) consider(next)
  for (const request of view.all('requests'))
    if (request.state === 'planning') consider(Math.max(request.deadline, at + 1000))
  for (const order of view.all('orders')) {
    if (order.state !== 'granted' && order.state !== 'running') continue
    const silenceEndsAt = silenceEnd(view, settings, order)
    if (silenceEndsAt !== null) consider(silenceEndsAt)
    else if (!order.claimed && !order.revoking) consider((order.startBy ?? 0) + 1)
  }
  for (const project of view.all('projects')) {
    if (project.state === 'raising') consider(at + limits.permissionRetryMs)
    const { stop } = project
    // When its time has come and it stands all the same, something else is waited for too.
    if (stop?.kind === 'waiting' && stop.until !== null && stop.until > at) consider(stop.until)
    else if (stop?.kind === 'waiting') consider(Math.max(stop.since + limits.waitMsMax, at + limits.permissionRetryMs))
    const ask = view.get('asks', project.id)
    if (ask !== undefined)
      consider(ask.at + (project.state === 'pending' ? limits.changePollMs : limits.permissionAgeMsMax))
    else if (project.state === 'pending' || project.approval === null) consider(at + limits.changePollMs)
    else if (project.denied !== null && project.active === null) consider(at + limits.permissionRetryMs)
  }
  return Number.isFinite(wake) ? wake : null
}
