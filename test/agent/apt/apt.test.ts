/** What apt and dpkg print, read: captured text of apt 2.6.1 and dpkg 1.21.22, and real planning where text is not enough. */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createRealMachine, planOnce } from '../../../agent/apt/planning.ts'
import { memoryKills } from '../../../agent/apt/kernel.ts'
import { clockWarnings } from '../../../agent/apt/preflight.ts'
import { createRealProcesses, type Processes } from '../../../agent/apt/processes.ts'
import { archiveNameOf } from '../../../agent/apt/command.ts'
import { diagnose, type Symptoms, visible } from '../../../agent/apt/diagnosis.ts'
import {
  parseAutomatic,
  parseDpkgStatus,
  parseHistory,
  parseHookInput,
  parseListName,
  parseProgress,
  parseRelease,
  parseSimulation,
} from '../../../agent/apt/parsers.ts'
import { isRefusal, makePlan } from '../../../agent/apt/plan.ts'
import { createMachine } from '../runner/machine.ts'

const SIMULATION = `Reading package lists...
Building dependency tree...
Reading state information...
Calculating upgrade...
The following packages will be REMOVED:
  gone
The following NEW packages will be installed:
  libnew
The following packages have been kept back:
  held zeta
The following packages will be upgraded:
  app doc liba liba:i386
4 upgraded, 1 newly installed, 1 to remove and 2 not upgraded.
1 not fully installed or removed.
Remv gone [1.0] [app:amd64 ]
Inst liba [1.0] (2.0 t:725/prod [amd64]) []
Inst liba:i386 [1.0] (2.0 t:725/prod [i386])
Inst libnew (1.0 Debian:12.5/stable, Debian-Security:12/stable-security [amd64])
Inst app [1:1.0~rc1] (1:2.0+b1 t:725/prod [amd64])
Inst doc [1.0] (2.0 t:725/prod [all])
Conf liba (2.0 t:725/prod [amd64])
Conf old (2.0 t:725/prod [amd64])
`

t.test(
  '[PLN-1] the simulation is read line by line, with architectures, new packages, removals and what is kept back',
  async (t) => {
    const simulation = parseSimulation(SIMULATION)
    t.same(simulation.keptBack, ['held', 'zeta'])
    t.same(simulation.counts, { upgraded: 4, added: 1, removed: 1, kept: 2 })
    t.same(
      simulation.actions.map((one) => [one.kind, one.name, one.arch, one.from, one.version]),
      [
        ['remove', 'gone', null, '1.0', null],
        ['install', 'liba', 'amd64', '1.0', '2.0'],
        ['install', 'liba', 'i386', '1.0', '2.0'],
        ['install', 'libnew', 'amd64', null, '1.0'],
        ['install', 'app', 'amd64', '1:1.0~rc1', '1:2.0+b1'],
        ['install', 'doc', 'all', '1.0', '2.0'],
        ['configure', 'liba', 'amd64', null, '2.0'],
        ['configure', 'old', 'amd64', null, '2.0'],
      ],
    )
  },
)

const inputs = { build: '725', arch: 'amd64', rebootDue: false, releases: [], madeAt: 0 }
const SUMMARY = '1 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n'
const INST = 'Inst app [1.0] (2.0 t:725/prod [amd64])\n'
const STATUS = 'Package: app\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n\n'
const SHOW = `Package: app\nVersion: 2.0\nArchitecture: amd64\nSize: 736\nSHA256: ${'a'.repeat(64)}\n\n`

t.test('[PLN-2] what can not be stated exactly is refused and never left out of a plan', async (t) => {
  const made = makePlan({ ...inputs, simulation: SUMMARY + INST, archives: SHOW, dpkgStatus: STATUS })
  t.match(made, {
    plan: { installs: [{ name: 'app', from: '1.0', version: '2.0', size: 736 }] },
    evidence: { downloadBytes: 736 },
  })
  const refused = (changes: Partial<Parameters<typeof makePlan>[0]>, message: RegExp) => {
    const answer = makePlan({ ...inputs, simulation: SUMMARY + INST, archives: SHOW, dpkgStatus: STATUS, ...changes })
    t.match(answer, { kind: 'cannot-plan', message }, String(message))
  }
  refused({ simulation: INST }, /no summary/)
  refused({ simulation: SUMMARY }, /apt counts 1 upgraded/)
  refused({ archives: '' }, /no SHA-256 for app:amd64=2.0/)
  refused({ archives: SHOW + SHOW.replace('aaaa', 'bbbb') }, /two different archives/)
  refused({ archives: SHOW.replace('Size: 736', 'Size: many') }, /can't be stated: installs.0.size/)
  refused(
    { simulation: `${SUMMARY.replace('0 to remove', '1 to remove')}${INST}Remv gone [1.0]\n` },
    /would remove gone/,
  )
  const broken = STATUS.replace('installed', 'half-configured')
  t.match(makePlan({ ...inputs, simulation: SUMMARY + INST, archives: SHOW, dpkgStatus: broken }), {
    plan: { repairs: [{ name: 'app', state: 'half-configured' }] },
    warnings: [/interrupted here before.*app \(half-configured\)/],
  })
})

t.test('[PLN-3] files of apt and dpkg: status, marks, Release, list names, history, progress, the hook', async (t) => {
  const status = parseDpkgStatus(
    `${STATUS}Package: held\nStatus: hold ok installed\nArchitecture: all\nVersion: 1\nDescription: x\n multi\n .\n line\n`,
  )
  t.match(status.get('held:all'), { isHeld: true, state: 'installed', version: '1' })
  t.match(status.get('app:amd64'), { isHeld: false })
  t.same(
    [
      ...parseAutomatic(
        'Package: liba\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: app\nArchitecture: amd64\nAuto-Installed: 0\n',
      ),
    ],
    ['liba:amd64'],
  )
  const release =
    'Origin: t\nSuite: prod\nVersion: 725\nDate: Sun, 22 Nov 2026 16:58:29 GMT\nSHA256:\n abc 1 main/Packages\n'
  const signed = `-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n${release}-----BEGIN PGP SIGNATURE-----\n\nabc\n`
  for (const text of [release, signed])
    t.same(parseRelease(text), {
      suite: 'prod',
      dateAt: Date.UTC(2026, 10, 22, 16, 58, 29),
      validUntilAt: null,
      number: '725',
    })
  t.equal(parseRelease('Suite: stable\nVersion: 12.5\n').number, null)
  t.equal(parseRelease('Suite: stable\nVersion: 12.5\nBuild: 726\n').number, '726')
  t.same(parseListName('127.0.0.1:9_a%5fb_dists_prod_InRelease'), { uri: '127.0.0.1:9/a_b', suite: 'prod' })
  t.equal(parseListName('x_dists_prod_main_binary-amd64_Packages'), null)
  const history =
    'Start-Date: 2026-11-22  16:59:44\nCommandline: apt-get -o Smith::Order=abc dist-upgrade\nUpgrade: app:amd64 (1.0, 2.0)\nError: Sub-process /usr/bin/dpkg returned an error code (1)\nEnd-Date: 2026-11-22  16:59:44\n\nStart-Date: 2026-11-22  17:00:00\nCommandline: apt-get x\n'
  t.match(parseHistory(history), [
    { ended: true, error: /error code/ },
    { ended: false, error: null },
  ])
  t.same(parseProgress('pmstatus:liba:4.7619:Unpacking liba (amd64)'), {
    percent: 4.7619,
    label: 'Unpacking liba (amd64)',
  })
  t.same(parseProgress('pmstatus:liba:amd64:4.7619:Unpacking liba'), { percent: 4.7619, label: 'Unpacking liba' })
  t.same(parseProgress('dlstatus:1:19.6880:Retrieving file 2 of 5'), {
    percent: 19.688,
    label: 'Retrieving file 2 of 5',
  })
  t.equal(parseProgress('pmerror:old:80.9524:installed old package'), null)
  const hook =
    'VERSION 3\nAPT::Architecture=amd64\n\nliba 1.0 amd64 none < 2.0 amd64 none /a b/liba.deb\nlibnew - - none < 1.0 amd64 none **CONFIGURE**\ngone 1.0 amd64 none > - - none **REMOVE**\n'
  t.match(parseHookInput(hook), [
    { name: 'liba', action: { kind: 'unpack', path: '/a b/liba.deb' } },
    { name: 'libnew', oldVersion: null, action: { kind: 'configure' } },
    { name: 'gone', newVersion: null, action: { kind: 'remove' } },
  ])
  t.equal(parseHookInput('VERSION 2\n\n'), null)
  t.equal(parseHookInput('VERSION 3\n\nwhat\n'), null)
  t.equal(archiveNameOf({ name: 'app', version: '1:2.0_1', arch: 'all' }), 'app_1%3a2.0%5f1_all.deb')
})

const end = { status: 100, signal: null, timedOut: false, problem: null }
const SAMPLES: readonly (readonly [string, Symptoms['step'], string, RegExp])[] = [
  [
    'fetch',
    'update',
    "Err:1 http://nohost.invalid/x prod InRelease\n  Could not resolve 'nohost.invalid'\nW: Failed to fetch http://nohost.invalid/x/dists/prod/InRelease  Could not resolve 'nohost.invalid'\nW: Some index files failed to download. They have been ignored, or old ones used instead.\n",
    /nohost/,
  ],
  [
    'fetch',
    'update',
    'Err:1 http://127.0.0.1:9/x prod InRelease\n  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)\n',
    /127.0.0.1:9/,
  ],
  [
    'repo',
    'install',
    "dpkg: error processing archive /a/web_2.0_all.deb (--unpack):\n trying to overwrite '/usr/share/x', which is also in package app 1.0\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n",
    /same file.*\/usr\/share\/x.*app 1\.0/,
  ],
  ['repo', 'update', "E: The repository 'file:/r nosuch Release' does not have a Release file.\n", /Release file/],
  [
    'repo',
    'update',
    "W: GPG error: file:/r prod InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 86F0144878D25BE4\nE: The repository 'file:/r prod InRelease' is not signed.\n",
    /NO_PUBKEY 86F0/,
  ],
  [
    'repo',
    'fetch',
    'E: Failed to fetch http://h/pool/app_2.0_all.deb  Hash Sum mismatch\n   Hashes of expected file:\n',
    /Hash Sum mismatch/,
  ],
  [
    'clock',
    'update',
    'E: Release file for http://h/dists/prod/InRelease is not valid yet (invalid for another 1h 0min 0s). Updates for this repository will not be applied.\n',
    /not valid yet/,
  ],
  [
    'clock',
    'update',
    'E: Release file for http://h/dists/prod/InRelease is expired (invalid since 3d). Updates for this repository will not be applied.\n',
    /expired/,
  ],
  [
    'lock',
    'install',
    'E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)\nE: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?\n',
    /process 4711 \(unattended-upgr\)/,
  ],
  ['disk', 'install', "E: You don't have enough free space in /var/cache/apt/archives/.\n", /\/var\/cache\/apt/],
  [
    'disk',
    'install',
    "dpkg: error processing archive a.deb (--unpack):\n cannot copy extracted data for './x' to '/x.dpkg-new': failed to write (No space left on device)\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n",
    /full/,
  ],
  [
    'dpkg-interrupted',
    'install',
    "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem. \n",
    /interrupted/,
  ],
  [
    'conffile',
    'install',
    'dpkg: error processing package app (--configure):\n end of file on stdin at conffile prompt\n',
    /configuration file/,
  ],
  [
    'maintainer-script',
    'install',
    'old: cannot do it\ndpkg: error processing package old (--configure):\n installed old package post-installation script subprocess returned error exit status 3\nErrors were encountered while processing:\n old\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n',
    /post-installation script of old failed: returned error exit status 3/,
  ],
  [
    'maintainer-script',
    'install',
    'dpkg: warning: old app package pre-removal script subprocess returned error exit status 4\ndpkg: trying script from the new package instead ...\ndpkg: ... it looks like that went OK\ndpkg: error processing package old (--configure):\n installed old package post-installation script subprocess returned error exit status 3\n',
    /post-installation script of old failed/,
  ],
  [
    'maintainer-script',
    'install',
    'dpkg: error processing archive a.deb (--unpack):\n new app package pre-installation script subprocess was killed by signal (Killed)\n',
    /pre-installation script of app failed: was killed by signal/,
  ],
  [
    'dpkg-interrupted',
    'install',
    'Setting up app (2.0) ...\nE: Sub-process /usr/bin/dpkg exited unexpectedly\n',
    /dpkg exited unexpectedly/,
  ],
  [
    'dpkg-interrupted',
    'install',
    'E: Sub-process /usr/bin/dpkg received a segmentation fault.\n',
    /dpkg received a segmentation fault/,
  ],
  [
    'dpkg-interrupted',
    'install',
    'dpkg-deb (subprocess): decompressing archive\ndpkg: error processing archive a.deb (--unpack):\n dpkg-deb --fsys-tarfile subprocess was killed by signal (Killed)\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n',
    /dpkg-deb --fsys-tarfile was killed by signal \(Killed\)/,
  ],
  [
    'apt-hold',
    'install',
    'E: Held packages were changed and -y was used without --allow-change-held-packages.\n',
    /holds/,
  ],
  [
    'plan-drift',
    'install',
    'smith: not in the approved plan: app:all=3 would be unpacked\nE: Sub-process /x/pre-install returned an error code (1)\nE: Failure running script /x/pre-install\n',
    /app:all=3/,
  ],
  ['internal', 'install', 'Segmentation fault\n', /exit status 100/],
]

t.test('[PLN-4] each failure has its one cause, with the decisive lines quoted and something to try', async (t) => {
  for (const [cause, step, output, message] of SAMPLES) {
    const diagnosis = diagnose({ end, output, step })
    t.equal(diagnosis.cause, cause, output)
    t.match(diagnosis.message, message)
    t.ok(diagnosis.evidence.length > 0, output)
    t.ok(diagnosis.advice.length > 0)
  }
  t.equal(diagnose({ end: { ...end, status: null, timedOut: true }, output: '', step: 'update' }).cause, 'fetch')
  t.equal(
    diagnose({ end: { ...end, status: null, problem: 'spawn ENOENT' }, output: '', step: 'install' }).cause,
    'internal',
  )
  t.match(
    diagnose({
      end,
      output: SAMPLES.find(([, , output]) => output.includes('old: cannot do it'))?.[2] ?? '',
      step: 'install',
    }).evidence[0],
    'old: cannot do it',
  )
  const killed = SAMPLES.find(([, , output]) => output.includes('(Killed)'))?.[2] ?? ''
  t.match(diagnose({ end, output: killed, step: 'install' }).advice.join(), 'want of memory')
  // As after `systemctl kill` of the whole unit.
  const ended = diagnose({ end: { ...end, status: null, signal: 'SIGTERM' }, output: '', step: 'install' })
  t.equal(ended.cause, 'dpkg-interrupted')
  t.match(ended.advice.join(), /retry/i)
  t.equal(visible('a\u001b[31mb\u0000\u202e\tc'), String.raw`a\x1b[31mb\x00\u202e` + '\tc')
})

t.test('[RUN-54] what was killed is named with its killer, and a retry is the advice', async (t) => {
  const killed = { ...end, status: null, signal: 'SIGKILL' }
  const apt = diagnose({ end: killed, output: 'Unpacking app (2.0) ...\n', step: 'install' })
  t.match(apt, { cause: 'dpkg-interrupted', message: 'apt was killed by SIGKILL' })
  t.match(apt.advice.join(), /retry/i)
  t.match(diagnose({ end: killed, output: '', step: 'install', killedForMemory: 1 }), {
    cause: 'dpkg-interrupted',
    message: /the kernel killed 1 process of the run for want of memory/,
    advice: [/memory/, /retry/i],
  })
  const script =
    'dpkg: error processing package old (--configure):\n old package post-installation script subprocess was killed by signal (Killed)\n'
  t.match(diagnose({ end, output: script, step: 'install', killedForMemory: 2 }), {
    cause: 'maintainer-script',
    message: /post-installation script of old failed.*the kernel killed 2 processes/,
  })
  t.notMatch(diagnose({ end, output: script, step: 'install', killedForMemory: 0 }).message, /memory/)
  t.equal(
    diagnose({ end: killed, output: '', step: 'update' }).cause,
    'repo',
    'before the latch nothing is interrupted',
  )
})

t.test('[RUN-54] what the kernel killed for want of memory is counted for the unit of the run alone', (t) => {
  const group = '/machine.slice/x/system.slice/smith-run.service'
  const files: Record<string, string> = {
    '/proc/self/cgroup': `0::${group}\n`,
    [`/sys/fs/cgroup${group}/memory.events`]: 'low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 0\n',
    '/sys/fs/cgroup/user.slice/memory.events': 'oom_kill 5\n',
  }
  const read = (path: string) => files[path] ?? null
  t.equal(memoryKills('smith-run.service', read), 2)
  t.equal(
    memoryKills('smith-run.service', (path) => (path.endsWith('cgroup') ? '0::/user.slice\n' : read(path))),
    0,
  )
  t.equal(
    memoryKills('smith-run.service', () => null),
    0,
  )
  t.end()
})

t.test('[RUN-55] an archive that is stale by a clock that is right is the repository’s fault', async (t) => {
  const at = (output: string, clockAheadMs: number | null) =>
    diagnose({ end, output: `E: Release file for http://h/x/InRelease is ${output}.\n`, step: 'update', clockAheadMs })
  const expired = 'expired (invalid since 3d)'
  const early = 'not valid yet (invalid for another 1h)'
  t.match(at(expired, 100), { cause: 'repo', message: /expired.*clock agrees/, advice: [/signed again/] })
  t.match(at(early, -100), { cause: 'repo', message: /not valid yet/, advice: [/clock of whoever signed/] })
  for (const clockAheadMs of [null, 3_600_000, -3_600_000]) {
    t.equal(at(expired, clockAheadMs).cause, 'clock')
    t.equal(at(early, clockAheadMs).cause, 'clock')
  }
})

t.test(
  '[PLN-5] planning on real apt: prod is resolved to its build, nothing on the machine changes, refusals say why',
  async (t) => {
    const machine = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0' }],
      limits: { fetch_retries: 0, fetch_stall: 1, plan: 30 },
    })
    t.teardown(machine.close)
    const ports = {
      disk: machine.disk,
      processes: await createRealProcesses(),
      machine: createRealMachine(),
      now: () => Date.now(),
    }
    const folder = machine.layout.agentPlanning
    const request = { config: machine.config, build: 'prod', outageMinutes: 0, clockAheadMs: null, folder }
    const planned = await machine.plan()
    t.match(planned, { plan: { build: '725', installs: [{ name: 'app', arch: 'all', version: '2.0' }] }, warnings: [] })
    t.match(planned.evidence.releases, [{ uri: /^127\.0\.0\.1:[0-9]+$/, suite: '725', sha256: /^[0-9a-f]{64}$/ }])
    t.same(machine.disk.list(join(machine.root.root, 'var/lib/apt/lists')), ['partial'])

    // Both ends of a program stand in one file, and dpkg warns on the other one.
    const warns: Processes = {
      start: (spec, onEnd) => {
        if (spec.argv.includes('--print-architecture')) writeFileSync(spec.output, 'dpkg: warning: old options\n')
        ports.processes.start(spec, onEnd)
      },
    }
    t.match(await planOnce({ ...ports, processes: warns }, request), { plan: planned.plan })
    t.match(await planOnce(ports, { ...request, clockAheadMs: -12_000 }), {
      warnings: [/^this machine's clock is 12 s behind the coordinator's/],
    })

    const hidden = join(machine.root.root, 'etc/apt/preferences.d/pin')
    writeFileSync(hidden, 'Package: *\nPin: release a=x\nPin-Priority: 1\n')
    const blind = { ...createRealMachine(), canRead: (path: string) => path !== hidden }
    const refused = await planOnce({ ...ports, machine: blind }, request)
    t.match(refused, { kind: 'cannot-plan', subject: hidden, remedy: /chmod a\+r/ })
    rmSync(hidden)

    const lift = machine.server.misbehave({ kind: 'status', status: 503, path: 'InRelease' })
    const liftRelease = machine.server.misbehave({ kind: 'status', status: 503, path: '/Release' })
    t.match(await planOnce(ports, request), { kind: 'cannot-plan', message: /apt-get update from build prod failed/ })
    lift()
    liftRelease()

    rmSync(join(machine.root.sourcesDir, 'build.sources.in'))
    t.match(await machine.ask('726'), { kind: 'unknown-build', subject: '726' })
    t.match(await planOnce(ports, request), { plan: { build: 'prod' } })
    rmSync(join(machine.root.sourcesDir, 'prod.sources'))
    t.ok(isRefusal(await machine.ask('prod')))
  },
)

t.test('[RUN-56] ten seconds between two clocks are no news, more are a warning', (t) => {
  for (const ms of [null, 0, 10_000, -10_000]) t.same(clockWarnings(ms), [])
  t.match(clockWarnings(10_001), [/clock is 10 s ahead of the coordinator's/])
  t.match(clockWarnings(-3_600_000), [/clock is 3600 s behind the coordinator's/])
  t.end()
})

t.test('[PLN-6] a query that hangs ends within its bound and names the repository', async (t) => {
  const machine = await createMachine({
    installed: [{ name: 'app', version: '1.0' }],
    published: [{ name: 'app', version: '2.0' }],
    limits: { plan: 1.5 },
  })
  t.teardown(machine.close)
  const lift = machine.server.misbehave({ kind: 'stall', path: 'InRelease', afterBytes: 10 })
  t.match(await machine.ask('prod'), { kind: 'cannot-plan', subject: 'fetch' })
  lift()
})
