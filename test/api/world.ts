/**
 * A coordinator for the tests of the interface: the real driver, core, local change provider and interface on real
 * TLS and a real socket file; the store is in memory unless a test wants a disk. Machines are rows and sessions whose
 * agents answer at once.
 */
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { Agent } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type Api, createApi } from '../../coordinator/api/api.ts'
import type { ApiPorts } from '../../coordinator/api/ports.ts'
import { isLocal, localStep } from '../../coordinator/change/local.ts'
import { previewOf } from '../../coordinator/domain/preview.ts'
import { requestQueryPrefix } from '../../coordinator/domain/planning.ts'
import type { AgentNews, Command, Event, Reply, Settings, Tools } from '../../coordinator/domain/events.ts'
import type { Actor } from '../../coordinator/domain/state.ts'
import { renderStatus, rowsOf, statusOf } from '../../coordinator/domain/status.ts'
import { type Driver, createDriver } from '../../coordinator/driver.ts'
import { type Keys, loadOrCreateKeys } from '../../coordinator/keys.ts'
import { createTools } from '../../coordinator/pattern.ts'
import type { AgentSend, Clock, Log, Random, Store } from '../../coordinator/ports.ts'
import { createMemoryStore } from '../../coordinator/store/memory.ts'
import { ROUTES, type Role, type RouteName } from '../../protocol/http.ts'
import type { Elsewhere } from '../../protocol/status.ts'
import { SETTINGS, planOf } from '../coordinator/harness.ts'
import type { Time } from '../sim/time.ts'
import { type Answer, type Ask, checkAnswer, exchange } from './wire.ts'

export const random: Random = { bytes: (count) => randomBytes(count) }
export const realClock: Clock = {
  wallNow: () => Date.now(),
  monotonicNow: () => performance.now(),
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs)
    return () => clearTimeout(timer)
  },
}
export const INSTANCE = 'test'
export const LOCAL: Actor = { kind: 'local-admin' }

export type WorldOptions = {
  /** Where each change is decided about, when that is not smith. */
  readonly elsewhere?: Elsewhere
  readonly clock?: Clock
  readonly settings?: Partial<Settings>
  readonly limits?: ApiPorts['limits']
  readonly store?: (dir: string) => Store
  readonly ports?: (world: {
    readonly dir: string
    readonly store: Store
    readonly driver: Driver
  }) => Partial<ApiPorts>
  readonly people?: Readonly<Record<string, readonly Role[]>>
}
type Given = { readonly params?: Record<string, string>; readonly query?: string; readonly body?: unknown }
export type World = {
  readonly dir: string
  readonly clock: Clock
  readonly driver: Driver
  readonly store: Store
  readonly api: Api
  readonly ports: ApiPorts
  readonly port: number
  readonly socket: string
  /** What was logged as an error. */
  readonly errors: { readonly fields: object; readonly message: string }[]
  readonly fatal: Error[]
  readonly keysDir: string
  readonly tokens: Record<string, string>
  readonly agents: Map<string, { readonly take: (send: AgentSend) => void }>
  readonly submit: (actor: Actor, event: Event) => Promise<Reply>
  readonly command: (command: Command, actor?: Actor) => Promise<Reply>
  readonly person: (name: string, roles: readonly Role[], ttlMs?: number | null) => Promise<string>
  /** One call. What comes back is checked: a 2xx by the route's schema, anything else is a problem. */
  readonly ask: (method: string, path: string, ask?: Ask) => Promise<Answer>
  /** A call by somebody, by the name of the route. */
  readonly call: (name: RouteName, by: string, given?: Given) => Promise<Answer>
  readonly machine: (
    name: string,
    fields?: { readonly plans?: boolean; readonly online?: boolean; readonly address?: string },
  ) => ReturnType<typeof addMachine>
  /** Asks for a patch and gives the number of its change. */
  readonly raise: (text: string, by?: string) => Promise<string>
  readonly digest: (change: string) => Promise<string>
  readonly close: () => Promise<void>
}

let keys: Promise<{ readonly dir: string; readonly keys: Keys }> | undefined
/** One pair of keys for all worlds of a file: making them is the slow part. */
function sharedKeys() {
  keys ??= (async () => {
    const dir = mkdtempSync(join(tmpdir(), 'smith-keys-'))
    process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
    return {
      dir,
      keys: await loadOrCreateKeys({ dir: join(dir, 'keys'), instance: INSTANCE, names: [], clock: realClock, random }),
    }
  })()
  return keys
}

export const PEOPLE: Readonly<Record<string, readonly Role[]>> = {
  vi: ['viewer'],
  ana: ['requester'],
  bo: ['approver'],
  cy: ['admin'],
  igorina: ['bot'],
}

function viewsOf(driver: Driver, store: Store, tools: Tools, elsewhere: Elsewhere | null): ApiPorts['views'] {
  return {
    status: (change) => {
      const entry = driver.view.get('changes', change) ?? store.get('changes', change)
      const project = entry === undefined ? undefined : store.get('projects', entry.project)
      if (project === undefined) return undefined
      if (driver.view.get('projects', project.id) !== undefined)
        return statusOf(rowsOf(driver.view, project), INSTANCE, elsewhere)
      return statusOf(
        {
          project,
          bags: store.list('bags', `${project.id}/`),
          targets: store.list('targets', `${project.id}/`),
          holder: null,
        },
        INSTANCE,
        elsewhere,
      )
    },
    statusText: (status) => renderStatus(status, driver.now()),
    previewPlan: (request) =>
      previewOf(driver.view, request, store.list('queries', requestQueryPrefix(request.id)), tools),
  }
}

/** The real coordinator but for its sessions, serving. */
async function startCoordinator(options: WorldOptions) {
  const dir = mkdtempSync(join(tmpdir(), 'smith-api-'))
  const clock = options.clock ?? realClock
  const settings: Settings = { ...SETTINGS, ...options.settings }
  const tools = createTools(settings, random)
  const errors: { readonly fields: object; readonly message: string }[] = []
  const quiet = () => {}
  const log: Log = {
    debug: quiet,
    info: quiet,
    warn: quiet,
    error: (fields, message) => void errors.push({ fields, message }),
  }
  const store = (options.store ?? (() => createMemoryStore(random)))(dir)
  const fatal: Error[] = []
  const agents = new Map<string, { readonly take: (send: AgentSend) => void }>()
  const driver: Driver = createDriver({
    store,
    clock,
    tools,
    settings,
    log,
    outbound: {
      toAgent: (send) => agents.get(send.machine)?.take(send),
      toChange: (call) => {
        const told = driver.submit({ kind: 'smith' }, { type: 'localCall', call })
        told.catch((error: unknown) => log.debug({ err: error }, 'the last calls of a world that ends find nobody'))
      },
    },
    local: { isLocal, step: localStep },
    onFatal: (error) => fatal.push(error),
  })
  await driver.start()
  const shared = await sharedKeys()
  const ports: ApiPorts = {
    driver,
    store,
    tls: shared.keys.tls,
    pin: shared.keys.pin,
    orderKeyPublicBase64: shared.keys.orderKey.publicKeyBase64,
    instance: INSTANCE,
    version: '0.1.0',
    clock,
    random,
    log,
    tools,
    views: viewsOf(driver, store, tools, options.elsewhere ?? null),
    ...(options.limits === undefined ? {} : { limits: options.limits }),
    ...options.ports?.({ dir, store, driver }),
  }
  const api: Api = createApi(ports)
  const { port } = await api.listen({ host: '127.0.0.1', port: 0 })
  const socket = join(dir, 'admin.sock')
  await api.listenSocket(socket)
  return {
    dir,
    clock,
    driver,
    store,
    api,
    ports,
    port,
    socket,
    errors,
    fatal,
    agents,
    keysDir: join(shared.dir, 'keys'),
  }
}

export async function createWorld(t: Test, options: WorldOptions = {}): Promise<World> {
  const started = await startCoordinator(options)
  const { dir, driver, store, api, port, socket } = started
  const agent = new Agent({ keepAlive: true, rejectUnauthorized: false, maxSockets: 8 })
  let isClosed = false
  const world: World = {
    ...started,
    tokens: {},
    submit: async (actor, event) => (await driver.submit(actor, event)).reply,
    command: (command, actor = LOCAL) => world.submit(actor, { type: 'command', command }),
    person: async (name, roles, ttlMs = null) => {
      const token = `smithp_${randomBytes(32).toString('base64url')}`
      granted(await world.command({ type: 'userAdd', name, roles, tokenHash: sha256(token), ttlMs }))
      world.tokens[name] = token
      return token
    },
    ask: async (method, path, ask = {}) => {
      const answer = await exchange({ port, socket, agent }, method, path, ask)
      if (method !== 'HEAD') checkAnswer(method, path, answer)
      return answer
    },
    call: (name, by, given = {}) => {
      const route = ROUTES[name]
      const path = route.path.replace(/:([a-z]+)/g, (_, key: string) =>
        encodeURIComponent(given.params?.[key] ?? 'none'),
      )
      const who = by === 'socket' ? { socket: true } : { token: world.tokens[by] ?? by }
      return world.ask(route.method, `${path}${given.query ?? ''}`, {
        ...who,
        ...(route.body === null ? {} : { body: given.body ?? {} }),
      })
    },
    machine: (name, fields = {}) => addMachine(world, name, fields),
    raise: async (text, by = 'ana') => {
      const made = await world.call('requestMake', by, { body: { text } })
      const view = await world.call('request', by, { params: { request: made.body.request }, query: '?wait=30' })
      if (view.body.change === null || view.body.change === undefined) throw new Error(`not raised: ${view.text}`)
      return view.body.change as string
    },
    digest: async (change) => (await world.call('project', 'socket', { params: { change } })).body.status.digest,
    close: async () => {
      if (isClosed) return
      isClosed = true
      await api.close()
      agent.destroy()
    },
  }
  t.teardown(async () => {
    await world.close()
    await driver.stop()
    store.close()
    rmSync(dir, { recursive: true, force: true })
  })
  for (const [name, roles] of Object.entries(options.people ?? PEOPLE)) await world.person(name, roles)
  return world
}

/** Lets virtual time go on by this much. */
export function advance(time: Time, ms: number): void {
  const state = { isOver: false }
  time.after(ms, () => (state.isOver = true))
  while (!state.isOver) if (!time.advance()) throw new Error('time stands still')
}

export const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

export function granted(reply: Reply): Extract<Reply, { ok: true }> {
  if (!reply.ok) throw new Error(`refused: ${JSON.stringify(reply.refusals)}`)
  return reply
}

export function newPublicKey(): string {
  return generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'der' }).toString('base64')
}

export function factsOf() {
  return {
    agentVersion: '0.1.0',
    os: 'Debian 12',
    arch: 'amd64',
    kernel: '6.1',
    apt: '2.6.1',
    cluster: null,
    region: null,
    rebootPending: false,
  }
}

/** What every plan is made from; the source has a password. */
export const RELEASE = {
  uri: 'http://ann:secret@archive.example/debian',
  suite: 'prod',
  sha256: '0'.repeat(64),
  date: 1_699_999_000_000,
  validUntil: 1_700_600_000_000,
}

/** An enrolled machine that is connected and plans at once. */
async function addMachine(
  world: World,
  name: string,
  fields: { readonly plans?: boolean; readonly online?: boolean; readonly address?: string } = {},
) {
  const tokenHash = randomBytes(32).toString('hex')
  granted(await world.command({ type: 'enrolNew', name, tokenHash, ttlMs: 60_000, replace: false }))
  const enrolled = granted(
    await world.submit(
      { kind: 'smith' },
      { type: 'enrol', tokenHash, publicKey: newPublicKey(), facts: factsOf(), address: '10.0.0.1' },
    ),
  )
  const id = enrolled.value?.machine ?? ''
  const session = randomBytes(16).toString('hex')
  const actor: Actor = { kind: 'machine', id, name }
  const say = (news: AgentNews) => world.submit(actor, { type: 'agentNews', machine: id, session, news })
  const waiting: string[] = []
  const grants: { readonly order: string }[] = []
  const answer = (query: string, release = RELEASE) =>
    say({
      t: 'planned',
      query,
      plan: planOf('2.0'),
      evidence: { releases: [release], downloadBytes: 1, installedBytesDelta: 1, madeAt: 1 },
      warnings: [`${name} has a warning`],
    })
  world.agents.set(id, {
    take: (send) => {
      if ('grant' in send) grants.push({ order: send.grant.order })
      if (!('frame' in send) || send.frame.t !== 'plan') return
      if (fields.plans === false) waiting.push(send.frame.query)
      else void answer(send.frame.query)
    },
  })
  if (fields.online !== false) {
    const hello = {
      t: 'hello' as const,
      name,
      facts: factsOf(),
      bootId: 'b0',
      incarnation: randomBytes(16).toString('hex'),
      fence: 0,
      at: world.driver.now(),
      builds: ['prod'],
      template: false,
      impediment: null,
      orders: [],
    }
    granted(
      await world.submit(actor, {
        type: 'sessionOpened',
        machine: id,
        session,
        address: fields.address ?? '10.0.0.1',
        counter: 1,
        hello,
      }),
    )
  }
  return {
    id,
    grants,
    say,
    answerPlans: async (release = RELEASE) => {
      for (const query of waiting.splice(0)) await answer(query, release)
    },
  }
}
