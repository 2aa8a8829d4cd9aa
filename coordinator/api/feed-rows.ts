/**
 * The newest rows of the feed as text, made once and shared by all who follow it, up to a bound of bytes in all.
 * Called by feed.ts. It is only a shortcut: what is not here is read from the store, so a client that lags costs
 * disk reads and never memory.
 */
import type { FeedFrame, FeedRow } from '../../protocol/feed.ts'

export type RecentRows = {
  readonly add: (row: FeedRow) => void
  /** The frame of a row, undefined when it is too old or was never seen here. */
  readonly frameOf: (rev: number) => string | undefined
}

export function createRecentRows(bytesMax: number): RecentRows {
  const frames = new Map<number, string>()
  let bytes = 0
  return {
    add: (row) => {
      const frame = rowFrame(row)
      frames.set(row.rev, frame)
      bytes += frame.length
      // A Map keeps the order of insertion, so the eldest goes first.
      for (const [rev, text] of frames) {
        if (bytes <= bytesMax) return
        frames.delete(rev)
        bytes -= text.length
      }
    },
    frameOf: (rev) => frames.get(rev),
  }
}

export function rowFrame(row: FeedRow): string {
  return JSON.stringify({ t: 'row', row } satisfies FeedFrame)
}
