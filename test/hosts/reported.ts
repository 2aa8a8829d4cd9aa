/**
 * The health report of a machine that stopped a line, asked for as a person does: its SUMMARY.md must name the cause,
 * with the line that says so and the next command. Called where the scenarios of booted hosts fail on purpose.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Status } from '../../protocol/status.ts'
import { machineIn } from './scenario.ts'
import type { HostSite } from './site.ts'

export type Reported = { readonly summary: string; readonly file: (name: string) => string; readonly next: string }

export async function checkReport(t: Test, site: HostSite, held: Status, name: string): Promise<Reported> {
  const folder = mkdtempSync(join(tmpdir(), 'smith-report-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const { status, stderr } = await site.smith('report', name, '--output', folder)
  t.equal(status, 0, stderr)
  t.same(readdirSync(folder), [name])
  if (stderr.includes('no report') || !readdirSync(join(folder, name)).includes('run.txt'))
    t.fail(`the machine gave none: ${stderr}\n${(await site.host(name).journal('smith-report')).slice(-1000)}`)
  const read = (file: string) => readFileSync(join(folder, name, file), 'utf8')
  const summary = read('SUMMARY.md')
  const machine = machineIn(held, name)
  const where = machine.step === null ? 'before its run' : `at ${machine.step}`
  t.match(summary.split('\n')[0], `# ${name}: failed ${where} (${machine.cause})`)
  t.match(summary, `**Cause (${machine.cause})**: ${(machine.message ?? '').slice(0, 100)}`)
  for (const line of machine.evidence.slice(0, 3)) t.match(summary, `    ${line.slice(0, 100)}`)
  for (const text of machine.advice) t.match(summary, `- ${text}`)
  // The last of what is to be done is the command that lifts the stop.
  const next = /\*\*Next\*\*:\n\n(?:- .*\n)*?- `(smith .*)`\n/.exec(summary)?.[1] ?? ''
  t.equal(next, held.stop?.lift, summary)
  for (const file of readdirSync(join(folder, name)))
    if (file !== 'SUMMARY.md') t.match(summary, `- \`${file}\`: `, 'each file is told what it is')
  return { summary, file: read, next }
}
