/**
 * The reboot of a run: the marker with the boot of now, the record, the coordinator's acknowledgement of it, then
 * `systemctl reboot`; and after it: another boot, the expected kernel, health as before, the checks, the result.
 * Invariant: the marker is written once, and the command is given only in the boot that it names, so a run reboots
 * its machine at most once, whatever crashes.
 */
import { join } from 'node:path'
import * as v from 'valibot'
import { countSchema } from '../../protocol/ids.ts'
import { rebootObjection } from '../apt/allow.ts'
import { aptEnvironment } from '../apt/command.ts'
import { visible } from '../apt/diagnosis.ts'
import { newestKernel } from '../apt/reboot.ts'
import { type Disk, readIfExists, writeFileDurably } from '../disk/disk.ts'
import type { OrderLayout } from '../disk/layout.ts'
import { closeRun } from './aftermath.ts'
import { runChecks } from './checks.ts'
import { awaitHealth } from './health-probe.ts'
import { ackedUpTo, failedFor, type Order, rebootDue, type Run } from './order.ts'

const ASK_MS_MAX = 30_000

const markerSchema = v.strictObject({
  bootId: v.string(),
  at: countSchema,
  /** Null where the machine has no kernel of its own, as a container. */
  kernel: v.nullable(v.string()),
  /** What the result says when all is well. */
  message: v.string(),
})
export type Reboot = v.InferOutput<typeof markerSchema>

export function readReboot(disk: Disk, files: OrderLayout): Reboot | null {
  const bytes = readIfExists(disk, files.reboot, 65_536)
  return bytes === null ? null : v.parse(markerSchema, JSON.parse(bytes.toString('utf8')))
}

/** A reboot that is due is done when minutes for it were declared and the machine lets itself be rebooted. */
export function isRebootToDo(order: Order): boolean {
  return order.payload.outageMinutes > 0 && rebootObjection(order.context.config) === null && rebootDue(order)
}

export function startReboot(run: Run, message: string): void {
  const { order } = run
  const { disk, machine, now } = order.context.ports
  const kernel = newestKernel(order.context.ports)
  const reboot: Reboot = { bootId: machine.bootId, at: now(), kernel, message }
  writeFileDurably(disk, order.files.reboot, `${JSON.stringify(reboot)}\n`, { mode: 0o644 })
  resumeReboot(run, reboot)
}

export function resumeReboot(run: Run, reboot: Reboot): void {
  const { order } = run
  const { machine } = order.context.ports
  if (machine.bootId !== reboot.bootId) return verify(run, reboot)
  if (order.records.step() !== 'reboot') order.records.begin('reboot')
  awaitAck(run, reboot)
}

/** Nobody may wonder where the machine is: the coordinator has the record of the reboot before it is done. */
function awaitAck(run: Run, reboot: Reboot): void {
  const { order } = run
  const { ports, config } = order.context
  const wanted = order.records.count()
  const until = ports.now() + config.limits.rebootAckMs
  const look = () => {
    if (ackedUpTo(order) >= wanted) return giveCommand(run, reboot)
    if (ports.now() < until) return void ports.after(config.limits.pollMs, look)
    closeRun(
      run,
      failedFor(
        'reboot',
        'reboot',
        `the coordinator did not acknowledge in ${config.limits.rebootAckMs / 1000} s that the machine reboots, so it was not rebooted`,
        [],
        ['See why the agent does not reach the coordinator (systemctl status smith-agent), then retry.'],
      ),
    )
  }
  look()
}

function giveCommand(run: Run, reboot: Reboot): void {
  const { order } = run
  const { ports } = order.context
  const { outageMinutes } = order.payload
  // Only for whoever reads on the machine: a record now would be one that nobody has acknowledged.
  order.context.tell(order.id, 'reboot', 'systemctl reboot')
  const spec = {
    argv: ['systemctl', 'reboot'],
    environment: aptEnvironment(order.target, null, order.id),
    folder: '/',
    output: join(order.files.folder, 'reboot.txt'),
    timeLimitMs: null,
    diesWithUs: false,
  }
  ports.disk.remove(spec.output)
  ports.processes.start(spec, (end) => {
    const lines = linesOf(run, spec.output)
    // A signal is the shutdown itself, which ends programs as it goes.
    if (end.problem !== null || (end.status !== null && end.status !== 0)) {
      const how = end.problem ?? `exit status ${end.status}`
      const message = `the machine could not be rebooted: systemctl reboot ended with ${how}`
      return whoHoldsUp(run, (holders) =>
        closeRun(run, failedFor('reboot', 'reboot', message, [...lines, ...holders], REFUSED)),
      )
    }
    const left = Math.max(0, reboot.at + outageMinutes * 60_000 - ports.now())
    ports.after(left, () =>
      closeRun(
        run,
        failedFor('reboot', 'reboot', `the machine did not go down in the ${outageMinutes} minutes declared`, lines, [
          'See systemd-inhibit --list and journalctl -b on the machine for what holds the reboot up.',
        ]),
      ),
    )
  })
}

const REFUSED = [
  'See on the machine who keeps it up (systemd-inhibit --list) or whether it is blocked (systemctl status reboot.target); lift that, then retry.',
]

/** logind says only "Access denied", so whoever holds an inhibitor lock is named by its list. */
function whoHoldsUp(run: Run, then: (holders: string[]) => void): void {
  const { order } = run
  const { processes } = order.context.ports
  const spec = {
    argv: ['systemd-inhibit', '--list', '--no-pager'],
    environment: aptEnvironment(order.target, null, order.id),
    folder: '/',
    output: join(order.files.folder, 'inhibitors.txt'),
    timeLimitMs: ASK_MS_MAX,
    diesWithUs: true,
  }
  order.context.ports.disk.remove(spec.output)
  processes.start(spec, (end) =>
    then(end.status === 0 ? linesOf(run, spec.output).filter((line) => /\bshutdown\b/.test(line)) : []),
  )
}

function linesOf(run: Run, path: string): string[] {
  return (readIfExists(run.order.context.ports.disk, path)?.toString('utf8') ?? '')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => visible(line).slice(0, 500))
    .slice(-5)
}

function verify(run: Run, reboot: Reboot): void {
  const { order } = run
  const { ports, config } = order.context
  if (order.records.step() !== 'verify') {
    order.records.begin('verify')
    order.records.note(
      `the machine is up again ${Math.round((ports.now() - reboot.at) / 1000)} s after its reboot began`,
    )
  }
  const running = ports.machine.kernel
  if (reboot.kernel !== null && running !== reboot.kernel) {
    const message = `the machine came back with kernel ${running} instead of ${reboot.kernel}`
    return closeRun(
      run,
      failedFor(
        'verify',
        'reboot',
        message,
        [message],
        ['See the boot loader (update-grub, grub-editenv list, journalctl -b) for why the other kernel was started.'],
      ),
    )
  }
  const declaredMs = order.payload.outageMinutes * 60_000
  const patience = config.limits.settleMs + config.limits.healthMs
  awaitHealth(order, 'verify', Math.max(reboot.at + declaredMs, ports.now() + patience), (worse) => {
    if (worse !== null) return closeRun(run, worse)
    runChecks(order, 'post', 'verify', (ending) => {
      const { message } = reboot
      closeRun(run, ending ?? { outcome: 'succeeded', cause: null, step: 'verify', message, evidence: [], advice: [] })
    })
  })
}
