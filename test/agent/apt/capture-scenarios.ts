/**
 * What capture.ts has apt and dpkg meet: the packages of the tree, the suites of the archive, and the scenarios with
 * the very argv that smith uses. Only a person's capture reads this; the tests read what came of it.
 */
import { join } from 'node:path'
import * as command from '../../../agent/apt/command.ts'
import { DRIFT_MARK } from '../../../agent/apt/diagnosis.ts'
import type { Archive } from '../../archive/archive.ts'
import { type BuiltPackage, buildPackage, type PackageSpec } from '../../archive/builder.ts'
import type { Misbehaviour } from '../../archive/server.ts'
import { createSigningKey, type SigningKey } from '../../archive/signing.ts'

export type Scenario = {
  /** `good` when left out. */
  readonly suite?: string
  readonly uri?: string
  readonly key?: SigningKey
  readonly rule?: Misbehaviour
  /** Shell in the tree; the lists were updated before, unless the update is what is captured. */
  readonly before?: string
  /** A small filesystem: its folder and options. */
  readonly tmpfs?: readonly [folder: string, options: string]
  /** A lock file that another process holds meanwhile. */
  readonly locked?: string
  /** Shell that the hook runs. */
  readonly hook?: string
  readonly run: Readonly<Record<string, readonly string[]>>
  /** Files to keep afterwards. */
  readonly files?: Readonly<Record<string, string>>
}

export const ORDER = '0123456789abcdef0123456789abcdef'
export const folders = command.aptFoldersOf('/var/lib/smith/capture')
const target = { root: null }
const MINUTE_MS = 60_000
const ago = (minutes: number) => new Date(Date.now() - minutes * MINUTE_MS)
const staleKey = await createSigningKey({ expiresAt: ago(10) })

const bad = (scripts: Partial<PackageSpec>): PackageSpec => ({ name: 'bad', version: '2.0', ...scripts })
const big: PackageSpec = { name: 'big', version: '2.0', files: { '/opt/big': 'x'.repeat(3_000_000) } }
const INSTALLED: readonly PackageSpec[] = [
  { name: 'app', version: '1.0', conffiles: { '/etc/app.conf': 'first\n' } },
  { name: 'liba', version: '1.0', arch: 'host' },
  { name: 'epoch', version: '1:1.0~rc1' },
  ...['gone', 'held', 'zeta', 'phased', 'solo', 'big'].map((name) => ({ name, version: '1.0' })),
  { name: 'bad', version: '1.0', prerm: '[ ! -e /prerm-fails ] || { echo prerm: no >&2; exit 4; }' },
]
const SUITES: Readonly<Record<string, readonly PackageSpec[]>> = {
  good: [
    { name: 'app', version: '2.0', depends: 'libnew', conflicts: 'gone', conffiles: { '/etc/app.conf': 'second\n' } },
    { name: 'liba', version: '2.0', arch: 'host' },
    { name: 'libnew', version: '1.0', arch: 'host' },
    { name: 'epoch', version: '1:2.0+b1' },
    { name: 'held', version: '2.0' },
    { name: 'zeta', version: '2.0', depends: 'nosuch' },
    { name: 'phased', version: '2.0' },
  ],
  conffile: [{ name: 'app', version: '2.0', conffiles: { '/etc/app.conf': 'second\n' } }],
  big: [big],
  preinst: [bad({ preinst: 'echo preinst: no; exit 3' })],
  postinst: [bad({ postinst: 'echo postinst: no; exit 3' })],
  prerm: [bad({ prerm: 'exit 4', preinst: 'true' })],
  'script-killed': [bad({ postinst: 'kill -9 $$' })],
  'dpkg-killed': [bad({ postinst: '[ -e /once ] || { touch /once; kill -9 $PPID; }' })],
  'apt-killed': [bad({ postinst: '[ -e /once ] || { touch /once; kill -9 "$(cut -d" " -f4 /proc/$PPID/stat)"; }' })],
}

/** Fills the archive; the answer is what the tree has installed before. */
export async function publishAll(archive: Archive, debs: string): Promise<BuiltPackage[]> {
  const publish = async (suite: string, specs: readonly PackageSpec[]) => {
    const packages = await Promise.all(specs.map((spec) => buildPackage(spec, join(debs, suite))))
    // A field of the index alone, and so not in the package.
    const phased = packages.map((one) =>
      one.name === 'phased' ? { ...one, control: `${one.control}Phased-Update-Percentage: 0\n` } : one,
    )
    await archive.publish({ suite, packages: phased, build: '725', date: ago(60) })
  }
  for (const [suite, specs] of Object.entries(SUITES)) await publish(suite, specs)
  for (const suite of ['stranger', 'stale', 'expired', 'future']) await publish(suite, SUITES['preinst'] ?? [])
  await archive.resign('stranger', { date: ago(30), signWith: await createSigningKey({ name: 'a stranger' }) })
  await archive.resign('stale', { date: ago(30), signWith: staleKey })
  await archive.resign('expired', { date: ago(30), validUntil: ago(10) })
  await archive.resign('future', { date: ago(-600) })
  return Promise.all(INSTALLED.map((spec) => buildPackage(spec, join(debs, 'installed'))))
}

const update = command.updateArgv(folders)
const simulate = command.simulateArgv(folders)
const fetchOnly = command.fetchArgv(folders)
const install = command.installArgv(folders, ORDER, 3)
const configure = command.configureArgv(target)
const audit = command.auditArgv(target)
/** Not smith's: what apt says where a percentage decides, which smith's configuration never lets it. */
const phasing = ['-o', 'APT::Get::Always-Include-Phased-Updates=0', '-o', 'APT::Get::Never-Include-Phased-Updates=1']
const shell = (text: string) => ['sh', '-c', text]
/** The stanzas of the test packages alone. */
const status = shell("perl -00 -ne 'print if /^Maintainer: smith/m' /var/lib/dpkg/status")
const shown = ['app:all=2.0', 'epoch:all=1:2.0+b1', 'liba:amd64=2.0', 'libnew:amd64=1.0', 'phased:all=2.0']
const history = '/var/log/apt/history.log'
const statusLine = (name: string, from: string, to: string) =>
  `perl -0pi -e 's/(Package: ${name}\\n(?:.+\\n)*?)${from}/$1${to}/' /var/lib/dpkg/status`

const failing = (name: string, more: Partial<Scenario> = {}): Scenario => ({
  suite: name,
  run: { [`install-${name}`]: install, [`audit-${name}`]: audit, [`repair-${name}`]: configure },
  files: { [`history-${name}`]: history },
  ...more,
})
const updating = (name: string, more: Partial<Scenario>): Scenario => ({ ...more, run: { [`update-${name}`]: update } })

export const scenarios: readonly Scenario[] = [
  updating('good', {}),
  updating('unknown-key', { suite: 'stranger' }),
  updating('expired-key', { suite: 'stale', key: staleKey }),
  updating('expired', { suite: 'expired' }),
  updating('not-yet-valid', { suite: 'future' }),
  updating('unsigned', { rule: { kind: 'status', status: 404, path: /InRelease|Release\.gpg/ } }),
  updating('hash', { rule: { kind: 'garbage', path: 'by-hash' } }),
  updating('404', { rule: { kind: 'status', status: 404, path: 'dists' } }),
  updating('503', { rule: { kind: 'status', status: 503, path: 'dists' } }),
  updating('garbage', { rule: { kind: 'garbage', path: 'Release' } }),
  updating('stalled', { rule: { kind: 'stall', path: 'InRelease', afterBytes: 10 } }),
  updating('reset', { rule: { kind: 'reset', path: 'dists' } }),
  updating('unresolvable', { uri: 'http://nohost.invalid' }),
  updating('refused', { uri: 'http://127.0.0.1:9' }),
  {
    // Automatic, since apt 3.2 keeps others back rather than remove what somebody chose.
    before: 'apt-mark hold held; apt-mark auto gone; echo mine > /etc/app.conf',
    run: {
      'simulate-good': simulate,
      'simulate-phased': [...simulate, ...phasing],
      'show-good': command.showArgv(folders, shown),
      showhold: ['apt-mark', 'showhold'],
      'status-before': status,
      'fetch-good': fetchOnly,
      'install-good': install,
      'audit-good': audit,
      'status-after': status,
      'simulate-nothing': simulate,
    },
    files: {
      'history-good': history,
      'status-fd': '/status-fd',
      'hook-input': '/hook-input',
      marks: '/var/lib/apt/extended_states',
    },
  },
  {
    before: statusLine('solo', 'Version: 1.0', 'Version: 1.0\\nDepends: nosuch'),
    run: { 'simulate-unmet': simulate, 'install-unmet': install },
  },
  {
    before: statusLine('solo', 'Status: install ok installed', 'Status: install reinstreq half-installed'),
    run: { 'simulate-reinstall': simulate, 'install-reinstall': install, 'audit-reinstall': audit },
  },
  { suite: 'postinst', rule: { kind: 'garbage', path: '.deb' }, run: { 'fetch-hash': fetchOnly } },
  { suite: 'postinst', rule: { kind: 'status', status: 404, path: '.deb' }, run: { 'fetch-404': fetchOnly } },
  {
    suite: 'postinst',
    rule: { kind: 'truncate', path: '.deb', afterBytes: 100 },
    run: { 'fetch-truncated': fetchOnly },
  },
  { suite: 'big', tmpfs: [folders.archives, 'size=1m'], run: { 'fetch-disk': fetchOnly } },
  {
    suite: 'postinst',
    hook: `echo '${DRIFT_MARK}bad:all=2.0 would be unpacked'; exit 1`,
    run: { 'install-drift': install },
    files: { 'history-drift': history },
  },
  failing('preinst'),
  failing('postinst'),
  failing('prerm', { before: 'touch /prerm-fails' }),
  failing('script-killed'),
  failing('dpkg-killed', {
    run: {
      'install-dpkg-killed': install,
      'audit-dpkg-killed': audit,
      'simulate-interrupted': simulate,
      'fetch-interrupted': fetchOnly,
      'install-interrupted': install,
      'repair-dpkg-killed': configure,
    },
  }),
  failing('apt-killed'),
  failing('big', { tmpfs: ['/opt', 'size=1m'] }),
  { suite: 'big', tmpfs: ['/opt', 'ro'], run: { 'install-read-only': install } },
  { locked: '/var/lib/dpkg/lock-frontend', run: { 'install-locked': install, 'repair-locked': configure } },
  { locked: '/var/lib/dpkg/lock', run: { 'install-locked-database': install } },
  {
    // Not smith's argv, which never lets dpkg ask: for what a package's own dpkg call would print.
    suite: 'conffile',
    before: `echo mine > /etc/app.conf; ${fetchOnly.join(' ')}`,
    run: { 'dpkg-prompt': ['dpkg', '-i', `${folders.archives}/app_2.0_all.deb`] },
  },
]
