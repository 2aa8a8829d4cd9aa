/**
 * What the files of an order say about it, for both halves: the agent's hello is derived from this alone, and the
 * runner decides from it how to go on. Reads only.
 */
import * as v from 'valibot'
import type { OrderEvidence } from '../../protocol/files.ts'
import { countSchema, ID_PATTERN, instantSchema } from '../../protocol/ids.ts'
import { type Disk, listNames, readIfExists } from './disk.ts'
import { grantEntryName, revokeEntryName, type Layout, type OrderLayout, orderLayoutOf } from './layout.ts'

export const fateSchema = v.variant('fate', [
  v.strictObject({ fate: v.literal('claim'), fence: countSchema, at: instantSchema }),
  v.strictObject({ fate: v.literal('void'), reason: v.string(), at: instantSchema }),
])
export type Fate = v.InferOutput<typeof fateSchema>

export function readFate(disk: Disk, order: OrderLayout): Fate | null {
  const bytes = readIfExists(disk, order.fate, 65_536)
  return bytes === null ? null : v.parse(fateSchema, JSON.parse(bytes.toString('utf8')))
}

/** The orders that the runner has anything of. */
export function knownOrders(disk: Disk, layout: Layout): string[] {
  return listNames(disk, layout.orders).filter((name) => ID_PATTERN.test(name))
}

/** The highest fence ever claimed. The claim is recorded before the file, so a crash between loses nothing. */
export function fenceHighWater(disk: Disk, layout: Layout): number {
  const text = readIfExists(disk, layout.fence, 64)?.toString('utf8').trim() ?? ''
  let highest = /^[0-9]{1,16}$/.test(text) ? Number(text) : 0
  for (const order of knownOrders(disk, layout)) {
    const fate = readFate(disk, orderLayoutOf(layout, order))
    if (fate?.fate === 'claim') highest = Math.max(highest, fate.fence)
  }
  return highest
}

/** The last complete record of an order, as it stands in the file; null when there is none. */
export function lastRecord(disk: Disk, order: OrderLayout): { readonly n: number; readonly type: string } | null {
  const last = lastRecordAsWritten(disk, order)
  return last === null ? null : v.parse(v.object({ n: countSchema, type: v.string() }), last)
}

/** The same with all its fields, not checked. */
export function lastRecordAsWritten(disk: Disk, order: OrderLayout): unknown {
  const facts = disk.factsOf(order.records)
  if (facts === null || facts.size === 0) return null
  // A record with a plan's whole `installed` list can be large; most are not.
  for (let back = 65_536; ; back *= 8) {
    const from = Math.max(0, facts.size - back)
    const text = disk.read(order.records, from, facts.size - from).toString('utf8')
    const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n')
    lines.pop()
    const last = lines.at(-1)
    const isWhole = from === 0 || lines.length > 1
    if (last !== undefined && isWhole) {
      return JSON.parse(last)
    }
    if (from === 0) return null
  }
}

/** What the machine can say of an order; null when it never heard of it. */
export function evidenceOf(disk: Disk, layout: Layout, order: string): OrderEvidence | null {
  const files = orderLayoutOf(layout, order)
  const fate = readFate(disk, files)
  if (fate?.fate === 'void') return 'void'
  if (fate?.fate === 'claim') {
    if (lastRecord(disk, files)?.type === 'result') return 'ended'
    return disk.factsOf(files.latch) === null ? 'claimed' : 'latched'
  }
  // A revoke that came alone counts too: the runner makes a void of it, which is to be told.
  const entries = [...listNames(disk, layout.inbox), ...listNames(disk, layout.taken)]
  if (entries.includes(grantEntryName(order)) || entries.includes(revokeEntryName(order))) return 'inbox'
  return listNames(disk, layout.refused).some((entry) => entry.includes(order)) ? 'refused' : null
}

/** True when a runner should be started: something lies in the inbox, or an order is unfinished. */
export function hasWork(disk: Disk, layout: Layout): boolean {
  if (listNames(disk, layout.inbox).length > 0 || listNames(disk, layout.taken).length > 0) return true
  return knownOrders(disk, layout).some((order) =>
    ['claimed', 'latched'].includes(evidenceOf(disk, layout, order) ?? ''),
  )
}
