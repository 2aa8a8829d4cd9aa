/**
 * What a health report looks at once, for its files and for its findings alike. Reads only; whatever can't be looked
 * at is empty here, and the file that shows it says why.
 */
import { join } from 'node:path'
import type { Plan } from '../../../protocol/plan.ts'
import type { AgentConfig } from '../../config.ts'
import { type AptTarget, aptFoldersOf, pathOn } from '../../apt/command.ts'
import { visible } from '../../apt/diagnosis.ts'
import type { LockHolder } from '../../apt/kernel.ts'
import {
  type PackageState,
  interruptedStateOf,
  parseDpkgStatus,
  parseListName,
  parseRelease,
  parseStanzas,
} from '../../apt/parsers.ts'
import { dpkgStatusText, isJournalLeft } from '../../apt/planning.ts'
import { dpkgLocksOf, holderText, readOnlyPaths } from '../../apt/preflight.ts'
import { isRebootDue, newestKernel } from '../../apt/reboot.ts'
import { parseUnits, unitsArgv } from '../../apt/units.ts'
import { listNames, readIfExists } from '../../disk/disk.ts'
import { readGrantKeys } from '../../disk/grant-key.ts'
import type { Layout } from '../../disk/layout.ts'
import { conffileDebt } from '../conffiles.ts'
import type { Connected, RunnerPorts } from '../ports.ts'
import type { NewestRun } from './newest-run.ts'
import { endOf, leftOut, outputOf, type SourcePorts } from './sources.ts'

export type ReleaseFile = {
  /** Of the lists that the newest run had; apt's own on the machine are renewed by nobody who has to. */
  readonly isOfRun: boolean
  readonly what: string
  readonly dateAt: number | null
  readonly validUntilAt: number | null
}
export type Space = { readonly path: string; readonly freeBytes: number; readonly freeInodes: number | null }
export type Looks = {
  readonly unfinished: readonly PackageState[]
  readonly isJournalLeft: boolean
  readonly unfinishedText: string
  readonly scriptsText: string
  readonly packagesInQuestion: readonly string[]
  readonly held: readonly string[]
  readonly releases: readonly ReleaseFile[]
  readonly releasesText: string
  readonly debt: readonly string[]
  readonly holders: readonly (readonly [path: string, holder: LockHolder])[]
  readonly locksText: string
  readonly oomText: string
  readonly failedUnits: readonly string[]
  readonly rebootDue: boolean
  readonly kernelText: string
  readonly spaces: readonly Space[]
  readonly readOnly: readonly string[]
  readonly isClockKept: boolean | null
  /** apt goes to archives by a proxy, so that a connection straight to one says nothing. */
  readonly isProxied: boolean
  readonly connections: readonly Tried[]
  readonly connectionsText: () => string
}
export type Tried = Connected & { readonly what: string; readonly host: string; readonly isCoordinator: boolean }

export type LookPorts = Pick<RunnerPorts, 'disk' | 'now' | 'machine' | 'lockHolder' | 'connect'>
export type LookAbout = {
  readonly ports: LookPorts
  readonly sources: SourcePorts
  readonly config: AgentConfig
  readonly layout: Layout
  readonly target: AptTarget
  readonly newest: NewestRun | null
}

const ASKED_BYTES_MAX = 1_048_576
const NAMES_MAX = 60
const CONNECT_MS_MAX = 5000
const HOSTS_MAX = 12
/** A proxy, or a program that finds one. */
const PROXY = /^Acquire::(?:https?::)?(?:\S*::)?Proxy(?:-Auto-Detect)?=(?!DIRECT$).+/i
const OOM = /out of memory|oom-kill|Killed process/i

export async function look(about: LookAbout): Promise<Looks> {
  const { ports, sources, target, config, newest } = about
  const { disk, machine } = ports
  const isReal = target.root === null
  const ask = (argv: string[], only?: RegExp, keeps?: 'end') => {
    const given = { ...(only === undefined ? {} : { only }), ...(keeps === undefined ? {} : { keeps }) }
    return outputOf(sources, { kind: 'command', argv, ...given }, ASKED_BYTES_MAX)
  }
  const [units, oomText, clock, proxies, connections] = await Promise.all([
    isReal ? ask(unitsArgv([])) : '',
    isReal ? ask(['journalctl', '-k', '-b', '-n', '20000', '--no-pager'], OOM, 'end') : '',
    isReal ? ask(['timedatectl', 'show', '-p', 'NTPSynchronized']) : '',
    ask(['apt-config', 'dump', '--format', '%F=%v%n', 'Acquire'], PROXY),
    tryConnections(about),
  ])
  const packages = quiet(() => [...parseDpkgStatus(dpkgStatusText(disk, target)).values()], [])
  const unfinished = packages.filter((one) => interruptedStateOf(one.state) !== null)
  const holders = locksOf(about).flatMap((path) => {
    const holder = quiet(() => ports.lockHolder(path), null)
    return holder === null ? [] : [[path, holder] as const]
  })
  const releases = quiet(() => releaseFiles(about), [])
  return {
    unfinished,
    isJournalLeft: quiet(() => isJournalLeft(disk, target), false),
    unfinishedText: unfinished.map((one) => `${one.name}:${one.arch} ${one.version} is ${one.state}`).join('\n'),
    scriptsText: scriptsText(about, unfinished),
    packagesInQuestion: packagesInQuestion(newest?.plan ?? null, packages, unfinished),
    held: packages.filter((one) => one.isHeld).map((one) => `${one.name}:${one.arch} ${one.version}`),
    releases,
    releasesText: releases
      .map(
        ({ what, dateAt, validUntilAt, isOfRun }) =>
          `${what}: ${timeText(dateAt)} to ${timeText(validUntilAt)}${isOfRun ? '' : " (the machine's own lists, which no run uses)"}`,
      )
      .join('\n'),
    debt: quiet(() => Object.keys(conffileDebt(disk, pathOn(target, '/etc'))).toSorted(), []),
    holders,
    locksText: locksOf(about)
      .map((path) => ({ path, holder: holders.find(([held]) => held === path)?.[1] }))
      .map(({ path, holder }) => `${path}: ${holder === undefined ? 'free' : holderText(holder)}`)
      .join('\n'),
    oomText,
    failedUnits: parseUnits(units)
      .filter((unit) => unit.active === 'failed')
      .map((unit) => unit.id),
    rebootDue: quiet(() => isRebootDue({ disk, machine }, target, config.rebootWhen), false),
    kernelText: `running ${machine.kernel}\nnewest in /boot ${quiet(() => newestKernel({ disk, machine }), null) ?? 'none'}`,
    spaces: spacesOf(about),
    readOnly: readOnlyPaths(machine.textOf('/proc/self/mountinfo') ?? '', target, true),
    isClockKept: clock.includes('NTPSynchronized=') ? clock.includes('NTPSynchronized=yes') : null,
    isProxied: proxies !== '',
    connections,
    connectionsText: () =>
      [
        ...(proxies === '' ? [] : [leftOut('apt reaches archives by a proxy here')]),
        ...connections.map(triedText),
      ].join('\n'),
  }
}

/** A damaged file is shown by the collector of that file; here it has nothing to say. */
function quiet<T>(read: () => T, otherwise: T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof Error) return otherwise
    throw error
  }
}

const timeText = (at: number | null) => (at === null ? 'no limit' : new Date(at).toISOString())

function locksOf({ layout, target }: LookAbout): string[] {
  const apt = ['/var/lib/apt/lists/lock', '/var/cache/apt/archives/lock'].map((path) => pathOn(target, path))
  return [...dpkgLocksOf(target), ...apt, layout.runnerLock]
}

function spacesOf({ ports: { disk }, config, target }: LookAbout): Space[] {
  const paths = ['/', '/usr', '/etc', '/var', '/var/lib/dpkg', '/var/cache/apt', '/boot', '/tmp', '/opt'].map((path) =>
    pathOn(target, path),
  )
  const seen = new Map<string, Space>()
  for (const path of [...paths, config.stateDir]) {
    if (disk.factsOf(path) === null) continue
    const { device, freeBytes, freeInodes } = quiet(() => disk.freeSpace(path), {
      device: '',
      freeBytes: Infinity,
      freeInodes: null,
    })
    if (device !== '' && !seen.has(device)) seen.set(device, { path, freeBytes, freeInodes })
  }
  return [...seen.values()]
}

/** Of the newest run, and of apt's own lists. */
function releaseFiles({ ports: { disk }, target, newest }: LookAbout): ReleaseFile[] {
  const folders = [
    ...(newest === null ? [] : [{ folder: aptFoldersOf(newest.files.apt).lists, isOfRun: true }]),
    { folder: pathOn(target, '/var/lib/apt/lists'), isOfRun: false },
  ]
  return folders.flatMap(({ folder, isOfRun }) =>
    listNames(disk, folder).flatMap((name): ReleaseFile[] => {
      const source = parseListName(name)
      const bytes = source === null ? null : readIfExists(disk, join(folder, name))
      if (source === null || bytes === null) return []
      const { dateAt, validUntilAt } = parseRelease(bytes.toString('utf8'))
      return [{ isOfRun, what: `${source.uri} ${source.suite}`, dateAt, validUntilAt }]
    }),
  )
}

/** Those of the plan that are not as the plan wants them, and those that are half installed. */
function packagesInQuestion(
  plan: Plan | null,
  packages: readonly PackageState[],
  unfinished: readonly PackageState[],
): string[] {
  const installed = new Map(packages.map((one) => [`${one.name}:${one.arch}`, one]))
  const missing = (plan?.installs ?? []).filter((entry) => {
    const is = installed.get(`${entry.name}:${entry.arch}`)
    return is?.version !== entry.version || is.state !== 'installed'
  })
  return [...new Set([...unfinished, ...missing].map((one) => `${one.name}:${one.arch}`))].slice(0, NAMES_MAX)
}

const SCRIPT_BYTES_MAX = 131_072
const SCRIPT_LINES_MAX = 40

/** From where dpkg last began with the package, in the output of the run or in apt's log of terminals. */
function scriptsText({ ports: { disk }, newest, target }: LookAbout, unfinished: readonly PackageState[]): string {
  const paths = [...(newest === null ? [] : [newest.files.output]), pathOn(target, '/var/log/apt/term.log')]
  const texts = paths.map((path) => endOf(disk, path, SCRIPT_BYTES_MAX).split('\n'))
  return unfinished
    .slice(0, 20)
    .map(({ name }) => {
      const begins = (line: string) =>
        /^(?:Setting up|Unpacking|Preparing to unpack|Removing|Processing triggers for) /.test(line) &&
        line.split(/[ :(/_]/).includes(name)
      const lines = texts.find((candidate) => candidate.some(begins))
      const from = lines?.findLastIndex(begins) ?? -1
      const said = lines === undefined ? [leftOut('nothing was found')] : lines.slice(from, from + SCRIPT_LINES_MAX)
      return `--- ${name}\n${said.join('\n')}`
    })
    .join('\n')
}

/** The hosts of the sources in `repos_dir`, and the coordinator; root itself connects to none of them. */
async function tryConnections({ ports, config, layout, newest }: LookAbout): Promise<Tried[]> {
  const { disk } = ports
  const build = newest?.plan?.build
  const uris = listNames(disk, config.reposDir)
    .filter((name) => /\.sources(?:\.in)?$/.test(name))
    .flatMap((name) => quiet(() => parseStanzas(endOf(disk, join(config.reposDir, name), 65_536)), []))
    .flatMap((stanza) => (stanza.get('uris') ?? '').split(/\s+/))
    .map((uri) => (build === undefined ? uri : uri.replaceAll('{build}', build)))
  const own = config.coordinator ?? quiet(() => readGrantKeys(disk, layout)?.coordinator ?? null, null)
  const targets = new Map<string, { url: URL; isCoordinator: boolean }>()
  for (const [text, isCoordinator] of [[own ?? '', true] as const, ...uris.map((uri) => [uri, false] as const)]) {
    const url = URL.canParse(text) ? new URL(text) : null
    if (url !== null && ['http:', 'https:'].includes(url.protocol))
      targets.set(`${url.protocol}//${url.host}`, { url, isCoordinator })
  }
  return Promise.all([...targets].slice(0, HOSTS_MAX).map(([what, to]) => tryOne(ports, what, to)))
}

function tryOne(
  ports: LookPorts,
  what: string,
  { url, isCoordinator }: { readonly url: URL; readonly isCoordinator: boolean },
): Promise<Tried> {
  const isPlain = url.protocol === 'http:'
  const port = url.port === '' ? (isPlain ? 80 : isCoordinator ? 7600 : 443) : Number(url.port)
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  return new Promise((resolve) => {
    ports.connect({ host, port, isPlain }, CONNECT_MS_MAX, (connected) =>
      resolve({ ...connected, what, host, isCoordinator }),
    )
  })
}

export function triedText({ what, how, problem, isCoordinator }: Tried): string {
  return `${isCoordinator ? 'coordinator' : 'archive'} ${visible(what)}: ${how}${problem === null ? '' : ` (${visible(problem)})`}`
}
