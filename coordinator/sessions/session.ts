/**
 * One agent's connection as a step machine over a link: challenge, auth, ready, hello, then frames for the core one
 * at a time and in order. Made by sessions.ts for each link, driven by the link's events and the clock.
 * Invariants: before a key is proved nothing reaches the core; a frame reaches it only after the one before was
 * committed; whatever a peer sends ends at most its own connection.
 *
 *   challenged -> proved -> opening -> open
 *        \___________\_________\_________\___> closed
 */
import {
  type AgentFrame,
  AGENT_FRAME_BYTES_MAX,
  type CoordinatorFrame,
  agentFrameSchema,
} from '../../protocol/agent.ts'
import { decodeFrame } from '../../protocol/decode.ts'
import { CLOSE_CODES, type CloseReason, type Refusal, unreachable } from '../../protocol/errors.ts'
import type { AgentNews, Event } from '../domain/events.ts'
import type { Actor } from '../domain/state.ts'
import type { Driver } from '../driver.ts'
import type { Clock, Log } from '../ports.ts'
import { type Link, type LinkEvents, closeReason } from './link.ts'
import { checkProof } from './proof.ts'
import { type Bucket, type SessionSettings, createBucket } from './settings.ts'

/** `lost`: the peer or the network ended it. */
export type SessionEnd = CloseReason | 'lost'

export type SessionContext = {
  readonly driver: Pick<Driver, 'view' | 'submit'>
  readonly clock: Clock
  readonly log: Log
  readonly settings: SessionSettings
  readonly instance: string
  readonly incarnation: string
  readonly id: string
  readonly nonce: string
  /** The place of this connection among all that were taken. */
  readonly sequence: number
  /** The highest counter that any connection of this process proved for the machine, and how many were taken then. */
  readonly proved: (machine: string) => { readonly counter: number; readonly sequence: number }
  readonly onProved: (session: Session, machine: string, counter: number) => void
  /** The session that the machine's frames go to at present. */
  readonly current: (machine: string) => Session | undefined
  /** It said hello, so the machine's frames go to it from now on; answers the session that they went to before. */
  readonly onHello: (session: Session, machine: string) => Session | undefined
  readonly onEnd: (session: Session, end: SessionEnd) => void
  /** The core has taken the machine's hello. */
  readonly onOpen: (machine: string) => void
  /** A part of a health report: no news for the core. */
  readonly onReport: (machine: string, frame: ReportFrame) => void
}
export type ReportFrame = Extract<AgentFrame, { t: 'reportPart' | 'reportRefused' }>

export type Session = {
  readonly id: string
  readonly address: string
  readonly machine: () => string | null
  readonly start: () => void
  readonly send: (frame: CoordinatorFrame) => void
  /** Asks the peer for a sign of life; `then` is told once whether one came in `ms`. */
  readonly probe: (ms: number, then: (isAlive: boolean) => void) => void
  readonly close: (end: CloseReason, problem: string) => void
  readonly events: LinkEvents
}

type Cancel = () => void
type State = {
  readonly context: SessionContext
  readonly link: Link
  readonly messages: Bucket
  readonly bytes: Bucket
  readonly timers: { auth: Cancel | null; ping: Cancel | null; slow: Cancel | null; rate: Cancel | null }
  /** Frames that the core has not been asked about yet. */
  readonly queue: AgentNews[]
  /** Who waits for which pong. */
  readonly probes: Map<number, (isAlive: boolean) => void>
  self: Session
  phase: 'challenged' | 'proved' | 'opening' | 'open' | 'closed'
  machine: { readonly id: string; readonly name: string; readonly counter: number } | null
  bytesUnproved: number
  heardAt: number
  pings: number
  /** Set while the core decides about the hello or a frame. */
  turn: boolean
  /** True from the moment the core was told of the session until it is told of its end. */
  announced: boolean
  problem: string
  /** Nothing is read before this instant, because the peer has used up its share. */
  readFrom: number
  paused: boolean
}

export function createSession(context: SessionContext, link: Link): Session {
  const state: Omit<State, 'self'> = {
    context,
    link,
    messages: createBucket(context.settings.messagesPerSecondMax),
    bytes: createBucket(context.settings.bytesPerSecondMax),
    timers: { auth: null, ping: null, slow: null, rate: null },
    queue: [],
    probes: new Map(),
    phase: 'challenged',
    machine: null,
    bytesUnproved: 0,
    heardAt: context.clock.monotonicNow(),
    pings: 0,
    turn: false,
    announced: false,
    problem: '',
    readFrom: 0,
    paused: false,
  }
  const session: Session = {
    id: context.id,
    address: link.address,
    machine: () => s.machine?.id ?? null,
    start: () => start(s),
    send: (frame) => send(s, frame),
    probe: (ms, then) => probe(s, ms, then),
    close: (end, problem) => close(s, end, problem),
    events: {
      onMessage: (data, isBinary) => onMessage(s, data, isBinary),
      onBytes: (count) => onBytes(s, count),
      onBroken: (problem) => close(s, 'malformed', problem),
      onClosed: (reason) => onClosed(s, reason),
    },
  }
  const s: State = Object.assign(state, { self: session })
  return session
}

function start(s: State): void {
  const { authMs } = s.context.settings
  s.timers.auth = s.context.clock.after(authMs, () => {
    close(s, 'slowAuth', `no proof and hello within ${authMs} ms`)
  })
  send(s, { t: 'challenge', nonce: s.context.nonce, instance: s.context.instance, incarnation: s.context.incarnation })
}

function fieldsOf(s: State): object {
  return { session: s.context.id, machine: s.machine?.id, name: s.machine?.name, address: s.link.address }
}

// --- the end -------------------------------------------------------------------------------------------------

/** Ends the session by our own will: what was not handed to the core yet is dropped, and the peer is told why. */
function close(s: State, how: CloseReason, problem: string): void {
  if (s.phase === 'closed') return
  s.queue.length = 0
  endSession(s, how, problem)
  s.link.close(CLOSE_CODES[how], closeReason(problem))
  pump(s)
}

/** For a peer that takes nothing any more: no goodbye. */
function terminate(s: State, how: CloseReason, problem: string): void {
  if (s.phase === 'closed') return
  s.queue.length = 0
  endSession(s, how, problem)
  s.link.terminate()
  pump(s)
}

/** The connection is gone. What came in before was said, and is still handed to the core. */
function onClosed(s: State, reason: string): void {
  if (s.phase === 'closed') return
  endSession(s, 'lost', reason)
  pump(s)
}

function endSession(s: State, how: SessionEnd, problem: string): void {
  s.phase = 'closed'
  s.problem = problem
  for (const cancel of Object.values(s.timers)) cancel?.()
  for (const n of [...s.probes.keys()]) answerProbe(s, n, false)
  const isFault = how === 'malformed' || how === 'unauthenticated' || how === 'quarantined' || how === 'notAllowed'
  s.context.log[isFault ? 'warn' : 'info']({ ...fieldsOf(s), end: how, problem }, 'agent session ended')
  s.context.onEnd(s.self, how)
}

// --- to the peer ---------------------------------------------------------------------------------------------

function send(s: State, frame: CoordinatorFrame): void {
  if (s.phase === 'closed') return
  const text = JSON.stringify(frame)
  // A text may be longer in bytes than in units; only near the limit is it worth the exact count.
  if (text.length * 3 > AGENT_FRAME_BYTES_MAX && new TextEncoder().encode(text).length > AGENT_FRAME_BYTES_MAX) {
    s.context.log.error(
      { ...fieldsOf(s), frame: frame.t, characters: text.length },
      'a frame is larger than the protocol allows and was not sent',
    )
    return
  }
  s.link.send(text)
  if (s.timers.slow === null && s.link.bufferedBytes() > s.context.settings.bufferedBytesMax) {
    watchSlow(s, s.context.clock.monotonicNow())
  }
}

function watchSlow(s: State, since: number): void {
  const { bufferedBytesMax, bufferedMsMax } = s.context.settings
  s.timers.slow = s.context.clock.after(Math.max(1, Math.min(1000, bufferedMsMax / 4)), () => {
    s.timers.slow = null
    if (s.link.bufferedBytes() <= bufferedBytesMax) return
    const forMs = s.context.clock.monotonicNow() - since
    if (forMs < bufferedMsMax) watchSlow(s, since)
    else terminate(s, 'slowConsumer', `more than ${bufferedBytesMax} bytes were not taken for ${forMs} ms`)
  })
}

function armPing(s: State): void {
  s.timers.ping = s.context.clock.after(s.context.settings.pingMs, () => {
    const silentMs = s.context.clock.monotonicNow() - s.heardAt
    // A peer that we don't read can't be heard.
    if (silentMs >= s.context.settings.deadMs && !s.paused) {
      terminate(s, 'silent', `nothing was heard for ${silentMs} ms`)
      return
    }
    s.pings += 1
    send(s, { t: 'ping', n: s.pings })
    armPing(s)
  })
}

function probe(s: State, ms: number, then: (isAlive: boolean) => void): void {
  if (s.phase === 'closed') return then(false)
  s.pings += 1
  const n = s.pings
  const cancel = s.context.clock.after(ms, () => answerProbe(s, n, false))
  s.probes.set(n, (isAlive) => {
    cancel()
    then(isAlive)
  })
  send(s, { t: 'ping', n })
}

function answerProbe(s: State, n: number, isAlive: boolean): void {
  const then = s.probes.get(n)
  s.probes.delete(n)
  then?.(isAlive)
}

// --- from the peer -------------------------------------------------------------------------------------------

function onBytes(s: State, count: number): void {
  if (s.phase === 'closed') return
  if (s.phase === 'challenged') {
    const { unauthenticatedBytesMax } = s.context.settings
    s.bytesUnproved += count
    if (s.bytesUnproved > unauthenticatedBytesMax) {
      close(s, 'malformed', `more than ${unauthenticatedBytesMax} bytes before the key was proved`)
      return
    }
  }
  spend(s, s.bytes, count)
  regulate(s)
}

function onMessage(s: State, data: string | Uint8Array, isBinary: boolean): void {
  if (s.phase === 'closed') return
  s.heardAt = s.context.clock.monotonicNow()
  spend(s, s.messages, 1)
  const decoded = decodeFrame(agentFrameSchema, data, isBinary, AGENT_FRAME_BYTES_MAX)
  if (decoded.ok) onFrame(s, decoded.value)
  else close(s, 'malformed', `malformed frame: ${decoded.refusal.message}`)
  regulate(s)
}

function spend(s: State, bucket: Bucket, cost: number): void {
  const now = s.context.clock.monotonicNow()
  const waitMs = bucket.take(now, cost)
  if (waitMs > 0) s.readFrom = Math.max(s.readFrom, now + waitMs)
}

/** Reads on, unless the core or the share wants a pause. Called whenever one of the two may have changed. */
function regulate(s: State): void {
  if (s.phase === 'closed') return
  const now = s.context.clock.monotonicNow()
  if (s.readFrom > now && s.timers.rate === null) {
    s.timers.rate = s.context.clock.after(s.readFrom - now, () => {
      s.timers.rate = null
      regulate(s)
    })
  }
  const wanted = s.queue.length >= s.context.settings.queuedFramesMax || s.readFrom > now
  if (wanted === s.paused) return
  s.paused = wanted
  if (wanted) {
    s.link.pause()
  } else {
    s.heardAt = now
    s.link.resume()
  }
}

/** Which verb is legal in which phase; everything else ends the connection. */
function onFrame(s: State, frame: AgentFrame): void {
  switch (s.phase) {
    case 'challenged':
      if (frame.t === 'auth') onAuth(s, frame)
      else close(s, 'malformed', `'${frame.t}' before the key was proved; 'auth' must come first`)
      return
    case 'proved':
      if (frame.t === 'hello') onHello(s, frame)
      else close(s, 'malformed', `'${frame.t}' before 'hello'`)
      return
    case 'opening':
    case 'open':
      onOpenFrame(s, frame)
      return
    case 'closed':
      return
    default:
      unreachable(s.phase)
  }
}

function onOpenFrame(s: State, frame: AgentFrame): void {
  switch (frame.t) {
    case 'auth':
    case 'hello':
      close(s, 'malformed', `'${frame.t}' a second time on one connection`)
      return
    case 'ping':
      if (s.link.bufferedBytes() < s.context.settings.pongBufferedBytesMax) send(s, { t: 'pong', n: frame.n })
      return
    case 'pong':
      answerProbe(s, frame.n, true)
      return
    case 'reportPart':
    case 'reportRefused':
      if (s.phase === 'open' && s.machine !== null) s.context.onReport(s.machine.id, frame)
      return
    case 'planned':
    case 'planRefused':
    case 'prefetched':
    case 'granted':
    case 'records':
      s.queue.push(frame)
      pump(s)
      return
    default:
      unreachable(frame)
  }
}

function onAuth(s: State, frame: Extract<AgentFrame, { t: 'auth' }>): void {
  const row = s.context.driver.view.get('machines', frame.machine)
  const proved = s.context.proved(frame.machine)
  const counterMin = Math.max(row?.counter ?? 0, proved.counter) + 1
  const proof = checkProof({ frame, row, nonce: s.context.nonce, incarnation: s.context.incarnation, counterMin })
  if (row !== undefined && proof.isKeyProved) s.machine = { id: row.id, name: row.name, counter: frame.counter }
  if (proof.end === 'stale' && frame.counter < proved.counter && s.context.sequence <= proved.sequence) {
    // One holder, whose older connection was overtaken by its newer one: no sign of a clone, which would either use
    // a counter a second time or answer a challenge that came after the newer proof.
    close(s, 'superseded', `counter ${frame.counter} was overtaken by ${proved.counter} on a newer connection`)
  } else if (proof.end === 'stale') {
    endAsShared(s, frame.machine, proof.problem)
  } else if (proof.end !== null) {
    close(s, proof.end, proof.problem)
  } else {
    s.phase = 'proved'
    s.context.onProved(s.self, frame.machine, frame.counter)
    send(s, { t: 'ready', session: s.context.id, at: s.context.clock.wallNow() })
  }
}

function endAsShared(s: State, machine: string, problem: string): void {
  tell(s, { type: 'keyShared', machine, address: s.link.address, problem })
  close(s, 'quarantined', problem)
}

type Hello = Extract<AgentFrame, { t: 'hello' }>

/** A machine has left its older connection before it makes a newer one: where both are alive, two hold its key. */
function onHello(s: State, hello: Hello): void {
  if (s.machine === null || endIfOvertaken(s, s.machine)) return
  const machine = s.machine.id
  s.phase = 'opening'
  s.timers.auth?.()
  s.timers.auth = null
  const older = s.context.current(machine)
  if (older === undefined) return openSession(s, hello)
  s.turn = true
  older.probe(s.context.settings.takeoverMs, (isAlive) => {
    s.turn = false
    if (s.phase === 'closed') return
    if (isAlive) endAsShared(s, machine, `its connection from ${older.address} is alive: two machines hold one key`)
    else openSession(s, hello)
  })
}

function endIfOvertaken(s: State, { id, counter }: { readonly id: string; readonly counter: number }): boolean {
  const proved = s.context.proved(id)
  if (counter >= proved.counter) return false
  close(s, 'superseded', `counter ${counter} was overtaken by ${proved.counter} on a newer connection`)
  return true
}

function openSession(s: State, hello: Hello): void {
  if (s.machine === null || endIfOvertaken(s, s.machine)) return
  s.announced = true
  armPing(s)
  // What the core sends in the turn of this hello must find this connection.
  const before = s.context.onHello(s.self, s.machine.id)
  const { id: machine, counter } = s.machine
  take(s, { type: 'sessionOpened', machine, session: s.context.id, address: s.link.address, counter, hello }, 'hello')
  before?.close('superseded', `a newer connection of this machine came from ${s.link.address}`)
}

// --- to the core ---------------------------------------------------------------------------------------------

function actorOf(s: State): Actor {
  return { kind: 'machine', id: s.machine?.id ?? '', name: s.machine?.name ?? '' }
}

/** Hands the next frame to the core once it has answered about the last, and after all of them the end. */
function pump(s: State): void {
  if (s.turn || s.machine === null) return
  if (s.phase !== 'open' && s.phase !== 'closed') return
  const news = s.announced ? s.queue.shift() : undefined
  if (news !== undefined) {
    take(s, { type: 'agentNews', machine: s.machine.id, session: s.context.id, news }, news.t)
  } else if (s.phase === 'closed' && s.announced) {
    s.announced = false
    tell(s, { type: 'sessionClosed', machine: s.machine.id, session: s.context.id, reason: s.problem.slice(0, 500) })
  }
}

function take(s: State, event: Event, what: AgentFrame['t']): void {
  s.turn = true
  void s.context.driver.submit(actorOf(s), event).then(
    ({ reply }) => {
      s.turn = false
      if (!reply.ok) onRefused(s, what, reply.refusals)
      else if (what === 'hello' && s.phase === 'opening') {
        s.phase = 'open'
        s.context.log.info(fieldsOf(s), 'agent session open')
        if (s.machine !== null) s.context.onOpen(s.machine.id)
      }
      regulate(s)
      pump(s)
      return undefined
    },
    (error: unknown) => {
      s.turn = false
      s.announced = false
      s.context.log.error({ ...fieldsOf(s), error: String(error) }, 'the core takes no more events')
      close(s, 'goingAway', 'the coordinator is ending')
    },
  )
}

/** For what needs no answer. */
function tell(s: State, event: Event): void {
  s.context.driver.submit(actorOf(s), event).catch((error: unknown) => {
    s.context.log.error({ ...fieldsOf(s), event: event.type, error: String(error) }, 'the core takes no more events')
  })
}

/** The core's no to a hello ends the connection; its no to other news does so only when the peer broke a rule. */
function onRefused(s: State, what: AgentFrame['t'], refusals: readonly Refusal[]): void {
  const kind = refusals[0]?.kind
  const problem = refusals.map((one) => one.message).join('; ')
  const how = kind === undefined ? null : closeReasonOf(kind)
  if (what === 'hello') {
    s.announced = false
    close(s, how ?? 'notAllowed', problem)
  } else if (how === null) {
    s.context.log.warn({ ...fieldsOf(s), frame: what, problem }, 'the core refused what an agent said')
  } else {
    close(s, how, problem)
  }
}

function closeReasonOf(kind: Refusal['kind']): CloseReason | null {
  switch (kind) {
    case 'malformed':
    case 'too-large':
      return 'malformed'
    case 'unauthenticated':
      return 'unauthenticated'
    case 'not-allowed':
      return 'notAllowed'
    case 'quarantined':
      return 'quarantined'
    case 'superseded':
      return 'superseded'
    case 'version':
      return 'version'
    default:
      return null
  }
}
