/** What the interface says about recurring requests. */
import * as v from 'valibot'
import { idSchema, instantSchema } from './ids.ts'

/** Also the key of its row and a word on a command line. */
export const SCHEDULE_NAME_PATTERN = /^[a-z0-9][a-z0-9-]{0,62}$/
const name = v.pipe(v.string(), v.regex(SCHEDULE_NAME_PATTERN))
export const scheduleAddBodySchema = v.strictObject({
  name,
  cron: v.pipe(v.string(), v.minLength(1), v.maxLength(200)),
  text: v.pipe(v.string(), v.minLength(1), v.maxLength(16_384)),
})
export const scheduleNameBodySchema = v.strictObject({ name })
/** One time of a schedule. `reasons` say why nothing was asked for, or why what was asked for was refused. */
export const firingViewSchema = v.strictObject({
  at: instantSchema,
  by: v.string(),
  outcome: v.picklist(['planning', 'raised', 'refused', 'skipped', 'missed']),
  request: v.nullable(idSchema),
  change: v.nullable(v.string()),
  reasons: v.array(v.string()),
})
export const scheduleViewSchema = v.strictObject({
  name: v.string(),
  cron: v.string(),
  timezone: v.string(),
  text: v.string(),
  by: v.string(),
  createdAt: instantSchema,
  next: v.nullable(instantSchema),
  /** The newest last. */
  firings: v.array(firingViewSchema),
})
export type ScheduleView = v.InferOutput<typeof scheduleViewSchema>
export const scheduleListSchema = v.strictObject({ schedules: v.array(scheduleViewSchema) })
