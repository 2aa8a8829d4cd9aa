/**
 * Reads the records of a change's or a machine's orders, each once and in order, and turns them into lines. Called
 * by `logs` and by the block that `patch --wait` and `status --watch` draw. The invariant: a record's number is
 * asked for after the last one seen, so a lost connection makes neither gap nor repeat.
 */
import { unreachable } from '../../protocol/errors.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import type { RunRecord } from '../../protocol/files.ts'
import type { OrderView } from '../../protocol/http.ts'
import type { Client } from './client.ts'
import { clockText, visible, visibleBytes } from './text.ts'

export type LogSource = { readonly change: string } | { readonly machine: string }
export type LogReader = {
  /** Hands on every record that is stored and was not handed on before; the answer is every order there is. */
  readonly readNew: (onRecord: (order: OrderView, record: RunRecord) => Promise<void>) => Promise<readonly OrderView[]>
  readonly concerns: (row: FeedRow) => boolean
}

/** With `tail`, an order seen for the first time begins at most that many records before its end. */
export function createLogReader(
  client: Client,
  source: LogSource,
  options: { readonly tail?: number; readonly onGap: (order: OrderView, from: number, upTo: number) => void },
): LogReader {
  const seen = new Map<string, number>()

  async function readOrder(order: OrderView, onRecord: (order: OrderView, record: RunRecord) => Promise<void>) {
    let after = seen.get(order.order) ?? (options.tail === undefined ? 0 : Math.max(0, order.upTo - options.tail))
    let upTo = order.upTo
    while (after < upTo) {
      const page = await client.call('log', { params: { order: order.order }, query: { after: String(after) } })
      upTo = page.upTo
      const before = after
      for (const record of page.records) {
        if (record.n <= after) continue
        if (record.n > after + 1) options.onGap(order, after + 1, record.n - 1)
        await onRecord(order, record)
        after = record.n
        seen.set(order.order, after)
      }
      if (after === before) break
    }
    seen.set(order.order, after)
  }

  return {
    readNew: async (onRecord) => {
      const { orders } =
        'change' in source
          ? await client.call('projectOrders', { params: { change: source.change } })
          : await client.call('machineOrders', { params: { machine: source.machine } })
      for (const order of orders) await readOrder(order, onRecord)
      return orders
    },
    concerns: (row) =>
      row.facts.some(
        (fact) =>
          (fact.order !== undefined && seen.has(fact.order)) ||
          ('change' in source ? fact.change === source.change : fact.machine === source.machine),
      ),
  }
}

/** The bytes of a line record, line end included. */
export function bytesOf(record: Extract<RunRecord, { type: 'line' }>): Buffer {
  return 'text' in record ? Buffer.from(record.text, 'utf8') : Buffer.from(record.base64, 'base64')
}

const LINE_BYTES_SHOWN_MAX = 65_536

/** Cuts records into lines for a person; a line that came in several records is put together again. */
export function createLineMaker(machineWidth: number): {
  readonly take: (order: OrderView, record: RunRecord) => string[]
  readonly flush: () => string[]
} {
  let held: { readonly front: string; readonly bytes: Buffer } | null = null
  const flush = () => {
    if (held === null) return []
    const line = `${held.front}${visibleBytes(held.bytes)}`
    held = null
    return [line]
  }
  return {
    flush,
    take: (order, record) => {
      const front = (step: string) =>
        `${clockText(record.at)} ${visible(order.machine).padEnd(machineWidth)} ${step.padEnd(11)} `
      if (record.type !== 'line') {
        const step = 'step' in record ? record.step : '-'
        return [...flush(), ...eventLines(record).map((line) => `${front(step)}${line}`)]
      }
      const bytes = bytesOf(record)
      const whole: Buffer = held === null ? bytes : Buffer.concat([held.bytes, bytes])
      const ends = whole.at(-1) === 0x0a
      held = { front: held?.front ?? front(record.step), bytes: ends ? whole.subarray(0, -1) : whole }
      return ends || whole.length >= LINE_BYTES_SHOWN_MAX ? flush() : []
    },
  }
}

/** What is no output of a program stands in `==`, so that no package can look like smith. */
function eventLines(record: Exclude<RunRecord, { type: 'line' }>): string[] {
  switch (record.type) {
    case 'step':
      return [`== step ${record.step}`]
    case 'progress':
      return []
    case 'note':
      return [`== ${visible(record.text)}`]
    case 'hole':
      return [
        `== ${record.bytes} bytes are missing here (${record.reason === 'bound' ? 'over the bound' : 'power cut'})`,
      ]
    case 'result': {
      const cause = record.cause === null ? '' : ` (${record.cause})`
      const message = record.message === '' ? '' : `: ${visible(record.message)}`
      return [
        `== ${record.outcome}${cause}${message}`,
        ...record.evidence.map((line) => `==   ${visible(line)}`),
        ...record.advice.map((line) => `==   do: ${visible(line)}`),
      ]
    }
    default:
      return unreachable(record)
  }
}
