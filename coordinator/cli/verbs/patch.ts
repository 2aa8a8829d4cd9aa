/**
 * `patch` and `plan`: asks for a preview, shows what was understood, raises the change, and follows it on wish. The
 * words are the same as in chat. The invariant: one `patch` raises one change, even when its answer was lost and it
 * was sent again, since both carry the same key.
 */
import type { Command } from 'commander'
import { RefusedError } from '../../../protocol/errors.ts'
import type { RequestView } from '../../../protocol/http.ts'
import type { Client } from '../../client/client.ts'
import type { Context } from '../context.ts'
import { ClientError, EXIT, isUnreachable, usageError } from '../../client/failure.ts'
import { locate } from '../../client/locate.ts'
import { wait } from '../../client/target.ts'
import { isInteractive } from '../io.ts'
import { createLive } from '../live.ts'
import { planLines } from '../../client/plan-text.ts'
import { followProject, isClosed, isFullSuccess } from '../project-follow.ts'
import { askYes } from '../prompt.ts'
import { shellWord } from '../../../protocol/shell-word.ts'
import { countText, visible } from '../../client/text.ts'
import { type Run, acting, example } from './verb.ts'

const POLL_MS = 100
const POLL_MS_MAX = 1000
const POLL_FAILURES_MAX = 30

const KEYS_HELP = `
The keys of a request, in any order:
  machines:    names, addresses and patterns of the machines
  outage:      minutes of outage declared for each; with 0 none is rebooted
  except:      machines to leave out
  offline:skip, busy:skip
               leave out machines that a pattern found and that can't be patched now
  phases:      cumulative shares of all machines, such as 1,10%,100%
  soak:        minutes between the phases
  on-failure:  stop (the default) or continue
  max-failures:
               go on after failures until so many machines (3) or so large a share (5%) have failed
  window:      START/END, such as 2026-11-24T22:00/2026-11-25T04:00 or 2026-11-24T22:00/04:00, in the time zone of
               the coordinator unless it says another (Z, +01:00); nothing is granted outside of it
`

export function addPatch(parent: Command, run: Run): void {
  const patch = parent
    .command('patch')
    .description('ask for a patch: shows the plan, then raises the change')
    .argument('[words...]', 'the request, as in chat: BUILD machines: MACHINE... outage:MINUTES [key:value ...]')
    .option('--yes', 'raise without asking')
    .option('--wait', 'follow until the end; exit status 0 only when every machine passed')
    .action(
      acting(run, (context, words: string[], options: { yes?: boolean; wait?: boolean }) =>
        patchVerb(context, textOf(words), options),
      ),
    )
  example(
    patch,
    'smith patch prod machines: prod-dal10-carrier3-worker-11 outage:0',
    "smith patch --wait '725 machines: prod-dal10-carrier3-worker-* 10.77.0.12 outage:15'",
    "smith patch 'prod machines: prod-dal10-* outage:0 phases:1,10%,100% soak:30 max-failures:2'",
  ).addHelpText('after', KEYS_HELP)
  const plan = parent
    .command('plan')
    .description('show what a patch would do, and raise nothing')
    .argument('[words...]', 'the request, as for patch')
    .action(acting(run, (context, words: string[]) => planVerb(context, textOf(words))))
  example(plan, "smith plan 'prod machines: prod-dal10-carrier3-worker-* outage:0'")
}

function textOf(words: readonly string[]): string {
  const text = words.join(' ')
  if (text.trim() !== '') return text
  throw usageError('the request is missing', "Type: smith patch 'prod machines: MACHINE outage:0'")
}

/** Of several instances the one that has the machines which are named, where none is chosen. */
async function clientFor(context: Context, text: string): Promise<Client | null> {
  const located = await locate(context.candidates(), text)
  switch (located.kind) {
    case 'one':
      return located.client
    case 'none':
      await context.outRefusals(located.refusals, null)
      return null
    case 'several': {
      const where = located.byInstance.map(({ name, words }) => `${name}: ${words.join(' ')}`).join('; ')
      throw new ClientError(
        EXIT.refused,
        `these machines are on several instances, and a request is for one (${visible(where)})`,
        'Ask for each by itself, or name one with --instance NAME.',
      )
    }
    case 'out-of-reach':
      throw new ClientError(
        EXIT.unreachable,
        `${located.name} can't say whether it has these machines: ${located.why}`,
        'Try again, or name the instance that is meant with --instance NAME.',
      )
  }
}

async function planVerb(context: Context, text: string): Promise<number> {
  const client = await clientFor(context, text)
  const view = client === null ? null : await preview(context, client, text)
  if (view === null) return EXIT.refused
  if (context.json) await context.outJson(view)
  return EXIT.done
}

async function patchVerb(context: Context, text: string, options: { yes?: boolean; wait?: boolean }): Promise<number> {
  const client = await clientFor(context, text)
  if (client === null) return EXIT.refused
  const previewed = await preview(context, client, text)
  if (previewed === null) return EXIT.refused
  const machines = previewed.plan?.machines.length ?? previewed.total
  if (machines > 1 && options.yes !== true && isInteractive(context.io) && !context.json) {
    const question = `Raise a change for these ${countText(machines, 'machine')}?`
    if (!(await askYes(context.io, question, context.signal))) {
      await context.note('Nothing was raised.')
      return EXIT.refused
    }
  }
  const raised = await request(context, client, { text, key: context.io.randomId() })
  if (await isRefused(context, raised, text)) return EXIT.refused
  const { change } = raised
  if (change === null) {
    throw new ClientError(EXIT.refused, `the request ended ${raised.state} without a change`, 'Look with: smith status')
  }
  await sayDrift(context, previewed, raised)
  if (!context.json) await context.out(`${change} raised for ${countText(machines, 'machine')}.`)
  else if (options.wait !== true) await context.outJson(raised)
  if (options.wait === true) return waitFor(context, client, change)
  if (!context.json) await context.note(`Follow it with: smith status ${change} --watch`)
  return EXIT.done
}

/** Follows to the end; who leaves before is told how to come back. */
export async function waitFor(context: Context, client: Client, change: string): Promise<number> {
  const status = await followProject(context, client, change)
  if (status !== null && isClosed(status.state)) return isFullSuccess(status) ? EXIT.done : EXIT.refused
  await context.note(`${change} goes on. Come back with: smith status ${change} --watch`)
  return 130
}

/** Null when it was refused, which is then shown. */
async function preview(context: Context, client: Client, text: string): Promise<RequestView | null> {
  const view = await request(context, client, { text, preview: true, key: context.io.randomId() })
  if (await isRefused(context, view, text)) return null
  if (context.json) return view
  await context.out(`Request: ${visible(view.text)}`)
  if (view.plan === null) await context.out(`${countText(view.total, 'machine')}; the coordinator shows no plan.`)
  else await context.out(planLines(view.plan, context.paint).join('\n'))
  return view
}

async function isRefused(context: Context, view: RequestView | null, text: string): Promise<boolean> {
  if (view === null) return true
  if (view.state !== 'refused') return false
  if (context.json) await context.outJson(view)
  await context.outRefusals(view.refusals, text)
  return true
}

type Asked = { readonly text: string; readonly key: string; readonly preview?: boolean }

/** Makes the request and waits until it is settled. */
async function request(context: Context, client: Client, body: Asked): Promise<RequestView> {
  const { io } = context
  const live = io.stdout.isTTY && !context.json ? createLive(io) : null
  try {
    let view = await client.call('requestMake', { body })
    let pauseMs = POLL_MS
    let failures = 0
    while (view.state === 'planning' || view.state === 'raising') {
      live?.draw([{ text: progressText(view) }])
      await wait(io, pauseMs)
      if (context.signal.aborted) {
        throw new ClientError(
          EXIT.refused,
          'interrupted; the coordinator goes on with the request',
          `Look with: smith status, or give it up with: smith cancel ${view.request}`,
        )
      }
      pauseMs = Math.min(POLL_MS_MAX, pauseMs * 1.5)
      try {
        view = await client.call('request', { params: { request: view.request } })
        failures = 0
      } catch (error) {
        failures += 1
        if (!isUnreachable(error) || failures > POLL_FAILURES_MAX) throw error
      }
    }
    return view
  } catch (error) {
    // The places in the refusals are places in what was typed, which only this verb knows.
    if (!(error instanceof RefusedError)) throw error
    return {
      request: '',
      state: 'refused',
      text: body.text,
      by: '',
      at: io.now(),
      planned: 0,
      total: 0,
      refusals: error.refusals.map((refusal) => ({ ...refusal })),
      change: null,
      plan: null,
    }
  } finally {
    live?.end(false)
  }
}

const progressText = (view: RequestView) =>
  view.state === 'raising'
    ? 'Raising the change ...'
    : `Planning: ${view.planned} of ${countText(view.total, 'machine')} ...`

/** Between preview and change the machines planned once more; what differs is what will be approved. */
async function sayDrift(context: Context, previewed: RequestView, raised: RequestView): Promise<void> {
  if (previewed.plan === null || raised.plan === null || previewed.plan.digest === raised.plan.digest) return
  const look = raised.plan.decideAt ?? `smith approve ${shellWord(raised.change ?? '')}`
  await context.note(
    `The plan changed since it was shown; its digest is now ${visible(raised.plan.digest)}. See: ${visible(look)}`,
  )
}
