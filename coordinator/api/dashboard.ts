/**
 * What the dashboard asks for beside the rest: its session, what goes now, and a search in a log. Called by
 * handlers.ts. A search looks at a bounded number of records in one call and lets others have their turn in between,
 * one search after another, so that a log of a million lines costs those who search time and nobody else.
 */
import type { RunRecord } from '../../protocol/files.ts'
import type { Overview } from '../../protocol/dashboard.ts'
import type * as v from 'valibot'
import type { whoSchema } from '../../protocol/http.ts'
import { instanceOf } from '../domain/draft.ts'
import type { Actor, Project } from '../domain/state.ts'
import { holderOf, holderOfLine, projectState } from '../domain/status.ts'
import type { Authenticator } from './authentication.ts'
import { numberOf, refuse } from './bodies.ts'
import type { Hand, Handlers } from './calls.ts'
import { createQueue } from './one-at-a-time.ts'
import type { ApiPorts } from './ports.ts'
import { unauthenticated } from './roles.ts'
import { findOrder } from './views.ts'
import { expiredCookie } from './web-sessions.ts'

/** What one call looks at, and after how many of them others have their turn. */
const SCAN_MAX = 20_000
const SCAN_PAGE = 500
const MATCHES_MAX = 1_000
const NUMBER_MAX = 999_999_999_999_999

export function whoIs(ports: ApiPorts, actor: Actor, port: number | null): v.InferOutput<typeof whoSchema> {
  return {
    instance: ports.instance,
    name: actor.kind === 'person' ? actor.name : actor.kind,
    roles: actor.kind === 'person' ? [...actor.roles] : [],
    version: ports.version,
    epoch: ports.store.epoch,
    rev: ports.driver.rev(),
    pin: ports.pin,
    ...(ports.host === undefined ? {} : { host: ports.host }),
    ...(port === null ? {} : { port }),
  }
}

/** What the session and who it belongs to need of the rest of the interface. */
type Needs = {
  readonly hand: Pick<Hand, 'submit'>
  readonly authenticator: Pick<Authenticator, 'openSession' | 'endSession'>
  readonly feed: { readonly recheck: () => void }
  readonly port: () => number | null
}

export function dashboard(
  ports: ApiPorts,
  { authenticator, feed, hand, port }: Needs,
): Pick<Handlers, 'overview' | 'sessionOpen' | 'sessionEnd' | 'logSearch'> {
  const queued = createQueue()
  return {
    overview: () => ({ ok: true, value: overviewOf(ports) }),
    sessionOpen: async ({ body, address }) => {
      const opened = authenticator.openSession(body.token)
      if (opened === null) return { ok: false, refusals: [unauthenticated()] }
      await hand.submit({ actor: opened.person }, { type: 'loggedIn', address })
      return { ok: true, value: whoIs(ports, opened.person, port()), headers: { 'set-cookie': opened.cookie } }
    },
    sessionEnd: async (call) => {
      const { session, address } = call
      if (session !== null) {
        authenticator.endSession(session)
        feed.recheck()
        await hand.submit(call, { type: 'loggedOut', address })
      }
      return { ok: true, value: { ended: true }, headers: { 'set-cookie': expiredCookie(ports.instance) } }
    },
    logSearch: async ({ params, query, whenGone }) => {
      const id = params['order'] ?? ''
      const after = numberOf(query, 'after', { fallback: 0, min: 0, max: NUMBER_MAX })
      if (!after.ok) return after
      const order = findOrder(ports, id)
      if (order === undefined) return refuse('not-found', `there is no order ${id} here`, 'look it up anew', id)
      const wanted = { order: id, text: query['text'] ?? '', after: after.value }
      const found = await queued((isGone) => search(ports, wanted, isGone), whenGone)
      return { ok: true, value: { ...found, upTo: findOrder(ports, id)?.upTo ?? order.upTo } }
    },
  }
}

function overviewOf(ports: ApiPorts): Overview {
  const { view } = ports.driver
  const { frozen } = instanceOf(view)
  const lines = [...view.all('lines')].filter(({ key }) => key.startsWith('cluster:'))
  const projects = [...view.all('projects')].filter((project) => project.state !== 'closed')
  const requests = [...view.all('requests')].filter(({ state }) => state === 'planning' || state === 'raising')
  return {
    instance: ports.instance,
    at: ports.driver.now(),
    rev: ports.driver.rev(),
    frozen: frozen === null ? null : { ...frozen },
    troubles: [...(ports.troubles?.() ?? [])],
    lines: lines.map((line) => holderOfLine(view, line)),
    projects: projects.toSorted((a, b) => a.createdAt - b.createdAt).map((project) => openProject(ports, project)),
    requests: requests
      .toSorted((a, b) => a.at - b.at)
      .map(({ id, text, by, at, state, answered, total }) => ({
        ...{ request: id, text, by, at, state, planned: answered, total },
      })),
    machines: countMachines(ports),
  }
}

function openProject({ driver, views }: ApiPorts, project: Project): Overview['projects'][number] {
  const elsewhere = views.elsewhere?.(project.id) ?? null
  return {
    change: project.change,
    state: projectState(project),
    title: project.title,
    build: project.build,
    region: project.region,
    requester: project.requester,
    approvedBy: project.approval?.by ?? null,
    createdAt: project.createdAt,
    digest: project.digest,
    totals: { ...project.counts },
    stop: project.stop === null ? null : { ...project.stop },
    holder: holderOf(driver.view, project),
    ...(elsewhere === null ? {} : { elsewhere }),
  }
}

function countMachines({ driver: { view } }: ApiPorts): Overview['machines'] {
  const counts = { enrolled: 0, online: 0, rebootPending: 0, impeded: 0 }
  for (const machine of view.all('machines')) {
    if (machine.state !== 'active') continue
    const session = view.get('sessions', machine.id)
    counts.enrolled += 1
    if (session !== undefined) counts.online += 1
    if (machine.rebootPending) counts.rebootPending += 1
    if (machine.quarantined !== null || session?.impediment != null) counts.impeded += 1
  }
  return counts
}

async function search(
  { store }: ApiPorts,
  wanted: { readonly order: string; readonly text: string; readonly after: number },
  isGone: () => boolean,
): Promise<{ matches: number[]; scannedUpTo: number }> {
  const text = wanted.text.toLowerCase()
  const matches: number[] = []
  let at = wanted.after
  const end = at + SCAN_MAX
  while (at < end && matches.length < MATCHES_MAX && !isGone()) {
    const page = store.records({ order: wanted.order, after: at, limit: SCAN_PAGE })
    for (const record of page) {
      if (matches.length === MATCHES_MAX) break
      if (textOf(record).toLowerCase().includes(text)) matches.push(record.n)
      at = record.n
    }
    if (page.length < SCAN_PAGE) break
    await new Promise((resolve) => setImmediate(resolve))
  }
  return { matches, scannedUpTo: at }
}

/** The colours of a program are no part of what it says. */
// oxlint-disable-next-line no-control-regex -- escape is what begins them
const COLOUR = /\u001b\[[0-9;]*m/g

function textOf(record: RunRecord): string {
  switch (record.type) {
    case 'line':
      return 'text' in record ? record.text.replace(COLOUR, '') : Buffer.from(record.base64, 'base64').toString('utf8')
    case 'note':
      return record.text
    case 'step':
      return record.step
    case 'progress':
      return record.label
    case 'result':
      return [record.outcome, record.cause ?? '', record.message, ...record.evidence].join('\n')
    case 'hole':
      return ''
    default:
      return record satisfies never
  }
}
