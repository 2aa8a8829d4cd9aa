/**
 * Who was refused for want of a right is recorded, as who acted is: by the core for what it refused itself, and by the
 * interface for what it did not let through. Called by step.ts and by the local provider.
 */
import type { Refusal } from '../../protocol/errors.ts'
import type { Draft } from './draft.ts'
import type { Command, Event, Reply } from './events.ts'

export function refuseRight(draft: Draft, command: Command, refusal: Refusal): Reply {
  const change = 'change' in command ? { change: command.change.slice(0, 100) } : {}
  const machine = 'machine' in command ? { machine: command.machine } : {}
  draft.say({ fact: 'rightRefused', text: command.type, reason: refusal.message, ...change, ...machine })
  return { ok: false, refusals: [refusal] }
}

/** A call that never became a command. */
export function refuseCall(draft: Draft, event: Extract<Event, { type: 'callRefused' }>): Reply {
  draft.say({ fact: 'rightRefused', text: event.call, reason: event.reason })
  return { ok: true }
}
