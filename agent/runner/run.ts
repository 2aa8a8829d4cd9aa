/**
 * One claimed order from its claim to its result: `update, replan, fetch, pre-checks`, then the wrapper with latch
 * and install (install.ts), then `post-checks`, where it is due `reboot` (reboot.ts), and `verify`. Everything that
 * must survive is on disk: a runner that is killed anywhere is started again and goes on from what it finds.
 * Invariant: without a latch nothing on the machine was changed, and the steps begin anew; with one, apt is never
 * started again for this order.
 */
import { join } from 'node:path'
import { createHash } from 'node:crypto'
import type { Step } from '../../protocol/files.ts'
import { driftOf, type Install, isEmptyPlan, type Plan, type PlanEvidence } from '../../protocol/plan.ts'
import { aptFoldersOf, archiveNameOf, fetchArgv } from '../apt/command.ts'
import {
  failureOf,
  isJournalLeft,
  planFrom,
  prepareFolders,
  showSpec,
  simulateSpec,
  unreadableConfiguration,
  updateSpec,
} from '../apt/planning.ts'
import { rebootObjection } from '../apt/allow.ts'
import { diagnose } from '../apt/diagnosis.ts'
import { isRefusal, type Planned } from '../apt/plan.ts'
import { releasesGoneBack, releasesIn } from '../apt/sources.ts'
import { codeOf, type Disk, readIfExists, writeFileDurably } from '../disk/disk.ts'
import { readFate } from '../disk/order-state.ts'
import { filesystemEnding, ruleEnding, runChecks, versionsWrong, waitForLocks } from './checks.ts'
import { readLatch, readTry, takeLatch } from './command-file.ts'
import { keepHealth } from './health-probe.ts'
import { endBefore, resumeInstall, startInstall } from './install.ts'
import { type Ending, endOrder, failed, failedFor, openOrder, type Order, type Run, runStep } from './order.ts'
import type { Programs, RunnerContext } from './ports.ts'
import { readReboot, resumeReboot, startReboot } from './reboot.ts'

/** Takes a claimed order to its result; `done` is called when that is on disk. */
export function runOrder(context: RunnerContext, programs: Programs, id: string, done: () => void): void {
  const order = openOrder(context, id)
  if (order.records.result() !== null) return done()
  noteBoot(order)
  const run: Run = { order, programs, done }
  const latch = readLatch(context.ports.disk, order.files)
  if (latch?.by === 'runner') {
    endOrder(order, latch.ending as Ending, false)
    return done()
  }
  const reboot = readReboot(context.ports.disk, order.files)
  if (reboot !== null) return resumeReboot(run, reboot)
  if (latch?.by === 'wrapper') return resumeInstall(run)
  if (latch?.by === 'reboot') return startReboot(run, REBOOT_ONLY)
  beginTry(run)
}

const REBOOT_ONLY = 'nothing was to be installed; the reboot that was due is done'
/** A clock that is so far behind the coordinator's is worth a word. */
const SKEW_SAID_MS = 10_000

/** A machine that went down may have lost output that was printed and never synced; the log must say so. */
function noteBoot(order: Order): void {
  const { disk, machine } = order.context.ports
  const before = readIfExists(disk, order.files.boot, 256)?.toString('utf8').trim()
  if (before === machine.bootId) return
  // The run's own reboot loses nothing: all was recorded and acknowledged before it.
  const isOwn = before !== undefined && readReboot(disk, order.files)?.bootId === before
  if (before !== undefined && !isOwn) order.records.powerCut()
  writeFileDurably(disk, order.files.boot, `${machine.bootId}\n`, { mode: 0o640 })
}

/**
 * The number is raised before the lock is looked at, and a wrapper reads it after it has the lock: so a wrapper of
 * an older try either is seen here and waited for, or sees that it is too late.
 */
function beginTry(run: Run): void {
  const { order } = run
  const { disk, processes } = order.context.ports
  const number = readTry(disk, order.files) + 1
  writeFileDurably(disk, order.files.tries, `${number}\n`, { mode: 0o640 })
  // Root's alone: whoever can open it for reading can hold it.
  disk.write(order.files.lock, Buffer.alloc(0), 'append', 0o600)
  if (number === 1) order.records.begin('claim')
  else order.records.note('the runner was started again; nothing is changed yet, the steps begin anew')
  if (number === 1) return admit(run)
  const spec = {
    argv: ['flock', order.files.lock, 'true'],
    environment: {},
    folder: '/',
    output: order.files.wrapperLog,
    timeLimitMs: null,
    diesWithUs: true,
  }
  processes.start(spec, () => {
    if (readLatch(disk, order.files) === null) admit(run)
    else resumeInstall(run)
  })
}

/** What this machine allows at all comes first, before anything is downloaded for the run. */
function admit(run: Run): void {
  const { order } = run
  const refused = ruleEnding(order, 'claim')
  if (refused !== null) return endBefore(run, refused)
  const behindMs = order.payload.issuedAt - order.context.ports.now()
  if (behindMs > SKEW_SAID_MS)
    order.records.note(`this machine's clock is ${Math.round(behindMs / 1000)} s or more behind the coordinator's`)
  update(run)
}

function update(run: Run): void {
  const { order } = run
  const { ports, config } = order.context
  order.records.begin('update')
  const blocked =
    unreadableConfiguration(ports, order.target) ??
    prepareFolders(ports, config, order.folders, order.approved.build, {
      fetchStallMs: config.limits.fetchStallMs,
      fetchRetriesMax: config.limits.fetchRetriesMax,
      lockWaitMs: config.limits.lockWaitMs,
      locks: true,
      install: { order: order.id, hook: writeHook(run) },
    })
  if (blocked !== null) return endBefore(run, failedFor('update', 'repo', blocked.message, [], [blocked.remedy]))
  runStep(order, updateSpec(config, order.folders), (end, printed) => {
    const diagnosis = failureOf(end, printed, 'update', aheadAtClaim(order))
    if (diagnosis !== null) return endBefore(run, failed('update', diagnosis))
    const back = goneBack(order)
    if (back.length > 0) {
      return endBefore(
        run,
        failedFor('update', 'repo', `the repository went back to an older state: ${back.join(', ')}`, back, [
          'A Release file older than one seen before is a mirror that is behind, or an attack; find out which.',
        ]),
      )
    }
    replan(run)
  })
}

/** Between the grant and its claim lies its way here, which makes this machine look ahead, never behind. */
function aheadAtClaim(order: Order): number | null {
  const fate = readFate(order.context.ports.disk, order.files)
  return fate === null ? null : fate.at - order.payload.issuedAt
}

/** apt runs it by this path, which is also the key of its options, so it must be one word. */
function writeHook(run: Run): string {
  const { order, programs } = run
  const { disk } = order.context.ports
  disk.makeFolder(order.folders.folder, 0o755)
  const quote = (text: string) => `'${text.replaceAll("'", String.raw`'\''`)}'`
  const text = `#!/bin/sh\nexec ${quote(programs.node)} ${quote(programs.hook)} ${quote(order.files.folder)}\n`
  writeFileDurably(disk, order.folders.hook, text, { mode: 0o755 })
  return order.folders.hook
}

function goneBack(order: Order): string[] {
  const { disk } = order.context.ports
  const now = releasesIn(disk, order.folders.lists).releases
  const file = join(order.context.layout.run, 'releases.json')
  const seen = JSON.parse(readIfExists(disk, file)?.toString('utf8') ?? '[]') as PlanEvidence['releases']
  const back = [...new Set([...releasesGoneBack(seen, now), ...releasesGoneBack(order.evidence.releases, now)])]
  if (back.length > 0) return back
  const others = seen.filter((one) => !now.some((other) => other.uri === one.uri && other.suite === one.suite))
  writeFileDurably(disk, file, `${JSON.stringify([...others, ...now].slice(-256))}\n`, { mode: 0o644 })
  return []
}

/** While another program changes packages, what it is in the middle of would look like a drift of the plan. */
function replan(run: Run): void {
  run.order.records.begin('replan')
  waitForLocks(run.order, 'replan', (held) => (held === null ? simulate(run) : endBefore(run, held)))
}

function simulate(run: Run): void {
  const { order } = run
  const { ports, config } = order.context
  runStep(order, simulateSpec(config, order.folders), (end, simulation) => {
    const diagnosis = failureOf(end, simulation, 'replan')
    if (diagnosis !== null) return endBefore(run, failed('replan', diagnosis))
    const plan = (archives: string) => {
      const printed = { build: order.approved.build, arch: order.approved.arch, simulation, archives }
      judge(run, planFrom(ports, order.target, order.folders, printed, config.rebootWhen))
    }
    const show = showSpec(config, order.folders, simulation)
    if (show === null) return plan('')
    // Its stanzas are no news to anyone, so they stay out of the log.
    const output = join(order.folders.folder, 'archives.txt')
    ports.disk.remove(output)
    ports.processes.start({ ...show, output }, (shown) => {
      const text = readIfExists(ports.disk, output)?.toString('utf8') ?? ''
      if (shown.status !== 0)
        return endBefore(run, failed('replan', diagnose({ end: shown, output: text, step: 'replan' })))
      plan(text)
    })
  })
}

/** What was approved is what is installed: anything else ends the run here, before anything is changed. */
function judge(run: Run, planned: ReturnType<typeof planFrom>): void {
  const { order } = run
  if (isRefusal(planned)) return endBefore(run, failedFor('replan', 'internal', planned.message, [], [planned.remedy]))
  for (const warning of planned.warnings) order.records.note(warning.slice(0, 2000))
  const drift = driftOf(order.approved, planned.plan, order.payload.attempt > 1).map((one) => one.message)
  const lines = [...drift, ...overtaken(order, planned.plan)]
  if (lines.length > 0) {
    const more = lines.length > 1 ? ` (and ${lines.length - 1} more)` : ''
    return endBefore(
      run,
      failedFor('replan', 'plan-drift', `the machine's plan is no longer the approved one: ${lines[0]}${more}`, lines, [
        'Plan again and have the new plan approved; or put the machine or the repository back, then retry.',
      ]),
    )
  }
  const isRebootAsked = order.payload.outageMinutes > 0 && planned.plan.rebootDue
  const objection = rebootObjection(order.context.config)
  if (isRebootAsked && objection !== null) {
    return endBefore(
      run,
      failedFor(
        'replan',
        'reboot',
        `a reboot is due and can not be done: ${objection}`,
        [],
        ['Ask with outage:0; the reboot is then reported as pending.'],
      ),
    )
  }
  if (!hasWork(order, planned.plan)) {
    if (isRebootAsked) return preChecks(run, planned)
    order.records.note('nothing is left to do')
    order.records.begin('verify')
    return endBefore(run, {
      outcome: 'succeeded',
      cause: null,
      step: 'verify',
      message: 'nothing was left to do',
      evidence: [],
      advice: [],
    })
  }
  fetch(run, planned)
}

/** Where dpkg was killed after all was in place, its journal is still to be folded in. */
function hasWork(order: Order, plan: Plan): boolean {
  return !isEmptyPlan(plan) || isJournalLeft(order.context.ports.disk, order.target)
}

/** What a retry has no more to do for must be as it was approved, by whatever hand. */
function overtaken(order: Order, now: Plan): string[] {
  if (order.payload.attempt === 1) return []
  const isLeft = (entry: { name: string; arch: string }) =>
    [...now.installs, ...now.repairs].some((one) => one.name === entry.name && one.arch === entry.arch)
  const installs = order.approved.installs.filter((entry) => !isLeft(entry))
  return versionsWrong(order, { ...order.approved, installs, removes: [], repairs: [] })
}

function fetch(run: Run, planned: Planned): void {
  const { order } = run
  const { config } = order.context
  order.records.begin('fetch')
  importPrefetched(order, planned.plan)
  const spec = {
    ...updateSpec(config, order.folders),
    argv: fetchArgv(order.folders),
    timeLimitMs: config.limits.fetchMs,
  }
  runStep(order, spec, (end, printed) => {
    const diagnosis = failureOf(end, printed, 'fetch')
    if (diagnosis !== null) return endBefore(run, failed('fetch', diagnosis))
    preChecks(run, planned)
  })
}

/** Takes over what the agent downloaded: copied first, then the copy is hashed, for the agent could change its own. */
function importPrefetched(order: Order, plan: Plan): void {
  const { disk } = order.context.ports
  const folder = aptFoldersOf(join(order.context.layout.prefetch, order.id)).archives
  let taken = 0
  // By the names in the plan: whatever else lies there, and however much, is not looked at.
  for (const entry of plan.installs) {
    const name = archiveNameOf(entry)
    const problem = importArchive(disk, join(folder, name), join(order.folders.archives, name), entry)
    if (problem === null) taken += 1
    else if (problem !== '') order.records.note(`prefetched ${name} is not used: ${problem}`)
  }
  if (taken > 0) order.records.note(`${taken} of ${plan.installs.length} archives were prefetched`)
}

/** Null when it is taken over, '' when there is none, else what is wrong with it. */
function importArchive(disk: Disk, from: string, to: string, entry: Install): string | null {
  const copy = `${to}.import`
  try {
    const facts = disk.factsOf(from)
    if (facts === null) return ''
    if (facts.kind !== 'file') return 'it is no regular file'
    if (facts.size !== entry.size) return `it has ${facts.size} bytes instead of ${entry.size}`
    disk.remove(copy)
    copyBytes(disk, from, copy, entry.size)
    if (hashOf(disk, copy, entry.size) !== entry.sha256) {
      disk.remove(copy)
      return 'its content is not what the index says'
    }
    disk.fsync(copy)
    disk.rename(copy, to)
    return null
  } catch (error) {
    // The agent's folder is its own: whatever it does there, apt then downloads the archive again.
    if (codeOf(error) === '') throw error
    return `it can't be copied (${codeOf(error)})`
  }
}

const CHUNK_BYTES = 4 * 1024 * 1024
function copyBytes(disk: Disk, from: string, to: string, size: number): void {
  disk.write(to, Buffer.alloc(0), 'create', 0o644)
  for (let at = 0; at < size; at += CHUNK_BYTES)
    disk.write(to, disk.read(from, at, Math.min(CHUNK_BYTES, size - at)), 'append', 0o644)
}

function hashOf(disk: Disk, path: string, size: number): string {
  const hash = createHash('sha256')
  for (let at = 0; at < size; at += CHUNK_BYTES) hash.update(disk.read(path, at, CHUNK_BYTES))
  return hash.digest('hex')
}

function preChecks(run: Run, planned: Planned): void {
  const { order } = run
  const step: Step = 'pre-checks'
  order.records.begin(step)
  const blocked = filesystemEnding(order, planned.plan, planned.evidence.installedBytesDelta)
  if (blocked !== null) return endBefore(run, blocked)
  waitForLocks(order, step, (held) => {
    if (held !== null) return endBefore(run, held)
    runChecks(order, 'pre', step, (ending) => {
      // The download may have taken longer than the window was open.
      const refused = ending ?? ruleEnding(order, step)
      if (refused !== null) return endBefore(run, refused)
      if (hasWork(order, planned.plan)) startInstall(run, planned.plan)
      else onlyReboot(run)
    })
  })
}

/** Nothing is to be installed and a reboot is due: the latch says that the machine is no longer untouched. */
function onlyReboot(run: Run): void {
  const { order } = run
  const { disk, now } = order.context.ports
  keepHealth(order, () => {
    order.records.begin('latch')
    if (takeLatch(disk, order.files, { by: 'reboot', at: now() })) return startReboot(run, REBOOT_ONLY)
    // A wrapper of an older try was quicker after all: what apt did decides.
    resumeInstall(run)
  })
}
