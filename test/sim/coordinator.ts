/**
 * The simulated coordinator: the real driver, core, local change provider, sessions and memory store, in lives that
 * end at any call on their world. Its disk keeps what was committed; a life that ended acts no more.
 */
import { sign } from 'node:crypto'
import { isLocal, localStep, unfinishedClosings } from '../../coordinator/change/local.ts'
import type { View } from '../../coordinator/domain/draft.ts'
import type { ChangeCall, Event, Permission, Settings, Tools } from '../../coordinator/domain/events.ts'
import type { Actor, TableName, Tables } from '../../coordinator/domain/state.ts'
import { type Driver, createDriver } from '../../coordinator/driver.ts'
import { createTools } from '../../coordinator/pattern.ts'
import type { Clock, Store, Turn } from '../../coordinator/ports.ts'
import type { Link, LinkEvents } from '../../coordinator/sessions/link.ts'
import { type Sessions, createSessions } from '../../coordinator/sessions/sessions.ts'
import type { ServiceNow } from '../../coordinator/change/servicenow/provider.ts'
import { type MemoryDisk, createMemoryDisk, openMemoryStore } from '../../coordinator/store/memory.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import { Clock as LocalClock } from './clock.ts'
import { Crash } from './host.ts'
import { Database } from './database.ts'
import type { Faults } from './faults.ts'
import { SETTINGS, SILENT, keyOf, sha256 } from './givens.ts'
import { settingsOf } from './schedule.ts'
import type { Ledger } from './ledger.ts'
import type { Dice } from './random.ts'
import { type Site, never } from './servicenow.ts'
import type { Time } from './time.ts'

export const ORDER_KEY = 0

/** One life of the coordinator's process; nothing of it acts after its end. */
type Life = { readonly driver: Driver; readonly sessions: Sessions; readonly store: Store; alive: boolean }
export type CoordinatorWorld = {
  readonly time: Time
  readonly dice: Dice
  readonly ids: Dice
  readonly isOnSqlite: boolean
  readonly faults: Faults
  readonly ledger: Ledger
  readonly met: (fault: string) => void
  readonly trace: (text: string) => void
  readonly onRow: (row: FeedRow, epoch: string) => void
  readonly onCrash: () => void
  readonly stirred: () => void
  /** Where changes are when they are not in smith itself. */
  readonly site: Site | null
  readonly onCommit: (turn: Turn) => void
}

/** Owns the coordinator's disk and its present life. */
export class Coordinator {
  disk: MemoryDisk
  skewMs = 0
  readonly clock: LocalClock
  /** Its process ends after so many more calls. */
  doom = 0
  /** Which commit from now fails as on a full disk; 0 for none. */
  commitDoom = 0
  life: Life | null = null
  readonly #world: CoordinatorWorld
  readonly #settings: Settings
  readonly #tools: Tools
  readonly #answers: Permission[] = []
  /** The real one beside the simulated, on some seeds. */
  readonly #database: Database | null

  constructor(world: CoordinatorWorld) {
    this.#world = world
    this.disk = createMemoryDisk(world.ids)
    this.#database = world.isOnSqlite ? new Database((text) => world.ledger.violate('SIM-30 store', text)) : null
    this.clock = new LocalClock(world.time)
    this.clock.run(1 + (world.faults.driftMax * world.dice.between(-1000, 1000)) / 1000)
    this.#settings = { ...SETTINGS, schedule: settingsOf(world.faults.schedule) }
    this.#tools = createTools(this.#settings, world.ids)
  }

  view(): View | null {
    return this.life?.driver.view ?? null
  }

  /** The instant of the coordinator's own clock. */
  now(): number {
    return this.life?.driver.now() ?? this.#wallNow()
  }

  #wallNow(): number {
    return Math.floor(this.#world.time.now() + this.skewMs + this.clock.driftMs())
  }

  /** Null when it ended before it answered: then nobody knows. */
  submit(actor: Actor, event: Event, then?: (ok: boolean | null) => void): void {
    const { life } = this
    this.#world.stirred()
    life?.driver.submit(actor, event).then(
      ({ reply }) => then?.(life.alive ? reply.ok : null),
      () => then?.(null),
    )
  }

  /** What is on the coordinator's disk, whether it runs or not. */
  onDisk<Name extends TableName>(table: Name, key: string): Tables[Name] | undefined {
    const row = this.disk.tables.get(table)?.get(key)
    return row === undefined ? undefined : (JSON.parse(row.doc) as Tables[Name])
  }

  /** Its end of a new connection; null when nobody listens. */
  accept(link: Link): LinkEvents | null {
    const { life } = this
    if (life === null || life.sessions.refusalFor(link.address) !== null) return null
    const isAlive = () => life.alive && this.#call()
    const guarded: Link = {
      ...link,
      send: (text) => isAlive() && link.send(text),
      close: (code, reason) => isAlive() && link.close(code, reason),
      terminate: () => isAlive() && link.terminate(),
    }
    const events = life.sessions.accept(guarded)
    return {
      onMessage: (data, isBinary) => life.alive && events.onMessage(data, isBinary),
      onBytes: (count) => life.alive && events.onBytes(count),
      onBroken: (problem) => life.alive && events.onBroken(problem),
      onClosed: (reason) => life.alive && events.onClosed(reason),
    }
  }

  async start(): Promise<void> {
    const { time, ids, trace, ledger, onRow, site } = this.#world
    trace('the coordinator starts')
    const store = this.#storeOf(this.#open())
    const clock: Clock = {
      wallNow: () => this.#wallNow(),
      monotonicNow: () => this.clock.monotonicNow(),
      after: (ms, then) =>
        time.after(this.clock.after(ms), () => {
          this.#world.stirred()
          if (life.alive && this.#call()) then()
        }),
    }
    const driver = createDriver({
      store,
      clock,
      tools: this.#tools,
      settings: this.#settings,
      log: SILENT,
      outbound: {
        toAgent: (send) => life.alive && this.#call() && life.sessions.send(send),
        toChange: (call) => {
          if (!life.alive) return
          if (remote === null) this.#callProvider(life, call)
          else remote.toChange(call)
        },
      },
      ...(site?.steps ?? { local: { isLocal, step: localStep } }),
      onFatal: (error) => {
        if (!life.alive) return
        if (!(error instanceof Crash)) ledger.defect(`the coordinator ended: ${error.stack ?? error.message}`)
        this.crash()
      },
    })
    const { key, publicBase64 } = keyOf(ORDER_KEY)
    const keyId = sha256Hex(publicBase64)
    const sessions = createSessions({
      driver,
      store,
      clock,
      random: ids,
      log: SILENT,
      instance: SETTINGS.instance,
      incarnation: ids.hex(32),
      sign: (bytes) => ({ signature: sign(null, bytes, key).toString('base64'), keyId }),
      settings: { pingMs: 30_000, deadMs: 90_000 },
    })
    const life: Life = { driver, store, sessions, alive: true }
    const remote = this.#providerOf(life, clock)
    this.life = life
    driver.onRow((row) => life.alive && onRow(row, this.disk.epoch))
    this.#world.stirred()
    try {
      for (const call of unfinishedClosings(driver.view))
        await driver.submit({ kind: 'smith' }, { type: 'localCall', call })
      await driver.start()
      if (life.alive) remote?.start()
    } catch (error) {
      if (life.alive) throw error
    }
  }

  /** The provider of a life that has its changes elsewhere. */
  #providerOf(life: Life, clock: Clock): ServiceNow | null {
    const { site, stirred } = this.#world
    const { driver } = life
    const provider = site?.plug({
      view: driver.view,
      submit: (event) => (life.alive ? driver.submit({ kind: 'change' }, event) : never()),
      now: () => driver.now(),
      clock,
      isAlive: () => {
        stirred()
        return life.alive && this.#call()
      },
      doom: () => (this.doom = 1),
    })
    return provider ?? null
  }

  crash(): void {
    if (this.life === null) return
    this.life.alive = false
    this.life = null
    this.disk.opener = null
    this.#database?.crash()
    this.#world.trace('the coordinator is gone')
    this.#world.onCrash()
  }

  /** The world is over: nothing of this life acts any more. */
  end(): void {
    if (this.life !== null) this.life.alive = false
    this.#database?.end()
  }

  #open(): Store {
    return this.#database?.open(this.disk) ?? openMemoryStore(this.disk)
  }

  snapshot(): MemoryDisk {
    this.#database?.keep()
    const { epoch, tables, claims, journal, hashes, ledger, logs, last } = this.disk
    return {
      epoch,
      tables: new Map([...tables].map(([name, rows]) => [name, new Map(rows)])),
      claims: new Map(claims),
      journal: [...journal],
      hashes: [...hashes],
      ledger: new Map(ledger),
      logs: new Map([...logs].map(([order, lines]) => [order, [...lines]])),
      last: { ...last },
      opener: null,
    }
  }

  /** As `restore` does it: a new epoch, and nothing is granted until a person has looked. */
  restore(old: MemoryDisk): void {
    this.crash()
    this.disk = { ...old, epoch: this.#world.ids.hex(32) }
    this.#database?.restore()
    const store = this.#open()
    const before = store.get('instance', 'instance') ?? { frozen: null, fence: 0, change: 0, task: 0 }
    const at = Math.max(this.now(), store.lastAt())
    const rev = store.rev() + 1
    void store.commit({
      rev,
      at,
      actor: 'restore',
      row: { rev, at, actor: 'restore', facts: [{ fact: 'frozen', reason: 'restored' }] },
      writes: [
        {
          table: 'instance',
          key: 'instance',
          row: { ...before, frozen: { by: 'restore', at, reason: 'restored' } },
          live: true,
        },
      ],
      logs: [],
    })
    store.close()
  }

  /** False when the process ends at this call. */
  #call(): boolean {
    if (this.doom === 0) return true
    this.doom -= 1
    if (this.doom > 0) return true
    this.#world.met('coordinator killed')
    this.crash()
    return false
  }

  #storeOf(opened: Store): Store {
    const commit = (turn: Turn) => {
      const wasDoomed = this.commitDoom > 0
      this.commitDoom = Math.max(0, this.commitDoom - 1)
      if (this.commitDoom === 0 && wasDoomed) {
        this.#world.met('commit fails')
        throw new Crash('ENOSPC: the database takes no more')
      }
      if (!this.#call()) throw new Crash()
      const done = opened.commit(turn)
      this.#world.onCommit(turn)
      if (!this.#call()) throw new Crash()
      return done
    }
    return { ...opened, commit }
  }

  /** The provider lives in this process, and is asked as if it did not: late, in vain, or answered with something old. */
  #callProvider(life: Life, call: ChangeCall): void {
    const { time, dice, faults, met } = this.#world
    const isAsk = call.call === 'permission'
    if (isAsk && dice.chance(faults.providerDown)) {
      met('provider down')
      const event: Event = { type: 'providerFailed', project: call.project, ask: call.ask, reason: 'it is down' }
      if (dice.chance(0.5)) time.after(1000, () => life.alive && this.submit({ kind: 'change' }, event))
      return
    }
    if (isAsk && dice.chance(faults.providerWrong)) {
      const stale = this.#answers.find((one) => one.change === call.change) ?? this.#answers[0]
      if (stale !== undefined) {
        met('provider wrong')
        const event: Event = { type: 'permission', project: call.project, ask: call.ask, permission: stale }
        time.after(1, () => life.alive && this.submit({ kind: 'change' }, event))
        return
      }
    }
    if (isAsk) this.#remember(call.change)
    const isSlow = isAsk && dice.chance(faults.providerSlow)
    if (isSlow) met('provider slow')
    // Slow is either that the question is read late, or that its answer comes late and says how it was.
    const answer = isSlow && dice.chance(0.5) ? this.#permissionOf(call.change ?? '') : null
    if (answer !== null && call.call === 'permission') {
      const event: Event = { type: 'permission', project: call.project, ask: call.ask, permission: answer }
      time.after(dice.between(1000, 60_000), () => life.alive && this.submit({ kind: 'change' }, event))
      return
    }
    time.after(isSlow ? dice.between(1000, 60_000) : dice.between(1, faults.delayMsMax), () => {
      if (life.alive) this.submit({ kind: 'smith' }, { type: 'localCall', call })
    })
  }

  #remember(number: string): void {
    const answer = this.#permissionOf(number)
    if (answer !== null && this.#answers.length < 6) this.#answers.push(answer)
  }

  /** What the local provider would answer at this instant. */
  #permissionOf(number: string): Permission | null {
    const change = this.onDisk('localChanges', number)
    if (change === undefined) return null
    return {
      change: number,
      approval: change.approval,
      by: change.decidedBy,
      reason: change.reason,
      digest: change.digest,
      state: change.state,
      onHold: false,
      window: null,
      readAt: this.now(),
    }
  }
}

/** The SHA-256 of a key's bytes. */
export function sha256Hex(base64: string): string {
  return sha256(Buffer.from(base64, 'base64'))
}
