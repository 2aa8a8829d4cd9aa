/**
 * One simulated world from one seed: the real core, driver, local change provider and store over virtual time; model
 * machines behind links that are cut; people who ask, approve, steer and race one another; crashes of everything.
 * A phase with faults, then a healing phase in which every project must reach its end.
 */
import { type Hash, createHash } from 'node:crypto'
import { isLocal, localStep, unfinishedClosings } from '../../coordinator/change/local.ts'
import type { View } from '../../coordinator/domain/draft.ts'
import type { Envelope, Event, Outcome as Turn, Tools } from '../../coordinator/domain/events.ts'
import type { Actor, TableName, Tables, Target } from '../../coordinator/domain/state.ts'
import { placeKey } from '../../coordinator/domain/state.ts'
import { type Driver, createDriver } from '../../coordinator/driver.ts'
import { createTools } from '../../coordinator/pattern.ts'
import type { AgentSend, Store } from '../../coordinator/ports.ts'
import { type MemoryDisk, crashMemoryDisk, createMemoryDisk, openMemoryStore } from '../../coordinator/store/memory.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import type { GrantPayload } from '../../protocol/files.ts'
import { type Bug, bugged } from './bugs.ts'
import { FAULTS_MS, type Faults, HEALING_MS, SETTINGS, SETTLING_MS, chooseFaults, planOf, sha256 } from './givens.ts'
import { type Ledger, createLedger } from './ledger.ts'
import { Machine, isMachineBug } from './machine.ts'
import { People } from './people.ts'
import { type Dice, createDice } from './random.ts'
import { type Time, createTime } from './time.ts'

export type Outcome = {
  readonly violations: readonly string[]
  readonly history: string
  readonly counts: Ledger['counts'] & { readonly projects: number; readonly turns: number }
}

/** Runs one seed to its end. */
export function runSeed(seed: number, bug: Bug = null): Promise<Outcome> {
  return new World(seed, bug).run()
}

type Link = { readonly session: string; open: boolean; busyUntil: number }
/** One life of the coordinator's process; nothing of it acts after its crash. */
type Life = { readonly driver: Driver; readonly store: Store; alive: boolean }

const SILENT = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }

/** Owns virtual time, the coordinator's disk and its present life, the machines and their links. */
export class World {
  readonly time: Time = createTime(1_700_000_000_000)
  readonly dice: Dice
  readonly faults: Faults
  readonly machines = new Map<string, Machine>()
  readonly ledger: Ledger
  healing = false
  readonly #seed: number
  readonly #bug: Bug
  readonly #disk: MemoryDisk
  readonly #ids: Dice
  readonly #tools: Tools
  readonly #history: Hash = createHash('sha256')
  readonly #links = new Map<string, Link>()
  #life: Life | null = null
  #rev = 0
  #turns = 0

  constructor(seed: number, bug: Bug) {
    this.#seed = seed
    this.#bug = bug
    this.dice = createDice(seed, 'world')
    this.faults = chooseFaults(this.dice)
    this.#ids = createDice(seed, 'ids')
    this.#disk = createMemoryDisk({ bytes: createDice(seed, 'disk').bytes })
    this.#tools = { ...createTools(SETTINGS, { bytes: this.#ids.bytes }), newId: () => this.#ids.hex(32) }
    this.ledger = createLedger({
      linesOf: (grant) => ({
        project: this.#targetFor(grant)?.project ?? '',
        cluster: this.#targetFor(grant)?.cluster ?? '',
      }),
      digestOf: (grant) => this.#onDisk('projects', this.#targetFor(grant)?.project ?? '')?.digest ?? '',
      approvedPlanOf: (grant) => this.#targetFor(grant)?.planHash ?? '',
    })
  }

  async run(): Promise<Outcome> {
    await this.start()
    await this.#enrolAll()
    new People(this).begin()
    for (const machine of this.machines.values()) this.#reconnect(machine)
    this.#scheduleFaults()
    const end = this.time.now() + FAULTS_MS
    await this.#runUntil(() => this.time.now() >= end)
    await this.#heal()
    const projects = this.#disk.tables.get('projects')?.size ?? 0
    return {
      violations: this.ledger.violations,
      history: this.#history.digest('hex'),
      counts: { ...this.ledger.counts, projects, turns: this.#turns },
    }
  }

  view(): View | null {
    return this.#life?.driver.view ?? null
  }

  submit(actor: Actor, event: Event, then?: (ok: boolean) => void): void {
    this.#life?.driver.submit(actor, event).then(
      ({ reply }) => then?.(reply.ok),
      () => undefined,
    )
  }

  /** What is on the coordinator's disk, whether it runs or not. */
  #onDisk<Name extends TableName>(table: Name, key: string): Tables[Name] | undefined {
    const row = this.#disk.tables.get(table)?.get(key)
    return row === undefined ? undefined : (JSON.parse(row.doc) as Tables[Name])
  }

  #targetFor(grant: GrantPayload): Target | undefined {
    const order = this.#onDisk('orders', grant.order)
    return this.#onDisk('targets', placeKey(order?.project ?? '', order?.target ?? 0))
  }

  async start(): Promise<void> {
    const { time, dice } = this
    const opened = openMemoryStore(this.#disk)
    const forgetful: Store = {
      ...opened,
      commit: (turn) => opened.commit({ ...turn, logs: dice.chance(0.05) ? [] : turn.logs }),
    }
    const store = this.#bug === 'log-dropped' ? forgetful : opened
    const driver = createDriver({
      store,
      clock: {
        wallNow: time.now,
        monotonicNow: time.now,
        after: (ms, callback) => time.after(ms, () => life.alive && callback()),
      },
      tools: this.#tools,
      settings: SETTINGS,
      log: SILENT,
      outbound: {
        toAgent: (send) => life.alive && this.#toAgent(send),
        toChange: (call) => {
          time.after(dice.between(1, this.faults.delayMsMax), () => {
            if (life.alive) this.submit({ kind: 'smith' }, { type: 'localCall', call })
          })
        },
      },
      core: bugged(this.#bug),
      local: { isLocal, step: (view, envelope, tools) => this.#localStep(view, envelope, tools) },
      onFatal: (error) => this.ledger.violations.push(`FATAL: ${error.stack ?? error.message}`),
    })
    const life: Life = { driver, store, alive: true }
    this.#life = life
    driver.onRow((row) => this.#take(row))
    for (const call of unfinishedClosings(driver.view))
      await driver.submit({ kind: 'smith' }, { type: 'localCall', call })
    await driver.start()
  }

  #localStep(view: View, envelope: Envelope, tools: Tools): Turn {
    const outcome = localStep(view, envelope, tools)
    if (this.#bug !== 'always-approved') return outcome
    const sends = outcome.sends.map((send) => {
      if (send.to !== 'core' || send.event.type !== 'permission') return send
      return {
        ...send,
        event: { ...send.event, permission: { ...send.event.permission, approval: 'approved' as const, by: 'nobody' } },
      }
    })
    return { ...outcome, sends }
  }

  #take(row: FeedRow): void {
    this.#turns += 1
    if (this.#bug === 'row-lost' && this.dice.chance(0.001)) return
    this.#history.update(JSON.stringify(row))
    if (row.rev !== this.#rev + 1) this.ledger.violations.push(`FED-1: row ${row.rev} came after ${this.#rev}`)
    this.#rev = row.rev
  }

  #crash(): void {
    if (this.#life !== null) this.#life.alive = false
    this.#life = null
    for (const [id, link] of this.#links) {
      link.open = false
      this.machines.get(id)?.disconnected()
    }
    this.#links.clear()
    crashMemoryDisk(this.#disk)
  }

  #toAgent(send: AgentSend): void {
    const link = this.#links.get(send.machine)
    const machine = this.machines.get(send.machine)
    if (link?.open !== true || machine === undefined) return
    if ('drop' in send) {
      if (link.session === send.drop.session) this.#cut(send.machine)
      return
    }
    const isRevoke = 'frame' in send && send.frame.t === 'revoke'
    if (this.#bug === 'grant-and-revoke-lost' && ('grant' in send || isRevoke)) return
    this.#deliver(link, () => {
      if ('frame' in send) machine.receive(send.frame)
      else if ('grant' in send) {
        const plan = this.#onDisk('plans', send.grant.planHash)?.plan ?? planOf('2.0')
        const grant = this.#bug === 'plan-swapped' ? { ...send.grant, planHash: sha256('other') } : send.grant
        machine.receive({ t: 'grantPayload', grant, plan })
      }
    })
  }

  /** In order, late, and lost with the link. */
  #deliver(link: Link, callback: () => void): void {
    const { time } = this
    link.busyUntil = Math.max(link.busyUntil, time.now() + this.dice.between(1, this.faults.delayMsMax))
    time.after(link.busyUntil - time.now(), () => link.open && callback())
  }

  #connect(machine: Machine): void {
    const life = this.#life
    if (!machine.isUp() || life === null || this.#links.get(machine.id)?.open === true) return
    const link: Link = { session: this.#ids.hex(32), open: true, busyUntil: 0 }
    this.#links.set(machine.id, link)
    const actor: Actor = { kind: 'machine', id: machine.id, name: machine.name }
    const { id } = machine
    const counter = machine.nextCounter()
    const hello = machine.hello()
    this.#deliver(link, () => {
      if (!life.alive) return
      this.submit(actor, {
        type: 'sessionOpened',
        machine: id,
        session: link.session,
        address: '10.0.0.1',
        counter,
        hello,
      })
      machine.connected((frame) => {
        this.#deliver(link, () => {
          if (!life.alive || frame.t === 'ping' || frame.t === 'pong' || frame.t === 'auth' || frame.t === 'hello')
            return
          this.submit(actor, { type: 'agentNews', machine: id, session: link.session, news: frame })
        })
      })
    })
  }

  #reconnect(machine: Machine): void {
    this.#connect(machine)
    this.time.after(this.dice.between(500, 20_000), () => this.#reconnect(machine))
  }

  /** Both sides lose what was under way; the coordinator notices at once or only after its pings went unanswered. */
  #cut(id: string): void {
    const link = this.#links.get(id)
    const life = this.#life
    if (link?.open !== true) return
    link.open = false
    this.machines.get(id)?.disconnected()
    this.time.after(this.dice.chance(0.5) ? 0 : this.dice.between(1, 45_000), () => {
      if (life?.alive !== true) return
      this.submit({ kind: 'smith' }, { type: 'sessionClosed', machine: id, session: link.session, reason: 'cut' })
    })
  }

  async #enrolAll(): Promise<void> {
    const driver = this.#life?.driver
    if (driver === undefined) throw new Error('no coordinator')
    const facts = {
      agentVersion: 'sim',
      os: 'sim',
      arch: 'amd64',
      kernel: 'sim',
      apt: 'sim',
      cluster: null,
      region: null,
      rebootPending: false,
    }
    const count = this.dice.between(2, 8)
    for (let index = 1; index <= count; index += 1) {
      const name = `prod-dal10-carrier${this.dice.between(1, 3)}-worker-${index}`
      const tokenHash = sha256(`${this.#seed} ${index}`)
      const admin: Actor = { kind: 'local-admin' }
      await driver.submit(admin, {
        type: 'command',
        command: { type: 'enrolNew', name, tokenHash, ttlMs: 1e6, replace: false },
      })
      const { reply } = await driver.submit(
        { kind: 'smith' },
        { type: 'enrol', tokenHash, publicKey: 'k', facts, address: '10.0.0.1' },
      )
      const id = reply.ok ? (reply.value?.machine ?? '') : ''
      const bug = isMachineBug(this.#bug) ? this.#bug : null
      const { time, ledger } = this
      const dice = createDice(this.#seed, name)
      this.machines.set(
        id,
        new Machine({ id, name, time, dice, ledger, plan: planOf('2.0'), failRate: this.faults.failRate, bug }),
      )
    }
  }

  #scheduleFaults(): void {
    const { time, dice, faults } = this
    const every = (rate: number, act: () => void) => {
      if (rate === 0) return
      time.after(dice.between(1, Math.floor(120_000 / rate)), () => {
        if (this.healing) return
        act()
        every(rate, act)
      })
    }
    const any = () => dice.pick([...this.machines.values()])
    every(faults.cut, () => this.#cut(any().id))
    every(faults.killAgent, () => {
      const machine = any()
      this.#cut(machine.id)
      machine.killAgent()
    })
    every(faults.killRunner, () => any().killRunner())
    every(faults.plug, () => {
      const machine = any()
      this.#cut(machine.id)
      machine.pullPlug()
      time.after(dice.between(5000, 400_000), () => machine.boot())
    })
    every(faults.crash, () => {
      if (this.#life === null) return
      this.#crash()
      time.after(dice.between(100, 30_000), () => {
        if (this.#life === null) void this.start()
      })
    })
    every(faults.drift, () => any().setPlan(planOf(dice.chance(0.5) ? '2.1' : '2.0')))
  }

  async #runUntil(isOver: () => boolean): Promise<void> {
    while (!isOver() && this.ledger.violations.length === 0) {
      if (!this.time.advance()) return
      // Promises of this instant settle before the next thing happens.
      await new Promise((resolve) => {
        setImmediate(resolve)
      })
    }
  }

  async #heal(): Promise<void> {
    this.healing = true
    if (this.#life === null) await this.start()
    for (const machine of this.machines.values()) {
      machine.setPlan(planOf('2.0'))
      machine.heal()
    }
    const giveUp = this.time.now() + HEALING_MS
    const isQuiet = () => (this.view()?.size('projects') ?? 1) === 0
    await this.#runUntil(() => isQuiet() || this.time.now() >= giveUp)
    if (this.ledger.violations.length > 0) return
    for (const project of this.view()?.all('projects') ?? []) {
      this.ledger.violations.push(
        `LIV-1: ${project.change} never ended: ${project.state}, ${JSON.stringify(project.stop)}, active ${project.active}`,
      )
    }
    const settled = this.time.now() + SETTLING_MS
    await this.#runUntil(() => this.time.now() >= settled)
    this.#checkLogs()
  }

  /** What was stored of each run is what its machine has on disk: no gap, no repeat, the same bytes. */
  #checkLogs(): void {
    const store = this.#life?.store
    for (const machine of this.machines.values()) {
      for (const order of store?.orders({ machine: machine.id }) ?? []) {
        const stored = store?.records({ order: order.id, after: 0, limit: 100_000 }) ?? []
        const wanted = machine.recordsOf(order.id)
        if (JSON.stringify(stored) === JSON.stringify(wanted)) continue
        this.ledger.violations.push(
          `LOG-1: the log of ${order.id} has ${stored.length} records, its machine ${wanted.length}`,
        )
      }
    }
  }
}
