/**
 * Health reports of machines: asked for by a person, or by itself once for each order that failed or is unknown;
 * fetched from the machine part by part, a few machines at a time; kept on the shelf. A machine that is out of reach
 * gets at once a report of what the coordinator knows, and gives its own when it is back.
 * Nothing here waits for, delays or decides anything of a run.
 */
import { gunzipSync } from 'node:zlib'
import * as v from 'valibot'
import type { AgentFrame, CoordinatorFrame } from '../../protocol/agent.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import {
  machineReportSchema,
  REPORT_JSON_BYTES_MAX,
  REPORT_PACKED_BYTES_MAX,
  type MachineReport,
  type ReportView,
} from '../../protocol/report.ts'
import type { View } from '../domain/draft.ts'
import type { Machine } from '../domain/state.ts'
import type { Clock, Log, Random } from '../ports.ts'
import { cleanLine, harmless, isTooLarge } from './harmless.ts'
import { summaryOf } from './summary.ts'
import { knownOf, withKnown, withoutMachine } from './known.ts'
import type { Kept, Shelf } from './shelf.ts'

/** Longer than a machine takes at most: it bounds its collector itself. */
const FIRST_MS_MAX = 200_000
const PART_MS_MAX = 30_000
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
  /** A report that belongs to an order is on the shelf. */
  readonly onKept: (kept: Kept) => void
}
export type Reports = {
  readonly ask: (machine: Machine, by: string) => ReportView
  /** The newest, or the one that is named. */
  readonly find: (machine: string, report: string | null) => ReportView | undefined
  readonly file: (machine: string, report: string, name: string) => string | undefined
  readonly onFrame: (machine: string, frame: ReportFrame) => void
  readonly onConnected: (machine: string) => void
  readonly onRow: (row: FeedRow) => void
  /** Asks for what a crash left undone. */
  readonly start: () => void
  readonly stop: () => void
}

type Task = {
  readonly report: string
  readonly machine: Machine
  readonly by: string
  readonly askedAt: number
  order: string | null
  isAtWork: boolean
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
  #isStopped = false

  constructor(ports: ReportsPorts) {
    this.#ports = ports
  }

  ask(machine: Machine, by: string): ReportView {
    const { report } = this.#add(machine, by, null)
    this.#beginNext()
    const found = this.find(machine.id, report)
    if (found === undefined)
      throw new Error(`the report of ${machine.name} could not be kept; see the coordinator's log`)
    return found
  }

  find(machine: string, report: string | null): ReportView | undefined {
    const { shelf } = this.#ports
    const task = this.#tasks.get(machine)
    if (task !== undefined && (report === null || report === task.report)) return taskView(task)
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
    task.of = frame.of
    task.parts.push(Buffer.from(frame.base64, 'base64'))
    if (task.parts.reduce((sum, part) => sum + part.length, 0) > REPORT_PACKED_BYTES_MAX)
      return this.#fail(task, 'its report is larger than the protocol allows')
    if (task.parts.length < task.of) return this.#askNext(task)
    const unpacked = unpack(Buffer.concat(task.parts))
    if ('problem' in unpacked) this.#fail(task, unpacked.problem)
    else this.#end(task, unpacked.report, null)
  }

  onConnected(machine: string): void {
    const { shelf, view } = this.#ports
    const task = this.#tasks.get(machine)
    if (task?.isAtWork === true) return this.#askNext(task)
    const [newest] = shelf.labels(machine)
    const row = view.get('machines', machine)
    if (task !== undefined || row === undefined || newest === undefined) return
    // What it could not tell then it can tell now.
    if (newest.order === null || newest.isOfMachine) return
    this.#add(row, OWN, newest.order)
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
    for (const { state, order, machine } of this.#ports.view.all('targets'))
      if (order !== null && (state === 'failed' || state === 'unknown')) this.#addForOrder(machine, order)
  }

  stop(): void {
    this.#isStopped = true
    for (const task of this.#tasks.values()) task.timer?.()
  }

  /** Once for each order: one that has a report, if only of what the coordinator knows, gets no other by itself. */
  #addForOrder(id: string, order: string): void {
    const { shelf, view } = this.#ports
    const machine = view.get('machines', id)
    if (machine === undefined || shelf.labels(id).some((label) => label.order === order)) return
    this.#add(machine, OWN, order)
    this.#beginNext()
  }

  #add(machine: Machine, by: string, order: string | null): Task {
    const open = this.#tasks.get(machine.id)
    if (open !== undefined) {
      open.order ??= order
      return open
    }
    const report = Buffer.from(this.#ports.random.bytes(16)).toString('hex')
    const askedAt = this.#ports.now()
    const task: Task = { report, machine, by, askedAt, order, isAtWork: false, parts: [], of: 0, timer: null }
    this.#tasks.set(machine.id, task)
    return task
  }

  #beginNext(): void {
    const all = [...this.#tasks.values()]
    let free = SIDE_BY_SIDE - all.filter((task) => task.isAtWork).length
    for (const task of all) {
      if (task.isAtWork || free <= 0 || this.#isStopped) continue
      free -= 1
      task.isAtWork = true
      if (this.#ports.view.get('sessions', task.machine.id) === undefined) this.#fail(task, 'it is not connected')
      else this.#askNext(task)
    }
  }

  #askNext(task: Task): void {
    const { machine, report, parts, of } = task
    this.#ports.send(machine.id, { t: 'report', report, part: parts.length })
    if (parts.length === 0) this.#arm(task, FIRST_MS_MAX, `it gave no report in ${FIRST_MS_MAX / 1000} s`)
    else this.#arm(task, PART_MS_MAX, `part ${parts.length + 1} of ${of} of its report did not come`)
  }

  #arm(task: Task, ms: number, problem: string): void {
    task.timer?.()
    task.timer = this.#ports.clock.after(ms, () => this.#fail(task, problem))
  }

  #fail(task: Task, problem: string): void {
    const { view, log, now } = this.#ports
    log.warn({ machine: task.machine.name, problem }, 'no health report of the machine itself')
    this.#end(task, withoutMachine(knownOf(view, task.machine, task.order), problem, now()), problem)
  }

  #end(task: Task, of: MachineReport, problem: string | null): void {
    const { shelf, log, onKept } = this.#ports
    task.timer?.()
    this.#tasks.delete(task.machine.id)
    try {
      const kept = keptOf(this.#ports, task, of, problem)
      shelf.put(kept)
      if (kept.order !== null) onKept(kept)
    } catch (error) {
      log.error({ machine: task.machine.name, err: error }, 'a health report could not be kept')
    }
    this.#beginNext()
  }
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
