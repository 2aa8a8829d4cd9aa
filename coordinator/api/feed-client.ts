/**
 * One follower of the feed: a WebSocket and a place in the journal. Made by feed.ts. What comes next is looked up by
 * that place, whether the client resumes, lags or is up to date, so there is no hand-over between old and new rows in
 * which one could be lost or told twice. It never has more in memory than its buffer's bound and one row.
 */
import { WebSocket } from 'ws'
import { CLOSE_CODES, type CloseReason } from '../../protocol/errors.ts'
import type { FeedFrame } from '../../protocol/feed.ts'
import type { Driver } from '../driver.ts'
import type { Clock, Log, Store } from '../ports.ts'
import type { Caller } from './authentication.ts'
import { type RecentRows, rowFrame } from './feed-rows.ts'

/** With this much in its buffer a client gets no more; below the second it goes on. */
const BUFFER_BYTES_MAX = 1_048_576
const BUFFER_BYTES_ENOUGH = 524_288
/** A client that needs longer than this from the first to the second is too slow. */
const SLOW_MS_MAX = 10_000
const DEAD_MS = 45_000
/** A client that pings while it reads nothing gets no answers that would pile up. */
const PONG_BUFFER_BYTES_MAX = 65_536
const PAGE = 128

export type ClientPorts = {
  readonly driver: Pick<Driver, 'rev'>
  readonly store: Pick<Store, 'journal'>
  readonly clock: Pick<Clock, 'monotonicNow'>
  readonly log: Log
  readonly recent: RecentRows
  /** The client is full, and must be looked at until it is not. */
  readonly onFull: () => void
  readonly onEnd: (client: FeedClient) => void
}

export class FeedClient {
  readonly caller: Caller
  readonly #ports: ClientPorts
  readonly #socket: FeedSocket
  /** The last row that was handed to its socket. */
  #sent: number
  #heardAt: number
  /** Since when its buffer is full; null while there is room. */
  #fullSince: number | null = null
  #hasEnded = false
  #isResting = false

  constructor(ports: ClientPorts, socket: FeedSocket, caller: Caller, since: number) {
    this.caller = caller
    this.#ports = ports
    this.#socket = socket
    this.#sent = since
    this.#heardAt = ports.clock.monotonicNow()
    socket.onBroken = () => this.#over()
    socket.on('pong', () => (this.#heardAt = ports.clock.monotonicNow()))
    socket.on('ping', (data: Buffer) => socket.bufferedAmount < PONG_BUFFER_BYTES_MAX && socket.pong(data))
    socket.on('message', () => this.end('malformed', 'the feed takes no messages'))
    socket.on('error', (error) => ports.log.debug({ err: error }, 'a client of the feed broke off'))
    socket.on('close', () => this.#over())
  }

  greet(hello: Extract<FeedFrame, { t: 'hello' }>): void {
    this.#socket.send(JSON.stringify(hello))
    this.pump()
  }

  /**
   * Hands over what comes next, as far as the buffer takes it; goes on when that has drained. After each page from
   * the store everybody else has a turn: a client that is as fast as the disk must not hold up the coordinator.
   */
  pump(): void {
    const { driver, recent, clock, onFull } = this.#ports
    while (!this.#hasEnded && !this.#isResting && this.#fullSince === null && this.#sent < driver.rev()) {
      const frame = recent.frameOf(this.#sent + 1)
      const frames = frame === undefined ? this.#pageFromStore() : [frame]
      if (frames.length === 0) return
      if (frame === undefined) this.#rest()
      for (const next of frames) {
        if (this.#socket.bufferedAmount >= BUFFER_BYTES_MAX) {
          this.#fullSince = clock.monotonicNow()
          onFull()
          return
        }
        this.#sent += 1
        this.#socket.send(next, () => this.#drained())
      }
    }
  }

  /** True while the buffer is full; cuts the client off when that has lasted too long. */
  look(): boolean {
    if (this.#fullSince === null) return false
    if (this.#ports.clock.monotonicNow() - this.#fullSince < SLOW_MS_MAX) return true
    this.#ports.log.info({ sent: this.#sent }, 'a client of the feed was too slow and was cut off')
    this.end('slowConsumer', 'too slow; resume after the last row that arrived')
    return false
  }

  ping(): void {
    if (this.#ports.clock.monotonicNow() - this.#heardAt < DEAD_MS) this.#socket.ping()
    else this.end('silent', 'nothing was heard for too long')
  }

  end(reason: CloseReason, text: string): void {
    if (this.#hasEnded) return
    this.#over()
    this.#socket.close(CLOSE_CODES[reason], text)
  }

  #rest(): void {
    this.#isResting = true
    setImmediate(() => {
      this.#isResting = false
      this.pump()
    })
  }

  #over(): void {
    this.#hasEnded = true
    this.#ports.onEnd(this)
  }

  #drained(): void {
    if (this.#socket.bufferedAmount <= BUFFER_BYTES_ENOUGH) this.#fullSince = null
    this.pump()
  }

  #pageFromStore(): string[] {
    const { store, driver, log } = this.#ports
    const rows = store.journal({ since: this.#sent, limit: PAGE })
    const first = rows[0]
    if (first !== undefined && first.rev !== this.#sent + 1) {
      log.error({ expected: this.#sent + 1, found: first.rev }, 'the journal has a gap')
      this.end('goingAway', `row ${this.#sent + 1} is gone; begin anew without since`)
      return []
    }
    // The store may know of a row whose commit has not returned yet: nobody is told of that one.
    return rows.filter((row) => row.rev <= driver.rev()).map(rowFrame)
  }
}

/**
 * ws closes a connection that breaks the protocol by itself, with a code alone. This one says smith's code, with a
 * reason that a person can read.
 */
export class FeedSocket extends WebSocket {
  onBroken: (() => void) | null = null

  override close(code?: number, data?: string | Buffer): void {
    const problem = data === undefined && code !== undefined ? BROKEN.get(code) : undefined
    if (problem === undefined) {
      super.close(code, data)
      return
    }
    this.onBroken?.()
    super.close(CLOSE_CODES.malformed, problem)
  }
}

/** The codes that ws gives to what it can't accept (ws 8.23, lib/receiver.js). */
const BROKEN = new Map([
  [1002, 'a frame breaks the WebSocket protocol (RFC 6455)'],
  [1007, 'a text frame is not UTF-8'],
  [1008, 'the feed takes no messages, nor parts of one'],
  [1009, 'the feed takes no messages, let alone long ones'],
])
