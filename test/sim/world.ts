/**
 * One simulated world from one seed: the real core, driver, local change provider and store over virtual time; model
 * machines behind links that are cut; people who ask, approve, steer and race one another; crashes of everything.
 * A phase with faults, then a healing phase in which every project must reach its end.
 */
import { createHash } from 'node:crypto'
import { RE2JS } from 're2js'
import type { AgentFrame } from '../../protocol/agent.ts'
import type { GrantPayload } from '../../protocol/files.ts'
import type { Plan } from '../../protocol/plan.ts'
import { isLocal, localStep, unfinishedClosings } from '../../coordinator/change/local.ts'
import type { Command, Event, Settings, Tools } from '../../coordinator/domain/events.ts'
import { type View, createDraft } from '../../coordinator/domain/draft.ts'
import { endOrder } from '../../coordinator/domain/order.ts'
import { step } from '../../coordinator/domain/step.ts'
import type { Actor, Project, TableName, Tables } from '../../coordinator/domain/state.ts'
import { placeKey } from '../../coordinator/domain/state.ts'
import { type Driver, createDriver } from '../../coordinator/driver.ts'
import type { AgentSend, Store } from '../../coordinator/ports.ts'
import { crashMemoryDisk, createMemoryDisk, openMemoryStore } from '../../coordinator/store/memory.ts'
import { type Ledger, createLedger } from './ledger.ts'
import { type Machine, createMachine, isMachineBug } from './machine.ts'
import { type Dice, createDice } from './random.ts'
import { createTime } from './time.ts'

/** A bug to plant: each must be found by the checker that is named after the rule it breaks. */
export const BUGS = [
  'run-twice',
  'claim-twice',
  'record-repeated',
  'lines-ignored',
  'silence-is-failure',
  'always-approved',
  'log-dropped',
  'grant-and-revoke-lost',
  'plan-swapped',
  'row-lost',
] as const
export type Bug = (typeof BUGS)[number] | null
export type Outcome = { readonly violations: readonly string[]; readonly history: string; readonly counts: Ledger['counts'] & { projects: number; turns: number } }

const SETTINGS: Settings = {
  instance: 'sim',
  regions: [],
  clusters: [],
  approval: { requesterMayApprove: false, localAdminMayApprove: false },
  limits: {
    machinesPerRequestMax: 100,
    plansInParallelMax: 3,
    prefetchAheadMax: 2,
    planTimeMsMax: 60_000,
    waitMsMax: 600_000,
    silenceMsMax: 90_000,
    grantLifeMs: 600_000,
    permissionAgeMsMax: 10_000,
    permissionRetryMs: 10_000,
    changePollMs: 15_000,
  },
}
const FAULTS_MS = 40 * 60_000
const HEALING_MS = 8 * 3_600_000
/** How long after the last project ended the machines may still send what they have. */
const SETTLING_MS = 10 * 60_000
const PEOPLE: readonly Actor[] = [
  { kind: 'person', name: 'ana', roles: ['requester', 'approver', 'admin'] },
  { kind: 'person', name: 'bo', roles: ['requester', 'approver', 'admin'] },
]

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

export function planOf(version: string): Plan {
  const install = { name: 'hello', arch: 'amd64', version, from: '1.0', sha256: sha256(version), size: 1 }
  return { v: 1, build: 'prod', arch: 'amd64', installs: [install], removes: [], repairs: [], holds: [], rebootDue: false, conffiles: 'keep' }
}

/** Runs one seed to its end. */
export async function runSeed(seed: number, bug: Bug = null): Promise<Outcome> {
  const time = createTime(1_700_000_000_000)
  const dice = createDice(seed, 'world')
  const disk = createMemoryDisk({ bytes: createDice(seed, 'disk').bytes })
  const faults = chooseFaults(dice)
  const hash = createHash('sha256')
  let coordinator: { driver: Driver; store: Store; alive: boolean } | null = null
  let healing = false
  let turns = 0
  const machines = new Map<string, Machine>()
  const links = new Map<string, { session: string; open: boolean }>()
  const viewNow = (): View | null => coordinator?.driver.view ?? null
  /** What is on the coordinator's disk, whether it runs or not. */
  const onDisk = <Name extends TableName>(table: Name, key: string): Tables[Name] | undefined => {
    const row = disk.tables.get(table)?.get(key)
    return row === undefined ? undefined : (JSON.parse(row.doc) as Tables[Name])
  }
  const targetFor = (grant: GrantPayload) => {
    const order = onDisk('orders', grant.order)
    return onDisk('targets', placeKey(order?.project ?? '', order?.target ?? 0))
  }
  const ledger = createLedger({
    linesOf: (grant) => ({ project: targetFor(grant)?.project ?? '', cluster: targetFor(grant)?.cluster ?? '' }),
    digestOf: (grant) => onDisk('projects', targetFor(grant)?.project ?? '')?.digest ?? '',
    approvedPlanOf: (grant) => targetFor(grant)?.planHash ?? '',
  })
  const tools: Tools = {
    newId: () => idDice.hex(32),
    sha256,
    compilePattern: (source) => {
      const pattern = RE2JS.compile(source)
      return { matches: (name) => pattern.matcher(name).find() }
    },
    captureCluster: () => null,
    settings: SETTINGS,
  }
  const idDice = createDice(seed, 'ids')

  const toAgent = (send: AgentSend) => {
    const link = links.get(send.machine)
    const machine = machines.get(send.machine)
    if (link?.open !== true || machine === undefined) return
    if ('drop' in send) {
      if (link.session === send.drop.session) cut(send.machine)
      return
    }
    if (bug === 'grant-and-revoke-lost' && ('grant' in send || ('frame' in send && send.frame.t === 'revoke'))) return
    deliver(link, () => {
      if ('frame' in send) machine.receive(send.frame)
      else if ('grant' in send) {
        const plan = coordinator?.store.get('plans', send.grant.planHash)?.plan ?? planOf('2.0')
        machine.receive({ t: 'grantPayload', grant: bug === 'plan-swapped' ? { ...send.grant, planHash: sha256('other') } : send.grant, plan })
      }
    })
  }
  /** In order, late, and lost with the link. */
  const deliver = (link: { open: boolean; busyUntil?: number }, callback: () => void) => {
    const at = Math.max(link.busyUntil ?? 0, time.now() + dice.between(1, faults.delayMsMax))
    link.busyUntil = at
    time.after(at - time.now(), () => link.open && callback())
  }
  const submit = (actor: Actor, event: Event, then?: (ok: boolean) => void) => {
    const life = coordinator
    if (life === null) return
    void life.driver.submit(actor, event).then(({ reply }) => then?.(reply.ok), () => undefined)
  }
  const connect = (machine: Machine) => {
    if (!machine.isUp() || coordinator === null || links.get(machine.id)?.open === true) return
    const link: { session: string; open: boolean; busyUntil?: number } = { session: idDice.hex(32), open: true }
    links.set(machine.id, link)
    const actor: Actor = { kind: 'machine', id: machine.id, name: machine.name }
    const counter = machine.nextCounter()
    const life = coordinator
    const hello = machine.hello()
    deliver(link, () => {
      if (life !== coordinator) return
      submit(actor, { type: 'sessionOpened', machine: machine.id, session: link.session, address: '10.0.0.1', counter, hello })
      machine.connected((frame: AgentFrame) => {
        deliver(link, () => {
          if (life !== coordinator || frame.t === 'ping' || frame.t === 'pong' || frame.t === 'auth' || frame.t === 'hello') return
          submit(actor, { type: 'agentNews', machine: machine.id, session: link.session, news: frame })
        })
      })
    })
  }
  /** Both sides lose what was under way; the coordinator notices at once or only after its pings went unanswered. */
  const cut = (id: string) => {
    const link = links.get(id)
    if (link?.open !== true) return
    link.open = false
    machines.get(id)?.disconnected()
    const life = coordinator
    time.after(dice.chance(0.5) ? 0 : dice.between(1, 45_000), () => {
      if (life !== null && life === coordinator) submit({ kind: 'smith' }, { type: 'sessionClosed', machine: id, session: link.session, reason: 'cut' })
    })
  }
  const start = async () => {
    const store = openMemoryStore(disk)
    const kept: Store = bug === 'log-dropped' ? { ...store, commit: (turn) => store.commit({ ...turn, logs: dice.chance(0.05) ? [] : turn.logs }) } : store
    const life = { alive: true }
    const driver = createDriver({
      store: kept,
      clock: { wallNow: time.now, monotonicNow: time.now, after: (ms, callback) => time.after(ms, () => life.alive && callback()) },
      tools,
      settings: SETTINGS,
      log: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} },
      outbound: {
        toAgent: (send) => life.alive && toAgent(send),
        toChange: (call) => {
          if (life.alive) time.after(dice.between(1, faults.delayMsMax), () => life.alive && submit({ kind: 'smith' }, { type: 'localCall', call: call }))
        },
      },
      core: bugged(bug),
      local: {
        isLocal: (event) => isLocal(event),
        step: (view, envelope, given) => {
          const outcome = localStep(view, envelope, given)
          if (bug !== 'always-approved') return outcome
          return { ...outcome, sends: outcome.sends.map((send) => (send.to === 'core' && send.event.type === 'permission' ? { ...send, event: { ...send.event, permission: { ...send.event.permission, approval: 'approved' as const, by: 'nobody' } } } : send)) }
        },
      },
      onFatal: (error) => {
        ledger.violations.push(`FATAL: ${error.stack ?? error.message}`)
      },
    })
    coordinator = { driver, store: kept, alive: true }
    lives.push(life)
    driver.onRow((row) => {
      turns += 1
      if (bug === 'row-lost' && dice.chance(0.001)) return
      hash.update(JSON.stringify(row))
      if (row.rev !== lastRev + 1) ledger.violations.push(`FED-1: row ${row.rev} came after ${lastRev}`)
      lastRev = row.rev
    })
    for (const call of unfinishedClosings(driver.view)) await driver.submit({ kind: 'smith' }, { type: 'localCall', call })
    await driver.start()
  }
  const lives: { alive: boolean }[] = []
  let lastRev = 0
  const crash = () => {
    for (const life of lives) life.alive = false
    for (const [id, link] of links) {
      link.open = false
      machines.get(id)?.disconnected()
    }
    links.clear()
    crashMemoryDisk(disk)
    coordinator = null
  }

  await start()
  await enrolAll()
  people()
  for (const machine of machines.values()) reconnect(machine)
  schedule()
  const end = time.now() + FAULTS_MS
  await runUntil(() => time.now() >= end)
  await heal()
  return { violations: ledger.violations, history: hash.digest('hex'), counts: { ...ledger.counts, projects: [...disk.tables.get('projects')?.values() ?? []].length, turns } }

  async function enrolAll(): Promise<void> {
    const count = dice.between(2, 8)
    for (let index = 1; index <= count; index += 1) {
      const name = `prod-dal10-carrier${dice.between(1, 3)}-worker-${index}`
      const token = sha256(`${seed} ${index}`)
      const [ana] = PEOPLE
      const driver = (coordinator as { driver: Driver } | null)?.driver
      if (ana === undefined || driver === undefined) throw new Error('no coordinator')
      await driver.submit(ana, { type: 'command', command: { type: 'enrolNew', name, tokenHash: token, ttlMs: 1e6, replace: false } })
      const facts = { agentVersion: 'sim', os: 'sim', arch: 'amd64', kernel: 'sim', apt: 'sim', cluster: null, region: 'us-south', rebootPending: false }
      const { reply } = await driver.submit({ kind: 'smith' }, { type: 'enrol', tokenHash: token, publicKey: 'k', facts, address: '10.0.0.1' })
      const id = reply.ok ? (reply.value?.machine ?? '') : ''
      machines.set(id, createMachine({ id, name, time, dice: createDice(seed, name), ledger, plan: planOf('2.0'), failRate: faults.failRate, bug: isMachineBug(bug) ? bug : null }))
    }
  }

  function reconnect(machine: Machine): void {
    connect(machine)
    time.after(dice.between(500, 20_000), () => reconnect(machine))
  }

  function schedule(): void {
    const every = (rate: number, act: () => void) => {
      if (rate > 0) time.after(dice.between(1, Math.floor(120_000 / rate)), () => {
        if (healing) return
        act()
        every(rate, act)
      })
    }
    const any = () => dice.pick([...machines.values()])
    every(faults.cut, () => cut(any().id))
    every(faults.killAgent, () => {
      const machine = any()
      cut(machine.id)
      machine.killAgent()
    })
    every(faults.killRunner, () => any().killRunner())
    every(faults.plug, () => {
      const machine = any()
      cut(machine.id)
      machine.pullPlug()
      time.after(dice.between(5000, 400_000), machine.startAgent)
    })
    every(faults.crash, () => {
      if (coordinator === null) return
      crash()
      time.after(dice.between(100, 30_000), () => {
        if (coordinator === null) void start()
      })
    })
    every(faults.drift, () => any().setPlan(planOf(dice.chance(0.5) ? '2.1' : '2.0')))
  }

  function people(): void {
    const act = () => {
      const who = dice.pick(PEOPLE)
      const view = viewNow()
      if (view !== null) actOnce(who, view)
      time.after(dice.between(500, healing ? 60_000 : 40_000), act)
    }
    for (let person = 0; person < 3; person += 1) time.after(dice.between(1, 20_000), act)
  }

  function actOnce(who: Actor, view: View): void {
    const open = [...view.all('projects')]
    const project = open.length === 0 ? undefined : dice.pick(open)
    if (healing) {
      for (const one of open) lift(who, view, one)
      return
    }
    if (project?.change == null || dice.chance(0.2)) {
      command(who, { type: 'request', text: requestText(), preview: dice.chance(0.1), key: null })
      return
    }
    if (project.state === 'pending' || project.approval === null) {
      decide(who, project, dice.chance(0.9) ? 'approve' : 'reject')
      return
    }
    const roll = dice.below(100)
    if (roll < 50) lift(who, view, project)
    else if (roll < 54) decide(who, project, 'reject')
    else if (roll < 60) command(who, { type: 'pause', change: project.change, reason: 'look' })
    else if (roll < 64) cancel(who, view, project)
    else if (roll < 68) command(who, { type: dice.chance(0.5) ? 'freeze' : 'unfreeze', reason: 'storm' })
  }

  /** Who cancels decides about every failure of the project. */
  function cancel(who: Actor, view: View, project: Project): void {
    const orders = project.undecided.map((index) => view.get('targets', placeKey(project.id, index))?.order ?? '')
    command(who, { type: 'cancel', change: project.change ?? '', reason: 'no' }, (ok) => ok && orders.forEach((order) => ledger.decided(order)))
  }

  function requestText(): string {
    const names = [...machines.values()].map((machine) => machine.name)
    const which = dice.chance(0.5) ? `prod-dal10-carrier${dice.between(1, 3)}-worker-*` : [dice.pick(names), dice.pick(names)].join(' ')
    return `prod machines: ${which} outage:0${dice.chance(0.5) ? ' offline:skip busy:skip' : ''}`
  }

  function decide(who: Actor, project: Project, decision: 'approve' | 'reject'): void {
    const change = project.change ?? ''
    const { digest } = project
    const command: Command = { type: 'decide', change, decision, digest: decision === 'approve' ? digest : null, reason: '' }
    // The ledger takes an approval for given from the moment it is asked for, and takes it back if it is refused.
    const refused = decision === 'approve' ? ledger.approved(digest, time.now()) : () => {}
    submit(who, { type: 'command', command }, (ok) => {
      if (!ok) refused()
      else if (decision === 'reject') ledger.unapproved(digest, time.now())
    })
  }

  function command(who: Actor, given: Command, then?: (ok: boolean) => void): void {
    submit(who, { type: 'command', command: given }, then)
  }

  /** Does what the stop of a project says, as a person would. */
  function lift(who: Actor, view: View, project: Project): void {
    const change = project.change ?? ''
    const { stop } = project
    if (healing && (project.state === 'pending' || stop?.code === 'approval')) {
      decide(who.kind === 'person' && who.name === project.requester ? (PEOPLE.find((one) => one.kind === 'person' && one.name !== project.requester) ?? who) : who, project, 'approve')
      return
    }
    if (stop === null || stop.kind !== 'hold') return
    const order = project.active ?? view.get('targets', placeKey(project.id, project.undecided[0] ?? 0))?.order ?? ''
    const decided = (ok: boolean) => ok && ledger.decided(order)
    switch (stop.code) {
      case 'frozen':
        command(who, { type: 'unfreeze', reason: '' })
        return
      case 'unknown':
        resolveUnknown(who, view, project, decided)
        return
      case 'failed':
      case 'drift':
        if (dice.chance(0.3)) command(who, { type: 'skip', change, machine: stop.machine ?? '', reason: 'later' }, decided)
        else command(who, { type: 'retry', change, machine: stop.machine ?? '', reason: '' }, decided)
        return
      default:
        command(who, { type: 'resume', change, reason: '' })
    }
  }

  /** A person looks at the machine first: an order that is still at it is never called ended. */
  function resolveUnknown(who: Actor, view: View, project: Project, decided: (ok: boolean) => void): void {
    const order = view.get('orders', project.active ?? '')
    const machine = order === undefined ? undefined : machines.get(order.machine)
    if (order === undefined || machine === undefined) return
    const records = machine.recordsOf(order.id)
    if (records.at(-1)?.type !== 'result') return
    command(who, { type: 'resolve', change: project.change ?? '', machine: order.name, as: dice.chance(0.5) ? 'failed' : 'succeeded', reason: 'looked' }, decided)
  }

  async function runUntil(isOver: () => boolean): Promise<void> {
    while (!isOver() && ledger.violations.length === 0) {
      if (!time.advance()) return
      // Promises of this instant settle before the next thing happens.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  async function heal(): Promise<void> {
    healing = true
    if (coordinator === null) await start()
    for (const machine of machines.values()) {
      machine.setPlan(planOf('2.0'))
      machine.heal()
    }
    const end = time.now() + HEALING_MS
    const isQuiet = () => (viewNow()?.size('projects') ?? 1) === 0
    await runUntil(() => isQuiet() || time.now() >= end)
    if (ledger.violations.length > 0) return
    for (const project of viewNow()?.all('projects') ?? []) {
      ledger.violations.push(`LIV-1: ${project.change} never ended: ${project.state}, ${JSON.stringify(project.stop)}, active ${project.active}`)
    }
    const settled = time.now() + SETTLING_MS
    await runUntil(() => time.now() >= settled)
    checkLogs()
  }

  /** What was stored of each run is what its machine has on disk: no gap, no repeat, the same bytes. */
  function checkLogs(): void {
    const store = coordinator?.store
    if (store === undefined) return
    for (const machine of machines.values()) {
      for (const order of store.orders({ machine: machine.id })) {
        const stored = store.records({ order: order.id, after: 0, limit: 100_000 })
        const wanted = machine.recordsOf(order.id)
        if (JSON.stringify(stored) !== JSON.stringify(wanted)) {
          ledger.violations.push(`LOG-1: the log of ${order.id} has ${stored.length} records, its machine ${wanted.length}`)
        }
      }
    }
  }
}

/** The core's step with a bug planted in what it sees or says. */
function bugged(bug: Bug): typeof step {
  if (bug === 'lines-ignored') {
    return (view, envelope, tools) => {
      const blind: View = { ...view, get: (table, key) => (table === 'lines' && key.startsWith('cluster:') ? undefined : view.get(table, key)) }
      return step(blind, envelope, tools)
    }
  }
  if (bug === 'silence-is-failure') {
    return (view, envelope, tools) => {
      const outcome = step(view, envelope, tools)
      const silent = [...view.all('orders')].find((order) => order.state === 'running' && order.silentSince !== null && envelope.at - order.silentSince > 60_000)
      if (silent === undefined || envelope.event.type !== 'tick') return outcome
      const draft = createDraft(view, envelope, tools)
      endOrder(draft, silent, { state: 'succeeded', cause: null, message: 'silent', evidence: [], advice: [], latched: false, rebootPending: false, result: null, resolvedBy: null, isDecided: false })
      return draft.outcome({ ok: true })
    }
  }
  return step
}

/** Each seed turns a random half of the faults on. */
function chooseFaults(dice: Dice) {
  const rate = (most: number) => (dice.chance(0.5) ? dice.between(1, most) : 0)
  return {
    cut: rate(6),
    killAgent: rate(3),
    killRunner: rate(3),
    plug: rate(1),
    crash: rate(3),
    drift: rate(1),
    failRate: dice.chance(0.5) ? dice.pick([0.05, 0.2, 0.5]) : 0,
    delayMsMax: dice.pick([5, 200, 3000]),
  }
}
