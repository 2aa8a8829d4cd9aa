/** One project: how far it is, what stops it and what lifts that, its machines as a timeline, its plan. */
import type { Stop, Status } from '../../protocol/status.ts'
import { Decide, isForApproval } from './approvals.tsx'
import { type Action, ActionButton } from './dialog.tsx'
import { type Estimate, estimateOf, machinesOf } from './estimate.ts'
import { decisionsOf, liftsOf } from './lifts.ts'
import { Command, Foreign, Loading, Panel, Problem, Since, State, Time, Totals } from './parts.tsx'
import { PlanOf } from './plan.tsx'
import { concernsChange, linkTo, may, now, useResource } from './state.ts'
import { countText, spanText } from './text.ts'
import { Timeline } from './timeline.tsx'
import { Why } from './why.tsx'

const PARTS = [
  ['machines', 'Machines'],
  ['plan', 'Plan'],
  ['text', 'As text'],
] as const
const OTHERS_MAX = 50
const ENDED: readonly string[] = ['complete', 'failed', 'cancelled']

export function ProjectView({ change, part }: { readonly change: string; readonly part: string }) {
  const { value, error } = useResource('project', { params: { change } }, concernsChange(change))
  return (
    <>
      <h1>
        <Foreign text={change} />
      </h1>
      <Problem error={error} />
      {value === null ? (
        error === null && <Loading what={change} />
      ) : (
        <Known change={change} part={part} status={value.status} text={value.text} />
      )}
    </>
  )
}

function Known({
  change,
  part,
  status,
  text,
}: {
  readonly change: string
  readonly part: string
  readonly status: Status
  readonly text: string
}) {
  const estimate = estimateOf(machinesOf(status), now.value)
  return (
    <>
      <Head status={status} />
      <Totals totals={status.totals} />
      <Expected status={status} estimate={estimate} />
      {isForApproval(status) && !ENDED.includes(status.state) && (
        <Panel title="Waiting for approval" id="approval">
          <Decide change={change} digest={status.digest} link={status.elsewhere?.link ?? null} />
        </Panel>
      )}
      {status.stop !== null && <Stopped change={change} status={status} stop={status.stop} />}
      <Others change={change} status={status} />
      {status.closeNotes !== null && (
        <p class="note">
          <Foreign text={status.closeNotes} />
        </p>
      )}
      {!ENDED.includes(status.state) && <Steer change={change} isPaused={status.stop?.code === 'paused'} />}
      <nav class="tabs" aria-label={`Parts of ${change}`}>
        {PARTS.map(([key, label]) => (
          <a
            key={key}
            href={linkTo('project', change, key)}
            {...(part === key ? { 'aria-current': 'page' as const } : {})}
          >
            {label}
          </a>
        ))}
      </nav>
      {part === 'plan' ? (
        <Panel title="Plan" id="plan">
          <p>
            Digest: <code class="digest">{status.digest}</code>
          </p>
          <PlanOf change={change} />
        </Panel>
      ) : part === 'text' ? (
        <Panel title="As smith status says it" id="text">
          <pre>
            <Foreign text={text} />
          </pre>
        </Panel>
      ) : (
        <Timeline status={status} estimate={estimate} />
      )}
    </>
  )
}

function Head({ status }: { readonly status: Status }) {
  return (
    <p class="head">
      <State of={status.state} /> <Foreign text={status.title} />
      <span class="note">
        {' '}
        build {status.build}, {status.region}, asked by {status.requester} <Time at={status.createdAt} />
        {status.approvedBy !== null && `, approved by ${status.approvedBy}`}
        {status.closedAt !== null && (
          <>
            , ended <Time at={status.closedAt} />
          </>
        )}
      </span>
    </p>
  )
}

function Expected({ status, estimate }: { readonly status: Status; readonly estimate: Estimate | null }) {
  if (estimate === null || ENDED.includes(status.state)) return null
  const isHeld = status.stop?.kind === 'hold'
  return (
    <p class="expected">
      {isHeld ? 'If it went on now, it would end at about ' : 'Expected to end at about '}
      <strong>
        <Time at={estimate.endAt} />
      </strong>
      , in {spanText(estimate.endAt - now.value)}
      <span class="note">
        {' '}
        ({spanText(estimate.perMachineMs)} a machine, from the {countText(estimate.from, 'machine')} done)
      </span>
    </p>
  )
}

function Stopped({ change, status, stop }: { readonly change: string; readonly status: Status; readonly stop: Stop }) {
  const machine = machinesOf(status).find(({ name }) => name === stop.machine) ?? null
  return (
    <section class={`panel ${stop.kind === 'hold' ? 'bad' : 'wait'}`} aria-labelledby="stop">
      <h2 id="stop">
        <State of={stop.kind === 'hold' ? 'held' : 'waiting'} text={stop.kind === 'hold' ? 'Held' : 'Waiting'} /> for{' '}
        <Since at={stop.since} />
      </h2>
      <p class="reason">
        <Foreign text={stop.reason} />
      </p>
      {stop.until !== null && (
        <p>
          It lifts itself at <Time at={stop.until} />.
        </p>
      )}
      {stop.code === 'cluster-busy' && status.holder !== null && (
        <p>
          {status.holder.machine} has the line since <Time at={status.holder.since} />, for {status.holder.requester},
          at {status.holder.step ?? status.holder.state}.
        </p>
      )}
      <p>
        <span class="label">Lifts it:</span> <Command text={stop.lift} />
      </p>
      {machine !== null && <Why machine={machine} />}
      <Buttons actions={liftsOf(change, stop)} />
    </section>
  )
}

/** What failed or is unknown besides: a project that goes on after a failure may have many. */
function Others({ change, status }: { readonly change: string; readonly status: Status }) {
  const others = machinesOf(status).filter(
    ({ name, state }) => (state === 'failed' || state === 'unknown') && name !== status.stop?.machine,
  )
  if (others.length === 0) return null
  return (
    <details class="panel">
      <summary>{countText(others.length, 'other machine')} failed or unknown</summary>
      {others.slice(0, OTHERS_MAX).map((machine) => (
        <section key={machine.name}>
          <h3>
            <State of={machine.state} /> <Foreign text={machine.name} />
          </h3>
          <Why machine={machine} />
          {!ENDED.includes(status.state) && <Buttons actions={decisionsOf(change, machine.name, machine.state)} />}
        </section>
      ))}
    </details>
  )
}

function Buttons({ actions }: { readonly actions: readonly Action[] }) {
  return (
    <p class="buttons">
      {actions.map((action) => (
        <ActionButton key={action.label} action={action} />
      ))}
    </p>
  )
}

function Steer({ change, isPaused }: { readonly change: string; readonly isPaused: boolean }) {
  if (!may('requester', 'approver', 'admin')) return null
  const input = { params: { change }, body: {} }
  return (
    <p class="buttons">
      {!isPaused && (
        <ActionButton
          action={{
            label: 'Pause',
            about: `Nothing more of ${change} is granted until it is resumed. What runs now goes on to its end.`,
            command: `smith pause ${change}`,
            name: 'pause',
            input,
            reason: 'allowed',
            tone: 'quiet',
          }}
        />
      )}
      <ActionButton
        action={{
          label: 'Cancel',
          about: `Nothing more of ${change} is granted, for good. What runs now goes on to its end.`,
          command: `smith cancel ${change}`,
          name: 'cancel',
          input,
          reason: 'allowed',
          tone: 'danger',
        }}
      />
    </p>
  )
}
