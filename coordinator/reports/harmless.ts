/**
 * What a machine sent, made harmless before anything else sees it. Root makes a report without secrets and without what
 * acts on a terminal, but its unprivileged half carries it and may have put another in its place: so both are done again
 * here, and no field of one line can begin a section of `SUMMARY.md` of its own. Pure.
 */
import { createCleaner, withHits } from '../../protocol/cleaning.ts'
import { type MachineReport, REPORT_BYTES_MAX, REPORT_FILE_BYTES_MAX } from '../../protocol/report.ts'

const RULES_MAX = 60

export function harmless(report: MachineReport): MachineReport {
  const clean = createCleaner()
  const { run, findings, files, redacted } = report
  const cleaned = {
    run: run === null ? null : clean.run(run),
    findings: findings.map(({ text, evidence, next }) => ({
      text: clean.line(text),
      evidence: evidence === null ? null : clean.line(evidence),
      next: next === null ? null : clean.line(next),
    })),
    files: files.map(({ name, what, text }) => ({
      name,
      what: clean.line(what),
      text: clean.text(text).slice(0, REPORT_FILE_BYTES_MAX),
    })),
  }
  const rules = Object.entries(redacted).filter(([rule]) => /^[a-z0-9-]{1,40}$/.test(rule))
  return { ...report, ...cleaned, redacted: withHits(Object.fromEntries(rules.slice(0, RULES_MAX)), clean.hits) }
}

export function cleanLine(text: string): string {
  return createCleaner().line(text)
}

/** Root makes none of more text than this; what costs time to look through is not taken from anybody else. */
export function isTooLarge({ files }: MachineReport): boolean {
  return files.reduce((sum, file) => sum + Buffer.byteLength(file.text), 0) > REPORT_BYTES_MAX
}
