/** The machines of a project in their order, each with what is planned for it. Pure; read from the state at hand. */
import type { View } from '../../domain/draft.ts'
import { bagOf, targetsOf } from '../../domain/targets.ts'
import type { Planned } from './texts.ts'

export function plannedOf(view: View, id: string): Planned[] {
  const project = view.get('projects', id)
  if (project === undefined) return []
  return targetsOf(view, project).map((target) => {
    const { name, phase } = bagOf(view, id, target.bag)
    const plan = view.archived('plans', target.planHash)?.plan ?? null
    return { name: target.name, phase, bag: name, plan, note: target.reason }
  })
}
