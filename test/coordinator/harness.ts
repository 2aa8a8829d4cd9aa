/**
 * A small world for scenarios: the real driver, the real core, the local change provider and the memory store over
 * virtual time, with agents that say what a test tells them to. Nothing happens by itself but timers, the answers of
 * the provider, and plans (an agent that is asked to plan answers at once, unless `plansBySelf` is off).
 */
import type { AgentFrame, CoordinatorFrame, OrderInHand } from '../../protocol/agent.ts'
import type { Refusal } from '../../protocol/errors.ts'
import type { Fact, FeedRow } from '../../protocol/feed.ts'
import { GRANT_LIFE_MS_MAX, type GrantPayload, type Result, type RunRecord, type Step } from '../../protocol/files.ts'
import type { Plan, PlanEvidence } from '../../protocol/plan.ts'
import { type Status, statusSchema } from '../../protocol/status.ts'
import * as v from 'valibot'
import { isLocal, localStep, unfinishedClosings } from '../../coordinator/change/local.ts'
import type { AgentNews, ChangeCall, Command, Event, Permission, Reply, Settings } from '../../coordinator/domain/events.ts'
import { type ProjectRows, renderStatus, statusOf } from '../../coordinator/domain/status.ts'
import type { Actor, Instance, Order, Project, Request, Target } from '../../coordinator/domain/state.ts'
import { type Driver, createDriver } from '../../coordinator/driver.ts'
import { createTools } from '../../coordinator/pattern.ts'
import type { AgentSend, Log, Store } from '../../coordinator/ports.ts'
import { crashMemoryDisk, createMemoryDisk, openMemoryStore } from '../../coordinator/store/memory.ts'
import { createDice } from '../sim/random.ts'
import { createTime } from '../sim/time.ts'

export const START = 1_700_000_000_000
export const PEOPLE: { readonly [Name in 'ana' | 'bo' | 'cy' | 'vi']: Actor } = {
  ana: { kind: 'person', name: 'ana', roles: ['requester'] },
  bo: { kind: 'person', name: 'bo', roles: ['approver'] },
  cy: { kind: 'person', name: 'cy', roles: ['admin'] },
  vi: { kind: 'person', name: 'vi', roles: ['viewer'] },
}
export type Person = keyof typeof PEOPLE | Actor
const SMITH: Actor = { kind: 'smith' }

export const SETTINGS: Settings = {
  instance: 'test',
  regions: [
    { pattern: 'dal', region: 'us-south' },
    { pattern: 'syd', region: 'ap-south' },
    { pattern: 'lon', region: 'uk-south' },
  ],
  clusters: [],
  approval: { requesterMayApprove: false, localAdminMayApprove: false },
  limits: {
    machinesPerRequestMax: 100,
    plansInParallelMax: 10,
    prefetchAheadMax: 2,
    planTimeMsMax: 60_000,
    waitMsMax: 600_000,
    silenceMsMax: 90_000,
    grantLifeMs: GRANT_LIFE_MS_MAX,
    permissionAgeMsMax: 10_000,
    permissionRetryMs: 10_000,
    changePollMs: 15_000,
  },
}

type Label = { readonly cluster?: string; readonly region?: string; readonly address?: string; readonly builds?: readonly string[]; readonly template?: boolean }
export type WorldOptions = {
  readonly machines?: readonly string[]
  readonly labels?: { readonly [machine: string]: Label }
  readonly approval?: Partial<Settings['approval']>
  readonly limits?: Partial<Settings['limits']>
  readonly clusters?: Settings['clusters']
  /** Where the numbers of changes and tasks begin. */
  readonly instance?: Partial<Instance>
  /** Machines that never connect. */
  readonly offline?: readonly string[]
}

const QUIET: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
export const NO_IMPEDIMENT = null
export const ORDER_STEPS: readonly Step[] = ['claim', 'update', 'replan', 'fetch', 'pre-checks', 'latch', 'install']

export function planOf(version: string, fields: Partial<Plan> = {}): Plan {
  const sha256 = version.padEnd(64, '0').replace(/[^0-9a-f]/g, '0')
  const install = { name: 'hello', arch: 'amd64', version, from: '1.0', sha256, size: 1 }
  return { v: 1, build: 'prod', arch: 'amd64', installs: [install], removes: [], repairs: [], holds: [], rebootDue: false, conffiles: 'keep', ...fields }
}
export const EMPTY_PLAN = planOf('1', { installs: [] })

export type Agent = {
  readonly name: string
  readonly id: () => string
  plan: Plan | Refusal
  evidence: PlanEvidence
  warnings: readonly string[]
  plansBySelf: boolean
  /** What it says at its next hello. */
  orders: OrderInHand[]
  fence: number
  impediment: Refusal | null
  /** Everything that was sent to it, newest last. */
  readonly got: AgentSend[]
  /** The grants that were sent to it. */
  readonly grants: () => GrantPayload[]
  readonly grant: () => GrantPayload
  readonly revokes: () => string[]
  readonly queries: () => Extract<CoordinatorFrame, { t: 'plan' }>[]
  readonly connect: (fields?: { readonly counter?: number; readonly address?: string }) => Promise<Reply>
  /** The coordinator notices that it is gone. */
  readonly cut: () => Promise<void>
  readonly say: (news: AgentNews) => Promise<Reply>
  /** One record of each step, of the newest grant. */
  readonly steps: (...steps: Step[]) => Promise<Reply>
  readonly record: (fields: Record<string, unknown>) => Promise<Reply>
  readonly result: (outcome: Result['outcome'], fields?: Partial<Result>) => Promise<Reply>
  /** The whole run of the newest grant: every step, and success. */
  readonly succeed: () => Promise<void>
  /** The run up to its installation, and a failure there. */
  readonly fail: (fields?: Partial<Result>) => Promise<void>
  /** What its disk says of an order, for the next hello. */
  readonly inHand: (evidence: OrderInHand['evidence'], order?: string) => void
}

export type World = Awaited<ReturnType<typeof createWorld>>

export async function createWorld(options: WorldOptions = {}) {
  const time = createTime(START)
  const dice = createDice(1, 'scenario')
  const disk = createMemoryDisk(dice)
  const settings: Settings = {
    ...SETTINGS,
    ...(options.clusters === undefined ? {} : { clusters: options.clusters }),
    approval: { ...SETTINGS.approval, ...options.approval },
    limits: { ...SETTINGS.limits, ...options.limits },
  }
  const tools = createTools(settings, dice)
  const agents = new Map<string, Agent>()
  const rows: FeedRow[] = []
  const calls: ChangeCall[] = []
  const fatal: Error[] = []
  const provider: Provider = { answer: (permission) => permission, delayMs: 0, isUp: true }
  const inFlight = new Set<Promise<unknown>>()
  const life = { driver: undefined as Driver | undefined, store: undefined as Store | undefined, number: 0 }

  const driver = () => must(life.driver)
  const store = () => must(life.store)
  const submit = async (actor: Actor, event: Event): Promise<Reply> => (await track(driver().submit(actor, event))).reply
  const track = <T>(promise: Promise<T>): Promise<T> => {
    const over = () => {
      inFlight.delete(promise)
    }
    promise.then(over, over)
    inFlight.add(promise)
    return promise
  }
  /** Until nobody has anything left to say at this instant. */
  const settle = async () => {
    do {
      await new Promise((resolve) => setImmediate(resolve))
    } while (inFlight.size > 0)
  }

  const toAgent = (send: AgentSend) => {
    for (const agent of agents.values()) {
      if (agent.id() !== send.machine) continue
      agent.got.push(send)
      if (!('frame' in send) || send.frame.t !== 'plan' || !agent.plansBySelf) continue
      const { query } = send.frame
      void track(agent.say('kind' in agent.plan ? { t: 'planRefused', query, refusal: agent.plan } : { t: 'planned', query, plan: agent.plan, evidence: agent.evidence, warnings: [...agent.warnings] }))
    }
  }
  const toChange = (call: ChangeCall) => {
    calls.push(call)
    if (!provider.isUp) return
    const { number } = life
    const go = () => {
      if (number === life.number) void track(driver().submit(SMITH, { type: 'localCall', call }))
    }
    if (provider.delayMs === 0) go()
    else time.after(provider.delayMs, go)
  }
  const start = async () => {
    const number = (life.number += 1)
    life.store = openMemoryStore(disk)
    life.driver = createDriver({
      store: life.store,
      clock: { wallNow: time.now, monotonicNow: time.now, after: (ms, callback) => time.after(ms, () => number === life.number && callback()) },
      tools,
      settings,
      log: QUIET,
      outbound: { toAgent, toChange },
      local: { isLocal, step: (view, envelope, given) => answered(localStep(view, envelope, given), provider) },
      onFatal: (error) => fatal.push(error),
    })
    life.driver.onRow((row) => rows.push(row))
    for (const call of unfinishedClosings(life.driver.view)) await life.driver.submit(SMITH, { type: 'localCall', call })
    await life.driver.start()
    await settle()
  }

  await seed(disk, options)
  await start()
  const world = {
    time,
    rows,
    calls,
    fatal,
    provider,
    settings,
    driver,
    store,
    settle,
    submit,
    agent: (name: string): Agent => must(agents.get(name)),
    facts: (): Fact[] => rows.flatMap((row) => row.facts),
    /** Lets virtual time go on by this much; every timer on the way fires. */
    later: async (ms: number) => {
      let isOver = false
      time.after(ms, () => (isOver = true))
      while (!isOver && time.advance()) await settle()
    },
    command: async (by: Person, command: Command): Promise<Reply> => {
      const reply = await submit(typeof by === 'string' ? PEOPLE[by] : by, { type: 'command', command })
      await settle()
      return reply
    },
    /** What becomes of a request once everybody has answered. */
    request: async (text: string, fields: { by?: Person; preview?: boolean; key?: string | null } = {}): Promise<{ readonly refusals: readonly Refusal[]; readonly request: Request | null }> => {
      const reply = await world.command(fields.by ?? 'ana', { type: 'request', text, preview: fields.preview ?? false, key: fields.key ?? null })
      if (!reply.ok) return { refusals: reply.refusals, request: null }
      const request = must(store().get('requests', must(reply.value?.request)))
      return { refusals: request.refusals, request }
    },
    /** The number of the change that a request got. */
    ask: async (text: string, by: Person = 'ana'): Promise<string> => {
      const { refusals, request } = await world.request(text, { by })
      if (request?.change == null) throw new Error(`no change: ${request?.state} ${refusals.map((one) => one.message).join('; ')}`)
      return request.change
    },
    refusalsOf: async (text: string) => (await world.request(text)).refusals,
    decide: (decision: 'approve' | 'reject', change: string, by: Person = 'bo', digest: string | null = decision === 'approve' ? world.project(change).digest : null) =>
      world.command(by, { type: 'decide', change, decision, digest, reason: '' }),
    approve: (change: string, by: Person = 'bo') => world.decide('approve', change, by),
    /** Asks and approves: the first machine is granted when this returns. */
    begin: async (text: string): Promise<string> => {
      const change = await world.ask(text)
      const reply = await world.approve(change)
      if (!reply.ok) throw new Error(`not approved: ${JSON.stringify(reply)}`)
      return change
    },
    steer: (type: 'pause' | 'resume' | 'cancel', change: string, reason = '', by: Person = 'ana') => world.command(by, { type, change, reason }),
    retry: (change: string, machine: string, by: Person = 'ana') => world.command(by, { type: 'retry', change, machine, reason: '' }),
    skip: (change: string, machine: string, reason = 'later', by: Person = 'ana') => world.command(by, { type: 'skip', change, machine, reason }),
    resolve: (change: string, machine: string, as: 'succeeded' | 'failed', reason = 'looked', by: Person = 'ana') =>
      world.command(by, { type: 'resolve', change, machine, as, reason }),
    project: (change: string): Project => must(store().get('projects', must(store().get('changes', change)).project)),
    targets: (change: string): readonly Target[] => store().list('targets', `${world.project(change).id}/`),
    target: (change: string, name: string): Target => must(world.targets(change).find((target) => target.name === name)),
    orders: (change: string): readonly Order[] => store().orders({ project: world.project(change).id }),
    rowsOf: (change: string): ProjectRows => {
      const project = world.project(change)
      return { project, targets: world.targets(change), bags: store().list('bags', `${project.id}/`) }
    },
    /** As data; throws when it is not what the schema says. */
    json: (change: string): Status => v.parse(statusSchema, statusOf(world.rowsOf(change), settings.instance)),
    text: (change: string): string => renderStatus(world.json(change), driver().now()),
    /** `state: name state, name state`, for short checks. */
    brief: (change: string): string => {
      const status = world.json(change)
      const stop = status.stop === null ? '' : ` ${status.stop.kind} ${status.stop.code}`
      return `${status.state}${stop}: ${world.targets(change).map((target) => `${target.name} ${target.state}`).join(', ')}`
    },
    enrol: async (name: string, label: Label = {}, replace = false): Promise<Reply> => {
      const tokenHash = dice.hex(64)
      const made = await world.command('cy', { type: 'enrolNew', name, tokenHash, ttlMs: 3_600_000, replace })
      if (!made.ok) return made
      const reply = await submit(SMITH, { type: 'enrol', tokenHash, publicKey: 'AAAA', facts: factsOf(label), address: '10.9.9.9' })
      await settle()
      if (reply.ok) agents.set(name, createAgent(world, name, must(reply.value?.machine), label, dice.hex))
      return reply
    },
    /** The coordinator ends without a word and begins again from its disk; nobody is connected. */
    restart: async () => {
      life.number += 1
      crashMemoryDisk(disk)
      await start()
    },
  }
  for (const name of options.machines ?? []) {
    await world.enrol(name, options.labels?.[name])
    if (options.offline?.includes(name) !== true) await world.agent(name).connect()
  }
  rows.length = 0
  return world
}

/** What the provider says, how late, and whether it says anything. */
export type Provider = { answer: (permission: Permission) => Permission | null; delayMs: number; isUp: boolean }

/** The provider's answers to the core as a test wants them; null fails the question. News is left alone. */
function answered(outcome: ReturnType<typeof localStep>, provider: Provider): ReturnType<typeof localStep> {
  const sends = outcome.sends.map((send) => {
    if (send.to !== 'core' || send.event.type !== 'permission' || send.event.ask === null) return send
    const { project, ask } = send.event
    const permission = provider.answer(send.event.permission)
    const event: Event = permission === null ? { type: 'providerFailed', project, ask, reason: 'no route to the provider' } : { ...send.event, permission }
    return { ...send, event }
  })
  return { ...outcome, sends }
}

async function seed(disk: ReturnType<typeof createMemoryDisk>, options: WorldOptions): Promise<void> {
  if (options.instance === undefined) return
  const store = openMemoryStore(disk)
  const row: FeedRow = { rev: 1, at: START, actor: 'smith', facts: [] }
  const instance: Instance = { frozen: null, fence: 0, change: 0, task: 0, ...options.instance }
  await store.commit({ rev: 1, at: START, actor: 'smith', row, writes: [{ table: 'instance', key: 'instance', row: instance, live: true }], logs: [] })
  store.close()
}

function factsOf(label: Label) {
  return { agentVersion: '0.1.0', os: 'Debian 12', arch: 'amd64', kernel: '6.1', apt: '2.6.1', cluster: label.cluster ?? null, region: label.region ?? null, rebootPending: false }
}

function createAgent(world: Pick<World, 'submit' | 'settle' | 'time'>, name: string, id: string, label: Label, hex: (digits: number) => string): Agent {
  let session = ''
  let counter = 0
  const sent = new Map<string, number>()
  const actor: Actor = { kind: 'machine', id, name }
  const record = async (fields: readonly Record<string, unknown>[]): Promise<Reply> => {
    const { order } = agent.grant()
    const from = (sent.get(order) ?? 0) + 1
    sent.set(order, from + fields.length - 1)
    return agent.say({ t: 'records', order, records: fields.map((one, index) => ({ n: from + index, at: world.time.now(), ...one }) as RunRecord) })
  }
  const agent: Agent = {
    name,
    id: () => id,
    plan: planOf('2.0', label.builds === undefined ? {} : { build: label.builds[0] ?? 'prod' }),
    evidence: { releases: [], downloadBytes: 1, installedBytesDelta: 1, madeAt: START },
    warnings: [],
    plansBySelf: true,
    orders: [],
    fence: 0,
    impediment: null,
    got: [],
    grants: () => agent.got.flatMap((send) => ('grant' in send ? [send.grant] : [])),
    grant: () => must(agent.grants().at(-1), `a grant of ${name}`),
    revokes: () => agent.got.flatMap((send) => ('frame' in send && send.frame.t === 'revoke' ? [send.frame.order] : [])),
    queries: () => agent.got.flatMap((send) => ('frame' in send && send.frame.t === 'plan' ? [send.frame] : [])),
    connect: async (fields = {}) => {
      session = hex(32)
      counter = fields.counter ?? counter + 1
      const hello: Extract<AgentFrame, { t: 'hello' }> = {
        t: 'hello',
        name,
        facts: factsOf(label),
        bootId: 'b0',
        incarnation: hex(32),
        fence: agent.fence,
        at: world.time.now(),
        builds: [...(label.builds ?? ['prod'])],
        template: label.template ?? false,
        impediment: agent.impediment,
        orders: [...agent.orders],
      }
      const address = fields.address ?? label.address ?? '10.0.0.1'
      const reply = await world.submit(actor, { type: 'sessionOpened', machine: id, session, address, counter, hello })
      await world.settle()
      return reply
    },
    cut: async () => {
      await world.submit(SMITH, { type: 'sessionClosed', machine: id, session, reason: 'cut' })
      await world.settle()
    },
    say: async (news) => {
      const reply = await world.submit(actor, { type: 'agentNews', machine: id, session, news })
      // Called by the world itself too, which settles.
      await new Promise((resolve) => setImmediate(resolve))
      return reply
    },
    record: (fields) => record([fields]),
    steps: (...steps) => record(steps.map((step) => ({ type: 'step', step }))),
    result: async (outcome, fields = {}) => {
      const cause = outcome === 'failed' || outcome === 'unknown' ? 'maintainer-script' : null
      const reply = await record([
        { type: 'result', outcome, cause, step: 'verify', message: outcome === 'failed' ? 'the script of hello failed' : outcome, evidence: [], advice: [], latched: outcome !== 'void', rebootPending: false, installed: [], outputBytes: 0, outputSha256: '0'.repeat(64), ...fields },
      ])
      await world.settle()
      return reply
    },
    succeed: async () => {
      await agent.steps(...ORDER_STEPS, 'post-checks', 'verify')
      await agent.result('succeeded')
    },
    fail: async (fields) => {
      await agent.steps(...ORDER_STEPS)
      await agent.result('failed', { step: 'install', ...fields })
    },
    inHand: (evidence, order = agent.grant().order) => {
      agent.orders = [...agent.orders.filter((one) => one.order !== order), { order, fence: agent.grants().find((one) => one.order === order)?.fence ?? 0, evidence, upTo: sent.get(order) ?? 0 }]
      agent.fence = Math.max(agent.fence, ...agent.orders.map((one) => one.fence))
    },
  }
  return agent
}

export function must<T>(value: T | undefined, what = 'what the test needs'): T {
  if (value === undefined) throw new Error(`there is no ${what}`)
  return value
}

/** The refusals of a reply; none when it was granted. */
export function refusalsIn(reply: Reply): readonly Refusal[] {
  return reply.ok ? [] : reply.refusals
}
