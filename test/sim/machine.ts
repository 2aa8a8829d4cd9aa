/**
 * A simulated machine, as a model of the agent and the runner: what is on its disk survives every crash, what is in
 * memory does not; apt takes time, fails, hangs, or is cut off by a power cut. It tells the ledger what it really
 * did, and the checkers judge by that.
 */
import type { AgentFrame, CoordinatorFrame, OrderInHand } from '../../protocol/agent.ts'
import type { GrantPayload, Result, RunRecord, Step } from '../../protocol/files.ts'
import type { Plan } from '../../protocol/plan.ts'
import type { Ledger } from './ledger.ts'
import type { Dice } from './random.ts'
import type { Time } from './time.ts'

const MACHINE_BUGS = ['run-twice', 'claim-twice', 'record-repeated'] as const
export type MachineBug = (typeof MACHINE_BUGS)[number] | null
export function isMachineBug(bug: string | null): bug is MachineBug {
  return MACHINE_BUGS.some((one) => one === bug)
}

/** One order on the machine's disk. `fate` is one file that says claim or void, never both. */
type OnDisk = {
  readonly grant: GrantPayload | null
  fate: 'claim' | 'void' | null
  latched: boolean
  /** The boot in which apt was started: as long as it lasts, apt holds its lock until it has left `exit`. */
  aptBoot: string | null
  /** What apt left: null while it has not ended, or when a power cut took it. */
  exit: 'done' | 'script-failed' | null
  readonly records: RunRecord[]
  forgotten: boolean
  refused: boolean
}

export type Machine = {
  readonly id: string
  readonly name: string
  /** A connection is up: the agent may send through `send`. */
  readonly connected: (send: (frame: AgentFrame) => void) => void
  readonly disconnected: () => void
  readonly receive: (frame: CoordinatorFrame | { t: 'grantPayload'; grant: GrantPayload; plan: Plan }) => void
  readonly isUp: () => boolean
  readonly killAgent: () => void
  readonly killRunner: () => void
  readonly pullPlug: () => void
  readonly startAgent: () => void
  /** Everything is up again and nothing fails any more. */
  readonly heal: () => void
  readonly hello: () => Extract<AgentFrame, { t: 'hello' }>
  readonly nextCounter: () => number
  readonly recordsOf: (order: string) => readonly RunRecord[]
  readonly setPlan: (plan: Plan) => void
}

export type MachinePorts = {
  readonly id: string
  readonly name: string
  readonly time: Time
  readonly dice: Dice
  readonly ledger: Ledger
  readonly plan: Plan
  readonly failRate: number
  readonly bug: MachineBug
}

/** A line before this one's, with this one's number. */
function repeated(record: RunRecord, before: RunRecord | undefined): RunRecord {
  return record.type === 'line' && before?.type === 'line' ? { ...before, n: record.n } : record
}

const STEPS_BEFORE: readonly Step[] = ['claim', 'update', 'replan', 'fetch', 'pre-checks', 'latch']
const RESEND_MS = 2000
const RECORDS_PER_FRAME = 8

export function createMachine(ports: MachinePorts): Machine {
  const { time, dice, ledger } = ports
  const disk = new Map<string, OnDisk>()
  let counter = 0
  let fence = 0
  let bootId = dice.hex(32)
  let plan = ports.plan
  let up = true
  let healed = false
  let send: ((frame: AgentFrame) => void) | null = null
  let acked = new Map<string, number>()
  let runnerLife = 0
  let isRunning = false
  let agentLife = 0

  const record = (entry: OnDisk, fields: Record<string, unknown>) => {
    entry.records.push({ n: entry.records.length + 1, at: time.now(), ...fields } as RunRecord)
  }
  const inHand = (): OrderInHand[] =>
    [...disk].filter(([, entry]) => !entry.forgotten).map(([order, entry]) => ({
      order,
      fence: entry.grant?.fence ?? 0,
      evidence: entry.refused ? 'refused' : entry.records.at(-1)?.type === 'result' ? (entry.fate === 'void' ? 'void' : 'ended') : entry.latched ? 'latched' : entry.fate === 'claim' ? 'claimed' : 'inbox',
      upTo: entry.records.length,
    }))

  /** The agent ships what is on disk, a frame at a time, and again when no acknowledgement came. */
  const ship = () => {
    if (send === null || !up) return
    for (const [order, entry] of disk) {
      if (entry.forgotten) continue
      const from = acked.get(order) ?? 0
      const records = entry.records.slice(from, from + RECORDS_PER_FRAME)
      if (records.length > 0) send({ t: 'records', order, records: ports.bug === 'record-repeated' ? records.map((one, index) => repeated(one, records[index - 1])) : records })
    }
  }
  const shipLater = () => {
    const life = agentLife
    time.after(RESEND_MS, () => {
      if (life !== agentLife || send === null) return
      ship()
      shipLater()
    })
  }

  const result = (entry: OnDisk, fields: Partial<Result>) => {
    record(entry, {
      type: 'result', outcome: 'succeeded', cause: null, step: 'verify', message: 'patched', evidence: [], advice: [], latched: entry.latched,
      rebootPending: false, installed: [], outputBytes: 0, outputSha256: '0'.repeat(64), ...fields,
    })
    if (entry.grant !== null) ledger.runEnded({ order: entry.grant.order, outcome: fields.outcome ?? 'succeeded', latched: entry.latched })
    ship()
  }

  /** Takes the next order that wants something done, if the runner is free. The runner works one at a time. */
  const wakeRunner = () => {
    if (isRunning || !up) return
    for (const [order, entry] of disk) {
      if (entry.grant === null || entry.refused || entry.fate === 'void' || entry.records.at(-1)?.type === 'result') continue
      if (entry.fate === null || (ports.bug === 'claim-twice' && !entry.latched)) {
        if (time.now() > entry.grant.startBy || (entry.grant.fence <= fence && ports.bug !== 'claim-twice')) {
          entry.refused = true
          continue
        }
        entry.fate = 'claim'
        fence = entry.grant.fence
        ledger.claimed(entry.grant)
      }
      isRunning = true
      run(order, entry)
      return
    }
  }

  const run = (order: string, entry: OnDisk) => {
    const life = runnerLife
    const later = (callback: () => void) => {
      time.after(dice.between(50, 4000), () => {
        if (life === runnerLife && up) callback()
      })
    }
    const finish = (fields: Partial<Result>) => {
      result(entry, fields)
      isRunning = false
      wakeRunner()
    }
    const before = (index: number) => {
      const step = STEPS_BEFORE[index]
      if (step === undefined) {
        install()
        return
      }
      record(entry, { type: 'step', step })
      ship()
      if (index === 3 && !healed && dice.chance(ports.failRate / 2)) later(() => finish({ outcome: 'failed', cause: 'fetch', message: 'the archive is out of reach' }))
      else later(() => before(index + 1))
    }
    const install = () => {
      entry.latched = true
      entry.aptBoot = bootId
      ledger.aptStarted({ order, planHash: entry.grant?.planHash ?? '' })
      record(entry, { type: 'step', step: 'install' })
      const lines = dice.between(1, 12)
      for (let line = 0; line < lines; line += 1) record(entry, { type: 'line', step: 'install', offset: line * 10, text: `line ${line}\n` })
      ship()
      const failed = !healed && dice.chance(ports.failRate)
      // apt itself goes on when the runner dies; only a power cut ends it.
      const boot = bootId
      time.after(dice.between(200, 20_000), () => {
        if (boot !== bootId) return
        entry.exit = failed ? 'script-failed' : 'done'
        if (life === runnerLife && up) settle()
      })
    }
    const settle = () => {
      if (entry.exit === 'done') finish({})
      else if (entry.exit === 'script-failed') finish({ outcome: 'failed', cause: 'maintainer-script', message: 'the script of a package failed' })
      else if (healed || dice.chance(0.5)) finish({ outcome: 'failed', cause: 'dpkg-interrupted', message: 'the power was cut in the middle' })
      else finish({ outcome: 'unknown', cause: 'internal', message: 'the evidence was lost' })
    }
    if (entry.latched && ports.bug !== 'run-twice') {
      const watch = () => {
        // After a boot nobody runs any more; before, apt's lock tells that it still does.
        if (entry.exit !== null || entry.aptBoot !== bootId) settle()
        else later(watch)
      }
      watch()
    } else before(0)
  }

  const receive: Machine['receive'] = (frame) => {
    if (!up || send === null) return
    const reply = send
    switch (frame.t) {
      case 'plan': {
        const life = agentLife
        time.after(dice.between(10, 3000), () => {
          if (life !== agentLife || send === null) return
          send({ t: 'planned', query: frame.query, plan, evidence: { releases: [], downloadBytes: 1, installedBytesDelta: 1, madeAt: time.now() }, warnings: [] })
        })
        return
      }
      case 'grantPayload':
        if (!disk.has(frame.grant.order)) disk.set(frame.grant.order, { grant: frame.grant, fate: null, latched: false, aptBoot: null, exit: null, records: [], forgotten: false, refused: false })
        reply({ t: 'granted', order: frame.grant.order, fence: frame.grant.fence })
        time.after(dice.between(1, 500), wakeRunner)
        return
      case 'revoke': {
        const entry: OnDisk = disk.get(frame.order) ?? { grant: null, fate: null, latched: false, aptBoot: null, exit: null, records: [], forgotten: false, refused: false }
        disk.set(frame.order, entry)
        if (entry.fate === null || (entry.refused && entry.fate !== 'claim')) {
          entry.fate = 'void'
          entry.refused = false
          result(entry, { outcome: 'void', step: 'claim', message: 'called back before it began' })
        }
        return
      }
      case 'ack':
        acked.set(frame.order, frame.upTo)
        if (disk.get(frame.order)?.forgotten === false) ship()
        return
      case 'forget': {
        const entry = disk.get(frame.order)
        if (entry !== undefined && (acked.get(frame.order) ?? 0) >= entry.records.length) entry.forgotten = true
        return
      }
      default:
    }
  }

  const startAgent = () => {
    if (!up) {
      up = true
      bootId = dice.hex(32)
    }
    time.after(dice.between(1, 1000), wakeRunner)
  }
  return {
    id: ports.id,
    name: ports.name,
    isUp: () => up,
    connected: (through) => {
      send = through
      agentLife += 1
      acked = new Map()
      shipLater()
      ship()
    },
    disconnected: () => {
      send = null
      agentLife += 1
    },
    receive,
    killAgent: () => {
      agentLife += 1
      acked = new Map()
      send = null
    },
    killRunner: () => {
      runnerLife += 1
      isRunning = false
      time.after(dice.between(100, 3000), wakeRunner)
    },
    pullPlug: () => {
      up = false
      agentLife += 1
      runnerLife += 1
      isRunning = false
      send = null
      bootId = dice.hex(32)
    },
    startAgent,
    heal: () => {
      healed = true
      if (!up) startAgent()
      if (!isRunning) wakeRunner()
    },
    hello: () => ({
      t: 'hello', name: ports.name, bootId, incarnation: dice.hex(32), fence, at: time.now(), builds: ['prod'], template: true, impediment: null, orders: inHand(),
      facts: { agentVersion: 'sim', os: 'sim', arch: 'amd64', kernel: 'sim', apt: 'sim', cluster: null, region: null, rebootPending: false },
    }),
    nextCounter: () => (counter += 1),
    recordsOf: (order) => disk.get(order)?.records ?? [],
    setPlan: (next) => (plan = next),
  }
}
