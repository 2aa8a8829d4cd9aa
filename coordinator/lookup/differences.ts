/** What the source of machines and the enrolled machines have each for itself. Pure. */
import type { MissingView } from '../../protocol/http.ts'
import { compareNaturally } from '../../protocol/natural-order.ts'
import type { View } from '../domain/draft.ts'
import { enrolledAs } from '../domain/known-search.ts'
import type { Known } from '../domain/known.ts'
import { activeMachines } from '../domain/selection.ts'

export function differencesOf(view: View, known: Extract<Known, { machines: unknown }>): MissingView {
  const pairs = known.machines.map((one) => ({ one, machine: enrolledAs(view, one) }))
  const seen = new Set(pairs.map(({ machine }) => machine?.id))
  const notEnrolled = pairs
    .filter(({ one, machine }) => machine === undefined && one.barred === null)
    .map(({ one }) => ({ name: one.name ?? one.addresses[0] ?? one.id, addresses: [...one.addresses], id: one.id }))
    .toSorted((a, b) => compareNaturally(a.name, b.name))
  const notKnown = activeMachines(view)
    .filter((machine) => !seen.has(machine.id))
    .map((machine) => machine.name)
    .toSorted(compareNaturally)
  return { source: known.source, at: known.at, notEnrolled, notKnown }
}
