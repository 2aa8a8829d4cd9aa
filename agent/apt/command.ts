/**
 * How apt and dpkg are called: configuration text, argv and environment for a machine or a private package root.
 * Planning and installing get the same options, so that what was simulated is what is done; only folders, locking
 * and the hook differ. Pure.
 * The options stand in a file given with `-c`, which apt reads after the machine's own configuration, because only
 * a file can `#clear` a list and because that order lets smith have the last word.
 */
import { join } from 'node:path'

/** A private package root, or the machine itself when `root` is null. */
export type AptTarget = { readonly root: string | null }

/** The folders of one planning or one run, all of their own so that nothing of the machine's lists is touched. */
export type AptFolders = {
  readonly folder: string
  readonly lists: string
  readonly cache: string
  readonly archives: string
  readonly sources: string
  readonly config: string
  /** Read before the machine's configuration: in a private root it says where that lies. */
  readonly base: string
  /** What apt printed. */
  readonly output: string
  /** Where apt writes down the hook's command. */
  readonly hook: string
}

export function aptFoldersOf(folder: string): AptFolders {
  const cache = join(folder, 'cache')
  return {
    folder,
    lists: join(folder, 'lists'),
    cache,
    archives: join(cache, 'archives'),
    sources: join(folder, 'smith.sources'),
    config: join(folder, 'smith.conf'),
    base: join(folder, 'base.conf'),
    output: join(folder, 'output'),
    hook: join(folder, 'pre-install'),
  }
}

/** Folders that apt wants to find. */
export function foldersToMake(folders: AptFolders): string[] {
  return [folders.folder, join(folders.lists, 'partial'), join(folders.archives, 'partial')]
}

/** A path of the machine, inside its private root when it has one. */
export function pathOn(target: AptTarget, path: string): string {
  return target.root === null ? path : join(target.root, path)
}

export type AptOptions = {
  readonly fetchStallMs: number
  readonly fetchRetriesMax: number
  readonly lockWaitMs: number
  /** False for the unprivileged half, which may not take apt's locks and does not need to. */
  readonly locks: boolean
  /** The order that history.log is tagged with, and the program that checks every archive under apt's own lock. */
  readonly install: { readonly order: string; readonly hook: string } | null
}

/** What `APT_CONFIG` names: read first, it moves a private root's configuration to that root. */
export function baseConfigText(target: AptTarget): string {
  if (target.root === null) return '// The machine itself: nothing to move.\n'
  return [
    `Dir ${quoted(target.root)};`,
    'Dir::Bin::dpkg "/usr/bin/dpkg";',
    `Dir::State::status ${quoted(join(target.root, 'var/lib/dpkg/status'))};`,
    'DPkg::Options {',
    ...dpkgRootOptions(target).map((option) => `  ${quoted(option)};`),
    '};',
    'APT::Sandbox::User "root";',
    '',
  ].join('\n')
}

/** dpkg in a private root neither needs root nor writes to the machine's own log. */
export function dpkgRootOptions(target: AptTarget): string[] {
  if (target.root === null) return []
  return [
    `--root=${target.root}`,
    '--force-not-root',
    '--force-script-chrootless',
    '--force-bad-path',
    `--log=${join(target.root, 'var/log/dpkg.log')}`,
  ]
}

/** Conffiles the administrator changed are kept, others follow the package; dpkg must never ask. */
const CONFFILE_OPTIONS = ['--force-confdef', '--force-confold']

export function aptConfigText(folders: AptFolders, options: AptOptions): string {
  const seconds = (ms: number) => String(Math.max(1, Math.ceil(ms / 1000)))
  const lines = [
    '#clear APT::Update::Pre-Invoke;',
    '#clear APT::Update::Post-Invoke;',
    '#clear APT::Update::Post-Invoke-Success;',
    `Dir::State::lists ${quoted(folders.lists)};`,
    `Dir::Cache ${quoted(folders.cache)};`,
    `Dir::Cache::archives "archives/";`,
    'Dir::Cache::pkgcache "pkgcache.bin";',
    'Dir::Cache::srcpkgcache "srcpkgcache.bin";',
    `Dir::Etc::SourceList ${quoted(folders.sources)};`,
    'Dir::Etc::SourceParts "/dev/null";',
    // Without it a source that can't be reached leaves exit status 0 and yesterday's lists.
    'APT::Update::Error-Mode "any";',
    // Which machine is patched when is smith's business and not that of a percentage.
    'APT::Get::Always-Include-Phased-Updates "true";',
    'Acquire::Languages "none";',
    `Acquire::Retries "${options.fetchRetriesMax}";`,
    `Acquire::http::Timeout "${seconds(options.fetchStallMs)}";`,
    `Acquire::https::Timeout "${seconds(options.fetchStallMs)}";`,
    `DPkg::Lock::Timeout "${seconds(options.lockWaitMs)}";`,
    'DPkg::Use-Pty "0";',
    // Its note that a simulation is none of root's would only puzzle who reads the log of a run by root.
    'APT::Get::Show-User-Simulation-Note "false";',
    ...CONFFILE_OPTIONS.map((option) => `DPkg::Options:: ${quoted(option)};`),
  ]
  if (!options.locks) lines.push('Debug::NoLocking "1";')
  if (options.install !== null) {
    lines.push(
      `Smith::Order ${quoted(options.install.order)};`,
      `DPkg::Pre-Install-Pkgs:: ${quoted(options.install.hook)};`,
      `DPkg::Tools::Options::${options.install.hook}::Version "3";`,
    )
  }
  return `${lines.join('\n')}\n`
}

/** apt's configuration has no escapes inside quotes, so a quote in a path can only be refused. */
function quoted(text: string): string {
  if (/["\n\r]/.test(text))
    throw new Error(`apt can't be given ${JSON.stringify(text)}: it has a quote or a line end in it`)
  return `"${text}"`
}

/**
 * The whole environment of apt, dpkg and the checks: nothing is inherited, every program that would ask is told not
 * to, and needrestart only lists.
 */
export function aptEnvironment(
  target: AptTarget,
  folders: AptFolders | null,
  order: string | null,
): Record<string, string> {
  return {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    LC_ALL: 'C.UTF-8',
    // In a private root, so that no ~/.dpkg.cfg counts there. The planning half may not look into root's.
    HOME: target.root ?? (order === null ? '/nonexistent' : '/root'),
    ...(target.root === null ? {} : { TMPDIR: join(target.root, 'tmp') }),
    DEBIAN_FRONTEND: 'noninteractive',
    DEBIAN_PRIORITY: 'critical',
    APT_LISTCHANGES_FRONTEND: 'none',
    APT_LISTBUGS_FRONTEND: 'none',
    UCF_FORCE_CONFFOLD: '1',
    NEEDRESTART_MODE: 'l',
    NEEDRESTART_SUSPEND: '1',
    ...(folders === null ? {} : { APT_CONFIG: folders.base }),
    ...(order === null ? {} : { SMITH_ORDER: order }),
  }
}

const quiet = ['-q', '-y']
export function updateArgv(folders: AptFolders): string[] {
  return ['apt-get', '-c', folders.config, ...quiet, 'update']
}
export function simulateArgv(folders: AptFolders): string[] {
  return ['apt-get', '-c', folders.config, ...quiet, '-s', 'dist-upgrade']
}
/** `packages` are `name:arch=version`; each has passed the schema, so none can be an option or a pattern. */
export function showArgv(folders: AptFolders, packages: readonly string[]): string[] {
  return ['apt-cache', '-c', folders.config, '--no-all-versions', 'show', '--', ...packages]
}
/** Into folders that nobody shares, so without locks: with them apt refuses while dpkg is interrupted, repair or no. */
export function fetchArgv(folders: AptFolders): string[] {
  return ['apt-get', '-c', folders.config, ...quiet, '-o', 'Debug::NoLocking=1', '-d', 'dist-upgrade']
}
/** `-o Smith::Order` stands on the command line too, because that line is what history.log keeps. */
export function installArgv(folders: AptFolders, order: string, statusFd: number): string[] {
  return [
    'apt-get',
    '-c',
    folders.config,
    ...quiet,
    '-o',
    `Smith::Order=${order}`,
    '-o',
    `APT::Status-Fd=${statusFd}`,
    'dist-upgrade',
  ]
}
export function configureArgv(target: AptTarget): string[] {
  return ['dpkg', ...dpkgRootOptions(target), ...CONFFILE_OPTIONS, '--configure', '-a']
}
export function auditArgv(target: AptTarget): string[] {
  return ['dpkg', ...(target.root === null ? [] : [`--root=${target.root}`]), '--audit']
}
export function architectureArgv(): string[] {
  return ['dpkg', '--print-architecture']
}

/** The name under which apt keeps an archive (apt-pkg/acquire-item.cc, pkgAcqArchive). */
export function archiveNameOf(entry: {
  readonly name: string
  readonly version: string
  readonly arch: string
}): string {
  const escape = (text: string) => text.replaceAll('_', '%5f').replaceAll(':', '%3a')
  return `${escape(entry.name)}_${escape(entry.version)}_${escape(entry.arch)}.deb`
}
