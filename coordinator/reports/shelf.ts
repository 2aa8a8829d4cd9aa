/**
 * Where health reports are kept: a file each, by machine, in the state folder; bounded by age, by number for each
 * machine and by bytes in all. What must be known without opening one stands in its name. Used by reports.ts.
 */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import * as v from 'valibot'
import { idSchema, instantSchema } from '../../protocol/ids.ts'
import { machineReportSchema, REPORT_JSON_BYTES_MAX } from '../../protocol/report.ts'

const keptSchema = v.strictObject({
  report: idSchema,
  machine: idSchema,
  name: v.string(),
  by: v.string(),
  askedAt: instantSchema,
  order: v.nullable(idSchema),
  change: v.nullable(v.string()),
  /** Why it has nothing of the machine itself; null when it has. */
  problem: v.nullable(v.string()),
  summary: v.string(),
  of: machineReportSchema,
})
export type Kept = v.InferOutput<typeof keptSchema>
/** What its name says of a report. */
export type Label = {
  readonly machine: string
  readonly report: string
  readonly at: number
  readonly order: string | null
  readonly isOfMachine: boolean
  /** False while it is not sure that it was told of. */
  readonly isTold: boolean
  readonly bytes: number
}

export type ShelfLimits = {
  readonly keepMs: number
  readonly perMachineMax: number
  readonly bytesMax: number
  /** Of those that are held unpacked, in bytes of their JSON; without it UNPACKED_BYTES_MAX. */
  readonly unpackedBytesMax?: number
}
export type Shelf = {
  /** On disk when it returns; the oldest go for it. It takes the place of one with its id. */
  readonly put: (kept: Kept, isTold?: boolean) => void
  readonly get: (machine: string, report: string) => Kept | undefined
  /** The newest first. */
  readonly labels: (machine: string) => readonly Label[]
  /** Marks one as told of. */
  readonly told: (machine: string, report: string) => void
  /** Those that a crash may have kept from being told, the oldest first. */
  readonly untold: () => readonly Label[]
  /** Lets go of what is beyond its age, and of what is held unpacked. */
  readonly prune: () => void
}

/** The largest that the protocol allows, with what the coordinator adds, has room. */
const UNPACKED_BYTES_MAX = REPORT_JSON_BYTES_MAX * 1.5
/** What is not told of has the mark, so that a name without it needs no other look. */
const NAME = /^([0-9]{1,16})-([0-9a-f]{32})-([0-9a-f]{32}|none)-(machine|coordinator)(-untold)?\.json\.gz$/

export function openShelf(folder: string, limits: ShelfLimits, now: () => number): Shelf {
  const index = indexOf(folder)
  const unpacked = createUnpacked(limits.unpackedBytesMax ?? UNPACKED_BYTES_MAX)
  const isFresh = (label: Label) => now() - label.at <= limits.keepMs
  const labelsOf = (machine: string) => (index.get(machine) ?? []).filter(isFresh)
  const find = (machine: string, report: string) => labelsOf(machine).find((one) => one.report === report)
  const drop = (label: Label) => {
    rmSync(pathOf(folder, label), { force: true })
    unpacked.drop(label)
    index.set(
      label.machine,
      (index.get(label.machine) ?? []).filter((one) => one !== label),
    )
  }
  const prune = () => {
    for (const labels of index.values()) for (const label of labels.slice(limits.perMachineMax)) drop(label)
    const all = [...index.values()].flat().toSorted((a, b) => a.at - b.at)
    let bytes = all.reduce((sum, label) => sum + label.bytes, 0)
    for (const label of all) {
      if (isFresh(label) && bytes <= limits.bytesMax) continue
      drop(label)
      bytes -= label.bytes
    }
  }
  /** `label` is on disk; what bore its id until now is not wanted any more. */
  const replace = (label: Label) => {
    const others = index.get(label.machine) ?? []
    for (const same of others.filter((one) => one.report === label.report))
      if (pathOf(folder, same) !== pathOf(folder, label)) rmSync(pathOf(folder, same), { force: true })
    index.set(label.machine, newestFirst([label, ...others.filter((one) => one.report !== label.report)]))
  }
  prune()
  return {
    put: (kept, isTold = true) => {
      const packed = gzipSync(JSON.stringify(kept))
      const { machine, report, askedAt: at, order } = kept
      const label = { machine, report, at, order, isOfMachine: kept.problem === null, isTold, bytes: packed.length }
      mkdirSync(join(folder, machine), { recursive: true, mode: 0o700 })
      writeDurably(pathOf(folder, label), join(folder, machine), packed)
      unpacked.drop(label)
      replace(label)
      prune()
    },
    get: (machine, report) => {
      const label = find(machine, report)
      return label === undefined ? undefined : unpacked.get(label, () => readFileSync(pathOf(folder, label)))
    },
    labels: labelsOf,
    told: (machine, report) => {
      const label = find(machine, report)
      if (label === undefined || label.isTold) return
      // Not synced: it is told once more at worst.
      renameSync(pathOf(folder, label), pathOf(folder, { ...label, isTold: true }))
      replace({ ...label, isTold: true })
    },
    untold: () =>
      [...index.keys()]
        .flatMap((machine) => labelsOf(machine).filter((label) => !label.isTold))
        .toSorted((a, b) => a.at - b.at),
    prune: () => {
      // Who reads one reads all of its files at once; after that it would only take memory.
      unpacked.clear()
      prune()
    },
  }
}

function newestFirst(labels: readonly Label[]): readonly Label[] {
  return labels.toSorted((a, b) => b.at - a.at)
}

/** By machine, as the names in `folder` say. */
function indexOf(folder: string): Map<string, readonly Label[]> {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const index = new Map<string, readonly Label[]>()
  for (const machine of readdirSync(folder)) {
    if (!v.is(idSchema, machine)) continue
    const labels = readdirSync(join(folder, machine)).flatMap((name) => labelOf(folder, machine, name))
    index.set(machine, newestFirst(labels))
  }
  return index
}

/** The reports that were read last, so that all the files of one cost one unpacking. */
function createUnpacked(bytesMax: number) {
  const held = new Map<string, { readonly kept: Kept; readonly bytes: number }>()
  const keyOf = ({ machine, report }: Label) => `${machine}/${report}`
  return {
    get: (label: Label, read: () => Buffer): Kept => {
      const key = keyOf(label)
      const found = held.get(key) ?? unpackKept(read())
      held.delete(key)
      held.set(key, found)
      let bytes = [...held.values()].reduce((sum, one) => sum + one.bytes, 0)
      for (const [oldest, one] of held) {
        if (bytes <= bytesMax) break
        held.delete(oldest)
        bytes -= one.bytes
      }
      return found.kept
    },
    drop: (label: Label) => void held.delete(keyOf(label)),
    clear: () => held.clear(),
  }
}

function unpackKept(packed: Buffer): { readonly kept: Kept; readonly bytes: number } {
  const bytes = gunzipSync(packed, { maxOutputLength: REPORT_JSON_BYTES_MAX * 2 })
  return { kept: v.parse(keptSchema, JSON.parse(bytes.toString('utf8'))), bytes: bytes.length }
}

function pathOf(folder: string, { machine, report, at, order, isOfMachine, isTold }: Label): string {
  const of = `${isOfMachine ? 'machine' : 'coordinator'}${isTold ? '' : '-untold'}`
  return join(folder, machine, `${at}-${report}-${order ?? 'none'}-${of}.json.gz`)
}

function labelOf(folder: string, machine: string, name: string): Label[] {
  const path = join(folder, machine, name)
  const [, at = '', report = '', order = '', of = '', untold] = NAME.exec(name) ?? []
  if (at === '') {
    // What a crash left of a write.
    rmSync(path, { force: true })
    return []
  }
  return [
    {
      ...{ machine, report, at: Number(at), order: order === 'none' ? null : order },
      ...{ isOfMachine: of === 'machine', isTold: untold === undefined, bytes: statSync(path).size },
    },
  ]
}

function writeDurably(path: string, folder: string, bytes: Buffer): void {
  const partial = `${path}.partial`
  try {
    writeSynced(partial, bytes)
    renameSync(partial, path)
    syncFolder(folder)
  } catch (error) {
    // What is left of it would keep a full disk full.
    rmSync(partial, { force: true })
    throw error
  }
}

function writeSynced(path: string, bytes: Buffer): void {
  const fd = openSync(path, 'w', 0o600)
  try {
    for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

function syncFolder(folder: string): void {
  const fd = openSync(folder, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
