/**
 * Keeps something fresh: does a refresh at once, after every (re)connection of the feed, after each row that
 * concerns it, and now and then in any case, until the refresh says that the end is reached. Called by
 * `patch --wait`, `status --watch` and `logs --follow`. The invariant: refreshes never overlap, and a row that
 * comes during one leads to another.
 */
import type { FeedRow } from '../../protocol/feed.ts'
import type { Client } from '../client/client.ts'
import { isUnreachable } from '../client/failure.ts'
import { aborted, followFeed } from '../client/feed-client.ts'
import { wait } from '../client/target.ts'
import type { Io } from './io.ts'

/** A safety net below the feed, should a row that matters not look as if it did. */
const REFRESH_MS_MAX = 5000
const RETRY_MS = 500
const RETRY_MS_MAX = 10_000

export type Followed = {
  readonly concerns: (row: FeedRow) => boolean
  /** True when the end is reached. */
  readonly refresh: () => Promise<boolean>
  /** Told once when the coordinator gets out of reach (why) and once when it is back (null). */
  readonly onReach: (lost: string | null) => void
  readonly onEpoch?: () => void
  /** The least time between two refreshes. */
  readonly gapMs: number
}

export async function follow(io: Io, client: Client, followed: Followed, signal: AbortSignal): Promise<void> {
  const stop = new AbortController()
  const onAbort = () => stop.abort()
  signal.addEventListener('abort', onAbort)
  let wake = () => {}
  let dirty = true
  const touch = () => {
    dirty = true
    wake()
  }
  const feed = feedWhenThere(io, client, followed, touch, stop.signal)
  const loop = async () => {
    const reach = reachOf(followed)
    while (!stop.signal.aborted) {
      dirty = false
      let pauseMs = followed.gapMs
      try {
        const ended = await followed.refresh()
        reach.back()
        if (ended) return
      } catch (error) {
        if (!isUnreachable(error)) throw error
        pauseMs = reach.lost(error.message)
        dirty = true
      }
      await Promise.race([wait(io, pauseMs), aborted(stop.signal)])
      if (dirty || stop.signal.aborted) continue
      await Promise.race([
        new Promise<void>((resolve) => (wake = resolve)),
        wait(io, REFRESH_MS_MAX),
        aborted(stop.signal),
      ])
    }
  }
  try {
    // The feed ends of itself only with an error, so the race ends with the loop or with that error.
    await Promise.race([loop(), feed])
  } finally {
    stop.abort()
    signal.removeEventListener('abort', onAbort)
  }
}

function reachOf(followed: Followed) {
  let failures = 0
  return {
    back: () => {
      if (failures > 0) followed.onReach(null)
      failures = 0
    },
    lost: (why: string): number => {
      if (failures === 0) followed.onReach(why)
      failures += 1
      return Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** (failures - 1))
    },
  }
}

/** Asks where the feed stands, as often as it takes, and follows it from there. */
async function feedWhenThere(
  io: Io,
  client: Client,
  followed: Followed,
  touch: () => void,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      const { epoch, rev } = await client.call('who')
      await followFeed(
        io,
        client.target,
        { epoch, since: rev },
        {
          onHello: (hello) => {
            if (hello.epochWas !== null) followed.onEpoch?.()
            touch()
          },
          onRow: (row) => {
            if (followed.concerns(row)) touch()
          },
          onGap: touch,
          onLost: touch,
        },
        signal,
      )
    } catch (error) {
      if (!isUnreachable(error)) throw error
      await Promise.race([wait(io, RETRY_MS), aborted(signal)])
    }
  }
}
