/** What a request would do, before or without a project: its machines in their order, with their bags and plans. */
import { type PlanView } from '../../protocol/http.ts'
import { digestText } from '../../protocol/plan.ts'
import type { View } from './draft.ts'
import type { Tools } from './events.ts'
import { clusterOf } from './selection.ts'
import type { Query, Request } from './state.ts'

/** Undefined while a machine has not answered. The digest is that of the change which would be raised. */
export function previewOf(view: View, request: Request, queries: readonly Query[], tools: Tools): PlanView | undefined {
  const planned = queries.filter((query) => query.planHash !== null).toSorted((a, b) => a.index - b.index)
  const byCluster = new Map<string, Query[]>()
  for (const query of planned) {
    const machine = view.get('machines', query.machine)
    const cluster = machine === undefined ? query.name : clusterOf(machine, tools)
    byCluster.set(cluster, [...(byCluster.get(cluster) ?? []), query])
  }
  const machines: PlanView['machines'] = []
  for (const [cluster, members] of byCluster) {
    for (const query of members) {
      const stored = query.planHash === null ? undefined : view.archived('plans', query.planHash)
      if (stored === undefined) return undefined
      const bag = members.length === 1 ? query.name : cluster
      machines.push({ name: query.name, phase: 0, bag, planHash: stored.hash, plan: stored.plan, evidence: stored.evidence, warnings: [...query.warnings] })
    }
  }
  const ordered = machines.map((entry) => ({ machine: planned.find((query) => query.name === entry.name)?.machine ?? '', planHash: entry.planHash }))
  return {
    digest: tools.sha256(digestText(ordered)),
    build: request.build,
    region: request.region,
    machines,
    skipped: request.skipped.map(({ name, reason }) => ({ name, reason })),
  }
}
