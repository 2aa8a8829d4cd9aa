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
  readonly bytes: number
}

export type ShelfLimits = {
  readonly keepMs: number
  readonly perMachineMax: number
  readonly bytesMax: number
}
export type Shelf = {
  /** On disk when it returns; the oldest go for it. */
  readonly put: (kept: Kept) => void
  readonly get: (machine: string, report: string) => Kept | undefined
  /** The newest first. */
  readonly labels: (machine: string) => readonly Label[]
}

const NAME = /^([0-9]{1,16})-([0-9a-f]{32})-([0-9a-f]{32}|none)-(machine|coordinator)\.json\.gz$/

export function openShelf(folder: string, limits: ShelfLimits, now: () => number): Shelf {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const index = new Map<string, Label[]>()
  for (const machine of readdirSync(folder)) {
    if (!v.is(idSchema, machine)) continue
    const labels = readdirSync(join(folder, machine)).flatMap((name) => labelOf(folder, machine, name))
    index.set(
      machine,
      labels.toSorted((a, b) => b.at - a.at),
    )
  }
  const drop = (label: Label) => {
    rmSync(pathOf(folder, label), { force: true })
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
      if (now() - label.at <= limits.keepMs && bytes <= limits.bytesMax) continue
      drop(label)
      bytes -= label.bytes
    }
  }
  return {
    put: (kept) => {
      const packed = gzipSync(JSON.stringify(kept))
      const label: Label = {
        machine: kept.machine,
        report: kept.report,
        at: kept.askedAt,
        order: kept.order,
        isOfMachine: kept.problem === null,
        bytes: packed.length,
      }
      mkdirSync(join(folder, kept.machine), { recursive: true, mode: 0o700 })
      writeDurably(pathOf(folder, label), join(folder, kept.machine), packed)
      for (const same of (index.get(kept.machine) ?? []).filter((one) => one.report === kept.report)) drop(same)
      index.set(
        kept.machine,
        [label, ...(index.get(kept.machine) ?? [])].toSorted((a, b) => b.at - a.at),
      )
      prune()
    },
    get: (machine, report) => {
      const label = index.get(machine)?.find((one) => one.report === report)
      if (label === undefined) return undefined
      const bytes = gunzipSync(readFileSync(pathOf(folder, label)), { maxOutputLength: REPORT_JSON_BYTES_MAX * 2 })
      return v.parse(keptSchema, JSON.parse(bytes.toString('utf8')))
    },
    labels: (machine) => index.get(machine) ?? [],
  }
}

function pathOf(folder: string, { machine, report, at, order, isOfMachine }: Label): string {
  return join(folder, machine, `${at}-${report}-${order ?? 'none'}-${isOfMachine ? 'machine' : 'coordinator'}.json.gz`)
}

function labelOf(folder: string, machine: string, name: string): Label[] {
  const path = join(folder, machine, name)
  const [, at = '', report = '', order = '', of = ''] = NAME.exec(name) ?? []
  if (at === '') {
    // What a crash left of a write.
    rmSync(path, { force: true })
    return []
  }
  const bytes = statSync(path).size
  return [
    { machine, report, at: Number(at), order: order === 'none' ? null : order, isOfMachine: of === 'machine', bytes },
  ]
}

function writeDurably(path: string, folder: string, bytes: Buffer): void {
  const partial = `${path}.partial`
  const fd = openSync(partial, 'w', 0o600)
  try {
    for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(partial, path)
  const above = openSync(folder, 'r')
  try {
    fsyncSync(above)
  } finally {
    closeSync(above)
  }
}
