/** The projects of the instance, the newest first, a page at a time. */
import { useState } from 'preact/hooks'
import { type Answer, CallError, call } from './api.ts'
import { ChangeLink, Foreign, Loading, Problem, State, Time } from './parts.tsx'
import { isNews, useResource } from './state.ts'

type Project = Answer<'projects'>['projects'][number]

/** What the coordinator gives at once; fewer are the last. */
const PAGE = 50

export function History() {
  const { value, error } = useResource('projects', {}, isNews)
  const [older, setOlder] = useState<readonly Project[]>([])
  const [isAll, setIsAll] = useState(false)
  const [failed, setFailed] = useState<CallError | null>(null)
  const newest = value?.projects ?? []
  const known = new Set(newest.map(({ change, createdAt }) => change ?? String(createdAt)))
  const shown = [...newest, ...older.filter(({ change, createdAt }) => !known.has(change ?? String(createdAt)))]
  const more = async () => {
    try {
      const page = await call('projects', { query: { before: String(shown.at(-1)?.createdAt ?? 0) } })
      setOlder([...older, ...page.projects])
      setIsAll(page.projects.length < PAGE)
      setFailed(null)
    } catch (refused) {
      if (!(refused instanceof CallError)) throw refused
      setFailed(refused)
    }
  }
  return (
    <>
      <h1>Projects</h1>
      <Problem error={error ?? failed} />
      {value === null ? error === null && <Loading what="the projects" /> : <Table projects={shown} />}
      {!isAll && newest.length >= PAGE && (
        <p>
          <button type="button" onClick={() => void more()}>
            Older
          </button>
        </p>
      )}
    </>
  )
}

function Table({ projects }: { readonly projects: readonly Project[] }) {
  if (projects.length === 0) return <p class="note">There is no project yet.</p>
  return (
    <table class="stack">
      <thead>
        <tr>
          <th scope="col">Change</th>
          <th scope="col">State</th>
          <th scope="col">Machines</th>
          <th scope="col">Build</th>
          <th scope="col">Asked by</th>
          <th scope="col">At</th>
          <th scope="col">Passed</th>
          <th scope="col">Failed</th>
        </tr>
      </thead>
      <tbody>
        {projects.map((one) => (
          <tr key={one.change ?? one.createdAt}>
            <th scope="row" data-label="Change">
              <ChangeLink change={one.change} />
            </th>
            <td data-label="State">
              <State of={one.state} />
            </td>
            <td data-label="Machines">
              <Foreign text={one.title} />
            </td>
            <td data-label="Build">{one.build}</td>
            <td data-label="Asked by">{one.requester}</td>
            <td data-label="At">
              <Time at={one.createdAt} />
            </td>
            <td data-label="Passed">{one.totals['pass'] ?? 0}</td>
            <td data-label="Failed">{(one.totals['fail'] ?? 0) + (one.totals['unknown'] ?? 0)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}
