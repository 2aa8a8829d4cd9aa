/**
 * Planning with effects: own folders, own lists, `update`, `-s dist-upgrade`, `show`, and from their output a plan.
 * The unprivileged half calls `planOnce`; the runner takes the same steps one by one (`prepareFolders`,
 * `updateSpec`, `simulateSpec`, `showSpec`, `planFrom`) as root. Nothing on the machine changes.
 */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import type { Refusal } from '../../protocol/errors.ts'
import type { AgentConfig } from '../config.ts'
import { rebootObjection } from './allow.ts'
import { isRebootDue } from './reboot.ts'
import { codeOf, type Disk, listNames, readIfExists, writeFileDurably } from '../disk/disk.ts'
import {
  aptConfigText,
  aptEnvironment,
  type AptFolders,
  aptFoldersOf,
  type AptOptions,
  type AptTarget,
  architectureArgv,
  baseConfigText,
  foldersToMake,
  pathOn,
  showArgv,
  simulateArgv,
  updateArgv,
} from './command.ts'
import { type Diagnosis, diagnose } from './diagnosis.ts'
import { type LockHolder, lockHolder, textOf } from './kernel.ts'
import { parseSimulation } from './parsers.ts'
import { archivesOf, isRefusal, makePlan, type Planned } from './plan.ts'
import { dpkgLocksOf, preflightWarnings } from './preflight.ts'
import { type ProcessEnd, type Processes, type ProcessSpec, runProcess } from './processes.ts'
import { keyFilesOf, knownBuilds, releasesIn, sourcesOf, unreadable } from './sources.ts'

/** What of the machine enters a plan besides apt's word; a port, because it reads what belongs to the kernel. */
export type Machine = {
  readonly canRead: (path: string) => boolean
  /** The release of the running kernel, as in `uname -r`. */
  readonly kernel: string
  /** Random at each boot; '' where the kernel does not tell. */
  readonly bootId: string
  /** The text of a file of the kernel's, or of one that a link may lead to; null when there is none. */
  readonly textOf: (path: string) => string | null
  /** Who holds a lock of fcntl(2) or flock(2) on a file; null when nobody does. */
  readonly lockHolder: (path: string) => LockHolder | null
}
export function createRealMachine(): Machine {
  return {
    canRead: (path) => {
      try {
        accessSync(path, constants.R_OK)
        return true
      } catch (error) {
        if (codeOf(error) === 'EACCES' || codeOf(error) === 'ENOENT') return codeOf(error) === 'ENOENT'
        throw error
      }
    },
    kernel: release(),
    bootId: readBootId(),
    textOf,
    lockHolder,
  }
}

function readBootId(): string {
  const path = '/proc/sys/kernel/random/boot_id'
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : ''
}

export type PlanPorts = {
  readonly disk: Disk
  readonly processes: Processes
  readonly machine: Machine
  readonly now: () => number
}
export type PlanRequest = {
  readonly config: AgentConfig
  readonly build: string
  readonly outageMinutes: number
  /** By how much this machine's clock is ahead of the coordinator's; null where that is not known. */
  readonly clockAheadMs: number | null
  /** Its own for each query that may run beside another; kept between queries, so that updates are small. */
  readonly folder: string
}

/** Answers with a plan or the reason why there is none; throws only for a defect. Bounded by `limits.plan`. */
export async function planOnce(ports: PlanPorts, request: PlanRequest): Promise<Planned | Refusal> {
  const { config } = request
  const deadline = ports.now() + config.limits.planMs
  const left = () => Math.max(1, deadline - ports.now())
  const target: AptTarget = { root: config.aptRoot }
  const blocked = unreadableConfiguration(ports, target)
  if (blocked !== null) return blocked
  const folders = aptFoldersOf(request.folder)
  const first = await updateFor(ports, request, folders, request.build, left())
  if (isRefusal(first)) return first
  let build = request.build
  const number = build === 'prod' ? first.number : null
  const known = knownBuilds(ports.disk, config.reposDir)
  if (number !== null && (known.template || known.builds.includes(number))) {
    const second = await updateFor(ports, request, folders, number, left())
    if (isRefusal(second)) return second
    build = number
  }
  const made = await simulateInPeace(ports, config, folders, build, left)
  if (isRefusal(made)) return made
  const objection = rebootObjection(config)
  if (request.outageMinutes > 0 && made.plan.rebootDue && objection !== null) {
    return {
      kind: 'cannot-plan',
      message: `a reboot is due and outage:${request.outageMinutes} asks for it, but ${objection}`,
      remedy: 'Ask with outage:0; the reboot is then reported as pending.',
    }
  }
  const more = await preflightWarnings(ports, { ...request, target, folders, planned: made, timeLimitMs: left() })
  return { ...made, warnings: [...made.warnings, ...more] }
}

async function updateFor(
  ports: PlanPorts,
  { config, clockAheadMs }: PlanRequest,
  folders: AptFolders,
  build: string,
  timeMs: number,
) {
  const blocked = prepareFolders(ports, config, folders, build, { ...planOptions(config), install: null })
  if (blocked !== null) return blocked
  const ran = await capture(ports, folders, {
    ...updateSpec(config, folders),
    timeLimitMs: Math.min(timeMs, config.limits.updateMs),
  })
  const failed = failureOf(ran.end, ran.text, 'update', clockAheadMs)
  if (failed !== null) return refusalOfFailure(`apt-get update from build ${build}`, failed)
  return releasesIn(ports.disk, folders.lists)
}

/**
 * What another program is in the middle of would stand in the plan as a repair, and be drift when that has ended: it
 * is given half of the time that is left.
 */
async function simulateInPeace(
  ports: PlanPorts,
  config: AgentConfig,
  folders: AptFolders,
  build: string,
  left: () => number,
): Promise<Planned | Refusal> {
  const target: AptTarget = { root: config.aptRoot }
  const patience = ports.now() + left() / 2
  for (;;) {
    const wasHeld = isDpkgHeld(ports, target)
    const made = await simulateFor(ports, config, folders, build, left)
    if (isRefusal(made) || made.plan.repairs.length === 0 || ports.now() >= patience) return made
    if (!wasHeld && !isDpkgHeld(ports, target)) return made
    await capture(ports, folders, { ...specOf(config, folders, ['sleep', '1']), timeLimitMs: left() })
  }
}

function isDpkgHeld({ machine }: Pick<PlanPorts, 'machine'>, target: AptTarget): boolean {
  return dpkgLocksOf(target).some((path) => machine.lockHolder(path) !== null)
}

async function simulateFor(
  ports: PlanPorts,
  config: AgentConfig,
  folders: AptFolders,
  build: string,
  left: () => number,
) {
  const target: AptTarget = { root: config.aptRoot }
  const arch = await capture(ports, folders, { ...specOf(config, folders, architectureArgv()), timeLimitMs: left() })
  if (arch.end.status !== 0)
    return refusalOfFailure('dpkg --print-architecture', diagnose({ end: arch.end, output: arch.text, step: 'replan' }))
  const simulated = await capture(ports, folders, { ...simulateSpec(config, folders), timeLimitMs: left() })
  const failed = failureOf(simulated.end, simulated.text, 'replan')
  if (failed !== null) return refusalOfFailure('apt-get -s dist-upgrade', failed)
  const show = showSpec(config, folders, simulated.text)
  let archives = ''
  if (show !== null) {
    const shown = await capture(ports, folders, { ...show, timeLimitMs: left() })
    if (shown.end.status !== 0)
      return refusalOfFailure('apt-cache show', diagnose({ end: shown.end, output: shown.text, step: 'replan' }))
    archives = shown.text
  }
  const printed = { build, arch: architectureIn(arch.text), simulation: simulated.text, archives }
  return planFrom(ports, target, folders, printed, config.rebootWhen)
}

/** The line that is a name of an architecture: dpkg's warnings stand in the same file. */
function architectureIn(text: string): string {
  return text.split('\n').findLast((line) => /^[a-z0-9][a-z0-9-]*$/.test(line)) ?? ''
}

function planOptions(config: AgentConfig): Omit<AptOptions, 'install'> {
  return {
    fetchStallMs: config.limits.fetchStallMs,
    fetchRetriesMax: config.limits.fetchRetriesMax,
    lockWaitMs: config.limits.lockWaitMs,
    locks: false,
  }
}

/** Makes the folders and writes apt's configuration and sources; a refusal when the build is not configured. */
export function prepareFolders(
  ports: Pick<PlanPorts, 'disk' | 'machine'>,
  config: AgentConfig,
  folders: AptFolders,
  build: string,
  options: AptOptions,
): Refusal | null {
  const sources = sourcesOf(ports.disk, config.reposDir, build)
  if (isRefusal(sources)) return sources
  for (const file of keyFilesOf(sources.text)) {
    if (!ports.machine.canRead(file)) return unreadable(file, 'permission denied')
  }
  for (const folder of foldersToMake(folders)) ports.disk.makeFolder(folder, 0o755)
  writeFileDurably(ports.disk, folders.sources, sources.text, { mode: 0o644 })
  writeFileDurably(ports.disk, folders.base, baseConfigText({ root: config.aptRoot }), { mode: 0o644 })
  writeFileDurably(ports.disk, folders.config, aptConfigText(folders, options), { mode: 0o644 })
  return null
}

const PREFERENCE_PATHS = ['etc/apt/apt.conf', 'etc/apt/preferences', 'etc/apt/auth.conf', 'etc/apt/trusted.gpg']
const PREFERENCE_FOLDERS = ['etc/apt/apt.conf.d', 'etc/apt/preferences.d', 'etc/apt/auth.conf.d']

/** apt only warns about configuration that it can't read and then plans something else; smith refuses. */
export function unreadableConfiguration(ports: Pick<PlanPorts, 'disk' | 'machine'>, target: AptTarget): Refusal | null {
  const paths = PREFERENCE_PATHS.map((path) => pathOn(target, `/${path}`))
  for (const path of PREFERENCE_FOLDERS) {
    const folder = pathOn(target, `/${path}`)
    if (!ports.machine.canRead(folder)) return unreadable(folder, 'permission denied')
    paths.push(...listNames(ports.disk, folder).map((name) => join(folder, name)))
  }
  const blocked = paths.find((path) => !ports.machine.canRead(path))
  return blocked === undefined ? null : unreadable(blocked, 'permission denied')
}

function specOf(config: AgentConfig, folders: AptFolders, argv: readonly string[]): ProcessSpec {
  return {
    argv,
    environment: aptEnvironment({ root: config.aptRoot }, folders, null),
    folder: '/',
    output: folders.output,
    timeLimitMs: config.limits.planMs,
    diesWithUs: true,
  }
}
export function updateSpec(config: AgentConfig, folders: AptFolders): ProcessSpec {
  return { ...specOf(config, folders, updateArgv(folders)), timeLimitMs: config.limits.updateMs }
}
export function simulateSpec(config: AgentConfig, folders: AptFolders): ProcessSpec {
  return specOf(config, folders, simulateArgv(folders))
}
/** Null when the simulation installs nothing, since apt-cache then has nothing to show. */
export function showSpec(config: AgentConfig, folders: AptFolders, simulation: string): ProcessSpec | null {
  const packages = archivesOf(parseSimulation(simulation))
  return packages.length === 0 ? null : specOf(config, folders, showArgv(folders, packages))
}

export type Printed = {
  readonly build: string
  readonly arch: string
  readonly simulation: string
  readonly archives: string
}

/** The plan from what was printed and from the machine's own files. */
export function planFrom(
  ports: Pick<PlanPorts, 'disk' | 'machine' | 'now'>,
  target: AptTarget,
  folders: AptFolders,
  printed: Printed,
  rebootWhen: readonly string[],
): Planned | Refusal {
  const warned = /^W: Unable to read (\S+)/m.exec(printed.simulation)?.[1]
  if (warned !== undefined) return unreadable(warned, 'permission denied')
  // While a program changes packages, its journal is in motion and no sign of an interruption.
  const isHeld = isDpkgHeld(ports, target)
  const planned = makePlan({
    ...printed,
    dpkgStatus: isHeld
      ? readMachineFile(ports.disk, target, '/var/lib/dpkg/status')
      : dpkgStatusText(ports.disk, target),
    rebootDue: isRebootDue(ports, target, rebootWhen),
    releases: releasesIn(ports.disk, folders.lists).releases,
    madeAt: ports.now(),
  })
  if (isRefusal(planned) || planned.plan.repairs.length > 0 || isHeld || !isJournalLeft(ports.disk, target))
    return planned
  return { ...planned, warnings: [...planned.warnings, JOURNAL_LEFT] }
}

const JOURNAL_LEFT =
  'dpkg was interrupted here before and apt does nothing until dpkg --configure -a; a run does it first'
const JOURNAL = '/var/lib/dpkg/updates'

/**
 * dpkg notes each change of a package's state in files with numbers for names, which it folds into its status file
 * now and then (dpkg's lib/dpkg/dbmodify.c). They are left when it was killed, and then apt does not read them but
 * refuses to work.
 */
function journalOf(disk: Disk, target: AptTarget): string[] {
  const folder = pathOn(target, JOURNAL)
  return listNames(disk, folder)
    .filter((name) => /^[0-9]+$/.test(name))
    .map((name) => join(folder, name))
}
export function isJournalLeft(disk: Disk, target: AptTarget): boolean {
  return journalOf(disk, target).length > 0
}

/** dpkg's status with its journal after it, so that for each package the newest word stands last. */
export function dpkgStatusText(disk: Disk, target: AptTarget): string {
  const journal = journalOf(disk, target).map((path) => readIfExists(disk, path)?.toString('utf8') ?? '')
  return [readMachineFile(disk, target, '/var/lib/dpkg/status'), ...journal].join('\n\n')
}

/** The text of a file of the machine, '' when there is none. */
export function readMachineFile(disk: Disk, target: AptTarget, path: string): string {
  return readIfExists(disk, pathOn(target, path), 256 * 1024 * 1024)?.toString('utf8') ?? ''
}

/** Runs one program to its end and gives what it alone appended to the output file. */
async function capture(
  ports: PlanPorts,
  folders: AptFolders,
  spec: ProcessSpec,
): Promise<{ end: ProcessEnd; text: string }> {
  ports.disk.remove(folders.output)
  const end = await runProcess(ports.processes, spec)
  return { end, text: readIfExists(ports.disk, folders.output)?.toString('utf8') ?? '' }
}

/** Exit status 0 with a source that could not be fetched is a failure too: apt would go on with old lists. */
export function failureOf(
  end: ProcessEnd,
  output: string,
  step: 'update' | 'replan' | 'fetch',
  clockAheadMs: number | null = null,
): Diagnosis | null {
  const usedOld = step === 'update' && /^W: (Failed to fetch|Some index files failed to download)/m.test(output)
  return end.status === 0 && !usedOld ? null : diagnose({ end, output, step, clockAheadMs })
}

function refusalOfFailure(what: string, diagnosis: Diagnosis): Refusal {
  const lines = diagnosis.evidence.length === 0 ? '' : `: ${diagnosis.evidence.slice(0, 5).join(' | ')}`
  return {
    kind: 'cannot-plan',
    message: `${what} failed (${diagnosis.cause}): ${diagnosis.message}${lines}`.slice(0, 4096),
    subject: diagnosis.cause,
    remedy: (diagnosis.advice[0] ?? `Run ${what} on the machine and see what it says.`).slice(0, 4096),
  }
}
