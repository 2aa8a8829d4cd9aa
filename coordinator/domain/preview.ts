/** What a request would do, before or without a project: its machines in their order, with their bags and plans. */
import { type PlanView } from '../../protocol/http.ts'
import { digestText } from '../../protocol/plan.ts'
import type { View } from './draft.ts'
import type { Tools } from './events.ts'
import { bagsIn } from './bags.ts'
import { termsOf } from './pace.ts'
import { clusterOf } from './selection.ts'
import type { Query, Request } from './state.ts'

/** Undefined while a machine has not answered. The digest is that of the change which would be raised. */
export function previewOf(view: View, request: Request, queries: readonly Query[], tools: Tools): PlanView | undefined {
  const isSkipped = new Set(request.skipped.map((skip) => skip.machine))
  const planned = queries.filter((query) => query.planHash !== null && !isSkipped.has(query.machine))
  // Skipped machines have a place in the order too, and count in their bag, as in planning.ts.
  const places = [
    ...request.skipped.map((skip) => ({ ...skip, query: null })),
    ...planned.map((query) => ({ ...query, query })),
  ].toSorted((a, b) => a.index - b.index)
  const bags = bagsIn(
    places.map(({ name, machine: id, query }) => {
      const cluster = clusterOf(view.get('machines', id) ?? { name }, tools)
      return { name, cluster, query, isSkipped: query === null }
    }),
    request.options.phases,
  )
  const machines: PlanView['machines'] = []
  for (const bag of bags) {
    for (const { query } of bag.places) {
      if (query === null) continue
      const stored = query.planHash === null ? undefined : view.archived('plans', query.planHash)
      if (stored === undefined) return undefined
      machines.push({
        name: query.name,
        phase: bag.phase,
        bag: bag.name,
        planHash: stored.hash,
        plan: stored.plan,
        evidence: stored.evidence,
        warnings: [...query.warnings],
      })
    }
  }
  const ordered = machines.map((entry) => ({
    machine: planned.find((query) => query.name === entry.name)?.machine ?? '',
    planHash: entry.planHash,
  }))
  return {
    digest: tools.sha256(digestText(ordered)),
    build: request.build,
    region: request.region,
    machines,
    skipped: request.skipped.map(({ name, reason }) => ({ name, reason })),
    terms: termsOf(request.options, tools.calendar),
  }
}
