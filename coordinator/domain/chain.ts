/**
 * The chain of the journal: each row bears the SHA-256 of itself and of the row before, so that a row that was edited,
 * removed or moved no longer fits. Who can write the database can make the whole chain anew: against that stands a head
 * (the newest row's hash) that was kept elsewhere. Pure. Called by both stores and by whoever verifies.
 */
import type { AuditVerdict } from '../../protocol/audit.ts'
import type { Fact } from '../../protocol/feed.ts'
import { isAct } from './acts.ts'
import type { Instant } from './state.ts'

/** A row of the journal as it is stored, with the hash of itself and of the row before. */
export type ChainRow = {
  readonly rev: number
  readonly at: Instant
  readonly actor: string
  readonly facts: string
  readonly hash: string
  /** Whether there is an act in it (acts.ts). */
  readonly act: boolean
}
type Hashed = Pick<ChainRow, 'rev' | 'at' | 'actor' | 'facts'>
export type Sha256 = (text: string) => string

/** What stands before the first row. */
export const CHAIN_START = '0'.repeat(64)
const PROBLEMS_MAX = 20

/** `facts` is the text as it is stored. A JSON array keeps the parts apart, whatever stands in them. */
export function chainHash(sha256: Sha256, before: string, row: Hashed): string {
  return sha256(JSON.stringify([before, row.rev, row.at, row.actor, row.facts]))
}

export function hasAct(facts: readonly Fact[]): boolean {
  return facts.some(isAct)
}

/** Takes the rows in their order, each once. After a row that does not fit it goes on from there, to name the others. */
export function createVerifier(
  sha256: Sha256,
  head: string | null,
): {
  readonly take: (row: ChainRow) => void
  readonly verdict: () => AuditVerdict
} {
  const problems: { rev: number; text: string }[] = []
  let last = { rev: 0, hash: CHAIN_START }
  let rows = 0
  let known: number | null = head === CHAIN_START ? 0 : null
  const tell = (rev: number, text: string) => {
    if (problems.length < PROBLEMS_MAX) problems.push({ rev, text })
  }
  return {
    take: (row) => {
      rows += 1
      const missing = row.rev - last.rev - 1
      if (missing > 0) tell(last.rev + 1, missing === 1 ? 'it was removed' : `it and ${missing - 1} more were removed`)
      else if (chainHash(sha256, last.hash, row) !== row.hash)
        tell(row.rev, 'it was edited or moved, or the row before it was')
      else if (isMarked(row) !== row.act) tell(row.rev, 'it was edited: its mark as an act is wrong')
      if (row.hash === head) known = row.rev
      last = { rev: row.rev, hash: row.hash }
    },
    verdict: () => {
      const text = `no row has the head ${head ?? ''}: rows were removed at the end, or this is another journal`
      const cut = head === null || known !== null ? [] : [{ rev: last.rev + 1, text }]
      return { rows, head: last, known, problems: [...problems, ...cut] }
    },
  }
}

/** Text that is no JSON was edited, which its hash tells. */
function isMarked(row: ChainRow): boolean {
  return hasAct(JSON.parse(row.facts) as readonly Fact[])
}
