/** One claimed order in the runner's hands: its grant, its files, its records, and small helpers of all steps. */
import { join } from 'node:path'
import * as v from 'valibot'
import {
  type Cause,
  type GrantPayload,
  grantPayloadSchema,
  inboxEntrySchema,
  type Result,
  type Step,
} from '../../protocol/files.ts'
import { type Plan, type PlanEvidence } from '../../protocol/plan.ts'
import { type AptFolders, aptFoldersOf, type AptTarget } from '../apt/command.ts'
import type { Diagnosis } from '../apt/diagnosis.ts'
import { type PackageState, parseAutomatic, parseDpkgStatus } from '../apt/parsers.ts'
import { dpkgStatusText, readMachineFile } from '../apt/planning.ts'
import { isRebootDue } from '../apt/reboot.ts'
import type { ProcessEnd, ProcessSpec } from '../apt/processes.ts'
import { codeOf, readIfExists, writeFileDurably } from '../disk/disk.ts'
import { type OrderLayout, orderLayoutOf } from '../disk/layout.ts'
import type { Programs, RunnerContext } from './ports.ts'
import { openRecords, type RecordLog } from './records.ts'

/** The last lines of a step are what a diagnosis looks at. */
const DIAGNOSED_BYTES_MAX = 4 * 1024 * 1024

export type Order = {
  readonly id: string
  readonly context: RunnerContext
  readonly files: OrderLayout
  readonly folders: AptFolders
  readonly target: AptTarget
  readonly payload: GrantPayload
  readonly approved: Plan
  readonly evidence: PlanEvidence
  readonly records: RecordLog
}

/** An order at work: `done` is called when its result is on disk. */
export type Run = { readonly order: Order; readonly programs: Programs; readonly done: () => void }

/** How a run is to end; the result is made of it. */
export type Ending = {
  readonly outcome: 'succeeded' | 'failed' | 'unknown'
  readonly cause: Cause | null
  readonly step: Step
  readonly message: string
  readonly evidence: readonly string[]
  readonly advice: readonly string[]
}

export function openOrder(context: RunnerContext, id: string): Order {
  const { disk, now } = context.ports
  const files = orderLayoutOf(context.layout, id)
  const text = readIfExists(disk, files.grant)?.toString('utf8')
  if (text === undefined) throw new Error(`${files.grant} is missing although the order is claimed`)
  const entry = v.parse(inboxEntrySchema, JSON.parse(text))
  if (entry.type !== 'grant') throw new Error(`${files.grant} holds no grant`)
  const payload = v.parse(grantPayloadSchema, JSON.parse(Buffer.from(entry.grant.payload, 'base64').toString('utf8')))
  return {
    id,
    context,
    files,
    folders: { ...aptFoldersOf(files.apt), output: files.output },
    target: { root: context.config.aptRoot },
    payload,
    approved: entry.grant.plan,
    evidence: entry.grant.evidence,
    records: openRecords(
      { disk, now, tell: (step, line) => context.tell(id, step, line) },
      files,
      context.config.limits.outputBytesMax,
    ),
  }
}

export function failed(step: Step, diagnosis: Diagnosis): Ending {
  return { outcome: 'failed', step, ...diagnosis }
}

export function failedFor(
  step: Step,
  cause: Cause,
  message: string,
  evidence: readonly string[],
  advice: readonly string[],
): Ending {
  return { outcome: 'failed', cause, step, message, evidence, advice }
}

/** Writes the result, the last record. */
export function endOrder(order: Order, ending: Ending, latched: boolean): Result {
  const { disk, now } = order.context.ports
  if (latched) {
    const run = { at: now(), order: order.id, change: order.payload.change }
    writeFileDurably(disk, order.context.layout.lastRun, `${JSON.stringify(run)}\n`, { mode: 0o644 })
  }
  const result = order.records.end({
    outcome: ending.outcome,
    cause: ending.cause,
    step: ending.step,
    message: ending.message.slice(0, 2000),
    evidence: ending.evidence.slice(0, 40).map((line) => line.slice(0, 2000)),
    advice: ending.advice.slice(0, 20).map((line) => line.slice(0, 2000)),
    latched,
    rebootPending: rebootDue(order),
    installed: installedOf(order).slice(0, 4000),
  })
  // What was downloaded has done its duty; lists and configuration stay as evidence.
  disk.remove(order.folders.cache)
  return result
}

export function rebootDue(order: Order): boolean {
  return isRebootDue(order.context.ports, order.target, order.context.config.rebootWhen)
}

export function statusOf(order: Order): Map<string, PackageState> {
  return parseDpkgStatus(dpkgStatusText(order.context.ports.disk, order.target))
}

export function automaticOf(order: Order): Set<string> {
  return parseAutomatic(readMachineFile(order.context.ports.disk, order.target, '/var/lib/apt/extended_states'))
}

/** What is installed now of the packages in the plan: `name:arch=version`. */
function installedOf(order: Order): string[] {
  const status = statusOf(order)
  const keys = new Set(
    [...order.approved.installs, ...order.approved.repairs, ...order.approved.removes].map(
      (one) => `${one.name}:${one.arch}`,
    ),
  )
  return [...keys].flatMap((key) => {
    const state = status.get(key)
    return state?.state === 'installed' ? [`${key}=${state.version}`] : []
  })
}

/** How many records the coordinator has, by the agent's word: it can only bring forward what a grant already allows. */
export function ackedUpTo(order: Order): number {
  const { disk } = order.context.ports
  try {
    const text = readIfExists(disk, join(order.context.layout.acked, order.id), 64)?.toString('utf8').trim() ?? ''
    return /^[0-9]{1,15}$/.test(text) ? Number(text) : 0
  } catch (error) {
    // Whatever else it put there is no acknowledgement.
    if (codeOf(error) === '') throw error
    return 0
  }
}

/** Runs a program whose output belongs to the order, and gives what it printed when it has ended. */
export function runStep(order: Order, spec: ProcessSpec, then: (end: ProcessEnd, printed: string) => void): void {
  const { disk } = order.context.ports
  order.records.drain(true)
  const from = disk.factsOf(order.files.output)?.size ?? 0
  order.context.ports.processes.start({ ...spec, output: order.files.output }, (end) => {
    order.records.drain(true)
    then(end, outputSince(order, from))
  })
}

export function outputSince(order: Order, from: number): string {
  const { disk } = order.context.ports
  const size = disk.factsOf(order.files.output)?.size ?? 0
  const start = Math.max(from, size - DIAGNOSED_BYTES_MAX)
  return disk.read(order.files.output, start, size - start).toString('utf8')
}
