/**
 * `smith-patch` from the question to the number of its change. Called by commands.ts, and again when the person has
 * confirmed or a restart cut it off. The invariant: one talk raises one change, since what it asks bears one key.
 */
import type { PlanView, RequestView } from '../../protocol/http.ts'
import { RefusedError } from '../../protocol/errors.ts'
import { parseRequest } from '../domain/request.ts'
import type { Client } from '../client/client.ts'
import { isUnreachable } from '../client/failure.ts'
import { locate } from '../client/locate.ts'
import { waitUnless } from '../client/target.ts'
import { countText } from '../client/text.ts'
import { type Instance, findChange } from './instances.ts'
import { code, escaped, refusalText, withButtons } from './markup.ts'
import type { Entry } from './messages.ts'
import { type Offer, offerKey } from './offers.ts'
import { type Told, livingKey, livingText, toldKey } from './projects.ts'
import type { Talking } from './talking.ts'
import { RAISING, confirmText, lostText, planBlock, planText, raisedText } from './texts.ts'

export const CONFIRM = 'smith_confirm'
export const DECLINE = 'smith_decline'
export const APPROVE = 'smith_approve'
export const REJECT = 'smith_reject'

/** How long one question may wait for its answer; less than a call may take. */
const WAIT_SECONDS = '5'
/** Planning has its own bounds; this one is for an instance that does not come back. */
const SETTLE_MS_MAX = 30 * 60_000

export async function patch(talking: Talking, text: string, named: string | null): Promise<void> {
  const previewed = await preview(talking, text, named)
  if (previewed === null) return
  const { view, instance } = previewed
  const machines = view.plan?.machines.length ?? view.total
  const { config } = talking.ports
  if (machines > config.confirmAbove && view.plan !== null && !talking.talk.confirmed) {
    offerConfirmation(talking, instance, view.plan, text)
    return
  }
  await raise(talking, instance, text)
}

/** What would be done, and by which instance; null when that was refused, which is then said. */
export async function preview(
  talking: Talking,
  text: string,
  named: string | null,
): Promise<{ readonly view: RequestView; readonly instance: Instance } | null> {
  const parsed = parseRequest(text)
  if (!parsed.ok) {
    talking.say('refused', refusalText(parsed.refusals, text))
    return null
  }
  const { build, outageMinutes } = parsed.parsed
  const reboot = outageMinutes === 0 ? 'no reboot' : `up to ${outageMinutes} minutes of outage each`
  talking.say('got', `Got it: ${code(text)} (build ${code(build)}, ${reboot}). Planning ...`)
  const instance = await instanceFor(talking, text, named)
  if (instance === null) return null
  const client = instance.as(talking.person)
  const view = await settled(talking, client, { text, preview: true, key: talking.requestKey('preview') })
  if (view.state !== 'refused') return { view, instance }
  talking.say('refused', refusalText(view.refusals, text))
  return null
}

async function instanceFor(talking: Talking, text: string, named: string | null): Promise<Instance | null> {
  const meant = talking.instancesMeant(talking.talk.instance ?? named)
  const located = await locate(
    meant.map((instance) => instance.bot()),
    text,
  )
  switch (located.kind) {
    case 'one': {
      const { name } = located.client.target
      talking.put([], { instance: name })
      return meant.find((instance) => instance.name === name) ?? null
    }
    case 'none':
      talking.say('refused', refusalText(located.refusals, null))
      return null
    case 'several': {
      const lines = located.byInstance.map(({ name, words }) => `${escaped(name)}: ${words.map(code).join(' ')}`)
      const all = `These machines are on several instances, and a request is for one:\n${lines.join('\n')}`
      talking.say('refused', `${all}\nNothing was raised. Ask for each by itself.`)
      return null
    }
    case 'out-of-reach': {
      const why = lostText(located.name, located.why)
      talking.say(
        'refused',
        `${why}\nNothing was raised. Try again, or name the instance that is meant: \`instance:NAME\`.`,
      )
      return null
    }
  }
}

/** Asks until the request is settled; an instance out of reach is asked again, since the key makes it one request. */
async function settled(
  talking: Talking,
  client: Client,
  body: { readonly text: string; readonly preview?: boolean; readonly key: string },
): Promise<RequestView> {
  const { timers, times, signal, now } = talking.ports
  const until = now() + SETTLE_MS_MAX
  let view: RequestView | null = null
  for (;;) {
    signal.throwIfAborted()
    try {
      view =
        view === null
          ? await client.call('requestMake', { body })
          : await client.call('request', { params: { request: view.request }, query: { wait: WAIT_SECONDS } })
    } catch (error) {
      if (!isUnreachable(error) || now() > until) throw error
      talking.say('lost', `${lostText(client.target.name, error.message)} I keep trying.`)
      await waitUnless(timers, times.reconnect, signal)
    }
    if (view !== null && view.state !== 'planning' && view.state !== 'raising') return view
    if (now() > until)
      throw new RefusedError([
        { kind: 'unavailable', message: 'the request was not settled in time', remedy: 'look with smith-status' },
      ])
  }
}

function offerConfirmation(talking: Talking, instance: Instance, plan: PlanView, text: string): void {
  const nonce = talking.ports.newId()
  const count = countText(plan.machines.length, 'machine')
  const outage = parseRequest(text).parsed.outageMinutes
  const shown = confirmText(plan, outage)
  const names = plan.machines.map((machine) => machine.name).join(', ')
  const offer: Offer = {
    ...{ kind: 'confirm', instance: instance.name, talk: talking.talk.id, change: null, digest: null },
    ...{ user: talking.talk.user, message: talking.keyOf('confirm'), text: shown },
    ...{ state: 'open', by: null, decision: null, outcome: null },
  }
  // What stands there once it was decided is without this line.
  const content = withButtons(`${shown}\nNothing is raised yet.`, [
    {
      action: CONFIRM,
      value: nonce,
      label: `Raise for ${count}`,
      style: 'primary',
      confirm: { title: `Raise a change for ${count}?`, text: `${names}; outage ${outage} minutes each`, yes: 'Raise' },
    },
    { action: DECLINE, value: nonce, label: "Don't" },
  ])
  const said = talking.saying('confirm', content)
  // Said before, by a life of this talk that was cut off right after: its offer holds.
  talking.put(said.length === 0 ? [] : [...said, [offerKey(nonce), offer]], { state: 'asking' })
}

async function raise(talking: Talking, instance: Instance, text: string): Promise<void> {
  talking.say('raising', RAISING)
  const client = instance.as(talking.person)
  const view = await settled(talking, client, { text, key: talking.requestKey('patch') })
  const { change } = view
  if (change === null) {
    talking.say('refused', refusalText(view.refusals, text))
    return
  }
  const plan = await client.call('plan', { params: { change } })
  const { view: project } = await findChange(instance, talking.person, change)
  const told: Told = {
    ...{ channel: talking.talk.channel, thread: talking.talk.thread, instance: instance.name, change },
    ...{ user: talking.talk.user, offer: null, isOpen: true },
  }
  const entries: Entry[] = [...talking.saying('raised', raisedText(change))]
  const link = linkOf(plan)
  const isWaiting = project?.status.state === 'pending'
  const nonce = isWaiting && plan.decideAt === undefined ? talking.ports.newId() : null
  entries.push(...approvalEntries(talking, { instance, change, plan, nonce, link }))
  if (planText(plan).length > 2500) {
    const title = `${change} plan.txt`
    entries.push(...talking.saying('plan-file', title, { kind: 'plan', instance: instance.name, of: change, title }))
  }
  const living = project === null ? code(change) : livingText(project)
  const { messages } = talking.ports
  entries.push(...messages.made(livingKey(instance.name, change), told, { text: living }))
  entries.push([toldKey(instance.name, change), { ...told, offer: nonce }])
  talking.put(entries, { state: 'done' })
  talking.ports.onRaised({ instance: instance.name, change })
}

/** The plan that is to be approved: with buttons where smith itself keeps the approvals, with a link elsewhere. */
function approvalEntries(
  talking: Talking,
  given: {
    readonly instance: Instance
    readonly change: string
    readonly plan: PlanView
    readonly nonce: string | null
    readonly link: string | null
  },
): Entry[] {
  const { instance, change, plan, nonce, link } = given
  const shown = planBlock(plan, 2700)
  if (nonce === null) return talking.saying('plan', link === null ? shown : `${shown}\n<${link}|Approve ${change}>`)
  const offer: Offer = {
    ...{ kind: 'approve', instance: instance.name, talk: talking.talk.id, change, digest: plan.digest },
    ...{ user: talking.talk.user, message: talking.keyOf('plan'), text: shown },
    ...{ state: 'open', by: null, decision: null, outcome: null },
  }
  const count = countText(plan.machines.length, 'machine')
  const content = withButtons(shown, [
    {
      action: APPROVE,
      value: nonce,
      label: `Approve ${change}`,
      style: 'primary',
      confirm: { title: `Approve ${change}?`, text: `${count}, digest ${plan.digest.slice(0, 16)}...`, yes: 'Approve' },
    },
    {
      action: REJECT,
      value: nonce,
      label: `Reject ${change}`,
      style: 'danger',
      confirm: { title: `Reject ${change}?`, text: `Nothing will be done on ${count}.`, yes: 'Reject' },
    },
  ])
  return [...talking.saying('plan', content), [offerKey(nonce), offer]]
}

/** Where a change is approved outside of smith, in a form that can't break out of a link. */
function linkOf({ decideAt }: PlanView): string | null {
  return decideAt !== undefined && /^https?:\/\/[^\s|<>]+$/.test(decideAt) ? decideAt : null
}
