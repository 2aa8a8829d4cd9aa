/**
 * What the simulated machines really did, written down as it happens, and the checkers that judge it. None of them
 * asks the coordinator what it believes: the ledger knows who claimed what, when apt began and how it ended, which
 * digests people approved and when, and which failures they decided about.
 */
import type { GrantPayload } from '../../protocol/files.ts'

export type Ledger = {
  readonly claimed: (grant: GrantPayload) => void
  readonly aptStarted: (start: { readonly order: string; readonly planHash: string }) => void
  readonly runEnded: (end: { readonly order: string; readonly outcome: string; readonly latched: boolean }) => void
  /** A person said how an order ended, or what becomes of its failure: from then on its lines are free. */
  readonly decided: (order: string) => void
  /** The answer takes it back: nobody took the approval. */
  readonly approved: (digest: string, at: number) => () => void
  readonly unapproved: (digest: string, at: number) => void
  readonly violations: string[]
  readonly counts: { claims: number; starts: number; ends: number }
}

/** What the world knows of a grant: the lines it takes, and what was approved for it. */
export type Context = {
  readonly linesOf: (grant: GrantPayload) => { readonly project: string; readonly cluster: string }
  readonly digestOf: (grant: GrantPayload) => string
  readonly approvedPlanOf: (grant: GrantPayload) => string
}

/** A permission may be this old when it is used: a withdrawal in between does not count yet. */
const PERMISSION_AGE_MS_MAX = 10_000

type Use = { readonly order: string; state: 'running' | 'kept' | 'free' }

export function createLedger(context: Context): Ledger {
  const violations: string[] = []
  const uses = new Map<string, Use[]>()
  const claims = new Map<string, GrantPayload>()
  const starts = new Map<string, number>()
  const approvals = new Map<string, { readonly from: number; to: number }[]>()
  const counts = { claims: 0, starts: 0, ends: 0 }
  const setState = (order: string, stateOn: (line: string) => Use['state']) => {
    for (const [line, list] of uses) for (const use of list) if (use.order === order) use.state = stateOn(line)
  }
  return {
    violations,
    counts,
    claimed: (grant) => {
      counts.claims += 1
      if (claims.has(grant.order)) violations.push(`ONCE-1: order ${grant.order} was claimed twice`)
      claims.set(grant.order, grant)
      const { project, cluster } = context.linesOf(grant)
      for (const line of [`project:${project}`, `cluster:${cluster}`]) {
        const list = uses.get(line) ?? []
        const other = list.find((use) => use.state !== 'free')
        if (other !== undefined)
          violations.push(`SER-1: ${grant.order} was claimed on ${line} while ${other.order} was ${other.state}`)
        uses.set(line, [...list, { order: grant.order, state: 'running' }])
      }
      const periods = approvals.get(context.digestOf(grant)) ?? []
      if (!periods.some((one) => one.from <= grant.issuedAt && grant.issuedAt <= one.to + PERMISSION_AGE_MS_MAX)) {
        violations.push(`APR-1: order ${grant.order} was granted at ${grant.issuedAt} without an approval`)
      }
    },
    aptStarted: ({ order, planHash }) => {
      counts.starts += 1
      const count = (starts.get(order) ?? 0) + 1
      starts.set(order, count)
      if (count > 1) violations.push(`ONCE-2: apt was started ${count} times for order ${order}`)
      const grant = claims.get(order)
      if (grant === undefined) violations.push(`ONCE-1: apt was started for order ${order}, which nobody claimed`)
      else if (context.approvedPlanOf(grant) !== planHash)
        violations.push(`APR-5: order ${order} installed another plan than the approved one`)
    },
    runEnded: ({ order, outcome, latched }) => {
      counts.ends += 1
      if (outcome === 'unknown') return
      // A failure stops its project until a person decides; it keeps its cluster only when the machine was touched.
      setState(order, (line) => (outcome === 'failed' && (latched || line.startsWith('project:')) ? 'kept' : 'free'))
    },
    decided: (order) => setState(order, () => 'free'),
    approved: (digest, at) => {
      const period = { from: at, to: Number.POSITIVE_INFINITY }
      approvals.set(digest, [...(approvals.get(digest) ?? []), period])
      return () =>
        approvals.set(
          digest,
          (approvals.get(digest) ?? []).filter((one) => one !== period),
        )
    },
    unapproved: (digest, at) => {
      for (const period of approvals.get(digest) ?? []) if (period.to === Number.POSITIVE_INFINITY) period.to = at
    },
  }
}
