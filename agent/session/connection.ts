/**
 * Keeps one connection to the coordinator: connects, proves the key, keeps it alive, and after a loss connects again
 * with a back-off. Used by agent.ts, which says hello when it is ready and handles the frames.
 * Invariant: a counter is on the disk before it is used in a proof, so that no counter is ever used twice.
 *
 *   waiting -> connecting -> proving -> open -> waiting
 */
import { join } from 'node:path'
import {
  AGENT_FRAME_BYTES_MAX,
  type AgentFrame,
  type CoordinatorFrame,
  authText,
  coordinatorFrameSchema,
} from '../../protocol/agent.ts'
import { decodeFrame } from '../../protocol/decode.ts'
import { CLOSE_CODES } from '../../protocol/errors.ts'
import { readIfExists, writeFileDurably } from '../disk/disk.ts'
import type { Layout } from '../disk/layout.ts'
import type { AgentPorts, Cancel, Link } from '../ports.ts'
import { problemOf } from './guard.ts'

export type WorkFrame = Exclude<CoordinatorFrame, { t: 'challenge' | 'ready' | 'ping' | 'pong' }>

export type ConnectionEvents = {
  /** The key is proved; hello is to be sent now. */
  readonly onReady: () => void
  readonly onFrame: (frame: WorkFrame) => void
  readonly onDown: () => void
}

export type ConnectionState = {
  readonly phase: 'stopped' | 'waiting' | 'connecting' | 'proving' | 'open'
  readonly since: number
  readonly problem: string | null
}

export type Connection = {
  readonly start: () => void
  readonly stop: () => void
  /** False when there is no open connection. */
  readonly send: (frame: AgentFrame) => boolean
  /** For text that is a frame already. */
  readonly sendText: (text: string) => boolean
  readonly bufferedBytes: () => number
  /** Ends an open connection to say hello again. */
  readonly renew: (reason: string) => void
  readonly state: () => ConnectionState
  /** By how much this machine's clock is ahead of the coordinator's, whose word of it came with `ready`. */
  readonly clockAheadMs: () => number | null
}

type Ports = Pick<AgentPorts, 'clock' | 'random' | 'disk' | 'layout' | 'log' | 'identity' | 'limits' | 'connect'>
type State = {
  readonly ports: Ports
  readonly events: ConnectionEvents
  readonly onState: (state: ConnectionState) => void
  phase: ConnectionState['phase']
  since: number
  problem: string | null
  link: Link | null
  timer: Cancel | null
  failures: number
  heardAt: number
  pings: number
  /** The coordinator's wall clock less our monotonic one. */
  theirOffsetMs: number | null
}

/** These ends are not cured by trying again soon: someone has to act on the coordinator or here. */
const LASTING = new Map<number, string>([
  [CLOSE_CODES.unauthenticated, 'The coordinator does not know this key; enrol the machine again.'],
  [CLOSE_CODES.notAllowed, 'The coordinator does not want this machine; if it was retired, enrol it again.'],
  [
    CLOSE_CODES.quarantined,
    'Two machines seem to hold this key (a clone, or a restored snapshot); enrol the machine again.',
  ],
  [CLOSE_CODES.version, 'Agent and coordinator speak different versions of the protocol; upgrade the older one.'],
])

export function createConnection(
  ports: Ports,
  events: ConnectionEvents,
  onState: (state: ConnectionState) => void,
): Connection {
  const s: State = {
    ports,
    events,
    onState,
    phase: 'stopped',
    since: ports.clock.wallNow(),
    problem: null,
    link: null,
    timer: null,
    failures: 0,
    heardAt: 0,
    pings: 0,
    theirOffsetMs: null,
  }
  return {
    start: () => {
      if (s.phase === 'stopped') connectNow(s)
    },
    stop: () => stop(s),
    send: (frame) => sendText(s, JSON.stringify(frame)),
    sendText: (text) => sendText(s, text),
    bufferedBytes: () => s.link?.bufferedBytes() ?? 0,
    renew: (reason) => {
      if (s.phase !== 'open') return
      const { link } = s
      s.link = null
      link?.close(CLOSE_CODES.goingAway, reason)
      down(s, reason, null)
    },
    state: () => ({ phase: s.phase, since: s.since, problem: s.problem }),
    clockAheadMs: () => {
      const { wallNow, monotonicNow } = s.ports.clock
      return s.theirOffsetMs === null ? null : wallNow() - (monotonicNow() + s.theirOffsetMs)
    },
  }
}

function setPhase(s: State, phase: ConnectionState['phase']): void {
  s.phase = phase
  s.since = s.ports.clock.wallNow()
  s.onState({ phase, since: s.since, problem: s.problem })
}

function arm(s: State, delayMs: number, callback: () => void): void {
  s.timer?.()
  s.timer = s.ports.clock.after(delayMs, () => {
    s.timer = null
    callback()
  })
}

function connectNow(s: State): void {
  setPhase(s, 'connecting')
  let link: Link | null = null
  link = s.ports.connect({
    onMessage: (data, isBinary) => {
      if (s.link === link) onMessage(s, data, isBinary)
    },
    onClosed: (code, reason) => {
      if (s.link === link) onClosed(s, code, reason)
    },
  })
  s.link = link
  arm(s, s.ports.limits.connectMs, () => drop(s, `no proof of the coordinator within ${s.ports.limits.connectMs} ms`))
}

/** Ends the connection by our own will; `onClosed` of the link comes too late to matter. */
function drop(s: State, problem: string): void {
  const { link } = s
  s.link = null
  link?.terminate()
  down(s, problem, null)
}

function refuse(s: State, problem: string): void {
  const { link } = s
  s.link = null
  // A reason has at most 123 bytes (RFC 6455 section 5.5); ASCII by construction but for the peer's own words.
  link?.close(CLOSE_CODES.malformed, problem.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 120))
  down(s, problem, CLOSE_CODES.malformed)
}

function onClosed(s: State, code: number | null, reason: string): void {
  s.link = null
  down(s, code === null ? reason : `closed by the coordinator with ${code} ${reason}`.trim(), code)
}

function down(s: State, problem: string, code: number | null): void {
  s.timer?.()
  s.timer = null
  const wasOpen = s.phase === 'open'
  const advice = code === null ? undefined : LASTING.get(code)
  const { reconnectMsMin, reconnectMsMax } = s.ports.limits
  const ceiling =
    advice === undefined ? Math.min(reconnectMsMax, reconnectMsMin * 2 ** Math.min(s.failures, 20)) : reconnectMsMax
  s.failures += 1
  // Full jitter: a thousand agents that lost one coordinator must not come back in one instant.
  const delayMs = Math.ceil(ceiling * fraction(s))
  const isNew = s.problem !== problem
  s.problem = problem
  setPhase(s, 'waiting')
  if (advice !== undefined)
    s.ports.log.error({ problem, code, remedy: advice, delayMs }, 'the coordinator refuses this machine')
  else s.ports.log[isNew || wasOpen ? 'warn' : 'debug']({ problem, delayMs }, 'not connected to the coordinator')
  if (wasOpen) s.events.onDown()
  arm(s, delayMs, () => connectNow(s))
}

function fraction(s: State): number {
  const bytes = s.ports.random.bytes(4)
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0) / 2 ** 32
}

function stop(s: State): void {
  s.timer?.()
  s.timer = null
  const { link } = s
  const wasOpen = s.phase === 'open'
  s.link = null
  setPhase(s, 'stopped')
  link?.close(CLOSE_CODES.goingAway, 'the agent is ending')
  if (wasOpen) s.events.onDown()
}

function sendText(s: State, text: string): boolean {
  if (s.phase !== 'open' || s.link === null) return false
  s.link.send(text)
  return true
}

function onMessage(s: State, data: string | Uint8Array, isBinary: boolean): void {
  s.heardAt = s.ports.clock.monotonicNow()
  const decoded = decodeFrame(coordinatorFrameSchema, data, isBinary, AGENT_FRAME_BYTES_MAX)
  if (!decoded.ok) {
    s.ports.log.error(
      { problem: decoded.refusal.message, remedy: decoded.refusal.remedy },
      'the coordinator sent a malformed frame',
    )
    refuse(s, `malformed frame: ${decoded.refusal.message}`)
    return
  }
  const frame = decoded.value
  if (s.phase === 'connecting' && frame.t === 'challenge') prove(s, frame)
  else if (s.phase === 'proving' && frame.t === 'ready') open(s, frame.at)
  else if (s.phase !== 'open' || frame.t === 'challenge' || frame.t === 'ready')
    refuse(s, `'${frame.t}' out of its order`)
  else onWorkFrame(s, frame)
}

function onWorkFrame(s: State, frame: Exclude<CoordinatorFrame, { t: 'challenge' | 'ready' }>): void {
  // Only what comes after the hello shows that the coordinator is content with it.
  s.failures = 0
  s.problem = null
  if (frame.t === 'ping') sendText(s, JSON.stringify({ t: 'pong', n: frame.n }))
  else if (frame.t !== 'pong') s.events.onFrame(frame)
}

function prove(s: State, challenge: Extract<CoordinatorFrame, { t: 'challenge' }>): void {
  const { identity, log } = s.ports
  if (challenge.instance !== identity.instance) {
    log.error(
      { instance: challenge.instance, expected: identity.instance },
      'this is another coordinator than the one that enrolled this machine',
    )
    drop(s, `the coordinator calls itself ${challenge.instance}, this machine is enrolled with ${identity.instance}`)
    return
  }
  let counter: number
  try {
    counter = nextCounter(s.ports)
  } catch (error) {
    log.error(
      { problem: problemOf(error), remedy: 'Free the disk, or enrol the machine again.' },
      'the counter of proofs could not be kept',
    )
    drop(s, `the counter of proofs could not be kept: ${problemOf(error)}`)
    return
  }
  const nonce = Buffer.from(s.ports.random.bytes(32)).toString('hex')
  const { machine } = identity
  const text = authText({
    coordinatorNonce: challenge.nonce,
    agentNonce: nonce,
    machine,
    incarnation: challenge.incarnation,
    counter,
  })
  const frame: AgentFrame = { t: 'auth', machine, nonce, counter, signature: identity.sign(Buffer.from(text)) }
  setPhase(s, 'proving')
  s.link?.send(JSON.stringify(frame))
}

function open(s: State, theirTime: number): void {
  s.heardAt = s.ports.clock.monotonicNow()
  s.theirOffsetMs = theirTime - s.heardAt
  setPhase(s, 'open')
  armPing(s)
  s.events.onReady()
}

function armPing(s: State): void {
  arm(s, s.ports.limits.pingMs, () => {
    const silentMs = s.ports.clock.monotonicNow() - s.heardAt
    if (silentMs >= s.ports.limits.deadMs) {
      drop(s, `nothing was heard from the coordinator for ${silentMs} ms`)
      return
    }
    s.pings += 1
    sendText(s, JSON.stringify({ t: 'ping', n: s.pings }))
    armPing(s)
  })
}

// --- the counter of proofs -----------------------------------------------------------------------------------

export function counterFile(layout: Layout): string {
  return join(layout.agent, 'counter')
}

/** Takes the next number and keeps that it is taken. Throws when the file is not what enrolment and this wrote. */
function nextCounter(ports: Pick<AgentPorts, 'disk' | 'layout'>): number {
  const path = counterFile(ports.layout)
  const text = readIfExists(ports.disk, path, 64)?.toString('utf8').trim()
  if (text === undefined)
    throw new Error(`${path} is missing; with another start of the counter the machine would be taken for a clone`)
  if (!/^[0-9]{1,15}$/.test(text)) throw new Error(`${path} holds no number`)
  const counter = Number(text) + 1
  writeFileDurably(ports.disk, path, `${counter}\n`, { mode: 0o600 })
  return counter
}
