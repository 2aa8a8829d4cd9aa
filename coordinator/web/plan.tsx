/** A project's plan, by package: old to new version and on which machines; removals, repairs, apt holds and reboots. */
import type { FeedRow } from '../../protocol/feed.ts'
import type { PlanView } from '../../protocol/http.ts'
import { Foreign, Loading, MachineLink, Problem } from './parts.tsx'
import { useResource } from './state.ts'
import { countText, sizeText } from './text.ts'

export type Group = {
  readonly action: 'install' | 'remove' | 'repair' | 'apt hold' | 'reboot'
  readonly what: string
  readonly how: string
  readonly machines: readonly string[]
}

const NAMES_SHOWN = 6

/** What is the same on several machines stands once. */
export function groupsOf(plan: Pick<PlanView, 'machines'>): Group[] {
  const groups = new Map<string, { action: Group['action']; what: string; how: string; machines: string[] }>()
  const add = (action: Group['action'], what: string, how: string, machine: string) => {
    const key = [action, what, how].join('\n')
    const group = groups.get(key) ?? { action, what, how, machines: [] }
    group.machines.push(machine)
    groups.set(key, group)
  }
  for (const { name, plan: one } of plan.machines) {
    for (const { name: what, arch, from, version } of one.installs)
      add('install', `${what}:${arch}`, `${from ?? '(new)'} → ${version}`, name)
    for (const { name: what, arch, version } of one.removes) add('remove', `${what}:${arch}`, version, name)
    for (const { name: what, arch, version, state } of one.repairs)
      add('repair', `${what}:${arch}`, `${version} (${state})`, name)
    for (const what of one.holds) add('apt hold', what, 'kept back', name)
    if (one.rebootDue) add('reboot', 'a reboot is due', '', name)
  }
  return [...groups.values()].toSorted(
    (a, b) => ORDER.indexOf(a.action) - ORDER.indexOf(b.action) || (a.what < b.what ? -1 : 1),
  )
}

const ORDER: readonly Group['action'][] = ['remove', 'repair', 'install', 'apt hold', 'reboot']

/** What was approved does not change, and it is long: a run is no reason to ask for it again. */
const isOfPlan = (change: string) => (row: FeedRow) =>
  row.facts.some((fact) => fact.change === change && fact.fact === 'changeRaised')

export function PlanOf({ change }: { readonly change: string }) {
  const { value, error } = useResource('plan', { params: { change } }, isOfPlan(change))
  if (value === null) return error === null ? <Loading what="the plan" /> : <Problem error={error} />
  const bytes = value.machines.reduce((sum, { evidence }) => sum + evidence.downloadBytes, 0)
  const warnings = value.machines.flatMap(({ name, warnings: texts }) => texts.map((text) => ({ name, text })))
  return (
    <div class="plan">
      <p class="note">
        {countText(value.machines.length, 'machine')}, {sizeText(bytes)} to download in all. {value.terms.join(' ')}
      </p>
      <Groups groups={groupsOf(value)} total={value.machines.length} />
      {warnings.length > 0 && (
        <details>
          <summary>{countText(warnings.length, 'warning')}</summary>
          <ul>
            {warnings.map(({ name, text }, index) => (
              <li key={index}>
                <MachineLink name={name} />: <Foreign text={text} />
              </li>
            ))}
          </ul>
        </details>
      )}
      {value.skipped.length > 0 && (
        <details>
          <summary>{countText(value.skipped.length, 'machine')} left out</summary>
          <ul>
            {value.skipped.map(({ name, reason }) => (
              <li key={name}>
                <MachineLink name={name} />: <Foreign text={reason} />
              </li>
            ))}
          </ul>
        </details>
      )}
    </div>
  )
}

function Groups({ groups, total }: { readonly groups: readonly Group[]; readonly total: number }) {
  if (groups.length === 0) return <p>Nothing is to be installed.</p>
  return (
    <table class="stack">
      <thead>
        <tr>
          <th scope="col">Action</th>
          <th scope="col">Package</th>
          <th scope="col">Version</th>
          <th scope="col">Machines</th>
        </tr>
      </thead>
      <tbody>
        {groups.map(({ action, what, how, machines }) => (
          <tr key={`${action} ${what} ${how}`} class={action === 'remove' ? 'bad' : ''}>
            <td data-label="Action">{action}</td>
            <th scope="row" data-label="Package" class="name">
              {what}
            </th>
            <td data-label="Version">
              <code>{how}</code>
            </td>
            <td data-label="Machines">
              <Names names={machines} total={total} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}

function Names({ names, total }: { readonly names: readonly string[]; readonly total: number }) {
  if (names.length === total && total > 1) return <>all {total}</>
  const links = (some: readonly string[]) =>
    some.map((name) => (
      <span key={name}>
        <MachineLink name={name} />{' '}
      </span>
    ))
  if (names.length <= NAMES_SHOWN) return <>{links(names)}</>
  return (
    <details>
      <summary>
        {names.length} of {total}
      </summary>
      {links(names)}
    </details>
  )
}
