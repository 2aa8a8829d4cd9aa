/** One machine: what it is, the orders that it was granted, and the log of one of them, live. */
import type { ComponentChildren } from 'preact'
import type { FeedRow } from '../../protocol/feed.ts'
import type { MachineView, OrderView } from '../../protocol/http.ts'
import { Log } from './log.tsx'
import { ChangeLink, Foreign, Loading, Panel, Problem, Since, State, Time } from './parts.tsx'
import { linkTo, useResource } from './state.ts'
import { numberText, spanText } from './text.ts'

export function Machine({
  name,
  order,
  line,
}: {
  readonly name: string
  readonly order: string | null
  readonly line: number
}) {
  const isAboutIt = (row: FeedRow) =>
    row.facts.some(
      ({ fact, machine }) =>
        (machine === name && fact !== 'logAppended' && fact !== 'stepStarted') || fact === 'instanceOpened',
    )
  const machine = useResource('machines', { query: { pattern: name } }, isAboutIt)
  const orders = useResource('machineOrders', { params: { machine: name } }, isAboutIt)
  const known = orders.value?.orders ?? []
  const chosen = known.find((one) => one.order === order) ?? (order === null ? known.at(-1) : undefined)
  const found = machine.value?.machines.find((one) => one.name === name)
  return (
    <>
      <h1>
        <Foreign text={name} />
      </h1>
      <Problem error={machine.error ?? orders.error} />
      {found !== undefined && <About machine={found} />}
      <Panel title="Runs" id="runs">
        {orders.value === null ? (
          orders.error === null && <Loading what="its runs" />
        ) : (
          <Orders name={name} orders={known} chosen={chosen?.order ?? null} />
        )}
      </Panel>
      {chosen !== undefined && <Log key={chosen.order} order={chosen} line={line} />}
    </>
  )
}

function About({ machine }: { readonly machine: MachineView }) {
  const { impediment, quarantined } = machine
  return (
    <>
      {(impediment !== null || quarantined !== null) && (
        <div class="panel bad">
          <p>
            <strong>It can't be patched:</strong> <Foreign text={quarantined ?? impediment?.message ?? ''} />
          </p>
          {impediment !== null && (
            <p class="note">
              <Foreign text={impediment.remedy} />
            </p>
          )}
        </div>
      )}
      <Facts machine={machine} />
    </>
  )
}

function Facts({ machine }: { readonly machine: MachineView }) {
  const { facts } = machine
  const system = facts === null ? 'unknown' : `${facts.os}, kernel ${facts.kernel}, apt ${facts.apt}, ${facts.arch}`
  const shown: readonly (readonly [string, ComponentChildren])[] = [
    ['State', <Online machine={machine} />],
    ['Last patched', machine.lastPatchedAt === null ? 'never by smith' : <Time at={machine.lastPatchedAt} />],
    ['Reboot', machine.rebootPending ? <span class="state wait">↻ due</span> : 'not due'],
    ['Project', machine.project === null ? 'none' : <ChangeLink change={machine.project} />],
    ['Cluster', <Foreign text={machine.cluster} />],
    ['Region', machine.region ?? 'unknown'],
    ['Address', machine.address ?? 'not connected'],
    ['System', <Foreign text={system} />],
    ['Agent', <Foreign text={facts?.agentVersion ?? 'unknown'} />],
    ['Builds', `${machine.builds.join(', ')}${machine.template ? ' and every number' : ''}`],
  ]
  return (
    <dl class="facts">
      {shown.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  )
}

function Online({ machine: { online, since } }: { readonly machine: MachineView }) {
  return (
    <>
      <State of={online ? 'online' : 'offline'} />{' '}
      {since !== null && (
        <span class="note">
          for <Since at={since} />
        </span>
      )}
    </>
  )
}

function Orders({
  name,
  orders,
  chosen,
}: {
  readonly name: string
  readonly orders: readonly OrderView[]
  readonly chosen: string | null
}) {
  if (orders.length === 0) return <p class="note">It was never granted anything.</p>
  return (
    <div class="scroll">
      <table class="stack">
        <thead>
          <tr>
            <th scope="col">Granted</th>
            <th scope="col">Change</th>
            <th scope="col">Try</th>
            <th scope="col">State</th>
            <th scope="col">Took</th>
            <th scope="col">Log</th>
          </tr>
        </thead>
        <tbody>
          {orders.toReversed().map((one) => (
            <tr key={one.order} class={one.order === chosen ? 'chosen' : ''}>
              <td data-label="Granted">{one.grantedAt === null ? '' : <Time at={one.grantedAt} />}</td>
              <td data-label="Change">
                <ChangeLink change={one.change} />
              </td>
              <td data-label="Try">{one.attempt}</td>
              <td data-label="State">
                <State of={one.state} />
              </td>
              <td data-label="Took">
                {one.grantedAt === null ? (
                  ''
                ) : one.endedAt === null ? (
                  <Since at={one.grantedAt} />
                ) : (
                  spanText(one.endedAt - one.grantedAt)
                )}
              </td>
              <td data-label="Log">
                <a
                  href={linkTo('machine', name, one.order)}
                  {...(one.order === chosen ? { 'aria-current': 'true' as const } : {})}
                >
                  {numberText(one.upTo)} records
                </a>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}
