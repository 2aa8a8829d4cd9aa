/**
 * A simulated machine, as a model of the agent and the runner: what is on its disk survives every crash, what is in
 * memory does not; apt takes time, fails, hangs, or is cut off by a power cut. It tells the ledger what it really
 * did, and the checkers judge by that.
 */
import type { AgentFrame, CoordinatorFrame, OrderInHand } from '../../protocol/agent.ts'
import type { GrantPayload, OrderEvidence, Result, RunRecord, Step } from '../../protocol/files.ts'
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

type Down = CoordinatorFrame | { readonly t: 'grantPayload'; readonly grant: GrantPayload; readonly plan: Plan }

const STEPS_BEFORE: readonly Step[] = ['claim', 'update', 'replan', 'fetch', 'pre-checks', 'latch']
const RESEND_MS = 2000
const RECORDS_PER_FRAME = 8

function newEntry(grant: GrantPayload | null): OnDisk {
  return { grant, fate: null, latched: false, aptBoot: null, exit: null, records: [], forgotten: false, refused: false }
}

function hasResult(entry: OnDisk): boolean {
  return entry.records.at(-1)?.type === 'result'
}

function evidenceOf(entry: OnDisk): OrderEvidence {
  if (entry.refused) return 'refused'
  if (hasResult(entry)) return entry.fate === 'void' ? 'void' : 'ended'
  if (entry.latched) return 'latched'
  return entry.fate === 'claim' ? 'claimed' : 'inbox'
}

/** A line before this one's, with this one's number. */
function repeated(record: RunRecord, before: RunRecord | undefined): RunRecord {
  return record.type === 'line' && before?.type === 'line' ? { ...before, n: record.n } : record
}

/** Owns the disk of one machine and the lives of its agent and runner. */
export class Machine {
  readonly id: string
  readonly name: string
  readonly #ports: MachinePorts
  readonly #disk = new Map<string, OnDisk>()
  #counter = 0
  #fence = 0
  #bootId: string
  #plan: Plan
  #up = true
  #healed = false
  #send: ((frame: AgentFrame) => void) | null = null
  #acked = new Map<string, number>()
  #agentLife = 0
  #runnerLife = 0
  #isRunning = false

  constructor(ports: MachinePorts) {
    this.id = ports.id
    this.name = ports.name
    this.#ports = ports
    this.#plan = ports.plan
    this.#bootId = ports.dice.hex(32)
  }

  isUp(): boolean {
    return this.#up
  }

  setPlan(plan: Plan): void {
    this.#plan = plan
  }

  recordsOf(order: string): readonly RunRecord[] {
    return this.#disk.get(order)?.records ?? []
  }

  nextCounter(): number {
    this.#counter += 1
    return this.#counter
  }

  hello(): Extract<AgentFrame, { t: 'hello' }> {
    const { time, dice } = this.#ports
    const inHand = [...this.#disk].filter(([, entry]) => !entry.forgotten)
    const orders: OrderInHand[] = inHand.map(([order, entry]) => ({
      order,
      fence: entry.grant?.fence ?? 0,
      evidence: evidenceOf(entry),
      upTo: entry.records.length,
    }))
    const facts = { agentVersion: 'sim', os: 'sim', arch: 'amd64', kernel: 'sim', apt: 'sim' }
    return {
      t: 'hello',
      name: this.name,
      facts: { ...facts, cluster: null, region: null, rebootPending: false },
      bootId: this.#bootId,
      incarnation: dice.hex(32),
      fence: this.#fence,
      at: time.now(),
      builds: ['prod'],
      template: true,
      impediment: null,
      orders,
    }
  }

  connected(send: (frame: AgentFrame) => void): void {
    this.#send = send
    this.#agentLife += 1
    this.#acked = new Map()
    this.#shipLater()
    this.#ship()
  }

  disconnected(): void {
    this.#send = null
    this.#agentLife += 1
  }

  killAgent(): void {
    this.disconnected()
    this.#acked = new Map()
  }

  killRunner(): void {
    this.#runnerLife += 1
    this.#isRunning = false
    this.#ports.time.after(this.#ports.dice.between(100, 3000), () => this.#wakeRunner())
  }

  pullPlug(): void {
    this.killAgent()
    this.#up = false
    this.#runnerLife += 1
    this.#isRunning = false
    this.#bootId = this.#ports.dice.hex(32)
  }

  boot(): void {
    if (!this.#up) {
      this.#up = true
      this.#bootId = this.#ports.dice.hex(32)
    }
    this.#ports.time.after(this.#ports.dice.between(1, 1000), () => this.#wakeRunner())
  }

  /** Everything is up again and nothing fails any more. */
  heal(): void {
    this.#healed = true
    if (!this.#up) this.boot()
    this.#wakeRunner()
  }

  receive(frame: Down): void {
    if (!this.#up || this.#send === null) return
    switch (frame.t) {
      case 'plan':
        this.#answerPlan(frame.query)
        return
      case 'grantPayload':
        if (!this.#disk.has(frame.grant.order)) this.#disk.set(frame.grant.order, newEntry(frame.grant))
        this.#send({ t: 'granted', order: frame.grant.order, fence: frame.grant.fence })
        this.#ports.time.after(this.#ports.dice.between(1, 500), () => this.#wakeRunner())
        return
      case 'revoke':
        this.#revoke(frame.order)
        return
      case 'ack':
        this.#acked.set(frame.order, frame.upTo)
        if (this.#disk.get(frame.order)?.forgotten === false) this.#ship()
        return
      case 'forget': {
        const entry = this.#disk.get(frame.order)
        if (entry !== undefined && (this.#acked.get(frame.order) ?? 0) >= entry.records.length) entry.forgotten = true
        return
      }
      default:
    }
  }

  #answerPlan(query: string): void {
    const { time, dice } = this.#ports
    const life = this.#agentLife
    time.after(dice.between(10, 3000), () => {
      if (life !== this.#agentLife) return
      const evidence = { releases: [], downloadBytes: 1, installedBytesDelta: 1, madeAt: time.now() }
      this.#send?.({ t: 'planned', query, plan: this.#plan, evidence, warnings: [] })
    })
  }

  #revoke(order: string): void {
    const entry = this.#disk.get(order) ?? newEntry(null)
    this.#disk.set(order, entry)
    if (entry.fate !== null) return
    entry.fate = 'void'
    entry.refused = false
    this.#end(entry, { outcome: 'void', step: 'claim', message: 'called back before it began' })
  }

  /** The agent ships what is on disk, a frame at a time, and again when no acknowledgement came. */
  #ship(): void {
    if (this.#send === null || !this.#up) return
    for (const [order, entry] of this.#disk) {
      if (entry.forgotten) continue
      const from = this.#acked.get(order) ?? 0
      const records = entry.records.slice(from, from + RECORDS_PER_FRAME)
      const isBad = this.#ports.bug === 'record-repeated'
      const sent = isBad ? records.map((record, index) => repeated(record, records[index - 1])) : records
      if (sent.length > 0) this.#send({ t: 'records', order, records: sent })
    }
  }

  #shipLater(): void {
    const life = this.#agentLife
    this.#ports.time.after(RESEND_MS, () => {
      if (life !== this.#agentLife || this.#send === null) return
      this.#ship()
      this.#shipLater()
    })
  }

  #record(entry: OnDisk, fields: Record<string, unknown>): void {
    entry.records.push({ n: entry.records.length + 1, at: this.#ports.time.now(), ...fields } as RunRecord)
  }

  #end(entry: OnDisk, fields: Partial<Result>): void {
    const outcome = fields.outcome ?? 'succeeded'
    this.#record(entry, {
      type: 'result',
      outcome,
      cause: null,
      step: 'verify',
      message: 'patched',
      evidence: [],
      advice: [],
      latched: entry.latched,
      rebootPending: false,
      installed: [],
      outputBytes: 0,
      outputSha256: '0'.repeat(64),
      ...fields,
    })
    if (entry.grant !== null) this.#ports.ledger.runEnded({ order: entry.grant.order, outcome, latched: entry.latched })
    this.#ship()
  }

  /** Takes the next order that wants something done, if the runner is free. The runner works one at a time. */
  #wakeRunner(): void {
    if (this.#isRunning || !this.#up) return
    for (const [order, entry] of this.#disk) {
      if (entry.grant === null || entry.refused || entry.fate === 'void' || hasResult(entry)) continue
      if (!this.#claim(entry, entry.grant)) continue
      this.#isRunning = true
      this.#run(order, entry)
      return
    }
  }

  /** False when the grant came too late, or an order with a higher fence was here before. */
  #claim(entry: OnDisk, grant: GrantPayload): boolean {
    const { time, ledger, bug } = this.#ports
    const again = bug === 'claim-twice' && !entry.latched
    if (entry.fate === 'claim' && !again) return true
    if (time.now() > grant.startBy || (grant.fence <= this.#fence && !again)) {
      entry.refused = true
      return false
    }
    entry.fate = 'claim'
    this.#fence = grant.fence
    ledger.claimed(grant)
    return true
  }

  /** Calls back unless this life of the runner is over by then. */
  #later(callback: () => void): void {
    const life = this.#runnerLife
    this.#ports.time.after(this.#ports.dice.between(50, 4000), () => {
      if (life === this.#runnerLife && this.#up) callback()
    })
  }

  #finish(entry: OnDisk, fields: Partial<Result>): void {
    this.#end(entry, fields)
    this.#isRunning = false
    this.#wakeRunner()
  }

  #run(order: string, entry: OnDisk): void {
    if (!entry.latched || this.#ports.bug === 'run-twice') this.#before(order, entry, 0)
    else this.#awaitApt(entry)
  }

  #before(order: string, entry: OnDisk, index: number): void {
    const step = STEPS_BEFORE[index]
    if (step === undefined) {
      this.#install(order, entry)
      return
    }
    this.#record(entry, { type: 'step', step })
    this.#ship()
    const fails = step === 'fetch' && !this.#healed && this.#ports.dice.chance(this.#ports.failRate / 2)
    this.#later(() => {
      if (fails) this.#finish(entry, { outcome: 'failed', cause: 'fetch', message: 'the archive is out of reach' })
      else this.#before(order, entry, index + 1)
    })
  }

  #install(order: string, entry: OnDisk): void {
    const { time, dice, ledger, failRate } = this.#ports
    entry.latched = true
    entry.aptBoot = this.#bootId
    ledger.aptStarted({ order, planHash: entry.grant?.planHash ?? '' })
    this.#record(entry, { type: 'step', step: 'install' })
    const lines = dice.between(1, 12)
    for (let line = 0; line < lines; line += 1) {
      this.#record(entry, { type: 'line', step: 'install', offset: line * 10, text: `line ${line}\n` })
    }
    this.#ship()
    const failed = !this.#healed && dice.chance(failRate)
    const boot = this.#bootId
    const life = this.#runnerLife
    // apt itself goes on when the runner dies; only a power cut ends it.
    time.after(dice.between(200, 20_000), () => {
      if (boot !== this.#bootId) return
      entry.exit = failed ? 'script-failed' : 'done'
      if (life === this.#runnerLife && this.#up) this.#settle(entry)
    })
  }

  /** A runner that was started again reads evidence; after a boot nobody runs any more. */
  #awaitApt(entry: OnDisk): void {
    if (entry.exit !== null || entry.aptBoot !== this.#bootId) this.#settle(entry)
    else this.#later(() => this.#awaitApt(entry))
  }

  #settle(entry: OnDisk): void {
    if (entry.exit === 'done') this.#finish(entry, {})
    else if (entry.exit === 'script-failed') {
      this.#finish(entry, { outcome: 'failed', cause: 'maintainer-script', message: 'the script of a package failed' })
    } else if (this.#healed || this.#ports.dice.chance(0.5)) {
      this.#finish(entry, { outcome: 'failed', cause: 'dpkg-interrupted', message: 'the power was cut in the middle' })
    } else this.#finish(entry, { outcome: 'unknown', cause: 'internal', message: 'the evidence was lost' })
  }
}
