/**
 * Which facts of the journal are acts: what somebody did or was refused, what a provider decided, and where the
 * coordinator by itself granted or held. Pure. Everything else in the journal tells how it went. Called by the stores,
 * which mark the rows that have one, and by the interface, which lists them.
 */
import type { Fact, FactName } from '../../protocol/feed.ts'

const ACTS: ReadonlySet<FactName> = new Set<FactName>([
  'requestMade',
  'requestRefused',
  'changeRaised',
  'changeDecided',
  'changeApproved',
  'changeRejected',
  'changeWithdrawn',
  'orderGranted',
  'machineResolved',
  'machineSkipped',
  'retryAsked',
  'stopSet',
  'paused',
  'resumed',
  'cancelAsked',
  'frozen',
  'unfrozen',
  'machineEnrolled',
  'machineRetired',
  'machineQuarantined',
  'enrolmentMade',
  'enrolmentRevoked',
  'userAdded',
  'userRevoked',
  'scheduleMade',
  'scheduleRemoved',
  'scheduleFired',
  'rightRefused',
  'backupMade',
  'reportAsked',
  'loggedIn',
  'loggedOut',
])

export function isAct(fact: Fact): boolean {
  if (!ACTS.has(fact.fact)) return false
  // A preview changes nothing; what the machines' answers refused is how a request that stands there already went.
  if (fact.fact === 'requestMade') return fact.state !== 'preview'
  if (fact.fact === 'requestRefused') return fact.request === undefined
  return fact.fact !== 'stopSet' || fact.state === 'hold'
}
