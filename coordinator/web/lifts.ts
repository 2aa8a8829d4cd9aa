/**
 * What a person may do about a stop or a machine: the same that the commands do, for the roles that may. The core
 * decides once more; a button that it would refuse costs a refusal with its remedy, and nothing else.
 */
import type { Stop } from '../../protocol/status.ts'
import type { Action } from './dialog.tsx'
import { may } from './state.ts'

export const UNFREEZE: Action = {
  label: 'Unfreeze',
  about: 'Every line of the instance goes on as far as nothing else stops it.',
  command: 'smith unfreeze',
  name: 'unfreeze',
  input: { body: {} },
  reason: 'allowed',
  tone: 'strong',
}

/** What lifts the stop of a project, and what else there is to decide about its machine. */
export function liftsOf(change: string, stop: Stop): Action[] {
  const { code, machine, lift } = stop
  if (code === 'frozen') return may('admin') ? [UNFREEZE] : []
  if (machine !== null && (code === 'failed' || code === 'drift')) return decisionsOf(change, machine, 'failed')
  if (machine !== null && code === 'unknown') return decisionsOf(change, machine, 'unknown')
  if (!may('requester', 'admin')) return []
  return [
    ...(lift.startsWith('smith resume') ? [resume(change)] : []),
    ...(machine !== null && code === 'offline' ? [skip(change, machine)] : []),
  ]
}

/** A machine that failed is retried, skipped or resolved; one of which nobody knows is only resolved. */
export function decisionsOf(change: string, machine: string, state: string): Action[] {
  if (!may('requester', 'admin')) return []
  const known = state === 'failed' ? [retry(change, machine), skip(change, machine)] : []
  return [...known, resolve(change, machine, 'succeeded'), resolve(change, machine, 'failed')]
}

function retry(change: string, machine: string): Action {
  return {
    label: 'Retry',
    about: `Tries ${machine} again, under the same change.`,
    command: `smith retry ${change} ${machine}`,
    name: 'retry',
    input: { params: { change }, body: { machine } },
    reason: 'allowed',
    tone: 'strong',
  }
}

function skip(change: string, machine: string): Action {
  return {
    label: 'Skip',
    about: `Leaves ${machine} out of ${change}; the next machine follows.`,
    command: `smith skip ${change} ${machine} --reason REASON`,
    name: 'skip',
    input: { params: { change }, body: { machine } },
    reason: 'needed',
    tone: 'quiet',
  }
}

function resolve(change: string, machine: string, as: 'succeeded' | 'failed'): Action {
  return {
    label: `Resolve as ${as}`,
    about: `You say that the run on ${machine} ${as}. Look at the machine before: nobody else will.`,
    command: `smith resolve ${change} ${machine} --as ${as} --reason REASON`,
    name: 'resolve',
    input: { params: { change }, body: { machine, as } },
    reason: 'needed',
    tone: 'quiet',
  }
}

function resume(change: string): Action {
  return {
    label: 'Resume',
    about: `${change} goes on with its next machine.`,
    command: `smith resume ${change}`,
    name: 'resume',
    input: { params: { change }, body: {} },
    reason: 'allowed',
    tone: 'strong',
  }
}
