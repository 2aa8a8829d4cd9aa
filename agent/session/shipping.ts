/**
 * Ships the records of runs from the disk to the coordinator: what is acknowledged is done, everything after it is
 * sent again until it is. Used by agent.ts, which tells it of connections, acks and orders.
 * Invariants: what is sent is complete and synced; at most RECORDS_WINDOW_MAX records of an order are under way;
 * the numbers sent on one connection follow each other without a gap.
 */
import { dirname } from 'node:path'
import { type OrderInHand, RECORDS_WINDOW_MAX } from '../../protocol/agent.ts'
import type { OrderEvidence } from '../../protocol/files.ts'
import { orderLayoutOf } from '../disk/layout.ts'
import type { AgentPorts, Cancel } from '../ports.ts'
import { cautiousEvidence, fenceOf, writeAcked } from './evidence.ts'
import { guard, problemOf } from './guard.ts'
import { syncWaiting } from './inbox.ts'
import { type Border, RecordsError, START, isResultLine, readBatch, seek } from './records.ts'

/** Unacknowledged for so long, records are sent again. */
const RESEND_MS = 5_000
/** A repeated ack asks for what follows it; one such question in so long is answered. */
const REWIND_MS = 1_000
/** How many bytes may wait in the socket before no more is put on it. */
const BUFFERED_BYTES_MAX = 1_048_576

type Tail = {
  readonly order: string
  readonly path: string
  /** The end of the last complete record on the disk, and how many bytes of the file are synced. */
  known: Border
  synced: number
  /** What was sent on this connection, and what of it is not acknowledged, frame by frame. */
  sent: Border
  underWay: Border[]
  acked: number
  /** A border at or before `acked`, to seek from. */
  base: Border
  ended: boolean
  /**
   * True after a hello until the coordinator has said how much of the order it has. It says so of every order that
   * it knows, and must not be sent the records of one that it does not (its database may be an old copy).
   */
  waits: boolean
  /** The runner was given something for this order, so its files are about to change. */
  isExpected: boolean
  /** When something was last sent first, acknowledged or begun again. */
  movedAt: number
  problem: string | null
  /** A hello has said that the runner refused it. */
  isRefusalTold: boolean
  stopWatch: Cancel | null
}

export type Shipping = {
  /** Takes up an order; harmless when it is known. */
  readonly track: (order: string) => void
  /** The same for an order of which something was just dropped into the inbox. */
  readonly expect: (order: string) => void
  readonly drop: (order: string) => void
  readonly onConnected: () => void
  readonly onDisconnected: () => void
  readonly onAck: (order: string, upTo: number) => void
  /** Looks at the disk and sends what is new. */
  readonly look: () => void
  /** What hello says of the orders in hand; synced before it is said. */
  readonly inHand: () => OrderInHand[]
  readonly evidence: (order: string) => OrderEvidence | null
  /** True while the disk has to be looked at. */
  readonly isBusy: () => boolean
  /** True while some order is claimed and has no result. */
  readonly hasUnfinished: () => boolean
  /** True when the runner has refused a grant since the last hello, which no record tells. */
  readonly hasUntoldRefusal: () => boolean
}

type Ports = Pick<AgentPorts, 'clock' | 'disk' | 'layout' | 'log' | 'watch'>
type State = {
  readonly ports: Ports
  readonly sendText: (text: string) => boolean
  readonly bufferedBytes: () => number
  readonly onChange: () => void
  readonly tails: Map<string, Tail>
  connected: boolean
}

export function createShipping(
  ports: Ports,
  out: {
    readonly sendText: (text: string) => boolean
    readonly bufferedBytes: () => number
    readonly onChange: () => void
  },
): Shipping {
  const s: State = { ports, ...out, tails: new Map(), connected: false }
  return {
    track: (order) => void track(s, order),
    expect: (order) => {
      const tail = track(s, order)
      tail.isExpected = true
      // The coordinator has just spoken of it, so it knows it, also when no hello could name it.
      tail.waits = false
    },
    drop: (order) => {
      s.tails.get(order)?.stopWatch?.()
      s.tails.delete(order)
    },
    onConnected: () => {
      s.connected = true
      for (const tail of s.tails.values()) restart(tail)
    },
    onDisconnected: () => {
      s.connected = false
    },
    onAck: (order, upTo) => onAck(s, order, upTo),
    look: () => {
      for (const tail of s.tails.values()) {
        refresh(s, tail)
        pace(s, tail)
        ship(s, tail)
      }
    },
    inHand: () => [...s.tails.values()].flatMap((tail) => inHandOf(s, tail) ?? []),
    evidence: (order) => cautiousEvidence(ports.disk, ports.layout, ports.log, order),
    hasUntoldRefusal: () => [...s.tails.values()].some((tail) => isUntoldRefusal(s, tail)),
    isBusy: () => [...s.tails.values()].some((tail) => isBusy(s, tail)),
    hasUnfinished: () => [...s.tails.values()].some((tail) => isUnfinished(s, tail)),
  }
}

function track(s: State, order: string): Tail {
  const known = s.tails.get(order)
  if (known !== undefined) return known
  const tail: Tail = {
    order,
    path: orderLayoutOf(s.ports.layout, order).records,
    known: START,
    synced: 0,
    sent: START,
    underWay: [],
    acked: 0,
    base: START,
    ended: false,
    waits: false,
    isExpected: false,
    movedAt: s.ports.clock.monotonicNow(),
    problem: null,
    isRefusalTold: false,
    stopWatch: null,
  }
  s.tails.set(order, tail)
  refresh(s, tail)
  return tail
}

function restart(tail: Tail): void {
  tail.underWay = []
  tail.sent = tail.base
  tail.waits = true
}

/** Takes in what the runner has written since: syncs it first, so that from here on it may be told. */
function refresh(s: State, tail: Tail): void {
  if (tail.ended || tail.problem !== null) return
  guard(s.ports.log, 'reading the records of an order', { order: tail.order, path: tail.path }, () => {
    const { disk } = s.ports
    const size = disk.factsOf(tail.path)?.size ?? 0
    if (size === tail.synced) return
    if (size < tail.known.offset) {
      fail(s, tail, `${tail.path} has become shorter: ${size} bytes instead of ${tail.known.offset}`)
      return
    }
    if (tail.stopWatch === null)
      tail.stopWatch = s.ports.watch(orderLayoutOf(s.ports.layout, tail.order).folder, s.onChange)
    disk.fsync(tail.path)
    // The runner may have ended between the file and its folder, and then nobody else makes the name safe.
    if (tail.synced === 0) disk.fsync(dirname(tail.path))
    const end = seek(disk, tail.path, tail.known, Number.MAX_SAFE_INTEGER, size)
    if (end.line > tail.known.line) {
      const before = seek(disk, tail.path, tail.known, end.line - 1, size)
      tail.ended = isResultLine(disk, tail.path, before, end)
    }
    tail.known = end
    tail.synced = size
    if (tail.ended) {
      tail.stopWatch?.()
      tail.stopWatch = null
    }
  })
}

function fail(s: State, tail: Tail, problem: string): void {
  tail.problem = problem
  s.ports.log.error(
    {
      order: tail.order,
      path: tail.path,
      problem,
      remedy:
        'Look at the file; the run itself is told by smith-agent.log, and the order is settled with `smith resolve`.',
    },
    'the records of an order can not be shipped',
  )
}

/** Begins again where the coordinator stands when it has been silent for too long. */
function pace(s: State, tail: Tail): void {
  const now = s.ports.clock.monotonicNow()
  if (tail.underWay.length > 0 && now - tail.movedAt >= RESEND_MS) rewind(s, tail)
}

function rewind(s: State, tail: Tail): void {
  guard(s.ports.log, 'going back in the records of an order', { order: tail.order, path: tail.path }, () => {
    tail.base = seek(
      s.ports.disk,
      tail.path,
      tail.acked >= tail.base.line ? tail.base : START,
      tail.acked,
      tail.known.offset,
    )
    tail.sent = tail.base
    tail.underWay = []
    tail.movedAt = s.ports.clock.monotonicNow()
  })
}

function ship(s: State, tail: Tail): void {
  if (!s.connected || tail.waits || tail.problem !== null) return
  guard(s.ports.log, 'shipping the records of an order', { order: tail.order, path: tail.path }, () => {
    while (tail.sent.offset < tail.known.offset) {
      const room = RECORDS_WINDOW_MAX - (tail.sent.line - tail.acked)
      if (room <= 0 || s.bufferedBytes() > BUFFERED_BYTES_MAX) return
      const batch = readChecked(s, tail, room)
      if (batch === null) return
      if (!s.sendText(`{"t":"records","order":"${tail.order}","records":[${batch.lines.join(',')}]}`)) return
      if (tail.underWay.length === 0) tail.movedAt = s.ports.clock.monotonicNow()
      tail.sent = batch.end
      tail.underWay.push(batch.end)
    }
  })
}

function readChecked(s: State, tail: Tail, room: number): ReturnType<typeof readBatch> {
  try {
    return readBatch(s.ports.disk, tail.path, tail.sent, tail.known.offset, room)
  } catch (error) {
    if (!(error instanceof RecordsError)) throw error
    fail(s, tail, problemOf(error))
    return null
  }
}

function onAck(s: State, order: string, upTo: number): void {
  const tail = s.tails.get(order)
  if (tail === undefined) return
  refresh(s, tail)
  const wasWaiting = tail.waits
  tail.waits = false
  if (upTo > tail.known.line) {
    s.ports.log.warn(
      { order, upTo, onDisk: tail.known.line },
      'the coordinator has more records of an order than this disk',
    )
    tail.acked = tail.known.line
    tail.base = tail.known
    tail.sent = tail.known
    tail.underWay = []
    return
  }
  if (upTo < tail.acked || wasWaiting) {
    // It has less than it once had (a restored database), or says for the first time where it stands.
    tail.acked = upTo
    rewind(s, tail)
  } else if (upTo > tail.acked) {
    advance(s, tail, upTo)
  } else if (tail.underWay.length > 0 && s.ports.clock.monotonicNow() - tail.movedAt >= REWIND_MS) {
    rewind(s, tail)
  }
  guard(s.ports.log, 'telling the runner what is acknowledged', { order }, () => tellAcked(s, tail))
  ship(s, tail)
}

/** A run that is about to reboot waits until the coordinator knows of it; for others nothing is written. */
function tellAcked(s: State, tail: Tail): void {
  const { disk, layout } = s.ports
  if (tail.ended || disk.factsOf(orderLayoutOf(layout, tail.order).reboot) === null) return
  writeAcked(disk, layout, tail.order, tail.acked)
}

function advance(s: State, tail: Tail, upTo: number): void {
  tail.acked = upTo
  tail.movedAt = s.ports.clock.monotonicNow()
  while (tail.underWay[0] !== undefined && tail.underWay[0].line <= upTo) {
    tail.base = tail.underWay[0]
    tail.underWay.shift()
  }
  if (tail.sent.line < upTo) rewind(s, tail)
}

function inHandOf(s: State, tail: Tail): OrderInHand | undefined {
  return guard(s.ports.log, 'reading the state of an order', { order: tail.order }, () => {
    refresh(s, tail)
    const evidence = cautiousEvidence(s.ports.disk, s.ports.layout, s.ports.log, tail.order)
    if (evidence === null) return undefined
    // A name in there may be of an agent that ended before it was safe.
    if (evidence === 'inbox') syncWaiting(s.ports.disk, s.ports.layout)
    if (evidence === 'refused') tail.isRefusalTold = true
    const fence = guard(s.ports.log, 'reading the fence of an order', { order: tail.order }, () =>
      fenceOf(s.ports.disk, s.ports.layout, tail.order),
    )
    return { order: tail.order, fence: fence ?? 0, evidence, upTo: tail.known.line }
  })
}

function isBusy(s: State, tail: Tail): boolean {
  if (tail.problem !== null || (tail.isRefusalTold && !tail.isExpected)) return false
  return !tail.ended || (s.connected && tail.acked < tail.known.line)
}

function evidenceNow(s: State, tail: Tail): OrderEvidence | null {
  return (
    guard(s.ports.log, 'reading the state of an order', { order: tail.order }, () =>
      cautiousEvidence(s.ports.disk, s.ports.layout, s.ports.log, tail.order),
    ) ?? null
  )
}

function isUnfinished(s: State, tail: Tail): boolean {
  if (tail.ended) return false
  const evidence = evidenceNow(s, tail)
  return evidence === 'claimed' || evidence === 'latched'
}

function isUntoldRefusal(s: State, tail: Tail): boolean {
  return s.connected && !tail.isRefusalTold && tail.known.line === 0 && evidenceNow(s, tail) === 'refused'
}
