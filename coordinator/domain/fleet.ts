/**
 * Machines, their sessions, and people: enrolment by token, one session a machine, a clone put in quarantine, a
 * reinstalled host in the place of the old one, users with their roles and tokens (as hashes only).
 */
import type { Refusal } from '../../protocol/errors.ts'
import { type Draft, instanceOf } from './draft.ts'
import type { Command, Event, Reply } from './events.ts'
import { resync } from './news.ts'
import { refuseQuery } from './news.ts'
import { endOrder, isActive } from './order.ts'
import { actorName, askNext } from './planning.ts'
import { repeatQuery } from './queries.ts'
import { machineNamed } from './selection.ts'
import type { Enrolment, Machine } from './state.ts'
import { changeProject, changeTarget, hasEnded, projectOf, sayOf, targetsOf } from './targets.ts'

function no(refusal: Refusal): Reply {
  return { ok: false, refusals: [refusal] }
}

/** No instance grants this often; a machine that claims so would use up the numbers of all others. */
const FENCE_MAX = 2 ** 48

/** A machine that proved its key and said what it has in hand; its older session is cut off. */
export function openSession(draft: Draft, event: Extract<Event, { type: 'sessionOpened' }>): Reply {
  const { hello } = event
  const machine = draft.get('machines', event.machine)
  const drop = (reason: 'quarantined' | 'notAllowed' | 'superseded', session: string) =>
    draft.send({ to: 'agent', machine: event.machine, drop: { session, reason } })
  if (machine === undefined || machine.state === 'retired' || machine.quarantined !== null) {
    drop(machine?.quarantined != null ? 'quarantined' : 'notAllowed', event.session)
    return no({
      kind: 'not-allowed',
      message: 'this machine may not connect',
      subject: event.machine,
      remedy: 'enrol it anew',
    })
  }
  if (event.counter <= machine.counter) {
    const problem = `the proof ${event.counter} was used before: this machine is a copy, or was set back to an older state`
    return quarantine(draft, { ...event, problem })
  }
  if (hello.fence > FENCE_MAX) {
    drop('notAllowed', event.session)
    return no({
      kind: 'not-allowed',
      message: `${machine.name} reports the fence ${hello.fence}, which no coordinator gave`,
      subject: machine.name,
      remedy: `enrol it anew: smith enrol new --name ${machine.name} --replace`,
    })
  }
  const older = draft.get('sessions', event.machine)
  if (older !== undefined) drop('superseded', older.session)
  draft.put('machines', machine.id, {
    ...machine,
    counter: event.counter,
    fence: Math.max(machine.fence, hello.fence),
    facts: hello.facts,
    builds: hello.builds,
    template: hello.template,
    lastSeenAt: draft.at,
    rebootPending: hello.facts.rebootPending,
  })
  draft.put('sessions', machine.id, {
    machine: machine.id,
    session: event.session,
    address: event.address,
    since: draft.at,
    bootId: hello.bootId,
    incarnation: hello.incarnation,
    impediment: hello.impediment,
    orders: hello.orders,
  })
  draft.say({ fact: 'machineConnected', machine: machine.name, machineId: machine.id })
  checkHistory(draft, machine, event)
  resync(draft, machine.id, hello.orders)
  resume(draft, machine)
  return { ok: true }
}

/** A machine that knows more than this database does: the database is an old copy, and nothing may be granted. */
function checkHistory(draft: Draft, machine: Machine, event: Extract<Event, { type: 'sessionOpened' }>): void {
  const instance = instanceOf(draft)
  // What bears a fence that the machine reported before has been seen: it freezes nothing a second time.
  const strange = event.hello.orders.find(
    (entry) => entry.fence > machine.fence && draft.archived('orders', entry.order) === undefined,
  )
  if (event.hello.fence <= instance.fence && strange === undefined) return
  const what = strange === undefined ? `fence ${event.hello.fence}, above ${instance.fence}` : `order ${strange.order}`
  const reason = `${machine.name} knows ${what}, which this database does not: it is an old copy; see what the machines did since, then smith unfreeze`
  const frozen = instance.frozen ?? { by: 'smith', at: draft.at, reason }
  draft.put('instance', 'instance', { ...instance, fence: Math.max(instance.fence, event.hello.fence), frozen })
  if (instance.frozen === null) draft.say({ fact: 'frozen', reason, machine: machine.name })
  for (const project of draft.all('projects')) draft.touch(project.id)
}

/** What waited for this machine goes on. */
function resume(draft: Draft, machine: Machine): void {
  if (machine.project !== null) draft.touch(machine.project)
  for (const query of [...draft.all('queries')]) {
    if (query.machine === machine.id && query.state === 'asked') repeatQuery(draft, query)
  }
  for (const request of [...draft.all('requests')]) if (request.state === 'planning') askNext(draft, request)
}

export function closeSession(draft: Draft, event: Extract<Event, { type: 'sessionClosed' }>): Reply {
  const session = draft.get('sessions', event.machine)
  if (session?.session !== event.session) return { ok: true }
  const machine = draft.get('machines', event.machine)
  if (machine === undefined) draft.remove('sessions', event.machine)
  else endSession(draft, machine, event.reason)
  return { ok: true }
}

/** Nobody waits any more for what the machine was to answer, and its run is silent from now on. */
function endSession(draft: Draft, machine: Machine, reason: string): void {
  draft.remove('sessions', machine.id)
  draft.say({ fact: 'machineDisconnected', machine: machine.name, machineId: machine.id, reason })
  for (const query of [...draft.all('queries')]) {
    if (query.machine !== machine.id || query.state !== 'asked') continue
    refuseQuery(draft, query, {
      kind: 'machine-offline',
      message: `${machine.name} went away while it was planning`,
      subject: machine.name,
      remedy: 'ask again when it is back',
    })
  }
  if (machine.project === null) return
  const project = draft.get('projects', machine.project)
  const order = project?.active == null ? undefined : draft.get('orders', project.active)
  if (order !== undefined && order.machine === machine.id && order.silentSince === null) {
    draft.put('orders', order.id, { ...order, silentSince: draft.at })
    sayOf(draft, projectOf(draft, order.project), { fact: 'orderSilent', machine: order.name, order: order.id })
  }
  draft.touch(machine.project)
}

/** Two holders of one key: neither may connect until a person has found out which is the real one. */
export function quarantine(
  draft: Draft,
  event: { readonly machine: string; readonly address: string; readonly problem: string },
): Reply {
  const machine = draft.get('machines', event.machine)
  const refusal: Refusal = {
    kind: 'quarantined',
    message: event.problem,
    subject: event.machine,
    remedy: 'enrol it anew (smith enrol new --replace)',
  }
  if (machine === undefined || machine.quarantined !== null) return no(refusal)
  draft.put('machines', machine.id, {
    ...machine,
    quarantined: `two holders of its key; the second connected from ${event.address}`,
  })
  const session = draft.get('sessions', machine.id)
  if (session !== undefined) {
    draft.send({ to: 'agent', machine: machine.id, drop: { session: session.session, reason: 'quarantined' } })
    endSession(draft, machine, 'quarantined')
  }
  draft.say({ fact: 'machineQuarantined', machine: machine.name, machineId: machine.id, reason: refusal.message })
  return no(refusal)
}

export function newEnrolment(draft: Draft, command: Extract<Command, { type: 'enrolNew' }>): Reply {
  const taken = machineNamed(draft, command.name)
  if (taken !== undefined && !command.replace) {
    return no({
      kind: 'exists',
      message: `${command.name} is enrolled already`,
      subject: command.name,
      remedy: `if it was reinstalled: smith enrol new --name ${command.name} --replace`,
    })
  }
  const enrolment: Enrolment = {
    id: draft.tools.newId(),
    name: command.name,
    tokenHash: command.tokenHash,
    replace: command.replace,
    by: actorName(draft.actor),
    expiresAt: draft.at + command.ttlMs,
    usedAt: null,
    revokedAt: null,
  }
  draft.put('enrolments', command.tokenHash, enrolment)
  draft.say({ fact: 'enrolmentMade', machine: command.name })
  return { ok: true, value: { id: enrolment.id, name: command.name, expiresAt: enrolment.expiresAt } }
}

export function revokeEnrolment(draft: Draft, name: string): Reply {
  const open = [...draft.entries('enrolments')].filter(
    ([, row]) => row.name === name && row.usedAt === null && row.revokedAt === null,
  )
  if (open.length === 0) {
    return no({
      kind: 'not-found',
      message: `there is no open enrolment for ${name}`,
      subject: name,
      remedy: 'smith enrol list shows them',
    })
  }
  for (const [key, row] of open) draft.put('enrolments', key, { ...row, revokedAt: draft.at })
  draft.say({ fact: 'enrolmentRevoked', machine: name })
  return { ok: true }
}

/** A host with a token becomes a machine; the token is used up in the turn that stores the key. */
export function enrol(draft: Draft, event: Extract<Event, { type: 'enrol' }>): Reply {
  const enrolment = draft.get('enrolments', event.tokenHash)
  const bad = badToken(draft, enrolment)
  if (bad !== null || enrolment === undefined) return no(bad ?? unknownToken())
  const old = machineNamed(draft, enrolment.name)
  if (old !== undefined && !enrolment.replace) {
    return no({
      kind: 'exists',
      message: `${enrolment.name} was enrolled in the meantime`,
      subject: enrolment.name,
      remedy: `smith enrol new --name ${enrolment.name} --replace`,
    })
  }
  if (old !== undefined) retireMachine(draft, old)
  const id = draft.tools.newId()
  draft.put('enrolments', event.tokenHash, { ...enrolment, usedAt: draft.at })
  draft.put('names', enrolment.name, { machine: id })
  draft.put('machines', id, {
    id,
    name: enrolment.name,
    state: 'active',
    publicKey: event.publicKey,
    counter: 0,
    quarantined: null,
    fence: 0,
    facts: event.facts,
    builds: [],
    template: false,
    enrolledAt: draft.at,
    enrolledBy: enrolment.by,
    lastSeenAt: null,
    lastPatchedAt: null,
    rebootPending: event.facts.rebootPending,
    project: null,
  })
  draft.say({
    fact: 'machineEnrolled',
    machine: enrolment.name,
    machineId: id,
    reason: `by ${enrolment.by}, from ${event.address}`,
  })
  return { ok: true, value: { machine: id, name: enrolment.name } }
}

function badToken(draft: Draft, enrolment: Enrolment | undefined): Refusal | null {
  if (enrolment === undefined) return unknownToken()
  const remedy = `ask for a new one: smith enrol new --name ${enrolment.name}`
  if (enrolment.usedAt !== null) return { kind: 'conflict', message: 'this token was used already', remedy }
  if (enrolment.revokedAt !== null) return { kind: 'expired', message: 'this token was revoked', remedy }
  if (draft.at >= enrolment.expiresAt) return { kind: 'expired', message: 'this token has expired', remedy }
  return null
}

function unknownToken(): Refusal {
  return {
    kind: 'unauthenticated',
    message: 'this token is not known here',
    remedy: 'ask for a new one: smith enrol new --name NAME',
  }
}

/** The host that bore the name is gone for good: its open order is settled as lost, its place can't be patched. */
function retireMachine(draft: Draft, machine: Machine): void {
  const session = draft.get('sessions', machine.id)
  if (session !== undefined) {
    draft.send({ to: 'agent', machine: machine.id, drop: { session: session.session, reason: 'notAllowed' } })
    endSession(draft, machine, 'enrolled anew')
  }
  if (machine.project !== null) loseMachine(draft, machine, machine.project)
  const now = draft.get('machines', machine.id) ?? machine
  draft.put('machines', machine.id, { ...now, state: 'retired', project: null })
  draft.say({ fact: 'machineRetired', machine: machine.name, machineId: machine.id })
}

function loseMachine(draft: Draft, machine: Machine, id: string): void {
  const project = projectOf(draft, id)
  const message = `${machine.name} was reinstalled and enrolled anew; what became of this order is lost`
  const order = project.active === null ? undefined : draft.get('orders', project.active)
  if (order !== undefined && order.machine === machine.id && isActive(order)) {
    endOrder(draft, order, {
      state: 'failed',
      cause: 'unreachable',
      message,
      evidence: [],
      advice: [`smith skip ${project.change ?? ''} ${machine.name} --reason reinstalled`],
      latched: false,
      rebootPending: false,
      result: null,
      resolvedBy: null,
      isDecided: false,
    })
    return
  }
  for (const target of targetsOf(draft, project)) {
    if (target.machine !== machine.id || hasEnded(target)) continue
    changeTarget(draft, target, {
      state: 'failed',
      endedAt: draft.at,
      cause: 'unreachable',
      message,
      advice: [`smith skip ${project.change ?? ''} ${machine.name} --reason reinstalled`],
    })
    const now = projectOf(draft, id)
    changeProject(draft, id, { undecided: [...now.undecided, target.index].toSorted((a, b) => a - b) })
  }
  draft.touch(id)
}

/** How the journal names those who are no person: a person of that name could not be told from them. */
const RESERVED_NAMES: readonly string[] = ['local-admin', 'smith', 'change']

export function addUser(draft: Draft, command: Extract<Command, { type: 'userAdd' }>): Reply {
  if (RESERVED_NAMES.includes(command.name)) {
    return no({
      kind: 'bad-value',
      message: `${command.name} is the name of a part of smith`,
      subject: command.name,
      remedy: 'give the name of a person',
    })
  }
  const before = draft.get('users', command.name)
  if (before !== undefined && before.revokedAt === null) {
    return no({
      kind: 'exists',
      message: `${command.name} has a token already`,
      subject: command.name,
      remedy: `smith user revoke ${command.name}, then add again`,
    })
  }
  draft.put('users', command.name, {
    name: command.name,
    roles: command.roles,
    tokenHash: command.tokenHash,
    createdAt: draft.at,
    expiresAt: command.ttlMs === null ? null : draft.at + command.ttlMs,
    revokedAt: null,
  })
  draft.put('tokens', command.tokenHash, { user: command.name })
  draft.say({ fact: 'userAdded', text: `${command.name} (${command.roles.join(', ')})` })
  return { ok: true, value: { name: command.name } }
}

export function revokeUser(draft: Draft, name: string): Reply {
  const user = draft.get('users', name)
  if (user === undefined || user.revokedAt !== null) {
    return no({
      kind: 'not-found',
      message: `${name} has no token`,
      subject: name,
      remedy: 'smith user list shows who has',
    })
  }
  draft.put('users', name, { ...user, revokedAt: draft.at })
  draft.remove('tokens', user.tokenHash)
  draft.say({ fact: 'userRevoked', text: name })
  return { ok: true }
}
