/**
 * Which orders are in hand: those that left a trace on the disk and that the coordinator has not let go yet. Read at
 * each hello and while an order is open. What a damaged file hides counts as the more cautious answer: claimed, and
 * so never as something that did not happen.
 */
import { join } from 'node:path'
import * as v from 'valibot'
import type { OrderInHand } from '../../protocol/agent.ts'
import { type GrantPayload, type OrderEvidence, grantPayloadSchema, inboxEntrySchema } from '../../protocol/files.ts'
import { ID_PATTERN } from '../../protocol/ids.ts'
import { type Disk, TEMPORARY_PREFIX, createExclusively, listNames, readIfExists } from '../disk/disk.ts'
import { type Layout, grantEntryName, orderLayoutOf } from '../disk/layout.ts'
import { evidenceOf, knownOrders, readFate } from '../disk/order-state.ts'
import type { Log } from '../ports.ts'
import { problemOf } from './guard.ts'

/** The runner puts the time in front of what it refuses. */
const ENTRY_PATTERN = /^(?:[0-9.]+-)?(?:grant|revoke)-([0-9a-f]{32})\.json$/
const ENTRY_BYTES_MAX = 4 * 1024 * 1024

/** Every order that has left a trace on the disk, in no particular order. */
export function ordersOnDisk(disk: Disk, layout: Layout): Set<string> {
  const orders = new Set(knownOrders(disk, layout))
  for (const folder of [layout.inbox, layout.taken, layout.refused]) {
    for (const name of listNames(disk, folder)) {
      const order = ENTRY_PATTERN.exec(name)?.[1]
      if (order !== undefined) orders.add(order)
    }
  }
  return orders
}

/** What the disk says of an order; `claimed` when the file that would say it is damaged. */
export function cautiousEvidence(disk: Disk, layout: Layout, log: Log, order: string): OrderEvidence | null {
  try {
    return evidenceOf(disk, layout, order)
  } catch (error) {
    log.error({ order, problem: problemOf(error) }, 'the files of an order are damaged; it is taken for claimed')
    return disk.factsOf(orderLayoutOf(layout, order).latch) === null ? 'claimed' : 'latched'
  }
}

/** The fence of an order's grant, wherever it stands; 0 when there is none (a revoke came alone). */
export function fenceOf(disk: Disk, layout: Layout, order: string): number {
  const fate = readFate(disk, orderLayoutOf(layout, order))
  if (fate?.fate === 'claim') return fate.fence
  const name = grantEntryName(order)
  for (const folder of [layout.inbox, layout.taken, layout.refused]) {
    for (const entry of listNames(disk, folder)) {
      if (!entry.endsWith(name)) continue
      const payload = payloadOfEntry(readIfExists(disk, join(folder, entry), ENTRY_BYTES_MAX))
      if (payload?.order === order) return payload.fence
    }
  }
  return 0
}

/** The payload of a grant as it came, not verified: that is the runner's, with the key that only root may write. */
export function payloadOf(base64: string): GrantPayload | null {
  return parsed(grantPayloadSchema, Buffer.from(base64, 'base64'))
}

function payloadOfEntry(bytes: Uint8Array | null): GrantPayload | null {
  const entry = bytes === null ? null : parsed(inboxEntrySchema, bytes)
  return entry?.type === 'grant' ? payloadOf(entry.grant.payload) : null
}

function parsed<S extends v.GenericSchema>(schema: S, bytes: Uint8Array): v.InferOutput<S> | null {
  try {
    const result = v.safeParse(schema, JSON.parse(Buffer.from(bytes).toString('utf8')))
    return result.success ? result.output : null
  } catch {
    // Not JSON: the same answer as for JSON of another shape.
    return null
  }
}

// --- orders that the coordinator has let go ------------------------------------------------------------------

function forgottenFolder(layout: Layout): string {
  return join(layout.agent, 'forgotten')
}

export function isForgotten(disk: Disk, layout: Layout, order: string): boolean {
  return disk.factsOf(join(forgottenFolder(layout), order)) !== null
}

/** Marks an order as committed elsewhere, so that no hello names it again, and drops what was downloaded for it. */
export function forget(disk: Disk, layout: Layout, order: string): void {
  const folder = forgottenFolder(layout)
  disk.makeFolder(folder, 0o700)
  createExclusively(disk, join(folder, order), '', 0o600)
  dropDownloads(disk, layout, order)
}

export function dropDownloads(disk: Disk, layout: Layout, order: string): void {
  disk.remove(join(layout.prefetch, order))
  disk.remove(join(layout.acked, order))
}

/** For the runner, which reboots only after the coordinator has the record of it. Not synced: it is said again. */
export function writeAcked(disk: Disk, layout: Layout, order: string, upTo: number): void {
  disk.makeFolder(layout.acked, 0o700)
  const temporary = join(layout.acked, `${TEMPORARY_PREFIX}${order}`)
  disk.remove(temporary)
  disk.write(temporary, Buffer.from(`${upTo}\n`), 'create', 0o600)
  disk.rename(temporary, join(layout.acked, order))
}

/** Removes the marks of orders that left no other trace any more. */
export function sweepForgotten(disk: Disk, layout: Layout, present: ReadonlySet<string>): void {
  const folder = forgottenFolder(layout)
  for (const order of listNames(disk, folder)) {
    if (ID_PATTERN.test(order) && !present.has(order)) disk.remove(join(folder, order))
  }
}

/** Open orders first, so that a cut to `max` never hides one. */
export function mostUrgent(orders: readonly OrderInHand[], max: number): OrderInHand[] {
  const isOver = (one: OrderInHand) =>
    Number(one.evidence === 'ended' || one.evidence === 'void' || one.evidence === 'refused')
  return orders.toSorted((a, b) => isOver(a) - isOver(b) || b.fence - a.fence).slice(0, max)
}
