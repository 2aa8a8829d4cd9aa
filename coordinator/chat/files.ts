/** What a file that is due in Slack contains: read from its instance when its turn has come, not before. */
import type { Client } from '../client/client.ts'
import { isNotFound } from '../client/failure.ts'
import { createLineMaker } from '../client/log-reader.ts'
import type { Instance } from './instances.ts'
import type { FileSource } from './messages.ts'
import { planText } from './texts.ts'

const FILE_BYTES_MAX = 20_000_000

/** The whole log of an order, the whole plan of a change, or a whole health report, as a file. */
export async function contentOf(source: FileSource, instances: readonly Instance[]): Promise<Buffer | null> {
  const client = instances.find((instance) => instance.name === source.instance)?.bot()
  if (client === undefined) return null
  if (source.kind === 'plan') return Buffer.from(planText(await client.call('plan', { params: { change: source.of } })))
  if (source.kind === 'report') return reportOf(client, source.of)
  const maker = createLineMaker(0)
  const order = {
    order: source.of,
    change: null,
    machine: '',
    attempt: 0,
    state: '',
    upTo: 0,
    grantedAt: null,
    endedAt: null,
  }
  const lines: string[] = []
  let bytes = 0
  for (let after = 0, upTo = 1; after < upTo && bytes < FILE_BYTES_MAX;) {
    const page = await client.call('log', { params: { order: source.of }, query: { after: String(after) } })
    const last = page.records.at(-1)
    if (last === undefined) break
    for (const record of page.records) lines.push(...maker.take(order, record))
    bytes = lines.reduce((sum, line) => sum + line.length, 0)
    ;[after, upTo] = [last.n, page.upTo]
  }
  lines.push(...maker.flush())
  if (bytes >= FILE_BYTES_MAX) lines.push('== the rest is not here: smith logs has it whole')
  return lines.length === 0 ? null : Buffer.from(`${lines.join('\n')}\n`)
}

/** The summary and then every file; null when it is not kept any more. */
async function reportOf(client: Client, of: string): Promise<Buffer | null> {
  const [machine = '', report = ''] = of.split(' ')
  const input = { params: { machine }, query: { report } }
  try {
    const view = await client.call('report', input)
    const parts = [view.summary ?? '']
    for (const { name } of view.files) {
      const { text } = await client.call('reportFile', { ...input, params: { machine, file: name } })
      parts.push(`${'='.repeat(20)} ${name}\n${text}`)
    }
    return Buffer.from(parts.join('\n\n'))
  } catch (error) {
    if (isNotFound(error)) return null
    throw error
  }
}
