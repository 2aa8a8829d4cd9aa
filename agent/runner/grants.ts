/**
 * Whether a grant may be claimed: signature over the exact bytes, key, machine, fence, time and plan hash. Pure but
 * for the cryptography. The runner believes nothing that this has not said yes to.
 */
import { createHash, createPublicKey, verify } from 'node:crypto'
import * as v from 'valibot'
import {
  GRANT_LIFE_MS_MAX,
  GRANT_SIGNATURE_PREFIX,
  type GrantPayload,
  grantPayloadSchema,
  type SignedGrant,
} from '../../protocol/files.ts'
import { planText } from '../../protocol/plan.ts'
import type { GrantKeys } from '../disk/grant-key.ts'

/** A machine whose clock is behind by more can't tell an old grant from a new one. */
const SKEW_MS_MAX = 300_000

export type Judged =
  | { readonly ok: true; readonly payload: GrantPayload }
  /** `order` only when the signature holds, so that a forged grant can't speak for an order. */
  | { readonly ok: false; readonly reason: string; readonly order: string | null }

/** `fence` is asked for only when the signature holds, since many files have to be read for it. */
export type GrantFacts = { readonly keys: GrantKeys; readonly fence: () => number; readonly now: number }

export function judgeGrant(grant: SignedGrant, facts: GrantFacts): Judged {
  const bytes = Buffer.from(grant.payload, 'base64')
  const key = facts.keys.keys.find((one) => one.keyId === grant.keyId)
  if (key === undefined)
    return no(`it is signed with the key ${grant.keyId.slice(0, 16)}..., which this machine was not enrolled with`)
  if (!isSigned(key, bytes, grant.signature)) return no('its signature does not hold')
  const payload = payloadOf(bytes)
  if (payload === null) return no('what is signed is no grant')
  const reason = objectionTo(payload, grant, facts)
  return reason === null ? { ok: true, payload } : { ok: false, reason, order: payload.order }
}

function no(reason: string): Judged {
  return { ok: false, reason, order: null }
}

function isSigned(key: { readonly keyId: string; readonly key: string }, bytes: Buffer, signature: string): boolean {
  const der = Buffer.from(key.key, 'base64')
  if (createHash('sha256').update(der).digest('hex') !== key.keyId) return false
  const publicKey = createPublicKey({ key: der, format: 'der', type: 'spki' })
  if (publicKey.asymmetricKeyType !== 'ed25519') return false
  return verify(
    null,
    Buffer.concat([Buffer.from(GRANT_SIGNATURE_PREFIX), bytes]),
    publicKey,
    Buffer.from(signature, 'base64'),
  )
}

function payloadOf(bytes: Buffer): GrantPayload | null {
  let value: unknown
  try {
    value = JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
  const checked = v.safeParse(grantPayloadSchema, value)
  return checked.success ? checked.output : null
}

function objectionTo(payload: GrantPayload, grant: SignedGrant, facts: GrantFacts): string | null {
  if (payload.machine !== facts.keys.machine) return `it is for another machine (${payload.machine})`
  const fence = facts.fence()
  if (payload.fence <= fence)
    return `its fence ${payload.fence} is not above ${fence}, the highest that was claimed here`
  if (payload.startBy - payload.issuedAt > GRANT_LIFE_MS_MAX)
    return 'it claims to be good for longer than a grant may be'
  if (payload.issuedAt - facts.now > SKEW_MS_MAX)
    return `it was issued in the future, at ${textOf(payload.issuedAt)}, and by this machine's clock it is ${textOf(facts.now)} (clock skew)`
  if (facts.now > payload.startBy)
    return `it came too late: it had to be claimed by ${textOf(payload.startBy)}, and by this machine's clock it is ${textOf(facts.now)}`
  if (createHash('sha256').update(planText(grant.plan)).digest('hex') !== payload.planHash)
    return 'the plan with it is not the one that was signed'
  if (grant.plan.build !== payload.build) return `its plan is of build ${grant.plan.build}, it of ${payload.build}`
  return null
}

function textOf(at: number): string {
  return new Date(at).toISOString()
}
