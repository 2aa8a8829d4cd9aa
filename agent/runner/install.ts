/**
 * Latch and install, seen from the runner: it starts the wrapper, follows output and progress, and when apt has
 * ended finds out what came of it, from the exit file or, when that is missing, from the machine's own evidence.
 * Invariant: nothing here starts apt a second time; with the latch taken and no proof of success the answer is
 * "unknown".
 */
import { visible, diagnose } from '../apt/diagnosis.ts'
import { aptEnvironment, configureArgv, installArgv } from '../apt/command.ts'
import { parseHistory, parseProgress } from '../apt/parsers.ts'
import { readMachineFile } from '../apt/planning.ts'
import { writeFileDurably } from '../disk/disk.ts'
import type { Plan } from '../../protocol/plan.ts'
import { dpkgLocksOf } from '../apt/preflight.ts'
import { closeRun } from './aftermath.ts'
import { comparison, keepMarks, runAudit, runChecks, versionsWrong } from './checks.ts'
import { type InstallExit, readCommand, readExit, readLatch, readTry, takeLatch } from './command-file.ts'
import { awaitHealth, keepHealth } from './health-probe.ts'
import { type Ending, endOrder, failedFor, type Order, outputSince, type Run } from './order.ts'
import { isRebootToDo, startReboot } from './reboot.ts'

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
  keepHealth(run.order, () => {
    run.order.records.begin('latch')
    keepMarks(run.order)
    startWrapper(run, plan)
  })
}

function startWrapper(run: Run, plan: Plan): void {
  const { order, programs } = run
  const { disk, processes } = order.context.ports
  const command = {
    order: order.id,
    try: readTry(disk, order.files),
    repair: plan.repairs.length > 0 ? configureArgv(order.target) : null,
    install: installArgv(order.folders, order.id, STATUS_FD),
    environment: aptEnvironment(order.target, order.folders, order.id),
    plan,
    outputOffset: order.records.offset(),
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
  let quietSince = ports.now()
  let shownPercent = ''
  const tick = () => {
    if (order.records.step() === 'latch' && readLatch(ports.disk, order.files) !== null) order.records.begin('install')
    if (order.records.drain(false)) quietSince = ports.now()
    shownPercent = showProgress(order, shownPercent)
    if (ports.now() - quietSince >= config.limits.quietMs) {
      order.records.note(quietNote(order, ports.now() - quietSince))
      quietSince = ports.now()
    }
    cancel = ports.after(config.limits.pollMs, tick)
  }
  tick()
  return { stop: () => cancel() }
}

const STATUS_TAIL_BYTES = 4096

/** The newest line that apt wrote to its status descriptor, when it says something new. */
function showProgress(order: Order, shown: string): string {
  const { disk } = order.context.ports
  const size = disk.factsOf(order.files.status)?.size ?? 0
  if (size === 0 || order.records.step() !== 'install') return shown
  const from = Math.max(0, size - STATUS_TAIL_BYTES)
  const lines = disk.read(order.files.status, from, STATUS_TAIL_BYTES).toString('utf8').split('\n').slice(0, -1)
  const progress = lines.map(parseProgress).findLast((one) => one !== null)
  if (progress === undefined) return shown
  const percent = Math.round(progress.percent * 10) / 10
  const label = visible(progress.label)
  const text = `${percent} ${label}`
  if (text !== shown) order.records.progress(percent, label)
  return text
}

function quietNote(order: Order, forMs: number): string {
  const processes = order.context.ports.processesOf(order.id)
  const tree = processes.map(
    (one) => `${one.pid} (child of ${one.parent}, ${Math.round(one.forMs / 60_000)} min): ${visible(one.command)}`,
  )
  return `no output for ${Math.round(forMs / 60_000)} minutes; at work: ${tree.join('; ') || 'nothing'}`.slice(0, 2000)
}

/**
 * Waits for the order's lock, which wrapper and apt hold, and then for dpkg's own: when apt itself was killed, dpkg
 * goes on without it, whether or not the wrapper lived to write down how apt ended.
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
      const isAptLost = exit === null || exit.signal !== null
      const holder = isAptLost ? firstHolder(order) : null
      if (holder !== null) {
        if (!isSaid) order.records.note(`apt is gone, and ${holder} is still at work; it is waited for`)
        isSaid = true
        ports.after(config.limits.pollMs, look)
        return
      }
      watch.stop()
      if (order.records.step() === 'latch') order.records.begin('install')
      order.records.drain(true)
      if (exit === null) settleByEvidence(run)
      else afterInstall(run, exit)
    }
    look()
  })
}

function firstHolder(order: Order): string | null {
  for (const path of dpkgLocksOf(order.target)) {
    const holder = order.context.ports.lockHolder(path)
    if (holder !== null) return `process ${holder.pid} (${visible(holder.command)})`
  }
  return null
}

function afterInstall(run: Run, exit: InstallExit): void {
  const { order } = run
  const command = readCommand(order.context.ports.disk, order.files)
  if (command === null) throw new Error(`${order.files.command} is missing although the latch is taken`)
  if (exit.status !== 0) {
    const output = outputSince(order, command.outputOffset)
    const diagnosis = diagnose({ end: { ...exit, timedOut: false }, output, step: 'install' })
    return end(run, { outcome: 'failed', step: 'install', ...diagnosis })
  }
  postChecks(run, 'every package of the plan is installed')
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
 * The exit file is missing and nobody is at work: the wrapper was killed, or the machine went down. Only the machine
 * itself can now prove success; without proof a person has to look.
 */
function settleByEvidence(run: Run): void {
  const { order } = run
  order.records.note('how apt ended was not written down; looking for evidence')
  const tag = `Smith::Order=${order.id}`
  const entry = parseHistory(
    readMachineFile(order.context.ports.disk, order.target, '/var/log/apt/history.log'),
  ).findLast((one) => one.commandLine.includes(tag))
  const history =
    entry === undefined
      ? "apt's history has no entry of this order"
      : !entry.ended
        ? "apt's history has an entry of this order without an end"
        : entry.error === null
          ? null
          : `apt's history says: ${entry.error}`
  const versions = versionsWrong(order, order.approved)
  runAudit(order, (unclean) => {
    const found = [...(history === null ? [] : [history]), ...versions, ...(unclean?.evidence ?? [])]
    if (found.length === 0 && unclean === null) {
      return postChecks(
        run,
        'every package of the plan is installed (settled by evidence: the history, the versions and dpkg --audit)',
      )
    }
    end(run, {
      outcome: 'unknown',
      cause: 'internal',
      step: 'install',
      message: `apt was at work when its wrapper was lost, and nothing proves that it ended well: ${found[0] ?? unclean?.message ?? ''}`,
      evidence: found.map((line) => visible(line)),
      advice: [
        'Look at /var/log/apt/history.log and dpkg --audit on the machine; when no apt or dpkg is at work, resolve the order as succeeded or failed with the reason.',
      ],
    })
  })
}
