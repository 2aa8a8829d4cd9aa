/**
 * What is shown, made from the driver's view and, for what has ended, from the store. Read-only; called by the
 * handlers. Nothing is counted or guessed here that the core does not say.
 */
import type { LogPage, MachineView, OrderView, PlanView, ProjectList, RequestView } from '../../protocol/http.ts'
import { compareNaturally } from '../../protocol/natural-order.ts'
import { requestQueryPrefix } from '../domain/planning.ts'
import { instanceOf } from '../domain/draft.ts'
import { clusterOf, regionOfMachine } from '../domain/selection.ts'
import type { Bag, Machine, Order, Project, Request, Target } from '../domain/state.ts'
import { projectState } from '../domain/status.ts'
import type { ApiPorts } from './ports.ts'

export function findProject(ports: ApiPorts, change: string): Project | undefined {
  const { view } = ports.driver
  const entry = view.get('changes', change) ?? ports.store.get('changes', change)
  return entry === undefined ? undefined : (view.get('projects', entry.project) ?? ports.store.get('projects', entry.project))
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
    refusals: request.refusals.map((refusal) => ({ ...refusal, position: refusal.position === undefined ? undefined : { ...refusal.position } })) as RequestView['refusals'],
    change: request.change,
    plan: showsPlan ? (ports.views.previewPlan?.(request) ?? null) : null,
  }
}

export function projectList(ports: ApiPorts, query: { readonly limit: number; readonly before?: number }): ProjectList {
  const { driver, store } = ports
  const stored = store.projects(query)
  const { frozen } = instanceOf(driver.view)
  return {
    instance: ports.instance,
    frozen: frozen === null ? null : { ...frozen },
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

export function bagsOf(ports: ApiPorts, project: Project): readonly Bag[] {
  return ports.store.list('bags', `${project.id}/`)
}

export function targetsOf(ports: ApiPorts, project: Project): readonly Target[] {
  return ports.store.list('targets', `${project.id}/`)
}

export function planView(ports: ApiPorts, project: Project): PlanView {
  const bags = bagsOf(ports, project)
  const targets = targetsOf(ports, project)
  const warnings = new Map(ports.store.list('queries', requestQueryPrefix(project.request)).map((query) => [query.machine, query.warnings]))
  return {
    digest: project.digest,
    build: project.build,
    region: project.region,
    machines: targets.flatMap((target) => {
      const stored = target.planHash === '' ? undefined : ports.store.get('plans', target.planHash)
      if (stored === undefined) return []
      const bag = bags[target.bag]
      return [
        {
          name: target.name,
          phase: bag?.phase ?? 0,
          bag: bag?.name ?? target.name,
          planHash: stored.hash,
          plan: stored.plan,
          evidence: stored.evidence,
          warnings: [...(warnings.get(target.machine) ?? [])],
        },
      ]
    }),
    skipped: targets.filter((target) => target.planHash === '').map((target) => ({ name: target.name, reason: target.reason ?? '' })),
  }
}

export function orderViews(ports: ApiPorts, query: { readonly machine: string } | { readonly project: string }): OrderView[] {
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
  return (ports.driver.view.get('projects', order.project) ?? ports.store.get('projects', order.project))?.change ?? null
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
        impediment: session?.impediment == null ? null : ({ ...session.impediment } as MachineView['impediment']),
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

export function logPage(ports: ApiPorts, order: Order, query: { readonly after: number; readonly limit: number }): LogPage {
  const records = ports.store.records({ order: order.id, after: query.after, limit: query.limit })
  return { order: order.id, upTo: order.upTo, ended: order.endedAt !== null, records: [...records] }
}
