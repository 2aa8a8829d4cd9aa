/**
 * The log of one order, live: only the records in sight are here. It follows the end until a person scrolls away,
 * finds text in all of it, jumps to the decisive lines, and each line has an address.
 */
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import type { RunRecord } from '../../protocol/files.ts'
import type { OrderView } from '../../protocol/http.ts'
import { anew, onRow } from './feed.ts'
import { createLogPages, searchLog } from './log-pages.ts'
import { LogRow } from './log-row.tsx'
import { Foreign } from './parts.tsx'
import { linkTo } from './state.ts'
import { numberText } from './text.ts'
import { type Scroller, VirtualList } from './virtual.tsx'

const ROW_PX = 20
const MATCHES_MAX = 100_000
/** The decisive lines stand near the end; only where they do not is all of the log looked through. */
const NEAR_END = 20_000

type Found = {
  readonly text: string
  readonly matches: readonly number[]
  readonly scanned: number
  readonly isWhole: boolean
}
const NOTHING: Found = { text: '', matches: [], scanned: 0, isWhole: true }

/** Which records there are, and those in sight; drawn anew when some arrive. */
function useRecords(order: OrderView) {
  const [upTo, setUpTo] = useState(order.upTo)
  const [, draw] = useState(0)
  const count = useRef(order.upTo)
  const pages = useMemo(
    () =>
      createLogPages(
        order.order,
        () => count.current,
        (newest) => {
          count.current = Math.max(count.current, newest)
          setUpTo(count.current)
          draw((times) => times + 1)
        },
      ),
    [order.order],
  )
  const grow = (newest: number) => {
    count.current = Math.max(count.current, newest)
    setUpTo(count.current)
  }
  useEffect(() => grow(order.upTo), [order.upTo])
  useEffect(() => {
    const stopRows = onRow((row) => {
      for (const fact of row.facts) if (fact.order === order.order && fact.upTo !== undefined) grow(fact.upTo)
    })
    const stopAnew = anew.subscribe(() => pages.look())
    return () => {
      stopRows()
      stopAnew()
      pages.stop()
    }
  }, [order.order])
  return { upTo, pages }
}

export function Log({ order, line }: { readonly order: OrderView; readonly line: number }) {
  const { upTo, pages } = useRecords(order)
  const [isFollowing, setFollowing] = useState(line === 0 && order.endedAt === null)
  const [chosen, setChosen] = useState(line)
  const [needle, setNeedle] = useState('')
  const scroller = useRef<Scroller | null>(null)
  const range = useRef({ first: 0, last: 0 })
  const goTo = (n: number) => {
    setFollowing(false)
    setChosen(n)
    scroller.current?.scrollTo(n - 1, 'middle')
    // In place of the present address: going back must not go through every line looked at.
    history.replaceState(null, '', linkTo('machine', order.machine, order.order, n))
  }
  useEffect(() => {
    if (line > 0) scroller.current?.scrollTo(line - 1, 'middle')
    else if (order.endedAt !== null) scroller.current?.scrollTo(0, 'end')
  }, [])
  useEffect(() => {
    if (isFollowing) scroller.current?.scrollTo(upTo, 'end')
    pages.want(range.current.first + 1, range.current.last + 1)
  }, [upTo, isFollowing])
  return (
    <section class="panel log" aria-labelledby="log">
      <h2 id="log">
        Log of try {order.attempt}{' '}
        <span class="note">
          {order.change}, {numberText(upTo)} records
        </span>
      </h2>
      <Tools
        order={order.order}
        upTo={upTo}
        isFollowing={isFollowing}
        follow={setFollowing}
        goTo={goTo}
        onSearch={setNeedle}
        at={chosen}
      />
      <Decisive order={order} upTo={upTo} pages={pages} goTo={goTo} />
      <div class="tall lines">
        <VirtualList
          count={upTo}
          rowHeight={ROW_PX}
          label={`Log of ${order.machine}`}
          scroller={scroller}
          onScrolled={(atEnd) => !atEnd && range.current.last > 0 && setFollowing(false)}
          onRange={(first, last) => {
            range.current = { first, last }
            pages.want(first + 1, last + 1)
          }}
          render={(row) => (
            <LogRow
              n={row + 1}
              record={pages.recordAt(row + 1)}
              before={pages.recordAt(row)}
              isChosen={row + 1 === chosen}
              needle={needle}
              goTo={goTo}
            />
          )}
        />
      </div>
    </section>
  )
}

/** Finds a text in all of the log, a part at a time, and goes to the first place of it at once. */
function useSearch(order: string, goTo: (n: number) => void, onSearch: (text: string) => void) {
  const [found, setFound] = useState<Found>(NOTHING)
  const [problem, setProblem] = useState('')
  const run = useRef(0)
  const look = async (text: string) => {
    const mine = (run.current += 1)
    const matches: number[] = []
    setProblem('')
    onSearch(text)
    if (text === '') return setFound(NOTHING)
    try {
      await searchLog(order, text, (part, scanned, all) => {
        if (mine !== run.current) return false
        const isFirst = matches.length === 0
        matches.push(...part)
        setFound({ text, matches: [...matches], scanned, isWhole: scanned >= all })
        if (isFirst && matches[0] !== undefined) goTo(matches[0])
        return matches.length < MATCHES_MAX
      })
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error))
    }
  }
  return { found, problem, look }
}

function Tools({
  order,
  upTo,
  isFollowing,
  follow,
  goTo,
  onSearch,
  at,
}: {
  readonly order: string
  readonly upTo: number
  readonly isFollowing: boolean
  readonly follow: (on: boolean) => void
  readonly goTo: (n: number) => void
  readonly onSearch: (text: string) => void
  readonly at: number
}) {
  const { found, problem, look } = useSearch(order, goTo, onSearch)
  const field = useRef<HTMLInputElement>(null)
  const step = (by: 1 | -1) => {
    const { matches } = found
    const next =
      by === 1 ? (matches.find((n) => n > at) ?? matches[0]) : (matches.findLast((n) => n < at) ?? matches.at(-1))
    if (next !== undefined) goTo(next)
  }
  const submit = (event: Event) => {
    event.preventDefault()
    const text = field.current?.value ?? ''
    if (text === found.text && found.matches.length > 0) step(1)
    else void look(text)
  }
  return (
    <div class="tools">
      <form role="search" onSubmit={submit}>
        <label for="search">Search</label>
        <input id="search" type="search" ref={field} maxLength={200} spellcheck={false} />
        <button type="submit">Find</button>
        <button type="button" class="quiet" disabled={found.matches.length === 0} onClick={() => step(-1)}>
          Previous
        </button>
        <button type="button" class="quiet" disabled={found.matches.length === 0} onClick={() => step(1)}>
          Next
        </button>
        <span
          role="status"
          class="note"
          data-found={found.matches.length}
          data-whole={found.isWhole && found.text !== ''}
        >
          {problem === '' ? foundText(found, at, upTo) : problem}
        </span>
      </form>
      <label class="tick">
        <input type="checkbox" checked={isFollowing} onChange={(event) => follow(event.currentTarget.checked)} /> Follow
      </label>
      <button type="button" class="quiet" onClick={() => goTo(1)}>
        Begin
      </button>
      <button type="button" class="quiet" onClick={() => goTo(upTo)}>
        End
      </button>
    </div>
  )
}

function foundText({ text, matches, scanned, isWhole }: Found, at: number, upTo: number): string {
  if (text === '') return ''
  const place = matches.indexOf(at) + 1
  const of = `${place > 0 ? `${numberText(place)} of ` : ''}${numberText(matches.length)} found`
  return isWhole ? of : `${of}, ${Math.floor((scanned / Math.max(1, upTo)) * 100)}% looked at`
}

/** What the run's last record quotes of the output, each with a jump to its place. */
function Decisive({
  order,
  upTo,
  pages,
  goTo,
}: {
  readonly order: OrderView
  readonly upTo: number
  readonly pages: { readonly recordAt: (n: number) => RunRecord | undefined }
  readonly goTo: (n: number) => void
}) {
  const [missing, setMissing] = useState('')
  const last = pages.recordAt(upTo)
  if (last?.type !== 'result' || last.evidence.length === 0) return null
  const jump = async (text: string) => {
    const wanted = text.trim().slice(0, 200)
    let place = 0
    const keep = (matches: readonly number[]) => {
      // The result quotes it too, and is not its place.
      place = matches.findLast((n) => n < upTo) ?? place
      return true
    }
    await searchLog(order.order, wanted, keep, Math.max(0, upTo - NEAR_END))
    if (place === 0 && upTo > NEAR_END) await searchLog(order.order, wanted, keep)
    if (place > 0) goTo(place)
    setMissing(place > 0 ? '' : 'That line is not from the output of this run.')
  }
  return (
    <div class="decisive">
      <p class="label">Decisive lines</p>
      <ul>
        {last.evidence.map((text) => (
          <li key={text}>
            <button type="button" class="line" onClick={() => void jump(text)}>
              <code>
                <Foreign text={text} />
              </code>
            </button>
          </li>
        ))}
      </ul>
      <span role="status" class="note">
        {missing}
      </span>
    </div>
  )
}
