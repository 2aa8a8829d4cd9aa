/** All machines: connected or not, versions, reboots due, when they were patched last; filtered as one types. */
import { useMemo, useState } from 'preact/hooks'
import type { MachineView } from '../../protocol/http.ts'
import type { FeedRow } from '../../protocol/feed.ts'
import { ChangeLink, Foreign, Loading, MachineLink, Problem, Since, State } from './parts.tsx'
import { useResource } from './state.ts'
import { countText } from './text.ts'
import { VirtualList } from './virtual.tsx'

const ROW_PX = 30
const TICKS = [
  ['offline', 'offline'],
  ['reboot', 'reboot due'],
  ['impeded', 'unable to be patched'],
  ['busy', 'in a project'],
] as const
type Tick = (typeof TICKS)[number][0]

const TELLING: ReadonlySet<string> = new Set([
  'machineEnrolled',
  'machineRetired',
  'machineConnected',
  'machineDisconnected',
  'machineQuarantined',
  'orderSucceeded',
  'orderFailed',
  'machinePassed',
  'projectMade',
  'projectClosed',
  'instanceOpened',
])
const isAboutMachines = (row: FeedRow) => row.facts.some(({ fact }) => TELLING.has(fact))

export function Machines() {
  const { value, error } = useResource('machines', {}, isAboutMachines)
  const [text, setText] = useState('')
  const [ticks, setTicks] = useState<ReadonlySet<Tick>>(new Set())
  const machines = value?.machines ?? []
  const shown = useMemo(() => machines.filter((machine) => fits(machine, text, ticks)), [machines, text, ticks])
  const toggle = (tick: Tick) =>
    setTicks(new Set([...TICKS.map(([key]) => key)].filter((key) => ticks.has(key) !== (key === tick))))
  return (
    <>
      <h1>Machines</h1>
      <Problem error={error} />
      <search class="filter">
        <label for="filter">Filter</label>
        <input
          id="filter"
          type="search"
          value={text}
          placeholder="name, address, cluster, version …"
          onInput={(event) => setText(event.currentTarget.value)}
        />
        {TICKS.map(([key, label]) => (
          <label key={key} class="tick">
            <input type="checkbox" checked={ticks.has(key)} onChange={() => toggle(key)} /> {label}
          </label>
        ))}
        <span role="status" class="note">
          {countText(shown.length, 'machine')}
          {shown.length < machines.length && ` of ${machines.length}`}
        </span>
      </search>
      {value === null ? (
        error === null && <Loading what="the machines" />
      ) : (
        <div class="machines tall">
          <VirtualList
            count={shown.length}
            rowHeight={ROW_PX}
            label="Machines"
            render={(index) => <One machine={shown[index]} />}
          >
            <div class="scale" role="row">
              {['Machine', 'State', 'Last patched', 'Reboot', 'System', 'Agent', 'Project'].map((name) => (
                <span key={name} role="columnheader">
                  {name}
                </span>
              ))}
            </div>
          </VirtualList>
        </div>
      )}
    </>
  )
}

function fits(machine: MachineView, text: string, ticks: ReadonlySet<Tick>): boolean {
  if (ticks.has('offline') && machine.online) return false
  if (ticks.has('reboot') && !machine.rebootPending) return false
  if (ticks.has('impeded') && machine.impediment === null && machine.quarantined === null) return false
  if (ticks.has('busy') && machine.project === null) return false
  const { facts } = machine
  const hay = [
    machine.name,
    machine.address,
    machine.cluster,
    machine.region,
    machine.project,
    facts?.os,
    facts?.kernel,
    facts?.agentVersion,
    machine.impediment?.message,
  ]
    .join(' ')
    .toLowerCase()
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => hay.includes(word))
}

function One({ machine }: { readonly machine: MachineView | undefined }) {
  if (machine === undefined) return null
  const problem = machine.quarantined ?? machine.impediment?.message ?? null
  return (
    <>
      <span role="cell" class="of-machine">
        <MachineLink name={machine.name} />
      </span>
      <span role="cell" class="clip">
        <State of={machine.online ? 'online' : 'offline'} />{' '}
        {machine.since !== null && (
          <span class="note">
            <Since at={machine.since} />
          </span>
        )}
        {problem !== null && (
          <span class="state bad" title={problem}>
            {' '}
            ✗ <Foreign text={problem} />
          </span>
        )}
      </span>
      <span role="cell">
        {machine.lastPatchedAt === null ? (
          <span class="note">never by smith</span>
        ) : (
          <>
            <Since at={machine.lastPatchedAt} /> ago
          </>
        )}
      </span>
      <span role="cell">
        {machine.rebootPending ? <span class="state wait">↻ due</span> : <span class="note">no</span>}
      </span>
      <span role="cell" class="clip">
        <Foreign text={`${machine.facts?.os ?? ''} ${machine.facts?.kernel ?? ''}`} />
      </span>
      <span role="cell">
        <Foreign text={machine.facts?.agentVersion ?? ''} />
      </span>
      <span role="cell">{machine.project !== null && <ChangeLink change={machine.project} />}</span>
    </>
  )
}
