/** The OpenAPI 3.1 description, generated from the same table of routes that the server serves and the CLI calls. */
import { toJsonSchema } from '@valibot/to-json-schema'
import type * as v from 'valibot'
import { problemSchema, ROLES, ROUTES, type RouteName } from '../../protocol/http.ts'
import { FEED_SUBPROTOCOL } from '../../protocol/feed.ts'
import { PROBLEM_TYPE } from './problems.ts'

const SUMMARIES: { readonly [Name in RouteName]: string } = {
  who: 'Who the token belongs to, and which instance answers.',
  requestMake:
    'Ask for a patch, or only for its plan (preview). Answers at once; what becomes of it is read from the request.',
  request: 'A request: still planning, refused with every reason, previewed, or raised as a change.',
  projects: 'The projects of the instance, newest first.',
  project: 'The status of a project, as data and as text.',
  plan: 'What the project does on each machine: packages old and new, removals, repairs, apt holds.',
  projectOrders: 'The orders granted for the project.',
  overview: 'What goes now: each line with who has it, each open project with its stop, what is being planned.',
  sessionOpen: 'Log in to the dashboard with a personal token: the answer sets the cookie of a session.',
  sessionEnd: 'Log out: end the session whose cookie came with the call.',
  approve: 'Approve the change by the digest that was shown.',
  reject: 'Reject the change, or withdraw its approval.',
  pause: 'Grant nothing more until resume; what runs finishes.',
  resume: 'Lift a pause or a hold that began as a wait.',
  cancel: 'Grant nothing more, for good; what runs finishes.',
  retry: 'Try a machine that failed again, under the same change.',
  skip: 'Leave a machine out, with a reason.',
  resolve: 'Say how a run ended that nobody else can tell about, with a reason.',
  freeze: 'Grant nothing in the whole instance.',
  unfreeze: 'Let the instance go on.',
  machines: 'The machines, all or those that a name, address or pattern means.',
  missing: 'Machines that the configured source knows and that are not enrolled, and the other way round.',
  machineOrders: 'The orders that a machine was granted.',
  log: 'Records of an order after a number.',
  logSearch: 'Which records of an order hold a text. Looks at a bounded number; goes on after the last one looked at.',
  serviceLog: 'What the coordinator itself did, the newest of it, by time, change and machine.',
  audit: 'Who did what, when, on what and why: the acts of the journal, the newest first.',
  auditVerify: 'Whether any row of the journal was edited, removed or moved; `head` is that of an earlier check.',
  reportAsk: 'Have a health report of a machine made. Answers at once; how it stands is read from the report.',
  report: 'A health report, the newest or the one named: how it stands, its summary, and which files it has.',
  reportFile: 'One file of a health report.',
  schedules: 'The recurring requests, with what became of their last times.',
  scheduleAdd: 'Ask again and again, at the times of a cron expression.',
  scheduleRemove: 'End a recurring request.',
  scheduleRun: 'Ask now for what a recurring request asks for, in the name of the caller.',
  enrolNew: 'Make single-use enrolment tokens; they are shown this once.',
  enrolList: 'The enrolments.',
  enrolRevoke: 'Revoke the open enrolments of a name.',
  enrol: 'Become a machine, with a token. For smith-agent enrol.',
  userAdd: 'Give a person roles and a token; it is shown this once.',
  userList: 'The people.',
  userRevoke: "Revoke a person's token.",
  doctor:
    'What differs from how it should be: of the coordinator, its machines, and its change provider. Changes nothing.',
  backup: 'Write a sealed backup on the coordinator. Admin socket only.',
}

const PLAIN = {
  '/api/v1/openapi.json': 'This description.',
  '/healthz': 'Whether the process answers.',
  '/readyz': 'Whether it can serve: 503 with the reason when not.',
}
const PROBLEM = {
  description: 'Refused, with every reason.',
  content: { [PROBLEM_TYPE]: { schema: { $ref: '#/components/schemas/Problem' } } },
}
const DESCRIPTION = `The coordinator of smith: patches machines strictly one after another, under an approved change request.

What happens is told on the WebSocket /feed (subprotocol ${FEED_SUBPROTOCOL}, a token in the Authorization header): a hello frame, then
every row after ?since=REV, each once. ?epoch=EPOCH says in which numbering; after another one the hello has resumed: false, what the
client holds is void, and only new rows come. The same routes are on the admin socket, without a token.`

/** The schemas use actions that JSON Schema has no word for (trim): those are left out, the server still applies them. */
function schemaOf(schema: v.GenericSchema): object {
  const { $schema: _dialect, ...body } = toJsonSchema(schema, {
    errorMode: 'ignore',
    target: 'draft-2020-12',
    typeMode: 'input',
  })
  return body
}

export function openApiDocument(version: string): object {
  const paths: Record<string, Record<string, object>> = {}
  for (const name of Object.keys(ROUTES) as RouteName[]) {
    const route = ROUTES[name]
    const path = route.path.replaceAll(/:([a-z]+)/g, '{$1}')
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operationOf(name) }
  }
  for (const [path, summary] of Object.entries(PLAIN)) {
    paths[path] = {
      get: {
        operationId: /([a-z]+)(\.json)?$/.exec(path)?.[1],
        summary,
        security: [],
        responses: { 200: { description: 'Yes.' }, default: PROBLEM },
      },
    }
  }
  return {
    openapi: '3.1.0',
    info: { title: 'smith', version, description: DESCRIPTION },
    paths,
    components: {
      schemas: { Problem: schemaOf(problemSchema) },
      securitySchemes: { token: { type: 'http', scheme: 'bearer' } },
    },
  }
}

function operationOf(name: RouteName): object {
  const route = ROUTES[name]
  const query = schemaOf(route.query) as { properties?: Record<string, object> }
  const inPath = [...route.path.matchAll(/:([a-z]+)/g)].map((match) => ({
    name: match[1],
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }))
  const inQuery = Object.entries(query.properties ?? {}).map(([key, schema]) => ({
    name: key,
    in: 'query',
    required: false,
    schema,
  }))
  return {
    operationId: name,
    summary: SUMMARIES[name],
    description: whoMay(route.roles),
    security: typeof route.roles === 'string' ? [] : [{ token: [] }],
    parameters: [...inPath, ...inQuery],
    ...(route.body === null
      ? {}
      : {
          requestBody: {
            required: needsBody(route.body),
            content: { 'application/json': { schema: schemaOf(route.body) } },
          },
        }),
    responses: {
      [name === 'requestMake' ? '202' : '200']: {
        description: 'Done.',
        content: { 'application/json': { schema: schemaOf(route.answer) } },
      },
      default: PROBLEM,
    },
  }
}

/** An empty body is taken for an empty object. */
function needsBody(schema: v.GenericSchema): boolean {
  return ((schemaOf(schema) as { required?: string[] }).required ?? []).length > 0
}

function whoMay(roles: (typeof ROUTES)[RouteName]['roles']): string {
  if (roles === 'none') return 'Needs no token.'
  if (roles === 'socket') return 'Only on the admin socket, without a token.'
  return roles.length === ROLES.length ? 'Needs a token.' : `Needs a token with the role ${roles.join(' or ')}.`
}
