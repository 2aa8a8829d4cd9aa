/**
 * Moves a change task with its bag and notes on it what became of each machine. A note ends with a key: one that may
 * have been written before is looked for first. Where the site does not let smith move a task, a person is asked to,
 * and the note is written all the same.
 */
import type { Delivered } from '../../domain/events.ts'
import { type OutboxRow, type RemoteChange, placeKey } from '../../domain/state.ts'
import type { Tried } from '../sender.ts'
import {
  type Desk,
  changeState,
  clickText,
  listRecords,
  making,
  moveRecord,
  patchRecord,
  readRecord,
  waitForLast,
} from './desk.ts'
import { attach } from './affected.ts'
import { ServiceNowError, isRefusal } from './failures.ts'
import { type Row, askedRows, textOf } from './records.ts'
import { type CloseCode, TASK_STATES, type TaskState } from './settings.ts'
import { cut } from './texts.ts'

type TaskCall = Extract<OutboxRow['call'], { call: 'task' }>
type Task = RemoteChange['tasks'][number]

const DONE: Delivered = { what: 'done' }
const NOTE_MAX = 3800

/** `implementing` are the projects whose change is known to be at work. */
export async function tellTask(
  desk: Desk,
  row: OutboxRow,
  call: TaskCall,
  given: { readonly change: RemoteChange; readonly tried: Tried; readonly implementing: Set<string> },
): Promise<Delivered> {
  const { change, tried, implementing } = given
  const index = change.tasks.findIndex((one) => one.number === call.task)
  const task = change.tasks[index]
  if (task === undefined) return DONE
  await beginWork(desk, change, implementing)
  const state = await taskState(desk, task)
  if (state === 'gone') {
    desk.ask(
      call.project,
      task.number,
      `${task.number} of ${change.number ?? ''} is not there any more, so its machines are noted nowhere`,
    )
    return DONE
  }
  await attachTo(desk, task, call, tried)
  // With its time: after a restored backup a place may be given to another call.
  const key = `[smith ${row.project.slice(0, 8)}/${row.place} ${row.at.toString(36)}]`
  const note = { work_notes: `${cut(call.note, NOTE_MAX, '... (more: smith logs)')}\n${key}` }
  const isTold = !tried.isFirst && (await hasNote(desk, task, key))
  if (!isTold) waitForLast(desk, tried)
  const what = `noting on ${task.number}`
  const to = { table: 'change_task', sysId: task.sysId, what }
  const wanted =
    call.state === 'closed'
      ? closing(desk, change.project, index, call.note)
      : { state: desk.settings.taskStates.in_progress }
  const isDue =
    call.state === 'closed' ? state !== 'closed' && state !== 'canceled' : state === 'pending' || state === 'open'
  if (!isDue) {
    if (!isTold) await making(desk, () => patchRecord(desk, { ...to, fields: note }))
    return DONE
  }
  const fields = { ...wanted, ...(isTold ? {} : note) }
  const isMoved = await making(desk, () => moveRecord(desk, { ...to, fields }))
  const click = clickText(
    desk,
    task.sysId,
    task.number,
    call.state === 'closed' ? 'close the task' : 'set to In Progress the task',
  )
  desk.ask(call.project, task.number, isMoved ? null : click.replace('change_request', 'change_task'))
  if (!isMoved && !isTold && !(await hasNote(desk, task, key)))
    await making(desk, () => patchRecord(desk, { ...to, fields: note }))
  return DONE
}

/** A file is an addition: a site that takes none has the note all the same. */
async function attachTo(desk: Desk, task: Task, { attachment }: TaskCall, tried: Tried): Promise<void> {
  if (attachment === undefined || !desk.settings.attachment) return
  const { name, text } = attachment
  try {
    await attach(desk, { table: 'change_task', ...task }, name, { text, tried })
  } catch (error) {
    if (!isRefusal(error)) throw error
    desk.log.warn({ task: task.number, problem: error.message }, 'a file was not attached')
  }
}

/** Scheduled -> Implement, when the first machine is granted. Never while it is on hold. */
async function beginWork(desk: Desk, change: RemoteChange, implementing: Set<string>): Promise<void> {
  const { project, sysId, number } = change
  if (implementing.has(project) || sysId === null || number === null) return
  const { state, row } = await changeState(desk, sysId, number)
  if (state === 'scheduled' && textOf(row, 'on_hold') !== 'true') {
    const fields = { state: desk.settings.states.implement }
    const isMoved = await moveRecord(desk, {
      table: 'change_request',
      sysId,
      fields,
      what: `moving ${number} to Implement`,
    })
    desk.ask(project, 'implement', isMoved ? null : clickText(desk, sysId, number, 'set to Implement'))
    if (isMoved) implementing.add(project)
  } else if (state === 'implement') {
    desk.ask(project, 'implement', null)
    implementing.add(project)
  }
}

export async function taskState(desk: Desk, task: Task): Promise<TaskState | 'gone' | null> {
  try {
    const from = {
      table: 'change_task',
      sysId: task.sysId,
      columns: ['number', 'state'],
      what: `reading ${task.number}`,
    }
    const value = textOf(await readRecord(desk, from), 'state')
    return TASK_STATES.find((state) => desk.settings.taskStates[state] === value) ?? null
  } catch (error) {
    if (error instanceof ServiceNowError && error.kind === 'not-found') return 'gone'
    throw error
  }
}

/** What closes a task: the code says how the machines of its bag ended. */
export function closing(desk: Desk, project: string, index: number, notes: string): Record<string, string> {
  const { settings } = desk
  const code = settings.closeCodes[bagCode(desk, project, index)]
  return { state: settings.taskStates.closed, close_code: code, close_notes: cut(notes, NOTE_MAX, '...') }
}

function bagCode(desk: Desk, project: string, index: number): CloseCode {
  const counts = desk.view.archived('bags', placeKey(project, index))?.counts
  if (counts === undefined || counts.pass === 0 || counts.fail > 0) return 'unsuccessful'
  return counts.skipped + counts.cancelled > 0 ? 'successful_issues' : 'successful'
}

/** Notes are written and never shown with the record: they stand in a table of their own. */
async function hasNote(desk: Desk, task: Task, key: string): Promise<boolean> {
  const what = `reading the notes of ${task.number}`
  const query = `element_id=${task.sysId}^element=work_notes^ORDERBYDESCsys_created_on`
  const columns = ['element_id', 'element', 'value']
  const result = await listRecords(desk, { table: 'sys_journal_field', query, columns, limit: 200, what })
  const rows = askedRows(result, what, (row: Row) => textOf(row, 'element_id') === task.sysId)
  return rows.some((row) => textOf(row, 'value').includes(key))
}
