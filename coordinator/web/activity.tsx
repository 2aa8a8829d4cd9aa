/** What happened, the newest first, from the rows of the feed: time, who, and each thing in words. */
import type { Fact, FeedRow } from '../../protocol/feed.ts'
import { ChangeLink, Foreign, MachineLink, Panel, Time } from './parts.tsx'

/** What is told elsewhere on the page, and too often to be told here. */
const QUIET: ReadonlySet<string> = new Set([
  'logAppended',
  'stepStarted',
  'planMade',
  'orderReady',
  'taskMoved',
  'orderOffered',
  'lineTaken',
  'lineFreed',
])

export function Activity({ rows, limit }: { readonly rows: readonly FeedRow[]; readonly limit: number }) {
  const shown = rows.filter(({ facts }) => facts.some(({ fact }) => !QUIET.has(fact))).slice(0, limit)
  return (
    <Panel title="What happened" id="activity">
      <p class="note">
        Up to row <span data-rev={rows[0]?.rev ?? 0}>{rows[0]?.rev ?? '–'}</span> of the feed.
      </p>
      <ol class="activity">
        {shown.map((row) => (
          <li key={row.rev} data-row={row.rev}>
            <Time at={row.at} />{' '}
            <span class="actor">
              <Foreign text={row.actor} />
            </span>
            <ul>
              {row.facts
                .filter(({ fact }) => !QUIET.has(fact))
                .map((fact, index) => (
                  <li key={index}>
                    <One fact={fact} />
                  </li>
                ))}
            </ul>
          </li>
        ))}
      </ol>
    </Panel>
  )
}

function One({ fact }: { readonly fact: Fact }) {
  const why = fact.reason ?? fact.text ?? ''
  return (
    <>
      <span class="fact">{wordsOf(fact.fact)}</span>
      {fact.machine !== undefined && (
        <>
          {' '}
          <MachineLink name={fact.machine} order={fact.order ?? null} />
        </>
      )}
      {fact.change !== undefined && (
        <>
          {' '}
          <ChangeLink change={fact.change} />
        </>
      )}
      {fact.cause !== undefined && <> ({fact.cause})</>}
      {why !== '' && (
        <span class="note">
          {' '}
          <Foreign text={why.slice(0, 300)} />
        </span>
      )}
    </>
  )
}

/** `orderGranted` is "order granted". */
function wordsOf(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
}
