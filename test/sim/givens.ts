/** What every simulated world has: its settings, its people, its keys, and how long it lasts. */
import { createHash, createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto'
import { type AgentConfig, checkAgentConfig } from '../../agent/config.ts'
import type { Settings } from '../../coordinator/domain/events.ts'
import type { Actor } from '../../coordinator/domain/state.ts'

/** A permission may be this old when it is used: a withdrawal in between does not count yet. */
export const PERMISSION_AGE_MS_MAX = 10_000
export const SETTINGS: Settings = {
  instance: 'sim',
  regions: [],
  clusters: [],
  trains: [],
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
    permissionAgeMsMax: PERMISSION_AGE_MS_MAX,
    permissionRetryMs: 10_000,
    changePollMs: 15_000,
  },
}
export const FAULTS_MS = 12 * 60_000
export const HEALING_MS = 3 * 3_600_000
/** No honest world has so many things happen; one that does goes round in a circle. */
export const EVENTS_MAX = 120_000
/** How long after the last project ended the machines may still send what they have. */
export const SETTLING_MS = 10 * 60_000
export const TOKEN_TEXT = { coordinator: 'https://coordinator:7600' }
export const SILENT = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }

export type Person = Extract<Actor, { kind: 'person' }>
export const PEOPLE: readonly Person[] = [
  { kind: 'person', name: 'ana', roles: ['requester', 'approver', 'admin'] },
  { kind: 'person', name: 'bo', roles: ['requester', 'approver', 'admin'] },
]

export function sha256(text: string | Uint8Array): string {
  return createHash('sha256').update(text).digest('hex')
}

/** The key of a number: the same in every run, since Ed25519 makes one of any 32 bytes (RFC 8410 section 7). */
export function keyOf(number: number): {
  readonly key: KeyObject
  readonly pem: string
  readonly publicBase64: string
} {
  const known = keys.get(number)
  if (known !== undefined) return known
  const seed = createHash('sha256').update(`key ${number}`).digest()
  const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed])
  const key = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
  const publicBase64 = createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('base64')
  const made = { key, pem: key.export({ type: 'pkcs8', format: 'pem' }).toString(), publicBase64 }
  keys.set(number, made)
  return made
}
const keys = new Map<number, ReturnType<typeof keyOf>>()

const CONFIG_TEXT = `
coordinator = "${TOKEN_TEXT.coordinator}"
state_dir = "/state"
log_file = "/log"
repos_dir = "/repos"
checks_dir = "/checks"
[limits]
health = 5
settle = 1
offline = 120
ping = 30
dead = 90
`

/** Every machine's configuration; how often files are looked at is the seed's. */
export function configOf(pollMs: number): AgentConfig {
  const config = checkAgentConfig(CONFIG_TEXT, 'agent.toml')
  if ('refusals' in config) throw new Error(config.refusals[0]?.message)
  return { ...config, limits: { ...config.limits, pollMs } }
}
