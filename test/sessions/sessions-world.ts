/** The sessions' logic over links without a network, with a clock that moves when told to. */
import type { LinkEvents } from '../../coordinator/sessions/link.ts'
import { type Sessions, createSessions } from '../../coordinator/sessions/sessions.ts'
import { type SessionSettings } from '../../coordinator/sessions/settings.ts'
import { type AgentFrame } from '../../protocol/agent.ts'
import {
  EVIDENCE,
  type FakeClock,
  type FakeCore,
  type FakeLink,
  type FakeLog,
  HASH,
  HELLO,
  INCARNATION,
  type Key,
  OTHER_MACHINE,
  PLAN,
  PLAN_HASH,
  authFrame,
  createFakeClock,
  createFakeCore,
  createFakeLink,
  createFakeLog,
  createFakeRandom,
  createKey,
  machineRow,
  settle,
  storeOf,
} from './fakes.ts'

export type World = { key: Key; core: FakeCore; clock: FakeClock; log: FakeLog; sessions: Sessions; orderKey: Key }
export function world(settings: Partial<SessionSettings> = {}, key = createKey()): World {
  const core = createFakeCore([machineRow(key), machineRow(createKey(), { id: OTHER_MACHINE, name: 'other' })])
  const clock = createFakeClock()
  const log = createFakeLog()
  const orderKey = createKey()
  const sessions = createSessions({
    driver: core,
    store: storeOf([{ hash: PLAN_HASH, plan: PLAN, evidence: EVIDENCE }]),
    sign: (bytes) => ({ signature: orderKey.sign(bytes), keyId: HASH }),
    clock,
    random: createFakeRandom(),
    log,
    settings,
    instance: 'prod',
    incarnation: INCARNATION,
  })
  return { key, core, clock, log, sessions, orderKey }
}
export type Peer = { link: FakeLink; events: LinkEvents; say: (frame: AgentFrame | object) => void }
export function connect(w: World, address?: string): Peer {
  const link = createFakeLink(address)
  const events = w.sessions.accept(link)
  return { link, events, say: (frame) => events.onMessage(JSON.stringify(frame), false) }
}
export function prove(w: World, peer: Peer, counter: number): void {
  peer.say(authFrame(w.key, peer.link.sent[0], counter))
}
export async function open(w: World, counter = 1, address?: string): Promise<Peer> {
  const peer = connect(w, address)
  prove(w, peer, counter)
  peer.say(HELLO)
  await settle()
  return peer
}
export const types = (w: World) => w.core.events.map((event) => event.type)
export const queryRefused = (n: number): AgentFrame => ({
  t: 'planRefused',
  query: n.toString(16).padStart(32, '0'),
  refusal: { kind: 'cannot-plan', message: 'no', remedy: 'none' },
})
