/**
 * What each route does. Commands go to the driver and are answered after their commit; everything else is read from
 * views.ts. The actor comes from the authentication, never from a body.
 */
import * as v from 'valibot'
import type { Refusal } from '../../protocol/errors.ts'
import { ROUTES, type RouteName } from '../../protocol/http.ts'
import type { Command, Event } from '../domain/events.ts'
import { activeMachines, findMachines, machineNamed } from '../domain/selection.ts'
import type { Actor } from '../domain/state.ts'
import { numberOf, refuse } from './bodies.ts'
import type { Answer, ApiPorts } from './ports.ts'
import { findOrder, findProject, findRequest, logPage, machineViews, orderViews, planView, projectList, requestView } from './views.ts'

export type Call<Name extends RouteName = RouteName> = {
  readonly actor: Actor
  readonly address: string
  readonly params: Readonly<Record<string, string>>
  readonly query: Readonly<Record<string, string | undefined>>
  readonly body: (typeof ROUTES)[Name]['body'] extends v.GenericSchema ? v.InferOutput<NonNullable<(typeof ROUTES)[Name]['body']>> : null
}
export type Handled<Name extends RouteName> = Answer<v.InferOutput<(typeof ROUTES)[Name]['answer']>> & { readonly status?: number }
export type Handlers = { readonly [Name in RouteName]: (call: Call<Name>) => Promise<Handled<Name>> | Handled<Name> }

const WAIT_SECONDS_MAX = 30
const LOG_PAGE_MAX = 1000

export function createHandlers(ports: ApiPorts): Handlers {
  const { driver } = ports
  const notFound = (what: string, subject: string): { readonly ok: false; readonly refusals: readonly Refusal[] } =>
    refuse('not-found', `there is no ${what} ${subject} here`, 'smith status and smith machines list what there is', subject)

  async function submit(call: { readonly actor: Actor }, event: Event) {
    return driver.submit(call.actor, event)
  }
  async function command(call: { readonly actor: Actor }, given: Command): Promise<Answer<{ done: true; rev: number }>> {
    const { reply, rev } = await submit(call, { type: 'command', command: given })
    return reply.ok ? { ok: true, value: { done: true, rev } } : reply
  }
  const project = <Value>(change: string, make: (found: NonNullable<ReturnType<typeof findProject>>) => Value): Answer<Value> => {
    const found = findProject(ports, change)
    return found === undefined ? notFound('project', change) : { ok: true, value: make(found) }
  }

  return {
    who: ({ actor }) => ({
      ok: true,
      value: {
        instance: ports.instance,
        name: actor.kind === 'person' ? actor.name : actor.kind,
        roles: actor.kind === 'person' ? [...actor.roles] : [],
        version: ports.version,
        epoch: ports.store.epoch,
        rev: driver.rev(),
      },
    }),
    requestMake: async (call) => {
      const { text, preview, key } = call.body
      const { reply } = await submit(call, { type: 'command', command: { type: 'request', text, preview: preview ?? false, key: key ?? null } })
      if (!reply.ok) return reply
      const made = findRequest(ports, reply.value?.request ?? '')
      return made === undefined ? notFound('request', '') : { ok: true, status: 202, value: requestView(ports, made) }
    },
    request: async (call) => {
      const id = call.params['request'] ?? ''
      const wait = numberOf(call.query, 'wait', { fallback: 0, min: 0, max: WAIT_SECONDS_MAX })
      if (!wait.ok) return wait
      const found = await settled(ports, id, wait.value * 1000)
      return found === undefined ? notFound('request', id) : { ok: true, value: requestView(ports, found) }
    },
    projects: ({ query }) => {
      const limit = numberOf(query, 'limit', { fallback: 50, min: 1, max: 1000 })
      if (!limit.ok) return limit
      const before = numberOf(query, 'before', { fallback: 0, min: 0, max: Number.MAX_SAFE_INTEGER })
      if (!before.ok) return before
      return { ok: true, value: projectList(ports, { limit: limit.value, ...(before.value === 0 ? {} : { before: before.value }) }) }
    },
    project: ({ params }) => {
      const change = params['change'] ?? ''
      const status = ports.views.status(change)
      if (status === undefined) return notFound('project', change)
      return { ok: true, value: { status, text: ports.views.statusText(status), rev: driver.rev() } }
    },
    plan: ({ params }) => project(params['change'] ?? '', (found) => planView(ports, found)),
    projectOrders: ({ params }) => project(params['change'] ?? '', (found) => ({ orders: orderViews(ports, { project: found.id }) })),
    approve: (call) => command(call, { type: 'decide', change: call.params['change'] ?? '', decision: 'approve', digest: call.body.digest, reason: call.body.reason ?? '' }),
    reject: (call) => command(call, { type: 'decide', change: call.params['change'] ?? '', decision: 'reject', digest: null, reason: call.body.reason ?? '' }),
    pause: (call) => command(call, { type: 'pause', change: call.params['change'] ?? '', reason: call.body.reason ?? '' }),
    resume: (call) => command(call, { type: 'resume', change: call.params['change'] ?? '', reason: call.body.reason ?? '' }),
    cancel: (call) => command(call, { type: 'cancel', change: call.params['change'] ?? '', reason: call.body.reason ?? '' }),
    retry: (call) => command(call, { type: 'retry', change: call.params['change'] ?? '', machine: call.body.machine, reason: call.body.reason ?? '' }),
    skip: (call) => command(call, { type: 'skip', change: call.params['change'] ?? '', machine: call.body.machine, reason: call.body.reason }),
    resolve: (call) => command(call, { type: 'resolve', change: call.params['change'] ?? '', machine: call.body.machine, as: call.body.as, reason: call.body.reason }),
    freeze: (call) => command(call, { type: 'freeze', reason: call.body.reason ?? '' }),
    unfreeze: (call) => command(call, { type: 'unfreeze', reason: call.body.reason ?? '' }),
    machines: ({ query }) => {
      const { pattern } = query
      if (pattern === undefined || pattern === '') return { ok: true, value: { machines: machineViews(ports, activeMachines(driver.view)) } }
      const found = findMachines(driver.view, pattern, ports.tools)
      return found.refusals.length > 0 ? { ok: false, refusals: found.refusals } : { ok: true, value: { machines: machineViews(ports, found.machines) } }
    },
    machineOrders: ({ params }) => {
      const name = params['machine'] ?? ''
      const machine = machineNamed(driver.view, name)
      return machine === undefined ? notFound('machine', name) : { ok: true, value: { orders: orderViews(ports, { machine: machine.id }) } }
    },
    log: ({ params, query }) => {
      const id = params['order'] ?? ''
      const after = numberOf(query, 'after', { fallback: 0, min: 0, max: Number.MAX_SAFE_INTEGER })
      if (!after.ok) return after
      const limit = numberOf(query, 'limit', { fallback: LOG_PAGE_MAX, min: 1, max: LOG_PAGE_MAX })
      if (!limit.ok) return limit
      const order = findOrder(ports, id)
      return order === undefined ? notFound('order', id) : { ok: true, value: logPage(ports, order, { after: after.value, limit: limit.value }) }
    },
    ...keeping(ports, command),
  }
}

type Keeping = 'enrolNew' | 'enrolList' | 'enrolRevoke' | 'enrol' | 'userAdd' | 'userList' | 'userRevoke' | 'backup'

/** The routes of who looks after people, machines and the database. */
function keeping(ports: ApiPorts, command: (call: { readonly actor: Actor }, given: Command) => Promise<Answer<{ done: true; rev: number }>>): Pick<Handlers, Keeping> {
  const { driver, random, tools } = ports
  const secret = () => Buffer.from(random.bytes(32)).toString('base64url')
  return {
    enrolNew: async (call) => {
      const tokens: { id: string; name: string; token: string; expiresAt: number }[] = []
      for (const name of call.body.names) {
        const token = `smith1.${secret()}.${ports.pin}.${name}`
        const ttlMs = (call.body.ttlSeconds ?? 3600) * 1000
        const { reply } = await driver.submit(call.actor, {
          type: 'command',
          command: { type: 'enrolNew', name, tokenHash: tools.sha256(token), ttlMs, replace: call.body.replace ?? false },
        })
        if (!reply.ok) return reply
        tokens.push({ id: reply.value?.id ?? '', name, token, expiresAt: reply.value?.expiresAt ?? 0 })
      }
      return { ok: true, value: { tokens } }
    },
    enrolList: () => ({
      ok: true,
      value: {
        enrolments: [...driver.view.all('enrolments')].map(({ id, name, by, replace, expiresAt, usedAt, revokedAt }) => ({ id, name, by, replace, expiresAt, usedAt, revokedAt })),
      },
    }),
    enrolRevoke: (call) => command(call, { type: 'enrolRevoke', name: call.body.name }),
    enrol: async (call) => {
      const { token, publicKey, facts } = call.body
      const { reply } = await driver.submit({ kind: 'smith' }, { type: 'enrol', tokenHash: tools.sha256(token), publicKey, facts, address: call.address })
      if (!reply.ok) return reply
      return { ok: true, value: { machine: reply.value?.machine ?? '', name: reply.value?.name ?? '', instance: ports.instance, orderKey: ports.orderKeyPublicBase64 } }
    },
    userAdd: async (call) => {
      const { name, roles, ttlDays } = call.body
      const token = `smithp_${secret()}`
      const ttlMs = ttlDays === undefined ? null : ttlDays * 86_400_000
      const done = await command(call, { type: 'userAdd', name, roles, tokenHash: tools.sha256(token), ttlMs })
      return done.ok ? { ok: true, value: { name, roles: [...roles], token } } : done
    },
    userList: () => ({
      ok: true,
      value: {
        users: [...driver.view.all('users')].map(({ name, roles, createdAt, revokedAt, expiresAt }) => ({ name, roles: [...roles], createdAt, revokedAt, expiresAt })),
      },
    }),
    userRevoke: (call) => command(call, { type: 'userRevoke', name: call.body.name }),
    backup: async (call) => {
      if (ports.backup === undefined) return refuse('unavailable', 'this coordinator makes no backups', 'start it with a state folder')
      return ports.backup(call.body.path, call.body.passphrase)
    },
  }
}

/** The request once it is neither planning nor being raised, or as it stands when the time is over. */
function settled(ports: ApiPorts, id: string, waitMs: number) {
  const look = () => findRequest(ports, id)
  const isSettled = (found: ReturnType<typeof look>) => found === undefined || (found.state !== 'planning' && found.state !== 'raising')
  const now = look()
  if (waitMs === 0 || isSettled(now)) return Promise.resolve(now)
  return new Promise<ReturnType<typeof look>>((resolve) => {
    const settle = () => {
      stop()
      cancel()
      resolve(look())
    }
    const stop = ports.driver.onRow((row) => {
      if (row.facts.some((fact) => fact.request === id) && isSettled(look())) settle()
    })
    const cancel = ports.clock.after(waitMs, settle)
  })
}
