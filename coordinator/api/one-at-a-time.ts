/**
 * Long looks at the store, one after another: what they read is read synchronously, so that side by side they would
 * take all the time from the turns. Used by the handlers of the audit's check and of the search in a log.
 */
import type { WhenGone } from './waiters.ts'

/** `isGone` says that nobody waits for the answer any more. */
export type Work<Value> = (isGone: () => boolean) => Promise<Value>

export function createQueue(): <Value>(work: Work<Value>, whenGone: WhenGone) => Promise<Value> {
  let last: Promise<unknown> = Promise.resolve()
  return (work, whenGone) => {
    const caller = { isGone: false }
    const stopListening = whenGone(() => (caller.isGone = true))
    const begin = () => work(() => caller.isGone).finally(stopListening)
    // That the one before failed says nothing about this one.
    const mine = last.then(begin, begin)
    last = mine
    return mine
  }
}
