/**
 * A health report that belongs to an order was made and kept: the feed tells of it, and the task of its bag gets the
 * summary as a note. It decides nothing, and a project that has ended is only told of.
 */
import type { Draft } from './draft.ts'
import type { Event, Reply } from './events.ts'
import { isBagOver, noteBag } from './lines.ts'
import { bagOf, sayOf, targetOf } from './targets.ts'

const NOTE_CHARACTERS_MAX = 3000
const ATTACHED_CHARACTERS_MAX = 200_000

export function takeReport(
  draft: Draft,
  { order: id, report, summary }: Extract<Event, { type: 'reportKept' }>,
): Reply {
  const order = draft.get('orders', id) ?? draft.archived('orders', id)
  const open = order === undefined ? undefined : draft.get('projects', order.project)
  const project = order === undefined ? undefined : (open ?? draft.archived('projects', order.project))
  if (order === undefined || project === undefined) return { ok: true }
  const title = (summary.split('\n')[0] ?? '').replace(/^# /, '').slice(0, 1000)
  sayOf(draft, project, { fact: 'reportMade', machine: order.name, order: id, reason: report, text: title })
  if (open === undefined) return { ok: true }
  const target = targetOf(draft, open.id, order.target)
  // What is over was closed with its notes, which this must not replace.
  if (!isBagOver(draft, open, bagOf(draft, open.id, target.bag)))
    noteBag(
      draft,
      open,
      target,
      `Health report of ${order.name} (whole: smith report ${order.name})\n${summary.slice(0, NOTE_CHARACTERS_MAX)}`,
      { name: `smith-report-${order.name}-${report.slice(0, 8)}.txt`, text: summary.slice(0, ATTACHED_CHARACTERS_MAX) },
    )
  return { ok: true }
}
