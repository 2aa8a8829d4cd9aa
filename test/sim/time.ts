/**
 * Virtual time: a queue of what happens when. Equal instants happen in the order in which they were asked for, so one
 * seed always gives one history.
 */
export type Time = {
  readonly now: () => number
  /** Calls back in `delayMs` of virtual time; the answer cancels it. */
  readonly after: (delayMs: number, callback: () => void) => () => void
  /** Lets the next thing happen; false when nothing is left. */
  readonly advance: () => boolean
}

type Entry = { at: number; order: number; callback: (() => void) | null }

export function createTime(start: number): Time {
  let now = start
  let count = 0
  const heap: Entry[] = []
  const isBefore = (left: Entry, right: Entry) =>
    left.at < right.at || (left.at === right.at && left.order < right.order)
  const swap = (i: number, j: number) => {
    const [a, b] = [heap[i], heap[j]]
    if (a !== undefined && b !== undefined) [heap[i], heap[j]] = [b, a]
  }
  const push = (entry: Entry) => {
    heap.push(entry)
    for (let at = heap.length - 1; at > 0;) {
      const parent = (at - 1) >> 1
      if (!isBefore(entry, heap[parent] as Entry)) return
      swap(at, parent)
      at = parent
    }
  }
  const pop = (): Entry | undefined => {
    swap(0, heap.length - 1)
    const first = heap.pop()
    for (let at = 0; ;) {
      let least = at
      for (const child of [2 * at + 1, 2 * at + 2]) {
        const [a, b] = [heap[child], heap[least]]
        if (a !== undefined && b !== undefined && isBefore(a, b)) least = child
      }
      if (least === at) return first
      swap(at, least)
      at = least
    }
  }
  return {
    now: () => now,
    after: (delayMs, callback) => {
      const entry: Entry = { at: now + Math.max(0, delayMs), order: (count += 1), callback }
      push(entry)
      return () => (entry.callback = null)
    },
    advance: () => {
      for (let entry = pop(); entry !== undefined; entry = pop()) {
        if (entry.callback === null) continue
        now = entry.at
        entry.callback()
        return true
      }
      return false
    },
  }
}
