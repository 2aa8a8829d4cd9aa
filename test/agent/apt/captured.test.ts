/**
 * Text that apt and dpkg of several releases really printed (captured/README.md), read as smith reads it: the same
 * machine gives the same plan on each, and each failure its one cause.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { DRIFT_MARK, diagnose, type Symptoms } from '../../../agent/apt/diagnosis.ts'
import {
  parseAutomatic,
  parseHistory,
  parseHookInput,
  parseProgress,
  parseRelease,
  parseSimulation,
} from '../../../agent/apt/parsers.ts'
import { isRefusal, makePlan } from '../../../agent/apt/plan.ts'
import { failureOf } from '../../../agent/apt/planning.ts'
import type { ProcessEnd } from '../../../agent/apt/processes.ts'
import type { Plan } from '../../../protocol/plan.ts'

type Section = { readonly end: ProcessEnd; readonly text: string }
type Captured = { readonly release: string; readonly of: (name: string) => Section }

const FOLDER = join(import.meta.dirname, 'captured')
const releases: readonly Captured[] = readdirSync(FOLDER)
  .filter((name) => name.endsWith('.txt'))
  .map((name) => ({ release: name.replace('.txt', ''), of: readCaptured(readFileSync(join(FOLDER, name), 'utf8')) }))

function readCaptured(file: string): Captured['of'] {
  const sections = new Map<string, Section>()
  for (const match of file.matchAll(/^##### (\S+) \((\S+)\).*\n([^]*?)\n(?=##### |$(?![^]))/gm)) {
    const [, name = '', how = '', text = ''] = match
    const [status, signal] = how.startsWith('SIG') ? [null, how] : [how === '-' ? 0 : Number(how), null]
    sections.set(name, { end: { status, signal, timedOut: false, problem: null }, text })
  }
  return (name) => {
    const section = sections.get(name)
    if (section === undefined) throw new Error(`nothing was captured as ${name}`)
    return section
  }
}

function onEach(title: string, body: (t: Test, captured: Captured) => void): void {
  t.test(title, (t) => {
    for (const captured of releases) {
      t.test(captured.release, (t) => {
        body(t, captured)
        t.end()
      })
    }
    t.end()
  })
}

function planOf({ of }: Captured): Plan {
  const made = makePlan({
    build: '725',
    arch: 'amd64',
    simulation: of('simulate-good').text,
    archives: of('show-good').text,
    dpkgStatus: of('status-before').text,
    rebootDue: false,
    releases: [],
    madeAt: 0,
  })
  if (isRefusal(made)) throw new Error(made.message)
  return made.plan
}

onEach('[PLN-8] the same machine gives the same plan, whatever release it runs', (t, captured) => {
  const install = (name: string, arch: string, from: string | null, version: string) => ({ name, arch, from, version })
  const plan = planOf(captured)
  t.match(plan, {
    installs: [
      install('app', 'all', '1.0', '2.0'),
      install('epoch', 'all', '1:1.0~rc1', '1:2.0+b1'),
      install('liba', 'amd64', '1.0', '2.0'),
      install('libnew', 'amd64', null, '1.0'),
      install('phased', 'all', '1.0', '2.0'),
    ],
    removes: [{ name: 'gone', arch: 'all' }],
    repairs: [],
    holds: ['held'],
  })
  for (const other of releases) t.same(plan, planOf(other), other.release)

  // apt before 2.4 passes over zeta, whose new version needs what no archive has; it is counted where it is named.
  const simulated = (name: string) => parseSimulation(captured.of(name).text)
  for (const name of ['simulate-good', 'simulate-nothing']) {
    const { keptBack, counts } = simulated(name)
    t.match(keptBack.join(), /^held(?:,zeta)?$/, name)
    t.equal(counts?.kept, keptBack.length, name)
  }
  t.match(simulated('simulate-nothing'), { actions: [], counts: { upgraded: 0, added: 0, removed: 0 } })
  const phased = simulated('simulate-phased')
  t.match(phased, { counts: { upgraded: 3, added: 1, removed: 1 } })
  t.notOk(phased.actions.some((action) => action.name === 'phased'))
  t.match(simulated('simulate-interrupted'), {
    actions: [{ kind: 'configure', name: 'bad', arch: 'all', version: '2.0' }],
  })
})

/**
 * What ubuntu-pro-client's hooks put into apt's output, which no test host has. It was put together, not captured: from
 * the forms that its documentation shows (on its messages in apt) and, for the place of the counts, from an upgrade of
 * Ubuntu 22.04 that a user showed in public in 2023.
 */
const UBUNTU_PRO = `Calculating upgrade...
The following packages have been kept back:
  held
The following security updates require Ubuntu Pro with 'esm-infra' enabled:
  openssl git-man
Get more security updates through Ubuntu Pro with 'esm-apps' enabled:
  ansible
Learn more about Ubuntu Pro at https://ubuntu.com/pro
#
# *Your Ubuntu Pro subscription has EXPIRED*
# Renew your service at https://ubuntu.com/pro
#
The following upgrades have been deferred due to phasing:
  cloud-init
The following packages will be upgraded:
  app
1 upgraded, 0 newly installed, 0 to remove and 2 not upgraded.
1 not fully installed or removed.
1 standard LTS security update, 29 esm-infra security updates and 8 esm-apps security updates
Inst app [1.0] (2.0 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])
`

t.test('[PLN-8] messages of Ubuntu Pro in the midst of a simulation change nothing of it', (t) => {
  t.match(parseSimulation(UBUNTU_PRO), {
    actions: [{ kind: 'install', name: 'app', arch: 'amd64', from: '1.0', version: '2.0' }],
    counts: { upgraded: 1, added: 0, removed: 0, kept: 2 },
  })
  t.same(parseSimulation(UBUNTU_PRO).keptBack, ['held'])
  t.end()
})

/** The step, the cause, and what its message must say. */
const FAILURES: Readonly<Record<string, readonly [Symptoms['step'], string, RegExp]>> = {
  'update-unknown-key': ['update', 'repo', /NO_PUBKEY [0-9A-F]+|Missing key [0-9A-F]+/],
  'update-expired': ['update', 'clock', /expired/],
  'update-not-yet-valid': ['update', 'clock', /not valid yet|Not live until/],
  'update-unsigned': ['update', 'repo', /is not signed/],
  'update-hash': ['update', 'repo', /Hash Sum mismatch/],
  'update-404': ['update', 'repo', /does not have a Release file/],
  'update-503': ['update', 'fetch', /503 {2}Service Unavailable/],
  'update-garbage': ['update', 'repo', /Clearsigned file isn't valid/],
  'update-stalled': ['update', 'fetch', /timed out/],
  'update-reset': ['update', 'fetch', /Connection (?:failed|reset)|Error reading from server/],
  'update-unresolvable': ['update', 'fetch', /nohost\.invalid/],
  'update-refused': ['update', 'fetch', /127\.0\.0\.1:9/],
  'simulate-unmet': ['replan', 'repo', /dependencies/],
  'simulate-reinstall': ['replan', 'dpkg-interrupted', /solo is half installed/],
  'fetch-hash': ['fetch', 'repo', /Hash Sum mismatch/],
  'fetch-404': ['fetch', 'fetch', /404 {2}Not Found/],
  'fetch-truncated': ['fetch', 'fetch', /Connection|closed|Error reading from server/],
  'fetch-disk': ['fetch', 'disk', /\/var\/lib\/smith\/capture\/cache\/archives/],
  'install-drift': ['install', 'plan-drift', /bad:all=2\.0 would be unpacked/],
  'install-preinst': [
    'install',
    'maintainer-script',
    /(?:pre-installation|preinst) script of bad failed: .*exit status 3/,
  ],
  'install-postinst': [
    'install',
    'maintainer-script',
    /(?:post-installation|postinst) script of bad failed: .*exit status 3/,
  ],
  'install-prerm': ['install', 'maintainer-script', /(?:pre-removal|prerm) script of bad failed: .*exit status 4/],
  'install-script-killed': [
    'install',
    'maintainer-script',
    /(?:post-installation|postinst) script of bad failed: was killed by/,
  ],
  'install-interrupted': ['install', 'dpkg-interrupted', /interrupted/],
  'install-big': ['install', 'disk', /full/],
  'install-read-only': ['install', 'disk', /read-only/],
  'install-locked': ['install', 'lock', /holds the lock of apt or dpkg \(\/var\/lib\/dpkg\/lock-frontend\)/],
  'install-locked-database': ['install', 'lock', /holds the lock of apt or dpkg \(\/var\/lib\/dpkg\//],
  'repair-locked': ['install', 'lock', /process \d+/],
  'repair-postinst': ['install', 'maintainer-script', /(?:post-installation|postinst) script of bad/],
  'dpkg-prompt': ['install', 'conffile', /configuration file/],
}

onEach('[PLN-9] each failure has the same cause, whatever release it is met on', (t, { of }) => {
  for (const [name, [step, cause, message]] of Object.entries(FAILURES)) {
    const { end, text } = of(name)
    t.not(end.status, 0, name)
    const diagnosis = diagnose({ end, output: text, step })
    t.equal(diagnosis.cause, cause, name)
    t.match(diagnosis.message, message, name)
    t.ok(diagnosis.evidence.length > 0, name)
    // apt 3.3 no longer tells who holds a lock when nobody is at a terminal.
    const holder = /held by process (\d+)|with pid (\d+)/.exec(text)
    if (cause === 'lock' && holder !== null) t.match(diagnosis.message, `process ${holder[1] ?? holder[2]}`, name)
  }
  t.match(of('install-drift').text, DRIFT_MARK)
  // Signed before the key ran out: gpgv refuses that, sqv does not.
  const usesSqv = of('update-unknown-key').text.includes('/sqv ')
  const { end, text } = of('update-expired-key')
  t.match(failureOf(end, text, 'update'), usesSqv ? null : { cause: 'repo', message: /EXPKEYSIG/ })
  for (const [name, step] of [
    ['update-good', 'update'],
    ['fetch-good', 'fetch'],
    ['simulate-good', 'replan'],
  ] as const)
    t.equal(failureOf(of(name).end, of(name).text, step), null, name)
})

onEach('[PLN-10] what apt and dpkg keep and tell of a run is read', (t, { of }) => {
  const entriesOf = (name: string) => parseHistory(of(name).text)
  t.match(entriesOf('history-good'), [{ commandLine: /Smith::Order=0123456789abcdef/, ended: true, error: null }])
  t.match(entriesOf('history-postinst'), [{ ended: true, error: /dpkg returned an error code \(1\)/ }])
  t.match(entriesOf('history-dpkg-killed'), [{ ended: true, error: /dpkg (?:exited unexpectedly|received)/ }])
  t.match(entriesOf('history-apt-killed'), [{ ended: false, error: null }])

  const lines = of('status-fd')
    .text.split('\n')
    .filter((line) => /^(?:pm|dl)status:/.test(line))
  const progress = lines.map(parseProgress)
  t.ok(lines.length > 20)
  t.notOk(progress.includes(null))
  t.match(progress.at(-1), { percent: /^9[0-9]|^100$/, label: /^Installed / })

  const hook = parseHookInput(of('hook-input').text)
  const archive = (name: string) => `/var/lib/smith/capture/cache/archives/${name}.deb`
  t.match(
    hook?.filter((one) => ['gone', 'libnew', 'epoch'].includes(one.name)),
    [
      { name: 'gone', oldVersion: '1.0', newVersion: null, action: { kind: 'remove' } },
      {
        name: 'libnew',
        oldVersion: null,
        newVersion: '1.0',
        newArch: 'amd64',
        action: { path: archive('libnew_1.0_amd64') },
      },
      { name: 'epoch', oldVersion: '1:1.0~rc1', action: { kind: 'unpack', path: archive('epoch_1%3a2.0+b1_all') } },
      { name: 'libnew', action: { kind: 'configure' } },
      { name: 'epoch', action: { kind: 'configure' } },
    ],
  )
  t.equal(hook?.length, 11)
  t.same([...parseAutomatic(of('marks').text)], ['libnew:amd64'])
  t.equal(of('showhold').text, 'held\n')
  for (const name of ['audit-good', 'audit-preinst']) t.equal(of(name).text, '', name)
  for (const name of ['audit-postinst', 'audit-dpkg-killed', 'audit-reinstall']) t.match(of(name).text, /\S/, name)
  const about = parseRelease(of('about').text.replace(/^[^]*?\n\n/, ''))
  t.match(about, { suite: /^[a-z]+$/, dateAt: Number, number: null })
})
