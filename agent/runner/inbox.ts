/**
 * Empties the inbox. Every entry is first moved out (to `taken/` or `refused/`), whatever it is, and only then read;
 * nothing in there can stop the runner. From `taken/` an entry becomes a claim or a void, or goes to `refused/` with
 * the reason in the log. A crash at any point leaves an entry that the next sweep finishes.
 * Invariant: claim and void are one file name, made exclusively; an order that has one keeps it for ever.
 */
import { join } from 'node:path'
import * as v from 'valibot'
import { type InboxEntry, inboxEntrySchema, type SignedGrant } from '../../protocol/files.ts'
import { codeOf, createExclusively, type Disk, listNames, readIfExists, writeFileDurably } from '../disk/disk.ts'
import { type GrantKeys, readGrantKeys } from '../disk/grant-key.ts'
import { orderLayoutOf, revokeEntryName } from '../disk/layout.ts'
import { type Fate, fenceHighWater, readFate } from '../disk/order-state.ts'
import { judgeGrant } from './grants.ts'
import type { RunnerContext } from './ports.ts'
import { openRecords } from './records.ts'

/** A grant with a plan of PLAN_ACTIONS_MAX actions has about 1 MB. */
export const ENTRY_BYTES_MAX = 4 * 1024 * 1024
/** So many refused entries are kept for whoever wonders; the oldest go first. */
export const REFUSED_MAX = 100
const NAME_PATTERN = /^(grant|revoke)-([0-9a-f]{32})\.json$/

export function sweepInbox(context: RunnerContext): void {
  const { disk } = context.ports
  for (const name of listNames(disk, context.layout.inbox)) moveOut(context, name)
  for (const name of listNames(disk, context.layout.taken)) settleEntry(context, name)
  pruneRefused(context)
}

function moveOut(context: RunnerContext, name: string): void {
  const { disk } = context.ports
  const from = join(context.layout.inbox, name)
  const facts = disk.factsOf(from)
  if (facts === null) return
  const problem = !NAME_PATTERN.test(name)
    ? 'its name is neither grant-ORDER.json nor revoke-ORDER.json'
    : facts.kind !== 'file'
      ? `it is no regular file but a ${facts.kind}`
      : facts.size > ENTRY_BYTES_MAX
        ? `it has ${facts.size} bytes, more than ${ENTRY_BYTES_MAX}`
        : null
  if (problem !== null) return refuse(context, from, name, problem)
  disk.rename(from, join(context.layout.taken, name))
  disk.fsync(context.layout.taken)
  disk.fsync(context.layout.inbox)
}

/** The name in `refused/` is never the agent's own, unless it has the form that was checked. */
function refuse(context: RunnerContext, from: string, name: string, reason: string): void {
  const { disk, now } = context.ports
  const match = NAME_PATTERN.exec(name)
  const kept = match === null ? 'entry' : name
  let to = join(context.layout.refused, `${now()}-${kept}`)
  for (let n = 1; disk.factsOf(to) !== null; n += 1) to = join(context.layout.refused, `${now()}.${n}-${kept}`)
  disk.rename(from, to)
  disk.fsync(context.layout.refused)
  context.tell(match?.[2] ?? '-', 'claim', `refused ${JSON.stringify(name)}: ${reason}`)
}

function pruneRefused(context: RunnerContext): void {
  const { disk } = context.ports
  const names = listNames(disk, context.layout.refused)
  for (const name of names.slice(0, Math.max(0, names.length - REFUSED_MAX)))
    disk.remove(join(context.layout.refused, name))
}

function settleEntry(context: RunnerContext, name: string): void {
  const from = join(context.layout.taken, name)
  const entry = readEntry(context.ports.disk, from)
  if (typeof entry === 'string') return refuse(context, from, name, entry)
  const order = NAME_PATTERN.exec(name)?.[2] ?? ''
  if (entry.type === 'revoke') {
    if (name !== revokeEntryName(entry.order))
      return refuse(context, from, name, 'it names another order than its file name')
    return settleRevoke(context, from, name, order)
  }
  settleGrant(context, from, name, order, entry.grant)
}

/** The entry, or what is wrong with it. */
function readEntry(disk: Disk, path: string): InboxEntry | string {
  let value: unknown
  try {
    // A file that was swapped for a link or grew since it was looked at fails here.
    value = JSON.parse(readIfExists(disk, path, ENTRY_BYTES_MAX)?.toString('utf8') ?? '')
  } catch (error) {
    if (error instanceof SyntaxError) return 'it is no JSON'
    if (codeOf(error) !== '') return `it can't be read: ${codeOf(error)}`
    throw error
  }
  const checked = v.safeParse(inboxEntrySchema, value)
  if (checked.success) return checked.output
  const where = (checked.issues[0].path ?? []).map((item) => String(item.key)).join('.')
  return `it does not have the form of an entry: ${where} ${checked.issues[0].message}`
}

function settleRevoke(context: RunnerContext, from: string, name: string, order: string): void {
  const files = orderLayoutOf(context.layout, order)
  const fate = readFate(context.ports.disk, files)
  if (fate?.fate === 'claim') return refuse(context, from, name, 'the order is claimed already')
  voidOrder(context, order, 'the grant was revoked before it was claimed')
  context.ports.disk.remove(from)
  context.ports.disk.fsync(context.layout.taken)
}

function settleGrant(context: RunnerContext, from: string, name: string, order: string, grant: SignedGrant): void {
  const { disk, now } = context.ports
  const files = orderLayoutOf(context.layout, order)
  const fate = readFate(disk, files)
  if (fate?.fate === 'claim' && disk.factsOf(files.grant) !== null && isSameFile(disk, from, files.grant)) {
    // The crash came between the claim and this removal; or it is a replay, which is the same to us.
    writeFence(context, fate.fence)
    return refuse(context, from, name, 'the order has its claim already')
  }
  if (fate !== null) return refuse(context, from, name, `the order has its ${fate.fate} already`)
  const keys = keysOf(context)
  if (typeof keys === 'string') return refuse(context, from, name, keys)
  const judged = judgeGrant(grant, { keys, fence: fenceHighWater(disk, context.layout), now: now() })
  if (!judged.ok) {
    // Only what the coordinator really signed for this very order can end it; "it never started" is then on disk.
    if (judged.order === order) voidOrder(context, order, `the grant was not claimed: ${judged.reason}`)
    return refuse(context, from, name, judged.reason)
  }
  if (judged.payload.order !== order) return refuse(context, from, name, 'it grants another order than its file name')
  disk.makeFolder(files.folder, 0o751)
  disk.fsync(context.layout.orders)
  writeFileDurably(disk, files.grant, readIfExists(disk, from, ENTRY_BYTES_MAX) ?? '', { mode: 0o640 })
  writeFileDurably(disk, files.plan, `${JSON.stringify(grant.plan)}\n`, { mode: 0o640 })
  setFate(context, order, { fate: 'claim', fence: judged.payload.fence, at: now() })
  writeFence(context, judged.payload.fence)
  disk.remove(from)
  disk.fsync(context.layout.taken)
  context.tell(
    order,
    'claim',
    `claimed for ${judged.payload.change} with fence ${judged.payload.fence}, attempt ${judged.payload.attempt}`,
  )
}

function isSameFile(disk: Disk, left: string, right: string): boolean {
  const a = readIfExists(disk, left, ENTRY_BYTES_MAX)
  const b = readIfExists(disk, right, ENTRY_BYTES_MAX)
  return a !== null && b !== null && a.equals(b)
}

function keysOf(context: RunnerContext): GrantKeys | string {
  try {
    return (
      readGrantKeys(context.ports.disk, context.layout) ??
      'this machine is not enrolled (run/grant-key.json is missing)'
    )
  } catch (error) {
    return `run/grant-key.json is damaged: ${error instanceof Error ? error.message : String(error)}`
  }
}

function setFate(context: RunnerContext, order: string, fate: Fate): boolean {
  return createExclusively(context.ports.disk, orderLayoutOf(context.layout, order).fate, `${JSON.stringify(fate)}\n`)
}

function writeFence(context: RunnerContext, fence: number): void {
  const highest = Math.max(fence, fenceHighWater(context.ports.disk, context.layout))
  writeFileDurably(context.ports.disk, context.layout.fence, `${highest}\n`, { mode: 0o644 })
}

/** Nothing was done for this order and nothing ever will be: the file says so, and then the result. */
export function voidOrder(context: RunnerContext, order: string, reason: string): void {
  const { disk, now } = context.ports
  const files = orderLayoutOf(context.layout, order)
  disk.makeFolder(files.folder, 0o751)
  disk.fsync(context.layout.orders)
  setFate(context, order, { fate: 'void', reason, at: now() })
  endVoid(context, order)
}

/** The result of a void order, also when a crash came before it. */
export function endVoid(context: RunnerContext, order: string): void {
  const { disk, now } = context.ports
  const files = orderLayoutOf(context.layout, order)
  const fate = readFate(disk, files)
  if (fate?.fate !== 'void') return
  const records = openRecords({ disk, now, tell: (step, text) => context.tell(order, step, text) }, files, 1024)
  if (records.result() !== null) return
  records.end({
    outcome: 'void',
    cause: null,
    step: 'claim',
    message: fate.reason.slice(0, 2000),
    evidence: [],
    advice: [],
    latched: false,
    rebootPending: false,
    installed: [],
  })
}
