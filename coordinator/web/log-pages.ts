/**
 * The records of one order as a browser holds them: pages around what is in sight, fetched when they are needed and
 * forgotten when there are many. However long the log, no more than a few thousand records are ever here.
 */
import type { RunRecord } from '../../protocol/files.ts'
import { CallError, call } from './api.ts'

const PAGE = 250
const PAGES_MAX = 40

export type LogPages = {
  readonly recordAt: (n: number) => RunRecord | undefined
  /** Sees to it that these are here soon. */
  readonly want: (first: number, last: number) => void
  /** Looks whether there are more than is known: no row of the feed has said so yet, or one was missed. */
  readonly look: () => void
  readonly stop: () => void
}

/** After a call that found nobody, what is in sight is asked for again. */
const AGAIN_MS = 2_000

/** `onNews` is called when something has arrived; `upTo` says how many records there are now. */
export function createLogPages(order: string, upTo: () => number, onNews: (upTo: number) => void): LogPages {
  const pages = new Map<number, RunRecord[]>()
  const wanted = new Set<number>()
  const state = { isBusy: false, isStopped: false, isLooking: false }

  const isWhole = (index: number) => (pages.get(index)?.length ?? 0) >= Math.min(PAGE, upTo() - index * PAGE)
  /** What was wanted last comes first; then the end, when there may be more than is known. */
  const next = () => {
    const wantedLast = [...wanted].at(-1)
    if (wantedLast !== undefined || !state.isLooking) return wantedLast
    state.isLooking = false
    return Math.floor(upTo() / PAGE)
  }
  const run = async () => {
    if (state.isBusy) return
    state.isBusy = true
    try {
      for (let index = next(); index !== undefined && !state.isStopped; index = next()) {
        await fetchPage(index)
        if (isWhole(index)) wanted.delete(index)
      }
    } catch (error) {
      if (!(error instanceof CallError)) throw error
      // Out of reach or busy is over some time; any other no stays one until something else is in sight.
      if (error.status === 0 || error.status === 429 || error.status >= 500) setTimeout(() => void run(), AGAIN_MS)
      else wanted.clear()
    } finally {
      state.isBusy = false
    }
  }
  const fetchPage = async (index: number) => {
    const have = pages.get(index) ?? []
    const after = index * PAGE + have.length
    const answer = await call('log', {
      params: { order },
      query: { after: String(after), limit: String(Math.max(1, PAGE - have.length)) },
    })
    // Newest use last, so that the first is the one to forget.
    pages.delete(index)
    pages.set(index, [...have, ...answer.records])
    const [eldest] = pages.keys()
    if (pages.size > PAGES_MAX && eldest !== undefined) pages.delete(eldest)
    if (answer.records.length === 0) wanted.delete(index)
    if (!state.isStopped) onNews(answer.upTo)
  }
  return {
    recordAt: (n) => pages.get(Math.floor((n - 1) / PAGE))?.[(n - 1) % PAGE],
    want: (first, last) => {
      // Only what is in sight now: who scrolls quickly must not wait for all that was passed.
      wanted.clear()
      for (let index = Math.floor((first - 1) / PAGE); index * PAGE < last; index += 1)
        if (!isWhole(index)) wanted.add(index)
      void run()
    },
    look: () => {
      state.isLooking = true
      void run()
    },
    stop: () => (state.isStopped = true),
  }
}

/** The numbers of the records that hold `text`, a part of the log at a time; ends when `onPart` says so. */
export async function searchLog(
  order: string,
  text: string,
  onPart: (matches: readonly number[], scannedUpTo: number, upTo: number) => boolean,
  from = 0,
): Promise<void> {
  let after = from
  for (;;) {
    const part = await call('logSearch', { params: { order }, query: { text, after: String(after) } })
    const goesOn = onPart(part.matches, part.scannedUpTo, part.upTo)
    if (!goesOn || part.scannedUpTo <= after || part.scannedUpTo >= part.upTo) return
    after = part.scannedUpTo
  }
}
