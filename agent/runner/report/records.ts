/**
 * The records of a run as a health report shows them: as text, since a secret in JSON is another text, and with no line
 * of the output, which a record may hold only half of. Reads only.
 */
import * as v from 'valibot'
import { recordSchema, type RunRecord } from '../../../protocol/files.ts'
import { REPORT_FILE_BYTES_MAX } from '../../../protocol/report.ts'
import type { Disk } from '../../disk/disk.ts'
import type { OrderLayout } from '../../disk/layout.ts'
import { GOES_ON } from '../records.ts'
import { endOf, leftOut } from './sources.ts'

const RECORDS_BYTES_MAX = 16_777_216
const LINE_LOOKED_FOR = 65_536
/** Where a line was cut, with what the log puts in front of its rest. */
const CUT = new RegExp(`${GOES_ON.replaceAll(/[[\]]/g, String.raw`\$&`)}\\n\\S{1,40} [0-9a-f]{32} [a-z-]{1,16} `, 'g')

/** What a run did and said of itself; what it printed is in another file of the report. */
export function stepsOf(disk: Disk, files: OrderLayout): string {
  return endOf(disk, files.records, RECORDS_BYTES_MAX)
    .split('\n')
    .filter((line) => line !== '')
    .flatMap((line) => {
      if (!line.startsWith('{')) return [line]
      // Most are of the output, and there can be millions of them.
      if (/^\{"n":\d{1,16},"at":\d{1,16},"type":"(?:line|progress)"/.test(line)) return []
      const record = recordIn(line)
      return record === null ? [leftOut('a record can not be read')] : textOf(record)
    })
    .join('\n')
}

function recordIn(line: string): RunRecord | null {
  try {
    return v.parse(recordSchema, JSON.parse(line))
  } catch (error) {
    // The last one may be torn by a crash, or just be written.
    if (error instanceof SyntaxError || v.isValiError(error)) return null
    throw error
  }
}

function textOf(record: RunRecord): string[] {
  const head = `${record.n} ${new Date(record.at).toISOString()}`
  switch (record.type) {
    case 'line':
    case 'progress':
      return []
    case 'step':
      return [`${head} -- ${record.step}`]
    case 'note':
      return [`${head} ${record.step}: ${record.text}`]
    case 'hole':
      return [`${head} ${record.bytes} bytes of the output are missing at ${record.offset} (${record.reason})`]
    case 'result': {
      const { outcome, cause, step, message, evidence, advice, latched, rebootPending, installed, outputBytes } = record
      return [
        `${head} == ${outcome}${cause === null ? '' : ` (${cause})`} at ${step}: ${message}`,
        ...evidence.map((line) => `    ${line}`),
        ...advice.map((line) => `  next: ${line}`),
        `  latched: ${latched ? 'yes' : 'no'}; reboot pending: ${rebootPending ? 'yes' : 'no'}; output: ${outputBytes} bytes`,
        ...installed.map((line) => `  installed: ${line}`),
      ]
    }
  }
}

/** The whole line of the output in which a record of it begins: '' when its beginning is too far away. */
export function lineAround(disk: Disk, files: OrderLayout, offset: number): string {
  if (disk.factsOf(files.output) === null) return ''
  const from = Math.max(0, offset - LINE_LOOKED_FOR)
  const bytes = disk.read(files.output, from, offset - from + LINE_LOOKED_FOR)
  const begin = bytes.subarray(0, offset - from).lastIndexOf(0x0a) + 1
  if (begin === 0 && from > 0) return ''
  const end = bytes.indexOf(0x0a, begin)
  return bytes.toString('utf8', begin, end < 0 ? undefined : end)
}

/** The log of runs, in which each line that was cut is put together again. */
export function logOfRuns(disk: Disk, path: string): string {
  return endOf(disk, path, REPORT_FILE_BYTES_MAX).replaceAll(CUT, '')
}
