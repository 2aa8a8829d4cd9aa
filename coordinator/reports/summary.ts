/** `SUMMARY.md` of a health report, written from the report alone, so that every reader sees the same. Pure. */
import type { Finding, MachineReport } from '../../protocol/report.ts'

export type SummaryGiven = {
  readonly machine: string
  /** What the coordinator would have a person type for the stop of the line, where there is one. */
  readonly lift: string | null
  /** Why there is nothing of the machine itself. */
  readonly problem: string | null
}

/** `SUMMARY.md`: cause, its evidence, the next command, and then the rest. */
export function summaryOf(report: MachineReport, { machine, lift, problem }: SummaryGiven): string {
  const { run, findings } = report
  const parts = [
    `# ${machine}: ${titleOf(report, problem)}`,
    ...(problem === null ? [] : [`**Not from the machine**: ${problem}`]),
    ...causeOf(report, lift),
    ...(findings.length === 0
      ? []
      : [
          run?.outcome === 'failed' || problem !== null ? '## Seen besides' : '## Seen',
          findings.map(findingText).join('\n'),
        ]),
    ...(report.files.length === 0
      ? []
      : ['## Files', report.files.map((file) => `- \`${file.name}\`: ${file.what}`).join('\n')]),
    footOf(report),
  ]
  return `${parts.join('\n\n')}\n`
}

function titleOf({ run, findings }: MachineReport, problem: string | null): string {
  if (run === null) return findings.length === 0 && problem === null ? 'nothing found' : (problem ?? 'no run here yet')
  const at = run.step === null ? 'before its run' : `at ${run.step}`
  if (run.outcome === null) return run.step === null ? 'waits for its run' : `a run is at work, ${at}`
  if (run.outcome === 'failed') return `failed ${at} (${run.cause ?? 'no cause'})`
  return run.outcome === 'succeeded' ? 'the last run succeeded' : `the last run is ${run.outcome}`
}

function causeOf({ run }: MachineReport, lift: string | null): string[] {
  if (run === null) return []
  const isEnd = run.outcome !== null
  const evidence = run.evidence.map((line) => `    ${line}`)
  const next = [...run.advice.map((text) => `- ${text}`), ...(lift === null ? [] : [`- \`${lift}\``])]
  return [
    `**${isEnd && run.outcome !== 'succeeded' ? `Cause (${run.cause ?? 'none'})` : 'Run'}**: ${run.message}`,
    ...(evidence.length === 0 ? [] : [`**Evidence**:\n\n${evidence.join('\n')}`]),
    ...(next.length === 0 ? [] : [`**Next**:\n\n${next.join('\n')}`]),
    `${run.order === null ? 'No order' : `Order ${run.order}`}${run.change === null ? '' : ` of ${run.change}`}, ${isEnd ? 'ended' : 'last heard of'} ${new Date(run.at).toISOString()}.`,
  ]
}

function findingText({ text, evidence, next }: Finding): string {
  return [
    `- ${text}`,
    ...(evidence === null ? [] : [`  - seen: ${evidence}`]),
    ...(next === null ? [] : [`  - next: \`${next}\``]),
  ].join('\n')
}

function footOf({ at, tookMs, redacted }: MachineReport): string {
  const hits = Object.entries(redacted)
  const taken =
    hits.length === 0
      ? 'No secret was met.'
      : `Secrets taken out: ${hits.map(([rule, n]) => `${rule} ${n}`).join(', ')}.`
  return `Made ${new Date(at).toISOString()} in ${(tookMs / 1000).toFixed(1)} s. ${taken}`
}
