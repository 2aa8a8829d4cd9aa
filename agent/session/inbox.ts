/**
 * Drops grants and revokes where the runner takes them: whole, synced, and only then answered. Called by agent.ts.
 * The agent verifies no signature, since the runner trusts nothing of what it writes; what it checks here only
 * spares the machine an entry that can't be meant for it.
 */
import { join } from 'node:path'
import type { CoordinatorFrame } from '../../protocol/agent.ts'
import type { InboxEntry } from '../../protocol/files.ts'
import { type Disk, writeFileDurably } from '../disk/disk.ts'
import { type Layout, grantEntryName, orderLayoutOf, revokeEntryName } from '../disk/layout.ts'
import { evidenceOf } from '../disk/order-state.ts'
import { payloadOf } from './evidence.ts'

const ENTRY_MODE = 0o640

/** A grant that its revoke came before is not kept: it will be void. */
export type Dropped = { readonly fence: number; readonly isKept: boolean } | { readonly problem: string }

/** Keeps a grant for the runner; a repeated one is as good as the first. */
export function dropGrant(
  disk: Disk,
  layout: Layout,
  machine: string,
  frame: Extract<CoordinatorFrame, { t: 'grant' }>,
): Dropped {
  const payload = payloadOf(frame.grant.payload)
  if (payload === null) return { problem: 'its payload is no grant' }
  if (payload.machine !== machine) return { problem: `it is for machine ${payload.machine}` }
  if (payload.order !== frame.order) return { problem: `it is for order ${payload.order}` }
  // Whatever trace there is, the grant or its revocation has arrived before, and the runner decides by its own files.
  const evidence = evidenceOf(disk, layout, frame.order)
  if (evidence === null) put(disk, layout, grantEntryName(frame.order), { type: 'grant', grant: frame.grant })
  else if (evidence === 'inbox') syncWaiting(disk, layout)
  const isKept = evidence !== 'inbox' || isWaiting(disk, layout, grantEntryName(frame.order))
  return { fence: payload.fence, isKept }
}

/** Keeps a revoke for the runner, unless it took one before or the grant's fate is known. */
export function dropRevoke(disk: Disk, layout: Layout, order: string): void {
  const name = revokeEntryName(order)
  if (isWaiting(disk, layout, name) || disk.factsOf(orderLayoutOf(layout, order).fate) !== null) return
  put(disk, layout, name, { type: 'revoke', order })
}

/**
 * Makes safe where a grant waits. Whoever put it into the inbox, or took it out of there, may have ended before its name
 * was. Where it is taken to comes first: synced alone, the inbox would only be safe without it (fsync(2) is of one folder).
 */
export function syncWaiting(disk: Disk, layout: Layout): void {
  for (const folder of [layout.taken, layout.inbox]) if (disk.factsOf(folder) !== null) disk.fsync(folder)
}

/** In the inbox, or taken out of it and not yet settled. */
function isWaiting(disk: Disk, layout: Layout, name: string): boolean {
  return [layout.inbox, layout.taken].some((folder) => disk.factsOf(join(folder, name)) !== null)
}

function put(disk: Disk, layout: Layout, name: string, entry: InboxEntry): void {
  writeFileDurably(disk, join(layout.inbox, name), `${JSON.stringify(entry)}\n`, { mode: ENTRY_MODE })
}
