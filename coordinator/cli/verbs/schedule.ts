/** `schedule`: requests that are made again and again. They are asked for in a person's name and never approve. */
import type { Command } from 'commander'
import { SCHEDULE_NAME_PATTERN, type ScheduleView } from '../../../protocol/recurring.ts'
import type { Context } from '../context.ts'
import { EXIT, usageError } from '../../client/failure.ts'
import { dayText, tableLines, visible } from '../../client/text.ts'
import { type Run, acting, example } from './verb.ts'

const SHOWN_REASONS = 5

export function addSchedule(parent: Command, run: Run): void {
  const schedule = parent.command('schedule').description('requests that are made again and again, by cron')
  const add = schedule
    .command('add')
    .description('ask for a patch at the times of a cron expression, in your name')
    .argument('<schedule>', 'its name: lower-case letters, digits and -')
    .argument('<words...>', 'the request, as smith patch has it; without window:')
    .requiredOption('--cron <expression>', 'minute, hour, day, month and weekday, in the time zone of the coordinator')
    .action(acting(run, addVerb))
  example(add, `smith schedule add nightly-dev --cron '0 22 * * 1-5' 'prod machines: dev-* outage:15 busy:skip'`)
  const list = schedule
    .command('list')
    .description('the schedules, when each comes next, and what became of its last times')
    .action(acting(run, listVerb))
  example(list, 'smith schedule list')
  const remove = schedule
    .command('remove')
    .description('end a schedule; what it has asked for goes on')
    .argument('<schedule>', 'its name')
    .action(
      acting(run, async (context, name: string) => {
        const done = await context.client().call('scheduleRemove', { body: { name: nameArgument(name) } })
        if (context.json) await context.outJson(done)
        else await context.out(`The schedule ${name} is removed.`)
        return EXIT.done
      }),
    )
  example(remove, 'smith schedule remove nightly-dev')
  const now = schedule
    .command('run')
    .description('ask now for what a schedule asks for, in your own name')
    .argument('<schedule>', 'its name')
    .action(acting(run, runVerb))
  example(now, 'smith schedule run nightly-dev')
}

function nameArgument(text: string): string {
  if (SCHEDULE_NAME_PATTERN.test(text)) return text
  throw usageError(
    `${visible(text)} is no name of a schedule`,
    'Give lower-case letters, digits and -, such as nightly-dev.',
  )
}

async function addVerb(context: Context, name: string, words: string[], options: { cron: string }): Promise<number> {
  const body = { name: nameArgument(name), cron: options.cron, text: words.join(' ') }
  const made = await context.client().call('scheduleAdd', { body })
  if (context.json) await context.outJson(made)
  else
    await context.out(
      `The schedule ${name} is made. It asks first ${nextText(made)}, in the name of ${visible(made.by)}.`,
    )
  return EXIT.done
}

async function runVerb(context: Context, name: string): Promise<number> {
  const made = await context.client().call('scheduleRun', { body: { name: nameArgument(name) } })
  const last = made.firings.at(-1)
  if (context.json) await context.outJson(made)
  else await context.out(`Asked. ${last?.request ?? ''}\nSee what becomes of it: smith schedule list`)
  return EXIT.done
}

async function listVerb(context: Context): Promise<number> {
  const { schedules } = await context.client().call('schedules')
  if (context.json) {
    await context.outJson(schedules)
    return EXIT.done
  }
  const rows = schedules.map((one) => [one.name, one.cron, nextText(one), one.by, one.text])
  const lines = tableLines(['NAME', 'CRON', 'NEXT', 'BY', 'REQUEST'], rows)
  const [heading = '', ...rest] = lines
  const shown = rest.flatMap((line, index) => [line, ...lastLines(context, schedules[index])])
  await context.out(schedules.length === 0 ? 'No schedules.' : [heading, ...shown].join('\n'))
  return EXIT.done
}

function nextText({ next, timezone }: ScheduleView): string {
  return next === null ? 'never' : `${dayText(next)} (cron in ${timezone})`
}

/** What became of the last time, and whatever did not become a change since the last that did. */
function lastLines({ paint }: Context, schedule: ScheduleView | undefined): string[] {
  const firings = schedule?.firings ?? []
  const good = firings.findLastIndex(({ outcome }) => outcome === 'raised')
  return firings.slice(Math.max(0, good)).flatMap(({ at, outcome, change, reasons }) => {
    const line = `   ${dayText(at)} ${outcome}${change === null ? '' : ` ${visible(change)}`}`
    const more = reasons.length > SHOWN_REASONS ? [`      and ${reasons.length - SHOWN_REASONS} more reasons`] : []
    const why = reasons.slice(0, SHOWN_REASONS).map((reason) => `      ${visible(reason)}`)
    return [outcome === 'refused' ? paint.bad(line) : outcome === 'raised' ? line : paint.warn(line), ...why, ...more]
  })
}
