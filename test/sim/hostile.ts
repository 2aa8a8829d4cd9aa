/**
 * Who has got between a machine and its coordinator, or into the unprivileged half of a machine, and has everything
 * but the order key: grants signed with another key, grants overheard and said again, to others too, and grants with
 * a field changed. Not one of them may be claimed (the ledger judges each claim).
 */
import { sign } from 'node:crypto'
import { GRANT_SIGNATURE_PREFIX, type SignedGrant } from '../../protocol/files.ts'
import { keyOf, sha256 } from './givens.ts'
import type { Dice } from './random.ts'

/** The number of a key with which no machine was enrolled. */
const THEIR_KEY = -1
const HEARD_MAX = 50

type Heard = { readonly order: string; readonly grant: SignedGrant }

/** Owns the grants that were overheard. */
export class Hostile {
  readonly #dice: Dice
  readonly #heard: Heard[] = []

  constructor(dice: Dice) {
    this.#dice = dice
  }

  overhear(text: string): void {
    if (!text.startsWith('{"t":"grant"') || this.#heard.length >= HEARD_MAX) return
    const { order, grant } = JSON.parse(text) as Heard
    this.#heard.push({ order, grant })
  }

  /** Another plan with the very grant that is under way, so that it is there first; mostly none. */
  forestall(text: string): Heard | null {
    if (!text.startsWith('{"t":"grant"') || !this.#dice.chance(0.3)) return null
    const { order, grant } = JSON.parse(text) as Heard
    return { order, grant: otherPlan(grant) }
  }

  /** A grant for this machine that no coordinator gave; null before any was overheard. */
  forge(machine: string): Heard | null {
    const dice = this.#dice
    if (this.#heard.length === 0) return null
    const heard = dice.pick(this.#heard)
    const payload = JSON.parse(Buffer.from(heard.grant.payload, 'base64').toString()) as Record<string, unknown>
    const order = dice.chance(0.5) ? heard.order : dice.hex(32)
    const wanted = { ...payload, order, machine, fence: Number(payload['fence']) + dice.below(3) }
    const later = { issuedAt: Number(payload['issuedAt']) + 60_000, startBy: Number(payload['startBy']) + 60_000 }
    switch (dice.below(5)) {
      case 0:
        return heard
      case 1:
        return { order, grant: this.#signed(heard.grant, wanted, THEIR_KEY) }
      case 2:
        // Signed with another key, and said to be of the right one.
        return {
          order,
          grant: { ...this.#signed(heard.grant, { ...wanted, ...later }, THEIR_KEY), keyId: heard.grant.keyId },
        }
      case 3:
        return { order, grant: { ...heard.grant, payload: base64({ ...wanted, ...later }) } }
      default: {
        // The grant is as it was, and the plan with it another.
        return { order: heard.order, grant: otherPlan(heard.grant) }
      }
    }
  }

  #signed(grant: SignedGrant, payload: object, number: number): SignedGrant {
    const text = base64(payload)
    const { key, publicBase64 } = keyOf(number)
    const bytes = Buffer.concat([Buffer.from(GRANT_SIGNATURE_PREFIX), Buffer.from(text, 'base64')])
    const keyId = sha256(Buffer.from(publicBase64, 'base64'))
    return { ...grant, payload: text, signature: sign(null, bytes, key).toString('base64'), keyId }
  }

  /** What an unprivileged half might leave in its inbox: a name and a text. */
  litter(machine: string): { readonly name: string; readonly text: string } {
    const dice = this.#dice
    const forged = this.forge(machine)
    const order = forged?.order ?? dice.hex(32)
    const entry = JSON.stringify({ type: 'grant', grant: forged?.grant ?? {} })
    return dice.pick([
      { name: `grant-${order}.json`, text: entry },
      { name: `grant-${dice.hex(32)}.json`, text: entry },
      { name: `grant-${order}.json`, text: entry.slice(0, dice.below(entry.length)) },
      { name: `grant-${order}.json`, text: '' },
      { name: `revoke-${dice.hex(32)}.json`, text: JSON.stringify({ type: 'revoke', order: dice.hex(32) }) },
      { name: 'grant-..json', text: entry },
      { name: dice.hex(200), text: dice.hex(50) },
      { name: '.hidden', text: entry },
    ])
  }
}

function otherPlan(grant: SignedGrant): SignedGrant {
  const installs = grant.plan.installs.map((one) => ({ ...one, version: `${one.version}.9` }))
  return { ...grant, plan: { ...grant.plan, installs } }
}

function base64(payload: object): string {
  return Buffer.from(JSON.stringify(payload)).toString('base64')
}
