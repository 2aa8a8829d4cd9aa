/** Takes the secrets out of the parts of a health report, all counted together, and makes them harmless to show. Pure. */
import { redact } from './redact.ts'
import type { ReportedRun } from './report.ts'
import { visible } from './visible.ts'

export type Cleaner = {
  /** How often each rule took a secret out, up to now. */
  readonly hits: Readonly<Record<string, number>>
  /** A text of one line, and one of several. */
  readonly line: (text: string) => string
  readonly text: (text: string) => string
  readonly run: (run: ReportedRun) => ReportedRun
}

const LINE_CHARACTERS_MAX = 2000
const QUOTED_LINES_MAX = 40

/** Secrets go first: half a secret matches no rule, and neither does one with an escape shown in it. */
export function createCleaner(literals: readonly string[] = []): Cleaner {
  const hits: Record<string, number> = {}
  const without = (text: string) => {
    const redacted = redact(text, literals)
    for (const [rule, n] of Object.entries(redacted.hits)) hits[rule] = (hits[rule] ?? 0) + n
    return redacted.text
  }
  const short = (text: string) => visible(text).slice(0, LINE_CHARACTERS_MAX)
  const line = (text: string) => short(without(text))
  /** Quoted lines stand together: a key is known by its first and its last. */
  const lines = (all: readonly string[]) =>
    all.length === 0 ? [] : without(all.join('\n')).split('\n').map(short).slice(0, QUOTED_LINES_MAX)
  return {
    hits,
    line,
    text: (text) =>
      without(text)
        .split('\n')
        .map((one) => visible(one.replace(/\r$/, '')))
        .join('\n'),
    run: (run) => ({ ...run, message: line(run.message), evidence: lines(run.evidence), advice: lines(run.advice) }),
  }
}

/** Both counted together. */
export function withHits(
  hits: Readonly<Record<string, number>>,
  more: Readonly<Record<string, number>>,
): Record<string, number> {
  const all = { ...hits }
  for (const [rule, n] of Object.entries(more)) all[rule] = (all[rule] ?? 0) + n
  return all
}
