/**
 * `command.json` of an order: what the wrapper is to start and what the hook is to let pass. The runner writes it,
 * wrapper and hook only read; all three are root's.
 */
import * as v from 'valibot'
import { countSchema } from '../../protocol/ids.ts'
import { planSchema } from '../../protocol/plan.ts'
import { createExclusively, type Disk, readIfExists } from '../disk/disk.ts'
import type { OrderLayout } from '../disk/layout.ts'

const commandSchema = v.strictObject({
  order: v.string(),
  try: countSchema,
  /** `dpkg --configure -a`, when the plan has repairs. */
  repair: v.nullable(v.array(v.string())),
  install: v.array(v.string()),
  environment: v.record(v.string(), v.string()),
  /** The plan of right before the latch, which was compared with the approved one. */
  plan: planSchema,
  /** Where the output of the install begins. */
  outputOffset: countSchema,
  /** What the kernel had killed of this unit for want of memory before. */
  memoryKills: v.optional(countSchema, 0),
})
export type InstallCommand = v.InferOutput<typeof commandSchema>

export function readCommand(disk: Disk, files: OrderLayout): InstallCommand | null {
  const bytes = readIfExists(disk, files.command)
  return bytes === null ? null : v.parse(commandSchema, JSON.parse(bytes.toString('utf8')))
}

/** How apt ended. A missing file with the lock free means that the wrapper was killed. */
const exitSchema = v.strictObject({
  status: v.nullable(v.number()),
  signal: v.nullable(v.string()),
  problem: v.nullable(v.string()),
  /** Exit status of `dpkg --configure -a`, null when it was not run. */
  repairStatus: v.nullable(v.number()),
  startedAt: countSchema,
  endedAt: countSchema,
})
export type InstallExit = v.InferOutput<typeof exitSchema>

export function readExit(disk: Disk, files: OrderLayout): InstallExit | null {
  const bytes = readIfExists(disk, files.exit)
  return bytes === null ? null : v.parse(exitSchema, JSON.parse(bytes.toString('utf8')))
}

/**
 * Who took the latch: the wrapper, as its last act before apt; or the runner, to end an order for which apt never
 * began, so that no wrapper that is still on its way can begin (`ending` is then the result that was decided); or
 * the runner for a run that only reboots.
 */
const latchSchema = v.variant('by', [
  v.strictObject({ by: v.literal('wrapper'), at: countSchema, try: countSchema }),
  v.strictObject({ by: v.literal('runner'), at: countSchema, ending: v.unknown() }),
  v.strictObject({ by: v.literal('reboot'), at: countSchema }),
])
export type Latch = v.InferOutput<typeof latchSchema>

export function readLatch(disk: Disk, files: OrderLayout): Latch | null {
  const bytes = readIfExists(disk, files.latch)
  return bytes === null ? null : v.parse(latchSchema, JSON.parse(bytes.toString('utf8')))
}

export function takeLatch(disk: Disk, files: OrderLayout, latch: Latch): boolean {
  return createExclusively(disk, files.latch, `${JSON.stringify(latch)}\n`)
}

/** The number of the try at work; 0 before the first. */
export function readTry(disk: Disk, files: OrderLayout): number {
  const text = readIfExists(disk, files.tries, 64)?.toString('utf8').trim() ?? ''
  return /^[0-9]{1,9}$/.test(text) ? Number(text) : 0
}
