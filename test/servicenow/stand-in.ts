/**
 * A ServiceNow to test against: the parts of its interface that smith uses, with the shapes and the punishments of a real
 * instance (queries that drop what they don't know, choices that become empty, HTML at 200, answers that are lost).
 * `node test/servicenow/serve.ts` starts one to be used by hand.
 */
import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { COLUMNS, type Record_, Records, type Said } from './records.ts'

export const SECRET = 'the secret of the client'
export type Call = {
  readonly method: string
  readonly path: string
  readonly query: URLSearchParams
  readonly n: number
  readonly body: Record_
}
/** What happens in the place of the true answer. `lost`: it is done, and its answer never comes; `late`: so, and only after a while. */
export type Fault =
  | 'lost'
  | 'cut'
  | 'html'
  | 'hang'
  | 'late'
  | {
      readonly status: number
      readonly headers?: Record<string, string>
      readonly error?: { message: string; detail: string | null }
    }
export type Whole = { readonly status: number; readonly headers: Record<string, string>; readonly body: string }
export type Answer = Whole | 'cut' | 'hang' | 'late'

const JSON_TYPE = { 'content-type': 'application/json;charset=UTF-8' }
const NO_RECORD: Said = {
  status: 404,
  message: 'No Record found',
  detail: "Record doesn't exist or ACL restricts the record retrieval",
}

export class StandIn {
  readonly records: Records
  readonly calls: Call[] = []
  /** Looked at for each call but those for a token. */
  fault: (call: Call) => Fault | undefined = () => undefined
  /** Called when an answer is about to be sent, and when a call has come. */
  onCall: (call: Call, when: 'before' | 'after') => void = () => {}
  tokenSeconds = 1799
  tokensGiven = 0
  /** What a query that is not understood by the site answers with: everything. */
  ignoresQueries = false
  /** What the worker that links machines says at each look, then that it is complete (3). */
  workerStates: number[] = []
  /** Records that come instead of the one that was asked for by sys_id. */
  wrongRecord: Record_ | null = null
  tables: Set<string> | null = null
  readonly #now: () => number
  readonly #tokens = new Map<string, number>()

  constructor(now: () => number = () => Date.now()) {
    this.#now = now
    this.records = new Records(now)
  }

  expireTokens(): void {
    this.#tokens.clear()
  }

  async handle(
    method: string,
    url: string,
    headers: Readonly<Record<string, string | string[] | undefined>>,
    text: string,
  ): Promise<Answer> {
    const { pathname: path, searchParams: query } = new URL(url, 'http://stand-in')
    if (path === '/oauth_token.do') return this.#token(headers, text)
    const call: Call = { method, path, query, n: this.calls.length, body: bodyOf(text) }
    this.calls.push(call)
    this.onCall(call, 'before')
    const fault = this.fault(call)
    if (fault !== undefined && fault !== 'lost') return fault === 'late' ? 'late' : faulty(fault)
    const problem = this.#refuse(method, headers)
    const answer = problem ?? this.#serve(call, text)
    this.onCall(call, 'after')
    return fault === 'lost' ? 'cut' : this.#dated(answer)
  }

  #dated(answer: Whole): Answer {
    return { ...answer, headers: { date: new Date(this.#now()).toUTCString(), ...answer.headers } }
  }

  #token(headers: Readonly<Record<string, string | string[] | undefined>>, text: string): Answer {
    const form = new URLSearchParams(text)
    const isForm = headers['content-type'] === 'application/x-www-form-urlencoded'
    if (!isForm || form.get('client_secret') !== SECRET || form.get('grant_type') !== 'client_credentials')
      return json(401, { error_description: 'access_denied', error: 'server_error' })
    this.tokensGiven += 1
    const token = `token-${this.tokensGiven}`
    this.#tokens.set(token, this.#now() + this.tokenSeconds * 1000)
    return json(200, { access_token: token, token_type: 'Bearer', expires_in: this.tokenSeconds, scope: 'useraccount' })
  }

  #refuse(method: string, headers: Readonly<Record<string, string | string[] | undefined>>): Whole | null {
    const given = String(headers['authorization'] ?? '')
    const basic = `Basic ${Buffer.from(`smith:${SECRET}`).toString('base64')}`
    const isKnown = given === basic || (this.#tokens.get(given.replace('Bearer ', '')) ?? 0) > this.#now()
    if (!isKnown)
      return said({ status: 401, message: 'User Not Authenticated', detail: 'Required to provide Auth information' })
    const isWrite = method !== 'GET'
    if (headers['accept'] !== 'application/json' || (isWrite && headers['content-type'] === undefined))
      return said({ status: 400, message: 'Unsupported media type', detail: null })
    return null
  }

  #serve(call: Call, text: string): Whole {
    const parts = call.path.split('/').slice(2)
    if (parts[0] === 'now' && parts[1] === 'table') return this.#tableCall(call, parts[2] ?? '', parts[3])
    if (parts[0] === 'now' && parts[1] === 'attachment') return this.#attachmentCall(call, text)
    if (parts[0] === 'sn_chg_rest' && parts[1] === 'change') return this.#changeCall(call, parts.slice(2))
    return said({ status: 400, message: 'Requested URI does not represent any resource', detail: null })
  }

  #tableCall(call: Call, table: string, sysId: string | undefined): Whole {
    if (COLUMNS[table] === undefined) return said({ status: 400, message: `Invalid table ${table}`, detail: null })
    if (this.tables !== null && !this.tables.has(table))
      return said({ status: 403, message: 'User Not Authorized', detail: 'Failed API level ACL Validation' })
    if (sysId === undefined)
      return json(200, { result: this.#found(table, call.query).map((row) => bare(row, call.query)) })
    const row =
      this.wrongRecord !== null && call.method === 'GET' && table === 'change_request'
        ? this.wrongRecord
        : this.records.table(table).get(sysId)
    if (row === undefined) return said(NO_RECORD)
    const problem = call.method === 'PATCH' ? this.records.patch(table, row, call.body) : null
    return problem === null ? json(200, { result: bare(row, call.query) }) : said(problem)
  }

  /** A term that names no column is dropped and the rest runs: nothing left means every row. */
  #found(table: string, query: URLSearchParams): Record_[] {
    const limit = Number(query.get('sysparm_limit') ?? 10_000)
    const rows = this.records.all(table)
    if (this.ignoresQueries) return rows.slice(0, limit)
    const known = [...(COLUMNS[table] ?? []), 'sys_id']
    const groups = (query.get('sysparm_query') ?? '')
      .split(/\^(?!OR)/)
      .map((group) =>
        group.split('^OR').flatMap((term) => {
          const [, column = '', value = ''] = /^([a-z_.]+)=(.*)$/.exec(term) ?? []
          return known.includes(column) ? [{ column, value }] : []
        }),
      )
      .filter((group) => group.length > 0)
    return rows
      .filter((row) => groups.every((group) => group.some(({ column, value }) => row[column] === value)))
      .slice(0, limit)
  }

  #attachmentCall(call: Call, text: string): Whole {
    if (call.method === 'GET')
      return json(200, { result: this.#found('sys_attachment', call.query).map((row) => bare(row, call.query)) })
    const of = (name: string) => call.query.get(name) ?? ''
    const row = this.records.put('sys_attachment', {
      table_name: of('table_name'),
      table_sys_id: of('table_sys_id'),
      file_name: of('file_name'),
      text,
    })
    return json(201, { result: bare(row, call.query) })
  }

  #changeCall(call: Call, parts: readonly string[]): Whole {
    const [id = '', sub] = parts
    if (call.method === 'GET' && id === 'standard')
      return json(200, { result: this.records.all('std_change_record_producer').map((row) => wrapped(row)) })
    if (call.method === 'POST' && (id === '' || id === 'normal' || id === 'standard')) {
      const made = this.records.raise(call.body, id === 'standard' ? 'standard' : 'normal')
      if ('status' in made) return said(made)
      return json(200, { result: { ...wrapped(made.row), __meta: { ignoredFields: made.ignored } } })
    }
    if (id === 'worker') return json(200, { result: { state: { value: this.workerStates.shift() ?? 3 } } })
    const change = this.records.table('change_request').get(id)
    if (change === undefined) return said(NO_RECORD)
    if (sub === 'task' && call.method === 'GET')
      return json(200, { result: this.records.tasksOf(change).map((row) => wrapped(row, 'parent')) })
    if (sub === 'task') return json(200, { result: wrapped(this.records.addTask(change, call.body), 'parent') })
    if (sub === 'ci') {
      const items = call.body['cmdb_ci_sys_ids'] as unknown as string[]
      for (const item of items) this.records.put('task_ci', { task: id, ci_item: item })
      return json(202, {
        result: {
          worker: { sysId: 'f'.repeat(32), link: '' },
          state: { value: 1, display_value: 'Waiting' },
          messages: { errorMessages: [], warningMessages: [], infoMessages: [] },
        },
      })
    }
    return said({ status: 400, message: 'Bad Request', detail: null })
  }
}

function bodyOf(text: string): Record_ {
  try {
    return JSON.parse(text) as Record_
  } catch {
    // An attachment is no JSON, and a GET has no body.
    return {}
  }
}

/** The Table API: bare strings; a reference is an object unless it was asked for without. */
function bare(row: Record_, query: URLSearchParams): object {
  const columns = query.get('sysparm_fields')?.split(',') ?? Object.keys(row)
  const isPlain = query.get('sysparm_exclude_reference_link') === 'true'
  return Object.fromEntries(
    columns.flatMap((column) => {
      const value = row[column]
      // Notes are written and not read.
      if (value === undefined) return []
      if (column === 'work_notes') return [[column, '']]
      const isReference = ['assignment_group', 'requested_by', 'change_request', 'approver', 'sysapproval'].includes(
        column,
      )
      return [[column, isReference && !isPlain && value !== '' ? { link: `https://stand-in/${value}`, value } : value]]
    }),
  )
}

/** The Change Management API: each value with its label, numbers and truths typed, dates also in the account's zone. */
function wrapped(row: Record_, referenceName = 'change_request'): object {
  return Object.fromEntries(
    Object.entries(row).map(([column, value]) => {
      const name = column === 'change_request' ? referenceName : column
      if (column === 'state') return [name, { display_value: `state ${value}`, value: Number(value) }]
      if (column === 'on_hold' || column === 'active') return [name, { display_value: value, value: value === 'true' }]
      if (column.endsWith('_date'))
        return [name, { display_value: '31/12/1999 23:59', value, display_value_internal: '1999-12-31 23:59:00' }]
      return [name, { display_value: value, value }]
    }),
  )
}

function json(status: number, body: object): Whole {
  return { status, headers: JSON_TYPE, body: JSON.stringify(body) }
}

function said({ status, message, detail }: Said): Whole {
  return json(status, { error: { message, detail }, status: 'failure' })
}

function faulty(fault: Exclude<Fault, 'lost' | 'late'>): Answer {
  if (fault === 'cut' || fault === 'hang') return fault
  if (fault === 'html')
    return {
      status: 200,
      headers: { 'content-type': 'text/html;charset=UTF-8' },
      body: '<html><title>Instance Hibernating page</title></html>',
    }
  const answer =
    fault.error === undefined
      ? { status: fault.status, headers: JSON_TYPE, body: '' }
      : said({ status: fault.status, ...fault.error })
  return { ...answer, headers: { ...answer.headers, ...fault.headers } }
}

export type Served = { readonly url: string; readonly close: () => Promise<void> }

/** Over real HTTP, on a free port of this computer. */
export async function serveStandIn(standIn: StandIn, port = 0): Promise<Served> {
  const server: Server = createServer((request, response) => void reply(standIn, request, response))
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

async function reply(standIn: StandIn, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const pieces: Buffer[] = []
  for await (const piece of request) pieces.push(piece as Buffer)
  const answer = await standIn.handle(
    request.method ?? 'GET',
    request.url ?? '/',
    request.headers,
    Buffer.concat(pieces).toString(),
  )
  if (answer === 'hang' || answer === 'late') return
  if (answer === 'cut') response.destroy()
  else response.writeHead(answer.status, answer.headers).end(answer.body)
}
