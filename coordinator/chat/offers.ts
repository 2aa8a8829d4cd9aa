/**
 * What a person may click: kept in the ledger under a random name, which is all that a button carries. So a click can
 * say nothing but which offer it takes; what the offer is of (a request, a digest) was fixed when it was shown. An
 * offer is taken once; who comes later is told who took it.
 */
import type { Ledger } from '../ports.ts'
import type { Entry, Messages } from './messages.ts'

export type Offer = {
  readonly kind: 'confirm' | 'approve'
  readonly instance: string
  /** The conversation that goes on when it is confirmed. */
  readonly talk: string
  readonly change: string | null
  readonly digest: string | null
  /** The Slack user who asked for the patch. */
  readonly user: string
  /** The message that has the buttons, and its text without them. */
  readonly message: string
  readonly text: string
  readonly state: 'open' | 'deciding' | 'closed'
  readonly by: string | null
  readonly decision: string | null
  readonly outcome: string | null
}
export type Offers = { readonly ledger: Ledger; readonly messages: Messages }

export const offerKey = (nonce: string) => `offer/${nonce}`

export function offerOf({ ledger }: Pick<Offers, 'ledger'>, nonce: string): Offer | null {
  return /^[0-9a-f]{32}$/.test(nonce) ? ((ledger.get(offerKey(nonce)) as Offer | undefined) ?? null) : null
}

/** The buttons go, and what became of it stands in their place. */
export function closedOffer({ ledger, messages }: Offers, nonce: string, outcome: string): Entry[] {
  const offer = offerOf({ ledger }, nonce)
  if (offer === null || offer.state === 'closed') return []
  return [
    [offerKey(nonce), { ...offer, state: 'closed', outcome }],
    ...messages.changed(offer.message, { text: `${offer.text}\n${outcome}` }),
  ]
}
