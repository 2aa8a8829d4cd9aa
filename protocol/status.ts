/** The shape of `smith status CHG --json`, the same over HTTP: an honest answer to "how far is it, what failed, why". */
import * as v from 'valibot'
import { CAUSES, STEPS } from './files.ts'
import { countSchema, instantSchema, shortTextSchema } from './ids.ts'

export const PROJECT_STATES = ['pending', 'waiting', 'running', 'held', 'complete', 'failed', 'cancelled'] as const
export type ProjectState = (typeof PROJECT_STATES)[number]
export const MACHINE_STATES = [
  'planned',
  'offered',
  'ready',
  'granted',
  'running',
  'rebooting',
  'verifying',
  'succeeded',
  'failed',
  'unknown',
  'skipped',
  'cancelled',
] as const
export type MachineState = (typeof MACHINE_STATES)[number]

/** What stops a line: `waiting` lifts itself, a `hold` is lifted by a person with the command in `lift`. */
export const STOP_REASONS = [
  'unknown',
  'failed',
  'drift',
  'frozen',
  'paused',
  'approval',
  'window',
  'soak',
  'change-on-hold',
  'change-provider',
  'cluster-busy',
  'offline',
  'checking',
] as const
export type StopReason = (typeof STOP_REASONS)[number]
export const stopSchema = v.strictObject({
  kind: v.picklist(['waiting', 'hold']),
  code: v.picklist(STOP_REASONS),
  reason: shortTextSchema,
  since: instantSchema,
  lift: shortTextSchema,
  machine: v.nullable(shortTextSchema),
  /** When a waiting lifts itself, where that is known. */
  until: v.nullable(instantSchema),
})
export type Stop = v.InferOutput<typeof stopSchema>

const stateSchema = v.picklist(PROJECT_STATES)
export const machineStatusSchema = v.strictObject({
  name: shortTextSchema,
  state: v.picklist(MACHINE_STATES),
  order: v.nullable(shortTextSchema),
  attempt: countSchema,
  step: v.nullable(v.picklist(STEPS)),
  progress: v.nullable(shortTextSchema),
  startedAt: v.nullable(instantSchema),
  endedAt: v.nullable(instantSchema),
  cause: v.nullable(v.picklist(CAUSES)),
  message: v.nullable(shortTextSchema),
  evidence: v.array(v.string()),
  advice: v.array(v.string()),
  reason: v.nullable(shortTextSchema),
  rebootPending: v.boolean(),
})
export type MachineStatus = v.InferOutput<typeof machineStatusSchema>

/** Who has the line on which the project stands: its own machine at work, or the one that it waits for. */
export const holderSchema = v.strictObject({
  line: shortTextSchema,
  change: v.nullable(shortTextSchema),
  requester: shortTextSchema,
  machine: shortTextSchema,
  order: shortTextSchema,
  state: v.picklist(MACHINE_STATES),
  since: instantSchema,
  step: v.nullable(v.picklist(STEPS)),
  stepAt: v.nullable(instantSchema),
})
export type Holder = v.InferOutput<typeof holderSchema>

/** The change at a provider outside smith: where a person sees it, and what keeps it from going on there. */
export const elsewhereSchema = v.strictObject({ link: shortTextSchema, troubles: v.array(shortTextSchema) })
export type Elsewhere = v.InferOutput<typeof elsewhereSchema>

export const statusSchema = v.strictObject({
  change: v.nullable(shortTextSchema),
  instance: shortTextSchema,
  build: shortTextSchema,
  region: shortTextSchema,
  title: shortTextSchema,
  requester: shortTextSchema,
  approvedBy: v.nullable(shortTextSchema),
  state: stateSchema,
  stop: v.nullable(stopSchema),
  holder: v.nullable(holderSchema),
  digest: v.string(),
  createdAt: instantSchema,
  closedAt: v.nullable(instantSchema),
  closeNotes: v.nullable(v.string()),
  elsewhere: v.optional(elsewhereSchema),
  /** Which source said which machines there are, and when, where one is configured. */
  lookup: v.optional(v.strictObject({ source: shortTextSchema, at: instantSchema })),
  totals: v.strictObject({
    pass: countSchema,
    fail: countSchema,
    unstarted: countSchema,
    running: countSchema,
    unknown: countSchema,
    skipped: countSchema,
    cancelled: countSchema,
  }),
  phases: v.array(
    v.strictObject({
      number: countSchema,
      name: v.string(),
      state: stateSchema,
      bags: v.array(
        v.strictObject({
          name: v.string(),
          task: v.nullable(v.string()),
          state: stateSchema,
          machines: v.array(machineStatusSchema),
        }),
      ),
    }),
  ),
})
export type Status = v.InferOutput<typeof statusSchema>
