/**
 * How an install ended when its exit was never written down: the wrapper was killed, or the machine went down. What
 * the machine itself can prove is looked up here, and one small decision is made of it.
 * Invariant: nothing here calls a run a success; that takes apt's own end without an error, and then the same audit
 * and comparison as after any other install.
 */
import { pathOn } from '../apt/command.ts'
import { visible } from '../apt/diagnosis.ts'
import { parseHistory } from '../apt/parsers.ts'
import { isJournalLeft, readMachineFile } from '../apt/planning.ts'
import { codeOf } from '../disk/disk.ts'
import { runAudit, versionsWrong } from './checks.ts'
import type { Order } from './order.ts'

export type Evidence = {
  /** apt's own history of this order: its end without and with an error, an entry without an end, or nothing. */
  readonly history: 'ended' | 'failed' | 'open' | 'none'
  /** False when dpkg could not read its own state; then what we read of it proves nothing either. */
  readonly isAudited: boolean
  /** What stands between the machine and the plan: packages, findings of the audit, a journal that dpkg left. */
  readonly isUnfinished: boolean
}
export type Verdict = 'ended' | 'failed' | 'interrupted' | 'unknown'

/** Asked only when nobody is at work any more: the locks of the order and of dpkg are free. */
export function verdictOf({ history, isAudited, isUnfinished }: Evidence): Verdict {
  if (!isAudited) return 'unknown'
  if (history === 'ended' || history === 'failed') return history
  // Packages that are all there may still lack what apt does last (marks, its own hooks): nobody can tell.
  return isUnfinished ? 'interrupted' : 'unknown'
}

export type Found = {
  readonly verdict: Verdict
  /** In the words for a person, the decisive first. */
  readonly lines: readonly string[]
}

export function lookForEvidence(order: Order, then: (found: Found) => void): void {
  const { history, text } = historyOf(order)
  const unfinished = versionsWrong(order, order.approved)
  if (isJournalLeft(order.context.ports.disk, order.target))
    unfinished.push(`dpkg was ended in the middle of its work: its journal is left in ${pathOn(order.target, JOURNAL)}`)
  runAudit(order, (unclean, isAudited) => {
    const lines = [...unfinished, ...(text === null ? [] : [text]), ...(unclean?.evidence ?? [])]
    if (!isAudited) lines.unshift(`dpkg --audit did not answer: ${unclean?.message ?? ''}`)
    const isUnfinished = unfinished.length > 0 || unclean !== null
    then({ verdict: verdictOf({ history, isAudited, isUnfinished }), lines: lines.map((line) => visible(line)) })
  })
}

const JOURNAL = '/var/lib/dpkg/updates'
const HISTORY = '/var/log/apt/history.log'

function historyOf(order: Order): { readonly history: Evidence['history']; readonly text: string | null } {
  const { disk } = order.context.ports
  try {
    const tag = `Smith::Order=${order.id}`
    const entries = parseHistory(readMachineFile(disk, order.target, HISTORY))
    const entry = entries.findLast((one) => one.commandLine.includes(tag))
    if (entry === undefined) return { history: 'none', text: "apt's history has no entry of this order" }
    if (!entry.ended) return { history: 'open', text: "apt's history has an entry of this order without an end" }
    if (entry.error === null) return { history: 'ended', text: null }
    return { history: 'failed', text: `apt's history says: ${entry.error}` }
  } catch (error) {
    // A log that is no regular file or far too large says nothing of apt; the packages themselves may.
    if (codeOf(error) === '') throw error
    return { history: 'none', text: `apt's history can't be read (${codeOf(error)})` }
  }
}
