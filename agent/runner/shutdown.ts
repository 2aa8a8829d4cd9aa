/**
 * A shutdown waits for apt, however long that takes. systemd forces a reboot or poweroff half an hour after someone
 * asked for it (JobTimeoutSec= of Debian's reboot.target and the like), also when it is dpkg that it waits for;
 * on booted hosts that was seen to end apt by SIGTERM in mid-install. So the limit is lifted from right before the
 * latch until apt has ended, by drop-ins that a boot forgets. At all other times, also in the run's own reboot, it is
 * the administrator's: a machine that hangs in its shutdown for another reason should be forced.
 * Tried and no help: an inhibitor lock, which systemd 252 passes over for root.
 */
import { join } from 'node:path'
import type { ProcessEnd } from '../apt/processes.ts'
import { writeFileDurably } from '../disk/disk.ts'
import type { Order } from './order.ts'
import type { RunnerContext } from './ports.ts'

const SYSTEMD = '/run/systemd/system'
/** All that have a limit in Debian 12 or 13; a drop-in of a target that is not there does nothing. */
const TARGETS = ['reboot', 'poweroff', 'halt', 'kexec', 'soft-reboot', 'exit']
/** The last of a target's drop-ins by name is the one that counts. */
const DROP_INS = TARGETS.map((target) => join(SYSTEMD, `${target}.target.d`, 'zz-smith-run.conf'))
const TEXT = '# smith: apt is at work, and a shutdown waits for it.\n[Unit]\nJobTimeoutSec=infinity\n'
const RELOAD_MS_MAX = 60_000

export function liftShutdownLimit(order: Order, then: () => void): void {
  const { context } = order
  const { disk } = context.ports
  if (order.target.root !== null || disk.factsOf(SYSTEMD) === null) return then()
  for (const path of DROP_INS) {
    disk.makeFolder(join(path, '..'), 0o755)
    writeFileDurably(disk, path, TEXT, { mode: 0o644 })
  }
  reload(context, (end) => {
    if (end.status !== 0)
      order.records.note('systemd did not reload its units, so it may force a reboot that someone asks for in this run')
    then()
  })
}

/** Harmless when it was not lifted. */
export function restoreShutdownLimit(context: RunnerContext, then: () => void): void {
  const { disk } = context.ports
  const lifted = DROP_INS.filter((path) => disk.factsOf(path) !== null)
  if (context.config.aptRoot !== null || lifted.length === 0) return then()
  for (const path of lifted) disk.unlink(path)
  reload(context, then)
}

/** A machine that is going down may have waited for longer than its limit, and would be forced at once by a reload. */
function reload(context: RunnerContext, then: (end: ProcessEnd) => void): void {
  context.ports.processes.start(
    {
      argv: ['sh', '-c', '[ "$(systemctl is-system-running)" = stopping ] || exec systemctl daemon-reload'],
      environment: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      folder: '/',
      output: join(context.layout.run, 'reload.txt'),
      timeLimitMs: RELOAD_MS_MAX,
      diesWithUs: true,
    },
    then,
  )
}
