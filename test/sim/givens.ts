/** What every simulated world has: its settings, its people, its plans, and how many faults of which kind. */
import { createHash } from 'node:crypto'
import type { Plan } from '../../protocol/plan.ts'
import type { Settings } from '../../coordinator/domain/events.ts'
import type { Actor } from '../../coordinator/domain/state.ts'
import type { Dice } from './random.ts'

export const SETTINGS: Settings = {
  instance: 'sim',
  regions: [],
  clusters: [],
  approval: { requesterMayApprove: false, localAdminMayApprove: false },
  schedule: { timezone: 'UTC', windows: [], blackouts: [], runMsExpected: 900_000 },
  limits: {
    machinesPerRequestMax: 100,
    plansInParallelMax: 3,
    prefetchAheadMax: 2,
    planTimeMsMax: 60_000,
    waitMsMax: 600_000,
    silenceMsMax: 90_000,
    grantLifeMs: 600_000,
    permissionAgeMsMax: 10_000,
    permissionRetryMs: 10_000,
    changePollMs: 15_000,
  },
}
export const FAULTS_MS = 40 * 60_000
export const HEALING_MS = 8 * 3_600_000
/** How long after the last project ended the machines may still send what they have. */
export const SETTLING_MS = 10 * 60_000

export type Person = Extract<Actor, { kind: 'person' }>
export const PEOPLE: readonly Person[] = [
  { kind: 'person', name: 'ana', roles: ['requester', 'approver', 'admin'] },
  { kind: 'person', name: 'bo', roles: ['requester', 'approver', 'admin'] },
]

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

export function planOf(version: string): Plan {
  const install = { name: 'hello', arch: 'amd64', version, from: '1.0', sha256: sha256(version), size: 1 }
  return {
    v: 1,
    build: 'prod',
    arch: 'amd64',
    installs: [install],
    removes: [],
    repairs: [],
    holds: [],
    rebootDue: false,
    conffiles: 'keep',
  }
}

/** Rates in faults a two minutes; 0 for none. */
export type Faults = {
  readonly cut: number
  readonly killAgent: number
  readonly killRunner: number
  readonly plug: number
  readonly crash: number
  readonly drift: number
  readonly failRate: number
  readonly delayMsMax: number
}

/** Each seed turns a random half of the faults on. */
export function chooseFaults(dice: Dice): Faults {
  const rate = (most: number) => (dice.chance(0.5) ? dice.between(1, most) : 0)
  return {
    cut: rate(6),
    killAgent: rate(3),
    killRunner: rate(3),
    plug: rate(1),
    crash: rate(3),
    drift: rate(1),
    failRate: dice.chance(0.5) ? dice.pick([0.05, 0.2, 0.5]) : 0,
    delayMsMax: dice.pick([5, 200, 3000]),
  }
}
