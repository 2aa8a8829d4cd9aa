/**
 * Who may call which route: the whole role logic of the interface, in one pure function. The core decides about a
 * command once more, with the state at hand; this only keeps out those who may not ask at all. A route that is not
 * allowed here reaches nothing.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { ROUTES, type Role, type RouteName } from '../../protocol/http.ts'
import type { Actor } from '../domain/state.ts'

/** The feed is no route of the table: whoever may look may follow it. */
export type Door = RouteName | 'feed'

/** What has no person behind it may look, stop and keep house; it may not start anything or say that a run went well. */
const LOCAL_ADMIN_NEEDS_LEAVE: ReadonlySet<Door> = new Set<Door>([
  'requestMake',
  'approve',
  'reject',
  'resume',
  'retry',
  'skip',
  'resolve',
])

/** The refusal, or null when `actor` may call `door`. `actor` is null when nobody has shown who they are. */
export function refuseCall(actor: Actor | null, door: Door, localAdminMayApprove: boolean): Refusal | null {
  const role = door === 'feed' ? 'viewer' : ROUTES[door].role
  if (role === 'none') return null
  if (actor === null) return unauthenticated()
  if (actor.kind === 'local-admin') {
    if (localAdminMayApprove || !LOCAL_ADMIN_NEEDS_LEAVE.has(door)) return null
    return {
      kind: 'not-allowed',
      message: `${door} needs a person, and the admin socket has none behind it`,
      subject: door,
      remedy: 'use a personal token, or set requester_may_approve and local_admin_may_approve in a laboratory only',
    }
  }
  if (actor.kind !== 'person') return notAllowed(door, role)
  if (role === 'socket') {
    return {
      kind: 'not-allowed',
      message: `${door} is only answered on the admin socket`,
      subject: door,
      remedy: 'run it on the coordinator itself, without a token',
    }
  }
  return actor.roles.some((held) => grants(held, role)) ? null : notAllowed(door, role)
}

/** Whether holding `held` is enough for a route that asks for `asked`. Every role may look; only approvers approve. */
function grants(held: Role, asked: Role): boolean {
  if (held === asked || asked === 'viewer') return true
  return held === 'admin' && asked === 'requester'
}

export function unauthenticated(): Refusal {
  return {
    kind: 'unauthenticated',
    message: 'no valid token came with this request',
    remedy: 'log in with `smith login`, or ask an admin for a token (`smith user add`)',
  }
}

function notAllowed(door: Door, role: Role | 'socket'): Refusal {
  return {
    kind: 'not-allowed',
    message: `${door} needs the role ${role}`,
    subject: door,
    remedy: `ask an admin for the role ${role} (\`smith user add\`)`,
  }
}
