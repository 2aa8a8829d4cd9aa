/**
 * The only loop of the coordinator: one turn in flight; step, check, commit, apply, send, tell the feed, arm the
 * timer, in that order. Everything that changes the state goes through `submit`. Nothing is sent, shown or answered
 * before its commit returned; a turn that can't be committed ends the coordinator, and nothing of it was said.
 */
import type { FeedRow } from '../protocol/feed.ts'
import type { Envelope, Event, Outcome, Reply, Send, Settings, Tools } from './domain/events.ts'
import type { View } from './domain/draft.ts'
import { checkWrites } from './domain/invariants.ts'
import { journalName } from './domain/planning.ts'
import { step } from './domain/step.ts'
import { nextWake } from './domain/clock.ts'
import { type Actor, type Instant, TABLES, type TableName, type Tables, type Write } from './domain/state.ts'
import type { Clock, Log, Outbound, Store } from './ports.ts'

export type { View } from './domain/draft.ts'

export type Driver = {
  readonly view: View
  /** Resolves after the commit; `rev` is the newest journal row then. Rejects only when the coordinator must end. */
  readonly submit: (actor: Actor, event: Event) => Promise<{ readonly reply: Reply; readonly rev: number }>
  /** Calls back with each journal row after its commit, in order; the answer ends it. Must not throw. */
  readonly onRow: (listener: (row: FeedRow) => void) => () => void
  readonly rev: () => number
  /** The instant of the coordinator's clock, which never goes back. */
  readonly now: () => Instant
  readonly start: () => Promise<void>
  readonly stop: () => Promise<void>
}

export type DriverPorts = {
  readonly store: Store
  readonly clock: Clock
  readonly tools: Tools
  readonly settings: Settings
  readonly log: Log
  readonly outbound: Outbound
  /** The core's step, where something is added to it: the outbox of a provider, or a bug that the simulator plants. */
  readonly core?: typeof step
  /** The step of the provider that lives in this process, and the events that are its own. */
  readonly local?: {
    readonly isLocal: (event: Event) => boolean
    readonly step: (view: View, envelope: Envelope, tools: Tools) => Outcome
  }
  /** Called once when the coordinator must end: the state on disk is good, the state in memory no longer counts. */
  readonly onFatal: (error: Error) => void
}

type Waiting = {
  readonly actor: Actor
  readonly event: Event
  readonly resolve: (answer: { reply: Reply; rev: number }) => void
  readonly reject: (error: Error) => void
}

/** How far the wall clock may run ahead of the monotonic one before the coordinator's clock follows it. */
const CLOCK_AHEAD_MS_MAX = 2000
/** A timer of Node takes at most 2^31 - 1 ms; it is armed again when it fires. */
const TIMER_MS_MAX = 2 ** 30

export function createDriver(ports: DriverPorts): Driver {
  const loop = new Loop(ports)
  return {
    view: loop.view,
    submit: (actor, event) => loop.submit(actor, event),
    now: () => loop.now(),
    rev: () => loop.rev(),
    onRow: (listener) => loop.onRow(listener),
    start: async () => {
      await loop.submit({ kind: 'smith' }, { type: 'opened' })
    },
    stop: () => loop.stop(),
  }
}

/** Owns the queue, the timer, and the state in memory. */
class Loop {
  readonly view: View
  readonly #ports: DriverPorts
  readonly #apply: (writes: readonly Write[]) => void
  readonly #listeners = new Set<(row: FeedRow) => void>()
  readonly #queue: Waiting[] = []
  #isBusy = false
  #isStopping = false
  #failure: Error | null = null
  #rev: number
  #anchor: { readonly wall: number; readonly monotonic: number }
  #timer: { readonly at: Instant; readonly disarm: () => void } | null = null

  constructor(ports: DriverPorts) {
    const { store, clock } = ports
    const memory = createMemory(store)
    this.#ports = ports
    this.view = memory.view
    this.#apply = memory.apply
    this.#rev = store.rev()
    this.#anchor = { wall: Math.max(clock.wallNow(), store.lastAt()), monotonic: clock.monotonicNow() }
  }

  rev(): number {
    return this.#rev
  }

  /** Monotonic since the anchor; it follows a wall clock that runs ahead and never one that goes back. */
  now(): Instant {
    const { clock, log } = this.#ports
    const at = Math.floor(this.#anchor.wall + (clock.monotonicNow() - this.#anchor.monotonic))
    const wall = clock.wallNow()
    if (wall - at <= CLOCK_AHEAD_MS_MAX) return at
    log.warn({ aheadMs: wall - at }, 'the wall clock jumped ahead')
    this.#anchor = { wall, monotonic: clock.monotonicNow() }
    return wall
  }

  onRow(listener: (row: FeedRow) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  submit(actor: Actor, event: Event): Promise<{ reply: Reply; rev: number }> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null || this.#isStopping) {
        reject(this.#failure ?? new Error('the coordinator is stopping'))
        return
      }
      this.#queue.push({ actor, event, resolve, reject })
      void this.#pump()
    })
  }

  /** What was asked before this is answered; what comes later is not begun. */
  async stop(): Promise<void> {
    if (this.#failure === null && !this.#isStopping) {
      const last = this.submit({ kind: 'smith' }, { type: 'tick' })
      this.#isStopping = true
      await last
    }
    this.#failure ??= new Error('the coordinator has stopped')
    this.#timer?.disarm()
  }

  async #pump(): Promise<void> {
    if (this.#isBusy) return
    this.#isBusy = true
    try {
      for (let waiting = this.#queue.shift(); waiting !== undefined; waiting = this.#queue.shift()) {
        try {
          await this.#turn(waiting)
        } catch (error) {
          const cause = error instanceof Error ? error : new Error(String(error))
          waiting.reject(cause)
          this.#fail(cause)
          return
        }
        // After each turn, not when the queue is empty: on a busy instance it never is.
        this.#arm()
      }
    } finally {
      this.#isBusy = false
    }
  }

  async #turn(waiting: Waiting): Promise<void> {
    const { view } = this
    const ports = this.#ports
    const envelope: Envelope = { at: this.now(), actor: waiting.actor, event: waiting.event }
    const core = ports.core ?? step
    const run = ports.local?.isLocal(waiting.event) === true ? ports.local.step : core
    const outcome = run(view, envelope, ports.tools)
    checkWrites(view, outcome.writes, ports.tools.calendar)
    const row = await this.#commit(envelope, outcome)
    this.#apply(outcome.writes)
    this.#send(outcome.sends)
    if (row !== null) for (const listener of this.#listeners) listener(row)
    waiting.resolve({ reply: outcome.reply, rev: this.#rev })
  }

  async #commit(envelope: Envelope, outcome: Outcome): Promise<FeedRow | null> {
    const stored = outcome.writes.filter((write) => TABLES[write.table].stored)
    if (stored.length === 0 && outcome.logs.length === 0 && outcome.facts.length === 0) return null
    const { at } = envelope
    const row: FeedRow = { rev: this.#rev + 1, at, actor: journalName(envelope.actor), facts: [...outcome.facts] }
    const { rev, actor } = row
    const done = this.#ports.store.commit({ rev, at, actor, row, writes: stored, logs: outcome.logs })
    if (done !== undefined) await done
    this.#rev = row.rev
    return row
  }

  #send(sends: readonly Send[]): void {
    const { outbound } = this.#ports
    for (const send of sends) {
      if (send.to === 'agent') outbound.toAgent(send)
      else if (send.to === 'change') outbound.toChange(send.call)
      else if (send.to === 'lookup') outbound.toLookup?.(send.event)
      else this.#submitOwn({ kind: 'change' }, send.event)
    }
  }

  /** Nobody waits for the answer; that it is refused means that the coordinator ends. */
  #submitOwn(actor: Actor, event: Event): void {
    this.submit(actor, event).catch((error: unknown) =>
      this.#ports.log.debug({ err: error }, 'not taken: the coordinator ends'),
    )
  }

  #fail(error: Error): void {
    if (this.#failure !== null) return
    this.#failure = error
    this.#timer?.disarm()
    this.#ports.log.error({ err: error }, 'the coordinator must end')
    for (const waiting of this.#queue.splice(0)) waiting.reject(error)
    this.#ports.onFatal(error)
  }

  /** A timer that is set fires at its time, whatever comes in the meantime: a busy coordinator must wake too. */
  #arm(): void {
    const { clock, settings } = this.#ports
    const at = this.now()
    const wake = nextWake(this.view, settings, at)
    if (wake !== null && this.#failure === null && this.#timer !== null && this.#timer.at <= wake) return
    this.#timer?.disarm()
    this.#timer = null
    if (wake === null || this.#failure !== null) return
    const delayMs = Math.min(wake - at, TIMER_MS_MAX)
    const disarm = clock.after(delayMs, () => {
      this.#timer = null
      this.#submitOwn({ kind: 'smith' }, { type: 'tick' })
    })
    this.#timer = { at: at + delayMs, disarm }
  }
}

/** The live rows in memory, by table and key. */
function createMemory(store: Store): { readonly view: View; readonly apply: (writes: readonly Write[]) => void } {
  const tables = new Map<TableName, Map<string, Tables[TableName]>>()
  for (const name of Object.keys(TABLES) as TableName[]) tables.set(name, new Map())
  for (const { table, key, row } of store.load()) if (TABLES[table].inView) tables.get(table)?.set(key, row)
  const rowsOf = <Name extends TableName>(table: Name) => tables.get(table) as Map<string, Tables[Name]>
  return {
    view: {
      get: (table, key) => rowsOf(table).get(key),
      entries: (table) => rowsOf(table).entries(),
      all: (table) => rowsOf(table).values(),
      size: (table) => rowsOf(table).size,
      archived: (table, key) => (TABLES[table].stored ? store.get(table, key) : undefined),
    },
    apply: (writes) => {
      for (const { table, key, row, live } of writes) {
        if (row === null || !live) tables.get(table)?.delete(key)
        else tables.get(table)?.set(key, row)
      }
    },
  }
}
