/**
 * The generated parts of docs/PROTOCOL.md, each between two marker comments: made from the schemas themselves, so
 * that the page cannot go stale. Called by protocol.test.ts, which compares, or rewrites when told to.
 */
import * as agent from '../../protocol/agent.ts'
import { CLOSE_CODES, REFUSAL_KINDS, httpStatusOf, refusalSchema } from '../../protocol/errors.ts'
import { FACTS, factSchema, feedFrameSchema, feedRowSchema } from '../../protocol/feed.ts'
import * as files from '../../protocol/files.ts'
import { REQUEST_TEXT_MAX, ROLES, ROUTES } from '../../protocol/http.ts'
import * as plan from '../../protocol/plan.ts'
import { type Names, entriesOf, protocolExports, shortType } from './describe.ts'

type Row = readonly string[]

const code = (text: string | number) => `\`${text}\``
const codes = (texts: readonly string[]) => texts.map((text) => code(text)).join(', ')

function table(head: Row, rows: readonly Row[]): string {
  const lines = [head, head.map(() => '---'), ...rows]
  return lines.map((row) => `| ${row.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`).join('\n')
}

const fieldRows = (schema: unknown, names: Names, skip = ''): Row[] =>
  Object.entries(entriesOf(schema))
    .filter(([key]) => key !== skip)
    .map(([key, item]) => [code(key), shortType(item, names)])

const objectTable = (schema: unknown, names: Names) => table(['field', 'value'], fieldRows(schema, names))

/** A row per member of a union, its fields in one cell. */
function unionTable(options: readonly unknown[], key: string, names: Names): string {
  const rows = options.map((option) => {
    const fields = fieldRows(option, names, key).map(([field, value]) => `${field}: ${value}`)
    return [code(shortType(entriesOf(option)[key], names).replaceAll('"', '')), fields.join('<br>') || 'nothing']
  })
  return table([key, 'fields'], rows)
}

const titled = (parts: readonly (readonly [title: string, text: string])[]) =>
  parts.map(([title, text]) => `${title}:\n\n${text}`).join('\n\n')

/** The generated parts by the name in their markers. */
export async function protocolTables(): Promise<ReadonlyMap<string, string>> {
  const names = await schemaNames()
  const object = (schema: unknown) => objectTable(schema, names)
  return new Map([
    ['forms', await formsTable(names)],
    [
      'limits',
      table(
        ['limit', 'value'],
        LIMITS.map(([name, value]) => [code(name), code(value)]),
      ),
    ],
    ['agent-frames', unionTable(agent.agentFrameSchema.options, 't', names)],
    ['coordinator-frames', unionTable(agent.coordinatorFrameSchema.options, 't', names)],
    ['facts', object(agent.factsSchema)],
    ['order-in-hand', `${object(agent.orderInHandSchema)}\n\nEvidence: ${codes(files.ORDER_EVIDENCE)}.`],
    [
      'enrolment',
      titled([
        ['Request', object(agent.enrolRequestSchema)],
        ['Answer', object(agent.enrolAnswerSchema)],
      ]),
    ],
    [
      'grant',
      titled([
        ['What is signed', object(files.grantPayloadSchema)],
        ['What carries it', object(files.signedGrantSchema)],
      ]),
    ],
    ['inbox', unionTable(files.inboxEntrySchema.options, 'type', names)],
    ['plan', titled(PLAN_PARTS.map(([title, schema]) => [title, object(schema)]))],
    ['records', unionTable(files.recordSchema.options, 'type', names)],
    ['steps', `Steps, in their order: ${codes(files.STEPS)}.\n\nCauses of a failure: ${codes(files.CAUSES)}.`],
    [
      'feed',
      titled([
        ['Frames', unionTable(feedFrameSchema.options, 't', names)],
        ['A row', object(feedRowSchema)],
        ['A fact', object(factSchema)],
        ['What can have happened', `${codes(FACTS)}.`],
      ]),
    ],
    [
      'close-codes',
      table(
        ['code', 'reason'],
        Object.entries(CLOSE_CODES).map(([reason, value]) => [code(value), code(reason)]),
      ),
    ],
    ['refusal', object(refusalSchema)],
    [
      'kinds',
      table(
        ['kind', 'HTTP status'],
        REFUSAL_KINDS.map((kind) => [code(kind), code(httpStatusOf(kind))]),
      ),
    ],
    ['routes', routesTable(names)],
  ])
}

const LIMITS = Object.entries({
  AGENT_FRAME_BYTES_MAX: agent.AGENT_FRAME_BYTES_MAX,
  RECORDS_FRAME_BYTES_MAX: agent.RECORDS_FRAME_BYTES_MAX,
  RECORDS_FRAME_MAX: agent.RECORDS_FRAME_MAX,
  RECORDS_WINDOW_MAX: agent.RECORDS_WINDOW_MAX,
  ORDERS_IN_HAND_MAX: agent.ORDERS_IN_HAND_MAX,
  PLAN_ACTIONS_MAX: plan.PLAN_ACTIONS_MAX,
  GRANT_LIFE_MS_MAX: files.GRANT_LIFE_MS_MAX,
  LINE_BYTES_MAX: files.LINE_BYTES_MAX,
  REQUEST_TEXT_MAX,
})
const PLAN_PARTS = [
  ['A plan', plan.planSchema],
  ['An install', plan.installSchema],
  ['A removal', plan.removeSchema],
  ['A repair', plan.repairSchema],
  ['The evidence beside it', plan.planEvidenceSchema],
] as const

async function formsTable(names: Names): Promise<string> {
  const ids = Object.entries((await protocolExports())['ids.ts'] ?? {})
  const forms = ids.filter(([name]) => name.endsWith('Schema'))
  return table(
    ['form', 'accepts'],
    forms.map(([name, schema]) => [code(name.replace(/Schema$/, '')), shortType(schema, names, true)]),
  )
}

function routesTable(names: Names): string {
  const rows = Object.entries(ROUTES).map(([name, route]) => [
    code(name),
    `${route.method} ${code(route.path)}`,
    rolesText(route.roles),
    route.body === null
      ? ''
      : fieldRows(route.body, names)
          .map(([field]) => field)
          .join(', '),
  ])
  return table(['name', 'route', 'who may', 'body'], rows)
}

function rolesText(roles: (typeof ROUTES)[keyof typeof ROUTES]['roles']): string {
  if (roles === 'none') return 'anybody'
  if (roles === 'socket') return 'the admin socket'
  return roles.length === ROLES.length ? 'everyone with a token' : roles.map((role) => code(role)).join(', ')
}

/** Schemas and closed sets of protocol/ by identity, so that a table can say `id` where an id stands. */
async function schemaNames(): Promise<Names> {
  const names = new Map<unknown, string>([
    [files.STEPS, 'a step'],
    [files.CAUSES, 'a cause'],
    [files.ORDER_EVIDENCE, 'an evidence'],
    [FACTS, 'a name of what happened'],
    [REFUSAL_KINDS, 'a kind'],
  ])
  for (const values of Object.values(await protocolExports())) {
    for (const [name, value] of Object.entries(values)) {
      if (name.endsWith('Schema')) names.set(value, name.replace(/Schema$/, ''))
    }
  }
  return names
}
