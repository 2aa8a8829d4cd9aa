/**
 * What the tests on booted hosts share: one site a file, hosts added as they are needed, a request brought to its
 * grant, and what must be true of every run that ended. Each scenario publishes a build of its own, so that several
 * can be at work on one site.
 */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { RunRecord } from '../../protocol/files.ts'
import type { OrderView } from '../../protocol/http.ts'
import type { MachineStatus, Status } from '../../protocol/status.ts'
import type { BuiltPackage, PackageSpec } from '../archive/builder.ts'
import {
  approve,
  call,
  isOver,
  machinesOf,
  metricsOf,
  online,
  ordersOf,
  outputOf,
  raise,
  recordsOf,
  statusOf,
  untilStatus,
} from '../site/harness.ts'
import { until } from './commands.ts'
import type { Host } from './host.ts'
import { type AddOptions, type HostSite, type HostSiteOptions, createHostSite, gateOn } from './site.ts'

/** A site with its coordinator running; all of it ends with the test. */
export async function startHostSite(test: Test, options: Partial<HostSiteOptions> = {}): Promise<HostSite> {
  const dir = mkdtempSync(join(tmpdir(), 'smith-hosts-'))
  const site = await createHostSite({ dir, coordinator: 'process', ...options })
  test.teardown(() => site.stop())
  await site.startCoordinator()
  return site
}

let published = 0
/** Publishes these packages, and those that are built already, as a build. */
export async function publishBuild(
  site: HostSite,
  build: string,
  specs: readonly (PackageSpec | BuiltPackage)[],
): Promise<void> {
  const packages: BuiltPackage[] = []
  for (const spec of specs) packages.push('sha256' in spec ? spec : await site.build(spec))
  published += 1
  const date = new Date(Date.now() - 3_600_000 + published * 1000)
  await site.archive.publish({ suite: build, packages, date, ...(build === 'prod' ? {} : { build }) })
}

/** The change of a request that was asked for and approved. */
export async function startPatch(site: HostSite, build: string, names: readonly string[], outage = 0): Promise<string> {
  await online(site, ...names)
  const change = await raise(site, `${build} machines: ${names.join(' ')} outage:${outage}`)
  await approve(site, change)
  return change
}

/**
 * Asked for, and approved while the instance is frozen: what happens meanwhile meets the run and not the plans, neither
 * those of the request nor those that are compared after the approval.
 */
export async function approveFrozen(
  site: HostSite,
  asked: { readonly build: string; readonly name: string },
  meanwhile: () => Promise<unknown>,
): Promise<string> {
  await online(site, asked.name)
  const change = await raise(site, `${asked.build} machines: ${asked.name} outage:0`)
  await call(site, 'POST', '/freeze', { reason: 'until something has happened' })
  await approve(site, change)
  await untilCompared(site, change)
  await meanwhile()
  await call(site, 'POST', '/unfreeze', {})
  return change
}

/** What stops a project first is that the instance is frozen, so the plans that are still compared are in no status. */
async function untilCompared(site: HostSite, change: string): Promise<void> {
  await untilStatus(site, change, 'its approval', (status) => status.stop?.code === 'frozen')
  await until('the plans to be compared', async () => /^smith_plans_awaited\{[^}]*\} 0$/m.test(await metricsOf(site)))
}

/** Over, or stopped until a person decides. */
export function untilSettled(site: HostSite, change: string): Promise<Status> {
  return untilStatus(site, change, 'its end or a hold', (status) => isOver(status) || status.stop?.kind === 'hold')
}

export function describeStatus(status: Status): string {
  return `${JSON.stringify(status.stop)} ${JSON.stringify(machinesOf(status))}`
}

export function machineIn(status: Status, name: string): MachineStatus {
  const machine = machinesOf(status).find((one) => one.name === name)
  if (machine === undefined) throw new Error(`${name} is not in ${describeStatus(status)}`)
  return machine
}

export async function versionOn(host: Host, name: string): Promise<string> {
  return (await host.run(['dpkg-query', '--showformat=${db:Status-Abbrev}${Version}', '--show', name])).stdout.trim()
}

export type Told = { readonly order: OrderView; readonly records: readonly RunRecord[] }

/** Every line on the machine is in the store, byte for byte, numbered without a gap; a result ends it. */
export async function checkLog(t: Test, site: HostSite, order: OrderView): Promise<Told> {
  const host = site.host(order.machine)
  const records = await recordsOf(site, order.order)
  const output = await host.must(['base64', '--wrap=0', `/var/lib/smith/run/orders/${order.order}/output`])
  t.ok(outputOf(records).equals(Buffer.from(output, 'base64')), `no line of ${order.machine} is lost or doubled`)
  t.strictSame(
    records.map((record) => record.n),
    records.map((_, index) => index + 1),
    'numbered without a gap',
  )
  t.equal(records.at(-1)?.type, 'result', 'the last record is the result')
  return { order, records }
}

/** apt installed once for the order, dpkg has nothing left to do, and the log is whole. */
export async function checkRun(t: Test, site: HostSite, change: string, name: string): Promise<Told> {
  const orders = (await ordersOf(site, change)).filter((order) => order.machine === name)
  t.equal(orders.length, 1, `${name} had one order`)
  const [order] = orders
  if (order === undefined) throw new Error(`${name} had no order`)
  const host = site.host(name)
  const history = await host.read('/var/log/apt/history.log')
  const starts = history.split('\n').filter((line) => line.startsWith('Commandline:') && line.includes(order.order))
  t.equal(starts.length, 1, `apt installed once on ${name}`)
  t.equal((await host.must(['dpkg', '--audit'])).trim(), '', 'dpkg has nothing left to do')
  return checkLog(t, site, order)
}

/** Processes of a host whose command line has the text. */
export async function pidsOn(host: Host, text: string): Promise<number[]> {
  const found = await host.must(['ps', '-eo', 'pid=,args='])
  return found.split('\n').flatMap((line) => {
    const [, pid = '', args = ''] = /^\s*([0-9]+) (.*)$/.exec(line) ?? []
    return args.includes(text) && !args.startsWith('ps ') ? [Number(pid)] : []
  })
}

/** The start of a process in the host's clock ticks, or null when it is gone. */
export async function startedOn(host: Host, pid: number): Promise<string | null> {
  const stat = await host.run(['cat', `/proc/${pid}/stat`])
  return stat.status === 0 ? (stat.stdout.slice(stat.stdout.lastIndexOf(')') + 2).split(' ')[19] ?? null) : null
}

/** A gate in hello's script holds the install, something happens to the machine, and the gate is opened. */
export const GATE = '/var/tmp/gate'
export type MidInstall = {
  readonly host: Host
  readonly change: string
  readonly gate: ReturnType<typeof gateOn>
  /** The script that waits in the gate. */
  readonly script: number
}

/** A new host in the middle of installing `hello` 1.1 from a build of its own. */
export async function startMidInstall(
  site: HostSite,
  name: string,
  build: string,
  options: AddOptions & {
    readonly publish?: readonly (PackageSpec | BuiltPackage)[]
    readonly hello?: Partial<PackageSpec>
  } = {},
): Promise<MidInstall> {
  const hello: PackageSpec = {
    name: 'hello',
    version: '1.1',
    ...options.hello,
    behaviours: [
      { type: 'chatty', lines: 50 },
      { type: 'gate', file: GATE },
      { type: 'chatty', lines: 50 },
    ],
  }
  await publishBuild(site, build, [hello, ...(options.publish ?? [])])
  const old = await site.build({ name: 'hello', version: '1.0' })
  const host = await site.addHost(name, { ...options, installed: [old, ...(options.installed ?? [])] })
  const change = await startPatch(site, build, [name])
  const gate = gateOn(host, GATE)
  const script = await gate.reached().catch(async (error: unknown) => {
    const log = await host.read('/opt/smith-agent.log')
    const status = describeStatus(await statusOf(site, change))
    throw new Error(`${status}\n${log.split('\n').slice(-30).join('\n')}`, { cause: error })
  })
  return { host, change, gate, script }
}
