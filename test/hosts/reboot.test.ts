/**
 * Reboots, on booted hosts: the one that a run does in its declared minutes, hosts that come back worse, with another
 * kernel or not at all, those that must not be rebooted, and reboots by someone else. Each scenario has a host of its
 * own, all at work at once. Skipped by name where no host can be booted.
 */
import t, { type Test } from 'tap'
import type { PackageSpec } from '../archive/builder.ts'
import type { RequestView } from '../../protocol/http.ts'
import type { MachineStatus, Status } from '../../protocol/status.ts'
import { ask, call, feedRows, online, ordersOf, recordsOf, statusOf, until, untilStatus } from '../site/harness.ts'
import { type Suite, whyNoHosts } from './base.ts'
import type { Host } from './host.ts'
import { checkReport } from './reported.ts'
import {
  checkLog,
  checkRun,
  describeStatus,
  machineIn,
  pidsOn,
  publishBuild,
  startHostSite,
  startPatch,
  untilSettled,
  versionOn,
} from './scenario.ts'
import { type HostSite, gateOn } from './site.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(1_800_000)

const RUNNER = 'runner/main.mjs'
const LOG = '/opt/smith-agent.log'
/** A unit that is well until the package has been installed and the machine booted. */
const LAMP =
  '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c "test ! -e /etc/lamp-broken"\n[Install]\nWantedBy=multi-user.target\n'

type Given = {
  readonly site: HostSite
  readonly host: Host
  readonly name: string
  readonly build: string
  /** Of `hello` in this build. */
  readonly version: string
  /** How often the host had come up when the scenario began. */
  readonly boots: number
}
/** What a scenario is, what `hello` of its build is, and what happens. */
type Scenario = readonly [what: string, hello: Partial<PackageSpec>, body: (t: Test, given: Given) => Promise<void>]
/** One host, and what it goes through, one after another; each scenario leaves it in order. */
type Lane = { readonly suite?: Suite; readonly limits?: string; readonly scenarios: readonly Scenario[] }

const REBOOT: Partial<PackageSpec> = { behaviours: [{ type: 'reboot' }] }
const REBOOT_AFTER_GATE: Partial<PackageSpec> = {
  behaviours: [{ type: 'reboot' }, { type: 'gate', file: '/var/tmp/gate' }],
}
const NEW_KERNEL = 'cp /etc/new-kernel "/boot/vmlinuz-$(cat /etc/new-kernel)"'
const LANES: readonly Lane[] = [
  { scenarios: [['[HST-41] a host that does not come back, and is switched on later', REBOOT, comesBackLater]] },
  {
    scenarios: [
      ['[HST-41] a host that does not come back, and is resolved before it is switched on', REBOOT, resolvedWhileGone],
    ],
  },
  {
    scenarios: [
      ['[HST-40] a run reboots its machine once', REBOOT, rebootsOnce],
      ['[HST-43] no minutes declared: the reboot is pending; with minutes it is done', REBOOT, pendingThenDone],
      [
        '[HST-42] a host that comes back with the old kernel, and with the expected one',
        { ...REBOOT, postinst: NEW_KERNEL },
        oldKernel,
      ],
      [
        '[HST-42] a host that comes back with a failed unit',
        { ...REBOOT, postinst: 'touch /etc/lamp-broken' },
        failedUnit,
      ],
    ],
  },
  {
    limits: 'ping = 1\ndead = 3\nreconnect_max = 2\n',
    scenarios: [
      ['[HST-45] a reboot that the machine does not allow, and one that it refuses', REBOOT, refused],
      ['[HST-46] someone reboots before the latch', {}, rebootedBeforeLatch],
      ['[HST-44] the runner killed around the reboot', REBOOT_AFTER_GATE, killedAroundReboot],
      [
        '[HST-46] someone reboots in the install, which takes longer than systemd waits',
        { behaviours: [{ type: 'gate', file: '/var/tmp/gate-to-install' }] },
        rebootedInInstall,
      ],
    ],
  },
  { suite: 'trixie', scenarios: [['[HST-45] a reboot that someone inhibits', REBOOT_AFTER_GATE, inhibited]] },
]

t.test('[HST-40] reboots', { skip }, async (t) => {
  // Within the minute that is the least outage, a host that is gone must not count as silent for another reason.
  const site = await startHostSite(t, { limits: 'silence_max = 30' })
  const only = process.env['SMITH_HOSTS_ONLY']
  const installed = [await site.build({ name: 'hello', version: '1.0' })]
  const wanted = LANES.map((lane, laneNumber) => ({
    ...lane,
    name: `prod-dal10-reboot${laneNumber + 1}-worker-1`,
    scenarios: lane.scenarios
      .map(([what, hello, body], number) => ({ what, hello, body, build: String(900 + laneNumber * 10 + number) }))
      .filter(({ what }) => only === undefined || what.includes(only)),
  })).filter(({ scenarios }) => scenarios.length > 0)
  for (const { build, hello } of wanted.flatMap(({ scenarios }) => scenarios))
    await publishBuild(site, build, [{ name: 'hello', ...hello, version: `1.${build}` }])
  t.jobs = wanted.length
  for (const { name, suite, limits, scenarios } of wanted)
    void t.test(`on ${name}`, { buffered: true }, async (t) => {
      const config = `\n[limits]\nsettle = 1\nhealth = 10\n${limits ?? ''}`
      const host = await site.addHost(name, { installed, config, ...(suite === undefined ? {} : { suite }) })
      t.teardown(() => host.stop())
      for (const { what, body, build } of scenarios)
        await t.test(what, (t) => body(t, { site, host, name, build, version: `1.${build}`, boots: host.boots() }))
    })
})

function machineOf(given: Given, status: Status): MachineStatus {
  return machineIn(status, given.name)
}

async function settled(given: Given, change: string): Promise<{ status: Status; machine: MachineStatus }> {
  const status = await untilSettled(given.site, change)
  return { status, machine: machineOf(given, status) }
}

async function succeeds(t: Test, given: Given, change: string): Promise<MachineStatus> {
  const { status, machine } = await settled(given, change)
  t.equal(status.state, 'complete', describeStatus(status))
  t.match(machine, { state: 'succeeded', rebootPending: false })
  t.equal(await given.host.has('/run/reboot-required'), false, 'no reboot is due any more')
  return machine
}

/** What a person types: the command that the status tells, with the choices made. */
async function type(given: Given, command: string): Promise<void> {
  const [program, ...words] = command.replace('succeeded|failed', 'failed').replace('REASON', 'looked').split(' ')
  if (program !== 'smith') throw new Error(`no command of a person: ${command}`)
  const done = await given.site.smith(...words)
  if (done.status !== 0) throw new Error(`${command}: ${done.stderr}`)
}

/** A unit that keeps the machine from going down until the test has seen what it came for. */
async function holdShutdown(host: Host): Promise<{ readonly release: () => Promise<void> }> {
  const loop = '/bin/sh -c "until [ -e /run/go-down ]; do sleep 0.05; done"'
  await host.write(
    '/run/systemd/system/held.service',
    `[Service]\nExecStart=sleep infinity\nExecStop=${loop}\nTimeoutStopSec=infinity\n`,
  )
  await host.must(['systemctl', 'daemon-reload'])
  await host.must(['systemctl', 'start', 'held'])
  return { release: async () => void (await host.must(['touch', '/run/go-down'])) }
}

const bootId = (host: Host) => host.read('/proc/sys/kernel/random/boot_id')

async function goesDown(host: Host): Promise<void> {
  await until('the shutdown to begin', async () =>
    (await host.must(['systemctl', 'list-jobs', '--no-legend'])).includes('reboot.target'),
  )
}

async function rebootsOnce(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  const before = await bootId(host)
  const held = await holdShutdown(host)
  const change = await startPatch(site, build, [name], 5)
  const going = await untilStatus(site, change, 'the reboot', (status) => machineIn(status, name).state === 'rebooting')
  t.equal(going.state, 'running', describeStatus(going))
  t.match((await site.smith('status', change)).stdout, new RegExp(`Now: ${name} reboot for`))
  await goesDown(host)
  await until('the agent to end, though the machine is kept up', async () => {
    const { body } = await call<{ machines: { name: string; online: boolean }[] }>(site, 'GET', '/machines')
    return body.machines.some((machine) => machine.name === name && !machine.online)
  })
  t.equal(machineOf(given, await statusOf(site, change)).state, 'rebooting')
  await held.release()
  await succeeds(t, given, change)
  t.equal(host.boots() - given.boots, 1, 'it was rebooted once')
  t.not(await bootId(host), before, 'a real boot has an id of its own')
  t.equal(await versionOn(host, 'hello'), `ii ${given.version}`)
  const { records } = await checkRun(t, site, change, name)
  const steps = records.flatMap((record) => (record.type === 'step' ? [record.step] : []))
  t.strictSame(steps.slice(-4), ['install', 'post-checks', 'reboot', 'verify'])
  t.notOk(
    records.some((record) => record.type === 'hole'),
    'its own reboot loses nothing',
  )
  const ended = await host.must(['journalctl', '--boot=-1', '--no-pager', '--unit=smith-agent', '--unit=smith-run'])
  t.notMatch(ended, /timed out|SIGKILL/i, 'neither half held the shutdown up')
  t.match(ended, /smith-agent\.service: Deactivated successfully/)
  await online(site, name)
}

/** The machine goes off where it should come up again. */
async function breakReboot(host: Host): Promise<void> {
  await host.write('/etc/systemd/system/systemd-reboot.service.d/off.conf', '[Unit]\nSuccessAction=poweroff-force\n')
  await host.must(['systemctl', 'daemon-reload'])
}

async function untilLost(t: Test, given: Given, change: string): Promise<Status> {
  const { site, name } = given
  const lost = await untilStatus(site, change, 'the hold', (status) => status.stop?.code === 'unknown')
  t.match(lost.stop, {
    kind: 'hold',
    machine: name,
    lift: `smith resolve ${change} ${name} --as succeeded|failed --reason REASON`,
    reason: new RegExp(`^${name} did not come back from its reboot in the 1 minute declared`),
  })
  t.match(machineIn(lost, name).advice.join('\n'), /console/)
  t.equal(lost.totals.unknown, 1)
  const text = (await given.site.smith('status', change)).stdout
  t.match(text, `Unknown ${name}`)
  t.match(text, `Lift: ${lost.stop?.lift}`)
  return lost
}

async function comesBackLater(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  const next = `${name.slice(0, -1)}2`
  const other = await site.addHost(next, { installed: [await site.build({ name: 'hello', version: '1.0' })] })
  t.teardown(() => other.stop())
  await breakReboot(host)
  const change = await startPatch(site, build, [name, next], 1)
  const lost = await untilLost(t, given, change)
  t.equal(machineIn(lost, next).startedAt, null, 'the line is held')
  t.equal(host.isUp(), false)
  t.equal(other.boots(), 1)
  await host.boot()
  const done = await untilStatus(site, change, 'its end', (status) => status.state === 'complete')
  t.match(machineIn(done, name), { state: 'succeeded', attempt: 1, rebootPending: false })
  t.strictSame([host.boots() - given.boots, other.boots()], [1, 2])
  const { records } = await checkRun(t, site, change, name)
  t.match(JSON.stringify(records), /is up again [0-9]+ s after its reboot began/, 'and says how long it took')
  await checkRun(t, site, change, next)
}

async function resolvedWhileGone(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  await breakReboot(host)
  const change = await startPatch(site, build, [name], 1)
  const lost = await untilLost(t, given, change)
  await type(given, lost.stop?.lift ?? '')
  const failed = await statusOf(site, change)
  t.match(failed.stop, { kind: 'hold', code: 'failed', lift: `smith retry ${change} ${name}` })
  await type(given, failed.stop?.lift ?? '')
  const waits = await statusOf(site, change)
  t.match(waits.stop, { kind: 'waiting', code: 'offline' }, describeStatus(waits))
  await host.boot()
  const done = await untilStatus(site, change, 'its end', (status) => status.state === 'complete')
  t.match(machineIn(done, name), { state: 'succeeded', attempt: 2 })
  t.equal(host.boots() - given.boots, 1)
  const facts = (await feedRows(site, 0)).flatMap((row) => row.facts)
  const late = facts.find((fact) => fact.fact === 'evidenceRecorded' && fact.machine === name)
  t.equal(late?.state, 'succeeded', 'what the machine says of its first run is kept')
  for (const order of await ordersOf(site, change)) await checkLog(t, site, order)
}

async function failedUnit(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  await host.write('/etc/systemd/system/lamp.service', LAMP)
  await host.must(['systemctl', 'enable', '--now', 'lamp'])
  const change = await startPatch(site, build, [name], 5)
  const { status, machine } = await settled(given, change)
  t.match(machine, { state: 'failed', cause: 'check', step: 'verify' }, describeStatus(status))
  t.match(machine.message, /unit lamp\.service has failed/)
  t.match(machine.evidence.join('\n'), /lamp\.service/)
  t.match(status.stop, { kind: 'hold', code: 'failed', machine: name })
  t.equal(host.boots() - given.boots, 1)
  const report = await checkReport(t, site, status, name)
  t.match(report.summary, /1 unit has failed\n {2}- seen: lamp\.service\n {2}- next: `systemctl status lamp\.service`/)
  t.match(report.file('failed-units.txt'), /lamp\.service/)
  await host.must(['rm', '/etc/lamp-broken'])
  await host.must(['systemctl', 'restart', 'lamp'])
  await type(given, status.stop?.lift ?? '')
  const done = await untilStatus(site, change, 'its end', (one) => one.state === 'complete')
  t.match(machineIn(done, name), { state: 'succeeded', attempt: 2 })
  t.equal(host.boots() - given.boots, 1, 'the retry has no reason to reboot')
}

async function oldKernel(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  const running = (await host.must(['uname', '-r'])).trim()
  const newer = running.replace(/^[0-9]+/, '9999')
  await host.write(`/boot/vmlinuz-${running}`, '')
  await host.write('/etc/new-kernel', newer)
  const change = await startPatch(site, build, [name], 5)
  const { status, machine } = await settled(given, change)
  t.match(machine, { state: 'failed', cause: 'reboot', step: 'verify', rebootPending: true }, describeStatus(status))
  t.match(machine.message, `the machine came back with kernel ${running} instead of ${newer}`)
  t.match(machine.advice.join('\n'), /boot loader/)
  t.match((await checkReport(t, site, status, name)).summary, `running ${running}, newest in /boot ${newer}`)
  t.equal(host.boots() - given.boots, 1, 'and it is not rebooted again')
  t.match((await site.smith('machines', name)).stdout, /reboot pending/)
  await host.must(['rm', `/boot/vmlinuz-${newer}`])
  // A reboot is due once more, and now the newest kernel is the one that comes up.
  await host.must(['touch', '/run/reboot-required'])
  await type(given, status.stop?.lift ?? '')
  const done = await untilStatus(site, change, 'its end', (one) => one.state === 'complete')
  t.match(machineIn(done, name), { state: 'succeeded', attempt: 2, rebootPending: false })
  t.equal(host.boots() - given.boots, 2)
  await until('the machine list to say so', async () =>
    /reboot pending/.test((await site.smith('machines', name)).stdout) ? null : true,
  )
}

async function pendingThenDone(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  for (const what of ['with a package', 'with nothing to install']) {
    const change = await startPatch(site, build, [name])
    const { status, machine } = await settled(given, change)
    t.equal(status.state, 'complete', describeStatus(status))
    t.match(machine, { state: 'succeeded', rebootPending: true }, what)
    t.match((await site.smith('status', change)).stdout, `Reboot pending: ${name}`, what)
    t.match(status.closeNotes, `a reboot is pending on ${name}`, what)
    t.match((await site.smith('machines', name)).stdout, /reboot pending/, what)
  }
  t.equal(host.boots() - given.boots, 0, 'it was not rebooted')
  t.equal(await host.has('/run/reboot-required'), true)
  const change = await startPatch(site, build, [name], 5)
  await succeeds(t, given, change)
  t.equal(host.boots() - given.boots, 1)
  const [order] = await ordersOf(site, change)
  if (order === undefined) throw new Error('there was no order')
  await checkLog(t, site, order)
  t.notMatch(await host.read('/var/log/apt/history.log'), order.order, 'apt was not started for it')
  t.notMatch((await site.smith('machines', name)).stdout, /reboot pending/)
}

/** Kills the runner and waits for the next. */
async function killRunner(host: Host): Promise<void> {
  const pid = await until('the runner', async () => (await pidsOn(host, RUNNER))[0])
  await host.must(['kill', '-9', String(pid)])
  await until('the next runner', async () => (await pidsOn(host, RUNNER)).some((one) => one !== pid))
}

async function killedAroundReboot(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  const held = await holdShutdown(host)
  const gate = gateOn(host, '/var/tmp/gate')
  const change = await startPatch(site, build, [name], 5)
  await gate.reached()
  await host.cutNetwork()
  await gate.open()
  const orders = await ordersOf(site, change)
  const logged = async () => (await host.read(LOG)).includes(`${orders[0]?.order} reboot systemctl reboot`)
  await until('the step of the reboot', async () =>
    host.has(`/var/lib/smith/run/orders/${orders[0]?.order}/reboot.json`).then((has) => has || null),
  )
  // Nobody has acknowledged it yet, so the machine must stay up, whoever takes the run up.
  await killRunner(host)
  await killRunner(host)
  t.equal(await logged(), false, 'no reboot without the acknowledgement')
  await host.joinNetwork()
  await until('the command', logged)
  await goesDown(host)
  for (const pid of await pidsOn(host, RUNNER)) await host.run(['kill', '-9', String(pid)])
  await held.release()
  await host.untilBooted(given.boots)
  await killRunner(host)
  await succeeds(t, given, change)
  t.equal(host.boots() - given.boots, 1, 'one reboot')
  await checkRun(t, site, change, name)
}

async function refused(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  const config = await host.read('/etc/smith/agent.toml')
  await host.write('/etc/smith/agent.toml', `${config}\n[allow]\nreboot = "never"\n`)
  await host.must(['systemctl', 'restart', 'smith-agent'])
  // The package makes the reboot due in the run, where it can't be refused any more: it stays pending.
  const change = await startPatch(site, build, [name], 5)
  const { status, machine } = await settled(given, change)
  t.match(machine, { state: 'succeeded', rebootPending: true }, describeStatus(status))
  t.match(machine.message, /a reboot is due and stays pending: this machine allows no reboot/)
  const asked: RequestView = await ask(site, `${build} machines: ${name} outage:5`)
  t.match(asked.refusals, [{ message: /allows no reboot/, subject: name, remedy: /outage:0/ }])
  t.equal(host.boots() - given.boots, 0)
  await host.write('/etc/smith/agent.toml', config)
  await host.must(['systemctl', 'restart', 'smith-agent'])
  await host.must(['systemctl', 'mask', '--runtime', 'reboot.target'])
  const second = await startPatch(site, build, [name], 5)
  const blocked = await settled(given, second)
  t.match(blocked.machine, { state: 'failed', cause: 'reboot', rebootPending: true }, describeStatus(blocked.status))
  t.match(blocked.machine.message, /could not be rebooted: systemctl reboot ended with exit status 1/)
  t.match(blocked.machine.evidence.join('\n'), /Access denied/)
  t.equal(host.boots() - given.boots, 0)
  await host.must(['systemctl', 'unmask', '--runtime', 'reboot.target'])
  await type(given, blocked.status.stop?.lift ?? '')
  const done = await untilStatus(site, second, 'its end', (one) => one.state === 'complete')
  t.match(machineIn(done, name), { attempt: 2, rebootPending: false })
  t.equal(host.boots() - given.boots, 1)
}

async function inhibited(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  const holder = ['systemd-inhibit', '--what=shutdown', '--who=backup', '--why=nightly', '--mode=block', 'sleep']
  await host.must(['systemd-run', '--unit=backup', ...holder, 'infinity'])
  await until('the inhibitor', async () => (await host.must(['systemd-inhibit', '--list'])).includes('nightly'))
  const gate = gateOn(host, '/var/tmp/gate')
  const change = await startPatch(site, build, [name], 5)
  await gate.reached()
  // Whatever way of going down has a limit on this Debian, in an install it has none.
  const limits =
    'for path in $(grep -l ^JobTimeoutAction= /usr/lib/systemd/system/*.target); do systemctl show --property=JobTimeoutUSec "${path##*/}"; done'
  const found = (await host.must(['sh', '-c', limits])).trim().split('\n')
  t.ok(found.length > 1)
  t.strictSame([...new Set(found)], ['JobTimeoutUSec=infinity'])
  await gate.open()
  const { status, machine } = await settled(given, change)
  t.match(machine, { state: 'failed', cause: 'reboot', rebootPending: true }, describeStatus(status))
  t.match(machine.evidence.join('\n'), /backup|inhibit/i, 'whoever keeps the machine up is named')
  t.equal(host.boots() - given.boots, 0)
  await host.must(['systemctl', 'stop', 'backup'])
  await type(given, status.stop?.lift ?? '')
  const done = await untilStatus(site, change, 'its end', (one) => one.state === 'complete')
  t.match(machineIn(done, name), { attempt: 2, rebootPending: false })
  t.equal(host.boots() - given.boots, 1)
}

async function rebootedBeforeLatch(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  const check = 'echo up > /var/tmp/checking; until [ -e /var/tmp/checked ]; do sleep 0.05; done\n'
  await host.write('/etc/smith/checks.d/pre/wait', `#!/bin/sh\n${check}`, 0o755)
  const change = await startPatch(site, build, [name])
  await until('the check', () => host.has('/var/tmp/checking').then((has) => has || null))
  // The network comes late: the run must not begin anew before it is there.
  await host.cutNetwork()
  await host.must(['systemctl', 'reboot'])
  await until('the machine to be down', () => !host.isUp())
  // Long enough for a run that does not wait for the network to fail; there is no event of what must not happen.
  await new Promise((resolve) => setTimeout(resolve, 4000))
  await host.joinNetwork()
  await host.untilBooted(given.boots)
  await host.must(['touch', '/var/tmp/checked'])
  await succeeds(t, given, change)
  t.equal(await versionOn(host, 'hello'), `ii ${given.version}`)
  t.equal(host.boots() - given.boots, 1)
  const { records } = await checkRun(t, site, change, name)
  t.match(JSON.stringify(records), /nothing is changed yet, the steps begin anew/)
  t.notOk(
    records.some((record) => record.type === 'hole'),
    'an orderly shutdown loses nothing',
  )
}

async function rebootedInInstall(t: Test, given: Given): Promise<void> {
  const { site, host, name, build } = given
  await host.write('/etc/systemd/system/lamp.service', LAMP)
  await host.must(['systemctl', 'enable', '--now', 'lamp'])
  // Debian's own limit is half an hour.
  const limit = '[Unit]\nJobTimeoutSec=2s\n'
  for (const target of ['reboot', 'poweroff'])
    await host.write(`/etc/systemd/system/${target}.target.d/50-short.conf`, limit)
  await host.must(['systemctl', 'daemon-reload'])
  const gate = gateOn(host, '/var/tmp/gate-to-install')
  const change = await startPatch(site, build, [name])
  await gate.reached()
  await host.must(['systemctl', 'reboot'])
  await goesDown(host)
  await until('the unit to be stopped', async () => (await host.run(['systemctl', 'is-active', 'lamp'])).status !== 0)
  // Twice the limit set above: what must not happen by then has no event to wait for.
  await new Promise((resolve) => setTimeout(resolve, 4000))
  t.equal(host.isUp(), true, 'systemd still waits for apt')
  await gate.open()
  await host.untilBooted(given.boots)
  await succeeds(t, given, change)
  t.equal(host.boots() - given.boots, 1)
  t.equal(await versionOn(host, 'hello'), `ii ${given.version}`)
  const { order, records } = await checkRun(t, site, change, name)
  t.notOk(
    records.some((record) => record.type === 'hole'),
    'apt had ended, so nothing can be lost',
  )
  t.equal((await recordsOf(site, order.order)).length, records.length)
  t.equal(
    (await host.must(['systemctl', 'show', '--property=JobTimeoutUSec', 'reboot.target'])).trim(),
    'JobTimeoutUSec=2s',
    'the limit is back',
  )
}
