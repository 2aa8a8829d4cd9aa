/**
 * What the bot says about projects and machines, in the words of the runbook where it has some. Pure: from the
 * status, the plan and the facts of the feed to Slack's text.
 */
import { unreachable } from '../../protocol/errors.ts'
import type { PlanView } from '../../protocol/http.ts'
import type { MachineStatus, Status } from '../../protocol/status.ts'
import { planLines } from '../client/plan-text.ts'
import { countText, spanText } from '../client/text.ts'
import { TEXT_MAX, code, codeBlock, cutEnd, escaped, timeText } from './markup.ts'

const bare = (text: string) => text
const NO_PAINT = { bad: bare, good: bare, warn: bare, busy: bare, strong: bare, faint: bare }

export const RAISING = 'Raising a new change request.'
export const raisedText = (change: string) => `Change request raised: ${code(change)} waiting for approval`
export const tryingText = (instance: string) =>
  `Master, I'm trying to get patch status from smith instance in ${escaped(instance)}`
export const notHereText = (change: string, instance: string) =>
  `project ${code(change)} not running in smith instance in ${escaped(instance)}`
export const lostText = (instance: string, why: string) =>
  `smith instance in ${escaped(instance)} is out of reach, so I can't say whether it is there: ${escaped(why)}`
export function editedText(before: string | null): string {
  const heard = before === null ? 'as it was first sent' : `as it was first sent: ${code(cutEnd(before, 500))}`
  return `You edited a message. I take each one ${heard}, and an edit changes nothing. To have the new text done, send it as a new message.`
}

/** One run as the log channel tells it, kept in the ledger while facts come in. */
export type Run = {
  readonly instance: string
  readonly change: string
  readonly machine: string
  readonly order: string
  readonly grantedAt: number
  readonly steps: readonly (readonly [step: string, at: number])[]
  readonly end: { readonly state: string; readonly reason: string; readonly at: number } | null
}

export function runTitle(run: Run): string {
  const last = run.steps.at(-1)?.[0]
  const state =
    run.end === null
      ? last === undefined
        ? 'granted'
        : `at work: ${last}`
      : `${run.end.state} after ${spanText(run.end.at - run.grantedAt)}`
  return `*${escaped(run.machine)}* | ${state} | ${code(run.change)} | ${escaped(run.instance)}`
}

export function runSteps(run: Run): string {
  const lines = run.steps.map(([step, at]) => `${timeText(at)} ${escaped(step)}`)
  const end = run.end === null ? [] : [`${timeText(run.end.at)} *${run.end.state}* ${escaped(run.end.reason)}`]
  return cutEnd([`${timeText(run.grantedAt)} granted`, ...lines, ...end].join('\n'))
}

export function machineOf(status: Status | null, order: string): MachineStatus | null {
  const machines = status?.phases.flatMap((phase) => phase.bags.flatMap((bag) => bag.machines)) ?? []
  return machines.find((machine) => machine.order === order) ?? null
}

/** The decisive lines of a failure, and what to do about it. */
export function failureText(machine: MachineStatus | null, reason: string, cause: string | null): string {
  const why = cause === null ? reason : `${reason} (${cause})`
  const lines = [...(machine?.evidence ?? []), ...(machine?.advice ?? []).map((line) => `do: ${line}`)]
  return lines.length === 0 ? escaped(why) : `${escaped(why)}\n${codeBlock(lines, 2800)}`
}

/** For whoever asked: what stopped their project and what lifts it. */
export function troubleText(change: string, facts: readonly string[], lift: string | null): string {
  const lines = [`${code(change)} needs you:`, ...facts.map((line) => escaped(line))]
  // A link within the marks of code is none.
  if (lift !== null && lift !== '') lines.push(`Lift: ${/https?:\/\//.test(lift) ? escaped(lift) : code(lift)}`)
  return cutEnd(lines.join('\n'))
}

export function finishedText(status: Status): string {
  const { pass, fail, unstarted, unknown, skipped, cancelled } = status.totals
  const parts = Object.entries({ pass, fail, unstarted, unknown, skipped, cancelled }).filter(([, count]) => count > 0)
  const counts = parts.map(([name, count]) => `${name} ${count}`).join(', ')
  const time = status.closedAt === null ? '' : ` after ${spanText(status.closedAt - status.createdAt)}`
  return `${code(status.change ?? '')} is ${wordFor(status.state)}${time}: ${counts === '' ? 'nothing was to do' : counts}`
}

function wordFor(state: Status['state']): string {
  switch (state) {
    case 'complete':
      return '`complete`'
    case 'failed':
      return '`failed`'
    case 'cancelled':
      return '`cancelled`'
    case 'pending':
    case 'waiting':
    case 'running':
    case 'held':
      return `\`${state}\``
    default:
      return unreachable(state)
  }
}

/** The number and the order of the machines, before a change is raised for them. */
export function confirmText(plan: PlanView, outage: number): string {
  const names = plan.machines.map((machine, index) => `${index + 1}. ${escaped(machine.name)}`)
  const head = `*${countText(names.length, 'machine')}, one after another*, with build ${code(plan.build)} in ${escaped(plan.region)}, outage ${outage} minutes each:`
  const skipped = plan.skipped.map((one) => `left out: ${escaped(one.name)} (${escaped(one.reason)})`)
  const terms = plan.terms.map(escaped)
  return cutEnd([head, ...terms, ...names, ...skipped].join('\n'), 2900)
}

export function planText(plan: PlanView): string {
  return `${planLines(plan, NO_PAINT).join('\n')}\n`
}

/** The plan as far as a message takes it, its digest always. */
export function planBlock(plan: PlanView, max = TEXT_MAX): string {
  const lines = planLines(plan, NO_PAINT)
  return `${codeBlock(lines.slice(0, -2), max - 120)}\nDigest: ${code(plan.digest)}`
}

export function helpText(name: string, instances: readonly string[]): string {
  return `I'm ${escaped(name)}. I ask smith (${instances.map(escaped).join(', ')}) for you, in a direct message or when you mention me:
\`smith-patch prod machines: prod-dal10-carrier3-worker-* outage:0\`  raises a change request
\`smith-plan prod machines: prod-dal10-carrier3-worker-11 outage:0\`  shows what it would do, and raises nothing
\`smith-plan CHG0268453\`  the plan of a change
\`smith-status CHG0268453\`  how far it is, what failed and why; \`smith-status\` lists all
\`smith-logs CHG0268453 MACHINE\`  the end of its log, and all of it as a file
\`smith-pause CHG0268453\`, \`smith-resume CHG0268453\`, \`smith-cancel CHG0268453 REASON\`
\`smith-retry CHG0268453 MACHINE\`, \`smith-skip CHG0268453 MACHINE REASON\`
\`instance:NAME\` behind any of them asks that instance alone.`
}
