/**
 * What becomes of a click. Slack was told already that it arrived. A click says who and which offer; everything else
 * is decided here and, for an approval, by the instance: its own rules, the person's own roles, and the digest that
 * was shown. Who comes too late is told who came first.
 */
import { RefusedError } from '../../protocol/errors.ts'
import { isUnreachable } from '../client/failure.ts'
import type { Ledger, Log } from '../ports.ts'
import { type Instance, findChange, whyLost } from './instances.ts'
import { escaped, timeText } from './markup.ts'
import type { Messages } from './messages.ts'
import { type Offer, closedOffer, offerKey, offerOf } from './offers.ts'
import { APPROVE, CONFIRM, DECLINE, REJECT } from './patch.ts'
import type { ChatConfig, Slack } from './ports.ts'
import type { Talk } from './talking.ts'
import type { Talks } from './talks.ts'

export type Click = {
  readonly user: string
  readonly action: string
  readonly nonce: string
  readonly responseUrl: string | null
}
export type ClicksPorts = {
  readonly config: ChatConfig
  readonly ledger: Ledger
  readonly messages: Messages
  readonly talks: Talks
  readonly slack: Slack
  readonly instances: readonly Instance[]
  readonly now: () => number
  readonly log: Log
}

export type Clicks = {
  /** Notes the click on disk where it decides something; what follows goes on by itself. */
  readonly take: (click: Click) => void
  /** Finds out about decisions that a restart cut off. */
  readonly start: () => void
}

export function createClicks(ports: ClicksPorts): Clicks {
  const run = (work: Promise<void>) =>
    void work.catch((error: unknown) => ports.log.error({ err: error }, 'a click was not brought to its end'))
  return {
    take: (click) => {
      const whisper = (text: string) => {
        if (click.responseUrl !== null) run(ports.slack.whisper(click.responseUrl, text))
      }
      const offer = offerOf(ports, click.nonce)
      const fits = offer?.kind === (click.action === APPROVE || click.action === REJECT ? 'approve' : 'confirm')
      if (offer === null || !fits || ![APPROVE, REJECT, CONFIRM, DECLINE].includes(click.action)) {
        whisper('I no longer know what this button is for. Ask anew, or see `smith-status`.')
        return
      }
      const person = Object.hasOwn(ports.config.people, click.user) ? ports.config.people[click.user] : undefined
      if (person === undefined) {
        whisper(`I don't know you (\`${escaped(click.user)}\`), so I may do nothing for you.`)
        return
      }
      if (offer.state !== 'open') {
        // A delivery that comes twice is no second click.
        if (offer.by !== click.user) whisper(offer.outcome ?? `<@${offer.by ?? ''}> is at it already.`)
        return
      }
      if (offer.kind === 'confirm') confirm(ports, click, offer, whisper)
      else run(decide(ports, click, offer, person, whisper))
    },
    start: () => {
      for (const { key, doc } of ports.ledger.list(offerKey(''))) {
        const offer = doc as Offer
        if (offer.state === 'deciding') run(settle(ports, key.slice(offerKey('').length), offer))
      }
    },
  }
}

function confirm(ports: ClicksPorts, click: Click, offer: Offer, whisper: (text: string) => void): void {
  if (click.user !== offer.user) {
    whisper(`Only <@${offer.user}>, who asked, can say that.`)
    return
  }
  const key = `talk/${offer.talk}`
  const talk = ports.ledger.get(key) as Talk | undefined
  if (talk === undefined) {
    whisper('That was asked too long ago. Ask anew.')
    return
  }
  const isYes = click.action === CONFIRM
  const outcome = `${isYes ? 'Confirmed' : 'Not raised'}: <@${click.user}>, ${timeText(ports.now())}`
  const after: Talk = { ...talk, state: isYes ? 'open' : 'done', confirmed: isYes }
  ports.messages.put([...closedOffer(ports, click.nonce, outcome), [key, after]])
  if (isYes) ports.talks.go(offer.talk)
}

async function decide(
  ports: ClicksPorts,
  click: Click,
  offer: Offer,
  person: string,
  whisper: (text: string) => void,
): Promise<void> {
  const key = offerKey(click.nonce)
  const { change } = offer
  const instance = ports.instances.find((one) => one.name === offer.instance)
  if (change === null || instance === undefined) {
    whisper(`The instance ${escaped(offer.instance)} is no longer one of mine.`)
    return
  }
  const decision = click.action === APPROVE ? 'approve' : 'reject'
  const deciding: Offer = { ...offer, state: 'deciding', by: click.user, decision }
  ports.messages.put([[key, deciding]])
  const client = instance.as(person)
  const params = { change }
  try {
    if (decision === 'approve') await client.call('approve', { params, body: { digest: offer.digest ?? '' } })
    else await client.call('reject', { params, body: {} })
  } catch (error) {
    await settle(ports, click.nonce, deciding)
    if (isUnreachable(error)) whisper(`${escaped(error.message)}. Look with \`smith-status ${change}\`.`)
    else if (error instanceof RefusedError) {
      const why = error.refusals.map((refusal) => `${refusal.message}; ${refusal.remedy}`).join('\n')
      whisper(escaped(why))
    } else ports.log.error({ err: error, change }, 'a decision failed')
    return
  }
  ports.messages.put(closedOffer(ports, click.nonce, outcomeOf(ports, decision, click.user)))
}

function outcomeOf(ports: ClicksPorts, decision: string, user: string): string {
  return `${decision === 'approve' ? 'Approved' : 'Rejected'} by <@${user}>, ${timeText(ports.now())}`
}

/** After a refusal or a lost answer: what the change itself says counts, and else the buttons are good again. */
async function settle(ports: ClicksPorts, nonce: string, offer: Offer): Promise<void> {
  const instance = ports.instances.find((one) => one.name === offer.instance)
  const person = ports.config.people[offer.by ?? ''] ?? ''
  if (instance === undefined || offer.change === null) return
  const { view, lost } = await findChange(instance, person, offer.change)
  if (lost !== null) ports.log.warn({ why: whyLost(lost), change: offer.change }, 'a decision is not known')
  // Closed meanwhile by what the feed told.
  if (offerOf(ports, nonce)?.state !== 'deciding') return
  const isOurs = view !== null && view.status.approvedBy === person && offer.decision === 'approve'
  if (isOurs) ports.messages.put(closedOffer(ports, nonce, outcomeOf(ports, 'approve', offer.by ?? '')))
  else ports.messages.put([[offerKey(nonce), { ...offer, state: 'open', by: null, decision: null }]])
}
