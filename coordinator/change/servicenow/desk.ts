/**
 * Reading and moving single records: by their sys_id, never by a query, and compared with what was asked for. Called by
 * whatever raises, follows and closes a change.
 */
import type { View } from '../../domain/draft.ts'
import type { Clock, Log } from '../../ports.ts'
import { CallError, type Tried } from '../sender.ts'
import type { Client } from './client.ts'
import { ServiceNowError, isRefusal, quoted } from './failures.ts'
import { type Row, SYS_ID, rowOf, stateOf, textOf } from './records.ts'
import { type ChangeState, type ServiceNowSettings, linkOf } from './settings.ts'

/** Those who approved a change, as long as its record is at this version. */
export type Approvers = { readonly version: string; readonly who: Who }
export type Who = { readonly by: string; readonly reason: string | null; readonly users: readonly string[] }

/** What the work at ServiceNow's desk needs. */
export type Desk = {
  readonly settings: ServiceNowSettings
  readonly client: Client
  readonly view: View
  readonly clock: Clock
  readonly log: Log
  /** The wall clock as the core counts it. */
  readonly now: () => number
  /** When this life began, on the monotonic clock: what a former one has sent may still take effect. */
  readonly startedAt: number
  /** Whether a person may approve what they asked for themselves. */
  readonly requesterMayApprove: boolean
  /** Who approved, by project, with the version of the record that they approved. */
  readonly approvers: Map<string, Approvers>
  /** What a person must do at the project's change, by subject; null when it is done. */
  readonly ask: (project: string, subject: string, text: string | null) => void
}

const TABLE = '/api/now/table'
export const COMMON = { sysparm_exclude_reference_link: 'true', sysparm_display_value: 'false' }

export async function readRecord(
  desk: Desk,
  from: { readonly table: string; readonly sysId: string; readonly columns: readonly string[]; readonly what: string },
  timeoutMs?: number,
): Promise<Row> {
  const { table, sysId, columns, what } = from
  if (!SYS_ID.test(sysId)) throw new ServiceNowError('doubt', `${what}: ${quoted(sysId)} is no sys_id`)
  const query = { ...COMMON, sysparm_fields: ['sys_id', ...columns.filter((name) => name !== 'sys_id')].join(',') }
  const path = `${TABLE}/${table}/${sysId}`
  const ask = { method: 'GET', path, query, what, ...(timeoutMs === undefined ? {} : { timeoutMs }) } as const
  const row = rowOf(await desk.client.ask(ask), what)
  if (textOf(row, 'sys_id') === sysId) return row
  throw new ServiceNowError('doubt', `${what}: ServiceNow answered with another record`)
}

export async function patchRecord(
  desk: Desk,
  to: {
    readonly table: string
    readonly sysId: string
    readonly fields: Readonly<Record<string, string>>
    readonly what: string
  },
): Promise<Row> {
  const { table, sysId, fields, what } = to
  const query = { ...COMMON, sysparm_fields: ['sys_id', ...Object.keys(fields)].join(',') }
  const result = await desk.client.ask({
    method: 'PATCH',
    path: `${TABLE}/${table}/${sysId}`,
    query,
    body: fields,
    what,
  })
  return rowOf(result, what)
}

/** Rows of a table by a query; whoever asks must compare them with what it asked for (askedRows). */
export function listRecords(
  desk: Desk,
  from: {
    readonly table: string
    readonly query: string
    readonly columns: readonly string[]
    readonly limit: number
    readonly what: string
  },
  timeoutMs?: number,
): Promise<unknown> {
  const query = {
    ...COMMON,
    sysparm_query: from.query,
    sysparm_fields: from.columns.join(','),
    sysparm_limit: String(from.limit),
  }
  const path = `${TABLE}/${from.table}`
  return desk.client.ask({
    method: 'GET',
    path,
    query,
    what: from.what,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  })
}

/** What was sent by a process that is gone may still take effect; until it can't, nothing is made anew. */
export function waitForLast(desk: Desk, tried: Tried): void {
  const waitMs = desk.startedAt + desk.settings.settleMs - desk.clock.monotonicNow()
  if (tried.isFirst || waitMs <= 0) return
  const message = 'waiting until nothing that was sent before the restart can take effect any more'
  throw new CallError(message, { retryMs: waitMs })
}

/** A failure after which what was to be made may exist all the same keeps the next try away for that long. */
export async function making<Value>(desk: Desk, make: () => Promise<Value>): Promise<Value> {
  try {
    return await make()
  } catch (error) {
    if (!(error instanceof ServiceNowError) || !error.isAmbiguous) throw error
    const retryMs = Math.max(error.retryMs, desk.settings.settleMs)
    throw new ServiceNowError(error.kind, error.message, { retryMs, isAmbiguous: true, cause: error })
  }
}

export async function changeState(
  desk: Desk,
  sysId: string,
  number: string,
): Promise<{ state: ChangeState | null; row: Row }> {
  const columns = ['number', 'state', 'approval', 'on_hold', 'close_code']
  const row = await readRecord(desk, { table: 'change_request', sysId, columns, what: `reading ${number}` })
  return { state: stateOf(desk.settings, textOf(row, 'state')), row }
}

/**
 * Moves a record into a state; false when the site does not let smith. An answer that bears another state than was sent
 * is a refusal too: a choice that is not on the list is stored as something else.
 */
export async function moveRecord(
  desk: Desk,
  to: {
    readonly table: string
    readonly sysId: string
    readonly fields: Readonly<Record<string, string>>
    readonly what: string
  },
): Promise<boolean> {
  try {
    const row = await patchRecord(desk, to)
    const isThere = textOf(row, 'state') === to.fields['state']
    if (!isThere)
      desk.log.warn({ what: to.what, state: textOf(row, 'state') }, 'ServiceNow took it and kept another state')
    return isThere
  } catch (error) {
    if (!isRefusal(error)) throw error
    desk.log.warn({ what: to.what, problem: error.message }, 'ServiceNow does not let smith move it')
    return false
  }
}

/** Waits for a person, who must do what the site does not let smith do. */
export function needsPerson(desk: Desk, text: string): ServiceNowError {
  return new ServiceNowError('person', text, { retryMs: desk.settings.pollMs })
}

export function clickText(desk: Desk, sysId: string, number: string, what: string): string {
  return `a person must ${what} ${number}: ${linkOf(desk.settings, sysId)}`
}
