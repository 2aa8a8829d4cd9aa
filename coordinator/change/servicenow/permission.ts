/** Asks ServiceNow whether a change permits a grant at this moment: one record by its sys_id, read anew each time. */
import type { Permission } from '../../domain/events.ts'
import type { RemoteChange } from '../../domain/state.ts'
import { type Desk, clickText, listRecords, readRecord } from './desk.ts'
import { ServiceNowError, quoted } from './failures.ts'
import { PERMISSION_COLUMNS, type Row, askedRows, permissionOf, stateOf, textOf } from './records.ts'

/** Throws whatever keeps it from being known: that denies. */
export async function readPermission(desk: Desk, change: RemoteChange, timeoutMs: number): Promise<Permission> {
  const { project, number, sysId } = change
  if (number === null || sysId === null) throw new ServiceNowError('doubt', 'the change has no number yet')
  // What is read is at least as new as this.
  const readAt = desk.now()
  const from = { table: 'change_request', sysId, columns: PERMISSION_COLUMNS, what: `reading ${number}` }
  const row = await readRecord(desk, from, timeoutMs)
  const permission = permissionOf(desk.settings, change, row, readAt)
  const isUnasked = stateOf(desk.settings, textOf(row, 'state')) === 'new' && permission.approval === 'requested'
  desk.ask(project, 'approval', isUnasked ? clickText(desk, sysId, number, 'press "Request Approval" on') : null)
  const isApproval = permission.approval === 'approved' && desk.view.get('projects', project)?.approval === null
  if (!isApproval && permission.approval !== 'rejected') return permission
  const { users, ...said } = await deciders(desk, change, permission.approval)
  const isOwn = isApproval && users.length > 0 && users.every((user) => user === change.requester.toLowerCase())
  if (!isOwn || desk.requesterMayApprove) return { ...permission, ...said }
  const click = clickText(desk, sysId, number, 'revert to New, and someone else approve,')
  desk.ask(project, 'approval', `${change.requester} asked for it and can't be the only one who approves it; ${click}`)
  return { ...permission, approval: 'requested' }
}

const NAMES_MAX = 5

/** Who decided, for people to read; that it can't be read changes nothing about the decision. */
async function deciders(
  desk: Desk,
  change: RemoteChange,
  state: Permission['approval'],
): Promise<Pick<Permission, 'by' | 'reason'> & { readonly users: readonly string[] }> {
  const what = `reading who decided about ${change.number ?? ''}`
  const userColumn = `approver.${desk.settings.requesterField || 'user_name'}`
  const columns = ['sysapproval', 'state', 'approver.name', userColumn, 'comments']
  const query = `sysapproval=${change.sysId ?? ''}^state=${state}`
  try {
    const result = await listRecords(desk, { table: 'sysapproval_approver', query, columns, limit: NAMES_MAX, what })
    const isAsked = (row: Row) => textOf(row, 'sysapproval') === change.sysId && textOf(row, 'state') === state
    const rows = askedRows(result, what, isAsked)
    const names = rows.map((row) => quoted(textOf(row, 'approver.name'))).filter((name) => name !== '')
    const users = rows.map((row) => textOf(row, userColumn).toLowerCase())
    const reasons = rows.map((row) => quoted(textOf(row, 'comments'))).filter((text) => text !== '')
    return { by: names.length === 0 ? 'ServiceNow' : names.join(', '), reason: reasons[0] ?? null, users }
  } catch (error) {
    if (!(error instanceof ServiceNowError)) throw error
    desk.log.debug({ change: change.number, problem: error.message }, 'who decided is not known')
    return { by: 'ServiceNow', reason: null, users: [] }
  }
}
