/** What the dashboard asks for beside the rest of the interface: a session in a browser, what goes now, and a search. */
import * as v from 'valibot'
import { countSchema, idSchema, instantSchema } from './ids.ts'
import { elsewhereSchema, holderSchema, stopSchema } from './status.ts'

/** A personal token for a session; its cookie is in the answer's headers and nowhere else. */
export const sessionBodySchema = v.strictObject({ token: v.pipe(v.string(), v.maxLength(100)) })
export const sessionEndedSchema = v.strictObject({ ended: v.literal(true) })

/** All that is open, in one answer whose size does not grow with the machines of a project or with the past. */
export const overviewSchema = v.strictObject({
  instance: v.string(),
  at: instantSchema,
  rev: countSchema,
  frozen: v.nullable(v.strictObject({ by: v.string(), reason: v.string(), at: instantSchema })),
  troubles: v.array(v.string()),
  /** Each cluster that somebody has now. */
  lines: v.array(holderSchema),
  projects: v.array(
    v.strictObject({
      change: v.nullable(v.string()),
      state: v.string(),
      title: v.string(),
      build: v.string(),
      region: v.string(),
      requester: v.string(),
      approvedBy: v.nullable(v.string()),
      createdAt: instantSchema,
      digest: v.string(),
      totals: v.record(v.string(), countSchema),
      stop: v.nullable(stopSchema),
      holder: v.nullable(holderSchema),
      elsewhere: v.optional(elsewhereSchema),
    }),
  ),
  /** Those whose machines still plan, or whose change is being raised. */
  requests: v.array(
    v.strictObject({
      request: idSchema,
      text: v.string(),
      by: v.string(),
      at: instantSchema,
      state: v.string(),
      planned: countSchema,
      total: countSchema,
    }),
  ),
  machines: v.record(v.picklist(['enrolled', 'online', 'rebootPending', 'impeded']), countSchema),
})
export type Overview = v.InferOutput<typeof overviewSchema>

/** The numbers of records that hold the text, of those up to `scannedUpTo`: a search goes on behind it. */
export const logSearchSchema = v.strictObject({
  matches: v.array(countSchema),
  scannedUpTo: countSchema,
  upTo: countSchema,
})
export type LogSearch = v.InferOutput<typeof logSearchSchema>
