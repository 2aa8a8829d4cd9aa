/**
 * What is looked at before the latch and after the install: space, read-only filesystems, the machine's own rules,
 * locks, the administrator's own programs in checks.d, versions against the plan, automatic marks, dpkg's audit.
 */
import { join } from 'node:path'
import * as v from 'valibot'
import type { Step } from '../../protocol/files.ts'
import type { Plan } from '../../protocol/plan.ts'
import { runObjection, weekTimeOf } from '../apt/allow.ts'
import { aptEnvironment, auditArgv, pathOn } from '../apt/command.ts'
import { diagnose, visible } from '../apt/diagnosis.ts'
import { shortList } from '../apt/plan.ts'
import { dpkgLocksOf, holderAdvice, holderText, readOnlyPaths, shortages, shortageText } from '../apt/preflight.ts'
import { listNames, readIfExists, writeFileDurably } from '../disk/disk.ts'
import { conffileDebt } from './conffiles.ts'
import { automaticOf, type Ending, failedFor, type Order, runStep, statusOf } from './order.ts'

type Then = (ending: Ending | null) => void

/** Space, inodes and read-only filesystems, looked at again now that everything is downloaded. */
export function filesystemEnding(order: Order, plan: Plan, unpackedBytes: number): Ending | null {
  const { config, ports, layout } = order.context
  const readOnly = readOnlyPaths(ports.machine.textOf('/proc/self/mountinfo') ?? '', order.target, false)
  if (readOnly.length > 0) {
    return failedFor('pre-checks', 'disk', `mounted read-only: ${readOnly.join(', ')}`, readOnly, [
      'See dmesg and /proc/mounts for why; mount it for writing (mount -o remount,rw), then retry.',
    ])
  }
  const short = shortages({
    disk: ports.disk,
    target: order.target,
    plan,
    unpackedBytes,
    download: { folder: layout.state, bytes: 0 },
    marginBytes: config.limits.freeBytesMin,
  })
  if (short.length === 0) return null
  const lines = short.map(shortageText)
  return failedFor('pre-checks', 'disk', `too little space: ${lines.join('; ')}`, lines, [
    'Free space on the machine (df -h, df -i, apt-get clean), then retry.',
    ...(short.some((one) => one.kernels.length > 0)
      ? ['apt-get autoremove --purge takes the old kernels that nothing needs; smith itself removes none.']
      : []),
  ])
}

const lastRunSchema = v.object({ at: v.number(), change: v.string() })

/** The machine's own rules, which no grant overrules. Looked at when the run begins and right before the latch. */
export function ruleEnding(order: Order, step: Step): Ending | null {
  const { config, ports, layout } = order.context
  const bytes = readIfExists(ports.disk, layout.lastRun, 65_536)
  const last = bytes === null ? null : v.parse(lastRunSchema, JSON.parse(bytes.toString('utf8')))
  const now = ports.now()
  const objection = runObjection(config.allow, { now, local: weekTimeOf(now), last, change: order.payload.change })
  if (objection === null) return null
  return failedFor(
    step,
    'check',
    objection,
    [],
    [`The rules stand under [allow] in ${config.file} on the machine; retry when they allow it.`],
  )
}

const LOCK_POLL_MS = 500

/** Waits until nobody holds dpkg's locks; says who does. apt itself waits again, under the same bound. */
export function waitForLocks(order: Order, step: Step, then: Then): void {
  const { ports, config } = order.context
  const until = ports.now() + config.limits.lockWaitMs
  let said = 0
  const look = () => {
    const [found] = dpkgLocksOf(order.target).flatMap((path) => {
      const holder = ports.lockHolder(path)
      return holder === null ? [] : [{ path, holder }]
    })
    if (found === undefined) return then(null)
    const { path, holder } = found
    const who = `${holderText(holder)}, running for ${Math.round(holder.forMs / 1000)} s, holds ${path}`
    if (said !== holder.pid) order.records.note(`waiting: ${who}`)
    said = holder.pid
    if (ports.now() >= until) {
      return then(
        failedFor(step, 'lock', `the lock of dpkg was not released in time: ${who}`, [who], [holderAdvice(holder)]),
      )
    }
    ports.after(LOCK_POLL_MS, look)
  }
  look()
}

/**
 * The programs in checks.d/pre or checks.d/post, one after another, in the order of their names; all of them, also
 * when one fails, so that a person hears everything at once.
 */
export function runChecks(order: Order, when: 'pre' | 'post', step: Step, then: Then): void {
  const folder = join(order.context.config.checksDir, when)
  const names = listNames(order.context.ports.disk, folder).filter(
    (name) => /^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(name) && !/\.(dpkg-[a-z]+|bak|orig)$/.test(name),
  )
  const failures: Failure[] = []
  const next = (index: number): void => {
    const name = names[index]
    if (name === undefined) return then(failures.length === 0 ? null : endingOf(failures, step))
    runCheck(order, join(folder, name), name, (failure) => {
      if (failure !== null) failures.push(failure)
      next(index + 1)
    })
  }
  next(0)
}

type Failure = { readonly message: string; readonly lines: readonly string[]; readonly advice: string }

function endingOf(failures: readonly Failure[], step: Step): Ending {
  return failedFor(
    step,
    'check',
    failures.map((one) => one.message).join('; '),
    failures.flatMap((one) => one.lines),
    failures.map((one) => one.advice),
  )
}

function runCheck(order: Order, path: string, name: string, then: (failure: Failure | null) => void): void {
  const { ports, config } = order.context
  const facts = ports.disk.factsOf(path)
  if (facts === null || facts.kind !== 'file' || (facts.mode & 0o111) === 0) {
    order.records.note(`check ${name} is passed over: it is no executable file`)
    return then(null)
  }
  if ((facts.mode & 0o002) !== 0) {
    return then({
      message: `check ${path} may be written by anyone, so it is not run`,
      lines: [],
      advice: `chmod o-w ${path}`,
    })
  }
  order.records.note(`check ${name}`)
  const spec = {
    argv: [path],
    environment: checkEnvironment(order),
    folder: '/',
    output: '',
    timeLimitMs: config.limits.checkMs,
    diesWithUs: true,
  }
  runStep(order, spec, (end, printed) => {
    if (end.status === 0) return then(null)
    const how = end.timedOut
      ? `took longer than ${config.limits.checkMs / 1000} s`
      : (end.problem ?? (end.signal === null ? `ended with exit status ${end.status}` : `was ended by ${end.signal}`))
    const lines = printed
      .split('\n')
      .filter((line) => line.trim() !== '')
      .slice(-5)
      .map((line) => visible(line).slice(0, 500))
    then({
      message: `check ${name} ${how}`,
      lines,
      advice: `Run ${path} by hand on the machine and mend what it says, then retry.`,
    })
  })
}

function checkEnvironment(order: Order): Record<string, string> {
  return {
    ...aptEnvironment(order.target, null, order.id),
    SMITH_CHANGE: order.payload.change,
    SMITH_BUILD: order.payload.build,
    SMITH_ROOT: order.target.root ?? '/',
  }
}

/** Kept right before the latch, once: after a restart what was then still counts. */
export function keepMarks(order: Order): void {
  const debt = conffileDebt(order.context.ports.disk, pathOn(order.target, '/etc'))
  const marks = { automatic: [...automaticOf(order)], packages: [...installedKeys(order)], debt }
  writeFileDurably(order.context.ports.disk, order.files.before, `${JSON.stringify(marks)}\n`, { mode: 0o640 })
}

function installedKeys(order: Order): string[] {
  return [...statusOf(order).values()]
    .filter((one) => one.state !== 'not-installed' && one.state !== 'config-files')
    .map((one) => `${one.name}:${one.arch}`)
}

/** Installed versions against the plan, and the marks against those of before. */
export function comparison(order: Order, plan: Plan): Ending | null {
  const wrong = versionsWrong(order, plan)
  if (wrong.length > 0) {
    return failedFor(
      'post-checks',
      'check',
      `apt ended without an error, yet ${wrong.length === 1 ? 'a package is' : `${wrong.length} packages are`} not as planned: ${shortList(wrong)}`,
      wrong,
      ['See apt-cache policy for these packages, and /var/log/apt/history.log.'],
    )
  }
  const marks = marksWrong(order)
  if (marks.length > 0) {
    return failedFor('post-checks', 'check', `automatic marks have changed: ${shortList(marks)}`, marks, [
      'Put them back with apt-mark auto PACKAGE or apt-mark manual PACKAGE.',
    ])
  }
  return null
}

/** dpkg(1), "Package states", in the words of a sentence. */
const IN_STATE: Readonly<Record<string, string>> = {
  'config-files': 'removed',
  'not-installed': 'not installed',
  'half-installed': 'half installed',
  unpacked: 'unpacked and not configured',
  'half-configured': 'half configured',
  'triggers-awaited': 'waiting for the triggers of others',
  'triggers-pending': 'left with its triggers not run',
}

/** What of a plan is not so on the machine, each with what is there instead. */
export function versionsWrong(order: Order, plan: Plan): string[] {
  const status = statusOf(order)
  const inState = (state: string) => IN_STATE[state] ?? state
  const wrong: string[] = []
  for (const entry of plan.installs) {
    const key = `${entry.name}:${entry.arch}`
    const is = status.get(key)
    if (is?.state === 'installed' && is.version === entry.version) continue
    const planned = is?.version === entry.version ? '' : `, and ${entry.version} is planned`
    if (is === undefined) wrong.push(`${key} is not installed${planned}`)
    else if (is.state === 'installed') wrong.push(`${key} is installed at ${is.version}${planned}`)
    else wrong.push(`${key} ${is.version} is ${inState(is.state)}${planned}`)
  }
  for (const entry of plan.removes) {
    const is = status.get(`${entry.name}:${entry.arch}`)
    if (is === undefined || is.state === 'config-files' || is.state === 'not-installed') continue
    wrong.push(`${entry.name}:${entry.arch} is still ${inState(is.state)}, and its removal is planned`)
  }
  for (const entry of plan.repairs) {
    const key = `${entry.name}:${entry.arch}`
    const is = status.get(key)
    if (is === undefined || is.state === 'installed' || is.state === 'config-files') continue
    if (!plan.installs.some((one) => `${one.name}:${one.arch}` === key))
      wrong.push(`${key} ${is.version} is still ${inState(is.state)}`)
  }
  return wrong
}

/**
 * Packages that were there before must keep their mark. New ones have the mark that apt gave them. apt itself moves
 * marks when a package of section oldlibs hands over to its successor (APT::Move-Autobit-Sections); then nothing
 * can be said here.
 */
function marksWrong(order: Order): string[] {
  const text = readIfExists(order.context.ports.disk, order.files.before)?.toString('utf8')
  if (text === undefined) return []
  const before = JSON.parse(text) as { automatic: string[]; packages: string[] }
  const status = statusOf(order)
  const moves = order.approved.installs.some((entry) =>
    /(^|\/)oldlibs$/.test(status.get(`${entry.name}:${entry.arch}`)?.section ?? ''),
  )
  if (moves) return []
  const now = automaticOf(order)
  const then = new Set(before.automatic)
  return before.packages.flatMap((key) => {
    if (status.get(key)?.state !== 'installed') return []
    const native = key.replace(/:all$/, `:${order.approved.arch}`)
    const was = then.has(key) || then.has(native)
    const is = now.has(key) || now.has(native)
    return was === is ? [] : [`${key} was ${was ? 'automatic' : 'manual'} and is ${is ? 'automatic' : 'manual'}`]
  })
}

/** `dpkg --audit` prints nothing when all is well. `isAnswered` is false when dpkg could not look. */
export function runAudit(order: Order, then: (ending: Ending | null, isAnswered: boolean) => void): void {
  const spec = {
    argv: auditArgv(order.target),
    environment: aptEnvironment(order.target, null, order.id),
    folder: '/',
    output: '',
    timeLimitMs: null,
    diesWithUs: true,
  }
  runStep(order, spec, (end, printed) => {
    if (end.status === 0 && printed.trim() === '') return then(null, true)
    if (end.status !== 0) {
      const diagnosis = diagnose({ end, output: printed, step: 'post-checks' })
      return then({ outcome: 'failed', step: 'post-checks', ...diagnosis }, false)
    }
    const lines = printed
      .split('\n')
      .filter((line) => line.trim() !== '')
      .slice(0, 20)
      .map((line) => visible(line).slice(0, 500))
    then(
      failedFor('post-checks', 'dpkg-interrupted', 'dpkg --audit finds packages that are not fully installed', lines, [
        'Retry: the next run repairs them first.',
      ]),
      true,
    )
  })
}
