/**
 * What else lives on a machine, on booted hosts with the real programs: the updaters of the distribution, apt holds,
 * disks that fill, packages that ask, scripts that hang, needrestart and logrotate. Each ends as the right cause with
 * the machine as healthy as before, and the next good order works. Skipped by name where no host can be booted.
 */
import { readFileSync } from 'node:fs'
import type { PackageSpec } from '../archive/builder.ts'
import { ordersOf, untilStatus } from '../site/harness.ts'
import { until } from './commands.ts'
import {
  type Given,
  approvedFrozen,
  failsFor,
  group,
  hello,
  isUntouched,
  lamp,
  logLines,
  retrySucceeds,
  succeeds,
  untilSaid,
  warningsOf,
} from './groups.ts'
import type { Host } from './host.ts'
import {
  checkLog,
  describeStatus,
  machineIn,
  pidsOn,
  startedOn,
  publishBuild,
  startPatch,
  untilSettled,
  versionOn,
} from './scenario.ts'
import { gateOn } from './site.ts'

/** What machines of a site usually have, and a test host's minimum has not. */
const USUAL = ['needrestart', 'unattended-upgrades', 'debconf', 'logrotate', 'ucf']

/** The distribution's own updater, as a machine has it: its timers start these units every night. */
const NIGHTLY: Readonly<Record<string, string>> = {
  '/etc/apt/apt.conf.d/52nightly':
    'APT::Periodic { Update-Package-Lists "always"; Unattended-Upgrade "always"; };\nUnattended-Upgrade::Origins-Pattern:: "origin=smith,codename=nightly";\n',
}
const UPDATE = 'apt-daily.service'
const UPGRADE = 'apt-daily-upgrade.service'

async function useNightly({ site, host }: Given): Promise<void> {
  await host.write(
    '/etc/apt/sources.list.d/nightly.sources',
    `Types: deb\nURIs: ${site.server.url}\nSuites: nightly\nComponents: main\nSigned-By: /etc/smith/repos/prod.asc\n`,
  )
}

async function unitState(host: Host, unit: string): Promise<string> {
  return (await host.run(['systemctl', 'is-active', unit])).stdout.trim()
}

async function untilEnded(host: Host, unit: string): Promise<void> {
  await until(`the end of ${unit}`, async () => (await unitState(host, unit)) === 'inactive')
}

/** The nightly upgrade at work on a package whose script waits in a gate. */
async function startNightlyUpgrade(given: Given): Promise<ReturnType<typeof gateOn>> {
  const { site, host, build } = given
  const file = `/var/tmp/lamp-${build}`
  await useNightly(given)
  await publishBuild(site, 'nightly', [lamp(`1.${build}`, { behaviours: [{ type: 'gate', file }] })])
  await host.must(['systemctl', 'start', UPDATE])
  await host.must(['systemctl', 'start', '--no-block', UPGRADE])
  const gate = gateOn(host, file)
  await gate.reached()
  return gate
}

group({
  what: '[HST-50] updaters of the distribution, and apt holds',
  name: 'prod-dal10-updater1-worker-1',
  extra: USUAL,
  files: NIGHTLY,
  config: '\n[limits]\nlock_wait = 3\n',
  installed: [hello('1.0'), lamp('1.0')],
  scenarios: [
    [
      '[HST-56] what else updates this machine is a warning on the change',
      async (t, given) => {
        const { site, host, build, version } = given
        await publishBuild(site, build, [hello(version)])
        await publishBuild(site, 'nightly', [lamp('1.0')])
        // Where a site keeps this is its own affair; apt knows.
        await host.must(['rm', '-f', '/etc/apt/apt.conf.d/20auto-upgrades'])
        await useNightly(given)
        const lift = site.server.misbehave({ kind: 'stall', path: '/dists/nightly/', afterBytes: 0 })
        await host.must(['systemctl', 'start', '--no-block', UPDATE])
        await lift.reached
        const change = await startPatch(site, build, [host.name])
        const warnings = await warningsOf(given, change)
        t.match(warnings, /apt-daily\.service is at work/)
        t.match(warnings, /unattended-upgrades is enabled/)
        // It only fetches lists of its own, so a run need not wait for it.
        await succeeds(t, given, change)
        t.equal(await unitState(host, UPDATE), 'activating', 'it is still at it')
        lift()
        await untilEnded(host, UPDATE)
      },
    ],
    [
      '[HST-50] the nightly upgrade holds the lock and does not release it in time',
      async (t, given) => {
        const { site, host, build, version } = given
        await publishBuild(site, build, [hello(version)])
        const gate = await startNightlyUpgrade(given)
        const change = await startPatch(site, build, [host.name])
        t.match(await warningsOf(given, change), /process [0-9]+ \(.*\) of apt-daily-upgrade\.service holds/)
        const machine = await failsFor(t, given, change, 'lock', /process [0-9]+ \(.*\) of apt-daily-upgrade\.service/)
        t.match(machine.advice.join('\n'), /systemctl status apt-daily-upgrade\.service/)
        await isUntouched(t, given, change)
        t.equal(await unitState(host, UPGRADE), 'activating', 'the holder is left alone')
        await gate.open()
        await untilEnded(host, UPGRADE)
        t.equal(await versionOn(host, 'lamp'), `ii ${version}`, 'and has done its work')
        await retrySucceeds(t, given, change)
      },
    ],
    [
      '[HST-50] the nightly upgrade holds the lock and releases it in time',
      async (t, given) => {
        const { site, host, build, version } = given
        await publishBuild(site, build, [hello(version)])
        await host.must(['sed', '-i', 's/^lock_wait = .*/lock_wait = 300/', '/etc/smith/agent.toml'])
        let gate: ReturnType<typeof gateOn> | undefined
        const change = await approvedFrozen(given, async () => {
          gate = await startNightlyUpgrade(given)
        })
        await untilSaid(given, change, /waiting: process [0-9]+ \(.*\) of apt-daily-upgrade\.service/)
        await gate?.open()
        await succeeds(t, given, change)
        t.equal(await versionOn(host, 'lamp'), `ii ${version}`, 'the other has done its work too')
        await untilEnded(host, UPGRADE)
      },
    ],
    [
      '[HST-51] an apt hold from before the plan is kept and told',
      async (t, given) => {
        const { site, host, build, version } = given
        await publishBuild(site, build, [hello(version), lamp(version)])
        await host.must(['apt-mark', 'hold', 'lamp'])
        const before = await versionOn(host, 'lamp')
        const change = await startPatch(site, build, [host.name])
        t.match(await warningsOf(given, change), /kept back by apt holds: lamp/)
        await succeeds(t, given, change)
        t.equal(await versionOn(host, 'lamp'), before, 'what is held is as it was')
        t.equal((await host.must(['apt-mark', 'showhold'])).trim(), 'lamp')
        await host.must(['apt-mark', 'unhold', 'lamp'])
      },
    ],
    [
      '[HST-51] an apt hold from after the approval is drift, and nothing is changed',
      async (t, given) => {
        const { site, host, build, version } = given
        await publishBuild(site, build, [hello(version), lamp(version)])
        const before = await versionOn(host, 'lamp')
        const change = await approvedFrozen(given, () => host.must(['apt-mark', 'hold', 'lamp']))
        await failsFor(t, given, change, 'plan-drift', /lamp/)
        await isUntouched(t, given, change)
        t.equal(await versionOn(host, 'lamp'), before.replace('ii', 'hi'))
        await host.must(['apt-mark', 'unhold', 'lamp'])
        await retrySucceeds(t, given, change)
      },
    ],
  ],
})

/** Fills a filesystem up to so many bytes. */
async function fill(host: Host, folder: string, freeBytes: number): Promise<void> {
  const script = `free=$(($(stat -f -c '%a * %S' "$1") - $2)); [ $free -le 0 ] || head -c $free /dev/zero >> "$1/filler" || true`
  await host.must(['sh', '-c', script, 'sh', folder, String(freeBytes)])
}

/** dpkg's database on a small filesystem of its own. */
async function splitOff(host: Host, folder: string, size: string): Promise<void> {
  const script =
    'mkdir "$1.all" && cp -a "$1/." "$1.all" && mount -t tmpfs -o "mode=755,size=$2" small "$1" && cp -a "$1.all/." "$1"'
  await host.must(['sh', '-c', script, 'sh', folder, size])
}

const DATABASE = '/var/lib/dpkg'
const kernel = (abi: number, bytes: number): PackageSpec => ({
  name: `linux-image-6.1.0-${abi}-amd64`,
  version: `6.1.${abi}-1`,
  files: { [`/boot/vmlinuz-6.1.0-${abi}-amd64`]: 'k'.repeat(bytes) },
})
const kernels = (abi: number): PackageSpec => ({
  name: 'linux-image-amd64',
  version: `6.1.${abi}-1`,
  depends: `linux-image-6.1.0-${abi}-amd64`,
})

group({
  what: '[HST-52] disks that are too small',
  name: 'prod-dal10-disk1-worker-1',
  config: '\n[limits]\nfree_bytes = 8000000\n',
  installed: [hello('1.0'), lamp('1.0')],
  scenarios: [
    [
      '[HST-52] a disk too full for the plan is refused before the latch',
      async (t, given) => {
        const { site, host, build, version } = given
        await publishBuild(site, build, [hello(version)])
        await splitOff(host, DATABASE, '64M')
        await fill(host, DATABASE, 4_000_000)
        const change = await startPatch(site, build, [host.name])
        t.match(await warningsOf(given, change), /too little space: \/var\/lib\/dpkg: 4 MB free, 8 MB needed/)
        await failsFor(t, given, change, 'disk', /\/var\/lib\/dpkg: 4 MB free, 8 MB needed/)
        await isUntouched(t, given, change)
        await host.must(['rm', `${DATABASE}/filler`])
        await retrySucceeds(t, given, change)
      },
    ],
    [
      '[HST-52] a disk that becomes full in the middle of the install',
      async (t, given) => {
        const { site, host, build, version } = given
        const file = `/var/tmp/gate-${build}`
        await publishBuild(site, build, [
          hello(version, { behaviours: [{ type: 'gate', script: 'preinst', file }] }),
          lamp(version),
        ])
        const change = await startPatch(site, build, [host.name])
        const gate = gateOn(host, file)
        await gate.reached()
        await fill(host, DATABASE, 0)
        await gate.open()
        const machine = await failsFor(t, given, change, 'disk', /No space left on device/)
        t.match(machine.message, /the disk is full/)
        await host.must(['rm', `${DATABASE}/filler`])
        await retrySucceeds(t, given, change)
        t.equal(await versionOn(host, 'lamp'), `ii ${version}`)
        await host.must(['umount', DATABASE])
      },
    ],
    [
      '[HST-52] /boot too small for another kernel, of which none is removed',
      async (t, given) => {
        const { site, host, build, version } = given
        const all = [kernel(1, 9_000_000), kernels(1)]
        for (const spec of all) {
          const built = await site.build(spec)
          await host.copyIn(built.path, '/var/tmp/kernel.deb')
          await host.must(['dpkg', '--install', '/var/tmp/kernel.deb'])
        }
        await host.must(['apt-mark', 'auto', 'linux-image-6.1.0-1-amd64'])
        await host.write('/boot/initrd.img-6.1.0-1-amd64', 'i'.repeat(20_000_000))
        await splitOff(host, '/boot', '40M')
        await publishBuild(site, build, [hello(version), ...all, kernel(2, 9_000_000), kernels(2)])
        const change = await startPatch(site, build, [host.name])
        const says = /\/boot: 13 MB free, 58 MB needed; kernels there: 6\.1\.0-1-amd64/
        t.match(await warningsOf(given, change), says)
        const machine = await failsFor(t, given, change, 'disk', says)
        t.match(machine.advice.join('\n'), /apt-get autoremove --purge/)
        await isUntouched(t, given, change)
        await host.must(['mount', '-o', 'remount,size=200M', '/boot'])
        await retrySucceeds(t, given, change)
        t.match(
          await host.must(['apt-mark', 'showauto']),
          /6\.1\.0-1-amd64\n.*6\.1\.0-2-amd64/,
          'both can be taken later',
        )
        t.equal(await host.has('/boot/vmlinuz-6.1.0-1-amd64'), true, 'none was removed')
        const done = await untilSettled(site, change)
        t.equal(machineIn(done, host.name).rebootPending, true, 'the newest kernel does not run yet')
      },
    ],
  ],
})

/** Asks by debconf at the highest priority, and hands its configuration file to ucf. */
const asker = (version: string, text: string): PackageSpec => ({
  name: 'asker',
  version,
  depends: 'debconf, ucf',
  files: { '/usr/share/asker/asker.conf': text },
  control: {
    templates: `Template: asker/colour-${version}\nType: select\nChoices: red, green\nDefault: green\nDescription: Which colour?\n It can not be guessed.\n`,
    config: `#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_input critical asker/colour-${version} || true\ndb_go || true\n`,
  },
  postinst: `. /usr/share/debconf/confmodule
db_get asker/colour-${version}
echo "the colour is $RET" >&2
ucf --debconf-ok /usr/share/asker/asker.conf /etc/asker.conf`,
})

group({
  what: '[HST-53] packages that ask and scripts that hang',
  name: 'prod-dal10-prompt1-worker-1',
  extra: USUAL,
  config: '\n[limits]\nquiet = 2\n',
  installed: [hello('1.0'), asker('1.0', 'shade = dark\n')],
  scenarios: [
    [
      '[HST-53] a debconf question at the highest priority and a file of ucf edited on the machine',
      async (t, given) => {
        const { site, host, build, version } = given
        await host.must(['debconf-set-selections'], { input: 'debconf debconf/frontend select Readline\n' })
        await host.write('/etc/asker.conf', 'shade = my own\n')
        await publishBuild(site, build, [asker(version, 'shade = light\n')])
        const change = await startPatch(site, build, [host.name])
        const machine = await succeeds(t, given, change, 'asker')
        t.match(await logLines(given, change), /^the colour is green$/m, 'the default was taken')
        t.equal(await host.read('/etc/asker.conf'), 'shade = my own\n', 'the machine’s own is kept')
        t.equal(await host.read('/etc/asker.conf.ucf-dist'), 'shade = light\n')
        t.match(machine.evidence.join('\n'), /\/etc\/asker\.conf\.ucf-dist/)
      },
    ],
    [
      '[HST-54] a script that hangs is shown and left alone, and its end by a person’s hand is told as it was',
      async (t, given) => {
        const { site, host, build, version } = given
        const file = `/var/tmp/hang-${build}`
        await publishBuild(site, build, [hello(version, { behaviours: [{ type: 'hang', file }] })])
        const change = await startPatch(site, build, [host.name])
        const gate = gateOn(host, file)
        const script = await gate.reached()
        const started = await startedOn(host, script)
        const says = new RegExp(`no output for [0-9]+ s; at work: .*\\b${script} \\(.*hello\\.postinst`)
        await untilSaid(given, change, says)
        const status = await untilStatus(site, change, 'the silence', (one) =>
          says.test(machineIn(one, host.name).progress ?? ''),
        )
        t.equal(machineIn(status, host.name).state, 'running', describeStatus(status))
        t.match(
          (await site.smith('status', change)).stdout,
          new RegExp(`Now: ${host.name} install .* at work: .*\\b${script} `),
        )
        const folder = t.testdir()
        t.equal((await site.smith('report', host.name, '--output', folder)).status, 0)
        const report = (name: string) => readFileSync(`${folder}/${host.name}/${name}`, 'utf8')
        t.match(report('SUMMARY.md'), /: a run is at work, at install\n/)
        t.match(report('processes.txt'), /hello\.postinst/, 'a report in the middle of it shows what hangs')
        t.equal(await startedOn(host, script), started, 'nothing ends it')
        // As docs/OPERATIONS.md says, once a person knows that it will not end by itself.
        await host.must(['kill', '-9', String(script)])
        const machine = await failsFor(t, given, change, 'maintainer-script', /killed by signal/)
        t.match(machine.evidence.join('\n'), /hello/)
        const [order] = await ordersOf(site, change)
        if (order !== undefined) await checkLog(t, site, order)
        await gate.open()
        await retrySucceeds(t, given, change)
      },
    ],
  ],
})

/** A service of its own program, which each install replaces: what runs is then old code. */
const ticker: PackageSpec = {
  name: 'ticker',
  version: '1.0',
  files: {
    '/usr/lib/systemd/system/ticker.service':
      '[Service]\nExecStart=/usr/lib/ticker/ticker infinity\n[Install]\nWantedBy=multi-user.target\n',
    '/usr/lib/ticker/README': 'ticks\n',
  },
  postinst: 'cp /bin/sleep /usr/lib/ticker/ticker; systemctl enable --now ticker.service',
}
/** As an upgrade of a library does: the same content in another file. */
const RENEW = `for file in /usr/lib/ticker/ticker /usr/lib/*/libstdc++.so.6.0.*; do
  cp --preserve=all "$file" "$file.renewed" && mv "$file.renewed" "$file"
done`
const AGENT = 'agent/main.mjs run'
const RUNNER = 'runner/main.mjs'

/** Process and start of a program that must be there once. */
async function identityOf(host: Host, text: string): Promise<string> {
  const pids = await pidsOn(host, text)
  const [pid] = pids
  if (pid === undefined || pids.length > 1) throw new Error(`${pids.length} processes of ${text} on ${host.name}`)
  return `${pid} ${await startedOn(host, pid)}`
}

group({
  what: '[HST-55] needrestart and logrotate at work on the machine',
  name: 'prod-dal10-restart1-worker-1',
  extra: USUAL,
  files: { '/etc/needrestart/conf.d/50-automatic.conf': "$nrconf{restart} = 'a';\n" },
  config: '\n[limits]\nlock_wait = 300\n',
  installed: [hello('1.0'), lamp('1.0'), ticker],
  scenarios: [
    [
      '[HST-55] needrestart, automatic, restarts nothing in a run, and what is to be restarted is told',
      async (t, given) => {
        const { site, host, build, version } = given
        const file = `/var/tmp/gate-${build}`
        await publishBuild(site, build, [hello(version, { postinst: RENEW, behaviours: [{ type: 'gate', file }] })])
        const change = await startPatch(site, build, [host.name])
        const gate = gateOn(host, file)
        await gate.reached()
        const before = await Promise.all([AGENT, RUNNER, 'ticker/ticker'].map((text) => identityOf(host, text)))
        await gate.open()
        const machine = await succeeds(t, given, change)
        t.same(await Promise.all([AGENT, 'ticker/ticker'].map((text) => identityOf(host, text))), [
          before[0],
          before[2],
        ])
        const advice = machine.advice.join('\n')
        t.match(advice, /systemctl restart .*ticker\.service/)
        t.notMatch(advice, /smith-run/, 'the runner ends by itself')
      },
    ],
    [
      '[HST-55] needrestart, automatic, after a person’s own apt, spares the agent and the run that waits',
      async (t, given) => {
        const { site, host, build, version } = given
        const file = `/var/tmp/gate-${build}`
        const own = await site.build(lamp(version, { postinst: RENEW, behaviours: [{ type: 'gate', file }] }))
        await host.copyIn(own.path, '/var/tmp/lamp.deb')
        await publishBuild(site, build, [hello(version)])
        const gate = gateOn(host, file)
        const change = await approvedFrozen(given, async () => {
          await host.must(['systemd-run', '--unit=by-hand', 'apt-get', 'install', '--yes', '/var/tmp/lamp.deb'])
          await gate.reached()
        })
        await untilSaid(given, change, /waiting: process [0-9]+ \(.*\) of by-hand\.service/)
        const before = await Promise.all([AGENT, RUNNER, 'ticker/ticker'].map((text) => identityOf(host, text)))
        await gate.open()
        await until(
          'needrestart to have acted',
          async () => (await identityOf(host, 'ticker/ticker').catch(() => before[2])) !== before[2],
        )
        t.equal(await identityOf(host, AGENT), before[0], 'the agent is not restarted')
        await succeeds(t, given, change)
        t.notMatch(await host.journal('smith-run'), /Stopp|Main process exited/, 'nor is the runner')
      },
    ],
    [
      '[HST-58] the log that people read is rotated in mid-install, and nothing is lost',
      async (t, given) => {
        const { site, host, build, version } = given
        const file = `/var/tmp/gate-${build}`
        const chatty = { type: 'chatty', lines: 50 } as const
        await publishBuild(site, build, [hello(version, { behaviours: [chatty, { type: 'gate', file }, chatty] })])
        const change = await startPatch(site, build, [host.name])
        const gate = gateOn(host, file)
        await gate.reached()
        await until('the lines before', async () => (await host.read('/opt/smith-agent.log')).includes('line 50 of 50'))
        const told = await host.must(['logrotate', '--force', '/etc/logrotate.d/smith-agent'])
        t.equal(told, '', 'it has nothing to say against the rule')
        await gate.open()
        await succeeds(t, given, change)
        const [order] = await ordersOf(site, change)
        const mine = (text: string) => text.split('\n').filter((line) => line.includes(order?.order ?? '?'))
        const [old, fresh] = await Promise.all(['.1', ''].map((end) => host.read(`/opt/smith-agent.log${end}`)))
        t.equal(mine(old ?? '').filter((line) => /hello: line [0-9]+ of 50/.test(line)).length, 50)
        t.equal(mine(fresh ?? '').filter((line) => /hello: line [0-9]+ of 50/.test(line)).length, 50)
        t.match(mine(fresh ?? '').at(-1), /== succeeded/)
        t.equal((await host.must(['stat', '-c', '%a %U:%G', '/opt/smith-agent.log'])).trim(), '644 root:root')
      },
    ],
  ],
})
