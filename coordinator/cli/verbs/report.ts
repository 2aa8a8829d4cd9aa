/**
 * `report`: health reports of machines, asked for, awaited and written down: a folder for each machine, which appears
 * whole or not at all. Several machines go side by side; one that fails does not keep the others from theirs.
 */
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { MACHINE_NAME_PATTERN } from '../../../protocol/ids.ts'
import { REPORT_FILE_PATTERN, type ReportView } from '../../../protocol/report.ts'
import { type Client } from '../../client/client.ts'
import { ClientError, EXIT, failureOf, isNotFound, isUnreachable, usageError } from '../../client/failure.ts'
import { wait } from '../../client/target.ts'
import { visible } from '../../client/text.ts'
import { type Context, changeArgument } from '../context.ts'
import { columnsOf } from '../io.ts'
import { type Run, acting, example } from './verb.ts'

const SIDE_BY_SIDE = 8
const LOOK_MS = 400
/** Longer than the coordinator gives one machine; those that wait for others are given it anew. */
const STILL_MS_MAX = 300_000
const SUMMARY = 'SUMMARY.md'

type Options = { readonly failed?: string; readonly output?: string }
/** `place`: the name of its folder. */
type Wanted = { readonly client: Client; readonly name: string; readonly place: string }
type Failed = { readonly machine: string; readonly status: number; readonly lines: readonly string[] }
type Done = { readonly machine: string; readonly folder: string; readonly view: ReportView }

export function addReport(parent: Command, run: Run): void {
  const report = parent
    .command('report')
    .description('collect a health report of machines: a folder each, with SUMMARY.md that names the cause')
    .argument('[machine...]', 'names, addresses or patterns, as in a request')
    .option('--failed <change>', 'those of a change that failed or are unknown')
    .option('--output <dir>', 'the folder that gets them; without it a new one here')
    .action(acting(run, reportVerb))
  example(
    report,
    'smith report prod-dal10-carrier3-worker-11',
    "smith report 'prod-dal10-*' --output /tmp/dal10",
    'smith report --failed CHG0268453',
  )
}

async function reportVerb(context: Context, machines: readonly string[], options: Options): Promise<number> {
  if (machines.length === 0 && options.failed === undefined)
    throw usageError('no machine is named', 'Name machines or patterns, or a change: smith report --failed CHG0268453')
  const wanted = await wantedOf(context, machines, options)
  const folder = resolve(
    options.output ?? `smith-report-${new Date(context.io.now()).toISOString().slice(0, 19).replaceAll(':', '')}`,
  )
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const done: Done[] = []
  const waiting = [...wanted]
  const failed: Failed[] = []
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined && !context.signal.aborted; next = waiting.shift()) {
      try {
        const one = await fetchOne(context, next, folder)
        if (one === null) continue
        done.push(one)
        if (!context.json) await context.out(lineOf(one))
      } catch (error) {
        const view = { asked: null, columns: columnsOf(context.io.stderr), paint: context.paint }
        const one = { machine: next.place, ...failureOf(error, view) }
        failed.push(one)
        await context.note(`${one.machine}: ${one.lines.join('\n')}`)
      }
    }
  }
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker))
  if (context.json) await context.outJson([...done.map(doneJson), ...failed.map(failedJson)])
  if (failed.length === 0) return EXIT.done
  return failed.every(({ status }) => status === EXIT.unreachable) ? EXIT.unreachable : EXIT.refused
}

function doneJson({ machine, folder, view }: Done) {
  const files = [SUMMARY, ...view.files.map((file) => file.name)]
  return { machine, folder, problem: view.problem, report: view.report, files, error: null }
}

function failedJson({ machine, lines }: Failed) {
  return { machine, folder: null, problem: null, report: null, files: [], error: lines.join('\n') }
}

/** Every machine once, in the order named; those that a pattern means in the coordinator's order. */
async function wantedOf(context: Context, machines: readonly string[], options: Options): Promise<Wanted[]> {
  const found = new Map<string, Omit<Wanted, 'place'>>()
  const clients = context.clients()
  const add = (client: Client, name: string) => {
    // It becomes the name of a folder here, whoever is at the other end.
    if (!MACHINE_NAME_PATTERN.test(name))
      throw new ClientError(
        EXIT.refused,
        `${client.target.name} answers with a machine that is named ${visible(name)}`,
        'No machine is named so: find out who answers there (smith doctor).',
      )
    found.set(`${client.target.name} ${name}`, { client, name })
  }
  for (const pattern of machines) {
    const before = found.size
    let refusal: Error | null = null
    for (const client of clients) {
      try {
        const answer = await client.call('machines', { query: { pattern } })
        for (const machine of answer.machines) add(client, machine.name)
      } catch (error) {
        if (clients.length > 1 && isUnreachable(error)) await context.note(`${client.target.name} is out of reach`)
        else refusal = error instanceof Error ? error : new Error(String(error))
      }
    }
    if (found.size === before && refusal !== null) throw refusal
  }
  if (options.failed !== undefined)
    for (const one of await failedOf(clients, changeArgument(options.failed))) add(one.client, one.name)
  if (found.size > 0) return placed([...found.values()])
  throw new ClientError(EXIT.refused, 'there is no such machine', 'List the machines with: smith machines')
}

/** Two instances may each have a machine of the same name. */
function placed(wanted: readonly Omit<Wanted, 'place'>[]): Wanted[] {
  const counts = Map.groupBy(wanted, ({ name }) => name)
  return wanted.map(({ client, name }) => ({
    ...{ client, name },
    place: counts.get(name)?.length === 1 ? name : `${name}@${client.target.name.replaceAll(/[^A-Za-z0-9_-]/g, '_')}`,
  }))
}

async function failedOf(clients: readonly Client[], change: string): Promise<Omit<Wanted, 'place'>[]> {
  for (const client of clients) {
    try {
      const { status } = await client.call('project', { params: { change } })
      return status.phases
        .flatMap((phase) => phase.bags.flatMap((bag) => bag.machines))
        .filter(({ state }) => state === 'failed' || state === 'unknown')
        .map(({ name }) => ({ client, name }))
    } catch (error) {
      if (client === clients.at(-1) || !isNotFound(error)) throw error
    }
  }
  return []
}

/** Null when it was interrupted. */
async function fetchOne(context: Context, { client, name, place }: Wanted, folder: string): Promise<Done | null> {
  const params = { machine: name }
  let view = await client.call('reportAsk', { params })
  await context.note(`${place}: asked`)
  let said = ''
  let changedAt = context.io.now()
  while (view.state !== 'done') {
    if (context.signal.aborted) return null
    const text = view.parts === null ? view.state : `part ${view.parts.have} of ${view.parts.of}`
    if (text !== said) {
      changedAt = context.io.now()
      if (said !== '') await context.note(`${place}: ${text}`)
    } else if (context.io.now() - changedAt > STILL_MS_MAX) {
      throw new ClientError(
        EXIT.refused,
        `the report of ${name} did not come`,
        `See the coordinator's log: smith logs --service --machine ${name}`,
      )
    }
    said = text
    await wait(context.io, LOOK_MS)
    view = await client.call('report', { params, query: { report: view.report } })
  }
  const path = join(folder, place)
  const partial = join(folder, `.${place}.partial`)
  rmSync(partial, { recursive: true, force: true })
  mkdirSync(partial, { mode: 0o700 })
  writeFileSync(join(partial, SUMMARY), view.summary ?? '', { mode: 0o600 })
  for (const file of view.files) {
    // A name is a name and never a path, whoever is at the other end.
    if (!REPORT_FILE_PATTERN.test(file.name)) continue
    const { text } = await client.call('reportFile', {
      params: { ...params, file: file.name },
      query: { report: view.report },
    })
    writeFileSync(join(partial, file.name), text, { mode: 0o600 })
  }
  if (existsSync(path)) {
    if (!existsSync(join(path, SUMMARY)))
      throw new ClientError(
        EXIT.refused,
        `${path} is there and is no health report`,
        'Give another folder with --output.',
      )
    rmSync(path, { recursive: true })
  }
  renameSync(partial, path)
  return { machine: place, folder: path, view }
}

/** The heading of SUMMARY.md says what it is in one line. */
function lineOf({ folder, view }: Done): string {
  const [heading = ''] = (view.summary ?? '').split('\n')
  return `${visible(heading.replace(/^# /, ''))}\n  ${join(folder, SUMMARY)}`
}
