/**
 * A small world for scenarios: the real driver, the real core, the local change provider and the memory store over
 * virtual time, with agents that say what a test tells them to. Nothing happens by itself but timers, the answers of
 * the provider, and plans (an agent that is asked to plan answers at once, unless `plansBySelf` is off).
 */
import type { Refusal } from '../../protocol/errors.ts'
import type { Fact, FeedRow } from '../../protocol/feed.ts'
import { GRANT_LIFE_MS_MAX } from '../../protocol/files.ts'
import { type Status, statusSchema } from '../../protocol/status.ts'
import * as v from 'valibot'
import { isLocal, localStep, unfinishedClosings } from '../../coordinator/change/local.ts'
import type {
  AgentNews,
  ChangeCall,
  Command,
  Event,
  Permission,
  Reply,
  Settings,
  Tools,
} from '../../coordinator/domain/events.ts'
import { type ProjectRows, rowsOf as liveRowsOf, renderStatus, statusOf } from '../../coordinator/domain/status.ts'
import type { Actor, Instance, Order, Project, Target, Write } from '../../coordinator/domain/state.ts'
import type { step } from '../../coordinator/domain/step.ts'
import { type Driver, type DriverPorts, createDriver } from '../../coordinator/driver.ts'
import { withLookup } from '../../coordinator/lookup/edge.ts'
import type { Lookup } from '../../coordinator/lookup/lookup.ts'
import { createTools } from '../../coordinator/pattern.ts'
import type { AgentSend, Clock, Log, Store } from '../../coordinator/ports.ts'
import { crashMemoryDisk, createMemoryDisk, openMemoryStore } from '../../coordinator/store/memory.ts'
import { createDice } from '../sim/random.ts'
import { type Time, createTime } from '../sim/time.ts'
import { type Agent, type Label, START, createAgent, factsOf, must } from './agent.ts'

export { EMPTY_PLAN, ORDER_STEPS, START, must, planOf, resultRecord } from './agent.ts'

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
  trains: [],
  approval: { requesterMayApprove: false, localAdminMayApprove: false },
  schedule: { timezone: 'UTC', windows: [], blackouts: [], runMsExpected: 900_000 },
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

export type WorldOptions = {
  readonly machines?: readonly string[]
  readonly labels?: { readonly [machine: string]: Label }
  readonly approval?: Partial<Settings['approval']>
  readonly limits?: Partial<Settings['limits']>
  readonly clusters?: Settings['clusters']
  readonly schedule?: Partial<Settings['schedule']>
  readonly trains?: Settings['trains']
  /** Where the numbers of changes and tasks begin. */
  readonly instance?: Partial<Instance>
  /** What is in the store before the coordinator first starts, beside the instance. */
  readonly given?: readonly Write[]
  /** The core's step, for a test that looks into it. */
  readonly core?: typeof step
  /** Another store than one in memory; opened anew at each start. */
  readonly store?: () => Store
  /** A change provider outside smith, in the place of the one inside. */
  readonly plug?: (parts: PlugParts) => Plug
  /** Machines that never connect. */
  readonly offline?: readonly string[]
  /** A source of machines outside smith. */
  readonly lookup?: Lookup
}

/** What a life of the coordinator gives a provider outside it. */
export type PlugParts = {
  readonly time: Time
  readonly clock: Clock
  readonly dice: ReturnType<typeof createDice>
  readonly driver: () => Driver
  readonly isAlive: () => boolean
  readonly track: <T>(promise: Promise<T>) => Promise<T>
}
export type Plug = Pick<DriverPorts, 'core' | 'local'> & {
  readonly toChange: (call: ChangeCall) => void
  readonly start: () => void
}

const QUIET: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
export type World = Awaited<ReturnType<typeof createWorld>>

export async function createWorld(options: WorldOptions = {}) {
  const core = createCore(options)
  await seed(core.disk, options)
  await core.start()
  const readers = readersOf(core)
  const people = peopleOf(core, readers)
  const enrol = async (name: string, label: Label = {}, replace = false): Promise<Reply> => {
    const tokenHash = core.dice.hex(64)
    const made = await people.command('cy', { type: 'enrolNew', name, tokenHash, ttlMs: 3_600_000, replace })
    if (!made.ok) return made
    const reply = await core.submit(SMITH, {
      type: 'enrol',
      tokenHash,
      publicKey: 'AAAA',
      facts: factsOf(label),
      address: '10.9.9.9',
    })
    await core.settle()
    if (reply.ok) core.agents.set(name, createAgent(core, name, must(reply.value?.machine), label))
    return reply
  }
  for (const name of options.machines ?? []) {
    await enrol(name, options.labels?.[name])
    if (options.offline?.includes(name) !== true) await readers.agent(name).connect()
  }
  core.rows.length = 0
  return { ...core, ...readers, ...people, enrol }
}

type Core = ReturnType<typeof createCore>
type Readers = ReturnType<typeof readersOf>

/** The driver with all that it is joined to, through any number of its lives. */
function createCore(options: WorldOptions) {
  const time = createTime(START)
  const dice = createDice(1, 'scenario')
  const disk = createMemoryDisk(dice)
  const settings = settingsOf(options)
  const agents = new Map<string, Agent>()
  const rows: FeedRow[] = []
  const calls: ChangeCall[] = []
  const fatal: Error[] = []
  const provider: Provider = { answer: (permission) => permission, delayMs: 0, isUp: true }
  const life = newLife(settings, createTools(settings, dice))
  const driver = () => must(life.driver)
  const { track, settle } = createFlight()
  const submit = async (actor: Actor, event: Event): Promise<Reply> =>
    (await track(askingOf(driver(), options).submit(actor, event))).reply
  const toAgent = postman(agents, track)
  const toChange = (call: ChangeCall) => {
    calls.push(call)
    if (life.plug !== undefined) return life.plug.toChange(call)
    const { number } = life
    const go = () => {
      if (number === life.number) void track(driver().submit(SMITH, { type: 'localCall', call }))
    }
    if (provider.isUp && provider.delayMs === 0) go()
    else if (provider.isUp) time.after(provider.delayMs, go)
  }
  const toLookup = (number: number, event: Event) =>
    void track(askingOf(driver(), options, () => number === life.number).submit(SMITH, event))
  const start = async () => {
    const number = (life.number += 1)
    life.store = options.store?.() ?? openMemoryStore(disk)
    const isAlive = () => number === life.number
    const clock = clockOf(time, isAlive)
    life.plug = options.plug?.({ time, clock, dice, driver, isAlive, track })
    life.driver = createDriver({
      store: life.store,
      clock,
      tools: life.tools,
      settings: life.settings,
      log: QUIET,
      ...(options.core === undefined ? {} : { core: options.core }),
      outbound: { toAgent, toChange, toLookup: (event) => toLookup(number, event) },
      local: { isLocal, step: (view, envelope, given) => answered(localStep(view, envelope, given), provider) },
      ...(life.plug === undefined ? {} : { local: life.plug.local, core: life.plug.core }),
      onFatal: (error) => fatal.push(error),
    })
    life.driver.onRow((row) => rows.push(row))
    for (const call of unfinishedClosings(life.driver.view))
      await life.driver.submit(SMITH, { type: 'localCall', call })
    await life.driver.start()
    life.plug?.start()
    await settle()
  }
  /** The coordinator ends without a word and begins again from its disk; nobody is connected. */
  const restart = async (changed: Partial<Settings> = {}, downMs = 0) => {
    life.number += 1
    pass(time, downMs)
    life.settings = { ...life.settings, ...changed }
    life.tools = createTools(life.settings, dice)
    crashMemoryDisk(disk)
    await start()
  }
  return {
    ...{ time, dice, disk, settings, agents, rows, calls, fatal, provider },
    ...{ driver, submit, settle, start, restart },
    store: () => must(life.store),
    tools: () => life.tools,
  }
}

/** An answer of the source that comes when the life that asked is over finds nobody. */
function askingOf(driver: Driver, { lookup }: WorldOptions, isAlive = () => true): Driver {
  const living: Driver = {
    ...driver,
    submit: async (...given) => (isAlive() ? driver.submit(...given) : { reply: { ok: true }, rev: driver.rev() }),
  }
  return lookup === undefined ? living : withLookup(living, lookup)
}

/** Time goes by, and nobody waits for what happens in it. */
function pass(time: Time, ms: number): void {
  const end = { isReached: ms === 0 }
  time.after(ms, () => (end.isReached = true))
  while (!end.isReached && time.advance());
}

/** What changes from one life of the coordinator to the next. */
function newLife(settings: Settings, tools: Tools) {
  return {
    driver: undefined as Driver | undefined,
    store: undefined as Store | undefined,
    plug: undefined as Plug | undefined,
    number: 0,
    ...{ settings, tools },
  }
}

/** Brings what is sent to the agent that it is for, and its answer back. */
function postman(agents: ReadonlyMap<string, Agent>, track: (answer: Promise<Reply>) => Promise<Reply>) {
  return (send: AgentSend) => {
    const agent = [...agents.values()].find((one) => one.id() === send.machine)
    agent?.got.push(send)
    const answer = agent === undefined ? null : planAnswer(agent, send)
    if (agent !== undefined && answer !== null) void track(agent.say(answer))
  }
}

/** What is under way, and how to wait until nobody has anything left to say at this instant. */
function createFlight() {
  const inFlight = new Set<Promise<unknown>>()
  return {
    track: <T>(promise: Promise<T>): Promise<T> => {
      const over = () => {
        inFlight.delete(promise)
      }
      promise.then(over, over)
      inFlight.add(promise)
      return promise
    },
    settle: async () => {
      do {
        await new Promise((resolve) => setImmediate(resolve))
      } while (inFlight.size > 0)
    },
  }
}

/** The ports of the driver in one of its lives: its timers die with it. */
function clockOf(time: Time, isAlive: () => boolean): Clock {
  return {
    wallNow: time.now,
    monotonicNow: time.now,
    after: (ms, callback) => time.after(ms, () => isAlive() && callback()),
  }
}

function settingsOf(options: WorldOptions): Settings {
  return {
    ...SETTINGS,
    ...(options.lookup === undefined ? {} : { lookup: options.lookup.source }),
    ...(options.clusters === undefined ? {} : { clusters: options.clusters }),
    ...(options.trains === undefined ? {} : { trains: options.trains }),
    approval: { ...SETTINGS.approval, ...options.approval },
    schedule: { ...SETTINGS.schedule, ...options.schedule },
    limits: { ...SETTINGS.limits, ...options.limits },
  }
}

/** What an agent that plans by itself says to the question for a plan; null for all else that it may be sent. */
function planAnswer(agent: Agent, send: AgentSend): AgentNews | null {
  if (!('frame' in send) || send.frame.t !== 'plan' || !agent.plansBySelf) return null
  const { query } = send.frame
  if ('kind' in agent.plan) return { t: 'planRefused', query, refusal: agent.plan }
  return { t: 'planned', query, plan: agent.plan, evidence: agent.evidence, warnings: [...agent.warnings] }
}

/** What can be seen of the world. Rows come from the store, so that a project that has ended is seen too. */
function readersOf(core: Core) {
  const { store } = core
  const project = (change: string): Project =>
    must(store().get('projects', must(store().get('changes', change)).project))
  const targets = (change: string): readonly Target[] => store().list('targets', `${project(change).id}/`)
  const rowsOf = (change: string): ProjectRows => ({
    project: project(change),
    targets: targets(change),
    bags: store().list('bags', `${project(change).id}/`),
    holder: project(change).state === 'closed' ? null : liveRowsOf(core.driver().view, project(change)).holder,
  })
  /** As data; throws when it is not what the schema says. */
  const json = (change: string): Status => v.parse(statusSchema, statusOf(rowsOf(change), core.settings.instance))
  return {
    agent: (name: string): Agent => must(core.agents.get(name)),
    facts: (): Fact[] => core.rows.flatMap((row) => row.facts),
    project,
    targets,
    target: (change: string, name: string): Target => must(targets(change).find((target) => target.name === name)),
    orders: (change: string): readonly Order[] => store().orders({ project: project(change).id }),
    rowsOf,
    json,
    text: (change: string): string => renderStatus(json(change), core.driver().now()),
    /** `state stop: name state, name state`, for short checks. */
    brief: (change: string): string => {
      const { state, stop } = json(change)
      const places = targets(change).map((target) => `${target.name} ${target.state}`)
      return `${state}${stop === null ? '' : ` ${stop.kind} ${stop.code}`}: ${places.join(', ')}`
    },
    /** Lets virtual time go on by this much; every timer on the way fires. */
    later: async (ms: number): Promise<void> => {
      const end = { isReached: false }
      core.time.after(ms, () => (end.isReached = true))
      while (!end.isReached && core.time.advance()) await core.settle()
    },
  }
}

/** What people do. Each answers when everything that follows at this instant has happened. */
function peopleOf(core: Core, readers: Readers) {
  const command = async (by: Person, given: Command): Promise<Reply> => {
    const reply = await core.submit(typeof by === 'string' ? PEOPLE[by] : by, { type: 'command', command: given })
    await core.settle()
    return reply
  }
  /** What becomes of a request once everybody has answered. */
  const request = async (text: string, fields: { by?: Person; preview?: boolean; key?: string | null } = {}) => {
    const reply = await command(fields.by ?? 'ana', {
      type: 'request',
      text,
      preview: fields.preview ?? false,
      key: fields.key ?? null,
    })
    const row = reply.ok ? must(core.store().get('requests', must(reply.value?.request))) : null
    return { refusals: reply.ok ? (row?.refusals ?? []) : reply.refusals, request: row }
  }
  /** The number of the change that a request got. */
  const ask = async (text: string, by: Person = 'ana'): Promise<string> => {
    const { refusals, request: row } = await request(text, { by })
    if (row?.change == null)
      throw new Error(`no change: ${row?.state} ${refusals.map((one) => one.message).join('; ')}`)
    return row.change
  }
  const decide = (
    decision: 'approve' | 'reject',
    change: string,
    by: Person = 'bo',
    digest: string | null = decision === 'approve' ? readers.project(change).digest : null,
  ) => command(by, { type: 'decide', change, decision, digest, reason: '' })
  const approve = (change: string, by: Person = 'bo') => decide('approve', change, by)
  return {
    command,
    request,
    ask,
    refusalsOf: async (text: string) => (await request(text)).refusals,
    decide,
    approve,
    /** Asks and approves: the first machine is granted when this returns. */
    begin: async (text: string): Promise<string> => {
      const change = await ask(text)
      const reply = await approve(change)
      if (!reply.ok) throw new Error(`not approved: ${JSON.stringify(reply)}`)
      return change
    },
    steer: (type: 'pause' | 'resume' | 'cancel', change: string, reason = '', by: Person = 'ana') =>
      command(by, { type, change, reason }),
    retry: (change: string, machine: string, by: Person = 'ana') =>
      command(by, { type: 'retry', change, machine, reason: '' }),
    skip: (change: string, machine: string, reason = 'later', by: Person = 'ana') =>
      command(by, { type: 'skip', change, machine, reason }),
    resolve: (change: string, machine: string, as: 'succeeded' | 'failed', reason = 'looked', by: Person = 'ana') =>
      command(by, { type: 'resolve', change, machine, as, reason }),
  }
}

/** What the provider says, how late, and whether it says anything. */
export type Provider = { answer: (permission: Permission) => Permission | null; delayMs: number; isUp: boolean }

/** The provider's answers to the core as a test wants them; null fails the question. News is left alone. */
function answered(outcome: ReturnType<typeof localStep>, provider: Provider): ReturnType<typeof localStep> {
  const sends = outcome.sends.map((send) => {
    if (send.to !== 'core' || send.event.type !== 'permission' || send.event.ask === null) return send
    const { project, ask } = send.event
    const permission = provider.answer(send.event.permission)
    const event: Event =
      permission === null
        ? { type: 'providerFailed', project, ask, reason: 'no route to the provider' }
        : { ...send.event, permission }
    return { ...send, event }
  })
  return { ...outcome, sends }
}

async function seed(disk: ReturnType<typeof createMemoryDisk>, options: WorldOptions): Promise<void> {
  if (options.instance === undefined && options.given === undefined) return
  const store = openMemoryStore(disk)
  const row: FeedRow = { rev: 1, at: START, actor: 'smith', facts: [] }
  const instance: Instance = { frozen: null, fence: 0, change: 0, task: 0, ...options.instance }
  await store.commit({
    rev: 1,
    at: START,
    actor: 'smith',
    row,
    writes: [{ table: 'instance', key: 'instance', row: instance, live: true }, ...(options.given ?? [])],
    logs: [],
  })
  store.close()
}

/** The refusals of a reply; none when it was granted. */
export function refusalsIn(reply: Reply): readonly Refusal[] {
  return reply.ok ? [] : reply.refusals
}
