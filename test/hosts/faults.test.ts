/**
 * What goes wrong on machines at night, in the middle of an install, each on a booted host of its own: dpkg is not
 * interrupted, and the true result arrives with a complete log. Skipped by name where no host can be booted.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { BuiltPackage } from '../archive/builder.ts'
import { call, online, ordersOf, untilStatus } from '../site/harness.ts'
import { whyNoHosts } from './base.ts'
import { must, until } from './commands.ts'
import type { Host } from './host.ts'
import {
  type MidInstall,
  checkRun,
  describeStatus,
  machineIn,
  pidsOn,
  startHostSite,
  startMidInstall,
  startedOn,
  untilSettled,
  versionOn,
} from './scenario.ts'
import { type HostSite, builtDeb } from './site.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(1_800_000)

/** Each scenario waits most of its time. */
const SIDE_BY_SIDE = 3

const AGENT = 'agent/main.mjs run'
const RUNNER = 'runner/main.mjs'
const WRAPPER = 'wrapper.mjs'

async function killOn(host: Host, ...texts: readonly string[]): Promise<void> {
  const pids = (await Promise.all(texts.map((text) => pidsOn(host, text)))).flat()
  if (pids.length < texts.length)
    throw new Error(
      `not all of ${texts.join(', ')} are at work on ${host.name}: ${pids.join(' ')}\n${await host.must(['ps', '-eo', 'pid=,args='])}`,
    )
  await host.must(['kill', '-9', ...pids.map(String)])
}

/** The host, and what was approved for it, when the gate is reached; `act` must leave the script at work. */
async function survives(t: Test, site: HostSite, mid: MidInstall, act: () => Promise<void>): Promise<void> {
  const { host, change, gate, script } = mid
  const started = await startedOn(host, script)
  await act()
  t.equal(await startedOn(host, script), started, 'the script of the package is still at work')
  await gate.open()
  await finished(t, site, host, change)
}

async function finished(t: Test, site: HostSite, host: Host, change: string): Promise<void> {
  const done = await untilSettled(site, change)
  t.equal(done.state, 'complete', describeStatus(done))
  t.equal(machineIn(done, host.name).state, 'succeeded')
  t.equal(await versionOn(host, 'hello'), 'ii 1.1')
  await checkRun(t, site, change, host.name)
}

t.test('[HST-20] what happens in the middle of an install does not reach dpkg', { skip }, async (t) => {
  const site = await startHostSite(t, { limits: 'silence_max = 60' })
  const only = process.env['SMITH_HOSTS_ONLY']
  t.jobs = SIDE_BY_SIDE
  let count = 0
  /** One host, one scenario, one build. */
  const scenario = (what: string, body: (t: Test, name: string, build: string) => Promise<void>) => {
    count += 1
    const [name, build] = [`prod-dal10-fault${count}-worker-1`, String(900 + count)]
    if (only !== undefined && !what.includes(only)) return Promise.resolve()
    return t.test(`[HST-20] ${what}`, { buffered: true }, async (t) => {
      t.teardown(() => site.host(name).stop())
      await body(t, name, build)
    })
  }
  const kept = (what: string, act: (mid: MidInstall) => Promise<void>) =>
    scenario(what, async (t, name, build) => {
      const mid = await startMidInstall(site, name, build)
      await survives(t, site, mid, () => act(mid))
    })

  // Alone, since the others talk to it.
  await kept('the coordinator killed and started', async () => {
    await site.stopCoordinator('SIGKILL')
    await site.startCoordinator()
  })
  void kept('the agent restarted', async ({ host }) => void (await host.must(['systemctl', 'restart', 'smith-agent'])))
  void kept('the agent killed', ({ host }) => killOn(host, AGENT))
  void kept('the runner killed', ({ host }) => killOn(host, RUNNER))
  void kept('the wrapper killed', ({ host }) => killOn(host, WRAPPER))
  void kept('agent, runner and wrapper killed', ({ host }) => killOn(host, WRAPPER, RUNNER, AGENT))
  void scenario('the network cut until the run is over', async (t, name, build) => {
    const { host, change, gate } = await startMidInstall(site, name, build, {
      config: '\n[limits]\nping = 2\ndead = 6\nreconnect_max = 5\n',
    })
    await host.cutNetwork()
    await gate.open()
    await until('the install to be over', async () =>
      (await host.read('/opt/smith-agent.log')).includes('no new connection to the coordinator'),
    )
    t.equal(await versionOn(host, 'hello'), 'ii 1.1', 'it is over while the network is cut')
    await host.joinNetwork()
    const done = await untilStatus(site, change, 'its end', (status) => status.state === 'complete')
    t.equal(machineIn(done, name).state, 'succeeded', describeStatus(done))
    t.equal(await versionOn(host, 'hello'), 'ii 1.1')
    await checkRun(t, site, change, name)
  })
  void scenario('someone reboots the machine', async (t, name, build) => {
    const { host, change, gate, script } = await startMidInstall(site, name, build)
    const started = await startedOn(host, script)
    await host.must(['systemctl', 'reboot'])
    await until('the shutdown to begin', async () =>
      (await host.must(['systemctl', 'list-jobs', '--no-legend'])).includes('reboot.target'),
    )
    t.equal(await startedOn(host, script), started, 'the script of the package is still at work')
    await gate.open()
    await host.untilBooted(1)
    await finished(t, site, host, change)
  })
  void scenario('a script of a package restarts the agent', async (t, name, build) => {
    const mid = await startMidInstall(site, name, build, { hello: { preinst: 'systemctl restart smith-agent' } })
    await survives(t, site, mid, () => online(site, name))
  })
  void scenario('the agent upgraded in the same run', async (t, name, build) => {
    const mid = await startMidInstall(site, name, build, {
      publish: [await repackagedAgent(site)],
      hello: { depends: 'smith-agent (>= 99)' },
    })
    t.equal(await versionOn(mid.host, 'smith-agent'), 'ii 99', 'it is replaced by now')
    await survives(t, site, mid, async () => {})
    await until('the new agent', async () => (await mid.host.must(['smith-agent', '--version'])).trim() === '99')
    await online(site, name)
  })
  void scenario('the agent removed in the same run', async (t, name, build) => {
    const { host, change, gate } = await startMidInstall(site, name, build, {
      hello: { conflicts: 'smith-agent', replaces: 'smith-agent' },
    })
    t.notMatch(await versionOn(host, 'smith-agent'), /^ii/, 'it is removed by now')
    await gate.open()
    const done = await untilSettled(site, change)
    t.equal(done.state, 'complete', describeStatus(done))
    t.equal(await versionOn(host, 'hello'), 'ii 1.1')
    await checkRun(t, site, change, name)
    await until('the agent to end after the run', async () => (await pidsOn(host, AGENT)).length === 0)
  })
  void scenario('the plug pulled: no success, and a retry repairs and finishes', async (t, name, build) => {
    const { host, change } = await startMidInstall(site, name, build)
    await host.pullPlug()
    await host.boot()
    await online(site, name)
    const held = await untilStatus(
      site,
      change,
      'the hold',
      (status) => status.stop?.kind === 'hold' && machineIn(status, name).message !== null,
    )
    const found = machineIn(held, name)
    t.match(found, { state: 'failed', cause: 'dpkg-interrupted' }, describeStatus(held))
    t.match(found.evidence.join('\n'), /^hello:all 1\.1 is (half configured|unpacked and not configured)$/m)
    t.match(held.stop?.lift, new RegExp(`smith retry ${change} ${name}`), 'what is to be typed is the retry alone')
    await host.must(['rm', '-f', '/var/tmp/gate.reached'])
    await host.must(['touch', '/var/tmp/gate.open'])
    const retried = await call(site, 'POST', `/projects/${change}/retry`, { machine: name })
    t.equal(retried.status, 200, JSON.stringify(retried.body))
    const done = await untilStatus(
      site,
      change,
      'its end',
      (status) =>
        status.state === 'complete' ||
        (status.stop?.kind === 'hold' &&
          machineIn(status, name).attempt === 2 &&
          machineIn(status, name).state === 'failed'),
    )
    t.equal(done.state, 'complete', describeStatus(done))
    t.equal(await versionOn(host, 'hello'), 'ii 1.1')
    t.equal((await host.must(['dpkg', '--audit'])).trim(), '')
    t.equal((await ordersOf(site, change)).length, 2)
  })
})

/** The built agent again, as version 99. */
async function repackagedAgent(site: HostSite): Promise<BuiltPackage> {
  const deb = await builtDeb('smith-agent')
  const tree = join(site.dir, 'agent-99')
  rmSync(tree, { recursive: true, force: true })
  mkdirSync(tree)
  await must(['dpkg-deb', '--raw-extract', deb, tree])
  await must(['sed', '-i', 's/^Version: .*/Version: 99/', join(tree, 'DEBIAN/control')])
  await must(['sed', '-i', 's/"version":"[^"]*"/"version":"99"/', join(tree, 'usr/lib/smith-agent/package.json')])
  const path = join(site.dir, 'smith-agent_99.deb')
  await must(['dpkg-deb', '-Znone', '--build', tree, path])
  const bytes = await readFile(path)
  const control = await must(['dpkg-deb', '--field', path])
  const arch = (await must(['dpkg-deb', '--field', path, 'Architecture'])).trim()
  return {
    name: 'smith-agent',
    version: '99',
    arch,
    path,
    size: bytes.length,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    control,
  }
}
