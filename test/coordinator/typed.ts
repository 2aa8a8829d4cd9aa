/** What stands behind `Lift:` as the command that a person types. */
import type { Command } from '../../coordinator/domain/events.ts'

/** To the letter; null when it asks to wait, or for something on the machine. */
export function typed(text: string): Command | null {
  const [words] = text.split(', or ')
  const match = /smith (approve|resume|unfreeze|retry|skip|resolve|cancel)(?: (CHG[0-9]{7}))?(?: ([a-z0-9.-]+))?/.exec(
    words ?? '',
  )
  if (match === null) return null
  const [, verb, change = '', machine = ''] = match
  switch (verb) {
    case 'resume':
    case 'cancel':
      return { type: verb, change, reason: '' }
    case 'unfreeze':
      return { type: 'unfreeze', reason: '' }
    case 'retry':
    case 'skip':
      return { type: verb, change, machine, reason: 'REASON' }
    case 'resolve':
      return { type: 'resolve', change, machine, as: 'failed', reason: 'REASON' }
    default:
      return { type: 'decide', change, decision: 'approve', digest: '', reason: '' }
  }
}
