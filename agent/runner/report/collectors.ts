/**
 * What a health report is made of: the fixed list. Nothing that comes over the wire enters it; the names of packages
 * and units in it come from root's own files and from systemd. Every program here only looks: none takes a lock of
 * apt or dpkg, none writes (apt-cache would otherwise renew its cache).
 */
import { join } from 'node:path'
import type { AgentConfig } from '../../config.ts'
import { auditArgv, type AptTarget, aptFoldersOf, pathOn } from '../../apt/command.ts'
import type { Layout } from '../../disk/layout.ts'
import type { Disk } from '../../disk/disk.ts'
import type { Looks } from './looks.ts'
import type { NewestRun } from './newest-run.ts'
import { logOfRuns, stepsOf } from './records.ts'
import type { Source } from './sources.ts'

export type About = {
  readonly config: AgentConfig
  readonly layout: Layout
  readonly target: AptTarget
  readonly disk: Disk
  readonly newest: NewestRun | null
  /** What is looked at once, for the files and for the findings. */
  readonly looks: Looks
}
/** One file of the report; `what` is its line in SUMMARY.md. */
export type Collector = { readonly name: string; readonly what: string; readonly sources: readonly Source[] }

const SMITH_UNITS = [
  'smith-agent.service',
  'smith-run.path',
  'smith-run.service',
  'smith-report.path',
  'smith-report.service',
]

/** Those that explain most stand first, because what comes last is cut when the report becomes too large. */
export function collectorsFor(about: About): Collector[] {
  return [
    ...ofTheRun(about),
    ...ofPackages(about),
    ...ofTheMachine(about),
    ...ofItsBoots(about),
    ...ofTheNetwork(about),
    ...ofSmith(about),
  ]
}

const command = (...argv: string[]): Source => ({ kind: 'command', argv })
const file = (path: string): Source => ({ kind: 'file', path })

function ofTheRun({ config, newest, target, disk }: About): Collector[] {
  const on = (path: string) => file(pathOn(target, path))
  const ofOrder = newest?.files
  return [
    {
      name: 'run-output.log',
      what: 'all that the newest run printed',
      sources: ofOrder === undefined ? [] : [file(ofOrder.output)],
    },
    {
      name: 'run.txt',
      what: 'the newest run: its end, its wrapper, its steps, notes and result',
      sources:
        ofOrder === undefined
          ? []
          : [
              ...[ofOrder.exit, ofOrder.wrapperLog, ofOrder.reboot].map((path) => file(path)),
              { kind: 'text', title: 'its steps', make: () => stepsOf(disk, ofOrder) },
            ],
    },
    {
      name: 'smith-agent.log',
      what: `${config.logFile}, the log of runs on the machine`,
      sources: [{ kind: 'text', title: config.logFile, make: () => logOfRuns(disk, config.logFile) }],
    },
    { name: 'apt-history.log', what: "apt's own history", sources: [on('/var/log/apt/history.log')] },
    { name: 'apt-term.log', what: 'what dpkg printed under apt', sources: [on('/var/log/apt/term.log')] },
    { name: 'dpkg.log', what: 'what dpkg did to each package', sources: [on('/var/log/dpkg.log')] },
  ]
}

function ofPackages({ config, target, newest, looks }: About): Collector[] {
  const apt = (path: string) => pathOn(target, `/etc/apt/${path}`)
  const folders = newest === null ? null : aptFoldersOf(newest.files.apt)
  const names = looks.packagesInQuestion
  const cache = ['-o', 'Dir::Cache::pkgcache=', '-o', 'Dir::Cache::srcpkgcache=']
  return [
    {
      name: 'dpkg-audit.txt',
      what: 'packages that are half installed, with what their scripts said last',
      sources: [
        { kind: 'command', argv: auditArgv(target) },
        { kind: 'text', title: 'states other than installed', make: () => looks.unfinishedText },
        { kind: 'text', title: 'what their scripts said last', make: () => looks.scriptsText },
      ],
    },
    {
      name: 'apt-policy.txt',
      what: 'where the packages of the newest run could come from',
      sources:
        names.length === 0
          ? []
          : [
              ...(folders === null
                ? []
                : [command('apt-cache', '-c', folders.config, ...cache, 'policy', '--', ...names)]),
              command('apt-cache', ...cache, 'policy', '--', ...names),
            ],
    },
    {
      name: 'apt-holds.txt',
      what: 'apt holds and pins',
      sources: [
        { kind: 'text', title: 'held packages', make: () => looks.held.join('\n') },
        file(apt('preferences')),
        { kind: 'folder', path: apt('preferences.d'), named: /./ },
      ],
    },
    {
      name: 'apt-sources.txt',
      what: 'sources in force, and the configuration of apt',
      sources: [
        { kind: 'folder', path: config.reposDir, named: /\.sources(?:\.in)?$/ },
        file(apt('sources.list')),
        { kind: 'folder', path: apt('sources.list.d'), named: /\.(?:list|sources)$/ },
        command('apt-config', 'dump'),
      ],
    },
    {
      name: 'apt-releases.txt',
      what: 'the date and the end of each Release file',
      sources: [{ kind: 'text', title: 'Release files', make: () => looks.releasesText }],
    },
    {
      name: 'conffiles.txt',
      what: 'configuration files that were kept, with the version of the package beside them',
      sources: [{ kind: 'text', title: 'left beside them', make: () => looks.debt.join('\n') }],
    },
    {
      name: 'locks.txt',
      what: 'the locks of apt, dpkg and smith, and who holds them',
      sources: [{ kind: 'text', title: 'locks', make: () => looks.locksText }, command('cat', '/proc/locks')],
    },
  ]
}

function ofTheMachine({ looks }: About): Collector[] {
  return [
    {
      name: 'filesystems.txt',
      what: 'space and inodes of the local file systems, and what is in /boot',
      sources: [
        command('df', '-lhT'),
        command('df', '-li'),
        command('ls', '-la', '/boot'),
        command('cat', '/proc/self/mounts'),
      ],
    },
    {
      name: 'memory.txt',
      what: 'memory, swap, and what the kernel killed for want of it',
      sources: [
        command('cat', '/proc/meminfo'),
        command('cat', '/proc/swaps', '/proc/pressure/memory'),
        { kind: 'text', title: 'killed for want of memory, this boot', make: () => looks.oomText },
      ],
    },
    {
      name: 'processes.txt',
      what: 'what runs now',
      sources: [command('ps', '-eo', 'pid,ppid,user,stat,etimes,rss,args')],
    },
    {
      name: 'failed-units.txt',
      what: 'units that have failed, each with its last lines',
      sources: [
        command('systemctl', 'list-units', '--failed', '--no-pager', '--plain'),
        ...looks.failedUnits.slice(0, 20).map((unit) => journalOf(40, unit)),
      ],
    },
  ]
}

function ofItsBoots({ looks, target }: About): Collector[] {
  return [
    {
      name: 'kernel.txt',
      what: 'the running kernel, those installed, and whether a reboot is due',
      sources: [
        command('uname', '-a'),
        { kind: 'text', title: 'kernels', make: () => looks.kernelText },
        file(pathOn(target, '/run/reboot-required')),
        file(pathOn(target, '/run/reboot-required.pkgs')),
        journal('-k', '-b', '-p', 'warning', '-n', '300'),
      ],
    },
    {
      name: 'reboots.txt',
      what: 'the last boots, and how each ended',
      sources: [
        command('journalctl', '--list-boots', '--no-pager'),
        command('last', '-x', '-n', '30', 'reboot', 'shutdown', 'runlevel'),
        journal('-b', '-1', '-n', '40'),
      ],
    },
    {
      name: 'needrestart.txt',
      what: 'services that still run what was replaced',
      // Without its look into interpreters: that one has run code of whoever's process it looked at (CVE-2024-48990),
      // and what asks for a report is not root.
      sources: [
        {
          kind: 'command',
          argv: ['sh', '-c', "echo '$nrconf{interpscan} = 0;' | needrestart -c /dev/stdin -b -r l"],
          timeMs: 30_000,
        },
      ],
    },
    {
      name: 'clock.txt',
      what: 'the clock and how it is kept right',
      sources: [
        command('date', '-u'),
        command('timedatectl', 'show'),
        command('timedatectl', 'timesync-status'),
        command('chronyc', '-n', 'tracking'),
      ],
    },
  ]
}

function ofTheNetwork({ looks }: About): Collector[] {
  return [
    {
      name: 'network.txt',
      what: 'resolver, addresses and routes',
      sources: [
        command('cat', '/etc/resolv.conf'),
        command('cat', '/etc/hosts'),
        command('ip', 'address'),
        command('ip', 'route', 'show', 'table', 'all'),
      ],
    },
    {
      name: 'connections.txt',
      what: 'a connection tried to the coordinator and straight to each archive',
      sources: [{ kind: 'text', title: 'connections', make: () => looks.connectionsText() }],
    },
  ]
}

function journalOf(lines: number, ...units: string[]): Source {
  return journal('-o', 'short-iso', '-n', String(lines), ...units.flatMap((unit) => ['-u', unit]))
}

/** It prints the oldest first, and what is newest matters. */
function journal(...args: string[]): Source {
  return { kind: 'command', argv: ['journalctl', '--no-pager', ...args], keeps: 'end' }
}

function ofSmith({ config, layout }: About): Collector[] {
  return [
    {
      name: 'smith-units.txt',
      what: "smith's own units, their configuration and their journal",
      sources: [
        command('systemctl', 'status', '--no-pager', '--full', '-n', '0', ...SMITH_UNITS),
        file(config.file),
        file(join(layout.run, 'last-run.json')),
        journalOf(500, ...SMITH_UNITS),
      ],
    },
  ]
}
