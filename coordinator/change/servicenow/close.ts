/**
 * Closes the change of a project that has ended, step by step from wherever it stands: its tasks, Review, Closed; or
 * Canceled, when nothing was done. What the site keeps for people is waited for, with what they must click. smith never
 * takes a change off hold.
 */
import type { Delivered } from '../../domain/events.ts'
import { type OutboxRow, type RemoteChange, placeKey } from '../../domain/state.ts'
import type { Tried } from '../sender.ts'
import { type Desk, changeState, clickText, making, moveRecord, needsPerson, waitForLast } from './desk.ts'
import { type Row, SYS_ID, rowsOf, textOf } from './records.ts'
import { closing, taskState } from './task.ts'
import { cut } from './texts.ts'

type CloseCall = Extract<OutboxRow['call'], { call: 'close' }>
/** A change whose number is known. */
type Known = RemoteChange & { readonly number: string; readonly sysId: string }

/** More moves than there are states means that something moves it back each time. */
const MOVES_MAX = 6
const DONE: Delivered = { what: 'done' }

export async function closeChange(desk: Desk, call: CloseCall, change: RemoteChange, tried: Tried): Promise<Delivered> {
  if (change.number === null || change.sysId === null) return DONE
  const known = { ...change, number: change.number, sysId: change.sysId }
  for (let move = 0; move < MOVES_MAX; move += 1) {
    if (await moveOn(desk, call, known, tried)) return DONE
  }
  throw needsPerson(desk, clickText(desk, known.sysId, known.number, 'close'))
}

/** One move; true when there is none left. */
async function moveOn(desk: Desk, call: CloseCall, change: Known, tried: Tried): Promise<boolean> {
  const { settings } = desk
  const { state, row } = await changeState(desk, change.sysId, change.number)
  if (state === 'closed' || state === 'canceled') {
    // What was added after somebody else had ended it no flow has ended.
    await closeOurs(desk, call, change)
    return true
  }
  const hasRun = didRun(desk, change.project)
  if (!hasRun && state !== 'implement' && state !== 'review') {
    const fields = { state: settings.states.canceled, close_notes: cut(call.notes), work_notes: cut(call.notes) }
    // The note would be there twice if an earlier try took effect after this one.
    waitForLast(desk, tried)
    await making(desk, () => moveTo(desk, change, fields, 'cancel'))
    return false
  }
  if (textOf(row, 'on_hold') === 'true')
    throw needsPerson(desk, clickText(desk, change.sysId, change.number, 'take off hold'))
  switch (state) {
    case 'scheduled':
      await moveTo(desk, change, { state: settings.states.implement }, 'set to Implement')
      return false
    case 'implement':
      await closeTasks(desk, call, change)
      // The model may have moved it by itself as soon as no task was left.
      if ((await changeState(desk, change.sysId, change.number)).state === 'implement')
        await moveTo(desk, change, { state: settings.states.review }, 'set to Review')
      return false
    case 'review':
      await moveTo(
        desk,
        change,
        { state: settings.states.closed, close_code: settings.closeCodes[call.code], close_notes: cut(call.notes) },
        `close with the code ${settings.closeCodes[call.code]}`,
      )
      return false
    default:
      throw needsPerson(
        desk,
        `${change.number} was patched and is in state ${state ?? textOf(row, 'state')} now; ${clickText(desk, change.sysId, change.number, `close with the code ${settings.closeCodes[call.code]}`)}`,
      )
  }
}

async function moveTo(
  desk: Desk,
  change: Known,
  fields: Readonly<Record<string, string>>,
  click: string,
): Promise<void> {
  const isMoved = await moveRecord(desk, {
    table: 'change_request',
    sysId: change.sysId,
    fields,
    what: `moving ${change.number} to ${fields['state'] ?? ''}`,
  })
  if (!isMoved) throw needsPerson(desk, clickText(desk, change.sysId, change.number, click))
}

/** Whether any machine was patched or passed: then there is something to review. */
function didRun(desk: Desk, project: string): boolean {
  const counts = desk.view.archived('projects', project)?.counts
  return counts !== undefined && counts.pass + counts.fail > 0
}

/** Our own tasks, each with how its bag ended. */
async function closeOurs(desk: Desk, call: CloseCall, change: Known): Promise<void> {
  for (const [index, task] of change.tasks.entries()) {
    const state = await taskState(desk, task)
    if (state === 'closed' || state === 'canceled' || state === 'gone') continue
    const fields = endingOf(desk, change.project, index, call.notes)
    const to = { table: 'change_task', sysId: task.sysId, fields, what: `closing ${task.number}` }
    if (!(await moveRecord(desk, to)))
      throw needsPerson(desk, clickText(desk, change.sysId, change.number, `close the task ${task.number} of`))
  }
}

/** Ours, those of the site's flow that the configuration names, and whatever else is open, which is a person's. */
async function closeTasks(desk: Desk, call: CloseCall, change: Known): Promise<void> {
  await closeOurs(desk, call, change)
  const what = `reading the tasks of ${change.number}`
  const path = `/api/sn_chg_rest/change/${change.sysId}/task`
  const rows = rowsOf((await desk.client.ask({ method: 'GET', path, what })) ?? [], what)
  const others = rows.filter(
    (row) => isOpen(desk, row) && change.tasks.every((task) => task.sysId !== textOf(row, 'sys_id')),
  )
  const left: string[] = []
  for (const row of others)
    if (!(await closeFlowTask(desk, row, change)))
      left.push(`${textOf(row, 'number')} (${textOf(row, 'short_description')})`)
  if (left.length > 0)
    throw needsPerson(desk, clickText(desk, change.sysId, change.number, `close or cancel ${left.join(', ')} of`))
}

/** A bag of which no machine was begun is cancelled with its task. */
function endingOf(desk: Desk, project: string, index: number, notes: string): Record<string, string> {
  const counts = desk.view.archived('bags', placeKey(project, index))?.counts
  const isUntouched = counts !== undefined && counts.pass + counts.fail === 0
  const closed = closing(desk, project, index, notes)
  return isUntouched ? { ...closed, state: desk.settings.taskStates.canceled } : closed
}

function isOpen(desk: Desk, row: Row): boolean {
  const { closed, canceled } = desk.settings.taskStates
  return ![closed, canceled].includes(textOf(row, 'state'))
}

async function closeFlowTask(desk: Desk, row: Row, change: Known): Promise<boolean> {
  const sysId = textOf(row, 'sys_id')
  if (!desk.settings.flowTasks.includes(textOf(row, 'short_description')) || !SYS_ID.test(sysId)) return false
  const { taskStates, closeCodes } = desk.settings
  const fields = {
    state: taskStates.closed,
    close_code: closeCodes.successful,
    close_notes: `Done by smith with ${change.number}.`,
  }
  return moveRecord(desk, { table: 'change_task', sysId, fields, what: `closing ${textOf(row, 'number')}` })
}
