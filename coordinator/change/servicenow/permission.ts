/** Asks ServiceNow whether a change permits a grant at this moment: one record by its sys_id, read anew each time. */
import type { Permission } from '../../domain/events.ts'
import type { RemoteChange } from '../../domain/state.ts'
import { type Desk, type Who, clickText, listRecords, readRecord } from './desk.ts'
import { ServiceNowError, quoted } from './failures.ts'
import { PERMISSION_COLUMNS, type Row, askedRows, permissionOf, stateOf, textOf } from './records.ts'

type Look = { readonly permission: Permission; readonly row: Row }

/** Throws whatever keeps it from being known: that denies. */
export async function readPermission(desk: Desk, change: RemoteChange, timeoutMs: number): Promise<Permission> {
  const { project, number, sysId } = change
  if (number === null || sysId === null) throw new ServiceNowError('doubt', 'the change has no number yet')
  const seen = await look(desk, change, timeoutMs)
  const { approval } = seen.permission
  const isUnasked = stateOf(desk.settings, textOf(seen.row, 'state')) === 'new' && approval === 'requested'
  desk.ask(project, 'approval', isUnasked ? clickText(desk, sysId, number, 'press "Request Approval" on') : null)
  if (approval === 'rejected') return { ...seen.permission, ...(await namesOf(desk, change, approval, timeoutMs)) }
  if (approval !== 'approved') return seen.permission
  if (desk.requesterMayApprove) {
    if (desk.view.get('projects', project)?.approval !== null) return seen.permission
    return { ...seen.permission, ...(await namesOf(desk, change, approval, timeoutMs)) }
  }
  const { permission, by, reason, users } = await approved(desk, change, seen, timeoutMs)
  const isOwn = users.length > 0 && users.every((user) => user === change.requester.toLowerCase())
  if (!isOwn) return { ...permission, by, reason }
  const click = clickText(desk, sysId, number, 'revert to New, and someone else approve,')
  desk.ask(project, 'approval', `${change.requester} asked for it and can't be the only one who approves it; ${click}`)
  return { ...permission, by, reason, approval: 'requested' }
}

async function look(desk: Desk, change: RemoteChange, timeoutMs: number): Promise<Look> {
  // What is read is at least as new as this.
  const readAt = desk.now()
  const { number, sysId } = change
  const from = { table: 'change_request', sysId: sysId ?? '', columns: PERMISSION_COLUMNS, what: `reading ${number}` }
  const row = await readRecord(desk, from, timeoutMs)
  return { row, permission: permissionOf(desk.settings, change, row, readAt) }
}

/**
 * Who approved the very record that permits: it is read between two looks that saw no change, and known for as long as
 * the record is not changed. An approval may be reverted and given by another at any time.
 */
async function approved(
  desk: Desk,
  change: RemoteChange,
  seen: Look,
  timeoutMs: number,
): Promise<Who & { readonly permission: Permission }> {
  const version = textOf(seen.row, 'sys_mod_count')
  const known = desk.approvers.get(change.project)
  if (version !== '' && known?.version === version) return { ...known.who, permission: seen.permission }
  const who = await deciders(desk, change, 'approved', timeoutMs)
  const { permission, row } = await look(desk, change, timeoutMs)
  if (textOf(row, 'sys_mod_count') !== version)
    throw new ServiceNowError('doubt', `${change.number} was changed while smith read who approved it`)
  desk.approvers.set(change.project, { version, who })
  return { ...who, permission }
}

const NAMES_MAX = 5

/** Who decided, where that is only for people to read: that it can't be read changes nothing about the decision. */
async function namesOf(
  desk: Desk,
  change: RemoteChange,
  state: Permission['approval'],
  timeoutMs: number,
): Promise<Pick<Permission, 'by' | 'reason'>> {
  try {
    const { by, reason } = await deciders(desk, change, state, timeoutMs)
    return { by, reason }
  } catch (error) {
    if (!(error instanceof ServiceNowError)) throw error
    desk.log.debug({ change: change.number, problem: error.message }, 'who decided is not known')
    return { by: 'ServiceNow', reason: null }
  }
}

async function deciders(
  desk: Desk,
  change: RemoteChange,
  state: Permission['approval'],
  timeoutMs: number,
): Promise<Who> {
  const what = `reading who decided about ${change.number ?? ''}`
  const userColumn = `approver.${desk.settings.requesterField || 'user_name'}`
  const columns = ['sysapproval', 'state', 'approver.name', userColumn, 'comments']
  const query = `sysapproval=${change.sysId ?? ''}^state=${state}`
  const from = { table: 'sysapproval_approver', query, columns, limit: NAMES_MAX, what }
  const isAsked = (row: Row) => textOf(row, 'sysapproval') === change.sysId && textOf(row, 'state') === state
  const rows = askedRows(await listRecords(desk, from, timeoutMs), what, isAsked)
  const names = rows.map((row) => quoted(textOf(row, 'approver.name'))).filter((name) => name !== '')
  const users = rows.map((row) => textOf(row, userColumn).toLowerCase())
  const reasons = rows.map((row) => quoted(textOf(row, 'comments'))).filter((text) => text !== '')
  return { by: names.length === 0 ? 'ServiceNow' : names.join(', '), reason: reasons[0] ?? null, users }
}
