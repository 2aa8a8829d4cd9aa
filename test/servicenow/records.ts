/**
 * The records of the stand-in and the rules of a stock instance about them: which states follow which, what is
 * mandatory, what the flow does by itself. A move that a real instance refuses is refused here with its words.
 */
import { createHash } from 'node:crypto'

export type Record_ = { [column: string]: string }
export type Said = { readonly status: number; readonly message: string; readonly detail: string | null }
/** How the site differs from the stock one. */
export type SiteRules = {
  /** REST may not move any state. */
  strict: boolean
  /** A model that moves to Review as soon as no task is active. */
  autoReview: boolean
  /** How many of the group must approve. */
  approvals: 'first' | 'all'
  /** Columns that smith's account may not write: left out without a word. */
  unwritable: Set<string>
  /** Words for states are taken, loosely. */
  looseStates: boolean
  /** A custom mandatory column of change_request. */
  mandatory: string | null
}

export const GROUP = 'a'.repeat(32)
export const COLUMNS: { readonly [table: string]: readonly string[] } = {
  change_request:
    'number,state,approval,type,chg_model,short_description,description,justification,implementation_plan,risk_impact_analysis,backout_plan,test_plan,start_date,end_date,work_start,work_end,assignment_group,requested_by,cmdb_ci,category,on_hold,on_hold_reason,correlation_id,correlation_display,close_code,close_notes,work_notes,active,u_outage,std_change_producer_version'.split(
      ',',
    ),
  change_task:
    'number,state,change_request,change_task_type,short_description,description,assignment_group,on_hold,correlation_id,close_code,close_notes,work_notes,active'.split(
      ',',
    ),
  sysapproval_approver: 'sysapproval,approver,approver.name,approver.user_name,state,comments'.split(','),
  sys_user: 'user_name,name'.split(','),
  sys_user_group: 'name,active'.split(','),
  cmdb_ci_server: 'name,fqdn,operational_status'.split(','),
  sys_choice: 'name,element,value,label,inactive'.split(','),
  sys_dictionary: 'name,element'.split(','),
  sys_journal_field: 'element_id,element,value,sys_created_by'.split(','),
  sys_attachment: 'table_name,table_sys_id,file_name,text'.split(','),
  chg_model: 'name,active'.split(','),
  std_change_record_producer: 'name,active'.split(','),
  task_ci: 'task,ci_item'.split(','),
}
const STATES: { readonly [table: string]: { readonly [value: string]: string } } = {
  change_request: {
    '-5': 'New',
    '-4': 'Assess',
    '-3': 'Authorize',
    '-2': 'Scheduled',
    '-1': 'Implement',
    '0': 'Review',
    '3': 'Closed',
    '4': 'Canceled',
  },
  change_task: { '-5': 'Pending', '1': 'Open', '2': 'In Progress', '3': 'Closed', '4': 'Canceled' },
}
const CLOSE_CODES = ['successful', 'successful_issues', 'unsuccessful']
const MOVES: { readonly [from: string]: readonly string[] } = {
  '-5': ['-4', '4'],
  '-4': ['4'],
  '-3': ['4'],
  '-2': ['-1', '4'],
  '-1': ['0', '4'],
  '0': ['3', '-1'],
  '3': [],
  '4': [],
}
const rule = (table: string): Said => ({
  status: 403,
  message: 'Operation Failed',
  detail: `Operation against file '${table}' was aborted by Business Rule 'Change Model: Check State Transition^b6dae9e1'. Business Rule Stack:Change Model: Check State Transition`,
})
const policy = (label: string): Said => ({
  status: 403,
  message: 'Operation Failed',
  detail: `Data Policy Exception: The following fields are mandatory: ${label}`,
})

/** Owns the tables; every change of a record goes through here. */
export class Records {
  readonly tables = new Map<string, Map<string, Record_>>(Object.keys(COLUMNS).map((name) => [name, new Map()]))
  readonly rules: SiteRules = {
    strict: false,
    autoReview: true,
    approvals: 'first',
    unwritable: new Set(),
    looseStates: false,
    mandatory: null,
  }
  readonly #now: () => number
  #serial = 0

  constructor(now: () => number) {
    this.#now = now
    this.put('sys_user_group', { sys_id: GROUP, name: 'Linux operations', active: 'true' })
    for (const name of ['grace', 'linus'])
      this.put('sys_user', { user_name: name, name: name === 'grace' ? 'Grace Hopper' : 'Linus T' })
    for (const [table, states] of Object.entries(STATES))
      for (const [value, label] of Object.entries(states))
        this.put('sys_choice', { name: table, element: 'state', value, label, inactive: 'false' })
    for (const value of CLOSE_CODES)
      this.put('sys_choice', { name: 'change_request', element: 'close_code', value, label: value, inactive: 'false' })
    for (const table of ['change_request', 'change_task'])
      for (const element of COLUMNS[table] ?? [])
        this.put('sys_dictionary', {
          name: ['correlation_id', 'correlation_display', 'short_description'].includes(element) ? 'task' : table,
          element,
        })
  }

  table(name: string): Map<string, Record_> {
    return this.tables.get(name) ?? new Map<string, Record_>()
  }

  put(table: string, fields: Record_): Record_ {
    this.#serial += 1
    const sysId = fields['sys_id'] ?? createHash('md5').update(`${table} ${this.#serial}`).digest('hex')
    const created = new Date(this.#now()).toISOString().slice(0, 19).replace('T', ' ')
    const empty = Object.fromEntries((COLUMNS[table] ?? []).map((column) => [column, '']))
    const row = { ...empty, ...fields, sys_id: sysId, sys_created_on: created, sys_mod_count: '0' }
    this.table(table).set(sysId, row)
    return row
  }

  all(table: string): Record_[] {
    return [...this.table(table).values()]
  }

  tasksOf(change: Record_): Record_[] {
    return this.all('change_task').filter((task) => task['change_request'] === change['sys_id'])
  }

  /** What is left of a body: columns that exist, that smith may write, with choices that are on their list. */
  writable(table: string, body: Record_): { kept: Record_; ignored: string[] } {
    const kept: Record_ = {}
    const ignored: string[] = []
    for (const [column, value] of Object.entries(body)) {
      const isKnown = (COLUMNS[table] ?? []).includes(column) && !['number', 'approval', 'active'].includes(column)
      if (!isKnown || this.rules.unwritable.has(column)) ignored.push(column)
      else kept[column] = this.#choice(table, column, value)
    }
    return { kept, ignored }
  }

  #choice(table: string, column: string, value: string): string {
    if (column === 'close_code') return CLOSE_CODES.includes(value) ? value : ''
    if (column !== 'state' || STATES[table]?.[value] !== undefined) return value
    // Seen on real instances: a word is taken for some state, and the change is stuck there.
    return this.rules.looseStates && /^[a-z]+$/.test(value) ? '-3' : ''
  }

  raise(body: Record_, type: string): { row: Record_; ignored: string[] } | Said {
    const { kept, ignored } = this.writable('change_request', body)
    const { mandatory } = this.rules
    if (mandatory !== null && (kept[mandatory] ?? '') === '') return policy(mandatory)
    const number = `CHG${String(268_453 + this.all('change_request').length).padStart(7, '0')}`
    const first = { number, state: '-5', approval: 'not requested', type, on_hold: 'false', active: 'true' }
    const row = this.put('change_request', {
      ...kept,
      ...first,
    })
    return { row, ignored }
  }

  addTask(change: Record_, body: Record_): Record_ {
    const { kept } = this.writable('change_task', body)
    const number = `CTASK${String(348_812 + this.all('change_task').length).padStart(7, '0')}`
    return this.put('change_task', {
      change_task_type: 'implementation',
      ...kept,
      number,
      state: '-5',
      on_hold: 'false',
      active: 'true',
      change_request: change['sys_id'] ?? '',
    })
  }

  /** A PATCH by smith's account. */
  patch(table: string, row: Record_, body: Record_): Said | null {
    const { kept } = this.writable(table, body)
    const { work_notes: note, ...fields } = kept
    const to = fields['state']
    if (to !== undefined && to !== row['state']) {
      const said = this.rules.strict
        ? rule(table)
        : table === 'change_request'
          ? this.#mayMove(row, { ...row, ...fields })
          : this.#mayMoveTask(row, { ...row, ...fields })
      if (said !== null) return said
    }
    if (note !== undefined && note !== '')
      this.put('sys_journal_field', {
        element_id: row['sys_id'] ?? '',
        element: 'work_notes',
        value: note,
        sys_created_by: 'smith',
      })
    const isMoved = to !== undefined && to !== row['state']
    Object.assign(row, fields)
    touched(row)
    if (isMoved) this.#follow(table, row)
    return null
  }

  #mayMove(row: Record_, after: Record_): Said | null {
    const to = after['state'] ?? ''
    if (this.rules.looseStates && to === '-3') return null
    const isStandard = row['type'] === 'standard' && row['state'] === '-5' && to === '-2'
    if (!isStandard && (to === '' || MOVES[row['state'] ?? '']?.includes(to) !== true)) return rule('change_request')
    if (row['on_hold'] === 'true' && to !== '4') return rule('change_request')
    if (to === '-4' && after['assignment_group'] === '') return policy('Assignment group')
    if (to !== '3') return null
    if (after['close_code'] === '') return policy('Close code')
    if (after['close_notes'] === '') return policy('Close notes')
    return this.tasksOf(row).some((task) => task['active'] === 'true') ? rule('change_request') : null
  }

  #mayMoveTask(row: Record_, after: Record_): Said | null {
    if (row['on_hold'] === 'true' || ['3', '4'].includes(row['state'] ?? '')) return rule('change_task')
    if (after['state'] === '') return rule('change_task')
    if (after['state'] === '3' && (after['close_code'] === '' || after['close_notes'] === ''))
      return policy('Close code, Close notes')
    return null
  }

  /** What the flow and the model do after a move. */
  #follow(table: string, row: Record_): void {
    if (table === 'change_task') {
      if (['3', '4'].includes(row['state'] ?? '')) row['active'] = 'false'
      const change = this.table('change_request').get(row['change_request'] ?? '')
      const isDone = change !== undefined && this.tasksOf(change).every((task) => task['active'] === 'false')
      if (isDone && change['state'] === '-1' && this.rules.autoReview) change['state'] = '0'
      return
    }
    if (row['state'] === '-4') {
      row['approval'] = 'requested'
      for (const user of this.all('sys_user'))
        this.put('sysapproval_approver', {
          sysapproval: row['sys_id'] ?? '',
          approver: user['sys_id'] ?? '',
          'approver.name': user['name'] ?? '',
          'approver.user_name': user['user_name'] ?? '',
          state: 'requested',
        })
    }
    // What a template approved needs nobody.
    if (row['state'] === '-2' && row['type'] === 'standard') row['approval'] = 'approved'
    if (row['state'] === '-1') {
      for (const name of ['Implement', 'Post implementation testing']) this.addTask(row, { short_description: name })
      for (const task of this.tasksOf(row)) if (task['state'] === '-5') task['state'] = '1'
    }
    if (row['state'] === '3' || row['state'] === '4') row['active'] = 'false'
    if (row['state'] === '4') {
      row['approval'] = 'not_required'
      for (const task of this.tasksOf(row))
        if (task['active'] === 'true') Object.assign(task, { state: '4', active: 'false' })
    }
  }

  byNumber(number: string): Record_ {
    const row = [...this.all('change_request'), ...this.all('change_task')].find((one) => one['number'] === number)
    if (row === undefined) throw new Error(`the stand-in has no ${number}`)
    return row
  }

  /** A person of the group approves; the flow moves the change on. */
  approve(number: string, by = 'grace'): void {
    const change = this.byNumber(number)
    const mine = this.#approval(change, by)
    mine['state'] = 'approved'
    const open = this.all('sysapproval_approver').filter(
      (row) => row['sysapproval'] === change['sys_id'] && row['state'] === 'requested',
    )
    if (this.rules.approvals === 'all' && open.length > 0) return
    for (const row of open) row['state'] = 'not_required'
    Object.assign(touched(change), { state: '-2', approval: 'approved' })
  }

  reject(number: string, comments: string, by = 'grace'): void {
    const change = this.byNumber(number)
    Object.assign(this.#approval(change, by), { state: 'rejected', comments })
    Object.assign(touched(change), { state: '-5', approval: 'rejected' })
  }

  #approval(change: Record_, by: string): Record_ {
    const user = this.all('sys_user').find((one) => one['user_name'] === by)
    const row = this.all('sysapproval_approver').find(
      (one) =>
        one['sysapproval'] === change['sys_id'] && one['approver'] === user?.['sys_id'] && one['state'] === 'requested',
    )
    if (row === undefined) throw new Error(`nobody has asked ${by} to approve ${change['number'] ?? ''}`)
    return row
  }

  /** "Revert to New": approvals are cancelled and the flow starts anew. */
  revert(number: string): void {
    const change = this.byNumber(number)
    Object.assign(touched(change), { state: '-5', approval: 'not requested' })
    for (const row of this.all('sysapproval_approver'))
      if (row['sysapproval'] === change['sys_id']) row['state'] = 'cancelled'
  }

  hold(number: string, isOn: boolean): void {
    const change = this.byNumber(number)
    for (const row of [change, ...this.tasksOf(change).filter((task) => task['active'] === 'true')])
      touched(row)['on_hold'] = String(isOn)
    if (isOn)
      for (const row of this.all('sysapproval_approver'))
        if (row['sysapproval'] === change['sys_id'] && row['state'] === 'requested') row['state'] = 'not_required'
  }

  /** A person edits as the form lets them, beyond what REST may. */
  edit(number: string, fields: Record_): void {
    const row = this.byNumber(number)
    const before = row['state']
    Object.assign(touched(row), fields)
    if (row['state'] !== before) this.#follow(number.startsWith('CTASK') ? 'change_task' : 'change_request', row)
  }

  /** An administrator may, and with it go the tasks. */
  delete(number: string): void {
    const change = this.byNumber(number)
    for (const table of ['change_task', 'change_request'])
      for (const row of this.all(table))
        if (row === change || row['change_request'] === change['sys_id']) this.table(table).delete(row['sys_id'] ?? '')
  }

  notesOf(number: string): string[] {
    const { sys_id: sysId } = this.byNumber(number)
    return this.all('sys_journal_field')
      .filter((row) => row['element_id'] === sysId)
      .map((row) => row['value'] ?? '')
  }
}

/** A record counts how often it was changed. */
function touched(row: Record_): Record_ {
  row['sys_mod_count'] = String(Number(row['sys_mod_count']) + 1)
  return row
}
