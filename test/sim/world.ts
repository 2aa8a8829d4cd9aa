/**
 * One simulated world from one seed: the real coordinator, agents and runners over virtual time, disks and network;
 * people who ask, approve, steer and race one another; faults of a random half of all kinds. A phase with faults,
 * then a healing phase in which every project must reach its end, spools drain and feeds agree.
 */
import { type Hash, createHash } from 'node:crypto'
import type { Actor } from '../../coordinator/domain/state.ts'
import { placeKey } from '../../coordinator/domain/state.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import { ChangeJudge } from './changes.ts'
import { Coordinator, ORDER_KEY, sha256Hex } from './coordinator.ts'
import { type Faults, chooseFaults, chooseRemote, heal } from './faults.ts'
import { EVENTS_MAX, FAULTS_MS, HEALING_MS, SETTINGS, SETTLING_MS, configOf, keyOf, sha256 } from './givens.ts'
import type { Host } from './host.ts'
import { Ledger } from './ledger.ts'
import { Machine } from './machine.ts'
import { Mischief } from './mischief.ts'
import { Network } from './network.ts'
import { Office } from './office.ts'
import { People } from './people.ts'
import { type Dice, createDice } from './random.ts'
import { Repository } from './repository.ts'
import type { Script } from './script.ts'
import { Site } from './servicenow.ts'
import { type Time, createTime } from './time.ts'

export type Options = {
  /** Virtual milliseconds after which it is stopped, to look. */
  readonly untilMs?: number
  /** Keeps every event, to be shown. */
  readonly traced?: boolean
  /** Whether the coordinator is on a real database too; every tenth seed is when nothing is said. */
  readonly isOnSqlite?: boolean
  /** What the seed chose, changed: for making a failure smaller. */
  readonly change?: (faults: Faults) => Faults
  /** What happens instead of what people and faults would do at random. */
  readonly script?: Script
}
export type Outcome = {
  readonly violations: readonly string[]
  readonly history: string
  readonly trace: readonly string[]
  /** How often each fault met which state of an order. */
  readonly cells: ReadonlyMap<string, number>
  readonly counts: Ledger['counts'] & {
    readonly projects: number
    readonly turns: number
    readonly machines: number
    readonly faults: number
    readonly simulatedMs: number
    readonly events: number
  }
}

/** Promises of this instant settle before the next thing happens: a tick comes when no microtask is left. */
function settled(): Promise<void> {
  return new Promise((resolve) => {
    process.nextTick(resolve)
  })
}

/** Runs one seed to its end. */
export function runSeed(seed: number, options: Options = {}): Promise<Outcome> {
  return new World(seed, options).run()
}

const START = 1_700_000_000_000

/** Owns virtual time, and everything that happens in it. */
export class World {
  readonly time: Time = createTime(START)
  readonly dice: Dice
  readonly faults: Faults
  readonly machines = new Map<string, Machine>()
  readonly ledger = new Ledger({
    storedOf: (order) => this.coordinator.disk.logs.get(order) ?? [],
    now: () => this.coordinator.now(),
    schedule: () => this.faults.schedule,
  })
  readonly coordinator: Coordinator
  readonly network: Network
  readonly repository = new Repository(START)
  healing = false
  /** Where changes are, and who has to do with them, when they are in ServiceNow. */
  readonly remote: { readonly site: Site; readonly judge: ChangeJudge; readonly office: Office } | null
  readonly #seed: number
  readonly #options: Options
  readonly #history: Hash = createHash('sha256')
  readonly #trace: string[] = []
  readonly #cells = new Map<string, number>()
  readonly #followed: { epoch: string; rows: string[]; life: unknown } = { epoch: '', rows: [], life: null }
  #isStirred = false
  #turns = 0
  #faultCount = 0
  #events = 0
  #isOver = false
  #keys = ORDER_KEY

  constructor(seed: number, options: Options) {
    this.#seed = seed
    this.#options = options
    this.dice = createDice(seed, 'world')
    const chosen = { ...chooseFaults(this.dice), ...chooseRemote(createDice(seed, 'servicenow')) }
    this.faults = options.change?.(chosen) ?? chosen
    const { time, dice, faults, ledger } = this
    this.remote = this.faults.isRemote ? this.#remote() : null
    this.coordinator = new Coordinator({
      time,
      dice,
      faults,
      ledger,
      ids: createDice(seed, 'ids'),
      isOnSqlite: options.isOnSqlite ?? seed % 10 === 0,
      met: (fault) => this.met(fault),
      trace: (text) => this.trace(text),
      onRow: (row, epoch) => this.#follow(row, epoch),
      onCrash: () => {
        this.network.coordinatorGone()
        time.after(dice.between(100, 30_000), () => void this.start())
      },
      stirred: () => (this.#isStirred = true),
      site: this.remote?.site ?? null,
      onCommit: (turn) => this.remote?.judge.committed(turn),
    })
    this.network = new Network({
      time,
      dice,
      faults,
      accept: (link) => this.coordinator.accept(link),
      inCoordinator: (act) => {
        this.#isStirred = true
        act()
      },
      said: (machine, side, text) => this.#judgeSaid(machine, side, text),
      corrupt: (machine, text) => this.mischief.corrupt(machine, text),
    })
  }
  readonly mischief = new Mischief(this)

  #remote(): NonNullable<World['remote']> {
    const { time, faults, ledger } = this
    const onDisk: Coordinator['onDisk'] = (table, key) => this.coordinator.onDisk(table, key)
    const projects = () => [...(this.coordinator.disk.tables.get('projects')?.keys() ?? [])]
    const disk = { onDisk, projects: () => projects().flatMap((id) => onDisk('projects', id) ?? []) }
    const common = { time, faults, met: (fault: string) => this.met(fault) }
    const dice = (concern: string) => createDice(this.#seed, `servicenow ${concern}`)
    const site = new Site(
      {
        ...common,
        dice: dice('network'),
        defect: (text) => ledger.defect(text),
        stirred: () => (this.#isStirred = true),
      },
      (standIn) => new ChangeJudge(standIn, ledger, disk),
    )
    const office = new Office(
      {
        ...common,
        dice: dice('office'),
        healing: () => this.healing,
        trace: (text) => this.trace(text),
        projectOf: (id) => onDisk('projects', id),
      },
      site.standIn.records,
    )
    return { site, judge: site.judge, office }
  }

  async run(): Promise<Outcome> {
    await this.start()
    await this.#enrolAll()
    const { script } = this.#options
    if (script === undefined) new People(this).begin()
    else script.begin(this)
    this.remote?.office.begin()
    for (const machine of this.machines.values()) machine.boot()
    if (script === undefined) this.mischief.begin()
    const end = this.time.now() + FAULTS_MS
    await this.#runUntil(() => script?.isOver() ?? this.time.now() >= end)
    await this.#heal()
    this.coordinator.end()
    this.#isOver = true
    return {
      violations: this.ledger.violations,
      history: this.#history.digest('hex'),
      trace: this.#trace,
      cells: this.#cells,
      counts: {
        ...this.ledger.counts,
        projects: this.coordinator.disk.tables.get('projects')?.size ?? 0,
        turns: this.#turns,
        machines: this.machines.size,
        faults: this.#faultCount,
        simulatedMs: this.time.now() - START,
        events: this.#events,
      },
    }
  }

  readonly holdersOf = (id: string): readonly Machine[] =>
    [this.machines.get(id), this.mischief.cloneOf(id)].filter((one) => one !== undefined)

  async start(): Promise<void> {
    if (this.coordinator.life === null) await this.coordinator.start()
  }

  /** One line of the history, which is hashed, and kept when someone wants to see it. */
  trace(text: string): void {
    if (this.#isOver) return
    const line = `${this.time.now() - START} ${text}`
    this.#history.update(line)
    if (this.#options.traced === true) this.#trace.push(line)
  }

  /** A fault has come about; the order that it met is the machine's, or any that is at work. */
  met(fault: string, machine?: Host): void {
    const orders = this.coordinator.disk.tables.get('orders')
    let state = 'none'
    for (const row of orders?.values() ?? []) {
      if (!row.live || (machine !== undefined && !row.doc.includes(machine.id))) continue
      const order = JSON.parse(row.doc) as { state: string; step: string | null }
      if (
        ['offered', 'granted', 'running', 'unknown'].includes(order.state) &&
        (state === 'none' || state === 'offered')
      )
        state = order.state === 'running' ? (order.step ?? 'running') : order.state
    }
    if (state !== 'none') this.#faultCount += 1
    const cell = `${fault} x ${state}`
    this.#cells.set(cell, (this.#cells.get(cell) ?? 0) + 1)
    this.trace(`fault: ${fault}${machine === undefined ? '' : ` on ${machine.name}`}`)
  }

  #follow(row: FeedRow, epoch: string): void {
    this.#turns += 1
    this.trace(`row ${row.rev} ${row.actor}: ${JSON.stringify(row.facts)}`)
    const feed = this.#followed
    if (feed.epoch !== epoch) {
      feed.epoch = epoch
      feed.rows = []
    }
    // What was committed while nobody listened is read from the journal, as a follower that comes back does.
    if (feed.life !== this.coordinator.life)
      feed.rows.push(...this.coordinator.disk.journal.slice(feed.rows.length, row.rev - 1))
    feed.life = this.coordinator.life
    if (row.rev !== feed.rows.length + 1)
      this.ledger.violate('SIM-13 feed', `row ${row.rev} came after ${feed.rows.length}`)
    if (this.coordinator.disk.journal.length < row.rev)
      this.ledger.violate('SIM-9 safe', `row ${row.rev} was shown before it was on disk`)
    feed.rows.push(JSON.stringify(row))
  }

  /** Nothing is said that a power cut could take back. */
  #judgeSaid(machine: Host, side: 'agent' | 'coordinator', text: string): void {
    const { ledger, coordinator } = this
    this.#options.script?.said?.(machine, side, text)
    const isKind = (kind: string) => text.startsWith(`{"t":"${kind}"`)
    if (side === 'agent' && isKind('records')) {
      const { order, records } = JSON.parse(text) as { order: string; records: { n: number }[] }
      const safe = machine.safeRecordsOf(order)
      if ((records.at(-1)?.n ?? 0) > safe)
        ledger.violate('SIM-9 safe', `${machine.name} told record ${records.at(-1)?.n} of ${order}, ${safe} are safe`)
    } else if (side === 'agent' && isKind('granted')) {
      const { order } = JSON.parse(text) as { order: string }
      if (!ledger.isEvil(machine) && !machine.isGrantSafe(order))
        ledger.violate('SIM-9 safe', `${machine.name} took a grant of ${order} that is not safe`)
    } else if (side === 'coordinator' && isKind('ack')) {
      const { order, upTo } = JSON.parse(text) as { order: string; upTo: number }
      const stored = coordinator.disk.logs.get(order)?.length ?? 0
      if (upTo > stored)
        ledger.violate('SIM-9 safe', `record ${upTo} of ${order} was acknowledged, ${stored} are stored`)
    } else if (side === 'coordinator' && isKind('grant')) {
      const { order } = JSON.parse(text) as { order: string }
      this.#noteGrant(order)
    }
  }

  #noteGrant(id: string): void {
    const { coordinator, ledger } = this
    const order = coordinator.onDisk('orders', id)
    const target =
      order === undefined ? undefined : coordinator.onDisk('targets', placeKey(order.project, order.target))
    const project = order === undefined ? undefined : coordinator.onDisk('projects', order.project)
    const plan = target === undefined ? undefined : coordinator.onDisk('plans', target.planHash)
    if (order === undefined || target === undefined || project === undefined || plan === undefined || order.fence === 0)
      return ledger.violate('SIM-9 safe', `a grant of ${id} was sent that is not on disk`)
    const { cluster, planHash } = target
    const { name, fence } = order
    const times = { at: order.grantedAt ?? 0, startBy: order.startBy ?? 0 }
    const { outageMinutes } = project.options
    const granted = { project: project.id, name, fence, ...times, outageMinutes, cluster, planHash, plan: plan.plan }
    ledger.granted(id, { ...granted, digest: project.digest ?? '' })
  }

  async #enrolAll(): Promise<void> {
    for (const name of this.#options.script?.machines ?? []) await this.enrol(name, false)
    const count = this.#options.script === undefined ? this.dice.between(2, 8) : 0
    for (let index = 1; index <= count; index += 1)
      await this.enrol(`prod-dal10-carrier${this.dice.between(1, 3)}-worker-${index}`, false)
    const [first] = this.machines.values()
    if (this.faults.isOneEvil && first !== undefined) this.ledger.evil(first)
  }

  /** A machine is made and enrolled, in the place of the one of its name when there is one. */
  readonly enrol = async (name: string, replace: boolean): Promise<Machine | null> => {
    const driver = this.coordinator.life?.driver
    if (driver === undefined) return null
    this.#keys += 1
    const tokenHash = sha256(`${this.#seed} ${this.#keys}`)
    const { pem, publicBase64 } = keyOf(this.#keys)
    const admin: Actor = { kind: 'local-admin' }
    const command = { type: 'enrolNew', name, tokenHash, ttlMs: 1e6, replace } as const
    await driver.submit(admin, { type: 'command', command })
    const facts = {
      agentVersion: 'sim',
      os: 'sim',
      arch: 'amd64',
      kernel: 'sim',
      apt: 'sim',
      cluster: null,
      region: null,
    }
    const { reply } = await driver.submit(
      { kind: 'smith' },
      {
        type: 'enrol',
        tokenHash,
        publicKey: publicBase64,
        facts: { ...facts, rebootPending: false },
        address: '10.0.0.1',
      },
    )
    const id = reply.ok ? reply.value?.machine : undefined
    if (id === undefined) return null
    const order = keyOf(ORDER_KEY).publicBase64
    const keys = [{ keyId: sha256Hex(order), key: order }]
    const machine = new Machine(this.#surroundings(), createDice(this.#seed, `${name} ${this.#keys}`), {
      id,
      name,
      instance: SETTINGS.instance,
      keyPem: pem,
      keys,
    })
    for (const [other, old] of this.machines) if (old.name === name) this.machines.delete(other)
    this.machines.set(id, machine)
    return machine
  }

  #surroundings(): Machine['world'] {
    const { time, faults, ledger, repository } = this
    return {
      time,
      faults,
      ledger,
      repository,
      config: this.#config,
      met: (fault, machine) => this.met(fault, machine),
      trace: (text) => this.trace(text),
      connect: (machine, proc, events) => this.network.connect(machine, proc, this.mischief.overheard(machine, events)),
      disconnected: (machine, isPowerLoss) => this.network.gone(machine, isPowerLoss),
      isReachable: (machine) => this.network.isOpenFor(machine),
      stirred: () => (this.#isStirred = true),
    }
  }
  readonly #config = configOf(2000)

  async #runUntil(isOver: () => boolean): Promise<void> {
    const until = START + (this.#options.untilMs ?? Number.POSITIVE_INFINITY)
    await settled()
    while (!isOver() && this.ledger.violations.length === 0 && this.time.now() < until) {
      if (!this.time.advance()) return
      this.#events += 1
      if (this.#events > EVENTS_MAX)
        this.ledger.violate('SIM-14 ends', `it goes round in a circle: ${EVENTS_MAX} events`)
      if (this.#isStirred) await settled()
      this.#isStirred = false
    }
  }

  async #heal(): Promise<void> {
    this.healing = true
    this.trace('everything heals')
    heal(this.faults)
    await this.start()
    this.mischief.heal()
    // What is only open for twenty minutes of thirty, and fails each time, comes to its end in several windows.
    const giveUp = this.time.now() + HEALING_MS * (this.faults.schedule.windows.length > 0 ? 2 : 1)
    // What was asked and is still being planned becomes a project yet.
    const isQuiet = () =>
      (['projects', 'requests', 'remoteChanges'] as const).every((name) => this.coordinator.view()?.size(name) === 0)
    await this.#runUntil(() => isQuiet() || this.time.now() >= giveUp)
    if (this.ledger.violations.length > 0 || this.#options.untilMs !== undefined) return
    this.remote?.judge.checkOnce()
    for (const project of this.coordinator.view()?.all('projects') ?? []) {
      this.ledger.violate(
        'SIM-14 ends',
        `${project.change} never ended: ${project.state}, ${JSON.stringify(project.stop)}, active ${project.active}`,
      )
    }
    for (const { project, number } of this.coordinator.view()?.all('remoteChanges') ?? [])
      this.ledger.violate('SIM-42 told', `${number ?? project} has calls in the outbox that are never made`)
    const end = this.time.now() + SETTLING_MS
    await this.#runUntil(() => this.time.now() >= end)
    this.#checkLogs()
    this.#checkSpools()
    this.#checkFeed()
    this.remote?.judge.checkEnd()
  }

  /** What was stored of each run is what its machine has on disk: no gap, no repeat, the same bytes. */
  #checkLogs(): void {
    const store = this.coordinator.life?.store
    for (const machine of this.machines.values()) {
      if (this.ledger.isEvil(machine)) continue
      for (const order of store?.orders({ machine: machine.id }) ?? []) {
        // What an older database has as never granted stays on its machine (FEN-4, LOG-3).
        if (this.ledger.isLost(order.id) || order.fence === 0) continue
        const stored = store?.records({ order: order.id, after: 0, limit: 100_000 }) ?? []
        const wanted = machine.recordsOf(order.id)
        if (JSON.stringify(stored) !== JSON.stringify(wanted))
          this.ledger.violate(
            'SIM-8 log',
            `the log of ${order.id} has ${stored.length} records, its machine ${wanted.length}`,
          )
        const lines = stored.flatMap((one) => (one.type === 'line' && 'text' in one ? [one.text] : []))
        if (lines.join('') !== machine.outputOf(order.id).slice(0, lines.join('').length))
          this.ledger.violate('SIM-8 log', `the lines of ${order.id} are not what was printed`)
      }
    }
  }

  /** Every order that the coordinator has whole was let go by its machine, so nothing is said again for ever. */
  #checkSpools(): void {
    const store = this.coordinator.life?.store
    for (const machine of this.machines.values()) {
      for (const order of machine.ordersInHand()) {
        const row = store?.get('orders', order)
        if (row?.machine === machine.id && row.result !== null && !this.ledger.isEvil(machine))
          this.ledger.violate('SIM-14 ends', `${machine.name} still has ${order} in hand, whose result is stored`)
      }
    }
  }

  #checkFeed(): void {
    const { journal, epoch } = this.coordinator.disk
    const { rows } = this.#followed
    if (epoch === this.#followed.epoch && rows.join('\n') !== journal.join('\n'))
      this.ledger.violate('SIM-13 feed', `a follower has ${rows.length} rows, the journal ${journal.length}`)
  }
}
