/**
 * What may stand in the way of a run, found without changing anything: space, inodes, read-only filesystems, locks,
 * clocks, archives about to expire, failed units, other updaters, the machine's own rules. The agent says it all as
 * warnings with the plan; the runner looks again right before the latch and refuses what would break the run.
 */
import { join } from 'node:path'
import type { Plan } from '../../protocol/plan.ts'
import type { AgentConfig } from '../config.ts'
import { type Disk, listNames, readIfExists } from '../disk/disk.ts'
import { isOpen, nextOpening, rebootObjection, weekTimeOf } from './allow.ts'
import { aptEnvironment, type AptFolders, type AptTarget, pathOn } from './command.ts'
import { visible } from './diagnosis.ts'
import type { LockHolder } from './kernel.ts'
import { parseListName, parseRelease } from './parsers.ts'
import { type Planned, shortList } from './plan.ts'
import { type Processes, type ProcessSpec, runProcess } from './processes.ts'
import { parseUnits, unitsArgv } from './units.ts'

const DAY_MS = 86_400_000
/** apt itself refuses a Release file whose Date is further ahead (Acquire::Max-FutureTime). */
const FUTURE_MS_MAX = 10_000
const EXPIRY_WARNED_MS = 2 * DAY_MS
const ASK_MS_MAX = 10_000

export type Short = {
  readonly paths: readonly string[]
  readonly free: number
  readonly needed: number
  /** The releases of the kernels in /boot, where that is what is short. */
  readonly kernels: readonly string[]
  readonly what: 'bytes' | 'inodes'
}

export type SpaceFacts = {
  readonly disk: Disk
  readonly target: AptTarget
  readonly plan: Plan
  /** What the plan unpacks beyond what it replaces. */
  readonly unpackedBytes: number
  /** What is still to be downloaded, and where to. */
  readonly download: { readonly folder: string; readonly bytes: number }
  readonly marginBytes: number
}

/** The filesystems that dpkg or smith writes to and that have too little left for the plan. */
export function shortages(facts: SpaceFacts): Short[] {
  const { disk, target, plan } = facts
  type Need = { paths: string[]; bytes: number; inodes: number; free: number; freeInodes: number | null }
  const needs = new Map<string, Need>()
  // dpkg unpacks beside the old files before it removes them, so a shrinking upgrade needs room too.
  const largest = plan.installs.reduce((most, entry) => Math.max(most, entry.size * 4), 0)
  const growth = Math.max(0, facts.unpackedBytes) + largest
  // How many files a package has stands in no index; so many are in all but the largest.
  const inodes = plan.installs.reduce((sum, entry) => sum + (entry.from === null ? 2000 : 200), 500)
  const margin = facts.marginBytes
  const kernels = kernelBytes(disk, target, plan)
  const wanted = [
    { path: pathOn(target, '/'), bytes: margin, inodes: 500 },
    { path: pathOn(target, '/usr'), bytes: margin + growth, inodes },
    { path: pathOn(target, '/etc'), bytes: margin, inodes: 500 },
    { path: pathOn(target, '/var/lib/dpkg'), bytes: margin, inodes: 500 },
    { path: pathOn(target, '/tmp'), bytes: 0, inodes: 100 },
    { path: facts.download.folder, bytes: margin + facts.download.bytes, inodes: 100 },
    // A small /boot without a kernel in the plan is nobody's business.
    ...(kernels === 0 ? [] : [{ path: pathOn(target, '/boot'), bytes: kernels, inodes: 10 }]),
  ]
  for (const { path, bytes, inodes: files } of wanted) {
    if (disk.factsOf(path) === null) continue
    const { device, freeBytes, freeInodes } = disk.freeSpace(path)
    const known = needs.get(device) ?? { paths: [], bytes: 0, inodes: 0, free: freeBytes, freeInodes }
    // The margin counts once on each filesystem, what is written counts as often as it is written.
    const sum = known.bytes === 0 || bytes === 0 ? known.bytes + bytes : known.bytes + bytes - Math.min(bytes, margin)
    needs.set(device, { ...known, paths: [...known.paths, path], bytes: sum, inodes: known.inodes + files })
  }
  const boot = pathOn(target, '/boot')
  return [...needs.values()].flatMap((one): Short[] => {
    const { paths } = one
    const short = { paths, kernels: kernels > 0 && paths.includes(boot) ? kernelsIn(disk, boot) : [] }
    return [
      ...(one.free < one.bytes ? [{ ...short, free: one.free, needed: one.bytes, what: 'bytes' } as const] : []),
      ...(one.freeInodes !== null && one.freeInodes < one.inodes
        ? [{ ...short, free: one.freeInodes, needed: one.inodes, what: 'inodes' } as const]
        : []),
    ]
  })
}

export function shortageText(short: Short): string {
  const amount = (value: number) => (short.what === 'inodes' ? `${value} inodes` : `${Math.ceil(value / 1_000_000)} MB`)
  const kernels = short.kernels.length > 0 ? `; kernels there: ${short.kernels.join(', ')}` : ''
  return `${short.paths.join(', ')}: ${amount(short.free)} free, ${amount(short.needed)} needed${kernels}`
}

function kernelsIn(disk: Disk, boot: string): string[] {
  return listNames(disk, boot).flatMap((name) => /^vmlinuz-(.+)$/.exec(name)?.[1] ?? [])
}

/** Each kernel needs room for itself and its initrd, and update-initramfs writes the new one beside the old. */
function kernelBytes(disk: Disk, target: AptTarget, plan: Plan): number {
  const kernels = plan.installs.filter((entry) => /^linux-image-[0-9]/.test(entry.name)).length
  if (kernels === 0) return 0
  const boot = pathOn(target, '/boot')
  const largest = (prefix: string) =>
    listNames(disk, boot)
      .filter((name) => name.startsWith(prefix))
      .reduce((most, name) => Math.max(most, disk.factsOf(join(boot, name))?.size ?? 0), 0)
  const one = largest('vmlinuz-') + largest('initrd.img-')
  return one * (kernels + 1)
}

/** What dpkg writes to and is mounted read-only. */
const WRITTEN = ['/', '/usr', '/etc', '/var', '/boot']

/**
 * Filesystems that can't be written. With `bySuper` only the filesystem's own options count: the sandbox of the
 * agent shows it read-only mounts of what root can write.
 */
export function readOnlyPaths(mountinfo: string, target: AptTarget, bySuper: boolean): string[] {
  // proc_pid_mountinfo(5): fields 5 and 6 are the place and its options; after ` - ` type, source, the super options.
  const mounts = mountinfo.split('\n').flatMap((line) => {
    const [before = '', after = ''] = line.split(' - ')
    const [, , , , place, options] = before.split(' ')
    if (place === undefined || options === undefined) return []
    const all = [...(bySuper ? [] : options.split(',')), ...(after.split(' ')[2] ?? '').split(',')]
    const path = place.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCodePoint(parseInt(octal, 8)))
    return [{ path, isReadOnly: all.includes('ro') }]
  })
  return WRITTEN.map((path) => pathOn(target, path)).filter((path) => {
    const holds = (place: string) => place === '/' || path === place || path.startsWith(`${place}/`)
    // The longest place wins, and of two on the same place the later one lies on top.
    const [mount] = mounts
      .filter((one) => holds(one.path))
      .toReversed()
      .toSorted((a, b) => b.path.length - a.path.length)
    return mount?.isReadOnly === true
  })
}

/** The lock files of dpkg, which every program that changes packages takes. */
export function dpkgLocksOf(target: AptTarget): string[] {
  return ['lock-frontend', 'lock'].map((name) => pathOn(target, `/var/lib/dpkg/${name}`))
}

export function holderText({ pid, command, unit }: LockHolder): string {
  return `process ${pid} (${visible(command)})${unit === null ? '' : ` of ${visible(unit)}`}`
}

/** Waiting is all that can be done, so the advice is how to see what it is at. */
export function holderAdvice({ pid, unit }: LockHolder): string {
  const how = unit === null ? `ps -fp ${pid}` : `systemctl status ${visible(unit)}`
  return `Let that program end (${how}), then retry. Never delete a lock file.`
}

export type PreflightPorts = {
  readonly disk: Disk
  readonly processes: Processes
  readonly machine: {
    readonly textOf: (path: string) => string | null
    readonly lockHolder: (path: string) => LockHolder | null
  }
  readonly now: () => number
}
export type Preflight = {
  readonly config: AgentConfig
  readonly outageMinutes: number
  readonly clockAheadMs: number | null
  readonly target: AptTarget
  readonly folders: AptFolders
  readonly planned: Planned
  readonly timeLimitMs: number
}

/** Everything that a person should know before approving, besides what the plan itself says. */
export async function preflightWarnings(ports: PreflightPorts, about: Preflight): Promise<string[]> {
  const { config, target, planned } = about
  const warnings = shortages({
    disk: ports.disk,
    target,
    plan: planned.plan,
    unpackedBytes: planned.evidence.installedBytesDelta,
    download: { folder: config.stateDir, bytes: planned.evidence.downloadBytes },
    marginBytes: config.limits.freeBytesMin,
  }).map((short) => `too little space: ${shortageText(short)}`)
  const readOnly = readOnlyPaths(ports.machine.textOf('/proc/self/mountinfo') ?? '', target, true)
  if (readOnly.length > 0) warnings.push(`read-only: ${readOnly.join(', ')}`)
  for (const path of dpkgLocksOf(target)) {
    const holder = ports.machine.lockHolder(path)
    if (holder !== null) warnings.push(`${holderText(holder)} holds ${path}`)
  }
  warnings.push(...clockWarnings(about.clockAheadMs))
  warnings.push(...archiveWarnings(ports.disk, about.folders.lists, ports.now()))
  warnings.push(...ruleWarnings(config, planned.plan, about.outageMinutes, ports.now()))
  if (target.root === null) warnings.push(...(await updaterWarnings(ports, about)))
  return warnings.map((text) => text.slice(0, 2000))
}

const SKEW_WARNED_MS = 10_000

/** A clock that is wrong makes archives look expired or not valid yet, and grants too old. */
export function clockWarnings(aheadMs: number | null): string[] {
  if (aheadMs === null || Math.abs(aheadMs) <= SKEW_WARNED_MS) return []
  const seconds = Math.round(Math.abs(aheadMs) / 1000)
  return [
    `this machine's clock is ${seconds} s ${aheadMs > 0 ? 'ahead of' : 'behind'} the coordinator's: mend time synchronisation (timedatectl)`,
  ]
}

/** Archives whose clock and ours disagree, and those that apt will soon refuse. */
export function archiveWarnings(disk: Disk, lists: string, now: number): string[] {
  return listNames(disk, lists).flatMap((name) => {
    const source = parseListName(name)
    const bytes = source === null ? null : readIfExists(disk, join(lists, name))
    if (source === null || bytes === null) return []
    const { dateAt, validUntilAt } = parseRelease(bytes.toString('utf8'))
    const what = `${source.uri} ${source.suite}`
    const ahead = dateAt === null ? 0 : dateAt - now
    const left = validUntilAt === null ? Number.POSITIVE_INFINITY : validUntilAt - now
    return [
      ...(ahead > FUTURE_MS_MAX
        ? [`the Release file of ${what} is dated ${Math.round(ahead / 1000)} s in the future: a clock is wrong`]
        : []),
      ...(left < EXPIRY_WARNED_MS
        ? [`the Release file of ${what} is valid until ${new Date(validUntilAt ?? 0).toISOString()} only`]
        : []),
    ]
  })
}

function ruleWarnings(config: AgentConfig, plan: Plan, outageMinutes: number, now: number): string[] {
  const warnings: string[] = []
  const { windows } = config.allow
  const local = weekTimeOf(now)
  if (!isOpen(windows, local)) {
    const texts = windows.map((one) => one.text).join('; ')
    warnings.push(`runs are allowed here only in ${texts} (local time); the next opens ${nextOpening(windows, local)}`)
  }
  if (plan.rebootDue && outageMinutes === 0) warnings.push('a reboot is due and stays pending with outage:0')
  if (!plan.rebootDue && outageMinutes > 0 && rebootObjection(config) !== null)
    warnings.push(`should a reboot become due it stays pending: ${rebootObjection(config)}`)
  return warnings
}

/** Updaters of Debian and Ubuntu that take apt's lock when they please. */
const UPDATERS = ['apt-daily.service', 'apt-daily-upgrade.service']

async function updaterWarnings(ports: PreflightPorts, about: Preflight): Promise<string[]> {
  const periodic = await ask(ports, about, ['apt-config', 'dump', 'APT::Periodic'])
  return [
    ...(await unitWarnings(ports, about)),
    ...(ports.disk.factsOf('/usr/bin/unattended-upgrade') !== null && isUnattended(periodic ?? '')
      ? ['unattended-upgrades is enabled here and may change packages between approval and run']
      : []),
  ]
}

/** `apt-config dump`: `APT::Periodic::Unattended-Upgrade "1";`. */
function isUnattended(periodic: string): boolean {
  const valueOf = (key: string) => new RegExp(`^APT::Periodic::${key} "(.*)";$`, 'm').exec(periodic)?.[1]
  return (valueOf('Unattended-Upgrade') ?? '0') !== '0' && valueOf('Enable') !== '0'
}

async function unitWarnings(ports: PreflightPorts, about: Preflight): Promise<string[]> {
  if (ports.disk.factsOf('/run/systemd/system') === null) return []
  const printed = await ask(ports, about, unitsArgv([]))
  if (printed === null) return ['systemctl does not answer, so failed units are not known']
  const units = parseUnits(printed)
  const failed = units.filter((unit) => unit.active === 'failed').map((unit) => unit.id)
  const busy = units.filter((unit) => UPDATERS.includes(unit.id) && ['active', 'activating'].includes(unit.active))
  return [
    ...(failed.length > 0 ? [`units have failed already: ${shortList(failed)}`] : []),
    ...busy.map((unit) => `${unit.id} is at work and may hold apt's locks`),
  ]
}

/** What a program of the machine prints; null when it did not end well. */
async function ask(ports: PreflightPorts, about: Preflight, argv: readonly string[]): Promise<string | null> {
  const { folders } = about
  const spec: ProcessSpec = {
    argv,
    environment: aptEnvironment(about.target, null, null),
    folder: '/',
    output: folders.output,
    timeLimitMs: Math.min(about.timeLimitMs, ASK_MS_MAX),
    diesWithUs: true,
  }
  ports.disk.remove(folders.output)
  const end = await runProcess(ports.processes, spec)
  return end.status === 0 ? (readIfExists(ports.disk, folders.output)?.toString('utf8') ?? '') : null
}
