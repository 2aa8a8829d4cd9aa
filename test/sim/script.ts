/** What a simulated world plays when it is told what happens, instead of what its seed would choose. */
import type { Faults } from './faults.ts'
import type { Coordinator } from './coordinator.ts'
import type { Host } from './host.ts'
import type { Ledger } from './ledger.ts'
import type { Machine } from './machine.ts'
import type { Network } from './network.ts'
import type { Repository } from './repository.ts'
import type { Time } from './time.ts'

/** What of its world a script sees and touches. */
export type Stage = {
  readonly time: Time
  readonly faults: Faults
  readonly ledger: Ledger
  readonly machines: ReadonlyMap<string, Machine>
  readonly coordinator: Coordinator
  readonly network: Network
  readonly repository: Repository
}
export type Script = {
  /** The names of the machines that are enrolled. */
  readonly machines: readonly string[]
  /** Once, when the machines are enrolled and before they boot. */
  readonly begin: (stage: Stage) => void
  /** Asked after each event. */
  readonly isOver: () => boolean
  /** What each side puts on the wire. */
  readonly said?: (machine: Host, side: 'agent' | 'coordinator', text: string) => void
}
