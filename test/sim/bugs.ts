/** Bugs to plant, each of which a checker must find; none of them ever reaches the program. */
import { type View, createDraft } from '../../coordinator/domain/draft.ts'
import { endOrder } from '../../coordinator/domain/order.ts'
import { step } from '../../coordinator/domain/step.ts'

export const BUGS = [
  'run-twice',
  'claim-twice',
  'record-repeated',
  'lines-ignored',
  'silence-is-success',
  'always-approved',
  'log-dropped',
  'grant-and-revoke-lost',
  'plan-swapped',
  'row-lost',
] as const
export type Bug = (typeof BUGS)[number] | null

/** The core's step with a bug planted in what it sees or says. */
export function bugged(bug: Bug): typeof step {
  if (bug === 'lines-ignored') return linesIgnored
  if (bug === 'silence-is-success') return silenceIsSuccess
  return step
}

const linesIgnored: typeof step = (view, envelope, tools) => {
  const blind: View = {
    ...view,
    get: (table, key) => (table === 'lines' && key.startsWith('cluster:') ? undefined : view.get(table, key)),
  }
  return step(blind, envelope, tools)
}

const silenceIsSuccess: typeof step = (view, envelope, tools) => {
  const outcome = step(view, envelope, tools)
  const silent = [...view.all('orders')].find(
    (order) => order.state === 'running' && order.silentSince !== null && envelope.at - order.silentSince > 60_000,
  )
  if (silent === undefined || envelope.event.type !== 'tick') return outcome
  const draft = createDraft(view, envelope, tools)
  endOrder(draft, silent, {
    state: 'succeeded',
    cause: null,
    message: 'silent',
    evidence: [],
    advice: [],
    latched: false,
    rebootPending: false,
    result: null,
    resolvedBy: null,
    isDecided: false,
  })
  return draft.outcome({ ok: true })
}
