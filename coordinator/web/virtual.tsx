/**
 * A list of rows of one height of which only those in sight exist, however many there are. Called by the timeline, the
 * machines and the log. A browser can't make an element of any height, so beyond its bound a scroll stands for several
 * rows; the keys still move row by row.
 */
import type { ComponentChildren } from 'preact'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'

/** Firefox gives up at 17.9 million pixels. */
const HEIGHT_MAX = 8_000_000
const OVERSCAN = 12

export type Scroller = { readonly scrollTo: (row: number, where: 'middle' | 'end') => void }

type Given = {
  readonly count: number
  readonly rowHeight: number
  readonly label: string
  readonly render: (row: number) => ComponentChildren
  readonly onRange?: (first: number, last: number) => void
  readonly scroller?: { current: Scroller | null }
  /** A person has scrolled; whether the end is in sight. */
  readonly onScrolled?: (atEnd: boolean) => void
  /** What stands above the rows and stays. */
  readonly children?: ComponentChildren
}

/** Which part of the canvas is in sight. */
function useSight(box: { readonly current: HTMLDivElement | null }) {
  const [seen, setSeen] = useState({ top: 0, height: 600 })
  const measure = () => {
    const element = box.current
    if (element === null) return
    const { scrollTop: top, clientHeight: height } = element
    setSeen((before) => (before.top === top && before.height === height ? before : { top, height }))
  }
  useLayoutEffect(() => {
    const element = box.current
    if (element === null) return undefined
    const observer = new ResizeObserver(measure)
    observer.observe(element)
    measure()
    return () => observer.disconnect()
  }, [])
  return { seen, measure }
}

export function VirtualList({ count, rowHeight, label, render, onRange, scroller, onScrolled, children }: Given) {
  const box = useRef<HTMLDivElement>(null)
  const { seen, measure } = useSight(box)
  const total = count * rowHeight
  const height = Math.min(total, HEIGHT_MAX)
  const scale = total > HEIGHT_MAX ? (total - seen.height) / Math.max(1, height - seen.height) : 1
  const offset = seen.top * scale
  const first = Math.max(0, Math.floor(offset / rowHeight) - OVERSCAN)
  const last = Math.min(count - 1, Math.ceil((offset + seen.height) / rowHeight) + OVERSCAN)
  useEffect(() => onRange?.(first, last), [first, last, count])
  const scrollRow = (row: number, where: 'middle' | 'end') => {
    const element = box.current
    if (element === null) return
    const wanted = where === 'end' ? total : row * rowHeight - element.clientHeight / 2
    element.scrollTop = Math.max(0, wanted) / scale
    measure()
  }
  useEffect(() => {
    if (scroller !== undefined) scroller.current = { scrollTo: scrollRow }
  })
  const scrolled = () => {
    measure()
    const element = box.current
    if (element !== null) onScrolled?.(element.scrollTop + element.clientHeight >= element.scrollHeight - rowHeight)
  }
  const rows = Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index)
  const placeOf = (row: number) => ({
    height: `${rowHeight}px`,
    transform: `translateY(${row * rowHeight - offset + seen.top}px)`,
  })
  return (
    <div
      class="list"
      ref={box}
      tabIndex={0}
      role="table"
      aria-label={label}
      aria-rowcount={count}
      onScroll={scrolled}
      onKeyDown={(event) => moveByKey(event, box.current, rowHeight / scale)}
    >
      {children}
      <div class="canvas" style={{ height: `${height}px` }} role="rowgroup">
        {rows.map((row) => (
          <div key={row} role="row" aria-rowindex={row + 1} class="row" style={placeOf(row)}>
            {render(row)}
          </div>
        ))}
      </div>
    </div>
  )
}

/** Home, End and the pages are the browser's own; one row is as much of a scroll as it stands for. */
function moveByKey(event: KeyboardEvent, box: HTMLDivElement | null, step: number): void {
  if (box === null || event.target !== box) return
  const rows = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0
  if (rows === 0) return
  event.preventDefault()
  box.scrollTop += rows * Math.max(1, step)
}
