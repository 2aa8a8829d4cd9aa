/**
 * The plan as an attachment of the change, and its machines as affected configuration items, where they can be found.
 * Names go into a query only in a form in which they can't be anything but a name, and what comes back must be a
 * machine that was asked for.
 */
import type { Tried } from '../sender.ts'
import { type Desk, listRecords, making, waitForLast } from './desk.ts'
import { ServiceNowError, isRefusal, isTable } from './failures.ts'
import { QUERY_VALUE, type Row, askedRows, rowOf, textOf } from './records.ts'

type Found = { readonly sysId: string; readonly number: string }

/** The name tells the plan, so that it is attached once. */
export function attachPlan(
  desk: Desk,
  change: Found,
  { digest, text, tried }: { readonly digest: string; readonly text: string; readonly tried: Tried },
): Promise<void> {
  return attach(desk, { table: 'change_request', ...change }, `smith-plan-${digest.slice(0, 16)}.txt`, { text, tried })
}

/** Once by its name, whatever crashed before. */
export async function attach(
  desk: Desk,
  to: Found & { readonly table: 'change_request' | 'change_task' },
  name: string,
  { text, tried }: { readonly text: string; readonly tried: Tried },
): Promise<void> {
  const what = `attaching ${name} to ${to.number}`
  const query = {
    sysparm_query: `table_sys_id=${to.sysId}^file_name=${name}`,
    sysparm_fields: 'sys_id,table_sys_id,file_name',
    sysparm_limit: '2',
  }
  const result = await desk.client.ask({ method: 'GET', path: '/api/now/attachment', query, what })
  const isThis = (row: Row) => textOf(row, 'table_sys_id') === to.sysId && textOf(row, 'file_name') === name
  if (askedRows(result, what, isThis).length > 0) return
  const place = { table_name: to.table, table_sys_id: to.sysId, file_name: name }
  waitForLast(desk, tried)
  await making(desk, () =>
    desk.client.ask({ method: 'POST', path: '/api/now/attachment/file', query: place, body: text, what }),
  )
}

const NAMES_PER_QUERY = 40
const WORKER_LOOKS_MAX = 20
const WORKER_LOOK_MS = 500
const COMPLETE = '3'

/** What is not found, ambiguous or refused is told in the log and in a work note; it stops nothing. */
export async function linkMachines(desk: Desk, change: Found, names: readonly string[]): Promise<void> {
  if (desk.settings.ciTable === '') return
  try {
    const found = new Map<string, string[]>()
    const askable = names.filter((name) => QUERY_VALUE.test(name))
    for (let from = 0; from < askable.length; from += NAMES_PER_QUERY)
      await findItems(desk, askable.slice(from, from + NAMES_PER_QUERY), found)
    const items = names.flatMap((name) => (found.get(name)?.length === 1 ? (found.get(name) ?? []) : []))
    const missing = names.filter((name) => found.get(name)?.length !== 1)
    if (missing.length > 0)
      desk.log.info(
        { change: change.number, missing: missing.slice(0, 20), count: missing.length },
        'machines without one configuration item of their own',
      )
    if (items.length > 0) await addItems(desk, change, [...new Set(items)])
  } catch (error) {
    if (!isRefusal(error) && !(error instanceof ServiceNowError && error.kind === 'doubt')) throw error
    desk.log.warn({ change: change.number, problem: error.message }, 'the machines are not linked as affected items')
  }
}

async function findItems(desk: Desk, names: readonly string[], found: Map<string, string[]>): Promise<void> {
  const what = 'looking for configuration items'
  const query = names.flatMap((name) => [`name=${name}`, `fqdn=${name}`]).join('^OR')
  const columns = ['sys_id', 'name', 'fqdn']
  const result = await listRecords(desk, {
    table: desk.settings.ciTable,
    query,
    columns,
    limit: names.length * 4,
    what,
  })
  const wanted = new Set(names)
  const namesOf = (row: Row) =>
    [textOf(row, 'name').toLowerCase(), textOf(row, 'fqdn').toLowerCase()].filter((name) => wanted.has(name))
  for (const row of askedRows(result, what, (one) => namesOf(one).length > 0)) {
    for (const name of new Set(namesOf(row))) found.set(name, [...(found.get(name) ?? []), textOf(row, 'sys_id')])
  }
}

/** ServiceNow does it in a worker of its own; to add an item that is there already changes nothing. */
async function addItems(desk: Desk, change: Found, items: readonly string[]): Promise<void> {
  const path = `/api/sn_chg_rest/change/${change.sysId}/ci`
  const body = { association_type: 'affected', cmdb_ci_sys_ids: items, refresh_impacted_services: false }
  const what = `linking the machines of ${change.number}`
  const made = rowOf(await desk.client.ask({ method: 'POST', path, body, what }), what)
  const worker = isTable(made['worker']) ? textOf(made['worker'], 'sysId') : ''
  if (worker === '') return
  for (let look = 0; look < WORKER_LOOKS_MAX; look += 1) {
    const row = rowOf(
      await desk.client.ask({ method: 'GET', path: `/api/sn_chg_rest/change/worker/${worker}`, what }),
      what,
    )
    const state = textOf(row, 'state')
    if (state === COMPLETE) return
    if (Number(state) > Number(COMPLETE))
      throw new ServiceNowError('refused', `${what}: ServiceNow's worker ended in state ${state}`)
    await new Promise<void>((resolve) => void desk.clock.after(WORKER_LOOK_MS, resolve))
  }
  desk.log.warn({ change: change.number }, 'ServiceNow is still linking the machines')
}
