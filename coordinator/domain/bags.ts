/**
 * The order of a project: machines grouped by cluster, clusters in the order of their first mention, machines inside
 * one in the order asked; then cut into phases, and a phase's machines of one cluster are a bag. Called for the
 * preview and for the project, so that the order shown is the order kept.
 */
import { phaseEnds } from './pace.ts'
import type { Share } from './state.ts'

export type Bagged<Place> = {
  readonly phase: number
  /** The one machine's name, or the cluster's. */
  readonly name: string
  readonly places: readonly Place[]
}

/** Machines that are skipped keep their place, and count for no phase: they show nothing. */
export function bagsIn<Place extends { readonly name: string; readonly cluster: string; readonly isSkipped: boolean }>(
  places: readonly Place[],
  phases: readonly Share[],
): Bagged<Place>[] {
  const byCluster = Map.groupBy(places, (place) => place.cluster)
  const ends = phaseEnds(phases, places.filter((place) => !place.isSkipped).length)
  const bags: { phase: number; cluster: string; places: Place[] }[] = []
  let phase = 0
  let through = 0
  for (const place of [...byCluster.values()].flat()) {
    if (!place.isSkipped) {
      if (through >= (ends[phase] ?? Number.POSITIVE_INFINITY)) phase += 1
      through += 1
    }
    const last = bags.at(-1)
    if (last?.phase === phase && last.cluster === place.cluster) last.places.push(place)
    else bags.push({ phase, cluster: place.cluster, places: [place] })
  }
  return bags.map((bag) => ({
    phase: bag.phase,
    name: bag.places.length === 1 ? (bag.places[0]?.name ?? '') : bag.cluster,
    places: bag.places,
  }))
}
