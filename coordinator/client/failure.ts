/**
 * How a client ends when it can't do what was asked, and how that is shown: exit status 0 done, 1 refused or failed,
 * 2 usage, 3 coordinator out of reach; on stderr one line what and one line what to do. Thrown anywhere in the
 * CLI, caught once, in program.ts.
 */
import type * as v from 'valibot'
import { RefusedError, type refusalSchema } from '../../protocol/errors.ts'
import { caretLines, visible } from './text.ts'

export const EXIT = { done: 0, refused: 1, usage: 2, unreachable: 3 } as const
export type ExitStatus = (typeof EXIT)[keyof typeof EXIT]
export type ShownRefusal = v.InferOutput<typeof refusalSchema>

/** An end with a status of its own; refusals of the coordinator travel as RefusedError. */
export class ClientError extends Error {
  readonly status: ExitStatus
  readonly remedy: string
  constructor(status: ExitStatus, what: string, remedy: string, cause?: unknown) {
    super(what, cause === undefined ? undefined : { cause })
    this.name = 'ClientError'
    this.status = status
    this.remedy = remedy
  }
}

export function usageError(what: string, remedy: string): ClientError {
  return new ClientError(EXIT.usage, what, remedy)
}

export function isUnreachable(error: unknown): error is ClientError {
  return error instanceof ClientError && error.status === EXIT.unreachable
}

/** True when the coordinator said that it doesn't know what was asked for. */
export function isNotFound(error: unknown): boolean {
  return error instanceof RefusedError && error.refusals.every((refusal) => refusal.kind === 'not-found')
}

export type Paint = {
  readonly bad: (text: string) => string
  readonly good: (text: string) => string
  readonly warn: (text: string) => string
  readonly busy: (text: string) => string
  readonly strong: (text: string) => string
  readonly faint: (text: string) => string
}

/** What, the place in the asked text when there is one, and what to do. */
export function refusalLines(
  refusal: ShownRefusal,
  view: { readonly asked: string | null; readonly columns: number; readonly paint: Paint },
): string[] {
  const lines = [`${view.paint.bad('error:')} ${visible(refusal.message)}`]
  if (refusal.position !== undefined && view.asked !== null) {
    const [text, caret] = caretLines(view.asked, refusal.position, view.columns - 4)
    lines.push(`    ${text}`, `    ${view.paint.bad(caret)}`)
  }
  lines.push(`   ${view.paint.strong('do:')} ${visible(refusal.remedy)}`)
  return lines
}

/** The lines for stderr and the exit status of anything that was thrown. */
export function failureOf(
  error: unknown,
  view: { readonly asked: string | null; readonly columns: number; readonly paint: Paint },
): { readonly status: number; readonly lines: string[] } {
  if (error instanceof RefusedError) {
    return { status: EXIT.refused, lines: error.refusals.flatMap((refusal) => refusalLines(refusal, view)) }
  }
  const what = error instanceof Error ? error.message : String(error)
  const known = error instanceof ClientError
  const remedy = known ? error.remedy : 'This is a defect of smith: report it with the command that you typed.'
  const lines = [`${view.paint.bad('error:')} ${visible(what)}`, `   ${view.paint.strong('do:')} ${visible(remedy)}`]
  return { status: known ? error.status : EXIT.refused, lines }
}
