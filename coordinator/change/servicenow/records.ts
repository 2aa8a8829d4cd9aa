/**
 * Records as ServiceNow gives them, in any of their shapes: the Table API's bare strings and references, the wrapped and
 * typed values of the Change Management API, one record or a list of one. Pure. Whatever a query was, what came back is
 * compared here with what was asked: a query that the server does not understand is answered with other rows.
 */
import type { Permission } from '../../domain/events.ts'
import type { RemoteChange } from '../../domain/state.ts'
import { ServiceNowError, isTable, quoted } from './failures.ts'
import { CHANGE_STATES, type ChangeState, type ServiceNowSettings } from './settings.ts'

export type Row = Readonly<Record<string, unknown>>
/** The identifier of any record. */
export const SYS_ID = /^[0-9a-f]{32}$/
/** What may stand in a query: a `^` would add a condition, and `javascript:` is evaluated. */
export const QUERY_VALUE = /^[A-Za-z0-9._-]+$/

/** A column as text; '' when there is none. */
export function textOf(row: Row, column: string): string {
  const value = row[column]
  const bare = isTable(value) ? value['value'] : value
  return typeof bare === 'string' ? bare : typeof bare === 'number' || typeof bare === 'boolean' ? String(bare) : ''
}

export function rowsOf(result: unknown, what: string): readonly Row[] {
  const list = Array.isArray(result) ? (result as unknown[]) : [result]
  if (list.every(isTable)) return list
  throw new ServiceNowError('doubt', `${what}: the answer is no list of records`)
}

export function rowOf(result: unknown, what: string): Row {
  const [row, ...more] = rowsOf(result, what)
  if (row !== undefined && more.length === 0) return row
  throw new ServiceNowError(
    'doubt',
    `${what}: ${more.length + (row === undefined ? 0 : 1)} records came instead of one`,
  )
}

/** The rows of a list, all of which must be among those that were asked for. */
export function askedRows(
  result: unknown,
  what: string,
  isAsked: (row: Row) => boolean,
  remedy = 'see smith doctor',
): readonly Row[] {
  const rows = result === null ? [] : rowsOf(result, what)
  const other = rows.find((row) => !isAsked(row))
  if (other === undefined) return rows
  const name = textOf(other, 'number') || textOf(other, 'name') || textOf(other, 'sys_id') || 'something else'
  throw new ServiceNowError(
    'doubt',
    `${what}: ServiceNow answered with other records (${quoted(name)}), so it did not understand the query; ${remedy}`,
  )
}

/** Milliseconds of a stored date, which is UTC; null for none. Display dates are never read. */
export function instantOf(text: string): number | null {
  if (!/^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}$/.test(text)) return null
  const at = Date.parse(`${text.replace(' ', 'T')}Z`)
  return Number.isFinite(at) ? at : null
}

export function dateText(at: number): string {
  return new Date(at).toISOString().slice(0, 19).replace('T', ' ')
}

export function stateOf(settings: ServiceNowSettings, value: string): ChangeState | null {
  return CHANGE_STATES.find((state) => settings.states[state] === value) ?? null
}

export function correlationOf(settings: ServiceNowSettings, project: string): string {
  return `${settings.correlationPrefix}:${project}`
}

const DIGEST_MARK = 'digest '
/** Where the digest stands on the change, short enough to be read with every look at it. */
export const digestMark = (digest: string) => `${DIGEST_MARK}${digest}`

/** The columns that a permission is made of. */
export const PERMISSION_COLUMNS = [
  'sys_id',
  'number',
  'state',
  'approval',
  'on_hold',
  'on_hold_reason',
  'start_date',
  'end_date',
  'correlation_id',
  'correlation_display',
  'sys_mod_count',
]

/**
 * What the record of a change permits. Whatever is not plainly what smith raised is a doubt, thrown, and denies; only a
 * state that approves, with nothing else against it, can be an approval.
 */
export function permissionOf(settings: ServiceNowSettings, change: RemoteChange, row: Row, readAt: number): Permission {
  const number = change.number ?? ''
  const doubt = (problem: string) => new ServiceNowError('doubt', `${number}: ${problem}`)
  if (textOf(row, 'sys_id') !== change.sysId || textOf(row, 'number') !== number)
    throw doubt(`ServiceNow answered with another record (${quoted(textOf(row, 'number')) || 'none'})`)
  if (textOf(row, 'correlation_id') !== correlationOf(settings, change.project))
    throw doubt(`its correlation_id is not smith's any more (${quoted(textOf(row, 'correlation_id')) || 'empty'})`)
  const state = stateOf(settings, textOf(row, 'state'))
  if (state === null)
    throw doubt(`its state ${quoted(textOf(row, 'state')) || '(empty)'} is none of change.servicenow.states`)
  const onHold = textOf(row, 'on_hold')
  if (onHold !== 'true' && onHold !== 'false') throw doubt('it does not say whether it is on hold')
  const mark = textOf(row, 'correlation_display')
  const decision = decisionOf(settings, state, textOf(row, 'approval'))
  return {
    change: number,
    by: null,
    ...decision,
    digest: mark.startsWith(DIGEST_MARK) ? mark.slice(DIGEST_MARK.length) : '',
    onHold: onHold === 'true',
    // What denies anyhow is told for what it is, whatever the dates are.
    window: decision.approval === 'approved' ? windowOf(row, doubt) : null,
    readAt,
  }
}

function windowOf(row: Row, doubt: (problem: string) => ServiceNowError): Permission['window'] {
  const start = instantOf(textOf(row, 'start_date'))
  const end = instantOf(textOf(row, 'end_date'))
  if (start === null || end === null || end <= start) throw doubt('it has no planned start and end, in that order')
  return { start, end }
}

type Decision = Pick<Permission, 'approval' | 'reason' | 'state'>

function decisionOf(settings: ServiceNowSettings, state: ChangeState, approval: string): Decision {
  const open = { state: 'open', reason: null } as const
  switch (state) {
    case 'new':
    case 'assess':
    case 'authorize':
      return { ...open, approval: approval === 'rejected' ? 'rejected' : 'requested' }
    case 'scheduled':
    case 'implement':
      if (approval === 'rejected') return { ...open, approval: 'rejected' }
      if (approval === 'approved' || !settings.approvalRequired) return { ...open, approval: 'approved' }
      return { ...open, approval: 'requested' }
    case 'review':
      return { ...open, approval: 'withdrawn', reason: 'the change is in review' }
    case 'closed':
      return { approval: 'withdrawn', state: 'closed', reason: 'the change is closed' }
    case 'canceled':
      return { approval: 'withdrawn', state: 'closed', reason: 'the change is canceled' }
  }
}
