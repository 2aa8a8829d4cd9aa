/** The bodies of the HTTP interface under `/api/v1`; OpenAPI is generated from these schemas. */
import * as v from 'valibot'
import { auditPageSchema, auditQuerySchema, auditVerdictSchema, auditVerifyQuerySchema } from './audit.ts'
import { enrolAnswerSchema, enrolRequestSchema } from './agent.ts'
import { logSearchSchema, overviewSchema, sessionBodySchema, sessionEndedSchema } from './dashboard.ts'
import { refusalSchema } from './errors.ts'
import { recordSchema } from './files.ts'
import { countSchema, idSchema, instantSchema, machineNameSchema, sha256Schema } from './ids.ts'
import { machineListSchema, missingViewSchema } from './machine-views.ts'
import { planEvidenceSchema, planSchema } from './plan.ts'
import { scheduleAddBodySchema, scheduleListSchema, scheduleNameBodySchema, scheduleViewSchema } from './recurring.ts'
import { reportFileSchema, reportViewSchema } from './report.ts'
import { serviceLogSchema } from './service-log.ts'
import { statusSchema } from './status.ts'

export type { MachineView, MissingView } from './machine-views.ts'

export const REQUEST_TEXT_MAX = 16_384
/** A `bot` looks at everything and gives no command of its own: it acts for a person, whom PERSON_HEADER names. */
export const ROLES = ['viewer', 'requester', 'approver', 'admin', 'bot'] as const
export type Role = (typeof ROLES)[number]
/** Sent by a bot with a call that it makes for a person: their roles decide, and both are recorded. */
export const PERSON_HEADER = 'smith-person'
const reason = v.pipe(v.string(), v.trim(), v.minLength(1), v.maxLength(500))
const personName = v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9._@-]{0,63}$/))

/** RFC 9457 problem details, with every refusal at once. */
export const problemSchema = v.strictObject({
  type: v.literal('about:blank'),
  title: v.string(),
  status: v.number(),
  refusals: v.array(refusalSchema),
})
export type Problem = v.InferOutput<typeof problemSchema>

/** `key` makes a repeated request (its answer was lost) the same request. */
export const requestBodySchema = v.strictObject({
  text: v.pipe(v.string(), v.minLength(1), v.maxLength(REQUEST_TEXT_MAX)),
  preview: v.optional(v.boolean()),
  key: v.optional(idSchema),
})
export const planViewSchema = v.strictObject({
  digest: v.string(),
  build: v.string(),
  region: v.string(),
  machines: v.array(
    v.strictObject({
      name: v.string(),
      phase: countSchema,
      bag: v.string(),
      planHash: sha256Schema,
      plan: planSchema,
      evidence: planEvidenceSchema,
      warnings: v.array(v.string()),
    }),
  ),
  skipped: v.array(v.strictObject({ name: v.string(), reason: v.string() })),
  /** How the project will go: its phases, what follows a failure, its window. Empty for what goes without saying. */
  terms: v.array(v.string()),
  /** Where a person decides about the change, when that is not in smith. */
  decideAt: v.optional(v.string()),
})
export type PlanView = v.InferOutput<typeof planViewSchema>
export const requestViewSchema = v.strictObject({
  request: idSchema,
  state: v.picklist(['planning', 'refused', 'previewed', 'raising', 'raised']),
  text: v.string(),
  by: v.string(),
  at: instantSchema,
  planned: countSchema,
  total: countSchema,
  refusals: v.array(refusalSchema),
  change: v.nullable(v.string()),
  plan: v.nullable(planViewSchema),
})
export type RequestView = v.InferOutput<typeof requestViewSchema>

export const decisionBodySchema = v.strictObject({ digest: sha256Schema, reason: v.optional(reason) })
export const reasonBodySchema = v.strictObject({ reason: v.optional(reason) })
export const machineBodySchema = v.strictObject({ machine: machineNameSchema, reason: v.optional(reason) })
export const skipBodySchema = v.strictObject({ machine: machineNameSchema, reason })
export const resolveBodySchema = v.strictObject({
  machine: machineNameSchema,
  as: v.picklist(['succeeded', 'failed']),
  reason,
})
export const doneSchema = v.strictObject({ done: v.literal(true), rev: countSchema })

/** `text` is the status as people read it (DESIGN section 1), the same for CLI and bot. */
export const projectViewSchema = v.strictObject({ status: statusSchema, text: v.string(), rev: countSchema })
export type ProjectView = v.InferOutput<typeof projectViewSchema>
export const projectSummarySchema = v.strictObject({
  change: v.nullable(v.string()),
  state: v.string(),
  title: v.string(),
  build: v.string(),
  region: v.string(),
  requester: v.string(),
  createdAt: instantSchema,
  totals: v.record(v.string(), countSchema),
  stop: v.nullable(v.string()),
})
export const projectListSchema = v.strictObject({
  instance: v.string(),
  frozen: v.nullable(v.strictObject({ by: v.string(), reason: v.string(), at: instantSchema })),
  projects: v.array(projectSummarySchema),
  /** What is amiss beside them (chat without its connection), a line each. */
  troubles: v.optional(v.array(v.string())),
})
export type ProjectList = v.InferOutput<typeof projectListSchema>

export const orderViewSchema = v.strictObject({
  order: idSchema,
  change: v.nullable(v.string()),
  machine: v.string(),
  attempt: countSchema,
  state: v.string(),
  upTo: countSchema,
  grantedAt: v.nullable(instantSchema),
  endedAt: v.nullable(instantSchema),
})
export type OrderView = v.InferOutput<typeof orderViewSchema>
export const orderListSchema = v.strictObject({ orders: v.array(orderViewSchema) })
/** A page of an order's records: those after `after`, at most `limit`; `upTo` is what is stored in all. */
export const logPageSchema = v.strictObject({
  order: idSchema,
  upTo: countSchema,
  ended: v.boolean(),
  records: v.array(recordSchema),
})
export type LogPage = v.InferOutput<typeof logPageSchema>

export const enrolNewBodySchema = v.strictObject({
  names: v.pipe(v.array(machineNameSchema), v.minLength(1), v.maxLength(1000)),
  ttlSeconds: v.optional(v.pipe(countSchema, v.minValue(1), v.maxValue(86_400))),
  replace: v.optional(v.boolean()),
})
export const enrolTokensSchema = v.strictObject({
  tokens: v.array(v.strictObject({ id: idSchema, name: v.string(), token: v.string(), expiresAt: instantSchema })),
})
export const enrolListSchema = v.strictObject({
  enrolments: v.array(
    v.strictObject({
      id: idSchema,
      name: v.string(),
      by: v.string(),
      replace: v.boolean(),
      expiresAt: instantSchema,
      usedAt: v.nullable(instantSchema),
      revokedAt: v.nullable(instantSchema),
    }),
  ),
})
export const enrolRevokeBodySchema = v.strictObject({ name: machineNameSchema })
export const userAddBodySchema = v.strictObject({
  name: personName,
  roles: v.pipe(
    v.array(v.picklist(ROLES)),
    v.minLength(1),
    v.maxLength(ROLES.length),
    v.check((roles) => !roles.includes('bot') || roles.length === 1, 'a bot has no other role'),
  ),
  ttlDays: v.optional(v.pipe(countSchema, v.minValue(1), v.maxValue(3650))),
})
/** The token is shown this once; only its SHA-256 is kept. */
export const userTokenSchema = v.strictObject({ name: v.string(), roles: v.array(v.string()), token: v.string() })
export const userListSchema = v.strictObject({
  users: v.array(
    v.strictObject({
      name: v.string(),
      roles: v.array(v.string()),
      createdAt: instantSchema,
      revokedAt: v.nullable(instantSchema),
      expiresAt: v.nullable(instantSchema),
    }),
  ),
})
export const userRevokeBodySchema = v.strictObject({ name: personName })
export const whoSchema = v.strictObject({
  instance: v.string(),
  name: v.string(),
  roles: v.array(v.string()),
  version: v.string(),
  epoch: idSchema,
  rev: countSchema,
  /** What enrolment tokens and `smith login` carry. */
  pin: v.string(),
  /** Where it listens for agents and people, once it does. Without `host` it does on every address of its machine. */
  host: v.optional(v.string()),
  port: v.optional(countSchema),
})
/** A personal token: `smithp_` and 32 random bytes, base64url. */
export const PERSON_TOKEN_PATTERN = /^smithp_[A-Za-z0-9_-]{43}$/
/** Written by the coordinator itself, as a file that must not exist yet, sealed with the passphrase (scrypt, AES-256-GCM). */
export const backupBodySchema = v.strictObject({
  path: v.pipe(v.string(), v.startsWith('/'), v.maxLength(4096)),
  passphrase: v.pipe(v.string(), v.minLength(8), v.maxLength(1000)),
})
export type BackupAnswer = v.InferOutput<typeof backupAnswerSchema>
export const backupAnswerSchema = v.strictObject({
  path: v.string(),
  bytes: countSchema,
  sha256: sha256Schema,
  rev: countSchema,
  /** The hash of the newest row of its journal: kept elsewhere, it shows later whether rows are gone. */
  head: sha256Schema,
})

/** What `smith doctor` found: nothing is changed by looking. */
export const doctorSchema = v.strictObject({
  findings: v.array(
    v.strictObject({
      subject: v.string(),
      level: v.picklist(['good', 'warning', 'bad']),
      text: v.string(),
      remedy: v.nullable(v.string()),
    }),
  ),
})
export type DoctorView = v.InferOutput<typeof doctorSchema>

const none = v.strictObject({})
/** Seconds to wait for an answer other than `planning` or `raising`, at most 30. */
const waitQuery = v.strictObject({ wait: v.optional(v.string()) })
const limitQuery = v.strictObject({ limit: v.optional(v.string()), before: v.optional(v.string()) })
const optionalText = v.optional(v.string())
const serviceLogQuery = v.strictObject({
  ...{ after: optionalText, since: optionalText, limit: optionalText },
  ...{ change: optionalText, machine: optionalText },
})
const searchQuery = v.strictObject({ text: v.pipe(v.string(), v.minLength(1), v.maxLength(200)), after: optionalText })
const steering = ['requester', 'admin'] as const
/** Stopping is cheap: who approves may do it too. */
const stopping = ['requester', 'approver', 'admin'] as const
/** A report quotes logs of the whole machine; a bot posts what concerns a project. */
const reporting = [...stopping, 'bot'] as const
const reportQuery = v.strictObject({ report: optionalText })
const admin = ['admin'] as const
const open = { roles: ROLES, query: none, body: null } as const
/** To read the whole journal takes the coordinator seconds. */
const checking = ['approver', 'admin'] as const
/**
 * Every route, by the name that server and client share. `roles` are those of which one is enough ('none': no person
 * needed; 'socket': the admin socket only). The core decides about commands once more, with the state at hand: a
 * request is open to all because a preview is.
 */
export const ROUTES = {
  who: { method: 'GET', path: '/api/v1/who', roles: ROLES, query: none, body: null, answer: whoSchema },
  requestMake: {
    method: 'POST',
    path: '/api/v1/requests',
    roles: ROLES,
    query: none,
    body: requestBodySchema,
    answer: requestViewSchema,
  },
  request: {
    method: 'GET',
    path: '/api/v1/requests/:request',
    roles: ROLES,
    query: waitQuery,
    body: null,
    answer: requestViewSchema,
  },
  projects: {
    method: 'GET',
    path: '/api/v1/projects',
    roles: ROLES,
    query: limitQuery,
    body: null,
    answer: projectListSchema,
  },
  project: { ...{ method: 'GET', path: '/api/v1/projects/:change' }, ...open, answer: projectViewSchema },
  plan: { ...{ method: 'GET', path: '/api/v1/projects/:change/plan' }, ...open, answer: planViewSchema },
  projectOrders: { ...{ method: 'GET', path: '/api/v1/projects/:change/orders' }, ...open, answer: orderListSchema },
  overview: { ...{ method: 'GET', path: '/api/v1/overview' }, ...open, answer: overviewSchema },
  sessionOpen: {
    ...{ method: 'POST', path: '/api/v1/session', query: none },
    ...{ body: sessionBodySchema, answer: whoSchema },
    roles: 'none',
  },
  sessionEnd: {
    ...{ method: 'POST', path: '/api/v1/session/end', roles: ROLES },
    ...{ query: none, body: none, answer: sessionEndedSchema },
  },
  approve: {
    method: 'POST',
    path: '/api/v1/projects/:change/approve',
    roles: ['approver'],
    query: none,
    body: decisionBodySchema,
    answer: doneSchema,
  },
  reject: {
    method: 'POST',
    path: '/api/v1/projects/:change/reject',
    roles: ['approver'],
    query: none,
    body: reasonBodySchema,
    answer: doneSchema,
  },
  pause: {
    method: 'POST',
    path: '/api/v1/projects/:change/pause',
    roles: stopping,
    query: none,
    body: reasonBodySchema,
    answer: doneSchema,
  },
  resume: {
    method: 'POST',
    path: '/api/v1/projects/:change/resume',
    roles: steering,
    query: none,
    body: reasonBodySchema,
    answer: doneSchema,
  },
  cancel: {
    method: 'POST',
    path: '/api/v1/projects/:change/cancel',
    roles: stopping,
    query: none,
    body: reasonBodySchema,
    answer: doneSchema,
  },
  retry: {
    method: 'POST',
    path: '/api/v1/projects/:change/retry',
    roles: steering,
    query: none,
    body: machineBodySchema,
    answer: doneSchema,
  },
  skip: {
    method: 'POST',
    path: '/api/v1/projects/:change/skip',
    roles: steering,
    query: none,
    body: skipBodySchema,
    answer: doneSchema,
  },
  resolve: {
    method: 'POST',
    path: '/api/v1/projects/:change/resolve',
    roles: steering,
    query: none,
    body: resolveBodySchema,
    answer: doneSchema,
  },
  freeze: {
    method: 'POST',
    path: '/api/v1/freeze',
    roles: stopping,
    query: none,
    body: reasonBodySchema,
    answer: doneSchema,
  },
  unfreeze: {
    method: 'POST',
    path: '/api/v1/unfreeze',
    roles: admin,
    query: none,
    body: reasonBodySchema,
    answer: doneSchema,
  },
  machines: {
    ...{ method: 'GET', path: '/api/v1/machines', roles: ROLES },
    ...{ query: v.strictObject({ pattern: v.optional(v.string()) }), body: null, answer: machineListSchema },
  },
  missing: {
    ...{ method: 'GET', path: '/api/v1/missing-machines', roles: ROLES },
    ...{ query: none, body: null, answer: missingViewSchema },
  },
  machineOrders: {
    ...{ method: 'GET', path: '/api/v1/machines/:machine/orders', roles: ROLES },
    ...{ query: none, body: null, answer: orderListSchema },
  },
  log: {
    ...{ method: 'GET', path: '/api/v1/orders/:order/log', roles: ROLES },
    ...{
      query: v.strictObject({ after: v.optional(v.string()), limit: v.optional(v.string()) }),
      body: null,
      answer: logPageSchema,
    },
  },
  logSearch: {
    ...{ method: 'GET', path: '/api/v1/orders/:order/search', roles: ROLES, query: searchQuery },
    ...{ body: null, answer: logSearchSchema },
  },
  serviceLog: {
    ...{ method: 'GET', path: '/api/v1/service-log', roles: stopping, query: serviceLogQuery },
    ...{ body: null, answer: serviceLogSchema },
  },
  audit: {
    ...{ method: 'GET', path: '/api/v1/audit', roles: ROLES },
    ...{ query: auditQuerySchema, body: null, answer: auditPageSchema },
  },
  auditVerify: {
    ...{ method: 'GET', path: '/api/v1/audit/verify', roles: checking },
    ...{ query: auditVerifyQuerySchema, body: null, answer: auditVerdictSchema },
  },
  reportAsk: {
    ...{ method: 'POST', path: '/api/v1/machines/:machine/report', roles: stopping },
    ...{ query: none, body: null, answer: reportViewSchema },
  },
  report: {
    ...{ method: 'GET', path: '/api/v1/machines/:machine/report', roles: reporting },
    ...{ query: reportQuery, body: null, answer: reportViewSchema },
  },
  reportFile: {
    ...{ method: 'GET', path: '/api/v1/machines/:machine/report/:file', roles: reporting },
    ...{ query: reportQuery, body: null, answer: reportFileSchema },
  },
  schedules: {
    ...{ method: 'GET', path: '/api/v1/schedules', roles: ROLES },
    ...{ query: none, body: null, answer: scheduleListSchema },
  },
  scheduleAdd: {
    ...{ method: 'POST', path: '/api/v1/schedules', roles: steering },
    ...{ query: none, body: scheduleAddBodySchema, answer: scheduleViewSchema },
  },
  scheduleRemove: {
    ...{ method: 'POST', path: '/api/v1/schedules/remove', roles: stopping },
    ...{ query: none, body: scheduleNameBodySchema, answer: doneSchema },
  },
  scheduleRun: {
    ...{ method: 'POST', path: '/api/v1/schedules/run', roles: steering },
    ...{ query: none, body: scheduleNameBodySchema, answer: scheduleViewSchema },
  },
  enrolNew: {
    ...{ method: 'POST', path: '/api/v1/enrolments', roles: admin },
    ...{ query: none, body: enrolNewBodySchema, answer: enrolTokensSchema },
  },
  enrolList: {
    ...{ method: 'GET', path: '/api/v1/enrolments', roles: admin },
    ...{ query: none, body: null, answer: enrolListSchema },
  },
  enrolRevoke: {
    ...{ method: 'POST', path: '/api/v1/enrolments/revoke', roles: admin },
    ...{ query: none, body: enrolRevokeBodySchema, answer: doneSchema },
  },
  enrol: {
    method: 'POST',
    path: '/api/v1/enrol',
    roles: 'none',
    query: none,
    body: enrolRequestSchema,
    answer: enrolAnswerSchema,
  },
  userAdd: {
    method: 'POST',
    path: '/api/v1/users',
    roles: admin,
    query: none,
    body: userAddBodySchema,
    answer: userTokenSchema,
  },
  userList: { method: 'GET', path: '/api/v1/users', roles: admin, query: none, body: null, answer: userListSchema },
  userRevoke: {
    method: 'POST',
    path: '/api/v1/users/revoke',
    roles: admin,
    query: none,
    body: userRevokeBodySchema,
    answer: doneSchema,
  },
  doctor: { method: 'GET', path: '/api/v1/doctor', roles: admin, query: none, body: null, answer: doctorSchema },
  backup: {
    method: 'POST',
    path: '/api/v1/backup',
    roles: 'socket',
    query: none,
    body: backupBodySchema,
    answer: backupAnswerSchema,
  },
} as const
export type RouteName = keyof typeof ROUTES

/** What a bot may do for a person: what is asked in chat. Nobody is added, enrolled, resolved or unfrozen through it. */
export const BOT_ROUTES: ReadonlySet<string> = new Set<RouteName>([
  'who',
  'requestMake',
  'request',
  'projects',
  'project',
  'plan',
  'projectOrders',
  'approve',
  'reject',
  'pause',
  'resume',
  'cancel',
  'retry',
  'skip',
  'machines',
  'machineOrders',
  'report',
  'reportFile',
  'log',
])
