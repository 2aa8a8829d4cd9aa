/**
 * The main line on real hosts: the built packages installed by dpkg, machines enrolled and patched with nothing but
 * the documented commands. Skipped by name where no host can be booted or no package was built.
 */
import t from 'tap'
import type { PackageSpec } from '../archive/builder.ts'
import { SUITES, whyNoHosts } from './base.ts'
import { feedRows, machinesOf, online } from '../site/harness.ts'
import {
  checkRun,
  describeStatus,
  machineIn,
  publishBuild,
  startHostSite,
  startPatch,
  untilSettled,
  versionOn,
} from './scenario.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(1_200_000)

const OLD: PackageSpec = { name: 'hello', version: '1.0' }
const NEW: PackageSpec = { name: 'hello', version: '1.1', behaviours: [{ type: 'chatty', lines: 200 }] }

t.test(
  '[HST-10] five hosts: install, enrol, patch, status, with nothing but the documented commands',
  { skip },
  async (t) => {
    const site = await startHostSite(t, { coordinator: 'host' })
    const names = [1, 2, 3, 10, 11].map((number) => `prod-dal10-carrier3-worker-${number}`)
    await publishBuild(site, '725', [NEW])
    await publishBuild(site, 'prod', [NEW])
    const installed = [await site.build(OLD)]
    for (const name of names) await site.addHost(name, { installed })
    await online(site, ...names)
    const asked = await site.smith(
      'patch',
      '--yes',
      '--json',
      'prod',
      'machines:',
      'prod-dal10-carrier3-worker-*',
      'outage:0',
    )
    if (asked.status !== 0) throw new Error(asked.stderr)
    const change = /CHG[0-9]{7}/.exec(asked.stdout)?.[0] ?? ''
    const approved = await site.smith(
      'approve',
      change,
      '--digest',
      /[0-9a-f]{64}/.exec((await site.smith('status', change, '--json')).stdout)?.[0] ?? '',
    )
    t.equal(approved.status, 0, approved.stderr)
    const done = await untilSettled(site, change)
    t.equal(done.state, 'complete', describeStatus(done))
    t.strictSame(
      machinesOf(done).map((machine) => machine.name),
      names,
    )
    const granted = (await feedRows(site, 0)).flatMap((row) => row.facts).filter((fact) => fact.fact === 'orderGranted')
    t.strictSame(
      granted.map((fact) => fact.machine),
      names,
      'one after another, in natural order',
    )
    t.match((await site.smith('status', change)).stdout, /TOTALS: Pass: 5, Failed NONE, Unstarted NONE/)
    for (const name of names) {
      const host = site.host(name)
      t.equal(await versionOn(host, 'hello'), 'ii 1.1')
      await checkRun(t, site, change, name)
      const log = await host.read('/opt/smith-agent.log')
      for (const step of ['update', 'install', 'verify']) t.match(log, step, `the log tells of ${step}`)
      t.match(log, 'hello: line 200 of 200')
      t.equal((await host.must(['stat', '--format=%A %U', '/opt/smith-agent.log'])).trim(), '-rw-r--r-- root')
      const users = (await host.must(['ps', '-eo', 'user=,args=']))
        .split('\n')
        .filter((line) => line.includes('/usr/lib/smith-agent/'))
      t.strictSame(
        users.map((line) => line.split(' ')[0]),
        ['smith'],
        'only the agent runs, without privilege',
      )
      t.match(await host.must(['systemctl', 'is-system-running']), /^running$/m, 'nothing on it failed')
    }
  },
)

for (const suite of SUITES.filter((one) => one !== 'bookworm'))
  t.test(`[HST-11] the main line on ${suite}`, { skip }, async (t) => {
    const site = await startHostSite(t)
    const name = 'prod-dal10-new1-worker-1'
    await publishBuild(site, 'prod', [NEW])
    const host = await site.addHost(name, { suite, installed: [await site.build(OLD)] })
    const change = await startPatch(site, 'prod', [name])
    const done = await untilSettled(site, change)
    t.equal(done.state, 'complete', describeStatus(done))
    t.equal(machineIn(done, name).state, 'succeeded')
    t.equal(await versionOn(host, 'hello'), 'ii 1.1')
    await checkRun(t, site, change, name)
  })
