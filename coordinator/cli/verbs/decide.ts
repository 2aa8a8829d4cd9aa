/**
 * The verbs that decide about a project or the whole instance: approve, reject, pause, resume, cancel, retry, skip,
 * resolve, freeze, unfreeze. The invariants: an approval is of the one digest that the person saw or named, and
 * nothing that stops asks a question first.
 */
import type { Command } from 'commander'
import type { PlanView } from '../../../protocol/http.ts'
import type { Client } from '../../client/client.ts'
import { type Context, changeArgument, changeOrRequestArgument, machineArgument } from '../context.ts'
import { ClientError, EXIT, usageError } from '../../client/failure.ts'
import { isInteractive } from '../io.ts'
import { planLines } from '../../client/plan-text.ts'
import { askYes } from '../prompt.ts'
import { visible } from '../../client/text.ts'
import { type Run, acting, example } from './verb.ts'

type Reason = { readonly reason?: string }
const NUMBER = 'the number of the change'

export function addDecide(parent: Command, run: Run): void {
  addApprove(parent, run)
  addWhole(parent, run, 'reject', 'refuse the approval; the project ends without a run', 'is rejected')
  addWhole(parent, run, 'pause', 'grant nothing more until resume; the machine at work ends its run', 'is paused')
  addWhole(parent, run, 'resume', 'go on after a pause or a hold, or end the soak of a phase', 'goes on')
  addWhole(parent, run, 'cancel', 'end the project after the machine at work', 'is being cancelled')
  addMachineVerbs(parent, run)
  for (const [verb, said] of [
    ['freeze', 'is frozen: nothing is granted until: smith unfreeze'],
    ['unfreeze', 'is no longer frozen'],
  ] as const) {
    const command = parent
      .command(verb)
      .description(verb === 'freeze' ? 'grant nothing in the whole instance' : 'lift the freeze')
      .option('--reason <reason>', 'why')
      .action(
        acting(run, async (context, options: Reason) => {
          const client = context.client()
          const done = await client.call(verb, { body: options })
          return say(context, done, `Instance ${client.target.name} ${said}.`)
        }),
      )
    example(command, verb === 'freeze' ? "smith freeze --reason 'storage is down'" : 'smith unfreeze')
  }
}

function addWhole(
  parent: Command,
  run: Run,
  verb: 'reject' | 'pause' | 'resume' | 'cancel',
  help: string,
  said: string,
) {
  const command = parent
    .command(verb)
    .description(help)
    .argument('<change>', verb === 'cancel' ? `${NUMBER}, or the id of its request while it has none` : NUMBER)
    .option('--reason <reason>', 'why')
    .action(
      acting(run, async (context, text: string, options: Reason) => {
        const change = verb === 'cancel' ? changeOrRequestArgument(text) : changeArgument(text)
        const done = await context.client().call(verb, { params: { change }, body: options })
        return say(context, done, `${change} ${said}.`)
      }),
    )
  example(command, `smith ${verb} CHG0268453${verb === 'reject' ? " --reason 'wrong week'" : ''}`)
}

function addMachineVerbs(parent: Command, run: Run): void {
  const retry = parent
    .command('retry')
    .description('try a failed machine once more, in a new order')
    .argument('<change>', 'the number of the change')
    .argument('<machine>', 'the name of the machine')
    .option('--reason <reason>', 'why')
    .action(
      acting(run, async (context, change: string, machine: string, options: Reason) => {
        const at = placeOf(change, machine)
        const body = { machine: at.machine, ...options }
        const done = await context.client().call('retry', { params: { change: at.change }, body })
        return say(context, done, `${at.machine} will be tried again.`)
      }),
    )
  example(retry, 'smith retry CHG0268453 prod-dal10-carrier3-worker-11')

  const skip = parent
    .command('skip')
    .description('leave a machine out and go on with the next')
    .argument('<change>', 'the number of the change')
    .argument('<machine>', 'the name of the machine')
    .requiredOption('--reason <reason>', 'why; it stands on the change')
    .action(
      acting(run, async (context, change: string, machine: string, options: { reason: string }) => {
        const at = placeOf(change, machine)
        const body = { machine: at.machine, reason: options.reason }
        const done = await context.client().call('skip', { params: { change: at.change }, body })
        return say(context, done, `${at.machine} is skipped.`)
      }),
    )
  example(skip, "smith skip CHG0268453 prod-dal10-carrier3-worker-11 --reason 'disk is being replaced'")

  const resolve = parent
    .command('resolve')
    .description('say how a run ended that smith lost sight of')
    .argument('<change>', 'the number of the change')
    .argument('<machine>', 'the name of the machine')
    .requiredOption('--as <outcome>', 'succeeded or failed')
    .requiredOption('--reason <reason>', 'how you know; it stands on the change')
    .action(
      acting(run, async (context, change: string, machine: string, options: { as: string; reason: string }) => {
        const at = placeOf(change, machine)
        const as = outcomeOf(options.as)
        const body = { machine: at.machine, as, reason: options.reason }
        const done = await context.client().call('resolve', { params: { change: at.change }, body })
        return say(context, done, `${at.machine} is resolved as ${as}.`)
      }),
    )
  example(
    resolve,
    "smith resolve CHG0268453 prod-dal10-carrier3-worker-11 --as failed --reason 'board died, seen on site'",
  )
}

const placeOf = (change: string, machine: string) => ({
  change: changeArgument(change),
  machine: machineArgument(machine),
})

function outcomeOf(text: string): 'succeeded' | 'failed' {
  if (text === 'succeeded' || text === 'failed') return text
  throw usageError(`--as ${text} is no outcome`, 'Give --as succeeded or --as failed.')
}

async function say(context: Context, done: { readonly rev: number }, text: string): Promise<number> {
  if (context.json) await context.outJson(done)
  else await context.out(text)
  return EXIT.done
}

function addApprove(parent: Command, run: Run): void {
  const approve = parent
    .command('approve')
    .description('approve the plan of a change, by its digest')
    .argument('<change>', 'the number of the change')
    .option('--digest <digest>', 'the digest to approve; needed when nobody sits at a terminal')
    .option('--reason <reason>', 'a remark that stands on the change')
    .action(
      acting(run, async (context, text: string, options: Reason & { digest?: string }) => {
        return approveVerb(context, context.client(), changeArgument(text), options)
      }),
    )
  example(approve, 'smith approve CHG0268453', 'smith approve CHG0268453 --digest DIGEST')
}

async function approveVerb(
  context: Context,
  client: Client,
  change: string,
  options: Reason & { digest?: string },
): Promise<number> {
  const plan: PlanView = await client.call('plan', { params: { change } })
  if (plan.decideAt !== undefined) {
    throw new ClientError(
      EXIT.refused,
      `${change} is approved where it was raised, not here; nothing was approved`,
      `Open: ${visible(plan.decideAt)}`,
    )
  }
  if (options.digest === undefined && !isInteractive(context.io)) {
    throw usageError(
      'off a terminal an approval needs the digest that was seen',
      `See it with: smith status ${change} --json (or its plan, on a terminal: smith approve ${change}); then add --digest DIGEST.`,
    )
  }
  if (!context.json) await context.out(planLines(plan, context.paint).join('\n'))
  if (options.digest !== undefined && options.digest !== plan.digest) {
    throw new ClientError(
      EXIT.refused,
      `the digest of ${change} is ${visible(plan.digest)}, not the one given; nothing was approved`,
      `Look at the plan, then type: smith approve ${change} --digest ${visible(plan.digest)}`,
    )
  }
  if (options.digest === undefined) {
    const yes = await askYes(context.io, `Approve ${change} with just this plan?`, context.signal)
    if (!yes) {
      await context.note('Nothing was approved.')
      return EXIT.refused
    }
  }
  // The digest shown is the digest sent: what changes in between is refused by the coordinator.
  const body = { digest: plan.digest, ...(options.reason === undefined ? {} : { reason: options.reason }) }
  const done = await client.call('approve', { params: { change }, body })
  return say(context, done, `${change} is approved.`)
}
