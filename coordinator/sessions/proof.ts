/**
 * Whether an `auth` frame proves that its sender holds the key of the machine that it names. Called by session.ts.
 * The key is the one stored at enrolment, never one that came with the connection; and nothing is concluded from a
 * counter before the signature over it holds, else anyone could have a machine quarantined.
 */
import { createPublicKey, verify } from 'node:crypto'
import { type AgentFrame, authText } from '../../protocol/agent.ts'
import type { CloseReason } from '../../protocol/errors.ts'
import type { Machine } from '../domain/state.ts'

export type Proof = {
  readonly isKeyProved: boolean
  /** Null when the proof holds; `stale` when the key is right and its counter was used before. */
  readonly end: CloseReason | 'stale' | null
  readonly problem: string
}

export function checkProof(claim: {
  readonly frame: Extract<AgentFrame, { t: 'auth' }>
  readonly row: Machine | undefined
  readonly nonce: string
  readonly incarnation: string
  readonly counterMin: number
}): Proof {
  const { frame, row } = claim
  if (row === undefined) {
    return {
      isKeyProved: false,
      end: 'unauthenticated',
      problem: `machine ${frame.machine} is not enrolled here; enrol it again`,
    }
  }
  const text = authText({
    coordinatorNonce: claim.nonce,
    agentNonce: frame.nonce,
    machine: frame.machine,
    incarnation: claim.incarnation,
    counter: frame.counter,
  })
  if (!verifies(row.publicKey, text, frame.signature)) {
    return {
      isKeyProved: false,
      end: 'unauthenticated',
      problem: `the signature is not by the key that ${row.name} enrolled with`,
    }
  }
  if (row.state === 'retired') {
    return { isKeyProved: true, end: 'notAllowed', problem: `${row.name} was retired; enrol the machine again` }
  }
  if (row.quarantined !== null) {
    return { isKeyProved: true, end: 'quarantined', problem: `${row.name} is quarantined: ${row.quarantined}` }
  }
  if (frame.counter < claim.counterMin) {
    return {
      isKeyProved: true,
      end: 'stale',
      problem: `counter ${frame.counter} was used before (next is ${claim.counterMin}): two machines hold one key`,
    }
  }
  return { isKeyProved: true, end: null, problem: '' }
}

/** False as well for a stored key or a signature that is none at all. */
function verifies(publicKey: string, text: string, signature: string): boolean {
  try {
    const key = createPublicKey({ key: Buffer.from(publicKey, 'base64'), format: 'der', type: 'spki' })
    return key.asymmetricKeyType === 'ed25519' && verify(null, Buffer.from(text), key, Buffer.from(signature, 'base64'))
  } catch {
    return false
  }
}
