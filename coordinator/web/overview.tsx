/** What goes now: each line with who has it, each open project with what stops it, what is planned, what happened. */
import type { Holder } from '../../protocol/status.ts'
import type { Answer } from './api.ts'
import { recentRows } from './feed.ts'
import { FreezeButton } from './freeze.tsx'
import { Activity } from './activity.tsx'
import { isForApproval } from './approvals.tsx'
import { AT_WORK } from './estimate.ts'
import {
  ChangeLink,
  Command,
  Foreign,
  Loading,
  MachineLink,
  Panel,
  Problem,
  Since,
  State,
  Time,
  Totals,
} from './parts.tsx'
import { isNews, linkTo, useResource } from './state.ts'
import { countText } from './text.ts'

type View = Answer<'overview'>

export function Overview() {
  const { value, error } = useResource('overview', {}, isNews)
  return (
    <>
      <h1>What goes now</h1>
      <Problem error={error} />
      {value === null ? error === null && <Loading what="what goes now" /> : <Open view={value} />}
    </>
  )
}

function Open({ view }: { readonly view: View }) {
  const toApprove = view.projects.filter(({ state, stop }) => state === 'pending' || stop?.code === 'approval').length
  return (
    <>
      <Frozen view={view} />
      {view.troubles.map((trouble) => (
        <p key={trouble} class="banner wait">
          <Foreign text={trouble} />
        </p>
      ))}
      <p class="figures">
        <a href={linkTo('machines')}>{countText(view.machines['enrolled'] ?? 0, 'machine')}</a>,{' '}
        {view.machines['online'] ?? 0} online, {view.machines['rebootPending'] ?? 0} with a reboot due
        {(view.machines['impeded'] ?? 0) > 0 && `, ${view.machines['impeded']} unable to be patched`}
        {toApprove > 0 && (
          <>
            {' · '}
            <a href={linkTo('approvals')}>{countText(toApprove, 'change')} to approve</a>
          </>
        )}
      </p>
      <Panel title="Lines" id="lines">
        {view.lines.length === 0 ? (
          <p class="note">No machine is being patched.</p>
        ) : (
          <Lines lines={view.lines} projects={view.projects} />
        )}
      </Panel>
      <Panel title="Open projects" id="projects">
        {view.projects.length === 0 && <p class="note">No project is open.</p>}
        <ul class="cards">
          {view.projects.map((project) => (
            <li key={project.change ?? project.createdAt}>
              <Card project={project} />
            </li>
          ))}
        </ul>
      </Panel>
      {view.requests.length > 0 && <Requests requests={view.requests} />}
      <Activity rows={recentRows.value} limit={40} />
    </>
  )
}

function Frozen({ view }: { readonly view: View }) {
  const { frozen } = view
  if (frozen === null) return <FreezeButton isFrozen={false} />
  return (
    <div class="panel bad" role="status">
      <strong>■ The instance is frozen</strong> by {frozen.by} since <Time at={frozen.at} />:{' '}
      <Foreign text={frozen.reason || 'no reason was given'} />. Nothing is granted. <FreezeButton isFrozen />
    </div>
  )
}

function Lines({ lines, projects }: { readonly lines: readonly Holder[]; readonly projects: View['projects'] }) {
  return (
    <table class="stack">
      <thead>
        <tr>
          <th scope="col">Line</th>
          <th scope="col">Machine</th>
          <th scope="col">Doing</th>
          <th scope="col">Has the line for</th>
          <th scope="col">For whom</th>
          <th scope="col">Stop</th>
        </tr>
      </thead>
      <tbody>
        {lines.map((line) => {
          const stop = projects.find(({ change }) => change === line.change)?.stop ?? null
          const waiting = projects.filter((one) => one.change !== line.change && one.holder?.line === line.line)
          return (
            <tr key={line.line}>
              <th scope="row" data-label="Line">
                <Foreign text={line.line.replace(/^cluster:/, '')} />
              </th>
              <td data-label="Machine">
                <MachineLink name={line.machine} order={line.order} />
              </td>
              <td data-label="Doing">
                <State of={line.state} text={AT_WORK.has(line.state) ? (line.step ?? line.state) : line.state} />{' '}
                {line.stepAt !== null && (
                  <span class="note">
                    for <Since at={line.stepAt} />
                  </span>
                )}
              </td>
              <td data-label="Has it for">
                <Since at={line.since} />
              </td>
              <td data-label="For whom">
                {line.requester} <ChangeLink change={line.change} />
              </td>
              <td data-label="Stop">
                {stop === null ? (
                  <span class="note">none</span>
                ) : (
                  <>
                    <State of={stop.kind === 'hold' ? 'held' : 'waiting'} text={stop.code} />
                  </>
                )}
                {waiting.length > 0 && (
                  <span class="note"> · {countText(waiting.length, 'project')} waiting for it</span>
                )}
              </td>
            </tr>
          )
        })}
      </tbody>
    </table>
  )
}

function Card({ project }: { readonly project: View['projects'][number] }) {
  const { stop } = project
  return (
    <article class={`card ${stop?.kind === 'hold' ? 'bad' : ''}`}>
      <p class="head">
        <ChangeLink change={project.change} /> <State of={project.state} /> <Foreign text={project.title} />
        <span class="note">
          {' '}
          build {project.build}, {project.region}, asked by {project.requester} <Time at={project.createdAt} />
        </span>
      </p>
      <Totals totals={project.totals} />
      {isForApproval(project) && (
        <p class="stop">
          <State of="waiting" text="waiting for approval" />:{' '}
          <a href={linkTo('approvals')}>look at its plan and digest</a>
        </p>
      )}
      {stop !== null && (
        <p class="stop">
          <State of={stop.kind === 'hold' ? 'held' : 'waiting'} /> for <Since at={stop.since} />:{' '}
          <Foreign text={stop.reason} />
          {stop.until !== null && (
            <>
              {' '}
              It lifts itself at <Time at={stop.until} />.
            </>
          )}
          <br />
          <Command text={stop.lift} />
        </p>
      )}
    </article>
  )
}

function Requests({ requests }: { readonly requests: View['requests'] }) {
  return (
    <Panel title="Being planned" id="requests">
      <ul>
        {requests.map((one) => (
          <li key={one.request}>
            <code>
              <Foreign text={one.text} />
            </code>{' '}
            <span class="note">
              by {one.by}, <Time at={one.at} />:{' '}
              {one.state === 'raising'
                ? 'the change is being raised'
                : `${one.planned} of ${countText(one.total, 'machine')} planned`}
            </span>
          </li>
        ))}
      </ul>
    </Panel>
  )
}
