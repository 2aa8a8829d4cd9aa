/**
 * A machine for the tests of the agent's session half: the real agent core on the real disk in a temporary folder,
 * with a link that the test holds the far end of, and a runner that the test plays by writing its files.
 */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type Agent, createAgent } from '../../../agent/agent.ts'
import type { AgentLimits } from '../../../agent/config.ts'
import { type Disk, createRealDisk } from '../../../agent/disk/disk.ts'
import { makeStateFolders } from '../../../agent/disk/grant-key.ts'
import { type Layout, layoutOf, orderLayoutOf } from '../../../agent/disk/layout.ts'
import type { AgentPorts, LinkEvents, PlanAnswer } from '../../../agent/ports.ts'
import { counterFile } from '../../../agent/session/connection.ts'
import type { AgentFrame, CoordinatorFrame } from '../../../protocol/agent.ts'
import type { RunRecord } from '../../../protocol/files.ts'
import {
  FACTS,
  type FakeClock,
  type FakeLog,
  INCARNATION,
  type Key,
  MACHINE,
  ORDER,
  createFakeClock,
  createFakeLog,
  createFakeRandom,
  createKey,
} from '../../sessions/fakes.ts'

export const LIMITS = {
  pingMs: 15_000,
  deadMs: 45_000,
  connectMs: 10_000,
  reconnectMsMin: 1_000,
  reconnectMsMax: 60_000,
  pollMs: 200,
} as AgentLimits

/** The coordinator's end of one connection. */
export type FarEnd = {
  readonly sent: AgentFrame[]
  readonly say: (frame: CoordinatorFrame | object) => void
  readonly raw: (data: string | Uint8Array, isBinary?: boolean) => void
  readonly lose: (code?: number | null, reason?: string) => void
  closed: { code: number; reason: string } | null
  terminated: boolean
  buffered: number
}

export type Machine = {
  readonly agent: Agent
  readonly clock: FakeClock
  readonly log: FakeLog
  readonly layout: Layout
  readonly disk: Disk
  readonly key: Key
  readonly links: FarEnd[]
  readonly plans: {
    readonly query: { readonly build: string; readonly clockAheadMs: number | null }
    readonly done: (answer: PlanAnswer) => void
  }[]
  readonly downloads: { readonly order: string; readonly done: (problem: string | null) => void; cancelled: boolean }[]
  readonly runners: ((status: number | null) => void)[]
  readonly watched: Map<string, () => void>
  readonly link: () => FarEnd
  /** The frames of one kind that went out on the newest connection. */
  readonly sent: <T extends AgentFrame['t']>(kind: T) => Extract<AgentFrame, { t: T }>[]
  /** Loses the connection and waits for the next try. */
  readonly reconnect: () => void
  /** Lets the coordinator accept the newest connection, up to the hello. */
  readonly accept: (acks?: Readonly<Record<string, number>>) => Extract<AgentFrame, { t: 'hello' }>
}

export type MachineOptions = {
  readonly state?: string
  readonly disk?: Disk
  readonly startRunner?: boolean
  readonly seed?: number
  readonly key?: Key
  readonly ports?: Partial<AgentPorts>
}

export const CHALLENGE: CoordinatorFrame = {
  t: 'challenge',
  nonce: 'ab'.repeat(32),
  instance: 'prod',
  incarnation: INCARNATION,
}
export const READY = { t: 'ready', session: 'cd'.repeat(16), at: 1 } satisfies CoordinatorFrame

export function makeState(t: Test): string {
  const state = mkdtempSync(join(tmpdir(), 'smith-agent-'))
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  const layout = layoutOf(state)
  makeStateFolders(createRealDisk(), layout)
  writeFileSync(counterFile(layout), '0\n')
  return state
}

export function machine(t: Test, options: MachineOptions = {}): Machine {
  const layout = layoutOf(options.state ?? makeState(t))
  const disk = options.disk ?? createRealDisk()
  const clock = createFakeClock()
  const log = createFakeLog()
  const key = options.key ?? createKey()
  const links: FarEnd[] = []
  const plans: Machine['plans'] = []
  const downloads: Machine['downloads'] = []
  const runners: Machine['runners'] = []
  const watched: Machine['watched'] = new Map()
  const agent = createAgent({
    clock,
    random: createFakeRandom(options.seed ?? 1),
    disk,
    layout,
    log,
    identity: { machine: MACHINE, name: 'prod-dal10-carrier3-worker-1', instance: 'prod', sign: key.sign },
    limits: LIMITS,
    connect: (events) => {
      const { far, link } = farEnd(events)
      links.push(far)
      return link
    },
    describe: () => ({ facts: FACTS, bootId: 'abc-1', builds: ['prod'], template: false, impediment: null }),
    ...errandsOf(options, { plans, downloads, runners, watched }),
    ...options.ports,
  })
  t.teardown(() => agent.stop())
  const link = () => {
    const far = links.at(-1)
    if (far === undefined) throw new Error('there is no connection')
    return far
  }
  const sent: Machine['sent'] = (kind) => link().sent.filter((frame) => frame.t === kind) as never
  const accept: Machine['accept'] = (acks = {}) => {
    link().say(CHALLENGE)
    link().say(READY)
    const hello = sent('hello')[0]
    if (hello === undefined) throw new Error('there was no hello')
    for (const [order, upTo] of Object.entries(acks)) link().say({ t: 'ack', order, upTo })
    return hello
  }
  const reconnect = () => {
    const { length } = links
    link().lose()
    while (links.length === length) clock.advance(1)
  }
  return {
    reconnect,
    agent,
    clock,
    log,
    layout,
    disk,
    key,
    links,
    plans,
    downloads,
    runners,
    watched,
    link,
    sent,
    accept,
  }
}

type Errands = Pick<Machine, 'plans' | 'downloads' | 'runners' | 'watched'>
function errandsOf(
  options: MachineOptions,
  { plans, downloads, runners, watched }: Errands,
): Pick<AgentPorts, 'plan' | 'prefetch' | 'startRunner' | 'watch'> {
  return {
    plan: (query, done) => {
      plans.push({ query, done })
      return () => {}
    },
    prefetch: (offer, done) => {
      const download = { order: offer.order, done, cancelled: false }
      downloads.push(download)
      return () => {
        download.cancelled = true
      }
    },
    startRunner: options.startRunner === true ? (onExit) => void runners.push(onExit) : null,
    watch: (folder, onChange) => {
      watched.set(folder, onChange)
      return () => watched.delete(folder)
    },
  }
}

function farEnd(events: LinkEvents): { far: FarEnd; link: ReturnType<AgentPorts['connect']> } {
  const far: FarEnd = {
    sent: [],
    say: (frame) => events.onMessage(JSON.stringify(frame), false),
    raw: (data, isBinary = false) => events.onMessage(data, isBinary),
    lose: (code = null, reason = 'the connection was lost') => events.onClosed(code, reason),
    closed: null,
    terminated: false,
    buffered: 0,
  }
  const isOver = () => far.closed !== null || far.terminated
  const link = {
    send: (text: string) => {
      if (!isOver()) far.sent.push(JSON.parse(text) as AgentFrame)
    },
    close: (code: number, reason: string) => {
      far.closed ??= { code, reason }
    },
    terminate: () => {
      far.terminated = true
    },
    bufferedBytes: () => far.buffered,
  }
  return { far, link }
}

// --- the runner, as the test plays it ------------------------------------------------------------------------

/** Takes the grant out of the inbox and claims it, as the runner does. */
export function claim(m: Machine, order = ORDER, fence = 7): void {
  const files = orderLayoutOf(m.layout, order)
  mkdirSync(files.folder, { recursive: true })
  const entry = join(m.layout.inbox, `grant-${order}.json`)
  if (existsSync(entry)) renameSync(entry, files.grant)
  writeFileSync(files.fate, JSON.stringify({ fate: 'claim', fence, at: 1 }))
}
export function write(m: Machine, records: readonly object[], order = ORDER): void {
  const files = orderLayoutOf(m.layout, order)
  mkdirSync(files.folder, { recursive: true })
  appendFileSync(files.records, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
}
export const inboxOf = (m: Machine): string[] => readdirSync(m.layout.inbox)
export const counterOf = (m: Machine): string => readFileSync(counterFile(m.layout), 'utf8').trim()

/** What a coordinator stores of what it is sent: only what follows what it has, each record once. */
export function createStoreOfRecords(): {
  readonly records: RunRecord[]
  readonly take: (frame: AgentFrame) => number | null
} {
  const records: RunRecord[] = []
  return {
    records,
    take: (frame) => {
      if (frame.t !== 'records') return null
      const fresh = frame.records.filter((record) => record.n > records.length)
      if (fresh[0]?.n === records.length + 1) records.push(...fresh)
      return records.length
    },
  }
}
