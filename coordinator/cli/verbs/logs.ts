/**
 * `logs` and `feed`: everything that was printed, and everything that happened. The invariants: each line once and
 * in order over any number of reconnections; nothing of a package acts on the terminal.
 */
import type { Command } from 'commander'
import { CHANGE_PATTERN } from '../../../protocol/ids.ts'
import type { Fact, FeedRow } from '../../../protocol/feed.ts'
import type { RunRecord } from '../../../protocol/files.ts'
import type { OrderView } from '../../../protocol/http.ts'
import type { Client } from '../../client/client.ts'
import { type Context, durationOption, machineArgument } from '../context.ts'
import { ClientError, EXIT, usageError } from '../../client/failure.ts'
import { followFeed } from '../../client/feed-client.ts'
import { follow } from '../follow.ts'
import { write } from '../io.ts'
import { type LogSource, bytesOf, createLineMaker, createLogReader } from '../../client/log-reader.ts'
import { isClosed } from '../project-follow.ts'
import { dayText, jsonText, visible } from '../../client/text.ts'
import { type ServiceOptions, serviceLogVerb } from './service-log.ts'
import { type Run, acting, example } from './verb.ts'

type LogOptions = ServiceOptions & { readonly raw?: boolean; readonly service?: boolean }
const FOLLOW_GAP_MS = 50

export function addLogs(parent: Command, run: Run): void {
  const logs = parent
    .command('logs')
    .description('what the runs of a change or of a machine printed, or what the coordinator itself did (--service)')
    .argument('[change-or-machine]', 'the number of a change, or the name of a machine')
    .option('--follow', 'stay and show what comes; ends with the project')
    .option('--since <duration>', 'only what is younger than 90s, 1h, 2d, ...')
    .option('--raw', 'the very bytes and nothing else; only into a file or a pipe')
    .option('--service', 'what the coordinator itself did, the newest of it')
    .option('--change <change>', 'with --service: only what belongs to this change')
    .option('--machine <machine>', 'with --service: only what belongs to this machine')
    .action(acting(run, logsVerb))
  example(logs, 'smith logs CHG0268453 --follow', 'smith logs --service --since 1h --change CHG0268453')

  const feed = parent
    .command('feed')
    .description('everything that happens, one line a row')
    .option('--since <rev>', 'begin after this revision; without it, with what comes now')
    .action(acting(run, feedVerb))
  example(feed, 'smith feed', 'smith feed --since 0 --json')
}

async function logsVerb(context: Context, what: string | undefined, options: LogOptions): Promise<number> {
  const isService = options.service === true
  if (isService === (what !== undefined) || (isService && options.raw === true)) {
    throw usageError(
      'give either a change or machine, or --service without --raw',
      'Type: smith logs CHG0268453, or: smith logs --service --change CHG0268453',
    )
  }
  if (!isService && (options.change ?? options.machine) !== undefined)
    throw usageError('--change and --machine go with --service', 'Type: smith logs --service --change CHG0268453')
  return what === undefined ? serviceLogVerb(context, options) : runLogs(context, what, options)
}

async function runLogs(context: Context, what: string, options: LogOptions): Promise<number> {
  if (options.raw === true && context.io.stdout.isTTY) {
    throw usageError(
      '--raw would let packages write to your terminal',
      'Send it into a file or a pipe, or leave --raw out.',
    )
  }
  if (options.raw === true && context.json) throw usageError('--raw and --json exclude each other', 'Leave one out.')
  const sinceMs = options.since === undefined ? null : durationOption('--since', options.since)
  const from = sinceMs === null ? 0 : context.io.now() - sinceMs
  const source: LogSource = CHANGE_PATTERN.test(what.toUpperCase())
    ? { change: what.toUpperCase() }
    : { machine: machineArgument(what) }
  const client = context.client()
  const reader = createLogReader(client, source, {
    onGap: (order, first, last) =>
      void context.note(`records ${first} to ${last} of ${visible(order.machine)} did not come`),
  })
  const sink = createSink(context, options.raw === true)
  const take = async (order: OrderView, record: RunRecord) => {
    if (record.at >= from) await sink.take(order, record)
  }
  if (options.follow !== true) {
    await reader.readNew(take)
    await sink.flush()
    return EXIT.done
  }
  const refresh = async () => {
    // Asked before the records are read, so that the end implies that all of them were there to read.
    const ended = await isEnded(client, source)
    await reader.readNew(take)
    return ended
  }
  const onReach = (lost: string | null) =>
    void context.note(lost === null ? 'The coordinator is back.' : `${visible(lost)}; waiting for it.`)
  const onEpoch = () =>
    void context.note("The coordinator's database was restored; what it lost comes again from the machines.")
  const followed = { concerns: reader.concerns, refresh, onReach, onEpoch, gapMs: FOLLOW_GAP_MS }
  await follow(context.io, client, followed, context.signal)
  await sink.flush()
  return context.signal.aborted ? 130 : EXIT.done
}

async function isEnded(client: Client, source: LogSource): Promise<boolean> {
  if ('machine' in source) return false
  const { status } = await client.call('project', { params: { change: source.change } })
  return isClosed(status.state)
}

function createSink(context: Context, raw: boolean) {
  const { stdout } = context.io
  const lines = createLineMaker(0)
  const put = async (texts: readonly string[]) => {
    if (texts.length > 0) await write(stdout, `${texts.join('\n')}\n`)
  }
  return {
    flush: () => put(lines.flush()),
    take: async (order: OrderView, record: RunRecord) => {
      if (context.json) {
        const { machine, change, attempt } = order
        return write(stdout, `${jsonText({ order: order.order, change, machine, attempt, ...record })}\n`)
      }
      if (!raw) return put(lines.take(order, record))
      if (record.type === 'line') return write(stdout, bytesOf(record))
      if (record.type === 'hole') return context.note(`${record.bytes} bytes are missing at offset ${record.offset}`)
      return undefined
    },
  }
}

async function feedVerb(context: Context, options: { since?: string }): Promise<number> {
  const since = options.since === undefined ? null : Number(options.since)
  if (since !== null && (!/^\d{1,15}$/.test(options.since ?? '') || !Number.isSafeInteger(since))) {
    throw usageError(`--since ${options.since} is no revision`, 'Give a whole number, 0 for everything.')
  }
  const client = context.client()
  const who = await client.call('who')
  if (since !== null && since > who.rev) {
    throw new ClientError(
      EXIT.refused,
      `revision ${since} is not reached yet: the newest is ${who.rev}`,
      'Leave --since out to begin with what comes now.',
    )
  }
  let lost = false
  await followFeed(
    context.io,
    client.target,
    { epoch: who.epoch, since: since ?? who.rev },
    {
      onRow: (row) => context.out(context.json ? jsonText(row) : rowText(row)),
      onGap: (from, upTo) => void context.note(`rows ${from} to ${upTo} did not come`),
      onLost: (why) => {
        if (!lost) void context.note(`The feed was lost (${visible(why)}); connecting again.`)
        lost = true
      },
      onHello: (hello) => {
        if (lost) void context.note('The feed is back.')
        lost = false
        if (hello.epochWas === null) return
        void context.note(
          `The epoch changed from ${hello.epochWas} to ${hello.epoch}: the database was restored, rows shown so far are void; it stands at ${hello.rev} now.`,
        )
      },
    },
    context.signal,
  )
  return 130
}

/** `rev`, time, who, and each fact with what belongs to it. */
export function rowText(row: FeedRow): string {
  return `${row.rev} ${dayText(row.at)} ${visible(row.actor)} ${row.facts.map(factText).join(' | ')}`.trimEnd()
}

const HIDDEN = new Set(['fact', 'project', 'request', 'machineId'])

function factText(fact: Fact): string {
  const fields = Object.entries(fact).filter(([key, value]) => value !== undefined && !HIDDEN.has(key))
  const texts = fields.map(([key, value]) => `${key}=${wordText(String(value))}`)
  return [fact.fact, ...texts].join(' ')
}

const wordText = (value: string) =>
  /^[\x21-\x7e]+$/.test(value) && !value.includes('"') ? value : `"${visible(value)}"`
