/**
 * The rules that a store keeps whatever the core decides: the serial rule, at most once, contiguous logs and an
 * unbroken journal. The memory store runs them from here; SQLite has the same ones as indexes and triggers in
 * migrations.ts, and the contract suite holds both to them. Pure.
 */
import type { Turn } from '../ports.ts'
import type { LogAppend } from '../domain/events.ts'
import { TABLES } from '../domain/state.ts'
import type { Instance, Line, Order, TableName, Tables, Write } from '../domain/state.ts'

/** An order in one of these has its machine: apt may be at work there. */
export const ACTIVE_ORDER_STATES = ['granted', 'running', 'unknown'] as const
/** An order in one of these never becomes anything but another of these. */
export const ENDED_ORDER_STATES = ['succeeded', 'failed', 'voided', 'cancelled'] as const

const isActive = (order: Order) => ACTIVE_ORDER_STATES.some((state) => state === order.state)
const isEnded = (order: Order) => ENDED_ORDER_STATES.some((state) => state === order.state)

/**
 * The writes to store, in the order in which to apply them: those of tables that are not stored left out, the last
 * one of a key, and what gives something up before what takes it, so that the core's own order never matters.
 */
export function arrangeWrites(writes: readonly Write[]): readonly Write[] {
  const last = new Map<string, Write>()
  for (const write of writes) {
    if (TABLES[write.table].stored) last.set(`${write.table} ${write.key}`, write)
  }
  const kept = [...last.values()]
  return [...kept.filter((write) => !takes(write)), ...kept.filter(takes)]
}

function takes(write: Write): boolean {
  if (write.row === null) return false
  if (write.table === 'orders') return isActive(write.row)
  if (write.table === 'machines') return write.row.state === 'active'
  return write.table === 'lines'
}

/** The tables whose rows the two functions below look at; of the others what was there before does not matter. */
export const RULED_TABLES: ReadonlySet<TableName> = new Set(['orders', 'machines', 'projects', 'lines', 'instance'])

/** What a row claims for itself alone: no other row of the store may claim the same. */
export function claimsOf(table: TableName, row: Tables[TableName]): readonly string[] {
  if (table === 'orders') {
    const order = row as Order
    const fence = order.fence > 0 ? [`fence ${order.fence}`] : []
    return isActive(order)
      ? [`active order of machine ${order.machine}`, `active order of project ${order.project}`, ...fence]
      : fence
  }
  if (table === 'machines') {
    const machine = row as Tables['machines']
    return machine.state === 'active' ? [`active machine ${machine.name}`] : []
  }
  if (table === 'projects') {
    const { change } = row as Tables['projects']
    return change === null ? [] : [`change ${change}`]
  }
  return []
}

/** Why a stored row may not become what is written, null when it may. `after: null` is a deletion. */
export function transitionProblem(
  table: TableName,
  before: Tables[TableName],
  after: Tables[TableName] | null,
): string | null {
  if (table === 'lines') return after === null ? null : lineProblem(before as Line, after as Line)
  if (table === 'orders') return orderProblem(before as Order, after as Order | null)
  if (table === 'instance') return instanceProblem(before as Instance, after as Instance | null)
  return null
}

function lineProblem(before: Line, after: Line): string | null {
  if (before.project === after.project && before.machine === after.machine) return null
  return `line ${before.key} is in use by another machine and must be freed in a turn of its own`
}

function orderProblem(before: Order, after: Order | null): string | null {
  if (after === null)
    return isActive(before) ? `order ${before.id} is between granted and known and can't be deleted` : null
  if (isEnded(before) && !isEnded(after)) return `order ${before.id} has ended and can't be opened again`
  if (before.fence > 0 && after.fence !== before.fence) return `order ${before.id} was granted and keeps its fence`
  return null
}

function instanceProblem(before: Instance, after: Instance | null): string | null {
  if (after === null) return `the instance row can't be deleted`
  if (after.fence < before.fence || after.change < before.change || after.task < before.task)
    return 'the counters of the instance only rise'
  return null
}

/** Why a turn can't follow the newest journal row, null when it can. */
export function turnProblem(turn: Turn, last: { readonly rev: number; readonly at: number }): string | null {
  if (turn.rev !== last.rev + 1) return `journal row ${turn.rev} does not follow row ${last.rev}`
  if (turn.row.rev !== turn.rev || turn.row.at !== turn.at)
    return `journal row ${turn.row.rev} is not of turn ${turn.rev}`
  if (turn.at < last.at) return `the time of journal row ${turn.rev} goes back from ${last.at} to ${turn.at}`
  return null
}

/** Why records can't follow those that an order has, null when they can. */
export function appendProblem(append: LogAppend, upTo: number): string | null {
  if (append.from !== upTo + 1)
    return `the log of order ${append.order} has ${upTo} records and can't go on with record ${append.from}`
  const index = append.records.findIndex((record, offset) => record.n !== append.from + offset)
  if (index >= 0)
    return `record ${append.records[index]?.n} of order ${append.order} stands in the place of ${append.from + index}`
  return null
}
