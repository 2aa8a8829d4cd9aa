/**
 * The keys of `[change.servicenow]` and what becomes of them. Which of them must be given, and which fit together, is
 * checked here too, and only where ServiceNow is the provider.
 */
import * as v from 'valibot'
import { type Field, SECRET_ACCEPTED, type ValuesOf, field, flag, isSecretPath, seconds } from './config-kinds.ts'

/** A password must not go over a network in clear text; on this computer it does not. */
const URL_PATTERN =
  /^(https:\/\/[A-Za-z0-9.-]+(:[0-9]{1,5})?|http:\/\/(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?|)$/
const COLUMN = /^[a-z][a-z0-9_]{0,79}$/
const text = (about: string, accepted: string, pattern: RegExp, fallback: string) =>
  field(about, accepted, v.pipe(v.string(), v.regex(pattern)), fallback)
const sysId = (about: string) => text(about, 'a sys_id (32 hexadecimal digits), or ""', /^([0-9a-f]{32})?$/, '')
const secretFile = (about: string) =>
  field(
    about,
    `${SECRET_ACCEPTED}, or ""`,
    v.pipe(
      v.string(),
      v.check((given) => given === '' || isSecretPath(given)),
    ),
    '',
  )
const columns = (about: string): Field<Record<string, string>> =>
  field(
    about,
    'column = "text", such as { category = "Software", u_outage = "{outage}" }',
    v.pipe(
      v.record(v.string(), v.pipe(v.string(), v.maxLength(4000))),
      v.check((given) => Object.keys(given).every((name) => COLUMN.test(name))),
    ),
    {},
  )

/** A table of which each name stands for a choice of the site; what is not given keeps the stock value. */
function choices<Names extends string>(
  about: string,
  stock: Readonly<Record<Names, string>>,
): Field<Record<Names, string>> {
  const names = Object.keys(stock) as Names[]
  const value = v.pipe(v.string(), v.minLength(1), v.maxLength(80))
  const schema = v.pipe(
    v.record(v.string(), value),
    v.check((given) => Object.keys(given).every((name) => Object.hasOwn(stock, name))),
    v.transform((given) => ({ ...stock, ...given })),
    v.check((given) => new Set(names.map((name) => given[name])).size === names.length),
  )
  return field(about, `any of ${names.join(', ')}, each = "a value of its own"`, schema, stock)
}

export const SERVICENOW = {
  url: text(
    'Where the instance is.',
    '"https://INSTANCE.service-now.com" (http:// only on this computer)',
    URL_PATTERN,
    '',
  ),
  auth: field(
    'How smith shows who it is.',
    '"oauth" (client credentials) or "basic"',
    v.picklist(['oauth', 'basic'] as const),
    'oauth',
  ),
  client_id: text('OAuth: the id of the client.', 'a text', /^[\x21-\x7e]{0,200}$/, ''),
  scope: text('OAuth: the scope to ask for; none by default.', 'a text', /^[\x20-\x7e]{0,200}$/, ''),
  user: text('Basic: the name of the account.', 'a text without a colon', /^[^:\p{Cc}]{0,100}$/u, ''),
  secret_file: secretFile(
    "The client's secret, or the account's password: a file that only smith-coordinator may read.",
  ),
  assignment_group: sysId('The group whose members approve.'),
  model: sysId('The change model; none for a normal change.'),
  template: sysId("A standard change's template, which needs no approval of its own; none for a normal change."),
  fields: columns(
    'More columns of a change. {outage}, {build}, {requester}, {digest}, {summary} and {machines} are filled in.',
  ),
  task_fields: columns('More columns of a change task, filled in alike.'),
  states: choices('The states of a change, where they are not the stock ones.', {
    new: '-5',
    assess: '-4',
    authorize: '-3',
    scheduled: '-2',
    implement: '-1',
    review: '0',
    closed: '3',
    canceled: '4',
  }),
  task_states: choices('The states of a change task, where they are not the stock ones.', {
    pending: '-5',
    open: '1',
    in_progress: '2',
    closed: '3',
    canceled: '4',
  }),
  close_codes: choices('The codes with which changes and tasks are closed.', {
    successful: 'successful',
    successful_issues: 'successful_issues',
    unsuccessful: 'unsuccessful',
  }),
  approval_required: flag(
    'Whether a change in Scheduled or Implement must also say `approved`; some models leave that out.',
    true,
  ),
  request_approval: flag('Whether smith requests the approval itself, or a person does.', true),
  flow_tasks: field(
    "Tasks that the site's own flow adds, by their short description, which smith closes with the change. Others are left to people.",
    'a list of texts',
    v.pipe(v.array(v.pipe(v.string(), v.minLength(1))), v.readonly()),
    ['Implement', 'Post implementation testing', 'Post-implementation testing'] as readonly string[],
  ),
  correlation_prefix: text(
    'What the correlation ids of this coordinator begin with; not the same for two.',
    'letters, digits, . _ -',
    /^[A-Za-z0-9._-]{1,40}$/,
    'smith',
  ),
  ci_table: text(
    'Where machines are looked up as affected items by name or fqdn; "" for nowhere.',
    'the name of a table, or ""',
    /^([a-z][a-z0-9_]{0,79})?$/,
    'cmdb_ci_server',
  ),
  requester_field: text(
    'The column of sys_user that bears the names of smith\'s people; "" for none.',
    'the name of a column, or ""',
    /^([a-z][a-z0-9_]{0,79})?$/,
    'user_name',
  ),
  attachment: flag('Whether the whole plan is attached to the change.', true),
  planned: seconds('The planned length of a change whose request names no window.', 604_800, {
    min: 60,
    max: 31_536_000,
  }),
  timeout: seconds('For one answer of ServiceNow.', 30, { min: 0.05, max: 300 }),
  settle: seconds(
    'How long after a request whose answer was lost its effect may still come: nothing is made anew before.',
    60,
    { min: 0.05, max: 3600 },
  ),
  retry_min: seconds('Until the first repetition of what was not done; doubles each time.', 1, {
    min: 0.01,
    max: 3600,
  }),
  retry_max: seconds('The longest time between two tries.', 300, { min: 0.01, max: 3600 }),
  poll: seconds('Between two looks whether a person has done what only a person may.', 30, { min: 0.05, max: 3600 }),
}

export type ServiceNowValues = ValuesOf<typeof SERVICENOW>

/** What must be given and is not: key, problem and remedy of each. */
export function servicenowProblems(given: ServiceNowValues): readonly (readonly [string, string, string])[] {
  const problems: [string, string, string][] = []
  const need = (key: keyof ServiceNowValues, remedy: string) => {
    if (given[key] === '') problems.push([`change.servicenow.${key}`, 'is missing', remedy])
  }
  need('url', 'give url = "https://INSTANCE.service-now.com"')
  if (given.auth === 'oauth') need('client_id', 'give the id of an OAuth client, or auth = "basic" with user')
  else need('user', 'give the account\'s name, or auth = "oauth" with client_id')
  need('secret_file', 'give a file with the secret, such as a systemd credential')
  if (given.template === '') need('assignment_group', 'give the sys_id of the group whose members approve')
  if (given.model !== '' && given.template !== '')
    problems.push(['change.servicenow.template', 'and model exclude each other', 'give one of them'])
  if (given.retry_max < given.retry_min)
    problems.push(['change.servicenow.retry_max', `is below retry_min (${given.retry_min})`, 'give at least retry_min'])
  return problems
}

const ms = (value: number) => Math.round(value * 1000)

/** As change/servicenow reads it. */
export function servicenowSettings(given: ServiceNowValues) {
  const { secret_file: secretPath, client_id: clientId, user, scope } = given
  return {
    url: given.url,
    auth:
      given.auth === 'oauth'
        ? { kind: 'oauth' as const, clientId, secretFile: secretPath, scope }
        : { kind: 'basic' as const, user, secretFile: secretPath },
    assignmentGroup: given.assignment_group,
    model: given.model,
    template: given.template,
    fields: given.fields,
    taskFields: given.task_fields,
    states: given.states,
    taskStates: given.task_states,
    closeCodes: given.close_codes,
    approvalRequired: given.approval_required,
    requestApproval: given.request_approval,
    flowTasks: given.flow_tasks,
    correlationPrefix: given.correlation_prefix,
    ciTable: given.ci_table,
    requesterField: given.requester_field,
    attachment: given.attachment,
    plannedMs: ms(given.planned),
    timeoutMs: ms(given.timeout),
    settleMs: ms(given.settle),
    retryMsMin: ms(given.retry_min),
    retryMsMax: ms(given.retry_max),
    pollMs: ms(given.poll),
  }
}
