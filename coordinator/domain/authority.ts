/**
 * Who may give which command. Roles: a requester asks and steers, an approver decides about changes, an admin looks
 * after people, machines and the instance. The admin socket has no person behind it: it may look, enrol, freeze and
 * stop, and more only where the configuration says that one person may do all. Called by step.ts for every command.
 */
import type { Refusal } from '../../protocol/errors.ts'
import type { Role } from '../../protocol/http.ts'
import type { Command, Settings } from './events.ts'
import type { Actor } from './state.ts'

type Verb = Command['type']

const ROLES_FOR: { readonly [V in Verb]: readonly Role[] } = {
  request: ['requester', 'admin'],
  pause: ['requester', 'approver', 'admin'],
  resume: ['requester', 'admin'],
  cancel: ['requester', 'approver', 'admin'],
  retry: ['requester', 'admin'],
  skip: ['requester', 'admin'],
  resolve: ['requester', 'admin'],
  freeze: ['requester', 'approver', 'admin'],
  unfreeze: ['admin'],
  enrolNew: ['admin'],
  enrolRevoke: ['admin'],
  userAdd: ['admin'],
  userRevoke: ['admin'],
  scheduleAdd: ['requester', 'admin'],
  scheduleRemove: ['requester', 'approver', 'admin'],
  scheduleRun: ['requester', 'admin'],
  decide: ['approver'],
}

/** What the admin socket may do everywhere: people, enrolment, and stopping. */
const LOCAL_ADMIN_VERBS: readonly Verb[] = [
  'pause',
  'cancel',
  'freeze',
  'unfreeze',
  'enrolNew',
  'enrolRevoke',
  'userAdd',
  'userRevoke',
  'scheduleRemove',
]

/** Null when the actor may; a preview is open to everyone who may look. */
export function mayCommand(actor: Actor, command: Command, settings: Settings): Refusal | null {
  const verb = command.type
  const roles = ROLES_FOR[verb]
  if (actor.kind === 'local-admin') {
    const isPreview = command.type === 'request' && command.preview
    if (LOCAL_ADMIN_VERBS.includes(verb) || isPreview || settings.approval.localAdminMayApprove) return null
    return refused(
      `the admin socket may not ${verbName(verb)}`,
      `use a personal token with the role ${roles.join(' or ')} (smith user add, smith login)`,
    )
  }
  if (actor.kind !== 'person') return refused(`${actor.kind} gives no commands`, 'use a personal token')
  if (command.type === 'request' && command.preview) return null
  if (roles.some((role) => actor.roles.includes(role))) return null
  return refused(
    `${actor.name} may not ${verbName(verb)}`,
    `that needs the role ${roles.join(' or ')}; an admin can give it (smith user add)`,
  )
}

function verbName(verb: Verb): string {
  switch (verb) {
    case 'request':
      return 'ask for a patch'
    case 'decide':
      return 'approve or reject a change'
    case 'enrolNew':
    case 'enrolRevoke':
      return 'enrol machines'
    case 'userAdd':
    case 'userRevoke':
      return 'look after users'
    case 'scheduleAdd':
    case 'scheduleRemove':
    case 'scheduleRun':
      return 'look after schedules'
    case 'pause':
    case 'resume':
    case 'cancel':
    case 'retry':
    case 'skip':
    case 'resolve':
    case 'freeze':
    case 'unfreeze':
      return verb
  }
}

function refused(message: string, remedy: string): Refusal {
  return { kind: 'not-allowed', message, remedy }
}
