/**
 * The words of a change: what those who approve it read, short in its columns and whole in its attachment. Pure. A text
 * that a column can't hold is cut at a line, and says where the rest is.
 */
import type { ChangeCall } from '../../domain/events.ts'
import { type Plan, isEmptyPlan } from '../../../protocol/plan.ts'
import type { ServiceNowSettings } from './settings.ts'

export type RaiseCall = Extract<ChangeCall, { call: 'raise' }>
/** Each machine of the change, in its order; null where nothing is planned since it is skipped. */
export type Planned = {
  readonly name: string
  readonly phase: number
  readonly bag: string
  readonly plan: Plan | null
  readonly note: string | null
}

const COLUMN_MAX = 4000
const SHORT_MAX = 160

export function cut(text: string, max: number = COLUMN_MAX, rest = '... (the rest is in the attachment)'): string {
  if (text.length <= max) return text
  const room = text.slice(0, max - rest.length - 1)
  const end = room.lastIndexOf('\n')
  return `${end > 0 ? room.slice(0, end) : room}\n${rest}`
}

/** Without what a column could take for markup or for a script. */
function plain(text: string): string {
  return text.replaceAll(/[^\P{Cc}\n]/gu, ' ').replace(/^javascript:/i, 'javascript :')
}

/** The whole plan: the attachment, and the source of what stands in the columns. */
export function planText(call: RaiseCall, planned: readonly Planned[]): string {
  const count = planned.filter((one) => one.plan !== null).length
  const lines = [
    call.summary,
    `Requested by ${call.requester}. ${count} machine${count === 1 ? '' : 's'}, one after another. Outage declared: ${call.outageMinutes} minutes for each.`,
    `Digest: ${call.digest}`,
    ...call.terms,
  ]
  const first = new Map<string, string>()
  for (const [index, one] of planned.entries()) {
    lines.push('', `${index + 1}. ${one.name} (phase ${one.phase}, bag ${one.bag})`)
    if (one.plan === null) lines.push(`   skipped${one.note === null ? '' : `: ${one.note}`}`)
    else lines.push(...actionLines(one.plan, one.name, first).map((line) => `   ${line}`))
  }
  if (call.warnings.length > 0) lines.push('', 'Warnings:', ...call.warnings.map((warning) => `- ${warning}`))
  return plain(`${lines.join('\n')}\n`)
}

function actionLines(plan: Plan, name: string, first: Map<string, string>): string[] {
  if (isEmptyPlan(plan)) return [plan.rebootDue ? 'nothing to install; a reboot is due' : 'nothing to install']
  const key = JSON.stringify(plan)
  const same = first.get(key)
  if (same !== undefined) return [`the same as ${same}`]
  first.set(key, name)
  return [
    ...plan.installs.map((one) => `${one.name}:${one.arch} ${one.from ?? '(new)'} -> ${one.version}`),
    ...plan.removes.map((one) => `remove ${one.name}:${one.arch} ${one.version}`),
    ...plan.repairs.map((one) => `repair ${one.name}:${one.arch} ${one.version} (${one.state})`),
    ...plan.holds.map((one) => `kept back by an apt hold: ${one}`),
    ...(plan.rebootDue ? ['a reboot is due'] : []),
  ]
}

export type Columns = Record<string, string>

export type ChangeFacts = {
  readonly call: RaiseCall
  readonly planned: readonly Planned[]
  readonly correlation: string
  readonly window: { readonly start: string; readonly end: string }
  readonly digestMark: string
  /** sys_id of the requester as a user of ServiceNow, null when it was not found. */
  readonly requestedBy: string | null
}

/** What the change is made with; the site's own fields come last and win. */
export function changeColumns(settings: ServiceNowSettings, facts: ChangeFacts): Columns {
  const { call, planned } = facts
  const warnings = call.warnings.length === 0 ? 'No warnings.' : call.warnings.map((one) => `- ${one}`).join('\n')
  const reboot =
    call.outageMinutes === 0
      ? 'No machine is rebooted.'
      : `A reboot that is due is done; each machine may be out for ${call.outageMinutes} minutes.`
  return {
    short_description: plain(call.summary).slice(0, SHORT_MAX),
    description: cut(
      plain(
        `${call.summary}\nRequested by ${call.requester} with smith.\nDigest: ${call.digest}\nOutage declared: ${call.outageMinutes} minutes for each machine.\n\nMachines, in order:\n${planned.map((one) => one.name).join('\n')}`,
      ),
    ),
    justification: `Security and maintenance updates from the build ${call.build}.`,
    implementation_plan: cut(planText(call, planned)),
    risk_impact_analysis: cut(
      plain(
        `${reboot}\nMachines are patched one after another; a failure stops the change before the next machine.\n${warnings}`,
      ),
    ),
    backout_plan: cut(
      'A failure stops the change. What is not patched yet stays as it is. Packages are repaired or put back by hand from the log that smith keeps of each run.',
    ),
    test_plan: cut(
      "After each machine smith compares installed versions with the plan, looks at services, ports and failed units as before, and runs the site's own checks.",
    ),
    start_date: facts.window.start,
    end_date: facts.window.end,
    assignment_group: settings.assignmentGroup,
    correlation_id: facts.correlation,
    correlation_display: facts.digestMark,
    ...(facts.requestedBy === null ? {} : { requested_by: facts.requestedBy }),
    ...filled(settings.fields, call),
  }
}

export function taskColumns(
  settings: ServiceNowSettings,
  call: RaiseCall,
  bag: { readonly name: string; readonly machines: readonly string[] },
  correlation: string,
): Columns {
  return {
    short_description: `Patch ${bag.name}`.slice(0, SHORT_MAX),
    description:
      cut(plain(`${bag.machines.join('\n')}\n`), COLUMN_MAX - 200, '... (the rest is with the change)') +
      `\n[${correlation}]`,
    change_task_type: 'implementation',
    assignment_group: settings.assignmentGroup,
    correlation_id: correlation,
    ...filled(settings.taskFields, call),
  }
}

export const PLACEHOLDERS = ['outage', 'build', 'requester', 'digest', 'summary', 'machines'] as const

/** The site's own fields with what is known of the request in the place of `{outage}` and the like. */
function filled(fields: Readonly<Record<string, string>>, call: RaiseCall): Columns {
  const values: Record<(typeof PLACEHOLDERS)[number], string> = {
    outage: String(call.outageMinutes),
    build: call.build,
    requester: call.requester,
    digest: call.digest,
    summary: call.summary,
    machines: call.bags.flatMap((bag) => bag.machines).join('\n'),
  }
  return Object.fromEntries(
    Object.entries(fields).map(([column, text]) => [
      column,
      cut(
        plain(
          text.replaceAll(/\{([a-z]+)\}/g, (whole, name: string) =>
            Object.hasOwn(values, name) ? values[name as keyof typeof values] : whole,
          ),
        ),
      ),
    ]),
  )
}

/** When the change is planned: its request's window, else from now on for as long as the configuration says. */
export function plannedWindow(
  call: RaiseCall,
  settings: ServiceNowSettings,
  at: number,
): { start: number; end: number } {
  return call.window ?? { start: at, end: at + settings.plannedMs }
}
