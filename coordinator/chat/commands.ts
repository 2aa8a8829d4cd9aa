/**
 * What each command of a talk does. Called by talks.ts, possibly again after a restart: see there. Every question to
 * an instance is asked in the name of the person, whose rights there decide.
 */
import { unreachable } from '../../protocol/errors.ts'
import { CHANGE_PATTERN } from '../../protocol/ids.ts'
import type { OrderView } from '../../protocol/http.ts'
import { isUnreachable } from '../client/failure.ts'
import { createLineMaker } from '../client/log-reader.ts'
import { countText } from '../client/text.ts'
import { type Instance, findChange, whyLost } from './instances.ts'
import { code, codeBlock, escaped, pieces } from './markup.ts'
import { patch, preview } from './patch.ts'
import type { Talking } from './talking.ts'
import { helpText, lostText, notHereText, planBlock, planText, tryingText } from './texts.ts'
import { type Said, type Verb, steered } from './words.ts'

const LOG_LINES = 20
const LOG_RECORDS = 200

export async function ask(talking: Talking, said: Said): Promise<void> {
  const { config, instances } = talking.ports
  if (said.verb === null) {
    const meant = said.nearest === null ? '' : ` Did you mean ${code(said.nearest)}?`
    const heard = said.word === '' ? 'I heard nothing.' : `${code(said.word)} is no command of mine.`
    talking.say('unknown', `${heard}${meant} For example: \`smith-status CHG0268453\`. \`smith-help\` shows all.`)
    return
  }
  if (said.verb === 'elsewhere') {
    const button = said.word === 'approve' || said.word === 'reject' ? ' or with the button under its plan' : ''
    talking.say('elsewhere', `That is done with ${code(`smith ${said.word}`)} on the command line${button}.`)
    return
  }
  if (said.instance !== null && talking.instancesMeant(said.instance).length === 0) {
    const known = instances.map((instance) => code(instance.name)).join(', ')
    talking.say('instance', `I know no instance ${code(said.instance)}, only ${known}.`)
    return
  }
  await run(talking, said.verb, said.rest, said.instance, config.name)
}

function run(talking: Talking, verb: Verb, rest: string, instance: string | null, name: string): Promise<void> {
  switch (verb) {
    case 'help':
      talking.say(
        'help',
        helpText(
          name,
          talking.ports.instances.map((one) => one.name),
        ),
      )
      return Promise.resolve()
    case 'status':
      return rest === '' ? list(talking, instance) : status(talking, rest, instance)
    case 'plan':
      return plan(talking, rest, instance)
    case 'logs':
      return logs(talking, rest, instance)
    case 'patch':
      return patch(talking, rest, instance)
    case 'pause':
    case 'resume':
    case 'cancel':
    case 'retry':
    case 'skip':
      return steer(talking, verb, rest, instance)
    default:
      return unreachable(verb)
  }
}

const NO_CHANGE = 'A change is `CHG` and seven digits; `smith-status` lists them.'

/** Each instance in turn, in the words of the runbook. */
async function status(talking: Talking, rest: string, named: string | null): Promise<void> {
  const change = rest.trim().split(/\s+/)[0]?.toUpperCase() ?? ''
  if (!CHANGE_PATTERN.test(change)) {
    talking.say('usage', `${code(rest)} is no change. ${NO_CHANGE}`)
    return
  }
  for (const instance of talking.instancesMeant(named)) {
    talking.say(`trying/${instance.name}`, tryingText(instance.name))
    const { view, lost } = await findChange(instance, talking.person, change)
    if (view !== null)
      pieces(escaped(view.text)).forEach((text, part) => talking.say(`status/${instance.name}/${part}`, text))
    else if (lost !== null) talking.say(`lost/${instance.name}`, lostText(instance.name, lost))
    else talking.say(`none/${instance.name}`, notHereText(change, instance.name))
  }
}

async function list(talking: Talking, named: string | null): Promise<void> {
  for (const instance of talking.instancesMeant(named)) {
    try {
      const { projects, frozen } = await instance.as(talking.person).call('projects', { query: { limit: '20' } })
      const lines = projects.map(
        (project) =>
          `${project.change ?? '(raising)'}  ${project.state}  ${project.title}  build ${project.build}  ${project.requester}${project.stop === null ? '' : `  ${project.stop}`}`,
      )
      const head = `smith instance in ${escaped(instance.name)}${frozen === null ? '' : ` is *frozen* by ${escaped(frozen.by)}`}:`
      talking.say(`list/${instance.name}`, `${head}\n${lines.length === 0 ? 'No projects.' : codeBlock(lines)}`)
    } catch (error) {
      talking.say(`lost/${instance.name}`, lostText(instance.name, whyLost(error)))
    }
  }
}

/** The one instance that has the change; says why when there is none, or more than one. */
async function holderOf(talking: Talking, change: string, named: string | null): Promise<Instance | null> {
  const meant = talking.instancesMeant(named)
  const found = await Promise.all(meant.map((instance) => findChange(instance, talking.person, change)))
  const having = found.filter(({ view }) => view !== null)
  const lost = found.filter((one) => one.lost !== null)
  if (having.length === 1 && having[0] !== undefined && (lost.length === 0 || meant.length === 1))
    return having[0].instance
  if (having.length > 1) {
    const names = having.map(({ instance }) => `\`instance:${instance.name}\``).join(' or ')
    talking.say('several', `${code(change)} is in several instances. Say which is meant: ${names}.`)
    return null
  }
  // One that can't be asked might have a change of this number too.
  for (const one of lost) talking.say(`lost/${one.instance.name}`, lostText(one.instance.name, one.lost ?? ''))
  const here = having[0]?.instance.name
  if (here !== undefined) talking.say('name', `It is in ${escaped(here)}. To mean that one: \`instance:${here}\`.`)
  if (lost.length === 0)
    for (const { instance } of found) talking.say(`none/${instance.name}`, notHereText(change, instance.name))
  return null
}

async function plan(talking: Talking, rest: string, named: string | null): Promise<void> {
  const change = rest.trim().toUpperCase()
  if (!CHANGE_PATTERN.test(change)) {
    const previewed = await preview(talking, rest, named)
    if (previewed === null) return
    const { view, instance } = previewed
    if (view.plan === null) talking.say('plan', `${countText(view.total, 'machine')}; the instance shows no plan.`)
    else talking.say('plan', `smith instance in ${escaped(instance.name)}:\n${planBlock(view.plan)}`)
    return
  }
  const instance = await holderOf(talking, change, named)
  if (instance === null) return
  const view = await instance.as(talking.person).call('plan', { params: { change } })
  talking.say('plan', planBlock(view))
  const title = `${change} plan.txt`
  if (planText(view).length > 3000)
    talking.say('file', title, { kind: 'plan', instance: instance.name, of: change, title })
}

async function logs(talking: Talking, rest: string, named: string | null): Promise<void> {
  const [first = '', second] = rest.trim().split(/\s+/)
  const change = first.toUpperCase()
  if (!CHANGE_PATTERN.test(change)) {
    talking.say('usage', `Type \`smith-logs CHG0268453 MACHINE\`. ${NO_CHANGE}`)
    return
  }
  const instance = await holderOf(talking, change, named)
  if (instance === null) return
  const client = instance.as(talking.person)
  const { orders } = await client.call('projectOrders', { params: { change } })
  const granted = orders.filter((order) => order.grantedAt !== null)
  const order = (second === undefined ? granted : granted.filter((one) => one.machine === second.toLowerCase())).at(-1)
  if (order === undefined) {
    const names = [...new Set(granted.map((one) => code(one.machine)))].slice(0, 20).join(', ')
    talking.say('none', `There is no log yet${names === '' ? '' : `; machines with a log: ${names}`}.`)
    return
  }
  const query = { after: String(Math.max(0, order.upTo - LOG_RECORDS)) }
  const { records } = await client.call('log', { params: { order: order.order }, query })
  const maker = createLineMaker(0)
  const lines = [...records.flatMap((record) => maker.take(order, record)), ...maker.flush()].slice(-LOG_LINES)
  talking.say('tail', `${headOf(order, change)}\n${codeBlock(lines.length === 0 ? ['(nothing)'] : lines)}`)
  const title = `${change} ${order.machine} ${order.order.slice(0, 8)} up to ${order.upTo}.log`
  if (order.upTo > 0) talking.say('file', title, { kind: 'log', instance: instance.name, of: order.order, title })
}

function headOf(order: OrderView, change: string): string {
  return `*${escaped(order.machine)}* ${code(change)} try ${order.attempt}, ${escaped(order.state)}:`
}

type Steering = 'pause' | 'resume' | 'cancel' | 'retry' | 'skip'
const DONE: Readonly<Record<Steering, (change: string, machine: string) => string>> = {
  pause: (change) => `${change} is paused.`,
  resume: (change) => `${change} goes on.`,
  cancel: (change) => `${change} is being cancelled.`,
  retry: (_, machine) => `${machine} will be tried again.`,
  skip: (_, machine) => `${machine} is skipped.`,
}

async function steer(talking: Talking, verb: Steering, rest: string, named: string | null): Promise<void> {
  const ofMachine = verb === 'retry' || verb === 'skip'
  const given = steered(rest, ofMachine)
  if (given === null || (ofMachine && (given.machine ?? '') === '') || (verb === 'skip' && given.reason === '')) {
    const example = { retry: ' MACHINE', skip: ' MACHINE REASON' }[verb as string] ?? ''
    talking.say('usage', `Type \`smith-${verb} CHG0268453${example}\`. ${NO_CHANGE}`)
    return
  }
  const { change, reason } = given
  const machine = given.machine ?? ''
  talking.say(
    'got',
    `Got it: ${verb} ${code(change)}${ofMachine ? ` ${code(machine)}` : ''}${reason === '' ? '' : ` (${escaped(reason)})`}.`,
  )
  if (talking.talk.called) {
    talking.say(
      'unsure',
      `I was interrupted, and whether that was done I don't know. Look with \`smith-status ${change}\`.`,
    )
    return
  }
  const instance = await holderOf(talking, change, named)
  if (instance === null) return
  talking.put([], { called: true })
  const client = instance.as(talking.person)
  const because = reason === '' ? {} : { reason }
  const params = { change }
  try {
    if (verb === 'retry') await client.call('retry', { params, body: { machine, ...because } })
    else if (verb === 'skip') await client.call('skip', { params, body: { machine, reason } })
    else await client.call(verb, { params, body: because })
  } catch (error) {
    if (isUnreachable(error)) {
      talking.say('unsure', `${escaped(error.message)}. Look with \`smith-status ${change}\`.`)
      return
    }
    throw error
  }
  talking.say('done', DONE[verb](code(change), code(machine)))
}
