/** Programmer's errors are caught in production too: the turn is not committed and the coordinator ends. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`invariant broken: ${message}`)
}
