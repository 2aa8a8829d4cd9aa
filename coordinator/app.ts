/**
 * The composition: makes the driver, the sessions, the change provider and the interface out of their ports and
 * joins them. `main` calls it with the real world, tests with parts of it. It decides nothing.
 */
import { isLocal, localStep, unfinishedClosings } from './change/local.ts'
import { type OutboxOptions, createOutboxCore, createOutboxStep, isOutbox } from './change/outbox.ts'
import type { Finding } from './change/servicenow/doctor.ts'
import { createServiceNow } from './change/servicenow/provider.ts'
import { type ServiceNowSettings, linkOf } from './change/servicenow/settings.ts'
import type { Chat } from './chat/chat.ts'
import { createApi } from './api/api.ts'
import type { ApiPorts } from './api/ports.ts'
import { RefusedError } from '../protocol/errors.ts'
import type { Elsewhere } from '../protocol/status.ts'
import type { ChangeCall, Event, Tools } from './domain/events.ts'
import type { CoordinatorConfig } from './config.ts'
import { previewOf } from './domain/preview.ts'
import { requestQueryPrefix } from './domain/planning.ts'
import { type ProjectRows, renderStatus, rowsOf, statusOf } from './domain/status.ts'
import { type Driver, type DriverPorts, createDriver } from './driver.ts'
import { type Keys, loadOrCreateKeys } from './keys.ts'
import { realHttp } from './http.ts'
import { createMetrics } from './metrics.ts'
import { createTools } from './pattern.ts'
import type { Clock, DashboardFiles, Http, Log, Random, Store } from './ports.ts'
import { findingOf, missingOf, withLookup } from './lookup/edge.ts'
import { readWhole } from './lookup/file.ts'
import { type Lookup, createLookup } from './lookup/lookup.ts'
import { type Reports, type ReportsPorts, createReports } from './reports/reports.ts'
import { type Shelf, openShelf } from './reports/shelf.ts'
import { createAgentUpgrade } from './sessions/websocket.ts'
import { type Sessions, createSessions } from './sessions/sessions.ts'
import { readSecret } from './secrets.ts'
import { makeFolder, stateFolder } from './store/durable.ts'
import { backupSealed, restore } from './store/sealed.ts'
import { openSqliteStore } from './store/sqlite.ts'
import { verifyFile } from './store/verify.ts'
import { type ServiceLog, createServiceLog, logRow } from './service-log.ts'

export type CoordinatorPorts = {
  readonly config: CoordinatorConfig
  readonly store: Store
  readonly keys: Keys
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly version: string
  /** What was logged, for those who ask for it. */
  readonly serviceLog?: ServiceLog['read']
  /** Without it nobody is shown anything at `/`. */
  readonly dashboard?: DashboardFiles
  /** Where health reports are kept; without it there are none. */
  readonly shelf?: Shelf
  /** How other systems are reached; Node's own client without it. */
  readonly http?: Http
  /** Called once when it must end at once; what is on disk is good. */
  readonly onFatal: (error: Error) => void
}

export type Coordinator = {
  readonly driver: Driver
  /** Resolves when it serves; the answer has the port, which the system chose when the configuration says 0. */
  readonly start: () => Promise<{ readonly port: number }>
  /** Ends in order: no new connection, the turn in flight committed, the store closed. Runs on machines go on. */
  readonly stop: () => Promise<void>
}

const REPORTS_PER_MACHINE_MAX = 10

/** With its keys and its database as they are in the state folder, made at the first start. */
export async function openCoordinator(
  ports: Omit<CoordinatorPorts, 'keys' | 'store'> & { readonly names: readonly string[] },
): Promise<{ readonly coordinator: Coordinator; readonly pin: string; readonly head: () => string }> {
  const { config, clock, random, version } = ports
  const places = stateFolder(config.stateDir)
  makeFolder(config.stateDir)
  const keys = await loadOrCreateKeys({
    dir: places.keys,
    instance: config.instance,
    names: ports.names,
    clock,
    random,
  })
  const store = openSqliteStore({ path: places.database, random, program: version })
  const limits = { ...config.reports, perMachineMax: REPORTS_PER_MACHINE_MAX }
  const shelf = openShelf(places.reports, limits, () => clock.wallNow())
  return { coordinator: createCoordinator({ ...ports, keys, store, shelf }), pin: keys.pin, head: store.head }
}

/** The newest of what is logged, kept in the state folder. */
export function openServiceLog({ stateDir }: CoordinatorConfig): ServiceLog {
  return createServiceLog({ folder: stateFolder(stateDir).logs, makeFolder })
}

/** Whether the journal in a backup or a database is as it was written. */
export const verifyJournal = verifyFile

/** Puts a sealed backup into an empty state folder; the instance is frozen until a person has looked. */
export const restoreBackup = restore

export function createCoordinator(ports: CoordinatorPorts): Coordinator {
  const { config, store, clock, random, log } = ports
  const tools = createTools(config.settings, random)
  let notReady: string | null = 'the coordinator is starting'
  const driver = createDriver({
    store: withCommits(store, clock, (seconds) => metrics.committed(seconds)),
    clock,
    tools,
    settings: config.settings,
    log,
    outbound: {
      toAgent: (send) => sessions.send(send),
      toChange: (call) => provider.toChange(call),
      toLookup: (event) => tell(log, asking, event),
    },
    ...stepsOf(config),
    onFatal: (error) => {
      notReady = `the coordinator failed: ${error.message}`
      ports.onFatal(error)
    },
  })
  const provider = providerOf(ports, driver)
  const lookup = lookupOf(ports, driver)
  const asking = lookup === null ? driver : withLookup(driver, lookup)
  const metrics = metricsOf(ports, driver, () => api.feedClients())
  const { reports, sessions } = talkersOf(ports, driver)
  const api = createApi({
    ...apiGiven(ports),
    driver: asking,
    tools,
    readiness: () => notReady,
    metrics: metrics.text,
    ...(reports === null ? {} : { reports }),
    onAgentUpgrade: createAgentUpgrade(sessions, log),
    views: viewsOf(driver, store, { instance: config.instance, tools, provider }),
    ...(lookup === null ? {} : { missing: () => missingOf(driver, lookup) }),
    examine: async () => [...(await provider.examine()), ...(lookup === null ? [] : [await findingOf(lookup)])],
    troubles: () => chat?.troubles() ?? [],
  })
  let chat: Chat | null = null
  return {
    driver,
    start: async () => {
      refuseOtherProvider(config, driver)
      await provider.before()
      await driver.start()
      provider.start()
      reports?.start()
      const { port } = await api.listen(config.listen)
      await api.listenSocket(config.adminSocket)
      notReady = null
      chat = await chatOf(ports, tools)
      chat?.start()
      return { port }
    },
    stop: async () => {
      notReady = 'the coordinator is stopping'
      reports?.stop()
      sessions.stop()
      await chat?.stop()
      await api.close()
      provider.stop()
      await driver.stop()
      store.close()
    },
  }
}

function metricsOf({ store, config, version }: CoordinatorPorts, driver: Driver, feedClients: () => number) {
  const { instance } = config
  return createMetrics({ driver, store, instance, version, feedClients, withProcess: true })
}

/** The store, with somebody told how long each commit took. */
function withCommits(store: Store, clock: Clock, committed: (seconds: number) => void): Store {
  return {
    ...store,
    commit: (turn) => {
      const begun = clock.monotonicNow()
      const told = () => committed((clock.monotonicNow() - begun) / 1000)
      const done = store.commit(turn)
      if (done !== undefined) return done.then(told)
      told()
      return undefined
    },
  }
}

/** Who talks to the agents, and what each turn is told to. Health reports only with a shelf to keep them on, which the simulator has not. */
function talkersOf(
  ports: CoordinatorPorts,
  driver: Driver,
): { readonly sessions: Sessions; readonly reports: Reports | null } {
  const { shelf, clock, random, log } = ports
  const send: ReportsPorts['send'] = (machine, frame) => sessions.sendFrame(machine, frame)
  const onKept: ReportsPorts['onKept'] = async ({ order, report, summary }) => {
    if (order !== null) await driver.submit({ kind: 'smith' }, { type: 'reportKept', order, report, summary })
  }
  const { view } = driver
  const reports =
    shelf === undefined
      ? null
      : createReports({ view, clock, now: () => driver.now(), random, log, shelf, send, onKept })
  const sessions = createSessions({
    ...sessionsPorts(ports, driver),
    onOpen: (machine) => reports?.onConnected(machine),
    onReport: (machine, frame) => reports?.onFrame(machine, frame),
  })
  driver.onRow((row) => {
    logRow(log, row)
    reports?.onRow(row)
  })
  return { sessions, reports }
}

function lookupOf(ports: CoordinatorPorts, driver: Driver): Lookup | null {
  const { clock, config } = ports
  const { lookup: settings } = config
  if (settings === null) return null
  const source = config.settings.lookup ?? settings.source
  const http = ports.http ?? realHttp
  return createLookup({ settings, source, clock, http, readSecret, readFile: readWhole, now: () => driver.now() })
}

/** Nobody waits for the answer. */
function tell(log: Log, driver: Driver, event: Event): void {
  const told = driver.submit({ kind: 'smith' }, event)
  told.catch((error: unknown) => log.debug({ err: error, event: event.type }, 'not told: the coordinator ends'))
}

/** Where changes are raised and asked about. */
type Provider = {
  readonly isRemote: boolean
  readonly toChange: (call: ChangeCall) => void
  /** What must be done before anything else is decided. */
  readonly before: () => Promise<void>
  readonly start: () => void
  readonly stop: () => void
  /** How a project's change stands at a provider outside smith; null for one that smith keeps itself. */
  readonly elsewhereOf: (project: string) => Elsewhere | null
  readonly examine: () => Promise<readonly Finding[]>
}

/** The steps that belong to the provider: its own events, and what it adds to each turn of the core. */
function stepsOf({ change }: CoordinatorConfig): Pick<DriverPorts, 'core' | 'local'> {
  if (change.provider === 'local') return { local: { isLocal, step: localStep } }
  const { servicenow } = change
  const options: OutboxOptions = { linkOf: (row) => linkOf(servicenow, row.sysId ?? '') }
  return { core: createOutboxCore(options), local: { isLocal: isOutbox, step: createOutboxStep(options) } }
}

function providerOf(ports: CoordinatorPorts, driver: Driver): Provider {
  const { change } = ports.config
  return change.provider === 'local' ? localProvider(ports, driver) : remoteProvider(ports, driver, change.servicenow)
}

function localProvider({ log }: CoordinatorPorts, driver: Driver): Provider {
  return {
    isRemote: false,
    toChange: (call) => tell(log, driver, { type: 'localCall', call }),
    before: async () => {
      for (const call of unfinishedClosings(driver.view))
        await driver.submit({ kind: 'smith' }, { type: 'localCall', call })
    },
    start: () => {},
    stop: () => {},
    elsewhereOf: () => null,
    examine: async () => [
      { subject: 'change provider', level: 'good', text: 'local: smith keeps its changes itself', remedy: null },
    ],
  }
}

function remoteProvider(ports: CoordinatorPorts, driver: Driver, settings: ServiceNowSettings): Provider {
  const { clock, random, log, config } = ports
  const servicenow = createServiceNow({
    ...{ settings, clock, random, log, readSecret },
    view: driver.view,
    submit: (event) => driver.submit({ kind: 'change' }, event),
    now: () => driver.now(),
    http: ports.http ?? realHttp,
    permissionMsMax: config.settings.limits.permissionAgeMsMax,
    requesterMayApprove: config.settings.approval.requesterMayApprove,
  })
  return {
    isRemote: true,
    toChange: servicenow.toChange,
    before: async () => {},
    start: servicenow.start,
    stop: servicenow.stop,
    elsewhereOf: (project) => {
      const row = driver.view.archived('remoteChanges', project)
      if (row?.sysId == null) return null
      return { link: servicenow.linkOf(row), troubles: servicenow.troubles(project).map((text) => text.slice(0, 1000)) }
    },
    examine: servicenow.examine,
  }
}

/** A change is asked about where it was raised. */
function refuseOtherProvider({ change }: CoordinatorConfig, { view }: Driver): void {
  const other = change.provider === 'local' ? 'servicenow' : 'local'
  const count = view.size(other === 'local' ? 'localChanges' : 'remoteChanges')
  if (count === 0) return
  throw new RefusedError([
    {
      kind: 'conflict',
      message: `${count} open change${count === 1 ? ' was' : 's were'} raised with the change provider "${other}"`,
      remedy: `set provider = "${other}" in [change] again until they are closed (smith status, smith cancel), then change it`,
    },
  ])
}

/** The bot, loaded only where one is configured. Its own instance it reaches over the interface, like the others. */
async function chatOf({ config, store, clock, random, log }: CoordinatorPorts, tools: Tools): Promise<Chat | null> {
  if (config.chat === null) return null
  const { createChat } = await import('./chat/chat.ts')
  const { sha256 } = tools
  return createChat({ config: config.chat, ledger: store.ledger, clock, random, log, sha256, readSecret })
}

/** What the interface gets as it was given. */
function apiGiven(ports: CoordinatorPorts) {
  const { config, store, keys, clock, random, log, version, serviceLog, dashboard } = ports
  return {
    ...{ store, clock, random, log, version },
    tls: keys.tls,
    pin: keys.pin,
    orderKeyPublicBase64: keys.orderKey.publicKeyBase64,
    instance: config.instance,
    limits: { feedClientsMax: config.feed.clientsMax, sessionMsMax: config.dashboard.sessionMsMax },
    backup: (path: string, passphrase: string) => backup(ports, path, passphrase),
    ...(serviceLog === undefined ? {} : { serviceLog }),
    ...(dashboard === undefined ? {} : { dashboard }),
    ...(['0.0.0.0', '::'].includes(config.listen.host) ? {} : { host: config.listen.host }),
  }
}

function sessionsPorts(ports: CoordinatorPorts, driver: Driver): Parameters<typeof createSessions>[0] {
  const { config, store, clock, random, log, keys } = ports
  return {
    driver,
    store,
    clock,
    random,
    log,
    instance: config.instance,
    incarnation: Buffer.from(random.bytes(16)).toString('hex'),
    sign: (bytes) => ({ signature: keys.orderKey.sign(bytes).toString('base64'), keyId: keys.orderKey.keyId }),
    settings: sessionSettings(config),
  }
}

function viewsOf(
  driver: Driver,
  store: Store,
  given: { readonly instance: string; readonly tools: Tools; readonly provider: Provider },
): ApiPorts['views'] {
  return {
    isRemote: given.provider.isRemote,
    elsewhere: given.provider.elsewhereOf,
    status: (change) => {
      const rows = projectRows(driver, store, change)
      return rows === undefined
        ? undefined
        : statusOf(rows, given.instance, given.provider.elsewhereOf(rows.project.id))
    },
    statusText: (status) => renderStatus(status, driver.now()),
    previewPlan: (request) =>
      previewOf(driver.view, request, store.list('queries', requestQueryPrefix(request.id)), given.tools),
  }
}

function sessionSettings(config: CoordinatorConfig) {
  const { sockets } = config
  return {
    pingMs: sockets.pingMs,
    deadMs: sockets.deadMs,
    authMs: sockets.authDeadlineMs,
    unauthenticatedMax: sockets.unauthenticatedMax,
    unauthenticatedPerAddressMax: sockets.unauthenticatedPerAddressMax,
    bufferedBytesMax: sockets.sendBytesMax,
  }
}

/** The rows of a project, from memory while it is open and from the store when it has ended. */
function projectRows(driver: Driver, store: Store, change: string): ProjectRows | undefined {
  const open = driver.view.get('changes', change)
  const live = open === undefined ? undefined : driver.view.get('projects', open.project)
  if (live !== undefined) return rowsOf(driver.view, live)
  const past = store.get('changes', change)
  const project = past === undefined ? undefined : store.get('projects', past.project)
  if (project === undefined) return undefined
  return {
    project,
    bags: store.list('bags', `${project.id}/`),
    targets: store.list('targets', `${project.id}/`),
    holder: null,
  }
}

async function backup(ports: CoordinatorPorts, path: string, passphrase: string) {
  const { config, store, clock, random, version } = ports
  const value = await backupSealed({
    store,
    stateDir: config.stateDir,
    file: path,
    passphrase,
    at: clock.wallNow(),
    program: version,
    random,
  })
  return { ok: true as const, value }
}
