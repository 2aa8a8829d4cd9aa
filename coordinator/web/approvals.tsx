/** The changes that wait for a person's yes, each with its digest, what it would do, and the buttons for who may decide. */
import type { Answer } from './api.ts'
import { ActionButton } from './dialog.tsx'
import { ChangeLink, Command, Foreign, Loading, Panel, Problem, Since, Time } from './parts.tsx'
import { PlanOf } from './plan.tsx'
import { isNews, may, useResource } from './state.ts'

type Project = Answer<'overview'>['projects'][number]

export function isForApproval({ state, stop }: Pick<Project, 'state' | 'stop'>): boolean {
  return state === 'pending' || stop?.code === 'approval'
}

export function Approvals() {
  const { value, error } = useResource('overview', {}, isNews)
  const waiting = value?.projects.filter(isForApproval) ?? []
  return (
    <>
      <h1>Waiting for approval</h1>
      <Problem error={error} />
      {value === null && error === null && <Loading what="what waits" />}
      {value !== null && waiting.length === 0 && <p class="note">Nothing waits for approval.</p>}
      {waiting.map((project) => (
        <One key={project.change ?? project.createdAt} project={project} />
      ))}
    </>
  )
}

function One({ project }: { readonly project: Project }) {
  const { change } = project
  return (
    <Panel title={change ?? 'A change that is being raised'} id={`approve-${change}`}>
      <p>
        <ChangeLink change={change} /> <Foreign text={project.title} />
        <span class="note">
          {' '}
          build {project.build}, {project.region}, asked by {project.requester} <Time at={project.createdAt} />, waiting
          for <Since at={project.stop?.since ?? project.createdAt} />
        </span>
      </p>
      {change !== null && <Decide change={change} digest={project.digest} link={project.elsewhere?.link ?? null} />}
      {change !== null && <PlanOf change={change} />}
    </Panel>
  )
}

export function Decide({
  change,
  digest,
  link,
}: {
  readonly change: string
  readonly digest: string
  readonly link: string | null
}) {
  if (link !== null)
    return (
      <p>
        It is decided at <Link to={link} />, for the digest <code class="digest">{digest}</code>
      </p>
    )
  return (
    <>
      <p>
        Digest:{' '}
        <code class="digest" data-digest>
          {digest}
        </code>
      </p>
      {may('approver') ? (
        <p class="buttons">
          <ActionButton
            action={{
              label: 'Approve',
              about: `Approves ${change} with exactly the plans whose digest is ${digest}. Its machines are patched one after another from then on.`,
              command: `smith approve ${change} --digest ${digest}`,
              name: 'approve',
              input: { params: { change }, body: { digest } },
              reason: 'allowed',
              tone: 'strong',
            }}
          />
          <ActionButton
            action={{
              label: 'Reject',
              about: `Rejects ${change}: nothing of it is done.`,
              command: `smith reject ${change} --reason REASON`,
              name: 'reject',
              input: { params: { change }, body: {} },
              reason: 'allowed',
            }}
          />
        </p>
      ) : (
        <p class="note">
          An approver types: <Command text={`smith approve ${change} --digest ${digest}`} />
        </p>
      )}
    </>
  )
}

/** Only what is surely an address of the web becomes a link: any other scheme could act. */
function Link({ to }: { readonly to: string }) {
  return to.startsWith('https://') ? (
    <a href={to} rel="noopener noreferrer">
      <Foreign text={to} />
    </a>
  ) : (
    <Foreign text={to} />
  )
}
