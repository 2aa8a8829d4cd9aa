/**
 * Compares a site's set-up with what the configuration expects of it, by reading only. Each finding says what is, and
 * where something differs, what to do. What can't be read is a finding too.
 */
import { type Desk, listRecords, readRecord } from './desk.ts'
import { ServiceNowError } from './failures.ts'
import { type Row, askedRows, rowsOf, textOf } from './records.ts'
import { CHANGE_STATES, type ServiceNowSettings, TASK_STATES } from './settings.ts'

export type Finding = {
  readonly subject: string
  readonly level: 'good' | 'warning' | 'bad'
  readonly text: string
  readonly remedy: string | null
}

const SKEW_MS_MAX = 60_000

export async function examine(desk: Desk, problemOf: (project: string) => string | null): Promise<Finding[]> {
  const { settings } = desk
  const reach = await look(
    'reach',
    `use the url ${settings.url}, the account and its secret of change.servicenow`,
    async () => {
      await list(desk, 'change_request', 'ORDERBYDESCsys_created_on', ['sys_id'], 1)
      return `${settings.url} answers, and smith's account is let in`
    },
  )
  const findings = [reach, ...outboxFindings(desk, problemOf)]
  if (reach.level === 'bad') return findings
  findings.push(clockFinding(desk), await queryFinding(desk))
  const tables = [
    'change_request',
    'change_task',
    'sysapproval_approver',
    'sys_journal_field',
    'sys_choice',
    'sys_dictionary',
  ]
  if (settings.ciTable !== '') tables.push(settings.ciTable)
  if (settings.requesterField !== '') tables.push('sys_user')
  for (const table of tables) {
    findings.push(
      await look(`table ${table}`, `let smith's account read ${table}`, async () => {
        await list(desk, table, '', ['sys_id'], 1)
        return 'can be read'
      }),
    )
  }
  findings.push(
    await columnsFinding(desk, 'change_request', [
      'correlation_id',
      'correlation_display',
      ...Object.keys(settings.fields),
    ]),
  )
  findings.push(await columnsFinding(desk, 'change_task', Object.keys(settings.taskFields)))
  findings.push(await choicesFinding(desk, 'change_request', 'state', wantedStates(settings)))
  findings.push(
    await choicesFinding(
      desk,
      'change_task',
      'state',
      TASK_STATES.map((name) => [`task_states.${name}`, settings.taskStates[name]]),
    ),
  )
  findings.push(
    await choicesFinding(
      desk,
      'change_request',
      'close_code',
      Object.entries(settings.closeCodes).map(([name, value]) => [`close_codes.${name}`, value]),
    ),
  )
  findings.push(await recordFinding(desk, 'sys_user_group', settings.assignmentGroup, 'assignment_group'))
  if (settings.model !== '') findings.push(await recordFinding(desk, 'chg_model', settings.model, 'model'))
  if (settings.template !== '') findings.push(await templateFinding(desk))
  return findings
}

const wantedStates = (settings: ServiceNowSettings): [string, string][] =>
  CHANGE_STATES.map((name) => [`states.${name}`, settings.states[name]])

async function look(subject: string, remedy: string, check: () => Promise<string>): Promise<Finding> {
  try {
    return { subject, level: 'good', text: await check(), remedy: null }
  } catch (error) {
    if (!(error instanceof ServiceNowError)) throw error
    return { subject, level: 'bad', text: error.message, remedy }
  }
}

async function list(
  desk: Desk,
  table: string,
  query: string,
  columns: readonly string[],
  limit: number,
): Promise<readonly Row[]> {
  const what = `reading ${table}`
  const result = await listRecords(desk, { table, query, columns, limit, what })
  return result === null ? [] : rowsOf(result, what)
}

function outboxFindings(desk: Desk, problemOf: (project: string) => string | null): Finding[] {
  const changes = [...desk.view.all('remoteChanges')].filter((change) => change.queued > change.sent)
  if (changes.length === 0)
    return [{ subject: 'outbox', level: 'good', text: 'nothing waits to be told', remedy: null }]
  return changes.map((change) => {
    const problem = problemOf(change.project)
    return {
      subject: `outbox ${change.number ?? `of request for ${change.requester}`}`,
      level: problem === null ? ('good' as const) : ('bad' as const),
      text: `${change.queued - change.sent} calls wait${problem === null ? '' : `: ${problem}`}`,
      remedy: problem === null ? null : 'mend what it says; it is tried again by itself',
    }
  })
}

/** Windows are compared with our clock, and planned in theirs. */
function clockFinding(desk: Desk): Finding {
  const skewMs = desk.client.skewMs()
  if (skewMs === null)
    return { subject: 'clock', level: 'warning', text: 'ServiceNow does not tell its time', remedy: null }
  const text = `ServiceNow's clock is ${Math.abs(Math.round(skewMs / 1000))} s ${skewMs < 0 ? 'behind' : 'ahead'}`
  const isFar = Math.abs(skewMs) > SKEW_MS_MAX
  return {
    subject: 'clock',
    level: isFar ? 'bad' : 'good',
    text,
    remedy: isFar ? 'look at the time service of the coordinator' : null,
  }
}

/** By default a term that is not understood is left out of a query, and all rows match. smith checks every row itself. */
async function queryFinding(desk: Desk): Promise<Finding> {
  const subject = 'queries'
  return look(subject, 'nothing to do', async () => {
    const rows = await list(desk, 'change_request', 'smith_no_such_column=x', ['sys_id'], 1)
    return rows.length === 0
      ? 'a term that ServiceNow does not understand matches nothing'
      : 'a term that ServiceNow does not understand is left out (glide.invalid_query.returns_no_rows is not set); smith checks each row itself'
  })
}

async function columnsFinding(desk: Desk, table: string, columns: readonly string[]): Promise<Finding> {
  const subject = `columns of ${table}`
  const found = await look(subject, 'let smith read sys_dictionary', async () => {
    const missing: string[] = []
    for (const column of new Set(columns)) {
      const query = `element=${column}^name=${table}^ORname=task`
      const rows = await list(desk, 'sys_dictionary', query, ['name', 'element'], 20)
      if (!rows.some((row) => textOf(row, 'element') === column && [table, 'task'].includes(textOf(row, 'name'))))
        missing.push(column)
    }
    return missing.join(', ')
  })
  if (found.level === 'bad') return found
  return found.text === ''
    ? { ...found, text: 'all are there' }
    : {
        subject,
        level: 'bad',
        text: `there is no ${found.text}`,
        remedy: 'correct change.servicenow.fields and task_fields, or add the columns',
      }
}

/** A choice list may belong to the table or to task, from which it comes. */
async function choicesFinding(
  desk: Desk,
  table: string,
  element: string,
  wanted: readonly (readonly [string, string])[],
): Promise<Finding> {
  const subject = `${element} of ${table}`
  const found = await look(subject, 'let smith read sys_choice', async () => {
    const what = `reading the choices of ${table}.${element}`
    const query = `name=${table}^element=${element}^inactive=false`
    const columns = ['name', 'element', 'value', 'label', 'inactive']
    const result = await listRecords(desk, { table: 'sys_choice', query, columns, limit: 200, what })
    const rows = askedRows(result, what, (row) => textOf(row, 'name') === table && textOf(row, 'element') === element)
    const values = new Set(rows.map((row) => textOf(row, 'value')))
    const missing = wanted.filter(([, value]) => !values.has(value)).map(([key, value]) => `${key} = ${value}`)
    if (missing.length === 0) return ''
    return `${missing.join(', ')}; there are ${rows.map((row) => `${textOf(row, 'value')} (${textOf(row, 'label')})`).join(', ') || 'none'}`
  })
  if (found.level === 'bad') return found
  return found.text === ''
    ? { ...found, text: 'all that the configuration names are there' }
    : {
        subject,
        level: 'bad',
        text: `no choice for ${found.text}`,
        remedy: 'correct the table of that name in change.servicenow',
      }
}

async function recordFinding(desk: Desk, table: string, sysId: string, key: string): Promise<Finding> {
  const found = await look(key, `correct change.servicenow.${key}`, async () => {
    const row = await readRecord(desk, { table, sysId, columns: ['name', 'active'], what: `reading ${key} ${sysId}` })
    return `${textOf(row, 'name')}${textOf(row, 'active') === 'false' ? ' (not active)' : ''}`
  })
  if (!found.text.endsWith('(not active)')) return found
  return { ...found, level: 'bad', remedy: `correct change.servicenow.${key}` }
}

async function templateFinding(desk: Desk): Promise<Finding> {
  const { template } = desk.settings
  const found = await look('template', 'correct change.servicenow.template', async () => {
    const what = 'reading the templates of standard changes'
    const result = await desk.client.ask({ method: 'GET', path: '/api/sn_chg_rest/change/standard/template', what })
    const row = rowsOf(result ?? [], what).find((one) => textOf(one, 'sys_id') === template)
    return row === undefined ? '' : textOf(row, 'name') || template
  })
  if (found.text !== '') return found
  const text = `there is no template ${template} that smith's account may use`
  return { ...found, level: 'bad', text, remedy: 'correct change.servicenow.template' }
}
