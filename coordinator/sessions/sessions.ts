/**
 * All connections of agents: who is connected, which connection is the machine's, and what the core sends to it.
 * The composition makes one, gives it links (websocket.ts, or a simulator's) and passes the core's sends.
 * Invariants: at most one connection a machine is current, the newest that proved its key and said hello; frames of
 * the core go to that one or nowhere, since each of them is derived again from the state at the next hello.
 */
import { Buffer } from 'node:buffer'
import type { CoordinatorFrame } from '../../protocol/agent.ts'
import { CLOSE_CODES, unreachable } from '../../protocol/errors.ts'
import { GRANT_SIGNATURE_PREFIX, type GrantPayload } from '../../protocol/files.ts'
import type { StoredPlan } from '../domain/state.ts'
import type { Driver } from '../driver.ts'
import type { AgentSend, Clock, Log, Random, Store } from '../ports.ts'
import { type Link, type LinkEvents, closeReason } from './link.ts'
import { type ReportFrame, type Session, type SessionEnd, createSession } from './session.ts'
import { SESSION_SETTINGS, type SessionSettings } from './settings.ts'

/** Signs exact bytes with the order key: base64, and the SHA-256 of the verifying key (SPKI, DER) in hexadecimal. */
export type SignGrant = (bytes: Uint8Array) => { readonly signature: string; readonly keyId: string }

export type SessionsPorts = {
  readonly driver: Pick<Driver, 'view' | 'submit'>
  readonly store: Pick<Store, 'get'>
  readonly sign: SignGrant
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly settings?: Partial<SessionSettings>
  readonly instance: string
  /** Random at each start of the coordinator. */
  readonly incarnation: string
  readonly onOpen?: (machine: string) => void
  readonly onReport?: (machine: string, frame: ReportFrame) => void
}

export type Sessions = {
  readonly settings: SessionSettings
  /** Why no more connections are taken from an address now, or null. */
  readonly refusalFor: (address: string) => string | null
  /** Takes a connection and answers where its events go; it may be closed when this returns. */
  readonly accept: (link: Link) => LinkEvents
  /** Passes what the core sends; never throws, and drops what is for a machine that is not connected. */
  readonly send: (send: AgentSend) => void
  /** The same for a frame that no turn of the core made. */
  readonly sendFrame: (machine: string, frame: CoordinatorFrame) => void
  readonly stats: () => SessionsStats
  /** Closes every connection and takes no more. */
  readonly stop: () => void
}

export type SessionsStats = {
  readonly connected: number
  readonly unauthenticated: number
  /** How many connections ended in which way, since the start. */
  readonly ended: Readonly<Partial<Record<SessionEnd, number>>>
}

type Registry = {
  readonly ports: SessionsPorts
  readonly settings: SessionSettings
  readonly all: Set<Session>
  readonly unproved: Set<Session>
  readonly unprovedOf: Map<string, number>
  readonly current: Map<string, Session>
  readonly counters: Map<string, { readonly counter: number; readonly sequence: number }>
  /** How many connections were taken. */
  taken: number
  readonly ended: Partial<Record<SessionEnd, number>>
  stopped: boolean
}

export function createSessions(ports: SessionsPorts): Sessions {
  const r: Registry = {
    ports,
    settings: { ...SESSION_SETTINGS, ...ports.settings },
    all: new Set(),
    unproved: new Set(),
    unprovedOf: new Map(),
    current: new Map(),
    counters: new Map(),
    taken: 0,
    ended: {},
    stopped: false,
  }
  return {
    settings: r.settings,
    refusalFor: (address) => refusalFor(r, address),
    accept: (link) => accept(r, link),
    send: (message) => {
      try {
        send(r, message)
      } catch (error) {
        // A send may be lost at any time, and the core must not stop for one; it is derived again at the next hello.
        ports.log.error({ machine: message.machine, error: String(error) }, 'a frame could not be sent')
      }
    },
    sendFrame: (machine, frame) => r.current.get(machine)?.send(frame),
    stats: () => ({ connected: r.current.size, unauthenticated: r.unproved.size, ended: { ...r.ended } }),
    stop: () => {
      r.stopped = true
      for (const session of r.all) session.close('goingAway', 'the coordinator is ending')
    },
  }
}

function refusalFor(r: Registry, address: string): string | null {
  const { unauthenticatedMax, unauthenticatedPerAddressMax } = r.settings
  if (r.stopped) return 'the coordinator is ending'
  if (r.unproved.size >= unauthenticatedMax) return `${r.unproved.size} connections have not proved a key yet`
  const ofAddress = r.unprovedOf.get(address) ?? 0
  if (ofAddress >= unauthenticatedPerAddressMax)
    return `${ofAddress} connections from ${address} have not proved a key yet`
  return null
}

function accept(r: Registry, link: Link): LinkEvents {
  const refusal = refusalFor(r, link.address)
  if (refusal !== null) {
    const how = r.stopped ? 'goingAway' : 'tooMany'
    count(r, how)
    r.ports.log.warn({ address: link.address, end: how, problem: refusal }, 'agent connection not taken')
    link.close(CLOSE_CODES[how], closeReason(refusal))
    return NO_EVENTS
  }
  r.taken += 1
  const hex = (bytes: number) => Buffer.from(r.ports.random.bytes(bytes)).toString('hex')
  const session = createSession(
    {
      ...r.ports,
      settings: r.settings,
      id: hex(16),
      nonce: hex(32),
      sequence: r.taken,
      proved: (machine) => r.counters.get(machine) ?? NOTHING_PROVED,
      onProved: (proved, machine, counter) => {
        dropUnproved(r, proved)
        r.counters.set(machine, { counter, sequence: r.taken })
      },
      current: (machine) => r.current.get(machine),
      onHello: (greeted, machine) => {
        const before = r.current.get(machine)
        r.current.set(machine, greeted)
        return before
      },
      onEnd: (gone, how) => onEnd(r, gone, how),
      onOpen: (machine) => r.ports.onOpen?.(machine),
      onReport: (machine, frame) => r.ports.onReport?.(machine, frame),
    },
    link,
  )
  r.all.add(session)
  r.unproved.add(session)
  r.unprovedOf.set(link.address, (r.unprovedOf.get(link.address) ?? 0) + 1)
  session.start()
  return session.events
}

function onEnd(r: Registry, gone: Session, how: SessionEnd): void {
  count(r, how)
  r.all.delete(gone)
  dropUnproved(r, gone)
  const machine = gone.machine()
  if (machine !== null && r.current.get(machine) === gone) r.current.delete(machine)
}

function dropUnproved(r: Registry, session: Session): void {
  if (!r.unproved.delete(session)) return
  const left = (r.unprovedOf.get(session.address) ?? 1) - 1
  if (left === 0) r.unprovedOf.delete(session.address)
  else r.unprovedOf.set(session.address, left)
}

function count(r: Registry, how: SessionEnd): void {
  r.ended[how] = (r.ended[how] ?? 0) + 1
}

function send(r: Registry, message: AgentSend): void {
  if ('drop' in message) {
    const { session: id, reason } = message.drop
    for (const session of r.all)
      if (session.id === id && session.machine() === message.machine) session.close(reason, DROP_PROBLEMS[reason])
    return
  }
  const session = r.current.get(message.machine)
  if (session === undefined) return
  if ('frame' in message) session.send(message.frame)
  else if ('offer' in message) sendOffer(r, session, message.offer)
  else if ('grant' in message) sendGrant(r, session, message.grant)
  else unreachable(message)
}

function sendOffer(r: Registry, session: Session, offer: { readonly order: string; readonly planHash: string }): void {
  const stored = planOf(r, session, offer)
  if (stored !== undefined)
    session.send({ t: 'offer', order: offer.order, planHash: offer.planHash, plan: stored.plan })
}

function sendGrant(r: Registry, session: Session, payload: GrantPayload): void {
  const stored = planOf(r, session, payload)
  if (stored === undefined) return
  const bytes = Buffer.from(JSON.stringify(payload))
  const { signature, keyId } = r.ports.sign(Buffer.concat([Buffer.from(GRANT_SIGNATURE_PREFIX), bytes]))
  const grant = { payload: bytes.toString('base64'), signature, keyId, plan: stored.plan, evidence: stored.evidence }
  session.send({ t: 'grant', order: payload.order, grant })
}

function planOf(
  r: Registry,
  session: Session,
  { order, planHash }: { readonly order: string; readonly planHash: string },
): StoredPlan | undefined {
  const stored = r.ports.store.get('plans', planHash)
  if (stored === undefined) {
    r.ports.log.error(
      { order, planHash, machine: session.machine() },
      'the plan of an order is not in the store, so nothing was sent',
    )
  }
  return stored
}

const NOTHING_PROVED = { counter: 0, sequence: 0 } as const

const DROP_PROBLEMS = {
  superseded: 'a newer connection of this machine has taken over',
  quarantined: 'the machine is quarantined: two holders of one key; enrol it again',
  notAllowed: 'the machine was retired; enrol it again',
} as const

const NO_EVENTS: LinkEvents = { onMessage: () => {}, onBytes: () => {}, onBroken: () => {}, onClosed: () => {} }
