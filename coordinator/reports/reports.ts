/**
 * Health reports of machines: asked for by a person, or by itself for each order that failed or is unknown, begun after
 * its end; fetched from the machine part by part, a few machines at a time; kept on the shelf. A machine that is out of
 * reach gets at once a report of what the coordinator knows, and gives its own when it is back.
 * Nothing here waits for, delays or decides anything of a run.
 */
import { gunzipSync } from 'node:zlib'
import * as v from 'valibot'
import type { AgentFrame, CoordinatorFrame } from '../../protocol/agent.ts'
import { RefusedError } from '../../protocol/errors.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import {
  machineReportSchema,
  REPORT_JSON_BYTES_MAX,
  REPORT_PACKED_BYTES_MAX,
  REPORT_PART_BYTES_MAX,
  type MachineReport,
  type ReportView,
} from '../../protocol/report.ts'
import type { View } from '../domain/draft.ts'
import type { Machine } from '../domain/state.ts'
import type { Clock, Log, Random } from '../ports.ts'
import { cleanLine, harmless, isTooLarge } from './harmless.ts'
import { summaryOf } from './summary.ts'
import { knownOf, withKnown, withoutMachine } from './known.ts'
import type { Kept, Label, Shelf } from './shelf.ts'

/** Longer than a machine takes at most: it bounds its collector itself. */
const FIRST_MS_MAX = 200_000
const PART_MS_MAX = 30_000
/** In all, over every reconnecting: until the first part, and until the last. */
const FIRST_IN_ALL_MS_MAX = 280_000
const IN_ALL_MS_MAX = 600_000
const PARTS_MAX = Math.ceil(REPORT_PACKED_BYTES_MAX / REPORT_PART_BYTES_MAX)
/** How often a machine that gave none of its own for an order is asked again, at a reconnect each. */
const RECONNECT_TRIES_MAX = 2
/** How often, and when, an order's report that could not be kept is made again. */
const KEEP_TRIES_MAX = 12
const KEEP_AGAIN_MS = 300_000
const PRUNE_MS = 3_600_000
/** Machines that make a report or send it at the same time; the others wait. */
const SIDE_BY_SIDE = 8

export type ReportFrame = Extract<AgentFrame, { t: 'reportPart' | 'reportRefused' }>
export type ReportsPorts = {
  readonly view: View
  readonly clock: Clock
  readonly now: () => number
  readonly random: Random
  readonly log: Log
  readonly shelf: Shelf
  readonly send: (machine: string, frame: CoordinatorFrame) => void
  /** A report that belongs to an order is on the shelf. Resolves when what it is told with is committed. */
  readonly onKept: (kept: Kept) => Promise<void>
}
export type Reports = {
  /** Throws a RefusedError when it is made at once and can't be kept. */
  readonly ask: (machine: Machine, by: string) => ReportView
  /** The newest, or the one that is named. Throws a RefusedError for one that was made and could not be kept. */
  readonly find: (machine: string, report: string | null) => ReportView | undefined
  readonly file: (machine: string, report: string, name: string) => string | undefined
  readonly onFrame: (machine: string, frame: ReportFrame) => void
  readonly onConnected: (machine: string) => void
  readonly onRow: (row: FeedRow) => void
  /** Asks for what a crash left undone, tells what it left untold, and keeps the shelf within its bounds from here on. */
  readonly start: () => void
  readonly stop: () => void
}

type Task = {
  readonly report: string
  readonly machine: Machine
  readonly by: string
  askedAt: number
  order: string | null
  /** The coordinator's own report for the order, which this one is to better. */
  again: Label | null
  /** Orders that ended, or became unknown, when this was at work already: theirs are begun when it ends. */
  readonly next: Set<string>
  /** A person waits for it. */
  isAsked: boolean
  isAtWork: boolean
  begunAt: number
  parts: Buffer[]
  of: number
  timer: (() => void) | null
}

/** In the name of smith itself. */
const OWN = 'smith'

export function createReports(ports: ReportsPorts): Reports {
  return new Desk(ports)
}

/** Owns the reports that are under way, one for each machine at most. */
class Desk implements Reports {
  readonly #ports: ReportsPorts
  readonly #tasks = new Map<string, Task>()
  #busy = 0
  #isBeginning = false
  #isStopped = false
  /** By machine: the order for which it was asked again, and how often. */
  readonly #retried = new Map<string, { readonly order: string; readonly tries: number }>()
  /** By order: what could not be kept, and how often that was tried. */
  readonly #unkept = new Map<string, { readonly machine: string; readonly tries: number }>()
  /** By machine: the newest report that could not be kept, and why, for who asked. */
  readonly #lost = new Map<string, { readonly report: string; readonly name: string; readonly why: string }>()
  /** Reports that are being told of. */
  readonly #telling = new Set<string>()
  #keepTimer: (() => void) | null = null
  #pruneTimer: (() => void) | null = null

  constructor(ports: ReportsPorts) {
    this.#ports = ports
  }

  ask(machine: Machine, by: string): ReportView {
    const task = this.#tasks.get(machine.id) ?? this.#add(machine, by, null)
    task.isAsked = true
    this.#beginNext()
    return this.find(machine.id, task.report) ?? refuseUnkept(machine.name, 'report_bytes is less than it takes')
  }

  find(machine: string, report: string | null): ReportView | undefined {
    const { shelf } = this.#ports
    const task = this.#tasks.get(machine)
    if (task !== undefined && (report === null || report === task.report)) return taskView(task)
    const lost = this.#lost.get(machine)
    if (lost !== undefined && lost.report === report) return refuseUnkept(lost.name, lost.why)
    const label = shelf.labels(machine).find((one) => report === null || one.report === report)
    const kept = label === undefined ? undefined : shelf.get(machine, label.report)
    return kept === undefined ? undefined : keptView(kept)
  }

  file(machine: string, report: string, name: string): string | undefined {
    return this.#ports.shelf.get(machine, report)?.of.files.find((one) => one.name === name)?.text
  }

  onFrame(machine: string, frame: ReportFrame): void {
    const task = this.#tasks.get(machine)
    if (task === undefined || task.report !== frame.report || !task.isAtWork) return
    if (frame.t === 'reportRefused') return this.#fail(task, cleanLine(frame.problem))
    if (frame.part !== task.parts.length || (task.of !== 0 && task.of !== frame.of)) return
    const part = Buffer.from(frame.base64, 'base64')
    const problem = problemOfPart(frame, part.length)
    if (problem !== null) return this.#fail(task, problem)
    task.of = frame.of
    task.parts.push(part)
    if (task.parts.length < task.of) return this.#askNext(task)
    const unpacked = unpack(Buffer.concat(task.parts))
    if ('problem' in unpacked) this.#fail(task, unpacked.problem)
    else this.#end(task, unpacked.report, null)
  }

  onConnected(machine: string): void {
    const { view } = this.#ports
    const task = this.#tasks.get(machine)
    if (task?.isAtWork === true) return this.#askNext(task)
    const row = view.get('machines', machine)
    const again = this.#poorOf(machine)
    if (task !== undefined || row === undefined || again === null) return
    // What it could not tell then it can tell now.
    this.#add(row, OWN, again.order, again)
    this.#beginNext()
  }

  onRow({ facts }: FeedRow): void {
    const { view } = this.#ports
    for (const { fact, order } of facts) {
      if ((fact !== 'orderFailed' && fact !== 'orderUnknown') || order === undefined) continue
      const id = (view.get('orders', order) ?? view.archived('orders', order))?.machine
      if (id !== undefined) this.#addForOrder(id, order)
    }
  }

  start(): void {
    this.#tellUntold()
    for (const { state, order, machine } of this.#ports.view.all('targets'))
      if (order !== null && (state === 'failed' || state === 'unknown')) this.#addForOrder(machine, order)
    this.#pruneLater()
  }

  stop(): void {
    this.#isStopped = true
    this.#keepTimer?.()
    this.#pruneTimer?.()
    for (const task of this.#tasks.values()) task.timer?.()
  }

  /** Unless it has one that was asked for after its end, if only of what the coordinator knows. */
  #addForOrder(id: string, order: string): void {
    const machine = this.#ports.view.get('machines', id)
    if (machine === undefined || this.#isReported(id, order)) {
      this.#unkept.delete(order)
      return
    }
    const open = this.#tasks.get(id)
    if (open === undefined) {
      this.#add(machine, OWN, order)
      this.#beginNext()
    } else if (!open.isAtWork && (open.order ?? order) === order) {
      // It is begun after this, so it can be the order's.
      open.order = order
      open.askedAt = this.#ports.now()
      open.again = null
    } else if (open.order !== order || open.askedAt < this.#endOf(order)) {
      open.next.add(order)
    }
  }

  #isReported(machine: string, order: string): boolean {
    const end = this.#endOf(order)
    return this.#ports.shelf.labels(machine).some((label) => label.order === order && label.at >= end)
  }

  /** 0 while it has not ended. */
  #endOf(order: string): number {
    const { view } = this.#ports
    return (view.get('orders', order) ?? view.archived('orders', order))?.endedAt ?? 0
  }

  /** The newest report that is for an order, if the machine gave none of its own and may be asked for it once more. */
  #poorOf(machine: string): Label | null {
    const newest = this.#ports.shelf.labels(machine).find((label) => label.order !== null)
    if (newest === undefined || newest.isOfMachine) return null
    const retried = this.#retried.get(machine)
    return retried?.order === newest.order && retried.tries >= RECONNECT_TRIES_MAX ? null : newest
  }

  #add(machine: Machine, by: string, order: string | null, again: Label | null = null): Task {
    const report = Buffer.from(this.#ports.random.bytes(16)).toString('hex')
    const askedAt = this.#ports.now()
    const task: Task = {
      ...{ report, machine, by, askedAt, order, again, next: new Set(), isAsked: false },
      ...{ isAtWork: false, begunAt: 0, parts: [], of: 0, timer: null },
    }
    this.#tasks.set(machine.id, task)
    return task
  }

  #beginNext(): void {
    // Of a machine out of reach the report ends in here: the loop that began it goes on, however long the queue.
    if (this.#isBeginning) return
    this.#isBeginning = true
    try {
      for (const task of this.#tasks.values()) {
        if (this.#isStopped || this.#busy >= SIDE_BY_SIDE) return
        if (!task.isAtWork) this.#begin(task)
      }
    } finally {
      this.#isBeginning = false
    }
  }

  #begin(task: Task): void {
    const { view, clock } = this.#ports
    const { machine, again } = task
    task.isAtWork = true
    task.begunAt = clock.monotonicNow()
    this.#busy += 1
    if (view.get('sessions', machine.id) === undefined) return this.#fail(task, 'it is not connected')
    if (again !== null && again.order !== null) {
      const retried = this.#retried.get(machine.id)
      const tries = retried?.order === again.order ? retried.tries + 1 : 1
      this.#retried.set(machine.id, { order: again.order, tries })
    }
    this.#askNext(task)
  }

  #askNext(task: Task): void {
    const { machine, report, parts, of } = task
    this.#ports.send(machine.id, { t: 'report', report, part: parts.length })
    if (parts.length === 0) this.#arm(task, FIRST_MS_MAX, FIRST_IN_ALL_MS_MAX, 'it gave no report')
    else this.#arm(task, PART_MS_MAX, IN_ALL_MS_MAX, `part ${parts.length + 1} of ${of} of its report did not come`)
  }

  /** Neither a new connection nor a part moves the bound in all. */
  #arm(task: Task, ms: number, inAllMs: number, problem: string): void {
    const { clock } = this.#ports
    const leftMs = task.begunAt + inAllMs - clock.monotonicNow()
    const text =
      leftMs >= ms
        ? `${problem} in ${ms / 1000} s`
        : `${task.of === 0 ? problem : 'its report was not whole'} in ${inAllMs / 1000} s`
    task.timer?.()
    task.timer = clock.after(Math.max(0, Math.min(ms, leftMs)), () => this.#fail(task, text))
  }

  #fail(task: Task, problem: string): void {
    const { view, log, now } = this.#ports
    log.warn({ machine: task.machine.name, problem }, 'no health report of the machine itself')
    this.#end(task, withoutMachine(knownOf(view, task.machine, task.order), problem, now()), problem)
  }

  #end(task: Task, of: MachineReport, problem: string | null): void {
    const { machine, report, order, next } = task
    task.timer?.()
    this.#tasks.delete(machine.id)
    this.#busy -= 1
    this.#lost.delete(machine.id)
    try {
      this.#keep(task, keptOf(this.#ports, task, of, problem))
    } catch (error) {
      this.#ports.log.error({ machine: machine.name, err: error }, 'a health report could not be kept')
      this.#lost.set(machine.id, { report, name: machine.name, why: codeOf(error) })
      if (order !== null) this.#keepLater(machine.id, order)
    }
    for (const one of next) this.#addForOrder(machine.id, one)
    this.#beginNext()
  }

  #keep({ again, isAsked, machine }: Task, kept: Kept): void {
    const { shelf } = this.#ports
    if (again === null || kept.problem === null) {
      shelf.put(kept, kept.order === null)
      if (kept.order !== null) this.#tell(kept)
    } else if (isAsked) {
      shelf.put({ ...kept, order: null })
    } else {
      // It is no news: it stands under the id that was told, and nobody is told again.
      const old = shelf.labels(machine.id).find((label) => label.report === again.report)
      shelf.put({ ...kept, report: again.report }, old?.isTold ?? true)
    }
  }

  #keepLater(machine: string, order: string): void {
    const tries = (this.#unkept.get(order)?.tries ?? 0) + 1
    if (tries > KEEP_TRIES_MAX) {
      this.#unkept.delete(order)
      return
    }
    this.#unkept.set(order, { machine, tries })
    if (this.#isStopped || this.#keepTimer !== null) return
    this.#keepTimer = this.#ports.clock.after(KEEP_AGAIN_MS, () => {
      this.#keepTimer = null
      for (const [one, unkept] of [...this.#unkept]) this.#addForOrder(unkept.machine, one)
    })
  }

  #tell(kept: Kept): void {
    const { onKept, shelf, log } = this.#ports
    const { machine, report, order } = kept
    if (order !== null) this.#unkept.delete(order)
    this.#telling.add(report)
    onKept(kept)
      .then(() => shelf.told(machine, report))
      .catch((error: unknown) =>
        log.warn({ report, err: error }, 'a health report may not have been told of: the next start tells it'),
      )
      .finally(() => this.#telling.delete(report))
  }

  #tellUntold(): void {
    const { shelf, log } = this.#ports
    for (const { machine, report } of shelf.untold()) {
      // The driver was at work before this: what it lost sight of has its report already.
      if (this.#telling.has(report)) continue
      try {
        const kept = shelf.get(machine, report)
        if (kept !== undefined) this.#tell(kept)
      } catch (error) {
        log.error({ report, err: error }, 'a health report that was not told of can’t be read')
      }
    }
  }

  #pruneLater(): void {
    this.#pruneTimer?.()
    this.#pruneTimer = this.#ports.clock.after(PRUNE_MS, () => {
      try {
        this.#ports.shelf.prune()
      } catch (error) {
        this.#ports.log.error({ err: error }, 'a health report beyond its age could not be removed')
      }
      this.#pruneLater()
    })
  }
}

/** What the agent would never send, or null: parts that are all full but the last bound what is held here. */
function problemOfPart({ part, of }: Extract<ReportFrame, { t: 'reportPart' }>, bytes: number): string | null {
  if (of > PARTS_MAX) return 'its report is larger than the protocol allows'
  const isLast = part === of - 1
  if (bytes === REPORT_PART_BYTES_MAX || (isLast && bytes < REPORT_PART_BYTES_MAX)) return null
  return `part ${part + 1} of ${of} of its report has ${bytes} bytes`
}

function refuseUnkept(name: string, why: string): never {
  const remedy = `make room where the coordinator has its state_dir (df there; report_bytes bounds what reports take), then ask again: smith report ${name}`
  throw new RefusedError([
    { kind: 'unavailable', message: `the health report of ${name} could not be kept (${why})`, subject: name, remedy },
  ])
}

/** What the system calls the failure: its whole text names paths, which are not for everybody. */
function codeOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : null
  return typeof code === 'string' ? code : 'see the log of the coordinator'
}

function keptOf({ view }: ReportsPorts, task: Task, of: MachineReport, problem: string | null): Kept {
  const known = knownOf(view, task.machine, task.order)
  const report = withKnown(of, known)
  const { report: id, machine, by, askedAt } = task
  const given = { machine: machine.name, lift: known.lift, problem }
  return {
    ...{ report: id, machine: machine.id, name: machine.name, by, askedAt, problem },
    order: task.order,
    change: known.change,
    summary: summaryOf(report, given),
    of: report,
  }
}

function unpack(packed: Buffer): { readonly report: MachineReport } | { readonly problem: string } {
  try {
    const text = gunzipSync(packed, { maxOutputLength: REPORT_JSON_BYTES_MAX }).toString('utf8')
    const parsed = v.safeParse(machineReportSchema, JSON.parse(text), { abortEarly: true })
    if (!parsed.success) {
      const [{ message }] = parsed.issues
      const problem = `its report does not have the form of one: ${v.getDotPath(parsed.issues[0]) ?? ''} ${message}`
      return { problem: cleanLine(problem).slice(0, 500) }
    }
    return isTooLarge(parsed.output)
      ? { problem: 'its report is larger than the protocol allows' }
      : { report: harmless(parsed.output) }
  } catch (error) {
    const problem = `its report can't be unpacked: ${error instanceof Error ? error.message : String(error)}`
    return { problem: cleanLine(problem).slice(0, 500) }
  }
}

function taskView({ report, machine, by, askedAt, order, isAtWork, parts, of }: Task): ReportView {
  return {
    ...{ report, machine: machine.name, by, askedAt, order, change: null, problem: null, summary: null, files: [] },
    state: isAtWork ? 'collecting' : 'waiting',
    parts: of === 0 ? null : { have: parts.length, of },
  }
}

function keptView({ report, name, by, askedAt, order, change, problem, summary, of }: Kept): ReportView {
  return {
    ...{ report, machine: name, by, askedAt, order, change, problem, summary, state: 'done', parts: null },
    files: of.files.map((file) => ({ name: file.name, what: file.what, bytes: Buffer.byteLength(file.text) })),
  }
}
