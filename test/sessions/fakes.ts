/**
 * What the tests of sessions and agent share: a clock that moves when told to, a core that records what it is told,
 * links without a network, and samples of everything that crosses the wire.
 */
import { createHash, generateKeyPairSync, sign as signBytes } from 'node:crypto'
import type { Driver } from '../../coordinator/driver.ts'
import type { Event, Reply } from '../../coordinator/domain/events.ts'
import type { Machine, StoredPlan } from '../../coordinator/domain/state.ts'
import type { AgentSend, Clock, Log } from '../../coordinator/ports.ts'
import type { Link } from '../../coordinator/sessions/link.ts'
import type { SessionsPorts } from '../../coordinator/sessions/sessions.ts'
import { type AgentFrame, type CoordinatorFrame, authText } from '../../protocol/agent.ts'
import { GRANT_SIGNATURE_PREFIX, type GrantPayload, type Result, type SignedGrant } from '../../protocol/files.ts'
import { type Plan, type PlanEvidence, planText } from '../../protocol/plan.ts'

export type FakeClock = Clock & {
  /** Moves the time, calling every timer that comes due, in its order. */
  readonly advance: (ms: number) => void
  readonly armed: () => number
}

export function createFakeClock(start = 1_700_000_000_000): FakeClock {
  let now = 0
  let timers: { at: number; n: number; callback: () => void }[] = []
  let n = 0
  return {
    wallNow: () => start + now,
    monotonicNow: () => now,
    after: (delayMs, callback) => {
      const timer = { at: now + delayMs, n: (n += 1), callback }
      timers.push(timer)
      return () => {
        timers = timers.filter((one) => one !== timer)
      }
    },
    advance: (ms) => {
      const end = now + ms
      for (;;) {
        const next = timers.filter((one) => one.at <= end).toSorted((a, b) => a.at - b.at || a.n - b.n)[0]
        if (next === undefined) break
        timers = timers.filter((one) => one !== next)
        now = Math.max(now, next.at)
        next.callback()
      }
      now = end
    },
    armed: () => timers.length,
  }
}

/** Bytes that repeat from run to run. */
export function createFakeRandom(seed = 1): { readonly bytes: (count: number) => Uint8Array } {
  let n = 0
  return {
    bytes: (count) => {
      n += 1
      return createHash('shake256', { outputLength: count }).update(`${seed} ${n}`).digest()
    },
  }
}

export type FakeLog = Log & {
  readonly lines: { readonly level: string; readonly fields: Record<string, unknown>; readonly message: string }[]
}
export function createFakeLog(): FakeLog {
  const lines: FakeLog['lines'] = []
  const level = (name: string) => (fields: object, message: string) =>
    void lines.push({ level: name, fields: { ...fields }, message })
  return { lines, debug: level('debug'), info: level('info'), warn: level('warn'), error: level('error') }
}

/** All callbacks of settled promises have run. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve()
}

// --- identities and samples ----------------------------------------------------------------------------------

export type Key = { readonly publicKey: string; readonly sign: (bytes: Uint8Array) => string }
export function createKey(): Key {
  const pair = generateKeyPairSync('ed25519')
  return {
    publicKey: pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
    sign: (bytes) => signBytes(null, bytes, pair.privateKey).toString('base64'),
  }
}

export const MACHINE = 'a1'.repeat(16)
export const OTHER_MACHINE = 'b2'.repeat(16)
export const ORDER = 'c3'.repeat(16)
export const INCARNATION = 'd4'.repeat(16)
export const HASH = 'e5'.repeat(32)

export function machineRow(key: Key, fields: Partial<Machine> = {}): Machine {
  return {
    id: MACHINE,
    name: 'prod-dal10-carrier3-worker-1',
    state: 'active',
    publicKey: key.publicKey,
    counter: 0,
    quarantined: null,
    fence: 0,
    facts: null,
    builds: [],
    template: false,
    enrolledAt: 0,
    enrolledBy: 'admin',
    lastSeenAt: null,
    lastPatchedAt: null,
    rebootPending: false,
    project: null,
    ...fields,
  }
}

export const FACTS = {
  agentVersion: '0.1.0',
  os: 'Debian',
  arch: 'amd64',
  kernel: '6.1',
  apt: '2.6.1',
  cluster: null,
  region: null,
  rebootPending: false,
}
export const HELLO: Extract<AgentFrame, { t: 'hello' }> = {
  t: 'hello',
  name: 'prod-dal10-carrier3-worker-1',
  facts: FACTS,
  bootId: 'abc-1',
  incarnation: INCARNATION,
  fence: 0,
  at: 1,
  builds: ['prod'],
  template: false,
  impediment: null,
  orders: [],
}
export const PLAN: Plan = {
  v: 1,
  build: '725',
  arch: 'amd64',
  installs: [{ name: 'hello', arch: 'amd64', version: '2.10-3', from: '2.10-2', sha256: HASH, size: 1 }],
  removes: [],
  repairs: [],
  holds: [],
  rebootDue: false,
  conffiles: 'keep',
}
export const PLAN_HASH = createHash('sha256').update(planText(PLAN)).digest('hex')
export const EVIDENCE: PlanEvidence = { releases: [], downloadBytes: 1, installedBytesDelta: 0, madeAt: 1 }

export function grantPayload(fields: Partial<GrantPayload> = {}): GrantPayload {
  return {
    type: 'smith-grant-v1',
    order: ORDER,
    machine: MACHINE,
    change: 'CHG0000001',
    fence: 7,
    build: '725',
    planHash: PLAN_HASH,
    attempt: 1,
    outageMinutes: 0,
    issuedAt: 1,
    startBy: 2,
    ...fields,
  }
}
export function signedGrant(key: Key, payload: GrantPayload): SignedGrant {
  const bytes = Buffer.from(JSON.stringify(payload))
  const signature = key.sign(Buffer.concat([Buffer.from(GRANT_SIGNATURE_PREFIX), bytes]))
  return { payload: bytes.toString('base64'), signature, keyId: HASH, plan: PLAN, evidence: EVIDENCE }
}
export function resultRecord(n: number, fields: Partial<Result> = {}): Result {
  return {
    n,
    at: n,
    type: 'result',
    outcome: 'succeeded',
    cause: null,
    step: 'verify',
    message: 'done',
    evidence: [],
    advice: [],
    latched: true,
    rebootPending: false,
    installed: [],
    outputBytes: 0,
    outputSha256: HASH,
    ...fields,
  }
}
export function lineRecord(n: number, text = `line ${n}\n`): object {
  return { n, at: n, type: 'line', step: 'install', offset: n, text }
}
export const recordsFrame = (from: number, to: number): AgentFrame =>
  ({
    t: 'records',
    order: ORDER,
    records: Array.from({ length: to - from + 1 }, (_, index) => lineRecord(from + index)),
  }) as AgentFrame

// --- the coordinator's side ----------------------------------------------------------------------------------

export type FakeCore = SessionsPorts['driver'] & {
  readonly events: Event[]
  readonly machines: Map<string, Machine>
  /** Answers of the next submits; when there is none, yes. */
  readonly replies: (Reply | Error)[]
  /** While set, submits wait; calling it lets the oldest go. */
  release: (() => void) | null
  hold: boolean
}
/** Records events; keeps counters as the core does. */
export function createFakeCore(machines: readonly Machine[]): FakeCore {
  const rows = new Map(machines.map((row) => [row.id, row]))
  const waiting: (() => void)[] = []
  const core: FakeCore = {
    events: [],
    machines: rows,
    replies: [],
    hold: false,
    release: () => waiting.shift()?.(),
    view: {
      get: ((table: string, key: string) =>
        table === 'machines' ? rows.get(key) : undefined) as Driver['view']['get'],
    } as Driver['view'],
    submit: async (_actor, event) => {
      core.events.push(event)
      if (core.hold) {
        const gate = Promise.withResolvers<void>()
        waiting.push(gate.resolve)
        await gate.promise
      }
      const reply = core.replies.shift() ?? { ok: true }
      if (reply instanceof Error) throw reply
      const row = event.type === 'sessionOpened' ? rows.get(event.machine) : undefined
      if (event.type === 'sessionOpened' && row !== undefined && reply.ok)
        rows.set(row.id, { ...row, counter: event.counter })
      return { reply, rev: 0 }
    },
  }
  return core
}

export const storeOf = (plans: readonly StoredPlan[]): SessionsPorts['store'] => ({
  get: ((table: string, key: string) =>
    table === 'plans' ? plans.find((plan) => plan.hash === key) : undefined) as SessionsPorts['store']['get'],
})

/** The far end of a link, as the peer sees it. */
export type FakeLink = Link & {
  readonly sent: CoordinatorFrame[]
  readonly closed: { code: number; reason: string } | null
  readonly terminated: boolean
  readonly paused: boolean
  buffered: number
}
export function createFakeLink(address = '10.0.0.1'): FakeLink {
  const state = { closed: null as FakeLink['closed'], terminated: false, paused: false }
  const sent: CoordinatorFrame[] = []
  return {
    address,
    sent,
    buffered: 0,
    get closed() {
      return state.closed
    },
    get terminated() {
      return state.terminated
    },
    get paused() {
      return state.paused
    },
    send: (text) => void sent.push(JSON.parse(text) as CoordinatorFrame),
    close: (code, reason) => {
      state.closed ??= { code, reason }
    },
    terminate: () => {
      state.terminated = true
    },
    pause: () => {
      state.paused = true
    },
    resume: () => {
      state.paused = false
    },
    bufferedBytes() {
      return this.buffered
    },
  }
}

/** The proof of a key for one connection. */
export function authFrame(
  key: Key,
  challenge: CoordinatorFrame | undefined,
  counter: number,
  fields: { readonly machine?: string } = {},
): Extract<AgentFrame, { t: 'auth' }> {
  if (challenge?.t !== 'challenge') throw new Error('there was no challenge')
  const machine = fields.machine ?? MACHINE
  const nonce = '0f'.repeat(32)
  const text = authText({
    coordinatorNonce: challenge.nonce,
    agentNonce: nonce,
    machine,
    incarnation: challenge.incarnation,
    counter,
  })
  return { t: 'auth', machine, nonce, counter, signature: key.sign(Buffer.from(text)) }
}

export const grantSend = (payload: GrantPayload): AgentSend => ({
  to: 'agent',
  machine: payload.machine,
  grant: payload,
})
