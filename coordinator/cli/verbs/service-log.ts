/** `logs --service`: what the coordinator itself did. Called by logs.ts; nothing in a record acts on the terminal. */
import type { ServiceRecord } from '../../../protocol/service-log.ts'
import { type Context, changeArgument, durationOption, machineArgument } from '../context.ts'
import { EXIT } from '../../client/failure.ts'
import { wait } from '../../client/target.ts'
import { dayText, jsonText, visible } from '../../client/text.ts'

export type ServiceOptions = {
  readonly follow?: boolean
  readonly since?: string
  readonly change?: string
  readonly machine?: string
}

const POLL_MS = 1000

export async function serviceLogVerb(context: Context, options: ServiceOptions): Promise<number> {
  const since = options.since === undefined ? 0 : context.io.now() - durationOption('--since', options.since)
  const asked = {
    since: String(Math.max(0, since)),
    ...(options.change === undefined ? {} : { change: changeArgument(options.change) }),
    ...(options.machine === undefined ? {} : { machine: machineArgument(options.machine) }),
  }
  const client = context.client()
  let after = 0
  let told: string | null = null
  for (;;) {
    const page = await client.call('serviceLog', { query: { ...asked, after: String(after) } })
    after = page.upTo
    for (const record of page.records) await context.out(context.json ? jsonText(record) : lineOf(context, record))
    if (page.trouble !== null && page.trouble !== told)
      await context.note(`The coordinator can't keep its log on disk: ${visible(page.trouble)}`)
    told = page.trouble
    if (!page.ended) continue
    if (options.follow !== true) return EXIT.done
    await wait(context.io, POLL_MS)
    if (context.signal.aborted) return 130
  }
}

/** Time, level, what, and each field that belongs to it. */
function lineOf({ paint }: Context, { at, level, message, change, machine, fields }: ServiceRecord): string {
  const named = Object.entries({ change, machine, ...fields })
  const words = named.flatMap(([key, value]) => (value === null ? [] : [`${visible(key)}=${wordOf(value)}`]))
  const line = `${dayText(at)} ${level.padEnd(5)} ${[visible(message), ...words].join(' ')}`
  return level === 'error' ? paint.bad(line) : level === 'warn' ? paint.warn(line) : line
}

const wordOf = (value: string) => (/^[\x21-\x7e]+$/.test(value) && !value.includes('"') ? value : `"${visible(value)}"`)
