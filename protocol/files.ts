/**
 * The files between the two halves on a machine, and the records in them that the agent ships unchanged. The
 * runner (root) writes all but the inbox; the agent (user smith) reads all and writes only the inbox.
 */
import * as v from 'valibot'
import {
  base64Schema,
  buildSchema,
  changeNumberSchema,
  countSchema,
  idSchema,
  instantSchema,
  sha256Schema,
  shortTextSchema,
} from './ids.ts'
import { planEvidenceSchema, planSchema } from './plan.ts'

/** The steps of a run, in their order (DESIGN: `claim, update, replan, fetch, pre-checks, latch, ...`). */
export const STEPS = [
  'claim',
  'update',
  'replan',
  'fetch',
  'pre-checks',
  'latch',
  'install',
  'post-checks',
  'reboot',
  'verify',
] as const
export type Step = (typeof STEPS)[number]

/** Why a run failed; a closed set, because metrics, advice and ServiceNow codes hang on it. */
export const CAUSES = [
  'repo',
  'fetch',
  'lock',
  'disk',
  'dpkg-interrupted',
  'maintainer-script',
  'conffile',
  'apt-hold',
  'plan-drift',
  'clock',
  'check',
  'reboot',
  'unreachable',
  'internal',
] as const
export type Cause = (typeof CAUSES)[number]

/** What a grant says. The signature is over the exact bytes that were sent, never over a re-serialised object. */
export const grantPayloadSchema = v.strictObject({
  type: v.literal('smith-grant-v1'),
  order: idSchema,
  machine: idSchema,
  change: changeNumberSchema,
  fence: v.pipe(countSchema, v.minValue(1)),
  build: buildSchema,
  planHash: sha256Schema,
  /** 1 for the first try; more means that the machine's plan may be smaller than the approved one. */
  attempt: v.pipe(countSchema, v.minValue(1)),
  outageMinutes: v.pipe(countSchema, v.maxValue(1440)),
  issuedAt: instantSchema,
  /** Checked once, at the claim; at most ten minutes after `issuedAt`. */
  startBy: instantSchema,
})
export type GrantPayload = v.InferOutput<typeof grantPayloadSchema>
export const GRANT_LIFE_MS_MAX = 600_000
/** What is put before the payload's bytes when they are signed, so that no other signature of the key can be taken for one. */
export const GRANT_SIGNATURE_PREFIX = 'smith-grant-v1\n'

/** `payload` is base64 of the JSON of a GrantPayload; `keyId` the SHA-256 of the verifying key (SPKI, DER). */
export const signedGrantSchema = v.strictObject({
  payload: base64Schema,
  signature: base64Schema,
  keyId: sha256Schema,
  plan: planSchema,
  evidence: planEvidenceSchema,
})
export type SignedGrant = v.InferOutput<typeof signedGrantSchema>

/** `inbox/grant-<order>.json` and `inbox/revoke-<order>.json`. A revoke needs no signature: it can only prevent. */
export const inboxEntrySchema = v.variant('type', [
  v.strictObject({ type: v.literal('grant'), grant: signedGrantSchema }),
  v.strictObject({ type: v.literal('revoke'), order: idSchema }),
])
export type InboxEntry = v.InferOutput<typeof inboxEntrySchema>

/** A line of output longer than this is cut into several records; the bytes stay the same. */
export const LINE_BYTES_MAX = 8192

const recordBase = { n: v.pipe(countSchema, v.minValue(1)), at: instantSchema }
const stepSchema = v.picklist(STEPS)
const lineBase = { ...recordBase, type: v.literal('line'), step: stepSchema, offset: countSchema }
const lineText = v.pipe(v.string(), v.maxLength(LINE_BYTES_MAX))
const advice = v.pipe(v.array(shortTextSchema), v.maxLength(20))

/** How a run ended. `void`: the grant was revoked before it was claimed, so nothing was ever done. */
export const resultSchema = v.strictObject({
  ...recordBase,
  type: v.literal('result'),
  outcome: v.picklist(['succeeded', 'failed', 'unknown', 'void']),
  /** Null exactly when the outcome is `succeeded` or `void`. */
  cause: v.nullable(v.picklist(CAUSES)),
  step: stepSchema,
  message: shortTextSchema,
  /** The decisive lines of the output, quoted. */
  evidence: v.pipe(v.array(v.pipe(v.string(), v.maxLength(2000))), v.maxLength(40)),
  advice,
  /** True when apt may have begun to change the machine. */
  latched: v.boolean(),
  rebootPending: v.boolean(),
  /** What is installed after the run, of the packages in the plan: `name:arch=version`. */
  installed: v.pipe(v.array(v.pipe(v.string(), v.maxLength(500))), v.maxLength(4000)),
  /** How many bytes apt and the checks printed, and their SHA-256: a result implies a complete log. */
  outputBytes: countSchema,
  outputSha256: sha256Schema,
})
export type Result = v.InferOutput<typeof resultSchema>

/**
 * One record of a run, numbered from 1 without a gap. A line carries `text` when its bytes are valid UTF-8 and
 * `base64` otherwise, line end included, so that the lines of an order put together are its output, byte for byte.
 */
export const recordSchema = v.union([
  v.strictObject({ ...recordBase, type: v.literal('step'), step: stepSchema }),
  v.strictObject({ ...lineBase, text: lineText }),
  v.strictObject({ ...lineBase, base64: base64Schema }),
  v.strictObject({
    ...recordBase,
    type: v.literal('progress'),
    step: stepSchema,
    /** Per cent, 0 to 100, and what is at work, as apt tells on its status descriptor; after a long silence, of whom. */
    percent: v.pipe(v.number(), v.minValue(0), v.maxValue(100)),
    label: shortTextSchema,
  }),
  v.strictObject({ ...recordBase, type: v.literal('note'), step: stepSchema, text: shortTextSchema }),
  v.strictObject({
    ...recordBase,
    type: v.literal('hole'),
    offset: countSchema,
    bytes: countSchema,
    reason: v.picklist(['bound', 'power-cut']),
  }),
  resultSchema,
])
export type RunRecord = v.InferOutput<typeof recordSchema>

/** What the machine can say about an order from its own disk. */
export const ORDER_EVIDENCE = ['inbox', 'claimed', 'latched', 'ended', 'void', 'refused'] as const
export type OrderEvidence = (typeof ORDER_EVIDENCE)[number]
