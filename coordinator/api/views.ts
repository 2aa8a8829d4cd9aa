/**
 * What is shown, made from the driver's view and, for what has ended, from the store. Read-only; called by the
 * handlers. Nothing is counted or guessed here that the core does not say.
 */
import { setImmediate } from 'node:timers/promises'
import type { RunRecord } from '../../protocol/files.ts'
import type { LogPage, MachineView, OrderView, PlanView, ProjectList, RequestView } from '../../protocol/http.ts'
import { compareNaturally } from '../../protocol/natural-order.ts'
import { termsOf } from '../domain/pace.ts'
import { requestQueryPrefix } from '../domain/planning.ts'
import { instanceOf } from '../domain/draft.ts'
import { clusterOf, machineNamed, regionOfMachine } from '../domain/selection.ts'
import type { Bag, Machine, Order, Project, Request, Target } from '../domain/state.ts'
import { projectState } from '../domain/status.ts'
import type { ApiPorts } from './ports.ts'

export function findProject(ports: ApiPorts, change: string): Project | undefined {
  const { view } = ports.driver
  const entry = view.get('changes', change) ?? ports.store.get('changes', change)
  return entry === undefined
    ? undefined
    : (view.get('projects', entry.project) ?? ports.store.get('projects', entry.project))
}

/** By name the machine that bears it now; by id also one that was retired. */
export function findMachine(ports: ApiPorts, nameOrId: string): Machine | undefined {
  return (
    machineNamed(ports.driver.view, nameOrId) ??
    ports.driver.view.get('machines', nameOrId) ??
    ports.store.get('machines', nameOrId)
  )
}

export function findRequest(ports: ApiPorts, id: string): Request | undefined {
  return ports.driver.view.get('requests', id) ?? ports.store.get('requests', id)
}

export function requestView(ports: ApiPorts, request: Request): RequestView {
  const showsPlan = request.state === 'previewed' || request.state === 'raised'
  return {
    request: request.id,
    state: request.state,
    text: request.text,
    by: request.by,
    at: request.at,
    planned: request.answered,
    total: request.total,
    refusals: request.refusals.map((refusal) => ({
      ...refusal,
      position: refusal.position === undefined ? undefined : { ...refusal.position },
    })),
    change: request.change,
    plan: showsPlan ? (ports.views.previewPlan?.(request) ?? null) : null,
  }
}

export function projectList(ports: ApiPorts, query: { readonly limit: number; readonly before?: number }): ProjectList {
  const { driver, store } = ports
  const stored = pageOf(store, query)
  const { frozen } = instanceOf(driver.view)
  return {
    instance: ports.instance,
    frozen: frozen === null ? null : { ...frozen },
    ...(ports.troubles === undefined ? {} : { troubles: [...ports.troubles()] }),
    projects: stored.map((row) => {
      const project = driver.view.get('projects', row.id) ?? row
      return {
        change: project.change,
        state: projectState(project),
        title: project.title,
        build: project.build,
        region: project.region,
        requester: project.requester,
        createdAt: project.createdAt,
        totals: { ...project.counts },
        stop: project.state === 'closed' ? null : (project.stop?.reason ?? null),
      }
    }),
  }
}

/** How many projects may be made in one millisecond. */
const TIES_MAX = 64

/** The next page begins after an instant, so those of one instant stand on one page, which may be a little longer. */
function pageOf(
  store: ApiPorts['store'],
  query: { readonly limit: number; readonly before?: number },
): readonly Project[] {
  const rows = store.projects({ ...query, limit: query.limit + TIES_MAX })
  const last = rows[query.limit - 1]?.createdAt
  return rows.filter((row, index) => index < query.limit || row.createdAt === last)
}

export function bagsOf(ports: ApiPorts, project: Project): readonly Bag[] {
  return ports.store.list('bags', `${project.id}/`)
}

export function targetsOf(ports: ApiPorts, project: Project): readonly Target[] {
  return ports.store.list('targets', `${project.id}/`)
}

/** How many plans are read before others have their turn. */
const PLANS_AT_ONCE = 50

export async function planView(ports: ApiPorts, project: Project): Promise<PlanView> {
  const bags = bagsOf(ports, project)
  const targets = targetsOf(ports, project)
  const warnings = new Map(
    ports.store.list('queries', requestQueryPrefix(project.request)).map((query) => [query.machine, query.warnings]),
  )
  const elsewhere = project.change === null ? undefined : ports.views.status(project.change)?.elsewhere
  const machines: PlanView['machines'] = []
  for (const [index, target] of targets.entries()) {
    if (index % PLANS_AT_ONCE === PLANS_AT_ONCE - 1) await setImmediate()
    const stored = target.planHash === '' ? undefined : ports.store.get('plans', target.planHash)
    if (stored === undefined) continue
    const bag = bags[target.bag]
    machines.push({
      name: target.name,
      phase: bag?.phase ?? 0,
      bag: bag?.name ?? target.name,
      planHash: stored.hash,
      plan: stored.plan,
      evidence: stored.evidence,
      warnings: [...(warnings.get(target.machine) ?? [])],
    })
  }
  return {
    ...(elsewhere === undefined ? {} : { decideAt: elsewhere.link }),
    digest: project.digest,
    build: project.build,
    region: project.region,
    machines,
    skipped: targets
      .filter((target) => target.planHash === '')
      .map((target) => ({ name: target.name, reason: target.reason ?? '' })),
    terms: termsOf(project.options, ports.tools.calendar),
  }
}

export function orderViews(
  ports: ApiPorts,
  query: { readonly machine: string } | { readonly project: string },
): OrderView[] {
  return ports.store
    .orders(query)
    .filter((order) => order.fence > 0)
    .map((order) => ({
      order: order.id,
      change: changeOf(ports, order),
      machine: order.name,
      attempt: order.attempt,
      state: order.state,
      upTo: order.upTo,
      grantedAt: order.grantedAt,
      endedAt: order.endedAt,
    }))
}

function changeOf(ports: ApiPorts, order: Order): string | null {
  return (
    (ports.driver.view.get('projects', order.project) ?? ports.store.get('projects', order.project))?.change ?? null
  )
}

export function machineViews(ports: ApiPorts, machines: readonly Machine[]): MachineView[] {
  const { view } = ports.driver
  const tools = ports.tools
  return machines
    .toSorted((a, b) => compareNaturally(a.name, b.name))
    .map((machine) => {
      const session = view.get('sessions', machine.id)
      return {
        id: machine.id,
        name: machine.name,
        online: session !== undefined,
        since: session?.since ?? machine.lastSeenAt,
        address: session?.address ?? null,
        cluster: clusterOf(machine, tools),
        region: regionOfMachine(machine, tools),
        facts: machine.facts,
        builds: [...machine.builds],
        template: machine.template,
        impediment: session?.impediment == null ? null : { ...session.impediment },
        quarantined: machine.quarantined,
        project: machine.project === null ? null : (view.get('projects', machine.project)?.change ?? null),
        lastPatchedAt: machine.lastPatchedAt,
        rebootPending: machine.rebootPending,
      }
    })
}

export function findOrder(ports: ApiPorts, id: string): Order | undefined {
  return ports.driver.view.get('orders', id) ?? ports.store.get('orders', id)
}

/** A page ends at its bound of bytes too; it has at least one record when there is one. */
export function logPage(
  ports: ApiPorts,
  order: Order,
  query: { readonly after: number; readonly limit: number },
): LogPage {
  const stored = ports.store.records({ order: order.id, after: query.after, limit: query.limit })
  const records: LogPage['records'] = []
  let bytes = 0
  for (const record of stored) {
    bytes += sizeOf(record)
    if (bytes > LOG_PAGE_BYTES_MAX && records.length > 0) break
    records.push(record)
  }
  return { order: order.id, upTo: order.upTo, ended: order.endedAt !== null, records }
}

const LOG_PAGE_BYTES_MAX = 1_048_576

function sizeOf(record: RunRecord): number {
  return record.type === 'line'
    ? 'text' in record
      ? record.text.length
      : record.base64.length
    : record.type === 'result'
      ? JSON.stringify(record).length
      : 200
}
