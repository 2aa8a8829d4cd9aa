/**
 * What is looked at before the latch and after the install: space, locks, the administrator's own programs in
 * checks.d, versions against the plan, automatic marks, dpkg's audit.
 */
import { join } from 'node:path'
import type { Step } from '../../protocol/files.ts'
import type { Plan } from '../../protocol/plan.ts'
import { aptEnvironment, auditArgv, pathOn } from '../apt/command.ts'
import { diagnose, visible } from '../apt/diagnosis.ts'
import { shortList } from '../apt/plan.ts'
import { listNames, readIfExists, writeFileDurably } from '../disk/disk.ts'
import { automaticOf, dpkgLocksOf, type Ending, failedFor, type Order, runStep, statusOf } from './order.ts'

type Then = (ending: Ending | null) => void

/** Free space on every filesystem that dpkg or smith writes to, against what the plan unpacks. */
export function spaceEnding(order: Order, plan: Plan, unpackedBytes: number): Ending | null {
  const { disk } = order.context.ports
  const margin = order.context.config.limits.freeBytesMin
  const needs = new Map<string, { paths: string[]; needed: number; free: number }>()
  // dpkg unpacks beside the old files before it removes them, so a shrinking upgrade needs room too.
  const largest = plan.installs.reduce((most, entry) => Math.max(most, entry.size * 4), 0)
  const growth = Math.max(0, unpackedBytes) + largest
  for (const [path, needed] of [
    ['/', 0],
    ['/usr', growth],
    ['/var/lib/dpkg', 0],
    ['/boot', 0],
  ] as const) {
    const full = pathOn(order.target, path)
    if (disk.factsOf(full) === null) continue
    const { device, freeBytes } = disk.freeSpace(full)
    const known = needs.get(device) ?? { paths: [], needed: margin, free: freeBytes }
    needs.set(device, { paths: [...known.paths, full], needed: known.needed + needed, free: freeBytes })
  }
  const short = [...needs.values()].filter((one) => one.free < one.needed)
  if (short.length === 0) return null
  const lines = short.map(
    (one) => `${one.paths.join(', ')}: ${megabytes(one.free)} free, ${megabytes(one.needed)} needed`,
  )
  return failedFor('pre-checks', 'disk', `too little space: ${lines.join('; ')}`, lines, [
    'Free space on the machine (df -h, apt-get clean, old kernels in /boot), then retry.',
  ])
}

function megabytes(bytes: number): string {
  return `${Math.ceil(bytes / 1_000_000)} MB`
}

const LOCK_POLL_MS = 500

/** Waits until nobody holds dpkg's locks; says who does. apt itself waits again, under the same bound. */
export function waitForLocks(order: Order, then: Then): void {
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
    const who = `process ${holder.pid} (${visible(holder.command)}), running for ${Math.round(holder.forMs / 1000)} s, holds ${path}`
    if (said !== holder.pid) order.records.note(`waiting: ${who}`)
    said = holder.pid
    if (ports.now() >= until) {
      return then(
        failedFor(
          'pre-checks',
          'lock',
          `the lock of dpkg was not released in time: ${who}`,
          [who],
          ['Let that program end, then retry. Never delete a lock file.'],
        ),
      )
    }
    ports.after(LOCK_POLL_MS, look)
  }
  look()
}

/** The programs in checks.d/pre or checks.d/post, one after another, in the order of their names. */
export function runChecks(order: Order, when: 'pre' | 'post', step: Step, then: Then): void {
  const { ports, config } = order.context
  const folder = join(config.checksDir, when)
  const names = listNames(ports.disk, folder).filter(
    (name) => /^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(name) && !/\.(dpkg-[a-z]+|bak|orig)$/.test(name),
  )
  const next = (index: number): void => {
    const name = names[index]
    if (name === undefined) return then(null)
    const path = join(folder, name)
    const facts = ports.disk.factsOf(path)
    if (facts === null || facts.kind !== 'file' || (facts.mode & 0o111) === 0) {
      order.records.note(`check ${name} is passed over: it is no executable file`)
      return next(index + 1)
    }
    if ((facts.mode & 0o002) !== 0) {
      return then(
        failedFor(step, 'check', `check ${path} may be written by anyone, so it is not run`, [], [`chmod o-w ${path}`]),
      )
    }
    order.records.note(`check ${name}`)
    runStep(
      order,
      {
        argv: [path],
        environment: checkEnvironment(order),
        folder: '/',
        output: '',
        timeLimitMs: config.limits.checkMs,
        diesWithUs: true,
      },
      (end, printed) => {
        if (end.status === 0) return next(index + 1)
        const how = end.timedOut
          ? `took longer than ${config.limits.checkMs / 1000} s`
          : (end.problem ??
            (end.signal === null ? `ended with exit status ${end.status}` : `was ended by ${end.signal}`))
        const lines = printed
          .split('\n')
          .filter((line) => line.trim() !== '')
          .slice(-5)
          .map((line) => visible(line).slice(0, 500))
        then(
          failedFor(step, 'check', `check ${name} ${how}`, lines, [
            `Run ${path} by hand on the machine and mend what it says, then retry.`,
          ]),
        )
      },
    )
  }
  next(0)
}

function checkEnvironment(order: Order): Record<string, string> {
  return {
    ...aptEnvironment(order.target, null, order.id),
    SMITH_CHANGE: order.payload.change,
    SMITH_BUILD: order.payload.build,
    SMITH_ROOT: order.target.root ?? '/',
  }
}

/** Kept right before the latch, once: after a restart the marks of then still count. */
export function keepMarks(order: Order): void {
  const marks = { automatic: [...automaticOf(order)], packages: [...installedKeys(order)] }
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

export function versionsWrong(order: Order, plan: Plan): string[] {
  const status = statusOf(order)
  const wrong: string[] = []
  for (const entry of plan.installs) {
    const state = status.get(`${entry.name}:${entry.arch}`)
    if (state?.state === 'installed' && state.version === entry.version) continue
    wrong.push(
      `${entry.name}:${entry.arch} is ${state === undefined ? 'not installed' : `${state.version} (${state.state})`} instead of ${entry.version}`,
    )
  }
  for (const entry of plan.removes) {
    const state = status.get(`${entry.name}:${entry.arch}`)
    if (state === undefined || state.state === 'config-files' || state.state === 'not-installed') continue
    wrong.push(`${entry.name}:${entry.arch} is still ${state.state} instead of removed`)
  }
  for (const entry of plan.repairs) {
    const state = status.get(`${entry.name}:${entry.arch}`)
    if (state === undefined || state.state === 'installed' || state.state === 'config-files') continue
    wrong.push(`${entry.name}:${entry.arch} is still ${state.state}`)
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

/** `dpkg --audit` prints nothing when all is well. */
export function runAudit(order: Order, then: Then): void {
  const spec = {
    argv: auditArgv(order.target),
    environment: aptEnvironment(order.target, null, order.id),
    folder: '/',
    output: '',
    timeLimitMs: null,
    diesWithUs: true,
  }
  runStep(order, spec, (end, printed) => {
    if (end.status === 0 && printed.trim() === '') return then(null)
    if (end.status !== 0)
      return then({
        outcome: 'failed',
        step: 'post-checks',
        ...diagnose({ end, output: printed, step: 'post-checks' }),
      })
    const lines = printed
      .split('\n')
      .filter((line) => line.trim() !== '')
      .slice(0, 20)
      .map((line) => visible(line).slice(0, 500))
    then(
      failedFor('post-checks', 'dpkg-interrupted', 'dpkg --audit finds packages that are not fully installed', lines, [
        'Retry: the next run repairs them first.',
      ]),
    )
  })
}
