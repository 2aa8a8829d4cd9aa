/**
 * What Prometheus reads at `/metrics`: gauges from the state of now, counters and durations from the rows of the
 * journal. Called by app.ts. Names and units follow Prometheus' conventions; labels are closed sets, so that a site with
 * 10,000 machines has no more series than one with ten.
 */
import { setImmediate } from 'node:timers/promises'
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'
import type { Fact, FeedRow } from '../protocol/feed.ts'
import type { PlanEvidence } from '../protocol/plan.ts'
import { PROJECT_STATES, STOP_REASONS } from '../protocol/status.ts'
import { instanceOf } from './domain/draft.ts'
import type { Order } from './domain/state.ts'
import { projectState } from './domain/status.ts'
import type { Driver } from './driver.ts'
import type { Metrics, Store } from './ports.ts'

export type MetricsPorts = {
  readonly driver: Pick<Driver, 'view' | 'now' | 'rev' | 'onRow'>
  readonly store: Pick<Store, 'get'>
  readonly instance: string
  readonly version: string
  readonly feedClients: () => number
  /** Of the process, which a test has no use for. */
  readonly withProcess: boolean
}
export type KeptMetrics = {
  readonly text: Metrics
  /** How long a commit took. */
  readonly committed: (seconds: number) => void
  readonly stop: () => void
}

const RUN_SECONDS = [10, 30, 60, 120, 300, 600, 1200, 2400, 4800, 9600]
const STEP_SECONDS = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800]
const GRANT_SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
const COMMIT_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1]

export function createMetrics(ports: MetricsPorts): KeptMetrics {
  const registry = new Registry()
  registry.setDefaultLabels({ instance_name: ports.instance })
  if (ports.withProcess) addProcess(registry)
  addProjectGauges(registry, ports)
  addMachineGauges(registry, ports)
  addProviderGauges(registry, ports)
  const archives = createArchives(ports)
  addArchiveGauges(registry, archives)
  const commit = new Histogram({
    ...{ name: 'smith_commit_duration_seconds', help: 'How long a turn took to be on disk.' },
    ...{ buckets: COMMIT_SECONDS, registers: [registry] },
  })
  const stops = [countRows(registry, ports), ports.driver.onRow(archives.onRow)]
  return {
    text: async () => {
      await archives.look()
      return { type: registry.contentType, text: await registry.metrics() }
    },
    committed: (seconds) => commit.observe(seconds),
    stop: () => stops.forEach((stop) => stop()),
  }
}

/** The library's own, but for those gauges whose names say that they are counters. */
function addProcess(registry: Registry): void {
  collectDefaultMetrics({ register: registry })
  for (const what of ['handles', 'requests', 'resources']) registry.removeSingleMetric(`nodejs_active_${what}_total`)
}

type Sample = { readonly labels?: Readonly<Record<string, string>>; readonly value: number }

/** A gauge that is read from the state when somebody asks. */
function addGauge(
  registry: Registry,
  about: { readonly name: string; readonly help: string; readonly labelNames?: readonly string[] },
  read: () => readonly Sample[],
): void {
  const gauge = new Gauge({
    ...{ name: about.name, help: about.help, labelNames: [...(about.labelNames ?? [])], registers: [registry] },
    collect() {
      this.reset()
      for (const { labels, value } of read()) this.set({ ...labels }, value)
    },
  })
  // Without labels it has a value from the start, which nobody has read yet.
  gauge.reset()
}

const one = (value: number): readonly Sample[] => [{ value }]

function addProjectGauges(registry: Registry, { driver, instance, version, feedClients }: MetricsPorts): void {
  const { view, now } = driver
  const open = () => [...view.all('projects')].filter(({ state }) => state !== 'closed')
  const stops = () => open().flatMap(({ stop }) => stop ?? [])
  const unknown = () => [...view.all('orders')].filter(({ state }) => state === 'unknown')
  const add = addGauge.bind(null, registry)
  add(
    { name: 'smith_build_info', help: 'The version that runs, as a label.', labelNames: ['version', 'instance_name'] },
    () => [{ labels: { version, instance_name: instance }, value: 1 }],
  )
  add({ name: 'smith_frozen', help: 'Whether the instance is frozen.' }, () =>
    one(instanceOf(view).frozen === null ? 0 : 1),
  )
  add({ name: 'smith_projects', help: 'Open projects by state.', labelNames: ['state'] }, () => {
    const all = open().map(projectState)
    return PROJECT_STATES.slice(0, 4).map((state) => ({
      labels: { state },
      value: all.filter((found) => found === state).length,
    }))
  })
  add(
    {
      name: 'smith_stops',
      help: 'Open projects that stand still, by kind and reason.',
      labelNames: ['kind', 'reason'],
    },
    () =>
      (['hold', 'waiting'] as const).flatMap((kind) =>
        STOP_REASONS.map((reason) => ({
          labels: { kind, reason },
          value: stops().filter((stop) => stop.kind === kind && stop.code === reason).length,
        })),
      ),
  )
  add({ name: 'smith_oldest_hold_seconds', help: 'For how long the oldest hold stands, 0 without one.' }, () =>
    one(
      oldest(
        now(),
        stops().flatMap(({ kind, since }) => (kind === 'hold' ? since : [])),
      ),
    ),
  )
  add({ name: 'smith_plans_awaited', help: 'Plans that machines were asked for and have not answered.' }, () =>
    one([...view.all('queries')].filter(({ state }) => state !== 'answered').length),
  )
  add({ name: 'smith_clusters_busy', help: 'Clusters in which a machine is at work or keeps its line.' }, () =>
    one([...view.all('lines')].filter(({ key }) => key.startsWith('cluster:')).length),
  )
  add({ name: 'smith_unknown_orders', help: 'Orders of which nobody knows how they go or ended.' }, () =>
    one(unknown().length),
  )
  add({ name: 'smith_oldest_unknown_seconds', help: 'For how long nothing was heard of the oldest of them.' }, () =>
    one(
      oldest(
        now(),
        unknown().map((order) => order.silentSince ?? order.heardAt ?? order.grantedAt ?? now()),
      ),
    ),
  )
  add({ name: 'smith_feed_clients', help: 'Clients that follow the feed.' }, () => one(feedClients()))
  add({ name: 'smith_journal_rev', help: 'The number of the newest row of the journal.' }, () => one(driver.rev()))
}

function addMachineGauges(registry: Registry, { driver: { view } }: MetricsPorts): void {
  const machines = () => [...view.all('machines')].filter(({ state }) => state === 'active')
  addGauge(
    registry,
    { name: 'smith_machines', help: 'Enrolled machines by what they are able to.', labelNames: ['state'] },
    () => {
      const counts = { ready: 0, impeded: 0, quarantined: 0, offline: 0 }
      for (const machine of machines()) {
        const session = view.get('sessions', machine.id)
        if (machine.quarantined !== null) counts.quarantined += 1
        else if (session === undefined) counts.offline += 1
        else counts[session.impediment === null ? 'ready' : 'impeded'] += 1
      }
      return Object.entries(counts).map(([state, value]) => ({ labels: { state }, value }))
    },
  )
  addGauge(registry, { name: 'smith_agents_connected', help: 'Agents with a connection.' }, () =>
    one(view.size('sessions')),
  )
  addGauge(registry, { name: 'smith_machines_reboot_due', help: 'Machines on which a reboot is due.' }, () =>
    one(machines().filter(({ rebootPending }) => rebootPending).length),
  )
}

function addProviderGauges(registry: Registry, { driver: { view, now } }: MetricsPorts): void {
  addGauge(registry, { name: 'smith_outbox_calls', help: 'Calls that the change provider has not taken yet.' }, () =>
    one(view.size('outbox')),
  )
  addGauge(registry, { name: 'smith_outbox_oldest_seconds', help: 'How old the oldest of them is, 0 for none.' }, () =>
    one(
      oldest(
        now(),
        [...view.all('outbox')].map(({ at }) => at),
      ),
    ),
  )
}

/** More archives than this are a mistake in somebody's sources, and no reason for series without end. */
const ARCHIVES_MAX = 100
/** How many plans are read before others have their turn. */
const PLANS_AT_ONCE = 50

type Archive = {
  readonly labels: { readonly uri: string; readonly suite: string }
  /** Seconds; an archive may say no end. */
  readonly date: number
  readonly validUntil: number | null
}

type Archives = {
  /** Looks at the plans of open projects; before each scrape. */
  readonly look: () => Promise<void>
  readonly newest: () => readonly Archive[]
  readonly onRow: (row: FeedRow) => void
}

/** What the plans of open projects were made from; each plan is read once, a few before others have their turn. */
function createArchives({ driver, store }: MetricsPorts): Archives {
  let read = new Map<string, readonly Archive[]>()
  let newest: readonly Archive[] = []
  return {
    look: async () => {
      const hashes = new Set([...driver.view.all('targets')].map(({ planHash }) => planHash))
      hashes.delete('')
      const before = read
      const now = new Map<string, readonly Archive[]>()
      for (const hash of hashes) {
        const known = before.get(hash)
        now.set(hash, known ?? (store.get('plans', hash)?.evidence.releases ?? []).map(archiveOf))
        if (known === undefined && now.size % PLANS_AT_ONCE === 0) await setImmediate()
      }
      read = now
      newest = newestOf([...now.values()].flat())
    },
    newest: () => newest,
    onRow: ({ facts }) => {
      // The plans of a new change may be old ones that were made anew from newer archives.
      if (facts.some(({ fact }) => fact === 'changeRaised')) read = new Map()
    },
  }
}

function archiveOf({ uri, suite, date, validUntil }: PlanEvidence['releases'][number]): Archive {
  return {
    labels: { uri: addressOf(uri), suite },
    date: date / 1000,
    validUntil: validUntil === undefined ? null : validUntil / 1000,
  }
}

/** Without what logs in to an archive: that may stand before the host, and behind a question mark. */
function addressOf(uri: string): string {
  const [whole = '', scheme = ''] = /^([a-z][a-z0-9+.-]*:\/\/)[^/?#]*/i.exec(uri) ?? []
  const host = whole.slice(Math.max(whole.lastIndexOf('@') + 1, scheme.length))
  return `${scheme}${host}${uri.slice(whole.length).replace(/[?#].*/, '')}`
}

/** Each archive by its newest Release file; of too many archives those that are the newest. */
function newestOf(archives: readonly Archive[]): Archive[] {
  const newest = new Map<string, Archive>()
  for (const archive of archives.toSorted((a, b) => b.date - a.date)) {
    const key = `${archive.labels.uri} ${archive.labels.suite}`
    if (!newest.has(key) && newest.size < ARCHIVES_MAX) newest.set(key, archive)
  }
  return [...newest.values()]
}

function addArchiveGauges(registry: Registry, { newest }: Archives): void {
  const labelNames = ['uri', 'suite']
  addGauge(
    registry,
    {
      name: 'smith_archive_release_timestamp_seconds',
      help: 'The Date of the newest Release file that a plan was made from.',
      labelNames,
    },
    () => newest().map(({ labels, date }) => ({ labels, value: date })),
  )
  addGauge(
    registry,
    {
      name: 'smith_archive_valid_until_timestamp_seconds',
      help: 'The Valid-Until of that file, where it has one: after it, apt takes nothing from there.',
      labelNames,
    },
    () => newest().flatMap(({ labels, validUntil }) => (validUntil === null ? [] : [{ labels, value: validUntil }])),
  )
}

function oldest(now: number, instants: readonly number[]): number {
  return instants.length === 0 ? 0 : Math.max(0, now - Math.min(...instants)) / 1000
}

type Counted = ReturnType<typeof countedOf>

function countedOf(registry: Registry) {
  const registers = [registry]
  return {
    runs: new Counter({
      ...{ name: 'smith_runs_total', help: 'Runs that ended, by outcome and cause.', registers },
      labelNames: ['outcome', 'cause'],
    }),
    duration: new Histogram({
      ...{ name: 'smith_run_duration_seconds', help: 'From the grant to the end of a run.', registers },
      ...{ labelNames: ['outcome'], buckets: RUN_SECONDS },
    }),
    step: new Histogram({
      ...{ name: 'smith_step_duration_seconds', help: 'How long a step of a run took.', registers },
      ...{ labelNames: ['step'], buckets: STEP_SECONDS },
    }),
    latency: new Histogram({
      ...{ name: 'smith_grant_latency_seconds', registers, buckets: GRANT_SECONDS },
      help: 'From the end of a machine to the grant of the next one, where nothing stopped it.',
    }),
    records: new Counter({
      ...{ name: 'smith_log_records_total', registers },
      help: 'Records of runs that were stored: lines, steps, results.',
    }),
  }
}

/** Counters and durations, row by row; the answer ends it. */
function countRows(registry: Registry, ports: MetricsPorts): () => void {
  const counted = countedOf(registry)
  const grants = watchGrants(counted)
  const runs = watchRuns(counted, ports)
  return ports.driver.onRow((row) => {
    for (const fact of row.facts) {
      grants(row, fact)
      runs(row, fact)
      if (fact.fact === 'logAppended') counted.records.inc((fact.upTo ?? 0) - (fact.from ?? 1) + 1)
    }
  })
}

type Watch = (row: FeedRow, fact: Fact) => void

function watchRuns({ runs, duration, step }: Counted, { driver, store }: MetricsPorts): Watch {
  const orderOf = (id: string): Order | undefined => driver.view.get('orders', id) ?? store.get('orders', id)
  /** The step that an order is in, and since when. */
  const steps = new Map<string, { readonly step: string; readonly at: number }>()
  const leaveStep = (order: string, at: number) => {
    const before = steps.get(order)
    steps.delete(order)
    if (before !== undefined) step.observe({ step: before.step }, (at - before.at) / 1000)
  }
  return ({ at }, { fact, order = '', step: name = '', cause = '' }) => {
    if (fact === 'stepStarted') {
      leaveStep(order, at)
      steps.set(order, { step: name, at })
    }
    if (fact !== 'orderSucceeded' && fact !== 'orderFailed') return
    const outcome = fact === 'orderSucceeded' ? 'succeeded' : 'failed'
    const grantedAt = orderOf(order)?.grantedAt ?? at
    leaveStep(order, at)
    runs.inc({ outcome, cause })
    duration.observe({ outcome }, (at - grantedAt) / 1000)
  }
}

function watchGrants({ latency }: Counted): Watch {
  /** When the last machine of a project ended. */
  const ended = new Map<string, number>()
  return ({ at }, { fact, project = '' }) => {
    if (fact === 'orderSucceeded' || fact === 'orderFailed') ended.set(project, at)
    const since = ended.get(project)
    if (fact === 'orderGranted' && since !== undefined) latency.observe((at - since) / 1000)
    // What stood still says nothing about how quick a grant is.
    if (['orderGranted', 'stopSet', 'paused', 'projectClosed'].includes(fact)) ended.delete(project)
    if (fact === 'frozen') ended.clear()
  }
}
