/**
 * What the tests with real processes share: a site, its interface without the detour of the CLI, and waiting for a
 * state by looking until it is there. The bound on waiting only ends a test that would hang.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { type RequestOptions, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { WebSocket } from 'ws'
import { FEED_SUBPROTOCOL, type FeedFrame, type FeedRow } from '../../protocol/feed.ts'
import type { RunRecord } from '../../protocol/files.ts'
import type { LogPage, OrderView, RequestView } from '../../protocol/http.ts'
import type { Status } from '../../protocol/status.ts'
import type { BuiltPackage, PackageSpec } from '../archive/builder.ts'
import { type Site, type SiteMachine, type SiteOptions, createSite } from '../demo/site.ts'

export type Answer<Body> = { readonly status: number; readonly body: Body }
/** All that a question to the coordinator needs; sites of another kind have it too. */
export type Reach = Pick<Site, 'socket'>
const GIVE_UP_MS = 300_000

/** A site with its coordinator running; all of it ends with the test. */
export async function startSite(t: Test, options: Partial<SiteOptions> = {}): Promise<Site> {
  const dir = mkdtempSync(join(tmpdir(), 'smith-site-'))
  const site = await createSite({ dir, ...options })
  t.teardown(async () => {
    await site.stop()
    rmSync(dir, { recursive: true, force: true })
  })
  await site.startCoordinator()
  return site
}

/** One call on the admin socket, as a person when a token is given. */
export async function call<Body = unknown>(
  site: Reach,
  method: string,
  path: string,
  body?: unknown,
  token?: string,
): Promise<Answer<Body>> {
  const headers: Record<string, string> = {
    'content-type': 'application/json',
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
  }
  const sent = body === undefined ? undefined : JSON.stringify(body)
  const { status, text } = await exchange({ socketPath: site.socket, method, path: `/api/v1${path}`, headers }, sent)
  return { status, body: (text === '' ? {} : JSON.parse(text)) as Body }
}

/** What Prometheus reads. */
export async function metricsOf(site: Reach): Promise<string> {
  return (await exchange({ socketPath: site.socket, path: '/metrics' })).text
}

function exchange(options: RequestOptions, body?: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const asked = request(options, (answer) => {
      const pieces: Buffer[] = []
      answer.on('data', (piece: Buffer) => pieces.push(piece))
      answer.on('error', reject)
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text: Buffer.concat(pieces).toString() }))
    })
    asked.on('error', reject)
    asked.end(body)
  })
}

/** Looks until there is an answer; `what` is for the message when there is none. */
export async function until<Value>(
  what: string,
  look: () => Promise<Value | undefined | false | null> | Value | undefined | false | null,
): Promise<Value> {
  const end = Date.now() + GIVE_UP_MS
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== false && found !== null) return found
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 30))
  }
}

export async function statusOf(site: Reach, change: string): Promise<Status> {
  const { body } = await call<{ status: Status }>(site, 'GET', `/projects/${change}`)
  return body.status
}

export function machinesOf(status: Status) {
  return status.phases.flatMap((phase) => phase.bags.flatMap((bag) => bag.machines))
}

async function statusIfUp(site: Reach, change: string): Promise<Status | undefined> {
  try {
    return await statusOf(site, change)
  } catch {
    // The coordinator is down at this moment; whoever waits looks again.
    return undefined
  }
}

/** Waits while the coordinator may be down. */
export async function untilStatus(
  site: Reach,
  change: string,
  what: string,
  isWanted: (status: Status) => boolean,
): Promise<Status> {
  let last: Status | undefined
  try {
    return await until(what, async () => {
      last = await statusIfUp(site, change)
      return last !== undefined && isWanted(last) ? last : undefined
    })
  } catch (error) {
    throw new Error(
      `${(error as Error).message}; last seen: ${JSON.stringify(last?.state)} ${JSON.stringify(last?.stop)} ${JSON.stringify(last === undefined ? [] : machinesOf(last))}`,
      { cause: error },
    )
  }
}

export function isOver(status: Status): boolean {
  return ['complete', 'failed', 'cancelled'].includes(status.state)
}

/** Asks and waits for the change, or for the refusals. */
export async function ask(site: Reach, text: string, token?: string): Promise<RequestView> {
  const made = await call<RequestView>(site, 'POST', '/requests', { text }, token)
  if (made.status >= 400) return made.body
  return until(`the change of ${text}`, async () => {
    const { body } = await call<RequestView>(site, 'GET', `/requests/${made.body.request}`)
    return body.state === 'planning' || body.state === 'raising' ? undefined : body
  })
}

export async function raise(site: Reach, text: string, token?: string): Promise<string> {
  const view = await ask(site, text, token)
  if (view.change === null || view.change === undefined) throw new Error(`refused: ${JSON.stringify(view)}`)
  return view.change
}

export async function approve(site: Reach, change: string, token?: string): Promise<void> {
  const { digest } = await statusOf(site, change)
  const { status, body } = await call(site, 'POST', `/projects/${change}/approve`, { digest }, token)
  if (status !== 200) throw new Error(`not approved: ${JSON.stringify(body)}`)
}

export async function online(site: Reach, ...names: string[]): Promise<void> {
  await until(`${names.join(', ')} online`, async () => {
    const { body } = await call<{ machines: { name: string; online: boolean }[] }>(site, 'GET', '/machines').catch(
      () => ({ body: { machines: [] } }),
    )
    return names.every((name) => body.machines.some((machine) => machine.name === name && machine.online))
  })
}

/** Machines with `hello` 1.0 (and what else is given) installed, `hello` 1.1 published. */
export async function machinesWith(
  site: Site,
  names: readonly string[],
  installed: readonly BuiltPackage[],
  options: Parameters<Site['addMachine']>[2] = {},
): Promise<SiteMachine[]> {
  const made: SiteMachine[] = []
  for (const name of names) made.push(await site.addMachine(name, installed, options))
  await online(site, ...names)
  return made
}

let published = 0
/** Publishes these packages as `prod`, a minute later than the time before. */
export async function publish(
  site: Pick<Site, 'build' | 'archive'>,
  specs: readonly PackageSpec[],
): Promise<BuiltPackage[]> {
  const packages: BuiltPackage[] = []
  for (const spec of specs) packages.push(await site.build(spec))
  published += 1
  await site.archive.publish({ suite: 'prod', packages, date: new Date(Date.now() - 3_600_000 + published * 1000) })
  return packages
}

export async function ordersOf(site: Reach, change: string): Promise<OrderView[]> {
  const { body } = await call<{ orders: OrderView[] }>(site, 'GET', `/projects/${change}/orders`)
  return body.orders
}

export async function recordsOf(site: Reach, order: string): Promise<RunRecord[]> {
  const records: RunRecord[] = []
  for (;;) {
    const { body } = await call<LogPage>(site, 'GET', `/orders/${order}/log?after=${records.length}&limit=1000`)
    records.push(...body.records)
    if (body.records.length === 0 || records.length >= body.upTo) return records
  }
}

/** The output that the store has of an order, its lines put together. */
export function outputOf(records: readonly RunRecord[]): Buffer {
  return Buffer.concat(
    records.flatMap((record) => {
      if (record.type !== 'line') return []
      return ['text' in record ? Buffer.from(record.text, 'utf8') : Buffer.from(record.base64, 'base64')]
    }),
  )
}

/** What apt and dpkg wrote on the machine. */
export function outputOn(machine: SiteMachine, order: string): Buffer {
  return readFileSync(join(machine.stateDir, 'run', 'orders', order, 'output'))
}

/** The rows of the feed after `since`, up to the one that was the newest when it was asked. */
export function feedRows(site: Reach, since: number): Promise<FeedRow[]> {
  return new Promise((resolve, reject) => {
    const rows: FeedRow[] = []
    const socket = new WebSocket(`ws+unix://${site.socket}:/feed?since=${since}`, FEED_SUBPROTOCOL)
    let upTo = Number.POSITIVE_INFINITY
    const settle = () => {
      if (since + rows.length < upTo) return
      socket.close()
      resolve(rows)
    }
    socket.on('message', (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as FeedFrame
      if (frame.t === 'hello') upTo = frame.rev
      else rows.push(frame.row)
      settle()
    })
    socket.on('error', reject)
    socket.on('close', () => reject(new Error('the feed was closed')))
  })
}
