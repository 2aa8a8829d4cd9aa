/**
 * The machines of a project in their order, by phase and bag, each with its place in time: done, at work, or expected.
 * Only the rows in sight exist, so that 1,000 machines read as quickly as ten.
 */
import { useMemo } from 'preact/hooks'
import type { MachineStatus, Status } from '../../protocol/status.ts'
import { AT_WORK, type Estimate, UNSTARTED, machinesOf } from './estimate.ts'
import { Foreign, MachineLink, Panel, Since, State } from './parts.tsx'
import { now } from './state.ts'
import { clockText, countText, spanText } from './text.ts'
import { VirtualList } from './virtual.tsx'

const ROW_PX = 30

type Phase = Status['phases'][number]
type Row =
  | { readonly kind: 'phase'; readonly phase: Phase }
  | { readonly kind: 'bag'; readonly bag: Phase['bags'][number] }
  | { readonly kind: 'machine'; readonly machine: MachineStatus; readonly isNext: boolean; readonly place: number }
type Axis = { readonly from: number; readonly to: number }

export function Timeline({ status, estimate }: { readonly status: Status; readonly estimate: Estimate | null }) {
  const rows = useMemo(() => rowsOf(status), [status])
  const machines = machinesOf(status)
  const starts = machines.flatMap(({ startedAt }) => startedAt ?? [])
  const ends = machines.flatMap(({ endedAt }) => endedAt ?? [])
  const isOver = status.closedAt !== null
  const first = Math.min(...(starts.length === 0 ? [now.value] : starts))
  const axis: Axis = { from: first, to: Math.max(first + 1000, ...ends, isOver ? 0 : now.value, estimate?.endAt ?? 0) }
  return (
    <Panel title={countText(machines.length, 'machine')} id="timeline">
      <div
        class={rows.length > 25 ? 'timeline tall' : 'timeline'}
        style={rows.length > 25 ? {} : { height: `${(rows.length + 1) * ROW_PX + 4}px` }}
      >
        <VirtualList
          count={rows.length}
          rowHeight={ROW_PX}
          label="Machines in their order"
          render={(index) => <One row={rows[index]} axis={axis} estimate={estimate} />}
        >
          <Scale axis={axis} />
        </VirtualList>
      </div>
    </Panel>
  )
}

function rowsOf(status: Status): Row[] {
  let place = 0
  let hasNext = false
  return status.phases.flatMap((phase): Row[] => [
    ...(status.phases.length > 1 ? [{ kind: 'phase', phase } as const] : []),
    ...phase.bags.flatMap((bag): Row[] => [
      ...(bag.machines.length > 1 || phase.bags.length > 1 ? [{ kind: 'bag', bag } as const] : []),
      ...bag.machines.map((machine): Row => {
        const isNext = !hasNext && UNSTARTED.has(machine.state)
        if (isNext) hasNext = true
        if (UNSTARTED.has(machine.state)) place += 1
        return { kind: 'machine', machine, isNext, place }
      }),
    ]),
  ])
}

function Scale({ axis }: { readonly axis: Axis }) {
  return (
    <div class="scale" role="row">
      <span role="columnheader">Machine</span>
      <span role="columnheader">State</span>
      <span role="columnheader">Took</span>
      <span role="columnheader" class="ends">
        <span>{clockText(axis.from, now.value)}</span>
        <span>{clockText(axis.to, now.value)}</span>
      </span>
    </div>
  )
}

function One({
  row,
  axis,
  estimate,
}: {
  readonly row: Row | undefined
  readonly axis: Axis
  readonly estimate: Estimate | null
}) {
  if (row === undefined) return null
  if (row.kind === 'phase')
    return (
      <span role="cell" class="phase">
        Phase {row.phase.number} <State of={row.phase.state} />
      </span>
    )
  if (row.kind === 'bag') {
    return (
      <span role="cell" class="bag">
        <Foreign text={row.bag.name} />{' '}
        <span class="note">
          {row.bag.task} · {countText(row.bag.machines.length, 'machine')}
        </span>{' '}
        <State of={row.bag.state} />
      </span>
    )
  }
  const { machine } = row
  return (
    <>
      <span role="cell" class="of-machine">
        <MachineLink name={machine.name} order={machine.order} />
      </span>
      <span role="cell" class="clip">
        <State
          of={machine.state}
          text={AT_WORK.has(machine.state) ? (machine.step ?? machine.state) : row.isNext ? 'next' : machine.state}
        />
        {machine.attempt > 1 && <span class="note"> try {machine.attempt}</span>}
        {machine.rebootPending && <span class="note"> reboot due</span>}
        {machine.cause !== null && <span class="note"> {machine.cause}</span>}
      </span>
      <span role="cell" class="took">
        {tookOf(machine)}
      </span>
      <span role="cell" class="track">
        <Bar machine={machine} place={row.place} axis={axis} estimate={estimate} />
      </span>
    </>
  )
}

function tookOf({ startedAt, endedAt }: MachineStatus) {
  if (startedAt === null) return ''
  return endedAt === null ? <Since at={startedAt} /> : spanText(endedAt - startedAt)
}

function Bar({
  machine,
  place,
  axis,
  estimate,
}: {
  readonly machine: MachineStatus
  readonly place: number
  readonly axis: Axis
  readonly estimate: Estimate | null
}) {
  const span = axis.to - axis.from
  const at = (instant: number) => `${Math.min(100, Math.max(0, ((instant - axis.from) / span) * 100))}%`
  const width = (ms: number) => `${Math.min(100, Math.max(0.4, (ms / span) * 100))}%`
  const { startedAt, endedAt, state } = machine
  if (startedAt !== null) {
    const end = endedAt ?? now.value
    const label = `from ${clockText(startedAt, now.value)} to ${endedAt === null ? 'now' : clockText(end, now.value)}`
    return (
      <span
        class={`span ${toneOf(state)}`}
        role="img"
        aria-label={label}
        title={label}
        style={{ left: at(startedAt), width: width(end - startedAt) }}
      />
    )
  }
  if (estimate === null || !UNSTARTED.has(state)) return null
  const each = estimate.perMachineMs
  const begin = now.value + (place - 1) * each
  return (
    <span
      class="span expected"
      title={`expected at about ${clockText(begin, now.value)}`}
      style={{ left: at(begin), width: width(each) }}
    />
  )
}

function toneOf(state: string): string {
  if (state === 'succeeded') return 'good'
  return AT_WORK.has(state) ? 'busy' : 'bad'
}
