/** What `smith doctor` says of the coordinator itself, from the state at hand. Pure. */
import type { DoctorView, Role } from '../../protocol/http.ts'
import type { View } from '../domain/draft.ts'
import { instanceOf } from '../domain/draft.ts'
import { shortList } from '../domain/selection.ts'

type Finding = DoctorView['findings'][number]

/** `isLocal`: approvals are given here, so that someone must be able to. */
export function ownFindings(view: View, at: number, isLocal: boolean): Finding[] {
  const { frozen } = instanceOf(view)
  const machines = [...view.all('machines')].filter((machine) => machine.state === 'active')
  const offline = machines.filter((machine) => view.get('sessions', machine.id) === undefined)
  const quarantined = machines.filter((machine) => machine.quarantined !== null)
  const named = (list: typeof machines) => shortList(list.map((machine) => machine.name))
  const isThere = (role: Role) =>
    [...view.all('users')].some(
      (user) => user.revokedAt === null && (user.expiresAt ?? at + 1) > at && user.roles.includes(role),
    )
  const wanted: Role[] = isLocal ? ['requester', 'approver'] : ['requester']
  const missing = wanted.filter((role) => !isThere(role))
  return [
    frozen === null
      ? { subject: 'instance', level: 'good', text: 'not frozen', remedy: null }
      : {
          subject: 'instance',
          level: 'warning',
          text: `frozen by ${frozen.by}: ${frozen.reason}`,
          remedy: 'smith unfreeze',
        },
    offline.length === 0
      ? { subject: 'machines', level: 'good', text: `${machines.length} enrolled, all with a live agent`, remedy: null }
      : {
          subject: 'machines',
          level: 'warning',
          text: `${offline.length} of ${machines.length} without a live agent: ${named(offline)}`,
          remedy: 'start smith-agent there',
        },
    ...(quarantined.length === 0
      ? []
      : [
          {
            subject: 'machines',
            level: 'bad' as const,
            text: `in quarantine: ${named(quarantined)}`,
            remedy: 'enrol them anew: smith enrol new --name NAME --replace',
          },
        ]),
    missing.length === 0
      ? { subject: 'people', level: 'good', text: `somebody has the role ${wanted.join(' and ')}`, remedy: null }
      : {
          subject: 'people',
          level: 'warning',
          text: `nobody has the role ${missing.join(' or ')}`,
          remedy: 'smith user add NAME --role ROLE',
        },
  ]
}
