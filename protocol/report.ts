/**
 * The health report of a machine: what its root half puts together from a fixed list, bounded and without secrets,
 * and how the coordinator shows it.
 */
import * as v from 'valibot'
import { CAUSES, STEPS } from './files.ts'
import { changeNumberSchema, countSchema, idSchema, instantSchema, shortTextSchema } from './ids.ts'

/** Of one file, and of all of them, in bytes of UTF-8. */
export const REPORT_FILE_BYTES_MAX = 524_288
export const REPORT_BYTES_MAX = 4_194_304
/** Of the report as it travels (gzip of its JSON), and of one part of it. */
export const REPORT_PACKED_BYTES_MAX = 6_291_456
export const REPORT_PART_BYTES_MAX = 262_144
/** Of the JSON of a report, whose texts may need an escape for each character. */
export const REPORT_JSON_BYTES_MAX = 33_554_432

export const REPORT_FILE_PATTERN = /^[a-z0-9][a-z0-9-]{0,40}\.(?:txt|log)$/
const quoted = v.pipe(v.array(v.pipe(v.string(), v.maxLength(2000))), v.maxLength(40))

/** Something that a person should know, with the line that says so and what to type next. */
export const findingSchema = v.strictObject({
  text: shortTextSchema,
  evidence: v.nullable(v.pipe(v.string(), v.maxLength(2000))),
  next: v.nullable(shortTextSchema),
})
export type Finding = v.InferOutput<typeof findingSchema>

/**
 * The newest run of the machine. `outcome` is null while it is at work; `order` and `step` are null where the machine
 * failed before it was granted one, which only the coordinator knows.
 */
export const reportedRunSchema = v.strictObject({
  order: v.nullable(idSchema),
  change: v.nullable(changeNumberSchema),
  step: v.nullable(v.picklist(STEPS)),
  outcome: v.nullable(v.picklist(['succeeded', 'failed', 'unknown', 'void'])),
  cause: v.nullable(v.picklist(CAUSES)),
  message: shortTextSchema,
  evidence: quoted,
  advice: quoted,
  at: instantSchema,
})
export type ReportedRun = v.InferOutput<typeof reportedRunSchema>

export const machineReportSchema = v.strictObject({
  at: instantSchema,
  tookMs: countSchema,
  run: v.nullable(reportedRunSchema),
  findings: v.pipe(v.array(findingSchema), v.maxLength(60)),
  files: v.pipe(
    v.array(
      v.strictObject({
        name: v.pipe(v.string(), v.regex(REPORT_FILE_PATTERN)),
        what: shortTextSchema,
        text: v.pipe(v.string(), v.maxLength(REPORT_FILE_BYTES_MAX)),
      }),
    ),
    v.maxLength(60),
    v.check((files) => new Set(files.map((file) => file.name)).size === files.length, 'a name stands twice'),
  ),
  /** How often each rule took a secret out. */
  redacted: v.record(v.pipe(v.string(), v.maxLength(40)), countSchema),
})
export type MachineReport = v.InferOutput<typeof machineReportSchema>

/** How a report stands, as the interface shows it. `summary` is SUMMARY.md; the files are asked for one by one. */
export const reportViewSchema = v.strictObject({
  report: idSchema,
  machine: v.string(),
  state: v.picklist(['waiting', 'collecting', 'done']),
  by: v.string(),
  askedAt: instantSchema,
  order: v.nullable(idSchema),
  change: v.nullable(v.string()),
  /** Parts that have come, of how many; null before the first. */
  parts: v.nullable(v.strictObject({ have: countSchema, of: countSchema })),
  /** Why it has nothing of the machine itself; null when it has. */
  problem: v.nullable(v.string()),
  summary: v.nullable(v.string()),
  files: v.array(v.strictObject({ name: v.string(), what: v.string(), bytes: countSchema })),
})
export type ReportView = v.InferOutput<typeof reportViewSchema>
export const reportFileSchema = v.strictObject({ name: v.string(), text: v.string() })
