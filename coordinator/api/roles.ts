/**
 * Who may call which route: the whole role logic of the interface, in one pure function. The core is the authority
 * about commands (domain/authority.ts) and decides once more, with the state at hand; this keeps out those who may
 * not ask at all, by the roles that ROUTES names, before a byte of a body is read. A route that is not allowed here
 * reaches nothing.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { BOT_ROUTES, ROLES, ROUTES, type Role, type RouteName } from '../../protocol/http.ts'
import type { Actor } from '../domain/state.ts'

/** The feed is no route of the table: whoever may look may follow it. */
export type Door = RouteName | 'feed'

/** The refusal, or null when `actor` may call `door`. `actor` is null when nobody has shown who they are. */
export function refuseCall(actor: Actor | null, door: Door): Refusal | null {
  const roles = door === 'feed' ? ROLES : ROUTES[door].roles
  if (roles === 'none') return null
  if (actor === null) return unauthenticated()
  // What the admin socket may not do only the core knows: it depends on the command and on the configuration.
  if (actor.kind === 'local-admin') return null
  if (roles === 'socket') {
    return {
      kind: 'not-allowed',
      message: `${door} is only answered on the admin socket`,
      subject: door,
      remedy: 'run it on the coordinator itself, without a token',
    }
  }
  if (actor.kind === 'person' && actor.via !== undefined && !BOT_ROUTES.has(door)) {
    return {
      kind: 'not-allowed',
      message: `${door} is not done through a bot`,
      subject: door,
      remedy: 'use smith with a token of your own',
    }
  }
  const isAllowed = actor.kind === 'person' && actor.roles.some((held) => (roles as readonly Role[]).includes(held))
  return isAllowed ? null : notAllowed(door, roles)
}

export function unauthenticated(): Refusal {
  return {
    kind: 'unauthenticated',
    message: 'no valid token came with this request',
    remedy: 'log in with `smith login`, or ask an admin for a token (`smith user add`)',
  }
}

function notAllowed(door: Door, roles: readonly Role[]): Refusal {
  return {
    kind: 'not-allowed',
    message: `${door} needs the role ${roles.join(' or ')}`,
    subject: door,
    remedy: `ask an admin for the role ${roles.join(' or ')} (\`smith user add\`)`,
  }
}
