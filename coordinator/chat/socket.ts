/**
 * The connection by which Slack delivers: Slack's own Socket Mode client, one for each connection. Its reconnecting
 * is off, since one that meets a revoked token ends the process, and leaves a gap of seconds at each refresh. Here
 * the next connection stands before the old one goes. Nothing that Slack sends or does ends more than a connection.
 */
import { SocketModeClient } from '@slack/socket-mode'
import type { Clock, Log } from '../ports.ts'
import { type ChatTimes, type Envelope, SlackError } from './ports.ts'
import { clientOptions, problemOf } from './slack.ts'

export type SocketPorts = {
  readonly apiUrl: string
  readonly appToken: () => string
  readonly clock: Clock
  readonly log: Log
  readonly times: ChatTimes
  /** What it returned for is acknowledged; when it throws, Slack delivers again. */
  readonly onEnvelope: (envelope: Envelope) => void
  /** Rejects when there is no use in a connection. */
  readonly beforeOpen: () => Promise<void>
  /** Null when connected, else why not. */
  readonly onState: (problem: string | null) => void
}
export type Socket = { readonly start: () => void; readonly stop: () => Promise<void> }

type Delivered = { readonly ack: () => Promise<void>; readonly type: string; readonly body: unknown }
type End = 'refresh' | 'crowded' | 'closed' | 'stopped'
type Link = { readonly client: SocketModeClient; readonly end: Promise<End> }

export function createSocket(ports: SocketPorts): Socket {
  return new Keeper(ports)
}

class Keeper implements Socket {
  readonly #ports: SocketPorts
  #isOn = false
  #running: Promise<void> = Promise.resolve()
  #wake = () => {}

  constructor(ports: SocketPorts) {
    this.#ports = ports
  }

  start(): void {
    this.#isOn = true
    this.#running = this.#keep()
  }

  async stop(): Promise<void> {
    this.#isOn = false
    this.#wake()
    await this.#running
  }

  async #keep(): Promise<void> {
    const { times, onState, log } = this.#ports
    let old: Link | null = null
    let failures = 0
    while (this.#isOn) {
      let link: Link
      try {
        link = await this.#open()
        failures = 0
        onState(null)
      } catch (error) {
        const { problem, text } = explain(error)
        log.debug({ err: error }, 'no connection to Slack')
        onState(text)
        const backOff = Math.min(times.reconnectMax, times.reconnect * 1.5 ** Math.min(failures, 20))
        failures += 1
        await this.#pause(problem === 'revoked' ? times.revoked : backOff)
        continue
      }
      letGo(old)
      const end: End = await Promise.race([link.end, this.#stopped()])
      log.debug({ end }, 'the connection to Slack ends')
      old = end === 'refresh' ? link : null
      if (old === null) letGo(link)
      // Too many connections: one must be gone before another is asked for.
      if (end === 'crowded' || end === 'closed') await this.#pause(times.reconnect)
    }
    letGo(old)
  }

  #stopped(): Promise<End> {
    return new Promise((resolve) => {
      if (!this.#isOn) resolve('stopped')
      this.#wake = () => resolve('stopped')
    })
  }

  #pause(delayMs: number): Promise<void> {
    if (!this.#isOn) return Promise.resolve()
    return new Promise((resolve) => {
      const cancel = this.#ports.clock.after(delayMs, resolve)
      this.#wake = () => {
        cancel()
        resolve()
      }
    })
  }

  async #open(): Promise<Link> {
    const { apiUrl, appToken, clock, log, times } = this.#ports
    await this.#ports.beforeOpen()
    const options = clientOptions(apiUrl, times.call, log)
    const client = new SocketModeClient({
      appToken: secretOf(appToken),
      autoReconnectEnabled: false,
      clientOptions: options,
      ...(options.logger === undefined ? {} : { logger: options.logger }),
    })
    let finish: (end: End) => void = () => {}
    const end = new Promise<End>((resolve) => (finish = resolve))
    this.#guard(client, finish)
    client.on('disconnected', () => finish('closed'))
    client.on('slack_event', (delivered: Delivered) => this.#take(delivered))
    // A connection that is never greeted would be waited for without end.
    let cancel = () => {}
    const silence = new Promise<never>((_, reject) => {
      cancel = clock.after(times.call * 1.5, () => reject(new Error('Slack did not greet the connection')))
    })
    const started = client.start()
    started.catch((error: unknown) => log.debug({ err: error }, 'a connection to Slack was not made'))
    try {
      await Promise.race([started, silence])
    } catch (error) {
      letGo({ client, end })
      // The client says nothing when the connection was closed before it was greeted.
      throw error instanceof Error ? error : new Error('Slack closed the connection before it greeted it')
    } finally {
      cancel()
    }
    return { client, end }
  }

  /** Stands between the connection and the client's own reading, whose failures nobody else would catch. */
  #guard(client: SocketModeClient, finish: (end: End) => void): void {
    const { log } = this.#ports
    const [read] = client.listeners('ws_message') as ((data: unknown, isBinary: boolean) => unknown)[]
    client.removeAllListeners('ws_message')
    client.on('ws_message', (data: unknown, isBinary: boolean) => {
      const frame = frameOf(data)
      if (frame.type === 'disconnect') {
        finish(frame.reason === 'too_many_websockets' || frame.reason === 'link_disabled' ? 'crowded' : 'refresh')
        return
      }
      // The client's reading stumbles over the word that Slack limits this app, which bears no event.
      if (frame.type === 'events_api' && frame.payload?.event === undefined) {
        this.#take({ ack: () => Promise.resolve(), type: 'events_api', body: frame.payload })
        return
      }
      const reading = async () => read?.(data, isBinary)
      reading().catch((error: unknown) =>
        log.warn({ err: error, type: frame.type }, 'Slack sent what is not understood'),
      )
    })
  }

  #take({ ack, type, body }: Delivered): void {
    const { log, onEnvelope } = this.#ports
    try {
      onEnvelope({ type, body })
    } catch (error) {
      log.error({ err: error, type }, 'an event of Slack was not taken; Slack will deliver it again')
      return
    }
    ack().catch((error: unknown) => log.debug({ err: error }, 'not acknowledged; Slack delivers again'))
  }
}

function secretOf(read: () => string): string {
  try {
    return read()
  } catch (error) {
    throw new SlackError({ kind: 'revoked' }, `the app token can't be read: ${String(error)}`, error)
  }
}

/** Twice: the first sends a close frame, the second does not wait for an answer to it. */
function letGo(link: Link | null): void {
  if (link === null) return
  for (let count = 0; count < 2; count += 1) void link.client.disconnect()
}

type Frame = {
  readonly type?: unknown
  readonly reason?: unknown
  readonly payload?: { readonly event?: unknown } | null
}

function frameOf(data: unknown): Frame {
  if (typeof data !== 'string') return {}
  try {
    const value: unknown = JSON.parse(data)
    return typeof value === 'object' && value !== null ? value : {}
  } catch (error) {
    // The client's own reading says what it is.
    return { type: String(error) }
  }
}

function explain(error: unknown): { readonly problem: string; readonly text: string } {
  const text = error instanceof Error ? error.message : String(error)
  const problem = error instanceof SlackError ? error.problem : problemOf(error)
  return { problem: problem.kind, text }
}
