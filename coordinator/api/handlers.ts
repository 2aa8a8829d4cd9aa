/**
 * What each route does: reads are made from views.ts, commands go to the driver and are answered after their commit.
 * Called by routes.ts with what has passed authentication and schema.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { activeMachines, findMachines } from '../domain/selection.ts'
import type { Project } from '../domain/state.ts'
import { audit } from './audit.ts'
import type { Authenticator } from './authentication.ts'
import { numberOf, refuse } from './bodies.ts'
import type { Call, Hand, Handlers } from './calls.ts'
import { dashboard, whoIs } from './dashboard.ts'
import { keeping } from './keeping.ts'
import { recurring } from './recurring.ts'
import { reports } from './reports.ts'
import { serviceLog } from './service-log.ts'
import type { FeedDoor } from './feed.ts'
import type { Answer, ApiPorts } from './ports.ts'
import {
  findMachine,
  findOrder,
  findProject,
  findRequest,
  logPage,
  machineViews,
  orderViews,
  planView,
  projectList,
  requestView,
} from './views.ts'
import type { Waiters } from './waiters.ts'

const WAIT_SECONDS_MAX = 30
const LOG_PAGE_MAX = 1000
const PROJECTS_PAGE = 50
const PROJECTS_PAGE_MAX = 1000
const NUMBER_MAX = 999_999_999_999_999

/** What the parts of the interface give each other. */
export type Given = {
  readonly hand: Hand
  readonly waiters: Waiters
  readonly authenticator: Authenticator
  readonly feed: Pick<FeedDoor, 'recheck'>
  /** The one that is listened on, null before. */
  readonly port: () => number | null
}

export function createHandlers(ports: ApiPorts, given: Given): Handlers {
  const { hand, waiters, port } = given
  return {
    ...asking(ports, hand, waiters),
    ...steering(hand),
    ...reading(ports, port),
    ...dashboard(ports, given),
    ...keeping(ports, hand),
    ...recurring(ports, hand),
    ...serviceLog(ports),
    ...audit(ports),
    ...reports(ports, hand),
  }
}

function notFound(what: string, subject: string): { readonly ok: false; readonly refusals: readonly Refusal[] } {
  return refuse(
    'not-found',
    `there is no ${what} ${subject} here`,
    'smith status and smith machines list what there is',
    subject,
  )
}

function asking(ports: ApiPorts, hand: Hand, waiters: Waiters): Pick<Handlers, 'requestMake' | 'request'> {
  return {
    requestMake: async (call) => {
      const { text, preview, key } = call.body
      const { reply } = await hand.submit(call, {
        type: 'command',
        command: { type: 'request', text, preview: preview ?? false, key: key ?? null },
      })
      if (!reply.ok) return reply
      const made = findRequest(ports, reply.value?.request ?? '')
      return made === undefined ? notFound('request', '') : { ok: true, status: 202, value: requestView(ports, made) }
    },
    request: async (call) => {
      const id = call.params['request'] ?? ''
      const wait = numberOf(call.query, 'wait', { fallback: 0, min: 0, max: WAIT_SECONDS_MAX })
      if (!wait.ok) return wait
      const found = await waiters.settled(id, wait.value * 1000, call.whenGone)
      return found === undefined ? notFound('request', id) : { ok: true, value: requestView(ports, found) }
    },
  }
}

type Steering =
  | 'approve'
  | 'reject'
  | 'pause'
  | 'resume'
  | 'cancel'
  | 'retry'
  | 'skip'
  | 'resolve'
  | 'freeze'
  | 'unfreeze'

function steering({ command }: Hand): Pick<Handlers, Steering> {
  const changeOf = (call: Pick<Call, 'params'>) => call.params['change'] ?? ''
  return {
    approve: (call) =>
      command(call, {
        type: 'decide',
        change: changeOf(call),
        decision: 'approve',
        digest: call.body.digest,
        reason: call.body.reason ?? '',
      }),
    reject: (call) =>
      command(call, {
        type: 'decide',
        change: changeOf(call),
        decision: 'reject',
        digest: null,
        reason: call.body.reason ?? '',
      }),
    pause: (call) => command(call, { type: 'pause', change: changeOf(call), reason: call.body.reason ?? '' }),
    resume: (call) => command(call, { type: 'resume', change: changeOf(call), reason: call.body.reason ?? '' }),
    cancel: (call) => command(call, { type: 'cancel', change: changeOf(call), reason: call.body.reason ?? '' }),
    retry: (call) =>
      command(call, {
        type: 'retry',
        change: changeOf(call),
        machine: call.body.machine,
        reason: call.body.reason ?? '',
      }),
    skip: (call) =>
      command(call, { type: 'skip', change: changeOf(call), machine: call.body.machine, reason: call.body.reason }),
    resolve: (call) =>
      command(call, {
        type: 'resolve',
        change: changeOf(call),
        machine: call.body.machine,
        as: call.body.as,
        reason: call.body.reason,
      }),
    freeze: (call) => command(call, { type: 'freeze', reason: call.body.reason ?? '' }),
    unfreeze: (call) => command(call, { type: 'unfreeze', reason: call.body.reason ?? '' }),
  }
}

type Reading =
  | 'who'
  | 'projects'
  | 'project'
  | 'plan'
  | 'projectOrders'
  | 'machines'
  | 'missing'
  | 'machineOrders'
  | 'log'

function reading(ports: ApiPorts, port: () => number | null): Pick<Handlers, Reading> {
  const { driver } = ports
  const project = <Value>(change: string, make: (found: Project) => Value): Answer<Value> => {
    const found = findProject(ports, change)
    return found === undefined ? notFound('project', change) : { ok: true, value: make(found) }
  }
  return {
    who: ({ actor }) => ({ ok: true, value: whoIs(ports, actor, port()) }),
    projects: ({ query }) => {
      const limit = numberOf(query, 'limit', { fallback: PROJECTS_PAGE, min: 1, max: PROJECTS_PAGE_MAX })
      if (!limit.ok) return limit
      const before = numberOf(query, 'before', { fallback: 0, min: 0, max: NUMBER_MAX })
      if (!before.ok) return before
      return {
        ok: true,
        value: projectList(ports, { limit: limit.value, ...(before.value === 0 ? {} : { before: before.value }) }),
      }
    },
    project: ({ params }) => {
      const change = params['change'] ?? ''
      const status = ports.views.status(change)
      if (status === undefined) return notFound('project', change)
      return { ok: true, value: { status, text: ports.views.statusText(status), rev: driver.rev() } }
    },
    plan: async ({ params }) => {
      const found = findProject(ports, params['change'] ?? '')
      return found === undefined
        ? notFound('project', params['change'] ?? '')
        : { ok: true, value: await planView(ports, found) }
    },
    projectOrders: ({ params }) =>
      project(params['change'] ?? '', (found) => ({ orders: orderViews(ports, { project: found.id }) })),
    machines: ({ query }) => {
      const { pattern } = query
      if (pattern === undefined || pattern === '')
        return { ok: true, value: { machines: machineViews(ports, activeMachines(driver.view)) } }
      const found = findMachines(driver.view, pattern, ports.tools)
      return found.refusals.length > 0
        ? { ok: false, refusals: found.refusals }
        : { ok: true, value: { machines: machineViews(ports, found.machines) } }
    },
    missing: () =>
      ports.missing?.() ?? { ok: true, value: { source: null, at: driver.now(), notEnrolled: [], notKnown: [] } },
    machineOrders: ({ params }) => {
      const name = params['machine'] ?? ''
      const machine = findMachine(ports, name)
      return machine === undefined
        ? notFound('machine', name)
        : { ok: true, value: { orders: orderViews(ports, { machine: machine.id }) } }
    },
    log: ({ params, query }) => {
      const id = params['order'] ?? ''
      const after = numberOf(query, 'after', { fallback: 0, min: 0, max: NUMBER_MAX })
      if (!after.ok) return after
      const limit = numberOf(query, 'limit', { fallback: LOG_PAGE_MAX, min: 1, max: LOG_PAGE_MAX })
      if (!limit.ok) return limit
      const order = findOrder(ports, id)
      return order === undefined
        ? notFound('order', id)
        : { ok: true, value: logPage(ports, order, { after: after.value, limit: limit.value }) }
    },
  }
}
