/**
 * Colours the status that the coordinator rendered, and renders the lists of projects and machines. Pure. The words
 * of the status are never changed here: CLI and bot say the same.
 */
import type { MachineView, MissingView, ProjectList } from '../../protocol/http.ts'
import type { Paint } from '../client/failure.ts'
import { dayText, spanText, tableLines, visible } from '../client/text.ts'

export function statusLines(text: string, paint: Paint): string[] {
  return text
    .replace(/\n$/, '')
    .split('\n')
    .map((line) => paintLine(visible(line), paint))
}

function paintLine(line: string, paint: Paint): string {
  if (/^\s*Held:/.test(line)) return paint.bad(line)
  if (/^\s*Waiting:/.test(line)) return paint.warn(line)
  if (/^\s*Lift:/.test(line)) return paint.strong(line)
  if (/^\s*Now:/.test(line)) return paint.busy(line)
  return line.replace(/`(complete|failed|held|cancelled|waiting|running)`/, (whole, state: string) => {
    if (state === 'complete') return paint.good(whole)
    if (state === 'running') return paint.busy(whole)
    return state === 'waiting' ? paint.warn(whole) : paint.bad(whole)
  })
}

export function projectListLines(list: ProjectList, now: number, paint: Paint): string[] {
  const lines: string[] = []
  if (list.frozen !== null) {
    const { by, reason, at } = list.frozen
    const why = reason === '' ? '' : `: ${reason}`
    lines.push(paint.bad(visible(`Frozen by ${by} for ${spanText(now - at)}${why}`)), 'Lift: smith unfreeze')
  }
  for (const trouble of list.troubles ?? []) lines.push(paint.warn(visible(`Trouble: ${trouble}`)))
  if (list.projects.length === 0) return [...lines, 'No projects.']
  const rows = list.projects.map((project) => [
    project.change ?? '(raising)',
    project.state,
    project.title,
    project.build,
    project.region,
    totalsText(project.totals),
    project.requester,
    dayText(project.createdAt),
    project.stop ?? '',
  ])
  lines.push(
    ...tableLines(['CHANGE', 'STATE', 'MACHINES', 'BUILD', 'REGION', 'TOTALS', 'REQUESTER', 'SINCE', 'STOP'], rows),
  )
  return lines
}

function totalsText(totals: Readonly<Record<string, number>>): string {
  const parts = Object.entries(totals).filter(([, count]) => count > 0)
  return parts.length === 0 ? 'none' : parts.map(([key, count]) => `${key} ${count}`).join(', ')
}

export function machineLines(machines: readonly MachineView[], now: number): string[] {
  const rows = machines.map((machine) => [
    machine.name,
    linkText(machine, now),
    machine.project ?? '-',
    machine.region ?? '-',
    machine.cluster,
    machine.address ?? '-',
    machine.facts?.os ?? '-',
    machine.facts?.kernel ?? '-',
    machine.lastPatchedAt === null ? 'never' : `${spanText(now - machine.lastPatchedAt)} ago`,
    noteText(machine),
  ])
  const heading = ['MACHINE', 'LINK', 'PROJECT', 'REGION', 'CLUSTER', 'ADDRESS', 'SYSTEM', 'KERNEL', 'PATCHED', 'NOTE']
  return tableLines(heading, rows)
}

export function missingLines({ source, notEnrolled, notKnown }: MissingView): string[] {
  if (source === null)
    return ['No source of machines is configured ([lookup] in coordinator.toml): what is enrolled is what there is.']
  const rows = [
    ...notEnrolled.map(({ name, addresses, id }) => [name, 'not enrolled', addresses.join(', ') || '-', id]),
    ...notKnown.map((name) => [name, 'not in the source', '-', '-']),
  ]
  if (rows.length === 0) return [`No difference: ${visible(source)} and the enrolled machines are the same.`]
  return [
    `${visible(source)}: ${notEnrolled.length} not enrolled, ${notKnown.length} enrolled and not known to it`,
    ...tableLines(['MACHINE', 'DIFFERENCE', 'ADDRESSES', 'IN THE SOURCE'], rows),
  ]
}

function linkText(machine: MachineView, now: number): string {
  const word = machine.online ? 'online' : 'offline'
  return machine.since === null ? word : `${word} ${spanText(now - machine.since)}`
}

function noteText(machine: MachineView): string {
  const notes = [
    machine.quarantined === null ? '' : `quarantined: ${machine.quarantined}`,
    machine.impediment === null ? '' : machine.impediment.message,
    machine.rebootPending ? 'reboot pending' : '',
  ]
  return notes.filter((note) => note !== '').join('; ')
}
