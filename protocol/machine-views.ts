/** What the HTTP interface shows of machines: those enrolled, and how they differ from a source that knows them all. */
import * as v from 'valibot'
import { factsSchema } from './agent.ts'
import { refusalSchema } from './errors.ts'
import { idSchema, instantSchema } from './ids.ts'

export const machineViewSchema = v.strictObject({
  id: idSchema,
  name: v.string(),
  online: v.boolean(),
  since: v.nullable(instantSchema),
  address: v.nullable(v.string()),
  cluster: v.string(),
  region: v.nullable(v.string()),
  facts: v.nullable(factsSchema),
  builds: v.array(v.string()),
  template: v.boolean(),
  impediment: v.nullable(refusalSchema),
  quarantined: v.nullable(v.string()),
  project: v.nullable(v.string()),
  lastPatchedAt: v.nullable(instantSchema),
  rebootPending: v.boolean(),
})
export type MachineView = v.InferOutput<typeof machineViewSchema>
/** `source` is null where what is enrolled is what there is. */
export const missingViewSchema = v.strictObject({
  source: v.nullable(v.string()),
  at: instantSchema,
  notEnrolled: v.array(v.strictObject({ name: v.string(), addresses: v.array(v.string()), id: v.string() })),
  notKnown: v.array(v.string()),
})
export type MissingView = v.InferOutput<typeof missingViewSchema>
export const machineListSchema = v.strictObject({ machines: v.array(machineViewSchema) })
