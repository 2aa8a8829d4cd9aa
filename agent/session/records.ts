/**
 * Reads the records of one order from its file: complete lines only, and only after the file was synced, so that
 * nothing is sent that a power cut could take back. Used by shipping.ts. Record n is line n of the file.
 */
import * as v from 'valibot'
import { RECORDS_FRAME_BYTES_MAX, RECORDS_FRAME_MAX, AGENT_FRAME_BYTES_MAX } from '../../protocol/agent.ts'
import { recordSchema } from '../../protocol/files.ts'
import type { Disk } from '../disk/disk.ts'

const NEWLINE = 0x0a
const SCAN_BYTES = 262_144
/** What a records frame has around its records. */
const FRAME_OVERHEAD_BYTES = 200

/** A border between two lines: the number of lines before it and the bytes they take. */
export type Border = { readonly line: number; readonly offset: number }
export const START: Border = { line: 0, offset: 0 }

export type Batch = {
  /** The lines as they stand in the file, without their ends. */
  readonly lines: readonly string[]
  readonly end: Border
  /** True when the last of them is the result. */
  readonly hasResult: boolean
}

/** A file that can't be shipped: it is not what the runner writes. */
export class RecordsError extends Error {}

/** The border after line `wanted`, or after the last complete line of the first `size` bytes, looking from `from` on. */
export function seek(disk: Disk, path: string, from: Border, wanted: number, size: number): Border {
  let border = from
  let at = from.offset
  while (border.line < wanted) {
    const chunk = disk.read(path, at, Math.min(SCAN_BYTES, size - at))
    if (chunk.length === 0) break
    let newline = chunk.indexOf(NEWLINE)
    while (newline !== -1 && border.line < wanted) {
      border = { line: border.line + 1, offset: at + newline + 1 }
      newline = chunk.indexOf(NEWLINE, newline + 1)
    }
    at += chunk.length
  }
  return border
}

/** The next records after `from`, at most `max` of them and what fits into a frame; null when there is no whole one. */
export function readBatch(disk: Disk, path: string, from: Border, size: number, max: number): Batch | null {
  let bytesMax = RECORDS_FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES
  for (;;) {
    const chunk = disk.read(path, from.offset, Math.min(bytesMax, size - from.offset))
    const batch = cut(chunk, from, Math.min(max, RECORDS_FRAME_MAX))
    if (batch !== null) return batch
    if (chunk.length < bytesMax) return null
    // A result can be longer than a usual frame; it then goes alone.
    if (bytesMax >= AGENT_FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES) {
      throw new RecordsError(`record ${from.line + 1} is longer than a frame may be`)
    }
    bytesMax = AGENT_FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES
  }
}

function cut(chunk: Buffer, from: Border, max: number): Batch | null {
  const lines: string[] = []
  let start = 0
  let hasResult = false
  while (lines.length < max) {
    const newline = chunk.indexOf(NEWLINE, start)
    if (newline === -1) break
    const line = chunk.toString('utf8', start, newline)
    hasResult = check(line, from.line + lines.length + 1)
    lines.push(line)
    start = newline + 1
    if (hasResult) break
  }
  if (lines.length === 0) return null
  return { lines, end: { line: from.line + lines.length, offset: from.offset + start }, hasResult }
}

/** What the coordinator would refuse is better found here, where the file can be named. True for the result. */
function check(line: string, n: number): boolean {
  let json: unknown
  try {
    json = JSON.parse(line)
  } catch (cause) {
    throw new RecordsError(`line ${n} is not JSON`, { cause })
  }
  const parsed = v.safeParse(recordSchema, json, { abortEarly: true })
  if (!parsed.success) throw new RecordsError(`line ${n} is no record: ${parsed.issues[0].message}`)
  if (parsed.output.n !== n) throw new RecordsError(`line ${n} has number ${parsed.output.n}`)
  return parsed.output.type === 'result'
}

/** True when the line that ends at `border` is a result; `before` is the border in front of it. */
export function isResultLine(disk: Disk, path: string, before: Border, border: Border): boolean {
  if (border.line === 0) return false
  const text = disk.read(path, before.offset, border.offset - before.offset).toString('utf8')
  try {
    return check(text.trimEnd(), border.line)
  } catch (error) {
    if (error instanceof RecordsError) return false
    throw error
  }
}
