/**
 * Trouble with the archive, the machine and its packages, on a booted host: each ends as the right cause, the machine
 * is as healthy as it was, and the line stops. The scenarios follow one another on one host, which shows by itself
 * that each left it in order. Skipped by name where no host can be booted.
 */
import t, { type Test } from 'tap'
import { createSigningKey } from '../archive/signing.ts'
import type { PackageSpec } from '../archive/builder.ts'
import { call, machinesOf, untilStatus } from '../site/harness.ts'
import { whyNoHosts } from './base.ts'
import { until } from './commands.ts'
import type { Host } from './host.ts'
import { checkReport } from './reported.ts'
import {
  approveFrozen,
  checkRun,
  describeStatus,
  machineIn,
  publishBuild,
  startHostSite,
  startPatch,
  untilSettled,
  versionOn,
} from './scenario.ts'
import { type HostSite, gateOn } from './site.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(1_800_000)

const NAME = 'prod-dal10-trouble1-worker-1'
const LIMITS = '\n[limits]\nlock_wait = 3\nfetch_stall = 2\nfetch_retries = 0\n'

t.test('[HST-30] trouble ends as its own cause, and leaves the machine as healthy as it was', { skip }, async (t) => {
  // Without prefetch the run itself downloads, so that the archive's trouble meets the run.
  const site = await startHostSite(t, { limits: 'prefetch_ahead = 0' })
  const installed = [
    await site.build({ name: 'hello', version: '1.0', conffiles: { '/etc/hello.conf': 'greeting = hello\n' } }),
    await site.build({ name: 'lamp', version: '1.0' }),
  ]
  const host = await site.addHost(NAME, { installed, config: LIMITS })
  let build = 900
  const only = process.env['SMITH_HOSTS_ONLY']
  const scenario = (what: string, body: (t: Test, given: Given) => Promise<void>) => {
    build += 1
    if (only !== undefined && !what.includes(only)) return Promise.resolve()
    return t.test(`[HST-30] ${what}`, (t) => body(t, { site, host, build: String(build), version: `1.${build}` }))
  }
  await archiveTrouble(scenario)
  await lockTrouble(scenario)
  await packageTrouble(scenario)
})

type Given = { readonly site: HostSite; readonly host: Host; readonly build: string; readonly version: string }
type Scenario = (what: string, body: (t: Test, given: Given) => Promise<void>) => Promise<unknown>

/** It failed for this reason with nothing changed; then the project is given up, so that the line is free. */
async function failsWith(t: Test, given: Given, change: string, cause: string, says: RegExp): Promise<void> {
  const { site, host, version } = given
  const held = await untilSettled(site, change)
  const machine = machineIn(held, NAME)
  t.equal(held.stop?.kind, 'hold', describeStatus(held))
  t.equal(machine.cause, cause, describeStatus(held))
  t.match([machine.message, ...machine.evidence].join('\n'), says)
  t.ok(machine.advice.length > 0, 'it says what to try')
  await checkReport(t, site, held, NAME)
  t.not(await versionOn(host, 'hello'), `ii ${version}`, 'it is not installed')
  await release(t, given, change)
}

async function release(t: Test, { site, host }: Given, change: string): Promise<void> {
  t.equal((await host.must(['dpkg', '--audit'])).trim(), '', 'dpkg has nothing left to do')
  const skipped = await call(site, 'POST', `/projects/${change}/skip`, { machine: NAME, reason: 'seen' })
  t.equal(skipped.status, 200, JSON.stringify(skipped.body))
  await untilSettled(site, change)
}

async function succeeds(t: Test, { site, host, version }: Given, change: string): Promise<void> {
  const done = await untilSettled(site, change)
  t.equal(done.state, 'complete', describeStatus(done))
  t.equal(await versionOn(host, 'hello'), `ii ${version}`)
  await checkRun(t, site, change, NAME)
}

const hello = (version: string, more: Partial<PackageSpec> = {}): PackageSpec => ({
  name: 'hello',
  version,
  conffiles: { '/etc/hello.conf': 'greeting = hello\n' },
  ...more,
})

function approvedFrozen({ site, build }: Given, meanwhile: () => Promise<unknown>): Promise<string> {
  return approveFrozen(site, { build, name: NAME }, meanwhile)
}

async function archiveTrouble(scenario: Scenario): Promise<void> {
  await scenario('an archive signed by another key', async (t, given) => {
    await publishBuild(given.site, given.build, [hello(given.version)])
    const other = await createSigningKey()
    const change = await approvedFrozen(given, () =>
      given.site.archive.resign(given.build, { date: new Date(), signWith: other }),
    )
    await failsWith(t, given, change, 'repo', /NO_PUBKEY|public key|not signed/i)
  })
  await scenario('an archive that has expired', async (t, given) => {
    await publishBuild(given.site, given.build, [hello(given.version)])
    const past = (hours: number) => new Date(Date.now() - hours * 3_600_000)
    const change = await approvedFrozen(given, () =>
      given.site.archive.resign(given.build, { date: past(0.9), validUntil: past(0.5) }),
    )
    // apt can't tell a wrong clock from an old archive; the grant's time can.
    await failsWith(t, given, change, 'repo', /expired/i)
  })
  await scenario('an archive with a wrong hash', async (t, given) => {
    const { site, build, version } = given
    await publishBuild(site, build, [hello(version)])
    const built = await site.build(hello(version))
    const change = await approvedFrozen(given, () => site.archive.tamper(site.archive.poolPath(built)))
    await failsWith(t, given, change, 'repo', /hash/i)
  })
  await scenario('an archive rolled back to an older InRelease', async (t, given) => {
    const { site, build, version } = given
    await publishBuild(site, build, [hello(version)])
    await site.archive.resign(build, { date: new Date() })
    const change = await approvedFrozen(given, () => site.archive.rollBack(build))
    await failsWith(t, given, change, 'repo', /older|back/i)
  })
  await scenario('an archive that hangs in the middle of a download', async (t, given) => {
    await publishBuild(given.site, given.build, [hello(given.version)])
    const lift = given.site.server.misbehave({ kind: 'stall', path: /\.deb$/, afterBytes: 100 })
    const change = await approvedFrozen(given, async () => {})
    await failsWith(t, given, change, 'fetch', /timed out|stall/i)
    lift()
  })
}

async function lockTrouble(scenario: Scenario): Promise<void> {
  for (const inTime of [false, true]) {
    await scenario(
      `the lock of dpkg held by another, ${inTime ? 'released in time' : 'not released in time'}`,
      async (t, given) => {
        const { site, host, build, version } = given
        await publishBuild(site, build, [hello(version)])
        const gate = gateOn(host, `/var/tmp/lamp-${build}`)
        const lamp = await site.build({
          name: 'lamp',
          version: `1.${build}`,
          behaviours: [{ type: 'gate', file: `/var/tmp/lamp-${build}` }],
        })
        const change = await approvedFrozen(given, async () => {
          await host.copyIn(lamp.path, '/var/tmp/lamp.deb')
          await host.must(['systemd-run', `--unit=nightly-${build}`, 'dpkg', '--install', '/var/tmp/lamp.deb'])
          await gate.reached()
        })
        if (inTime) {
          await until('the run to wait for the lock', async () =>
            /lock/i.test(await host.read('/opt/smith-agent.log').then((text) => text.split('\n').slice(-5).join('\n'))),
          )
          await gate.open()
          return succeeds(t, given, change)
        }
        const held = await untilSettled(site, change)
        t.equal(machineIn(held, NAME).cause, 'lock', describeStatus(held))
        t.match(machineIn(held, NAME).message, /dpkg/, 'the holder is named')
        const report = await checkReport(t, site, held, NAME)
        t.match(
          report.summary,
          /lock-frontend is held; let that program end, then retry, and never delete a lock file\n {2}- seen: process \d+ .*nightly/,
          'and is seen in the report',
        )
        t.match(report.file('locks.txt'), /lock-frontend: process \d+ \(\S*dpkg --install/)
        t.equal(
          (await host.must(['systemctl', 'is-active', `nightly-${build}`])).trim(),
          'active',
          'the holder is left alone',
        )
        await gate.open()
        await until(
          'the other to end',
          async () => (await host.run(['systemctl', 'is-active', `nightly-${build}`])).stdout.trim() !== 'active',
        )
        await release(t, given, change)
      },
    )
  }
}

const SCRIPTS: readonly (readonly [what: string, postinst: string, says: RegExp])[] = [
  ['a package whose script fails', 'echo "the lamp is broken" >&2; exit 1', /the lamp is broken/],
  ['a package whose script is killed', 'kill -9 $$', /killed|signal/i],
]

async function packageTrouble(scenario: Scenario): Promise<void> {
  await scenario('a package whose script asks, and a conffile edited on the machine', async (t, given) => {
    const { site, host, build, version } = given
    await host.write('/etc/hello.conf', 'greeting = good evening\n')
    await publishBuild(site, build, [
      hello(version, { conffiles: { '/etc/hello.conf': 'greeting = hi\n' }, behaviours: [{ type: 'prompt' }] }),
    ])
    await succeeds(t, given, await startPatch(site, build, [NAME]))
    t.equal(await host.read('/etc/hello.conf'), 'greeting = good evening\n', 'the machine’s own is kept')
    t.equal(await host.read('/etc/hello.conf.dpkg-dist'), 'greeting = hi\n')
    t.match(await host.read('/opt/smith-agent.log'), 'got: end of file')
  })
  await scenario('a check that fails after the install', async (t, given) => {
    const { site, host, build, version } = given
    await publishBuild(site, build, [hello(version)])
    await host.write('/etc/smith/checks.d/post/lights', '#!/bin/sh\necho "the lights are out"\nexit 1\n', 0o755)
    const change = await startPatch(site, build, [NAME])
    const held = await untilSettled(site, change)
    await host.must(['rm', '/etc/smith/checks.d/post/lights'])
    t.equal(machineIn(held, NAME).cause, 'check', describeStatus(held))
    t.match(JSON.stringify(machineIn(held, NAME)), /lights/)
    await release(t, given, change)
  })
  for (const [what, postinst, says] of SCRIPTS)
    await scenario(what, async (t, given) => {
      const { site, host, build, version } = given
      await publishBuild(site, build, [
        hello(version, {
          postinst: `if [ ! -e /var/tmp/tried-${build} ]; then touch /var/tmp/tried-${build}; ${postinst}; fi`,
        }),
      ])
      const change = await startPatch(site, build, [NAME])
      const held = await untilSettled(site, change)
      t.equal(machineIn(held, NAME).cause, 'maintainer-script', describeStatus(held))
      t.match(JSON.stringify(machineIn(held, NAME)), says)
      const report = await checkReport(t, site, held, NAME)
      t.match(report.file('dpkg-audit.txt'), /hello:all .* is half-configured\n[^]*Setting up hello/)
      const typed = await site.smith(...report.next.split(' ').slice(1))
      t.equal(typed.status, 0, `what the report says is to be typed: ${report.next}: ${typed.stderr}`)
      const done = await untilStatus(site, change, 'its end', (status) => status.state === 'complete')
      t.equal(machineIn(done, NAME).attempt, 2, describeStatus(done))
      t.equal(await versionOn(host, 'hello'), `ii ${version}`)
      t.equal((await host.must(['dpkg', '--audit'])).trim(), '')
    })
  await scenario('a package that needs a reboot, with outage:0', async (t, given) => {
    const { site, host, build, version } = given
    await publishBuild(site, build, [hello(version, { behaviours: [{ type: 'reboot' }] })])
    const change = await startPatch(site, build, [NAME])
    await succeeds(t, given, change)
    const done = await untilSettled(site, change)
    t.strictSame(
      machinesOf(done).map((machine) => machine.rebootPending),
      [true],
    )
    t.equal(host.boots(), 1, 'it was not rebooted')
    t.equal(await host.has('/run/reboot-required'), true)
    await host.must(['rm', '/run/reboot-required'])
  })
}
