/**
 * The only loop of the coordinator: one turn in flight; step, check, commit, apply, send, tell the feed, arm the
 * timer, in that order. Everything that changes the state goes through `submit`. Nothing is sent, shown or answered
 * before its commit returned; a turn that can't be committed ends the coordinator, and nothing of it was said.
 */
import type { FeedRow } from '../protocol/feed.ts'
import type { Envelope, Event, Outcome, Reply, Settings, Tools } from './domain/events.ts'
import type { View } from './domain/draft.ts'
import { checkWrites } from './domain/invariants.ts'
import { actorName } from './domain/planning.ts'
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
  /** The core's step; given only by the simulator, which plants bugs in it. */
  readonly core?: typeof step
  /** The step of the provider that lives in this process, and the events that are its own. */
  readonly local?: { readonly isLocal: (event: Event) => boolean; readonly step: (view: View, envelope: Envelope, tools: Tools) => Outcome }
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

export function createDriver(ports: DriverPorts): Driver {
  const { store, clock, log } = ports
  const memory = createMemory(store)
  const listeners = new Set<(row: FeedRow) => void>()
  const queue: Waiting[] = []
  let isBusy = false
  let failure: Error | null = null
  let rev = store.rev()
  let anchor = { wall: Math.max(clock.wallNow(), store.lastAt()), monotonic: clock.monotonicNow() }
  let timer: { readonly at: Instant; readonly disarm: () => void } | null = null
  let isStopping = false

  /** Monotonic since the anchor; it follows a wall clock that runs ahead and never one that goes back. */
  const now = (): Instant => {
    const at = Math.floor(anchor.wall + (clock.monotonicNow() - anchor.monotonic))
    const wall = clock.wallNow()
    if (wall - at > CLOCK_AHEAD_MS_MAX) {
      log.warn({ aheadMs: wall - at }, 'the wall clock jumped ahead')
      anchor = { wall, monotonic: clock.monotonicNow() }
      return wall
    }
    return at
  }

  const fail = (error: Error) => {
    if (failure !== null) return
    failure = error
    timer?.disarm()
    log.error({ err: error }, 'the coordinator must end')
    for (const waiting of queue.splice(0)) waiting.reject(error)
    ports.onFatal(error)
  }

  const isOwn = (event: Event) => ports.local?.isLocal(event) ?? false

  const turn = async (waiting: Waiting): Promise<void> => {
    const envelope: Envelope = { at: now(), actor: waiting.actor, event: waiting.event }
    const core = ports.core ?? step
    const run = isOwn(waiting.event) ? (ports.local?.step ?? core) : core
    const outcome = run(memory.view, envelope, ports.tools)
    checkWrites(memory.view, outcome.writes)
    const row = await commit(envelope, outcome)
    memory.apply(outcome.writes)
    for (const send of outcome.sends) {
      if (send.to === 'agent') ports.outbound.toAgent(send)
      else if (send.to === 'change') ports.outbound.toChange(send.call)
      else void submit({ kind: 'change' }, send.event).catch((error: unknown) => log.debug({ err: error }, 'not taken: the coordinator ends'))
    }
    if (row !== null) for (const listener of listeners) listener(row)
    waiting.resolve({ reply: outcome.reply, rev })
  }

  const commit = async (envelope: Envelope, outcome: Outcome): Promise<FeedRow | null> => {
    const stored = outcome.writes.filter((write) => TABLES[write.table].stored)
    if (stored.length === 0 && outcome.logs.length === 0 && outcome.facts.length === 0) return null
    const row: FeedRow = { rev: rev + 1, at: envelope.at, actor: actorName(envelope.actor), facts: [...outcome.facts] }
    const done = store.commit({ rev: row.rev, at: row.at, actor: row.actor, row, writes: stored, logs: outcome.logs })
    if (done !== undefined) await done
    rev = row.rev
    return row
  }

  const pump = async (): Promise<void> => {
    if (isBusy) return
    isBusy = true
    try {
      for (let waiting = queue.shift(); waiting !== undefined; waiting = queue.shift()) {
        try {
          await turn(waiting)
        } catch (error) {
          const cause = error instanceof Error ? error : new Error(String(error))
          waiting.reject(cause)
          fail(cause)
          return
        }
      }
      arm()
    } finally {
      isBusy = false
    }
  }

  /** A timer that is set fires at its time, whatever comes in the meantime: a busy coordinator must wake too. */
  const arm = () => {
    const at = now()
    const wake = nextWake(memory.view, ports.settings, at)
    if (wake !== null && failure === null && timer !== null && timer.at <= wake) return
    timer?.disarm()
    timer = null
    if (wake === null || failure !== null) return
    // A timer of Node takes at most 2^31 - 1 ms; it is armed again when it fires.
    const disarm = clock.after(Math.min(wake - at, 2 ** 30), () => {
      timer = null
      void submit({ kind: 'smith' }, { type: 'tick' }).catch((error: unknown) => log.debug({ err: error }, 'no tick: the coordinator ends'))
    })
    timer = { at: Math.min(wake, at + 2 ** 30), disarm }
  }

  const submit = (actor: Actor, event: Event) =>
    new Promise<{ reply: Reply; rev: number }>((resolve, reject) => {
      if (failure !== null || isStopping) {
        reject(failure ?? new Error('the coordinator is stopping'))
        return
      }
      queue.push({ actor, event, resolve, reject })
      void pump()
    })

  return {
    view: memory.view,
    submit,
    now,
    rev: () => rev,
    onRow: (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    start: async () => {
      await submit({ kind: 'smith' }, { type: 'opened' })
    },
    stop: async () => {
      if (failure === null && !isStopping) {
        const last = submit({ kind: 'smith' }, { type: 'tick' })
        // What was asked before this is answered; what comes later is not begun.
        isStopping = true
        await last
      }
      failure ??= new Error('the coordinator has stopped')
      timer?.disarm()
    },
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
