/** What the interface says of the coordinator's own log. */
import * as v from 'valibot'
import { countSchema, instantSchema } from './ids.ts'

export const SERVICE_LEVELS = ['debug', 'info', 'warn', 'error'] as const
/** `n` rises, also over restarts. `fields` is what belongs to the message, as texts of a bounded length. */
export const serviceRecordSchema = v.strictObject({
  n: countSchema,
  at: instantSchema,
  level: v.picklist(SERVICE_LEVELS),
  message: v.string(),
  change: v.nullable(v.string()),
  machine: v.nullable(v.string()),
  fields: v.record(v.string(), v.string()),
})
export type ServiceRecord = v.InferOutput<typeof serviceRecordSchema>
/** A page: those after `after` that were asked for. `upTo` is where the next page begins after. */
export const serviceLogSchema = v.strictObject({
  records: v.array(serviceRecordSchema),
  upTo: countSchema,
  /** True when nothing newer is there. */
  ended: v.boolean(),
  /** Why the records are not kept over a restart; null when they are. */
  trouble: v.nullable(v.string()),
})
export type ServiceLogPage = v.InferOutput<typeof serviceLogSchema>
