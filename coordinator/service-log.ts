/**
 * The newest records of the coordinator's own log, for `smith logs --service`: taken from pino beside its usual output,
 * kept in memory and in two files of a bounded size, so that they outlive a restart. Secrets are taken out before
 * anything is kept. A disk that takes nothing costs the files and not the coordinator, and is told in each answer.
 */
import { appendFileSync, readFileSync, renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import {
  SERVICE_LEVELS,
  type ServiceLogPage,
  type ServiceRecord,
  serviceRecordSchema,
} from '../protocol/service-log.ts'
import { redact } from '../protocol/redact.ts'
import type { FeedRow } from '../protocol/feed.ts'
import * as v from 'valibot'
import type { Log, ServiceLogQuery } from './ports.ts'

export type ServiceLog = {
  /** One record as pino writes it. Never throws. */
  readonly write: (line: string) => void
  readonly read: (query: ServiceLogQuery) => ServiceLogPage
}

export type ServiceLogOptions = {
  readonly folder: string
  /** Makes the folder with its parents, private, when it is not there. */
  readonly makeFolder: (path: string) => void
  /** Of each of the two files. */
  readonly bytesMax?: number
  readonly recordsMax?: number
}

const BYTES_MAX = 4 * 1024 * 1024
const RECORDS_MAX = 5000
const TEXT_MAX = 2000
const FIELDS_MAX = 30
const OWN_KEYS = new Set(['level', 'time', 'msg', 'change', 'machine', 'fact'])

const SECRET_KEY = /token|secret|password|passphrase|authorization|privatekey/i

export function createServiceLog(options: ServiceLogOptions): ServiceLog {
  const { bytesMax = BYTES_MAX, recordsMax = RECORDS_MAX } = options
  const files = { now: join(options.folder, 'service.log'), before: join(options.folder, 'service.log.1') }
  const trouble = { text: null as string | null }
  const records: ServiceRecord[] = []
  const keep = (record: ServiceRecord) => {
    records.push(record)
    // Cut in large pieces, since each cut moves all that stay.
    if (records.length > recordsMax * 1.25) records.splice(0, records.length - recordsMax)
  }
  const attempt = (work: () => void) => {
    try {
      work()
      trouble.text = null
    } catch (error) {
      trouble.text = error instanceof Error ? error.message : String(error)
    }
  }
  let size = 0
  attempt(() => {
    options.makeFolder(options.folder)
    for (const record of [files.before, files.now].flatMap(readRecords))
      keep({ ...record, n: Math.max(record.n, (records.at(-1)?.n ?? 0) + 1) })
    size = sizeOf(files.now)
  })
  return {
    write: (line) => {
      const record = recordOf(line, (records.at(-1)?.n ?? 0) + 1)
      keep(record)
      attempt(() => {
        const text = `${JSON.stringify(record)}\n`
        const bytes = Buffer.byteLength(text)
        if (size > 0 && size + bytes > bytesMax) {
          renameSync(files.now, files.before)
          size = 0
        }
        // Whatever a crash has torn ends where the next record begins.
        appendFileSync(files.now, size === 0 ? text : `\n${text}`, { mode: 0o600 })
        size += bytes + 1
      })
    },
    read: (query) => ({ ...pageOf(records, query), trouble: trouble.text }),
  }
}

function readRecords(file: string): ServiceRecord[] {
  if (sizeOf(file) === 0) return []
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line) => {
      const read = v.safeParse(v.pipe(v.string(), v.parseJson(), serviceRecordSchema), line)
      return read.success ? [read.output] : []
    })
}

function sizeOf(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.size ?? 0
}

function pageOf(records: readonly ServiceRecord[], query: ServiceLogQuery): Omit<ServiceLogPage, 'trouble'> {
  const { after, since, change, machine, limit } = query
  const newest = records.at(-1)?.n ?? 0
  const found = records
    .filter(
      (record) =>
        record.n > after &&
        record.at >= since &&
        (change === null || record.change === change) &&
        (machine === null || record.machine === machine),
    )
    .slice(0, limit + 1)
  const page = found.slice(0, limit)
  const isLast = found.length <= limit
  return { records: page, upTo: isLast ? Math.max(newest, after) : (page.at(-1)?.n ?? after), ended: isLast }
}

function recordOf(line: string, n: number): ServiceRecord {
  const read = v.safeParse(v.pipe(v.string(), v.parseJson(), v.record(v.string(), v.unknown())), line)
  const fields: Record<string, unknown> = read.success ? read.output : { msg: line }
  const text = (key: string) => (typeof fields[key] === 'string' ? textOf(fields[key]) : null)
  const rest = Object.entries(fields)
    .filter(([key, value]) => !OWN_KEYS.has(key) && value !== undefined && value !== null)
    .slice(0, FIELDS_MAX)
    .map(([key, value]): [string, string] => [key.slice(0, 100), SECRET_KEY.test(key) ? '***' : textOf(value)])
  const level = typeof fields['level'] === 'number' ? fields['level'] : 30
  return {
    n,
    at: typeof fields['time'] === 'number' ? Math.max(0, Math.floor(fields['time'])) : 0,
    level: SERVICE_LEVELS[Math.min(3, Math.max(0, Math.round(level / 10) - 2))] ?? 'info',
    message: text('msg') ?? '',
    ...{ change: text('change'), machine: text('machine'), fields: Object.fromEntries(rest) },
  }
}

function textOf(value: unknown): string {
  const inner = (key: string, given: unknown) => (SECRET_KEY.test(key) ? '***' : given)
  const text = typeof value === 'string' ? value : (JSON.stringify(value, inner) ?? '')
  return redact(text).text.slice(0, TEXT_MAX)
}

/** Log lines that runs print are in the logs of their orders; that some came is no deed of the coordinator. */
const QUIET_FACTS = new Set(['logAppended', 'stepStarted'])

/** Tells the log what a turn did, one record for each thing. */
export function logRow(log: Log, { rev, actor, facts }: FeedRow): void {
  for (const fact of facts) if (!QUIET_FACTS.has(fact.fact)) log.info({ rev, actor, ...fact }, fact.fact)
}
