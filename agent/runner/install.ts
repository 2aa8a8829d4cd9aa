/**
 * Latch and install, seen from the runner: it starts the wrapper, follows output and progress, and when apt has
 * ended finds out what came of it, from the exit file or, when that is missing, from the machine's own evidence.
 * Invariant: nothing here starts apt a second time; with the latch taken and no proof of how apt ended the answer is
 * "unknown".
 */
import { diagnose, RETRY_REPAIRS, visible } from '../apt/diagnosis.ts'
import { aptEnvironment, configureArgv, installArgv } from '../apt/command.ts'
import { memoryKills } from '../apt/kernel.ts'
import { type Progress, parseProgress } from '../apt/parsers.ts'
import { isJournalLeft } from '../apt/planning.ts'
import type { ProcessEnd } from '../apt/processes.ts'
import { writeFileDurably } from '../disk/disk.ts'
import type { Plan } from '../../protocol/plan.ts'
import { dpkgLocksOf, holderText } from '../apt/preflight.ts'
import { closeRun } from './aftermath.ts'
import { comparison, keepMarks, runAudit, runChecks } from './checks.ts'
import { type InstallExit, readCommand, readExit, readLatch, readTry, takeLatch } from './command-file.ts'
import { awaitHealth, keepHealth } from './health-probe.ts'
import { type Ending, endOrder, failedFor, type Order, outputSince, type Run } from './order.ts'
import { isRebootToDo, startReboot } from './reboot.ts'
import { lookForEvidence } from './settle.ts'
import { liftShutdownLimit, restoreShutdownLimit } from './shutdown.ts'

/** The wrapper puts the progress file there. */
const STATUS_FD = 4

/**
 * Ends a run for which apt never began. The latch is taken for good, so that nothing can begin afterwards; if a
 * wrapper has it, apt did begin, and what it did decides.
 */
export function endBefore(run: Run, ending: Ending): void {
  const { order } = run
  const { disk, now } = order.context.ports
  if (!takeLatch(disk, order.files, { by: 'runner', at: now(), ending })) {
    const latch = readLatch(disk, order.files)
    if (latch?.by === 'wrapper') return resumeInstall(run)
  }
  endOrder(order, ending, false)
  run.done()
}

/** The pictures of before are taken, then the wrapper is started. */
export function startInstall(run: Run, plan: Plan): void {
  const { order } = run
  keepHealth(order, () =>
    liftShutdownLimit(order, () => {
      order.records.begin('latch')
      keepMarks(order)
      startWrapper(run, plan)
    }),
  )
}

function startWrapper(run: Run, plan: Plan): void {
  const { order, programs } = run
  const { disk, processes } = order.context.ports
  const command = {
    order: order.id,
    try: readTry(disk, order.files),
    repair: plan.repairs.length > 0 || isJournalLeft(disk, order.target) ? configureArgv(order.target) : null,
    install: installArgv(order.folders, order.id, STATUS_FD),
    environment: aptEnvironment(order.target, order.folders, order.id),
    plan,
    outputOffset: order.records.offset(),
    memoryKills: killedForMemory(order),
  }
  writeFileDurably(disk, order.files.command, `${JSON.stringify(command)}\n`, { mode: 0o640 })
  disk.remove(order.files.status)
  // A stale wrapper of an older try gives the lock back at once, so it is worth a short wait.
  const argv = [
    'flock',
    '-w',
    '30',
    '-F',
    '-E',
    '75',
    order.files.lock,
    programs.node,
    programs.wrapper,
    order.files.folder,
    String(command.try),
  ]
  const watch = follow(run)
  processes.start(
    {
      argv,
      environment: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      folder: '/',
      output: order.files.wrapperLog,
      timeLimitMs: null,
      diesWithUs: false,
    },
    (ended) => {
      const latch = readLatch(disk, order.files)
      if (latch?.by === 'wrapper') return awaitFreeLock(run, watch)
      watch.stop()
      const how = ended.problem ?? (ended.signal === null ? `exit status ${ended.status}` : `signal ${ended.signal}`)
      endBefore(
        run,
        failedFor(
          'latch',
          'internal',
          `the program that starts apt ended before it did so (${how}); nothing was changed`,
          [],
          [`See ${order.files.wrapperLog}, then retry.`],
        ),
      )
    },
  )
}

/** After a restart of the runner: apt may be at work, or have ended meanwhile. */
export function resumeInstall(run: Run): void {
  const { order } = run
  order.records.drain(false)
  order.records.note('the runner was started again; apt was started before and is not started again')
  awaitFreeLock(run, follow(run))
}

type Watch = { readonly stop: () => void }

/** Cuts records, shows progress, and notes a long silence, until told to stop. */
function follow(run: Run): Watch {
  const { order } = run
  const { ports, config } = order.context
  let cancel = () => {}
  let heardAt = ports.now()
  let saidAt = heardAt
  let shown: Progress | null = null
  const tick = () => {
    if (order.records.step() === 'latch' && readLatch(ports.disk, order.files) !== null) order.records.begin('install')
    if (order.records.drain(false)) {
      // What was shown of the silence is over, so the progress is said anew.
      if (saidAt > heardAt) shown = null
      heardAt = saidAt = ports.now()
    }
    shown = showProgress(order, shown)
    if (ports.now() - saidAt >= config.limits.quietMs) {
      const text = quietText(order, ports.now() - heardAt)
      order.records.note(text)
      // The status shows the newest progress, so a person sees there what hangs.
      if (shown !== null) order.records.progress(shown.percent, `${shown.label}; ${text}`)
      saidAt = ports.now()
    }
    cancel = ports.after(config.limits.pollMs, tick)
  }
  tick()
  return { stop: () => cancel() }
}

const STATUS_TAIL_BYTES = 4096

/** The newest line that apt wrote to its status descriptor, when it says something new. */
function showProgress(order: Order, shown: Progress | null): Progress | null {
  const { disk } = order.context.ports
  const size = disk.factsOf(order.files.status)?.size ?? 0
  if (size === 0 || order.records.step() !== 'install') return shown
  const from = Math.max(0, size - STATUS_TAIL_BYTES)
  const lines = disk.read(order.files.status, from, STATUS_TAIL_BYTES).toString('utf8').split('\n').slice(0, -1)
  const progress = lines.map(parseProgress).findLast((one) => one !== null)
  if (progress === undefined) return shown
  const percent = Math.round(progress.percent * 10) / 10
  const label = visible(progress.label)
  if (percent === shown?.percent && label === shown.label) return shown
  order.records.progress(percent, label)
  return { percent, label }
}

function quietText(order: Order, forMs: number): string {
  // The youngest is what the others wait for.
  const processes = order.context.ports.processesOf(order.id).toSorted((a, b) => a.forMs - b.forMs)
  const tree = processes.map(
    (one) => `${one.pid} (child of ${one.parent}, ${ageText(one.forMs)}): ${visible(one.command)}`,
  )
  return `no output for ${ageText(forMs)}; at work: ${tree.join('; ') || 'nothing'}`.slice(0, 1500)
}

function ageText(ms: number): string {
  return ms < 120_000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60_000)} min`
}

/**
 * Waits for the order's lock, which wrapper and apt hold, and then for dpkg's own: when apt itself was killed, dpkg
 * goes on without it, and when dpkg was, the script of a package does.
 */
function awaitFreeLock(run: Run, watch: Watch): void {
  const { order } = run
  const { ports, config } = order.context
  const spec = {
    argv: ['flock', order.files.lock, 'true'],
    environment: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    folder: '/',
    output: order.files.wrapperLog,
    timeLimitMs: null,
    diesWithUs: true,
  }
  ports.processes.start(spec, () => {
    let isSaid = false
    const look = () => {
      const exit = readExit(ports.disk, order.files)
      // When apt itself ended by itself, nothing that it started is left at dpkg's work.
      const holder = exit === null || exit.signal !== null ? firstAtWork(order) : null
      if (holder !== null) {
        if (!isSaid) order.records.note(`apt is gone, and ${holder} is still at work; it is waited for`)
        isSaid = true
        ports.after(config.limits.pollMs, look)
        return
      }
      watch.stop()
      if (order.records.step() === 'latch') order.records.begin('install')
      order.records.drain(true)
      restoreShutdownLimit(order.context, () => {
        if (exit === null) settleByEvidence(run)
        else afterInstall(run, exit)
      })
    }
    look()
  })
}

function killedForMemory(order: Order): number {
  return memoryKills('smith-run.service', order.context.ports.machine.textOf)
}

const SCRIPT = /\/var\/lib\/dpkg\/(?:tmp\.ci\/|info\/\S+\.)(?:pre|post)(?:inst|rm)\b/

function firstAtWork(order: Order): string | null {
  const { ports } = order.context
  const holders = dpkgLocksOf(order.target).flatMap((path) => ports.lockHolder(path) ?? [])
  const [holder] = holders
  if (holder !== undefined) return holderText(holder)
  const script = ports.processesOf(order.id).find((process) => SCRIPT.test(process.command))
  return script === undefined ? null : `process ${script.pid} (${visible(script.command)})`
}

function afterInstall(run: Run, exit: InstallExit): void {
  if (exit.status === 0) return postChecks(run, 'every package of the plan is installed')
  installFailed(run, { ...exit, timedOut: false }, [])
}

/** apt's own exit status when anything failed. */
const APT_ERROR: ProcessEnd = { status: 100, signal: null, timedOut: false, problem: null }

function installFailed(run: Run, how: ProcessEnd, found: readonly string[]): void {
  const { order } = run
  const command = readCommand(order.context.ports.disk, order.files)
  if (command === null) throw new Error(`${order.files.command} is missing although the latch is taken`)
  const output = outputSince(order, command.outputOffset)
  // Another boot or another start of the unit counts from zero again.
  const killed = Math.max(0, killedForMemory(order) - command.memoryKills)
  const diagnosis = diagnose({ end: how, output, step: 'install', killedForMemory: killed })
  end(run, { outcome: 'failed', step: 'install', ...diagnosis, evidence: [...diagnosis.evidence, ...found] })
}

/** Health and the checks after are for what remains: with a reboot to come they wait for it. */
function postChecks(run: Run, message: string): void {
  const { order } = run
  const { ports, config } = order.context
  order.records.begin('post-checks')
  runAudit(order, (unclean) => {
    const wrong = unclean ?? comparison(order, order.approved)
    if (wrong !== null) return end(run, wrong)
    if (isRebootToDo(order)) return startReboot(run, message)
    const deadlineAt = ports.now() + config.limits.settleMs + config.limits.healthMs
    awaitHealth(order, 'post-checks', deadlineAt, (worse) => {
      if (worse !== null) return end(run, worse)
      runChecks(order, 'post', 'post-checks', (ending) => {
        if (ending !== null) return end(run, ending)
        order.records.begin('verify')
        end(run, { outcome: 'succeeded', cause: null, step: 'verify', message, evidence: [], advice: [] })
      })
    })
  })
}

function end(run: Run, ending: Ending): void {
  closeRun(run, ending)
}

/**
 * The exit file is missing and nobody is at work: the wrapper was killed, or the machine went down. What the machine
 * proves decides; only what nothing proves either way is for a person.
 */
function settleByEvidence(run: Run): void {
  const { order } = run
  order.records.note('how apt ended was not written down; looking for evidence')
  lookForEvidence(order, ({ verdict, lines }) => {
    if (verdict === 'ended')
      return postChecks(
        run,
        'every package of the plan is installed (settled by evidence: the history, the versions and dpkg --audit)',
      )
    if (verdict === 'failed') return installFailed(run, APT_ERROR, lines)
    if (verdict === 'interrupted') {
      return end(
        run,
        failedFor('install', 'dpkg-interrupted', `apt was lost in the middle of the install: ${lines[0]}`, lines, [
          RETRY_REPAIRS,
        ]),
      )
    }
    end(run, {
      outcome: 'unknown',
      cause: 'internal',
      step: 'install',
      message: `apt was at work when its wrapper was lost, and nothing proves how it ended: ${lines[0]}`,
      evidence: lines,
      advice: [
        'Look at /var/log/apt/history.log and dpkg --audit on the machine; when no apt or dpkg is at work, resolve the order as succeeded or failed with the reason.',
      ],
    })
  })
}
