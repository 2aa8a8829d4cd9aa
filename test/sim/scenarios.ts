/**
 * The golden scenarios: short histories of one or two projects in which nothing fails but what they name. Each is
 * played whole as a transcript, and again with every actor ended at every call that it makes.
 */
import { PLAIN_TERMS } from './terms.ts'
import type { Command } from '../../coordinator/domain/events.ts'
import type { Project } from '../../coordinator/domain/state.ts'
import type { Plot, Step } from './director.ts'
import type { Stage } from './script.ts'

export type Scenario = {
  /** Chooses delays, and whether the runner of a machine is a unit's or detached. */
  readonly seed: number
  readonly machines: readonly string[]
  /** Before the machines boot. */
  readonly setUp?: (stage: Stage) => void
  /** After each event. */
  readonly tend?: (stage: Stage) => void
  /** One for each project. */
  readonly plots: readonly Plot[]
}

const CARRIER = 'prod-dal10-carrier1-worker'
const [ONE, TWO, THREE] = [`${CARRIER}-1`, `${CARRIER}-2`, `${CARRIER}-3`]

const change = ({ change: number }: Project): string => number ?? ''
type When = Step['when']
// It may have ended between two looks.
const granted: When = ({ orders }) => orders.some(({ state }) => state !== 'offered')
const running: When = ({ orders }) => orders.some(({ state }) => state !== 'offered' && state !== 'granted')
const asked = (name: string, when: When, command: (project: Project) => Command): Step => ({
  name,
  when,
  act: (_stage, project) => command(project),
})
const happens = (name: string, when: When, act: (stage: Stage, project: Project) => void): Step => ({
  name,
  when,
  act: (stage, project) => {
    act(stage, project)
    return null
  },
})

const plain = (request: string, ...steps: readonly Step[]): Plot => ({ request, steps, end: 'complete' })

/** What a fault of apt is while nothing has ended yet and a package is being unpacked. */
function onFirstTry(stage: Stage): 0 | 1 {
  const isUnpacking = [...stage.machines.values()].some((machine) =>
    [...machine.packages.values()].some((one) => one.state !== 'installed'),
  )
  return isUnpacking && stage.ledger.counts.ends === 0 ? 1 : 0
}

export const SCENARIOS = {
  'one machine': { seed: 1, machines: [ONE], plots: [plain(`prod machines: ${ONE} outage:0`)] },
  'two machines': { seed: 2, machines: [ONE, TWO], plots: [plain(`prod machines: ${ONE} ${TWO} outage:0`)] },
  reboot: {
    seed: 3,
    machines: [ONE, TWO],
    setUp: ({ repository, time }) => repository.publish(time.now(), true),
    plots: [plain(`prod machines: ${CARRIER}-* outage:15`)],
  },
  'failure and retry': {
    seed: 4,
    machines: [ONE, TWO],
    tend: (stage) => (stage.faults.aptFails = onFirstTry(stage)),
    plots: [plain(`prod machines: ${ONE} ${TWO} outage:0`)],
  },
  'killed apt': {
    seed: 5,
    machines: [ONE],
    tend: (stage) => (stage.faults.aptKilled = onFirstTry(stage)),
    plots: [plain(`prod machines: ${ONE} outage:0`)],
  },
  'pause and resume': {
    seed: 6,
    machines: [ONE, TWO],
    plots: [
      plain(
        `prod machines: ${ONE} ${TWO} outage:0`,
        asked('look at the first', running, (project) => ({ type: 'pause', change: change(project), reason: 'look' })),
      ),
    ],
  },
  cancel: {
    seed: 7,
    machines: [ONE, TWO, THREE],
    plots: [
      {
        request: `prod machines: ${ONE} ${TWO} ${THREE} outage:0`,
        steps: [asked('no more', running, (project) => ({ type: 'cancel', change: change(project), reason: 'no' }))],
        end: 'cancelled',
      },
    ],
  },
  'revoke before the claim': {
    seed: 8,
    machines: [ONE, TWO],
    plots: [
      {
        request: `prod machines: ${ONE} ${TWO} outage:0`,
        steps: [asked('not yet', granted, (project) => ({ type: 'cancel', change: change(project), reason: 'no' }))],
        end: 'cancelled',
        lookMs: 20,
      },
    ],
  },
  'withdrawn approval': {
    seed: 9,
    machines: [ONE, TWO],
    plots: [
      plain(
        `prod machines: ${ONE} ${TWO} outage:0`,
        asked('not now', running, (project) => ({
          type: 'decide',
          change: change(project),
          decision: 'reject',
          digest: null,
          reason: 'not now',
        })),
      ),
    ],
  },
  'phases with soak': {
    seed: 10,
    machines: [ONE, TWO, THREE],
    plots: [
      {
        ...plain(`prod machines: ${CARRIER}-* outage:0 phases:1,100% soak:2`),
        terms: { ...PLAIN_TERMS, phases: ['1', '100%'], soakMinutes: 2 },
      },
    ],
  },
  'interrupted dpkg': {
    seed: 11,
    machines: [ONE],
    setUp: ({ machines }) => {
      for (const machine of machines.values()) {
        machine.setPackage('app', '700.0', 'half-configured')
        machine.disk.syncAll()
      }
    },
    plots: [plain(`prod machines: ${ONE} outage:0`)],
  },
  'connection cut': {
    seed: 12,
    machines: [ONE, TWO],
    plots: [
      plain(
        `prod machines: ${ONE} ${TWO} outage:0`,
        happens('the connection of the machine at work is cut', running, ({ network, machines, ledger }) => {
          for (const machine of machines.values()) if (ledger.orderAtWork(machine) !== null) network.cut(machine)
        }),
      ),
    ],
  },
  'two projects of one cluster': {
    seed: 13,
    machines: [ONE, TWO],
    plots: [plain(`prod machines: ${ONE} outage:0`), plain(`prod machines: ${TWO} outage:0`)],
  },
} satisfies Record<string, Scenario>
export type ScenarioName = keyof typeof SCENARIOS
