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
import { type Fate, fenceHighWater, knownOrders, readFate } from '../disk/order-state.ts'
import { judgeGrant } from './grants.ts'
import type { RunnerContext } from './ports.ts'
import { openRecords } from './records.ts'

/** A grant with a plan of PLAN_ACTIONS_MAX actions has about 1 MB. */
export const ENTRY_BYTES_MAX = 4 * 1024 * 1024
/** So many refused entries are kept for whoever wonders; the oldest go first. */
export const REFUSED_MAX = 100
/** So many refusals of one sweep stand in the log, each with its reason; the rest is counted. */
export const TOLD_MAX = 100
/** A revoke bears no signature, so whoever owns the inbox could fill the disk with void orders. */
export const ORDERS_MAX = 250
const NAME_PATTERN = /^(grant|revoke)-([0-9a-f]{32})\.json$/

/** One look at the inbox. What is worked out from many files is worked out once. */
type Sweep = {
  readonly context: RunnerContext
  /** The highest fence ever claimed, and how many orders there are; null until someone asks. */
  fence: number | null
  orders: number | null
  refusals: number
}

export function sweepInbox(context: RunnerContext): void {
  const { disk } = context.ports
  const { inbox, taken, refused } = context.layout
  const sweep: Sweep = { context, fence: null, orders: null, refusals: 0 }
  let isMoved = moveAllOut(sweep)
  // What could not be named is named now, so that a folder that is never empty does not start the runner for ever.
  if (disk.nameAll(inbox) > 0) isMoved = moveAllOut(sweep) || isMoved
  if (isMoved) for (const folder of [taken, refused, inbox]) disk.fsync(folder)
  const names = listNames(disk, taken)
  // A grant and its revoke may both have come before anyone looked: what only prevents is heeded first.
  const revokes = names.filter((name) => name.startsWith('revoke-'))
  for (const name of new Set([...revokes, ...names])) settleEntry(sweep, name)
  if (names.length > 0) for (const folder of [refused, taken]) disk.fsync(folder)
  if (sweep.refusals > TOLD_MAX) context.tell('-', 'claim', `refused ${sweep.refusals - TOLD_MAX} more in the same way`)
  pruneRefused(context)
}

function moveAllOut(sweep: Sweep): boolean {
  const names = listNames(sweep.context.ports.disk, sweep.context.layout.inbox)
  for (const name of names) moveOut(sweep, name)
  return names.length > 0
}

function moveOut(sweep: Sweep, name: string): void {
  const { disk } = sweep.context.ports
  const from = join(sweep.context.layout.inbox, name)
  try {
    const facts = disk.factsOf(from)
    if (facts === null) return
    const problem = !NAME_PATTERN.test(name)
      ? 'its name is neither grant-ORDER.json nor revoke-ORDER.json'
      : facts.kind !== 'file'
        ? `it is no regular file but a ${facts.kind}`
        : facts.size > ENTRY_BYTES_MAX
          ? `it has ${facts.size} bytes, more than ${ENTRY_BYTES_MAX}`
          : null
    if (problem !== null) refuse(sweep, from, name, problem)
    else disk.rename(from, join(sweep.context.layout.taken, name))
  } catch (error) {
    // Its owner took it away or put another in its place between two calls; what stands there now comes next time.
    if (codeOf(error) === '') throw error
    tellRefusal(sweep, '-', `${JSON.stringify(name)} can't be moved out (${codeOf(error)})`)
  }
}

/** The name in `refused/` is never the agent's own, unless it has the form that was checked. */
function refuse(sweep: Sweep, from: string, name: string, reason: string): void {
  const { disk, now } = sweep.context.ports
  const { refused } = sweep.context.layout
  const match = NAME_PATTERN.exec(name)
  const kept = match === null ? 'entry' : name
  let to = join(refused, `${now()}-${kept}`)
  for (let n = 1; disk.factsOf(to) !== null; n += 1) to = join(refused, `${now()}.${n}-${kept}`)
  // In a flood what comes later is not worth keeping.
  if (sweep.refusals < REFUSED_MAX) disk.rename(from, to)
  else disk.remove(from)
  tellRefusal(sweep, match?.[2] ?? '-', `refused ${JSON.stringify(name)}: ${reason}`)
}

function tellRefusal(sweep: Sweep, order: string, text: string): void {
  sweep.refusals += 1
  if (sweep.refusals <= TOLD_MAX) sweep.context.tell(order, 'claim', text)
}

function pruneRefused(context: RunnerContext): void {
  const { disk } = context.ports
  const names = listNames(disk, context.layout.refused)
  for (const name of names.slice(0, Math.max(0, names.length - REFUSED_MAX))) {
    try {
      disk.remove(join(context.layout.refused, name))
    } catch (error) {
      // A folder still belongs to whoever made it, who may go on filling it.
      context.tell('-', 'claim', `${name} in refused/ can't be removed: ${codeOf(error) || String(error)}`)
    }
  }
}

/** What lay in the inbox, read once: its owner may have it open and change it at any time. */
type Taken = { readonly name: string; readonly from: string; readonly order: string; readonly bytes: Buffer }

function settleEntry(sweep: Sweep, name: string): void {
  const from = join(sweep.context.layout.taken, name)
  const read = readEntry(sweep.context.ports.disk, from)
  if (typeof read === 'string') return refuse(sweep, from, name, read)
  const { entry, bytes } = read
  const taken: Taken = { name, from, order: NAME_PATTERN.exec(name)?.[2] ?? '', bytes }
  if (entry.type === 'grant') return settleGrant(sweep, taken, entry.grant)
  if (name !== revokeEntryName(entry.order))
    return refuse(sweep, from, name, 'it names another order than its file name')
  settleRevoke(sweep, taken)
}

/** The entry and the bytes that it was read from, or what is wrong with it. */
function readEntry(disk: Disk, path: string): { readonly entry: InboxEntry; readonly bytes: Buffer } | string {
  let bytes: Buffer
  let value: unknown
  try {
    // A file that was swapped for a link or grew since it was looked at fails here.
    bytes = readIfExists(disk, path, ENTRY_BYTES_MAX) ?? Buffer.alloc(0)
    value = JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    if (error instanceof SyntaxError) return 'it is no JSON'
    if (codeOf(error) !== '') return `it can't be read: ${codeOf(error)}`
    throw error
  }
  // An entry may have a fault in each of two million places; the first will do.
  const checked = v.safeParse(inboxEntrySchema, value, { abortEarly: true })
  if (checked.success) return { entry: checked.output, bytes }
  const where = (checked.issues[0].path ?? []).map((item) => String(item.key)).join('.')
  return `it does not have the form of an entry: ${where} ${checked.issues[0].message}`
}

function settleRevoke(sweep: Sweep, { name, from, order }: Taken): void {
  const { context } = sweep
  const { disk } = context.ports
  const fate = readFate(disk, orderLayoutOf(context.layout, order))
  if (fate?.fate === 'claim') return refuse(sweep, from, name, 'the order is claimed already')
  sweep.orders ??= knownOrders(disk, context.layout).length
  if (fate === null && sweep.orders >= ORDERS_MAX)
    return refuse(sweep, from, name, `${sweep.orders} orders are known here already`)
  voidOrder(context, order, 'the grant was revoked before it was claimed')
  sweep.orders += 1
  disk.remove(from)
}

function settleGrant(sweep: Sweep, { name, from, order, bytes }: Taken, grant: SignedGrant): void {
  const { context } = sweep
  const { disk, now } = context.ports
  const files = orderLayoutOf(context.layout, order)
  const fate = readFate(disk, files)
  if (fate?.fate === 'claim' && readIfExists(disk, files.grant, ENTRY_BYTES_MAX)?.equals(bytes) === true) {
    // The crash came between the claim and this removal; or it is a replay, which is the same to us.
    writeFence(context, fate.fence)
    return refuse(sweep, from, name, 'the order has its claim already')
  }
  if (fate !== null) return refuse(sweep, from, name, `the order has its ${fate.fate} already`)
  const keys = keysOf(context)
  if (typeof keys === 'string') return refuse(sweep, from, name, keys)
  const fence = () => (sweep.fence ??= fenceHighWater(disk, context.layout))
  const judged = judgeGrant(grant, { keys, fence, now: now() })
  if (!judged.ok) {
    // Only what the coordinator really signed for this very order can end it; "it never started" is then on disk.
    if (judged.order === order) voidOrder(context, order, `the grant was not claimed: ${judged.reason}`)
    return refuse(sweep, from, name, judged.reason)
  }
  if (judged.payload.order !== order) return refuse(sweep, from, name, 'it grants another order than its file name')
  disk.makeFolder(files.folder, 0o751)
  disk.fsync(context.layout.orders)
  writeFileDurably(disk, files.grant, bytes, { mode: 0o640 })
  writeFileDurably(disk, files.plan, `${JSON.stringify(grant.plan)}\n`, { mode: 0o640 })
  setFate(context, order, { fate: 'claim', fence: judged.payload.fence, at: now() })
  writeFence(context, judged.payload.fence)
  sweep.fence = null
  disk.remove(from)
  disk.fsync(context.layout.taken)
  context.tell(
    order,
    'claim',
    `claimed for ${judged.payload.change} with fence ${judged.payload.fence}, attempt ${judged.payload.attempt}`,
  )
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
