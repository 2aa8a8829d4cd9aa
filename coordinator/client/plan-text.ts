/**
 * A plan as a person reads it before raising or approving: the machines in the order that will be kept, what changes
 * on each, and the digest. Pure. Two machines with the same plan are told so instead of repeating it.
 */
import type { PlanView } from '../../protocol/http.ts'
import type { Plan } from '../../protocol/plan.ts'
import { isEmptyPlan } from '../../protocol/plan.ts'
import type { Paint } from './failure.ts'
import { countText, sizeText, tableLines, visible } from './text.ts'

type Entry = PlanView['machines'][number]

export function planLines(view: PlanView, paint: Paint): string[] {
  const firstWith = new Map<string, string>()
  const lines = [
    `Build ${visible(view.build)} in ${visible(view.region)}, ${countText(view.machines.length, 'machine')}${view.machines.length > 1 ? ', one after another' : ''}:`,
  ]
  for (const term of view.terms) lines.push(`  ${visible(term)}`)
  view.machines.forEach((entry, index) => {
    lines.push('', ...machineLines(entry, index + 1, firstWith.get(entry.planHash), paint))
    if (!firstWith.has(entry.planHash)) firstWith.set(entry.planHash, entry.name)
  })
  if (view.skipped.length > 0) {
    lines.push('', 'Skipped, and not part of the plan:')
    for (const { name, reason } of view.skipped) lines.push(`  ${visible(name)}: ${visible(reason)}`)
  }
  lines.push('', `Digest: ${visible(view.digest)}`)
  return lines
}

function machineLines(entry: Entry, place: number, sameAs: string | undefined, paint: Paint): string[] {
  const { plan } = entry
  const where = `phase ${entry.phase}, bag ${visible(entry.bag)}`
  const lines = [`${String(place).padStart(3)}. ${paint.strong(visible(entry.name))} (${where}): ${summaryOf(entry)}`]
  if (sameAs !== undefined && !isEmptyPlan(plan)) lines.push(`       the same plan as ${visible(sameAs)}`)
  else lines.push(...actionLines(plan).map((line) => `       ${line}`))
  if (plan.rebootDue) lines.push(`       ${paint.warn('a reboot is due')}`)
  for (const warning of entry.warnings) lines.push(`       ${paint.warn('warning:')} ${visible(warning)}`)
  return lines
}

function summaryOf({ plan, evidence }: Entry): string {
  if (isEmptyPlan(plan)) return 'nothing to install'
  const parts = [
    plan.installs.length > 0 ? countText(plan.installs.length, 'package') : '',
    plan.removes.length > 0 ? countText(plan.removes.length, 'removal') : '',
    plan.repairs.length > 0 ? countText(plan.repairs.length, 'repair') : '',
    `${sizeText(evidence.downloadBytes)} to download`,
  ]
  return parts.filter((part) => part !== '').join(', ')
}

function actionLines(plan: Plan): string[] {
  const rows = [
    ...plan.installs.map((one) => ['install', `${one.name}:${one.arch}`, `${one.from ?? '(new)'} -> ${one.version}`]),
    ...plan.removes.map((one) => ['remove', `${one.name}:${one.arch}`, one.version]),
    ...plan.repairs.map((one) => ['repair', `${one.name}:${one.arch}`, `${one.version} (${one.state})`]),
    ...plan.holds.map((name) => ['apt hold', name, 'kept back']),
  ]
  return tableLines(['', '', ''], rows).slice(1)
}
