/**
 * The records of a run: cut from the raw output, numbered from 1 without gap or repeat, each on disk before anyone
 * can see it. The raw output is the truth: it is synced before a record of it is appended, and after a restart
 * cutting goes on at the byte after the last record.
 * A last line without its end is cut when its program has ended, when it exceeds LINE_BYTES_MAX, or when nothing was
 * added for PARTIAL_LINE_MS, so that a question of a package is seen while it hangs.
 */
import { createHash } from 'node:crypto'
import { isUtf8 } from 'node:buffer'
import * as v from 'valibot'
import { LINE_BYTES_MAX, type Result, type RunRecord, recordSchema, type Step } from '../../protocol/files.ts'
import { appendDurably, type Disk, readIfExists } from '../disk/disk.ts'
import type { OrderLayout } from '../disk/layout.ts'

export const PARTIAL_LINE_MS = 1000
const CHUNK_BYTES = 1024 * 1024
/** Of an output beyond the bound so much of its end is kept, because that is where errors stand. */
export const TAIL_BYTES = 256 * 1024
const RECORDS_BYTES_MAX = 1024 * 1024 * 1024

/** Cuts bytes into lines of at most LINE_BYTES_MAX; what is left over has no line end yet. */
export function cutLines(bytes: Buffer, takeRest: boolean): { readonly lines: Buffer[]; readonly used: number } {
  const lines: Buffer[] = []
  let used = 0
  while (used < bytes.length) {
    const newline = bytes.indexOf(0x0a, used)
    const end = newline < 0 ? bytes.length : newline + 1
    if (end - used > LINE_BYTES_MAX) {
      const length = wholeCharacters(bytes.subarray(used, used + LINE_BYTES_MAX))
      lines.push(bytes.subarray(used, used + length))
      used += length
    } else if (newline >= 0 || takeRest) {
      lines.push(bytes.subarray(used, end))
      used = end
    } else break
  }
  return { lines, used }
}

/** A cut in the middle of a UTF-8 sequence would turn both sides into base64, so it moves to before the sequence. */
function wholeCharacters(bytes: Buffer): number {
  for (let less = 0; less <= 3; less += 1) {
    if (isUtf8(bytes.subarray(0, bytes.length - less))) return bytes.length - less
  }
  return bytes.length
}

export type RecordLog = {
  readonly step: () => Step
  readonly result: () => Result | null
  /** How many bytes of the output have become records. */
  readonly offset: () => number
  /** The number of the last record. */
  readonly count: () => number
  readonly begin: (step: Step) => void
  readonly note: (text: string) => void
  readonly progress: (percent: number, label: string) => void
  /** Cuts what has come; `final` when the program of this step has ended. True when there was anything new. */
  readonly drain: (final: boolean) => boolean
  readonly powerCut: () => void
  readonly end: (result: Omit<Result, 'n' | 'at' | 'type' | 'outputBytes' | 'outputSha256'>) => Result
}
export type RecordPorts = {
  readonly disk: Disk
  readonly now: () => number
  /** Each line and event, for the log that people read on the machine. */
  readonly tell: (step: Step, text: string) => void
}

/** What the loop below changes; read back from the file at each start. */
type State = {
  n: number
  offset: number
  step: Step
  result: Result | null
  isOver: boolean
  partialSize: number
  partialAt: number
}

export function openRecords(ports: RecordPorts, files: OrderLayout, bytesMax: number): RecordLog {
  const { disk } = ports
  const state = loadState(disk, files)
  if (disk.factsOf(files.output) === null) appendDurably(disk, files.output, '')
  restoreOutput(disk, files, state.offset)
  const append = (records: readonly Unnumbered[]) => {
    const at = ports.now()
    const text = records.map((record) => `${JSON.stringify({ n: (state.n += 1), at, ...record })}\n`).join('')
    appendDurably(disk, files.records, text)
  }
  const drain = (final: boolean) => {
    if (state.isOver || state.result !== null) return false
    return drainInto(ports, files, state, bytesMax, final, append)
  }
  const say = (record: Unnumbered, text: string) => {
    append([record])
    ports.tell(state.step, text)
  }
  return {
    step: () => state.step,
    result: () => state.result,
    offset: () => state.offset,
    count: () => state.n,
    begin: (step) => {
      // What is there when the install is seen to have begun is apt's: nothing prints in the step of the latch.
      if (step !== 'install') drain(true)
      state.step = step
      say({ type: 'step', step }, `-- ${step}`)
    },
    note: (text) => say({ type: 'note', step: state.step, text: text.slice(0, 2000) }, text),
    progress: (percent, label) =>
      append([{ type: 'progress', step: state.step, percent, label: label.slice(0, 2000) }]),
    drain,
    powerCut: () =>
      say(
        { type: 'hole', offset: state.offset, bytes: 0, reason: 'power-cut' },
        'the machine went down here: output may be lost',
      ),
    end: (fields) => {
      drain(true)
      const output = outputOf(disk, files, state.offset, bytesMax)
      if (state.isOver) appendTail(ports, files, state, output.bytes, append)
      const result = { type: 'result', ...fields, outputBytes: output.bytes, outputSha256: output.sha256 } as const
      say(result, `== ${fields.outcome}${fields.cause === null ? '' : ` (${fields.cause})`}: ${fields.message}`)
      state.result = { n: state.n, at: ports.now(), ...result }
      return state.result
    },
  }
}

/** In the log that people read, at the end of a line whose rest stands in the next: a secret must not be cut in two there. */
export const GOES_ON = ' [smith: the line goes on]'

function toldOf(line: string, isLast: boolean): string {
  if (line.endsWith('\n')) return line.slice(0, -1)
  return isLast ? line : `${line}${GOES_ON}`
}

type Unnumbered = RunRecord extends infer R ? (R extends RunRecord ? Omit<R, 'n' | 'at'> : never) : never

function loadState(disk: Disk, files: OrderLayout): State {
  const state: State = { n: 0, offset: 0, step: 'claim', result: null, isOver: false, partialSize: 0, partialAt: 0 }
  const bytes = readIfExists(disk, files.records, RECORDS_BYTES_MAX)
  if (bytes === null) return state
  const whole = bytes.lastIndexOf(0x0a) + 1
  // A record that a crash tore was never synced, so nobody has seen it: it is cut again.
  if (whole < bytes.length) {
    disk.truncate(files.records, whole)
    disk.fsync(files.records)
  }
  let start = 0
  while (start < whole) {
    const end = bytes.indexOf(0x0a, start)
    const record = v.parse(recordSchema, JSON.parse(bytes.toString('utf8', start, end)))
    start = end + 1
    state.n = record.n
    if (record.type === 'step') state.step = record.step
    if (record.type === 'line') state.offset = record.offset + bytesOf(record).length
    if (record.type === 'hole' && record.reason === 'bound') {
      state.isOver = true
      state.offset = record.offset + record.bytes
    }
    if (record.type === 'result') state.result = record
  }
  return state
}

type Line = Extract<RunRecord, { type: 'line' }>
function bytesOf(record: Line): Buffer {
  return 'text' in record ? Buffer.from(record.text, 'utf8') : Buffer.from(record.base64, 'base64')
}

/** A disk that lost synced bytes of the output still has them in the records: they are put back, so offsets hold. */
function restoreOutput(disk: Disk, files: OrderLayout, offset: number): void {
  const size = disk.factsOf(files.output)?.size ?? 0
  if (size >= offset) return
  const bytes = readIfExists(disk, files.records, RECORDS_BYTES_MAX) ?? Buffer.alloc(0)
  for (const text of bytes.toString('utf8').split('\n')) {
    if (text === '') continue
    const record = v.parse(recordSchema, JSON.parse(text))
    if (record.type !== 'line') continue
    const line = bytesOf(record)
    const have = disk.factsOf(files.output)?.size ?? 0
    if (record.offset + line.length > have)
      disk.write(files.output, line.subarray(Math.max(0, have - record.offset)), 'append', 0o640)
  }
  disk.fsync(files.output)
}

function lineRecord(step: Step, offset: number, line: Buffer): Unnumbered {
  const base = { type: 'line', step, offset } as const
  return isUtf8(line) ? { ...base, text: line.toString('utf8') } : { ...base, base64: line.toString('base64') }
}

function drainInto(
  ports: RecordPorts,
  files: OrderLayout,
  state: State,
  bytesMax: number,
  final: boolean,
  append: (records: readonly Unnumbered[]) => void,
): boolean {
  let isNew = false
  for (;;) {
    const size = ports.disk.factsOf(files.output)?.size ?? 0
    if (state.offset >= bytesMax) {
      state.isOver = size > state.offset
      if (!isNew && size !== state.partialSize) isNew = true
      state.partialSize = size
      return isNew
    }
    const bytes = ports.disk.read(files.output, state.offset, Math.min(CHUNK_BYTES, bytesMax - state.offset))
    const reachesEnd = state.offset + bytes.length >= size || state.offset + bytes.length >= bytesMax
    if (size !== state.partialSize) {
      state.partialSize = size
      state.partialAt = ports.now()
      isNew = true
    }
    const isSettled = ports.now() - state.partialAt >= PARTIAL_LINE_MS
    const { lines, used } = cutLines(
      bytes,
      reachesEnd && (final || isSettled || state.offset + bytes.length >= bytesMax),
    )
    if (used === 0) return isNew
    ports.disk.fsync(files.output)
    let at = state.offset
    append(
      lines.map((line) => {
        const record = lineRecord(state.step, at, line)
        at += line.length
        return record
      }),
    )
    const isLast = final && reachesEnd && used === bytes.length
    lines.forEach((line, index) =>
      ports.tell(state.step, toldOf(line.toString('utf8'), isLast && index === lines.length - 1)),
    )
    state.offset += used
    isNew = true
  }
}

/** What was dropped at the bound, said; then the end of the output. */
function appendTail(
  ports: RecordPorts,
  files: OrderLayout,
  state: State,
  size: number,
  append: (records: readonly Unnumbered[]) => void,
): void {
  const tailAt = Math.max(state.offset, size - TAIL_BYTES)
  if (tailAt > state.offset)
    append([{ type: 'hole', offset: state.offset, bytes: tailAt - state.offset, reason: 'bound' }])
  const { lines } = cutLines(ports.disk.read(files.output, tailAt, size - tailAt), true)
  let at = tailAt
  append(
    lines.map((line) => {
      const record = lineRecord(state.step, at, line)
      at += line.length
      return record
    }),
  )
  state.offset = size
}

/** Size and hash of the output up to now; a daemon that a package left may add to it afterwards. */
function outputOf(
  disk: Disk,
  files: OrderLayout,
  cutAt: number,
  bytesMax: number,
): { readonly bytes: number; readonly sha256: string } {
  const hash = createHash('sha256')
  const size = cutAt >= bytesMax ? (disk.factsOf(files.output)?.size ?? 0) : cutAt
  let bytes = 0
  while (bytes < size) {
    const chunk = disk.read(files.output, bytes, Math.min(CHUNK_BYTES, size - bytes))
    if (chunk.length === 0) break
    hash.update(chunk)
    bytes += chunk.length
  }
  return { bytes, sha256: hash.digest('hex') }
}
