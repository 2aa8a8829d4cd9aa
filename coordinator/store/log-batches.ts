/**
 * Records of an order as they lie in the store: one batch per append, JSON, compressed when that is worth it (a
 * record alone is not). `codec` stands beside each batch, so that older batches stay readable when it changes.
 */
import { constants, deflateRawSync, inflateRawSync } from 'node:zlib'
import type { RunRecord } from '../../protocol/files.ts'

export type Batch = { readonly codec: 'json' | 'deflate'; readonly data: Buffer }

/** Below this many bytes compression costs more time than it saves space. */
const PLAIN_BYTES_MAX = 400
/** The most that one batch may unpack to: many times what one append can carry. */
const BATCH_BYTES_MAX = 64 * 1_048_576

export function encodeBatch(records: readonly RunRecord[]): Batch {
  const plain = Buffer.from(JSON.stringify(records))
  if (plain.length <= PLAIN_BYTES_MAX) return { codec: 'json', data: plain }
  return { codec: 'deflate', data: deflateRawSync(plain, { level: constants.Z_BEST_SPEED }) }
}

export function decodeBatch(batch: Batch): readonly RunRecord[] {
  const plain = batch.codec === 'json' ? batch.data : inflateRawSync(batch.data, { maxOutputLength: BATCH_BYTES_MAX })
  return JSON.parse(plain.toString('utf8')) as readonly RunRecord[]
}
