/**
 * The feed as one unbroken stream: connects, says since when it is not connected, and goes on after the last row that
 * arrived. The invariant: a row is handed on once and in the order of `rev`; where rows are missing (a restored
 * database), everything that is shown is asked for anew.
 */
import { signal } from '@preact/signals'
import { FEED_SUBPROTOCOL, type FeedFrame, type FeedRow } from '../../protocol/feed.ts'

export type Connection =
  | { readonly state: 'connecting' | 'connected' }
  /** `heardAt`: when anything was last heard of the coordinator, by the clock of this browser. */
  | { readonly state: 'lost'; readonly heardAt: number; readonly tries: number }

const RECENT_MAX = 300
const BACK_OFF_MS_MAX = 10_000
const QUIET_MS = 10_000
const CHECK_MS_MAX = 5_000

export const connection = signal<Connection>({ state: 'connecting' })
/** The newest rows, the newest first. */
export const recentRows = signal<readonly FeedRow[]>([])
/** Counts the times at which nothing that is shown can be trusted. */
export const anew = signal(0)

const listeners = new Set<(row: FeedRow) => void>()

/** Calls back with each row; the answer ends it. */
export function onRow(listener: (row: FeedRow) => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

export type Follower = { readonly stop: () => void; readonly retry: () => void }

/** Follows from a row on until it is stopped. `onRefused` is asked when a connection did not come to be. */
export function follow(from: { epoch: string; rev: number }, onRefused: () => Promise<void>): Follower {
  const place = { ...from }
  const state = { stopped: false, tries: 0, heardAt: Date.now(), wake: () => {} }

  const run = async () => {
    while (!state.stopped) {
      const greeted = await connectOnce(place, state)
      if (state.stopped) return
      if (!greeted) await onRefused()
      state.tries = greeted ? 1 : state.tries + 1
      connection.value = { state: 'lost', heardAt: state.heardAt, tries: state.tries }
      const bound = Math.min(BACK_OFF_MS_MAX, 250 * 2 ** Math.min(state.tries, 8))
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, bound / 2 + jitter(bound / 2))
        state.wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }
  void run()
  return {
    stop: () => {
      state.stopped = true
      closeNow()
      state.wake()
    },
    retry: () => state.wake(),
  }
}

/** After a restart of the coordinator not everybody comes back at once. */
function jitter(bound: number): number {
  return ((crypto.getRandomValues(new Uint32Array(1))[0] ?? 0) / 2 ** 32) * bound
}

let closeNow: () => void = () => {}

/** True when there was a connection. */
function connectOnce(place: { epoch: string; rev: number }, state: { heardAt: number }): Promise<boolean> {
  return new Promise((resolve) => {
    const url = `wss://${location.host}/feed?since=${place.rev}&epoch=${place.epoch}`
    const socket = new WebSocket(url, FEED_SUBPROTOCOL)
    let greeted = false
    const end = () => {
      clearInterval(watch)
      socket.close()
      resolve(greeted)
    }
    closeNow = end
    // A browser tells no page of pings, so a quiet connection is tried from time to time.
    const watch = setInterval(() => {
      if (Date.now() - state.heardAt >= QUIET_MS) void check().then((isThere) => (isThere ? heard() : end()))
    }, QUIET_MS)
    const heard = () => {
      state.heardAt = Date.now()
    }
    socket.addEventListener('message', (event) => {
      heard()
      const frame = JSON.parse(String(event.data)) as FeedFrame
      if (frame.t === 'row') take(frame.row, place)
      else {
        greeted = true
        if (!frame.resumed) Object.assign(place, { epoch: frame.epoch, rev: frame.rev })
        if (!frame.resumed) recentRows.value = []
        connection.value = { state: 'connected' }
        anew.value += 1
      }
    })
    socket.addEventListener('close', end)
    socket.addEventListener('error', end)
  })
}

async function check(): Promise<boolean> {
  try {
    return (await fetch('/healthz', { cache: 'no-store', signal: AbortSignal.timeout(CHECK_MS_MAX) })).ok
  } catch (error) {
    // Whatever is in the way, the answer is the same: nobody was reached.
    return !(error instanceof Error)
  }
}

function take(row: FeedRow, place: { rev: number }): void {
  if (row.rev <= place.rev) return
  if (row.rev > place.rev + 1) anew.value += 1
  place.rev = row.rev
  recentRows.value = [row, ...recentRows.value.slice(0, RECENT_MAX - 1)]
  for (const listener of listeners) listener(row)
}
