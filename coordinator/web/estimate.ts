/**
 * How long a project will still take, from the machines that it has done: pure. The middle (median) of what they took
 * counts, so that one machine that stood in a hold for a night does not make the rest look endless.
 */
import type { MachineStatus, Status } from '../../protocol/status.ts'

export type Estimate = {
  /** When the last machine would be done if nothing stopped it from now on. */
  readonly endAt: number
  readonly perMachineMs: number
  /** How many machines it is made from. */
  readonly from: number
}

export const UNSTARTED: ReadonlySet<string> = new Set(['planned', 'offered', 'ready'])
export const AT_WORK: ReadonlySet<string> = new Set(['granted', 'running', 'rebooting', 'verifying'])

export function machinesOf(status: Status): MachineStatus[] {
  return status.phases.flatMap((phase) => phase.bags.flatMap((bag) => bag.machines))
}

/** Null while no machine has shown how long one takes, and when nothing is left to do. */
export function estimateOf(machines: readonly MachineStatus[], now: number): Estimate | null {
  const runs = machines
    .flatMap(({ state, startedAt, endedAt }) =>
      state === 'succeeded' && startedAt !== null && endedAt !== null ? [{ startedAt, endedAt }] : [],
    )
    .toSorted((a, b) => a.startedAt - b.startedAt)
  const active = machines.find(({ state }) => AT_WORK.has(state))
  const left = machines.filter(({ state }) => UNSTARTED.has(state)).length
  if (runs.length === 0 || (left === 0 && active === undefined)) return null
  const perMachineMs = middle(runs.map((run) => run.endedAt - run.startedAt))
  const gapMs = middle(runs.slice(1).map((run, index) => Math.max(0, run.startedAt - (runs[index]?.endedAt ?? 0))))
  const activeMs = active === undefined ? 0 : Math.max(0, perMachineMs - (now - (active.startedAt ?? now)))
  return { endAt: now + activeMs + left * (perMachineMs + gapMs), perMachineMs, from: runs.length }
}

function middle(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
}
