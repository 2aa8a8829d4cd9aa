/** Who did what: the acts of the journal as they are listed, and what came of checking its chain of hashes. */
import * as v from 'valibot'
import { FACTS } from './feed.ts'
import { countSchema, instantSchema, sha256Schema } from './ids.ts'

const word = v.nullable(v.string())

/** `who` as in the feed's `actor`; `rev` is the journal's row. */
export const actSchema = v.strictObject({
  rev: countSchema,
  at: instantSchema,
  who: v.string(),
  what: v.picklist(FACTS),
  change: word,
  machine: word,
  /** What else is known of it: the request's words, the roles given, a state. */
  about: word,
  reason: word,
})
export type Act = v.InferOutput<typeof actSchema>
const asked = v.optional(v.string())
/** Instants in milliseconds; `before` is a row, and whole names. */
export const auditQuerySchema = v.strictObject({
  ...{ before: asked, limit: asked, since: asked, until: asked },
  ...{ person: asked, change: asked, machine: asked },
})
export const auditVerifyQuerySchema = v.strictObject({ head: asked })
/** The newest first. `next` is the `before` of the page after this one, null at the end; a page may be empty before. */
export const auditPageSchema = v.strictObject({ acts: v.array(actSchema), next: v.nullable(countSchema) })

/** `known` is the row whose head was given. Without problems the chain is whole up to its head. */
export const auditVerdictSchema = v.strictObject({
  rows: countSchema,
  head: v.strictObject({ rev: countSchema, hash: sha256Schema }),
  known: v.nullable(countSchema),
  problems: v.array(v.strictObject({ rev: countSchema, text: v.string() })),
})
export type AuditVerdict = v.InferOutput<typeof auditVerdictSchema>

/** The same words from the CLI and from the coordinator's own program. */
export function verdictLines({ rows, head, known, problems }: AuditVerdict): string[] {
  const count = `${rows} ${rows === 1 ? 'row' : 'rows'}`
  if (problems.length > 0)
    return [
      `The journal was changed (${count} looked at):`,
      ...problems.map(({ rev, text }) => `  row ${rev}: ${text}`),
      `Compare with another backup: smith audit verify FILE. Its newest row is ${head.rev}, head ${head.hash}`,
    ]
  const since = known === null ? [] : [`The head that was given is row ${known}; ${head.rev - known} came after it.`]
  return [
    `Whole: ${count}, none was edited, removed or moved.`,
    ...since,
    `Head: ${head.hash}`,
    'Keep it elsewhere: with --head a later check sees whether rows are gone at the end.',
  ]
}
