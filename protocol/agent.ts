/**
 * The frames between agent and coordinator: subprotocol `smith.agent.v1`, one unfragmented WebSocket text message
 * each, one JSON object with the discriminant `t`. Closed schemas: an unknown field, verb or value ends the
 * connection with code 4400. There is no verb that makes a machine run a command, fetch a file or change its
 * configuration.
 *
 * Order of a connection: challenge, auth, ready, hello; then anything its side may send.
 */
import * as v from 'valibot'
import { refusalSchema } from './errors.ts'
import { ORDER_EVIDENCE, recordSchema, signedGrantSchema } from './files.ts'
import {
  base64Schema,
  buildSchema,
  countSchema,
  idSchema,
  instantSchema,
  machineNameSchema,
  sha256Schema,
  shortTextSchema,
} from './ids.ts'
import { planEvidenceSchema, planSchema } from './plan.ts'

export const AGENT_SUBPROTOCOL = 'smith.agent.v1'
/** A frame beyond this closes the connection; the largest honest one is a grant with a plan of PLAN_ACTIONS_MAX. */
export const AGENT_FRAME_BYTES_MAX = 1_048_576
/** Records of one frame, and how many may be under way without an acknowledgement. */
export const RECORDS_FRAME_MAX = 256
export const RECORDS_WINDOW_MAX = 1024
/** An agent keeps the JSON of one records frame below this. */
export const RECORDS_FRAME_BYTES_MAX = 262_144
export const ORDERS_IN_HAND_MAX = 64
/** What stands before the signed text of `auth`. */
export const AUTH_SIGNATURE_PREFIX = 'smith-auth-v1\n'

const nonceSchema = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))
const bootIdSchema = v.pipe(v.string(), v.regex(/^[0-9a-f-]{1,64}$/))

/** What the machine is, as it says itself. Of these only its own labels, cluster and region, enter a decision. */
export const factsSchema = v.strictObject({
  agentVersion: shortTextSchema,
  os: shortTextSchema,
  arch: shortTextSchema,
  kernel: shortTextSchema,
  apt: shortTextSchema,
  cluster: v.nullable(shortTextSchema),
  region: v.nullable(shortTextSchema),
  rebootPending: v.boolean(),
})
export type Facts = v.InferOutput<typeof factsSchema>

export const orderInHandSchema = v.strictObject({
  order: idSchema,
  fence: countSchema,
  evidence: v.picklist(ORDER_EVIDENCE),
  /** The number of the last record on the machine's disk. */
  upTo: countSchema,
})
export type OrderInHand = v.InferOutput<typeof orderInHandSchema>

export const agentFrameSchema = v.variant('t', [
  /** The signature (Ed25519, RFC 8032) is over AUTH_SIGNATURE_PREFIX and the lines of `authText`. */
  v.strictObject({
    t: v.literal('auth'),
    machine: idSchema,
    nonce: nonceSchema,
    counter: v.pipe(countSchema, v.minValue(1)),
    signature: base64Schema,
  }),
  v.strictObject({
    t: v.literal('hello'),
    name: machineNameSchema,
    facts: factsSchema,
    bootId: bootIdSchema,
    /** Random at each start of the agent process. */
    incarnation: idSchema,
    /** The highest fence that the runner ever took. */
    fence: countSchema,
    /** The machine's wall clock, for the skew. */
    at: instantSchema,
    /** The builds that its configuration knows; `template` when any number will do. */
    builds: v.pipe(v.array(buildSchema), v.maxLength(256)),
    template: v.boolean(),
    /** Why it can't take orders now, null when it can. */
    impediment: v.nullable(refusalSchema),
    orders: v.pipe(v.array(orderInHandSchema), v.maxLength(ORDERS_IN_HAND_MAX)),
  }),
  v.strictObject({
    t: v.literal('planned'),
    query: idSchema,
    plan: planSchema,
    evidence: planEvidenceSchema,
    warnings: v.pipe(v.array(shortTextSchema), v.maxLength(50)),
  }),
  v.strictObject({ t: v.literal('planRefused'), query: idSchema, refusal: refusalSchema }),
  /** The answer to an offer: what the plan names is downloaded, or why not (which stops nothing). */
  v.strictObject({ t: v.literal('prefetched'), order: idSchema, problem: v.nullable(shortTextSchema) }),
  /** The grant is on the machine's disk; it says nothing of a claim. */
  v.strictObject({ t: v.literal('granted'), order: idSchema, fence: countSchema }),
  /** Records `from`, `from + 1`, ... of an order, without a gap. */
  v.strictObject({
    t: v.literal('records'),
    order: idSchema,
    records: v.pipe(v.array(recordSchema), v.minLength(1), v.maxLength(RECORDS_FRAME_MAX)),
  }),
  /** A part of the health report that was asked for, counted from 0, of `of`; or why there is none. */
  v.strictObject({
    t: v.literal('reportPart'),
    report: idSchema,
    part: countSchema,
    of: v.pipe(countSchema, v.minValue(1)),
    base64: base64Schema,
  }),
  v.strictObject({ t: v.literal('reportRefused'), report: idSchema, problem: shortTextSchema }),
  v.strictObject({ t: v.literal('ping'), n: countSchema }),
  v.strictObject({ t: v.literal('pong'), n: countSchema }),
])
export type AgentFrame = v.InferOutput<typeof agentFrameSchema>

export const coordinatorFrameSchema = v.variant('t', [
  v.strictObject({
    t: v.literal('challenge'),
    nonce: nonceSchema,
    instance: shortTextSchema,
    incarnation: idSchema,
  }),
  v.strictObject({ t: v.literal('ready'), session: idSchema, at: instantSchema }),
  v.strictObject({ t: v.literal('plan'), query: idSchema, build: buildSchema, outageMinutes: countSchema }),
  /** An offer has no authority: it lets the machine download what the approved plan names. */
  v.strictObject({ t: v.literal('offer'), order: idSchema, planHash: sha256Schema, plan: planSchema }),
  v.strictObject({ t: v.literal('grant'), order: idSchema, grant: signedGrantSchema }),
  v.strictObject({ t: v.literal('revoke'), order: idSchema }),
  /** Everything up to record `upTo` is committed; send what follows. Answers a gap too. */
  v.strictObject({ t: v.literal('ack'), order: idSchema, upTo: countSchema }),
  /** The result is committed; the machine may delete its copy when its own time for that has come. */
  v.strictObject({ t: v.literal('forget'), order: idSchema }),
  /**
   * A part of a health report. The first question has it made by the root half, from a list that is fixed there; each
   * may be asked again, on another connection too.
   */
  v.strictObject({ t: v.literal('report'), report: idSchema, part: countSchema }),
  v.strictObject({ t: v.literal('ping'), n: countSchema }),
  v.strictObject({ t: v.literal('pong'), n: countSchema }),
])
export type CoordinatorFrame = v.InferOutput<typeof coordinatorFrameSchema>

/** The lines that an agent signs to prove its key for this one connection. */
export function authText(fields: {
  readonly coordinatorNonce: string
  readonly agentNonce: string
  readonly machine: string
  readonly incarnation: string
  readonly counter: number
}): string {
  return `${AUTH_SIGNATURE_PREFIX}${fields.coordinatorNonce}\n${fields.agentNonce}\n${fields.machine}\n${fields.incarnation}\n${fields.counter}\n`
}

/** The body of `POST /api/v1/enrol` and its answer. Keys are SPKI in DER, base64. */
export const enrolRequestSchema = v.strictObject({
  token: v.pipe(v.string(), v.maxLength(400)),
  publicKey: v.pipe(base64Schema, v.maxLength(200)),
  facts: factsSchema,
})
export const enrolAnswerSchema = v.strictObject({
  machine: idSchema,
  name: machineNameSchema,
  instance: shortTextSchema,
  orderKey: v.pipe(base64Schema, v.maxLength(200)),
})

/**
 * An enrolment token: `smith1.<secret>.<pin>.<name>`: the secret (32 bytes), the SHA-256 of the coordinator's TLS
 * public key (SPKI, DER), both base64url, and the name that it is bound to.
 */
export const ENROL_TOKEN_PATTERN = /^smith1\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})\.([a-z0-9.-]{1,253})$/
