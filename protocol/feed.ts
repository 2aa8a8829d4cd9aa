/**
 * The feed: everything that happened, one row per turn of the coordinator, numbered by `rev` without a gap. Log
 * lines appear by reference (order, from, upTo), never by content. Subprotocol `smith.feed.v1`; the client says
 * where to begin in the query: `/feed?since=REV&epoch=EPOCH`.
 */
import * as v from 'valibot'
import { CAUSES, STEPS } from './files.ts'
import { countSchema, idSchema, instantSchema, shortTextSchema } from './ids.ts'

export const FEED_SUBPROTOCOL = 'smith.feed.v1'

/** What happened; past tense, stable names. */
export const FACTS = [
  'requestMade',
  'requestRefused',
  'planMade',
  'planRefused',
  'requestPreviewed',
  'projectMade',
  'changeRaised',
  'changeDecided',
  'changeApproved',
  'changeRejected',
  'changeWithdrawn',
  'changeClosed',
  'taskMoved',
  'driftFound',
  'phaseOpened',
  'orderOffered',
  'orderReady',
  'orderGranted',
  'orderVoided',
  'stepStarted',
  'logAppended',
  'orderSilent',
  'orderUnknown',
  'orderHeard',
  'orderSucceeded',
  'orderFailed',
  'machineSkipped',
  'machineCancelled',
  'machineResolved',
  'machinePassed',
  'retryAsked',
  'lineTaken',
  'lineFreed',
  'stopSet',
  'stopLifted',
  'paused',
  'resumed',
  'cancelAsked',
  'projectClosed',
  'frozen',
  'unfrozen',
  'machineEnrolled',
  'machineRetired',
  'machineConnected',
  'machineDisconnected',
  'machineQuarantined',
  'enrolmentMade',
  'enrolmentRevoked',
  'userAdded',
  'userRevoked',
  'scheduleMade',
  'scheduleRemoved',
  'scheduleFired',
  'scheduleRefused',
  'scheduleSkipped',
  'scheduleMissed',
  'instanceOpened',
  'evidenceRecorded',
  'rightRefused',
  'backupMade',
  'reportAsked',
  'reportMade',
  'loggedIn',
  'loggedOut',
] as const
export type FactName = (typeof FACTS)[number]

const text = v.optional(shortTextSchema)
export const factSchema = v.strictObject({
  fact: v.picklist(FACTS),
  change: text,
  project: v.optional(idSchema),
  request: v.optional(idSchema),
  machine: text,
  machineId: v.optional(idSchema),
  order: v.optional(idSchema),
  fence: v.optional(countSchema),
  line: text,
  step: v.optional(v.picklist(STEPS)),
  from: v.optional(countSchema),
  upTo: v.optional(countSchema),
  state: text,
  cause: v.optional(v.picklist(CAUSES)),
  reason: text,
  lift: text,
  text,
})
export type Fact = v.InferOutput<typeof factSchema>

/** `actor` is a person's name (`ann via igorina` when a bot spoke for her), `local-admin`, a machine's name, `change` or `smith` itself. */
export const feedRowSchema = v.strictObject({
  rev: v.pipe(countSchema, v.minValue(1)),
  at: instantSchema,
  actor: shortTextSchema,
  facts: v.array(factSchema),
})
export type FeedRow = v.InferOutput<typeof feedRowSchema>

/** `resumed: false` says that the epoch asked for is gone (a restored database): what the client holds is void. */
export const feedFrameSchema = v.variant('t', [
  v.strictObject({
    t: v.literal('hello'),
    instance: shortTextSchema,
    epoch: idSchema,
    rev: countSchema,
    resumed: v.boolean(),
  }),
  v.strictObject({ t: v.literal('row'), row: feedRowSchema }),
])
export type FeedFrame = v.InferOutput<typeof feedFrameSchema>
