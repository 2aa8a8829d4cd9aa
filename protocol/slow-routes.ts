/**
 * Routes whose work grows with the journal: for how long the coordinator keeps their connection open, and the client
 * waits, in milliseconds. All others answer at once, or say themselves how long they wait (`?wait=`).
 */
export const SLOW_ROUTES: ReadonlyMap<string, number> = new Map([
  ['auditVerify', 1_800_000],
  ['backup', 1_800_000],
])
