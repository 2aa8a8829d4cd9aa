/**
 * Groups of scenarios on booted hosts: each group has a site with one host of its own, on which its scenarios follow one
 * another, so that each shows by itself that the one before left the machine in order; the groups go side by side.
 * Called by machine.test.ts and lists.test.ts.
 */
import t, { type Test } from 'tap'
import type { PlanView } from '../../protocol/http.ts'
import type { MachineStatus } from '../../protocol/status.ts'
import type { BuiltPackage, PackageSpec } from '../archive/builder.ts'
import { call, isOver, ordersOf, raise, recordsOf, statusOf, untilStatus } from '../site/harness.ts'
import { until } from './commands.ts'
import type { Host } from './host.ts'
import { checkReport } from './reported.ts'
import {
  approveFrozen,
  checkLog,
  checkRun,
  describeStatus,
  machineIn,
  startHostSite,
  untilSettled,
  versionOn,
} from './scenario.ts'
import { whyNoHosts } from './base.ts'
import { type AddOptions, type HostSite } from './site.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(1_800_000)
t.jobs = 4

export type Given = { readonly site: HostSite; readonly host: Host; readonly build: string; readonly version: string }
export type Scenario = readonly [what: string, body: (t: Test, given: Given) => Promise<void>]
export type Group = Omit<AddOptions, 'installed'> & {
  readonly what: string
  readonly name: string
  readonly installed: readonly PackageSpec[]
  readonly scenarios: readonly Scenario[]
}

/** One site with one host, on which the scenarios follow one another: each must leave it in order for the next. */
export function group({ what, name, installed, scenarios, ...options }: Group): void {
  const only = process.env['SMITH_HOSTS_ONLY'] ?? ''
  const wanted = [...scenarios.entries()].filter(([, [title]]) => title.includes(only))
  if (wanted.length === 0) return
  void t.test(what, { skip, buffered: true }, async (t) => {
    const site = await startHostSite(t, { limits: 'prefetch_ahead = 0' })
    const built: BuiltPackage[] = []
    for (const spec of installed) built.push(await site.build(spec))
    const host = await site.addHost(name, { ...options, installed: built })
    for (const [index, [title, body]] of wanted) {
      const build = String(901 + index)
      await t.test(title, (t) => body(t, { site, host, build, version: `1.${build}` }))
    }
  })
}

export const hello = (version: string, more: Partial<PackageSpec> = {}): PackageSpec => ({
  name: 'hello',
  version,
  ...more,
})
export const lamp = (version: string, more: Partial<PackageSpec> = {}): PackageSpec => ({
  name: 'lamp',
  version,
  ...more,
})

export function request({ site, host, build }: Given): Promise<string> {
  return raise(site, `${build} machines: ${host.name} outage:0`)
}

export function approvedFrozen({ site, host, build }: Given, meanwhile: () => Promise<unknown>): Promise<string> {
  return approveFrozen(site, { build, name: host.name }, meanwhile)
}

export async function warningsOf({ site }: Given, change: string): Promise<string> {
  const { body } = await call<PlanView>(site, 'GET', `/projects/${change}/plan`)
  return body.machines.flatMap((machine) => machine.warnings).join('\n')
}

/** The line is stopped, for this cause; what it says comes with advice. */
export async function failsFor(
  t: Test,
  given: Given,
  change: string,
  cause: string,
  says: RegExp,
): Promise<MachineStatus> {
  const held = await untilSettled(given.site, change)
  const machine = machineIn(held, given.host.name)
  t.equal(held.stop?.kind, 'hold', describeStatus(held))
  t.equal(machine.cause, cause, describeStatus(held))
  t.match([machine.message, ...machine.evidence].join('\n'), says)
  t.ok(machine.advice.length > 0, 'it says what to try')
  await checkReport(t, given.site, held, given.host.name)
  return machine
}

/** The latch was not taken, so nothing of the plan was begun. */
export async function isUntouched(t: Test, { site, host, version }: Given, change: string): Promise<void> {
  for (const order of await ordersOf(site, change)) {
    const { records } = await checkLog(t, site, order)
    t.match(records.at(-1), { type: 'result', latched: false })
  }
  t.not(await versionOn(host, 'hello'), `ii ${version}`, 'it is not installed')
}

export async function succeeds(t: Test, given: Given, change: string, name = 'hello'): Promise<MachineStatus> {
  const { site, host, version } = given
  const done = await untilSettled(site, change)
  t.equal(done.state, 'complete', describeStatus(done))
  t.equal(await versionOn(host, name), `ii ${version}`)
  await checkRun(t, site, change, host.name)
  return machineIn(done, host.name)
}

/** A second order under the same change does what was left. */
export async function retrySucceeds(t: Test, given: Given, change: string, name = 'hello'): Promise<void> {
  const { site, host, version } = given
  const retried = await call(site, 'POST', `/projects/${change}/retry`, { machine: host.name })
  t.equal(retried.status, 200, JSON.stringify(retried.body))
  const done = await untilStatus(
    site,
    change,
    'its end',
    (status) =>
      status.state === 'complete' ||
      (machineIn(status, host.name).attempt === 2 && machineIn(status, host.name).state === 'failed'),
  )
  t.equal(done.state, 'complete', describeStatus(done))
  t.equal(await versionOn(host, name), `ii ${version}`)
  t.equal((await host.must(['dpkg', '--audit'])).trim(), '', 'dpkg has nothing left to do')
}

/** In the lines of the change's runs; a project that stopped without it throws. */
export async function untilSaid(given: Given, change: string, says: RegExp): Promise<void> {
  await until(`the run to say ${says}`, async () => {
    if (says.test(await logLines(given, change))) return true
    const status = await statusOf(given.site, change)
    if (status.stop?.kind === 'hold' || isOver(status)) throw new Error(describeStatus(status))
    return false
  })
}

export async function logLines({ site }: Given, change: string): Promise<string> {
  const orders = await ordersOf(site, change)
  const records = await Promise.all(orders.map((order) => recordsOf(site, order.order)))
  return records
    .flat()
    .flatMap((record) => (record.type === 'note' || (record.type === 'line' && 'text' in record) ? [record.text] : []))
    .join('\n')
}
