/**
 * `status` and `machines`: what is known, without changing anything. With several instances `status` asks each in
 * turn, under a heading, and an instance out of reach does not hide the others.
 */
import type { Command } from 'commander'
import type { ProjectList } from '../../../protocol/http.ts'
import { type Client } from '../../client/client.ts'
import { type Context, changeArgument } from '../context.ts'
import { EXIT, failureOf, isNotFound, isUnreachable, usageError } from '../../client/failure.ts'
import { columnsOf } from '../io.ts'
import { machineLines, missingLines, projectListLines, statusLines } from '../status-text.ts'
import { fit } from '../../client/text.ts'
import { waitFor } from './patch.ts'
import { type Run, acting, example } from './verb.ts'

export function addStatus(parent: Command, run: Run): void {
  const status = parent
    .command('status')
    .description('how far a change is, what failed and why; without a change, the list of projects')
    .argument('[change]', 'the number of the change')
    .option('--watch', 'stay and show what changes; ends with the project')
    .action(
      acting(run, (context, change: string | undefined, options: { watch?: boolean }) => {
        if (change !== undefined) return statusOne(context, changeArgument(change), options.watch === true)
        if (options.watch === true) throw usageError('--watch needs a change', 'List them with: smith status')
        return statusList(context)
      }),
    )
  example(status, 'smith status', 'smith status CHG0268453 --watch', 'smith status CHG0268453 --json')

  const machines = parent
    .command('machines')
    .description('the enrolled machines')
    .argument('[pattern]', 'a name, an address or a pattern, as in a request')
    .option('--missing', 'what the source of machines and the enrolled ones have each for itself')
    .action(
      acting(run, (context, pattern: string | undefined, options: { missing?: boolean }) => {
        if (options.missing !== true) return machinesVerb(context, pattern)
        if (pattern === undefined) return missingVerb(context)
        throw usageError('--missing takes no pattern', 'See all that differs: smith machines --missing')
      }),
    )
  example(machines, "smith machines 'prod-dal10-*'", 'smith machines --missing')
}

async function statusOne(context: Context, change: string, watch: boolean): Promise<number> {
  const clients = context.clients()
  const many = clients.length > 1 && !context.json
  let found = 0
  let lost = 0
  for (const client of clients) {
    const { name } = client.target
    try {
      const view = await client.call('project', { params: { change } })
      found += 1
      if (watch) return await waitFor(context, client, change)
      if (context.json) await context.outJson(view.status)
      else await context.out([...headingOf(name, many), ...statusLines(view.text, context.paint)].join('\n'))
    } catch (error) {
      if (clients.length === 1 || !(isNotFound(error) || isUnreachable(error))) throw error
      if (isUnreachable(error)) lost += 1
      if (!context.json) await context.out(headingOf(name, true).join('\n'))
      if (isUnreachable(error)) await noteFailure(context, error)
      else if (!context.json) await context.out(`project \`${change}\` not running in smith instance in ${name}`)
    }
  }
  if (found > 0) return EXIT.done
  if (lost === 0 && context.json)
    await context.note(`error: ${change} is known to no instance\n   do: List them with: smith status`)
  return lost > 0 ? EXIT.unreachable : EXIT.refused
}

async function statusList(context: Context): Promise<number> {
  const clients = context.clients()
  const lists: ProjectList[] = []
  let lost = 0
  for (const client of clients) {
    const head = headingOf(client.target.name, clients.length > 1)
    try {
      const list = await client.call('projects')
      lists.push(list)
      const lines = projectListLines(list, context.io.now(), context.paint)
      if (!context.json) await context.out([...head, ...fitted(context, lines)].join('\n'))
    } catch (error) {
      if (clients.length === 1 || !isUnreachable(error)) throw error
      lost += 1
      if (!context.json) await context.out(head.join('\n'))
      await noteFailure(context, error)
    }
  }
  if (context.json) await context.outJson(lists)
  return lost > 0 ? EXIT.unreachable : EXIT.done
}

async function machinesVerb(context: Context, pattern: string | undefined): Promise<number> {
  const clients: Client[] = context.clients()
  for (const client of clients) {
    const answer = await client.call('machines', { query: { pattern } })
    if (context.json) await context.outJson(answer.machines)
    else {
      const lines = answer.machines.length === 0 ? ['No machines.'] : machineLines(answer.machines, context.io.now())
      await context.out([...headingOf(client.target.name, clients.length > 1), ...fitted(context, lines)].join('\n'))
    }
  }
  return EXIT.done
}

async function missingVerb(context: Context): Promise<number> {
  const clients: Client[] = context.clients()
  for (const client of clients) {
    const answer = await client.call('missing')
    if (context.json) await context.outJson(answer)
    else {
      const head = headingOf(client.target.name, clients.length > 1)
      await context.out([...head, ...fitted(context, missingLines(answer))].join('\n'))
    }
  }
  return EXIT.done
}

const headingOf = (name: string, many: boolean) => (many ? [`== ${name} ==`] : [])

/** On a terminal a row is one line; elsewhere nothing is cut. Lines with colour are short and stay as they are. */
function fitted(context: Context, lines: string[]): string[] {
  if (!context.io.stdout.isTTY) return lines
  return lines.map((line) => (line.includes('\x1b') ? line : fit(line, columnsOf(context.io.stdout))))
}

async function noteFailure(context: Context, error: unknown): Promise<void> {
  const failure = failureOf(error, { asked: null, columns: columnsOf(context.io.stderr), paint: context.paint })
  await context.note(failure.lines.join('\n'))
}
