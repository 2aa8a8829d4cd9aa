/**
 * The unprivileged half of the agent as a step machine over its ports: says hello with everything in hand, answers
 * plans and downloads, drops grants for the runner and ships what it records. `createAgent(ports)` is what main, the
 * tests and the simulator call.
 * Invariant: nothing is said that is not on the disk, and nothing the agent does begins, stops or changes a run.
 */
import { type AgentFrame, ORDERS_IN_HAND_MAX } from '../protocol/agent.ts'
import { type Refusal, unreachable } from '../protocol/errors.ts'
import { listNames } from './disk/disk.ts'
import { fenceHighWater } from './disk/order-state.ts'
import type { AgentPorts, Cancel, Description } from './ports.ts'
import { type Connection, type ConnectionState, type WorkFrame, createConnection } from './session/connection.ts'
import { type Errands, createErrands } from './session/errands.ts'
import { dropDownloads, forget, isForgotten, mostUrgent, ordersOnDisk, sweepForgotten } from './session/evidence.ts'
import { guard } from './session/guard.ts'
import { dropGrant, dropRevoke } from './session/inbox.ts'
import { type Reports, createReports } from './session/reports.ts'
import { type RunnerKeeper, createRunnerKeeper } from './session/runner-keeper.ts'
import { type Shipping, createShipping } from './session/shipping.ts'

/** After a sign that files changed, they are looked at so much later, since signs come in swarms. */
const SETTLE_MS = 40
/** What the disk did not take is asked for again so much later. */
const ASK_AGAIN_MS = 10_000
/** Its own files change one after another; it looks at them when none has changed for so long. */
const OWN_FILES_SETTLE_MS = 5_000
/** How often a machine that can take no orders looks whether it can again. */
const IMPEDIMENT_LOOK_MS = 30_000
/** After so long without work the memory that it took is given back. */
const REST_MS = 10_000

export type Agent = {
  readonly start: () => void
  /** Ends the connection and all timers; runs go on, since they are not the agent's. */
  readonly stop: () => void
  readonly state: () => ConnectionState
}

type State = {
  readonly ports: AgentPorts
  readonly incarnation: string
  readonly connection: Connection
  readonly shipping: Shipping
  readonly errands: Errands
  readonly reports: Reports
  readonly keeper: RunnerKeeper
  readonly onOutdated: () => void
  poll: Cancel | null
  pollAt: number
  renewal: Cancel | null
  /** What the last hello said that is in the way of orders, and the next look whether it is gone. */
  impediment: string | null
  impedimentLook: Cancel | null
  rest: Cancel | null
  askAgain: Cancel | null
  stopWatches: Cancel[]
  stopped: boolean
}

/** `onOutdated` is called when its own files were replaced and nothing is at work; it is to be stopped then. */
export function createAgent(
  ports: AgentPorts,
  onState: (state: ConnectionState) => void = () => {},
  onOutdated: () => void = () => {},
): Agent {
  const connection = createConnection(
    ports,
    {
      onReady: () => onReady(s),
      onFrame: (frame) => {
        postponeRest(s)
        onFrame(s, frame)
      },
      onDown: () => s.shipping.onDisconnected(),
    },
    onState,
  )
  const s: State = {
    ports,
    incarnation: Buffer.from(ports.random.bytes(16)).toString('hex'),
    connection,
    shipping: createShipping(ports, {
      sendText: connection.sendText,
      bufferedBytes: connection.bufferedBytes,
      onChange: () => schedule(s, SETTLE_MS),
    }),
    // An answer that finds no connection is asked for again after the next hello.
    errands: createErrands(
      ports,
      (frame) => {
        postponeRest(s)
        connection.send(frame)
      },
      connection.clockAheadMs,
    ),
    reports: createReports(ports, (frame) => {
      postponeRest(s)
      connection.send(frame)
    }),
    keeper: createRunnerKeeper(
      ports,
      () => isRunnerNeeded(s),
      () => schedule(s, 0),
    ),
    onOutdated,
    poll: null,
    pollAt: 0,
    renewal: null,
    impediment: null,
    impedimentLook: null,
    rest: null,
    askAgain: null,
    stopWatches: [],
    stopped: false,
  }
  return {
    start: () => {
      discover(s)
      watchOwnFiles(s)
      schedule(s, 0)
      connection.start()
    },
    stop: () => stop(s),
    state: connection.state,
  }
}

function stop(s: State): void {
  s.stopped = true
  for (const cancel of [s.poll, s.renewal, s.impedimentLook, s.rest, s.askAgain, ...s.stopWatches]) cancel?.()
  s.stopWatches = []
  s.keeper.stop()
  s.reports.stop()
  s.connection.stop()
}

/** Takes up every order of the disk that the coordinator has not let go. */
function discover(s: State): void {
  const { disk, layout, log } = s.ports
  guard(log, 'looking for orders', { folder: layout.orders }, () => {
    const present = ordersOnDisk(disk, layout)
    for (const order of present) if (!isForgotten(disk, layout, order)) s.shipping.track(order)
    sweepForgotten(disk, layout, present)
  })
}

/** Looks at the files once, later; sooner if that was asked for sooner. Nothing is armed while no order is open. */
function schedule(s: State, delayMs: number): void {
  if (s.stopped) return
  const dueAt = s.ports.clock.monotonicNow() + delayMs
  // A stream of signs must not put the look off for ever.
  if (s.poll !== null && s.pollAt <= dueAt) return
  s.poll?.()
  s.pollAt = dueAt
  s.poll = s.ports.clock.after(delayMs, () => {
    s.poll = null
    s.shipping.look()
    s.keeper.check()
    if (s.shipping.hasUntoldRefusal()) s.connection.renew('a grant was refused here, which a new hello tells')
    if (s.poll === null && s.shipping.isBusy()) schedule(s, s.ports.limits.pollMs)
    else endIfOutdated(s)
  })
}

/** Called at every piece of work, the hello too, since starting takes memory as well. */
function postponeRest(s: State): void {
  const { rest, clock } = s.ports
  s.rest?.()
  if (rest === undefined || s.stopped) return
  s.rest = clock.after(REST_MS, () => {
    s.rest = null
    rest()
  })
}

function watchOwnFiles(s: State): void {
  const { ownFiles, watch, clock } = s.ports
  const onChange = () => {
    s.renewal?.()
    s.renewal = clock.after(OWN_FILES_SETTLE_MS, () => {
      s.renewal = null
      endIfOutdated(s)
    })
  }
  s.stopWatches = (ownFiles?.folders ?? []).map((folder) => watch(folder, onChange))
}

/** In the middle of a run it stays, since that may be the run that replaces it: what it has loaded is enough. */
function endIfOutdated(s: State): boolean {
  if (s.stopped || s.renewal !== null || s.ports.ownFiles?.areReplaced() !== true) return false
  if (isRunnerNeeded(s) || s.shipping.isBusy()) return false
  s.ports.log.info({}, 'the files of this agent were replaced and no run is at work; it ends to be started again')
  s.onOutdated()
  return true
}

function isRunnerNeeded(s: State): boolean {
  const { disk, layout, log } = s.ports
  const waiting = guard(log, 'looking into the inbox', { folder: layout.inbox }, () =>
    [layout.inbox, layout.taken].some((folder) => listNames(disk, folder).length > 0),
  )
  return waiting === true || s.shipping.hasUnfinished()
}

function onReady(s: State): void {
  const { ports } = s
  postponeRest(s)
  discover(s)
  const fence = readFence(ports)
  const described = ports.describe()
  const orders = s.shipping.inHand()
  if (orders.length > ORDERS_IN_HAND_MAX)
    ports.log.warn({ orders: orders.length, told: ORDERS_IN_HAND_MAX }, 'more orders in hand than a hello can tell')
  const hello: AgentFrame = {
    t: 'hello',
    name: ports.identity.name,
    facts: described.facts,
    bootId: described.bootId,
    incarnation: s.incarnation,
    fence: fence ?? 0,
    at: ports.clock.wallNow(),
    builds: [...described.builds],
    template: described.template,
    impediment: impedimentOf(ports, fence, described),
    orders: mostUrgent(orders, ORDERS_IN_HAND_MAX),
  }
  ports.log.info(
    { orders: hello.orders.length, fence: hello.fence, impediment: hello.impediment?.message },
    'connected to the coordinator',
  )
  s.connection.send(hello)
  s.impediment = hello.impediment?.message ?? null
  lookAgain(s)
  s.shipping.onConnected()
  schedule(s, 0)
}

function readFence({ disk, layout, log }: AgentPorts): number | undefined {
  return guard(log, 'reading the fence', { path: layout.fence }, () => fenceHighWater(disk, layout))
}

function impedimentOf(ports: AgentPorts, fence: number | undefined, described: Description): Refusal | null {
  if (fence !== undefined) return described.impediment
  return {
    kind: 'internal',
    message: `${ports.layout.fence} can't be read, so it can't be told which grant is the newest`,
    remedy: 'See the journal of smith-agent on the machine, and repair the file or enrol the machine again.',
  }
}

/** A machine with nothing in its way needs no timer for that: it looks when it is asked for something. */
function lookAgain(s: State): void {
  s.impedimentLook?.()
  s.impedimentLook = null
  if (s.impediment === null || s.stopped) return
  s.impedimentLook = s.ports.clock.after(IMPEDIMENT_LOOK_MS, () => {
    if (!isToldAnew(s)) lookAgain(s)
  })
}

/** True when what is in the way of orders is no longer what the last hello said; then there is a new hello. */
function isToldAnew(s: State): boolean {
  const impediment = impedimentOf(s.ports, readFence(s.ports), s.ports.describe())?.message ?? null
  if (impediment === s.impediment) return false
  s.impediment = impediment
  s.connection.renew('what this machine can take orders for has changed, which a new hello tells')
  return true
}

function onFrame(s: State, frame: WorkFrame): void {
  switch (frame.t) {
    case 'plan':
      // What planning loads late may be gone with the old files; the question comes again after the next hello.
      s.renewal?.()
      s.renewal = null
      if (endIfOutdated(s) || isToldAnew(s)) return
      s.errands.onPlan(frame)
      return
    case 'offer':
      if (isToldAnew(s)) return
      s.errands.onOffer(frame)
      return
    case 'grant':
      keep(s, 'a grant', frame.order, () => onGrant(s, frame))
      return
    case 'revoke':
      keep(s, 'a revoke', frame.order, () => onRevoke(s, frame.order))
      return
    case 'ack':
      s.shipping.onAck(frame.order, frame.upTo)
      return
    case 'report':
      s.reports.onAsk(frame)
      return
    case 'forget':
      keep(s, 'that an order is let go', frame.order, () => onForget(s, frame.order))
      return
    default:
      unreachable(frame)
  }
}

/** The coordinator says it once on a connection, so what the disk did not take would be waited for without an end. */
function keep(s: State, what: string, order: string, work: () => void): void {
  const { log, clock } = s.ports
  const isKept = guard(log, `keeping ${what}`, { order }, () => {
    work()
    return true
  })
  if (isKept === true || s.askAgain !== null) return
  s.askAgain = clock.after(ASK_AGAIN_MS, () => {
    s.askAgain = null
    s.connection.renew(`${what} could not be kept; a new hello asks for it again`)
  })
}

function onGrant(s: State, frame: Extract<WorkFrame, { t: 'grant' }>): void {
  const { disk, layout, identity, log } = s.ports
  s.errands.endOffer(frame.order)
  const dropped = dropGrant(disk, layout, identity.machine, frame)
  if ('problem' in dropped) {
    log.error({ order: frame.order, problem: dropped.problem }, 'a grant was not taken')
    return
  }
  const { fence, isKept } = dropped
  log.info({ order: frame.order, fence }, isKept ? 'grant received' : 'grant received after its revoke; it is not kept')
  s.shipping.expect(frame.order)
  if (isKept) s.connection.send({ t: 'granted', order: frame.order, fence })
  s.keeper.hurry()
  schedule(s, 0)
}

function onRevoke(s: State, order: string): void {
  s.errands.endOffer(order)
  dropRevoke(s.ports.disk, s.ports.layout, order)
  s.ports.log.info({ order }, 'revoke received')
  s.shipping.expect(order)
  s.keeper.hurry()
  schedule(s, 0)
}

function onForget(s: State, order: string): void {
  const { disk, layout, log } = s.ports
  const evidence = s.shipping.evidence(order)
  if (evidence === 'inbox' || evidence === 'claimed' || evidence === 'latched') {
    log.warn({ order, evidence }, 'the coordinator lets go an order that has no result here; it stays in hand')
    return
  }
  s.errands.endOffer(order)
  if (evidence === null) dropDownloads(disk, layout, order)
  else forget(disk, layout, order)
  s.shipping.drop(order)
}
