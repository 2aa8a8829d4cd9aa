/**
 * Raises the change of a project with its tasks, its plan and its machines, and asks for the approval. It may have been
 * begun before, by a process that is gone or with an answer that was lost: each part is looked for by its correlation
 * id before it is made, and what may still be on its way is waited for, so that nothing is ever made twice.
 */
import { CHANGE_PATTERN } from '../../../protocol/ids.ts'
import type { Delivered } from '../../domain/events.ts'
import type { RemoteChange } from '../../domain/state.ts'
import type { Tried } from '../sender.ts'
import { attachPlan, linkMachines } from './affected.ts'
import { type Desk, changeState, clickText, listRecords, making, moveRecord, readRecord, waitForLast } from './desk.ts'
import { ServiceNowError, isRefusal, isTable, quoted } from './failures.ts'
import { plannedOf } from './planned.ts'
import {
  QUERY_VALUE,
  type Row,
  SYS_ID,
  askedRows,
  correlationOf,
  dateText,
  digestMark,
  rowOf,
  rowsOf,
  textOf,
} from './records.ts'
import { type RaiseCall, changeColumns, planText, plannedWindow, taskColumns } from './texts.ts'

type Found = { readonly sysId: string; readonly number: string }

export async function raise(desk: Desk, call: RaiseCall, tried: Tried): Promise<Delivered> {
  const correlation = correlationOf(desk.settings, call.project)
  const known = await findChange(desk, correlation)
  const isWanted = desk.view.get('projects', call.project) !== undefined
  let change = known
  if (change === null) {
    waitForLast(desk, tried)
    if (!isWanted) return refused('it was cancelled before it was raised', 'ask again')
    const made = await makeChange(desk, call, correlation)
    if ('what' in made) return made
    change = made
  }
  try {
    const tasks = await ensureTasks(desk, call, change, tried)
    if (isWanted) await complete(desk, call, change, tried)
    return { what: 'raised', number: change.number, sysId: change.sysId, tasks }
  } catch (error) {
    if (!isRefusal(error) || error.kind === 'not-found') throw error
    return withdraw(desk, change, error.message)
  }
}

/** The plan, the machines, and the question for the approval. */
async function complete(desk: Desk, call: RaiseCall, change: Found, tried: Tried): Promise<void> {
  const planned = plannedOf(desk.view, call.project)
  if (desk.settings.attachment)
    await attachPlan(desk, change, { digest: call.digest, text: planText(call, planned), tried })
  // Only a change that was not submitted yet takes them; to add them is no condition for anything.
  const names = planned.filter((one) => one.plan !== null).map((one) => one.name)
  await linkMachines(desk, change, names)
  await askForApproval(desk, call.project, change)
}

/** A change without its tasks or its plan is none that anybody should approve. */
async function withdraw(desk: Desk, change: Found, problem: string): Promise<Delivered> {
  const fields = { state: desk.settings.states.canceled, close_notes: problem, work_notes: problem }
  const to = { table: 'change_request', sysId: change.sysId, fields, what: `canceling ${change.number}` }
  const isCanceled = await moveRecord(desk, to)
  return refused(
    `ServiceNow raised ${change.number} and did not take all of it: ${problem}`,
    `${isCanceled ? `${change.number} is canceled; ` : `cancel ${change.number} there; `}an admin of smith sees more with: smith doctor; then ask again`,
  )
}

function refused(message: string, remedy: string): Delivered {
  return { what: 'refused', refusal: { kind: 'conflict', message, remedy } }
}

async function findChange(desk: Desk, correlation: string): Promise<Found | null> {
  const what = `looking for the change with the correlation id ${correlation}`
  const columns = ['sys_id', 'number', 'state', 'correlation_id']
  const query = `correlation_id=${correlation}`
  const result = await listRecords(desk, { table: 'change_request', query, columns, limit: 5, what })
  const rows = askedRows(result, what, (row) => textOf(row, 'correlation_id') === correlation)
  const [first, ...more] = rows
  if (first === undefined) return null
  if (more.length > 0) {
    const numbers = rows.map((row) => textOf(row, 'number')).join(', ')
    throw new ServiceNowError(
      'doubt',
      `${numbers} all bear the correlation id ${correlation}: clear it on all but one of them`,
      { retryMs: desk.settings.pollMs },
    )
  }
  return foundOf(first, what)
}

function foundOf(row: Row, what: string): Found {
  const found = { sysId: textOf(row, 'sys_id'), number: textOf(row, 'number') }
  if (SYS_ID.test(found.sysId) && found.number !== '') return found
  throw new ServiceNowError('doubt', `${what}: the record has no sys_id and number`)
}

async function makeChange(desk: Desk, call: RaiseCall, correlation: string): Promise<Found | Delivered> {
  const { settings } = desk
  const { start, end } = plannedWindow(call, settings, desk.now())
  const columns = changeColumns(settings, {
    call,
    planned: plannedOf(desk.view, call.project),
    correlation,
    window: { start: dateText(start), end: dateText(end) },
    digestMark: digestMark(call.digest),
    requestedBy: await requesterOf(desk, call.requester),
  })
  const base = '/api/sn_chg_rest/change'
  const path =
    settings.template !== '' ? `${base}/standard/${settings.template}` : settings.model !== '' ? base : `${base}/normal`
  const body = settings.template === '' && settings.model !== '' ? { chg_model: settings.model, ...columns } : columns
  const what = 'raising the change'
  let row: Row
  try {
    row = await making(desk, async () => rowOf(await desk.client.ask({ method: 'POST', path, body, what }), what))
  } catch (error) {
    if (!isRefusal(error)) throw error
    return refused(
      `ServiceNow does not take the change: ${error.message}`,
      'an admin of smith sees more with: smith doctor; then ask again',
    )
  }
  const made = foundOf(row, what)
  const wrong = await columnsNotKept(desk, made, columns, row)
  if (wrong.length > 0) {
    return refused(
      `ServiceNow raised ${made.number} without ${wrong.join(', ')}, which smith needs to know it by`,
      `cancel ${made.number} there, let smith's account write ${wrong.join(', ')} (smith doctor), then ask again`,
    )
  }
  if (!CHANGE_PATTERN.test(made.number))
    return refused(
      `ServiceNow raised ${quoted(made.number)}, which is no CHG and seven digits`,
      `cancel it there, and set the number format of change_request`,
    )
  // Once more by its correlation id: if another was made by a request that was thought lost, both are there now.
  await findChange(desk, correlation)
  return made
}

/** What was sent and is not there: a column that smith may not write is left out without a word. */
async function columnsNotKept(
  desk: Desk,
  made: Found,
  columns: Readonly<Record<string, string>>,
  answer: Row,
): Promise<string[]> {
  const meta = answer['__meta']
  const ignored =
    isTable(meta) && Array.isArray(meta['ignoredFields']) ? (meta['ignoredFields'] as unknown[]).map(String) : []
  if (ignored.length > 0) desk.log.warn({ change: made.number, ignored }, 'ServiceNow left out columns of the change')
  const needed = ['correlation_id', 'correlation_display', 'start_date', 'end_date']
  const what = `reading ${made.number}`
  const row = await readRecord(desk, { table: 'change_request', sysId: made.sysId, columns: needed, what })
  return needed.filter((column) => textOf(row, column) !== columns[column])
}

/** Who asked, as a user of ServiceNow; a change without it is a change all the same. */
async function requesterOf(desk: Desk, requester: string): Promise<string | null> {
  const column = desk.settings.requesterField
  if (column === '' || !QUERY_VALUE.test(requester)) return null
  const what = `looking for the user ${requester}`
  try {
    const columns = ['sys_id', column]
    const result = await listRecords(desk, {
      table: 'sys_user',
      query: `${column}=${requester}`,
      columns,
      limit: 2,
      what,
    })
    const rows = askedRows(result, what, (row) => textOf(row, column).toLowerCase() === requester.toLowerCase())
    const [first, ...more] = rows
    return first === undefined || more.length > 0 ? null : textOf(first, 'sys_id')
  } catch (error) {
    if (!isRefusal(error) && !(error instanceof ServiceNowError && error.kind === 'doubt')) throw error
    desk.log.warn({ requester, problem: error.message }, 'the change does not name its requester as a user')
    return null
  }
}

/** One task for each bag, in the order of the bags. */
async function ensureTasks(desk: Desk, call: RaiseCall, change: Found, tried: Tried): Promise<RemoteChange['tasks']> {
  const path = `/api/sn_chg_rest/change/${change.sysId}/task`
  const what = `the tasks of ${change.number}`
  const there = rowsOf((await desk.client.ask({ method: 'GET', path, what: `reading ${what}` })) ?? [], what)
  const tasks: { number: string; sysId: string }[] = []
  for (const [index, bag] of call.bags.entries()) {
    const correlation = taskCorrelation(desk, call.project, index)
    const known = there.filter((row) => isTask(row, correlation))
    if (known.length > 1)
      throw new ServiceNowError(
        'doubt',
        `${known.map((row) => textOf(row, 'number')).join(', ')} are all the task of ${bag.name}: delete all but one`,
        { retryMs: desk.settings.pollMs },
      )
    let row = known[0]
    if (row === undefined) {
      waitForLast(desk, tried)
      const body = taskColumns(desk.settings, call, bag, correlation)
      row = await making(desk, async () =>
        rowOf(await desk.client.ask({ method: 'POST', path, body, what: `adding to ${what}` }), what),
      )
    }
    tasks.push(foundOf(row, what))
  }
  return tasks
}

function taskCorrelation(desk: Desk, project: string, index: number): string {
  return `${correlationOf(desk.settings, project)}:${index}`
}

/** By its correlation id, or where a site does not let smith write that, by its description. */
function isTask(row: Row, correlation: string): boolean {
  return textOf(row, 'correlation_id') === correlation || textOf(row, 'description').includes(`[${correlation}]`)
}

/**
 * New -> Assess is the button "Request Approval"; a standard change, which its template has approved, goes to Scheduled.
 * Once it was pressed, or a person decided, it is not pressed again.
 */
async function askForApproval(desk: Desk, project: string, change: Found): Promise<void> {
  const { settings } = desk
  const { state, row } = await changeState(desk, change.sysId, change.number)
  const isNew = state === 'new' && ['', 'not requested'].includes(textOf(row, 'approval'))
  if (!isNew) return
  const fields = { state: settings.template === '' ? settings.states.assess : settings.states.scheduled }
  const isMoved =
    settings.requestApproval &&
    (await moveRecord(desk, {
      table: 'change_request',
      sysId: change.sysId,
      fields,
      what: `requesting the approval of ${change.number}`,
    }))
  if (!isMoved)
    desk.ask(project, 'approval', clickText(desk, change.sysId, change.number, 'press "Request Approval" on'))
}
