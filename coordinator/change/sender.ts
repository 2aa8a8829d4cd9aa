/**
 * Makes the calls of the outbox: those of one change one after another, in their order, each again until it is done,
 * later and later, or when the other side says. Nothing waits for it, so a provider that is down stops no machine.
 */
import type { View } from '../domain/draft.ts'
import type { Delivered, Event } from '../domain/events.ts'
import type { OutboxRow, RemoteChange } from '../domain/state.ts'
import type { Clock, Log, Random } from '../ports.ts'
import { deliveredEvent, nextCall } from './outbox.ts'

/** Thrown by a delivery that did not come to an end. */
export class CallError extends Error {
  /** The least time until it is tried again. */
  readonly retryMs: number
  constructor(message: string, options: { readonly retryMs?: number; readonly cause?: unknown } = {}) {
    super(message, { cause: options.cause })
    this.name = 'CallError'
    this.retryMs = options.retryMs ?? 0
  }
}

/** How a call is made. It may have been made before, and is made in a way that then changes nothing. */
export type Deliver = (row: OutboxRow, change: RemoteChange, tried: Tried) => Promise<Delivered>
export type Tried = {
  /** True when nothing of it can have been sent: the row was made in this life, and this is its first try. */
  readonly isFirst: boolean
}

export type SenderPorts = {
  readonly view: View
  readonly submit: (event: Event) => Promise<unknown>
  readonly deliver: Deliver
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly limits: { readonly retryMsMin: number; readonly retryMsMax: number; readonly parallelMax: number }
}

export type Sender = {
  /** There may be something to send for the project. */
  readonly wake: (project: string) => void
  /** Takes up what a former life has left. */
  readonly start: () => void
  readonly stop: () => void
  /** Why the calls of a project don't go on, null when they do. */
  readonly problem: (project: string) => string | null
}

type Lane = { tries: number; place: number; problem: string | null; disarm: (() => void) | null }

export function createSender(ports: SenderPorts): Sender {
  const lanes = new Lanes(ports)
  return {
    wake: (project) => lanes.wake(project),
    start: () => {
      for (const change of ports.view.all('remoteChanges')) lanes.wake(change.project)
    },
    stop: () => lanes.stop(),
    problem: (project) => lanes.problem(project),
  }
}

/** Owns one lane for each project that has something to send; a lane is ready, at work, or waits for its next try. */
class Lanes {
  readonly #ports: SenderPorts
  readonly #lanes = new Map<string, Lane>()
  readonly #ready: string[] = []
  /** What a former life has left: it may have been sent. */
  readonly #old: ReadonlySet<string>
  #working = 0
  #isStopped = false

  constructor(ports: SenderPorts) {
    this.#ports = ports
    this.#old = new Set([...ports.view.all('outbox')].map((row) => `${row.project} ${row.place}`))
  }

  problem(project: string): string | null {
    return this.#lanes.get(project)?.problem ?? null
  }

  wake(project: string): void {
    if (this.#isStopped || this.#lanes.has(project)) return
    this.#lanes.set(project, { tries: 0, place: -1, problem: null, disarm: null })
    this.#begin(project)
  }

  stop(): void {
    this.#isStopped = true
    for (const lane of this.#lanes.values()) lane.disarm?.()
  }

  #begin(project: string): void {
    this.#ready.push(project)
    this.#pump()
  }

  #pump(): void {
    if (this.#isStopped || this.#working >= this.#ports.limits.parallelMax) return
    const project = this.#ready.shift()
    if (project === undefined) return
    this.#working += 1
    void this.#attempt(project)
    this.#pump()
  }

  async #attempt(project: string): Promise<void> {
    try {
      await this.#work(project)
    } catch (error) {
      // Only a coordinator that ends takes no events any more.
      this.#ports.log.debug({ err: error, project }, 'the outbox ends with the coordinator')
    }
    this.#working -= 1
    this.#pump()
  }

  async #work(project: string): Promise<void> {
    const { view, deliver, submit } = this.#ports
    const lane = this.#lanes.get(project)
    const row = nextCall(view, project)
    const change = view.get('remoteChanges', project)
    if (lane === undefined || row === undefined || change === undefined) {
      this.#lanes.delete(project)
      return
    }
    if (lane.place !== row.place) Object.assign(lane, { place: row.place, tries: 0 })
    const isFirst = lane.tries === 0 && !this.#old.has(`${project} ${row.place}`)
    lane.tries += 1
    let delivered: Delivered
    try {
      delivered = await deliver(row, change, { isFirst })
    } catch (error) {
      this.#again(lane, row, error)
      return
    }
    if (this.#isStopped) return
    await submit(deliveredEvent(row, delivered))
    lane.problem = null
    this.#ready.push(project)
  }

  #again(lane: Lane, row: OutboxRow, error: unknown): void {
    if (this.#isStopped) return
    const { clock, log } = this.#ports
    const problem = error instanceof Error ? error.message : String(error)
    const waitMs = Math.max(error instanceof CallError ? error.retryMs : 0, this.#backoffMs(lane.tries))
    const about = { project: row.project, call: row.call.call, waitMs }
    // What is no CallError is a defect of ours: its stack is wanted.
    if (error instanceof CallError) log.warn({ ...about, problem }, 'not delivered')
    else log.error({ ...about, err: error }, 'not delivered')
    lane.problem = problem
    lane.disarm = clock.after(waitMs, () => {
      lane.disarm = null
      this.#begin(row.project)
    })
  }

  /** Doubles with each try; a quarter of it is chance, so that not all come back at once. */
  #backoffMs(tries: number): number {
    const { limits, random } = this.#ports
    const full = Math.min(limits.retryMsMin * 2 ** Math.min(tries - 1, 20), limits.retryMsMax)
    return Math.round(full * (0.75 + (random.bytes(1)[0] ?? 0) / 1024))
  }
}
