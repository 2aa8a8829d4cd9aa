/** The reboot of a run, on a machine that is played whole: acknowledged first, done once, and verified after. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { rebootObjection } from '../../../agent/apt/allow.ts'
import { isRebootDue, newestKernel } from '../../../agent/apt/reboot.ts'
import { checkAgentConfig } from '../../../agent/config.ts'
import { createRealDisk } from '../../../agent/disk/disk.ts'
import { NEW_KERNEL, OLD_KERNEL, play, type Story } from './booted.ts'

const base = mkdtempSync(join(tmpdir(), 'smith-reboot-'))
t.teardown(() => rmSync(base, { recursive: true }))
let folders = 0
const tell = (story: Story) => play(join(base, String((folders += 1))), story)

t.test(
  '[RBT-1] a reboot that became due is recorded, acknowledged, then done, and the run ends verified',
  async (t) => {
    const { result, steps, world, records, notes, log } = tell({
      outageMinutes: 5,
      wantsReboot: true,
      bringsKernel: true,
    })
    t.match(result, { outcome: 'succeeded', cause: null, step: 'verify', latched: true, rebootPending: false })
    t.same(steps.slice(-5), ['latch', 'install', 'post-checks', 'reboot', 'verify'])
    const step = records.find((one) => one.type === 'step' && one.step === 'reboot')
    t.equal(world.reboots.length, 1)
    t.ok((world.reboots[0] ?? 0) >= (step?.n ?? 0), 'the record of the reboot was acknowledged before it')
    t.equal(world.kernel, NEW_KERNEL)
    t.notOk(
      records.some((one) => one.type === 'hole'),
      'its own reboot loses no output',
    )
    t.ok(notes.some((note) => /^the machine is up again 3\d s after its reboot began$/.test(note)))
    t.match(log, / reboot systemctl reboot\n/)
  },
)

t.test('[RBT-2] with outage:0 nothing is rebooted and the reboot is pending', async (t) => {
  const { result, steps, world } = tell({ outageMinutes: 0, wantsReboot: true })
  t.match(result, { outcome: 'succeeded', rebootPending: true })
  t.notOk(steps.includes('reboot'))
  t.equal(world.reboots.length, 0)
  t.match(tell({ outageMinutes: 5 }).steps, steps, 'nor with minutes declared when none is due')
})

t.test('[RBT-3] a crash of the runner at any call to its disk neither repeats nor forgets the reboot', async (t) => {
  const story: Story = { outageMinutes: 5, wantsReboot: true }
  const total = tell(story).world.calls
  let held = 0
  for (let at = 1; at <= total; at += 3) {
    const { result, world } = tell({ ...story, crashAt: at % 2 === 0 ? [at] : [at, at + 7 + (at % 29)] })
    const isGood = result.outcome === 'succeeded' && world.reboots.length === 1 && world.installs === 1
    if (isGood) held += 1
    else t.fail(`crash at call ${at}: ${result.outcome} ${result.message}, ${world.reboots.length} reboots`)
  }
  t.equal(held, Math.ceil(total / 3))
  t.ok(total > 100)
})

t.test('[RBT-4] a reboot that the coordinator does not acknowledge in time is not done', async (t) => {
  const { result, world } = tell({
    outageMinutes: 5,
    wantsReboot: true,
    acks: false,
    tables: '[limits]\nreboot_ack = 60\n',
  })
  t.match(result, { outcome: 'failed', cause: 'reboot', step: 'reboot', latched: true, rebootPending: true })
  t.match(result.message, /did not acknowledge in 60 s/)
  t.equal(world.reboots.length, 0)
})

t.test(
  '[RBT-5] the old kernel, a command that fails and a machine that stays up are failures of the reboot',
  async (t) => {
    const old = tell({ outageMinutes: 5, bringsKernel: true, startsOldKernel: true })
    t.match(old.result, { outcome: 'failed', cause: 'reboot', step: 'verify', rebootPending: true })
    t.equal(old.result.message, `the machine came back with kernel ${OLD_KERNEL} instead of ${NEW_KERNEL}`)
    t.equal(old.world.reboots.length, 1, 'and it is not tried again')
    const refused = tell({ outageMinutes: 5, wantsReboot: true, reboot: 'fails' })
    t.match(refused.result, {
      outcome: 'failed',
      cause: 'reboot',
      step: 'reboot',
      evidence: ['Access denied', 'backup 0 root 61 systemd-inhibit shutdown nightly block'],
      advice: [/systemd-inhibit --list/],
    })
    const up = tell({ outageMinutes: 7, wantsReboot: true, reboot: 'does-nothing' })
    t.match(up.result, { outcome: 'failed', cause: 'reboot', step: 'reboot' })
    t.equal(up.result.message, 'the machine did not go down in the 7 minutes declared')
    t.ok(up.world.time - 1_000_000 >= 7 * 60_000)
  },
)

t.test('[RBT-6] after the reboot health and checks are compared with those of before the latch', async (t) => {
  const broken = tell({ outageMinutes: 5, wantsReboot: true, web: ({ boot }) => (boot === 1 ? 'active' : 'failed') })
  t.match(broken.result, { outcome: 'failed', cause: 'check', step: 'verify' })
  t.equal(broken.result.message, 'the machine is worse than before: unit web.service has failed')
  t.ok(broken.world.time - broken.world.bootAt < 60_000, 'which no waiting mends')
  const slow = tell({
    outageMinutes: 5,
    wantsReboot: true,
    web: ({ boot, sinceMs }) => (boot === 1 || sinceMs > 200_000 ? 'active' : 'activating'),
  })
  t.match(slow.result, { outcome: 'succeeded' }, 'what is slow has the declared minutes')
  const never = tell({ outageMinutes: 5, wantsReboot: true, web: ({ boot }) => (boot === 1 ? 'active' : 'inactive') })
  t.match(never.result, { outcome: 'failed', evidence: ['unit web.service was active and is inactive'] })
  const check = tell({ outageMinutes: 5, wantsReboot: true, check: ({ boot }) => (boot === 1 ? 9 : 0) })
  t.match(check.result, { outcome: 'succeeded' }, 'the checks after are those of the rebooted machine')
  const failing = tell({ outageMinutes: 5, wantsReboot: true, check: ({ boot }) => (boot === 2 ? 9 : 0) })
  t.match(failing.result, { outcome: 'failed', cause: 'check', step: 'verify', message: /check serves ended/ })
})

t.test('[RUN-40] while apt is at work, and only then, a shutdown is not forced, however long it waits', async (t) => {
  const story: Story = { outageMinutes: 5, wantsReboot: true }
  const { world, isLimitLifted } = tell(story)
  t.strictSame(world.waitsForEver, [true, false], 'in the install, and no more in its own reboot')
  t.equal(isLimitLifted, false)
  t.equal(tell({ outageMinutes: 0 }).isLimitLifted, false, 'nor after a run')
  for (let at = 7; at <= world.calls; at += 37) {
    const again = tell({ ...story, crashAt: [at] })
    t.strictSame([again.world.waitsForEver, again.isLimitLifted], [[true, false], false], `crash at call ${at}`)
  }
})

t.test('[RBT-7] a machine that only needs the reboot gets it, with a latch and without apt', async (t) => {
  const story: Story = { outageMinutes: 5, isEmpty: true, isRebootDueBefore: true }
  const { result, steps, world } = tell(story)
  t.match(result, { outcome: 'succeeded', latched: true, rebootPending: false })
  t.match(result.message, /nothing was to be installed/)
  t.same(steps, ['claim', 'update', 'replan', 'pre-checks', 'latch', 'reboot', 'verify'])
  t.equal(world.installs, 0)
  t.equal(world.reboots.length, 1)
  for (let at = 5; at <= world.calls; at += 11) {
    const again = tell({ ...story, crashAt: [at] })
    t.equal(again.world.reboots.length, 1, `crash at call ${at}`)
    t.match(again.result, { outcome: 'succeeded', latched: true })
  }
})

t.test('[RBT-8] where a reboot is not allowed or not possible, a due one ends the run before the latch', async (t) => {
  const tables = '[allow]\nreboot = "never"\n'
  const before = tell({ outageMinutes: 5, isRebootDueBefore: true, tables })
  t.match(before.result, { outcome: 'failed', cause: 'reboot', step: 'replan', latched: false })
  t.match(before.result.message, /\[allow\] reboot = "never"/)
  t.equal(before.world.installs, 0)
  const after = tell({ outageMinutes: 5, wantsReboot: true, tables })
  t.match(after.result, { outcome: 'succeeded', rebootPending: true, message: /stays pending: this machine allows no/ })
  t.equal(after.world.reboots.length, 0)
  const allow = { reboot: 'as-ordered', windows: [], daysBetweenRunsMin: 0 } as const
  t.equal(rebootObjection({ aptRoot: null, runMode: 'systemd', allow }), null)
  t.match(rebootObjection({ aptRoot: '/r', runMode: 'systemd', allow }), /private package root/)
  t.match(rebootObjection({ aptRoot: null, runMode: 'detached', allow }), /not systemd's/)
})

t.test(
  '[RBT-9] a reboot is due by /run/reboot-required, a configured file, or a newer kernel of the same kind',
  async (t) => {
    const has = (...paths: string[]) => ({
      ...createRealDisk(),
      factsOf: (path: string) => (paths.includes(path) ? ({ kind: 'file', size: 0, mode: 0, uid: 0 } as const) : null),
      list: (folder: string) =>
        paths.filter((path) => path.startsWith(`${folder}/`)).map((path) => path.slice(folder.length + 1)),
    })
    const ports = (kernel: string, ...paths: string[]) => ({ disk: has(...paths), machine: { kernel } })
    const here = { root: null }
    t.equal(isRebootDue(ports('k', '/run/reboot-required'), here, []), true)
    t.equal(isRebootDue(ports('k', '/run/firmware'), here, []), false)
    t.equal(isRebootDue(ports('k', '/run/firmware'), here, ['/run/firmware']), true)
    t.equal(isRebootDue(ports('k', '/r/run/firmware'), { root: '/r' }, ['/run/firmware']), true)
    const [nine, ten] = ['6.1.0-9-amd64', '6.1.0-10-amd64']
    t.equal(newestKernel(ports(nine, `/boot/vmlinuz-${nine}`, `/boot/vmlinuz-${ten}`)), ten)
    t.equal(isRebootDue(ports(nine, `/boot/vmlinuz-${nine}`, `/boot/vmlinuz-${ten}`), here, []), true)
    t.equal(isRebootDue(ports(ten, `/boot/vmlinuz-${nine}`, `/boot/vmlinuz-${ten}`), here, []), false)
    t.equal(isRebootDue(ports(ten, `/boot/vmlinuz-${nine}`, `/boot/vmlinuz-${ten}`), { root: '/r' }, []), false)
    const cloud = '6.1.0-9-cloud-amd64'
    t.equal(newestKernel(ports(cloud, `/boot/vmlinuz-${cloud}`, `/boot/vmlinuz-${ten}`)), cloud)
    t.equal(newestKernel(ports(nine, `/boot/vmlinuz-${nine}`, `/boot/vmlinuz-${ten}.dpkg-new`)), nine)
    t.equal(
      newestKernel(
        ports('6.1.0-0.deb11.7-amd64', '/boot/vmlinuz-6.1.0-0.deb11.7-amd64', '/boot/vmlinuz-6.1.0-0.deb11.10-amd64'),
      ),
      '6.1.0-0.deb11.10-amd64',
    )
    t.equal(newestKernel(ports('6.8')), null)
    const config = checkAgentConfig('coordinator = "https://h"\n[run]\nreboot_when = ["/run/a"]\n', 'f')
    t.match(config, { rebootWhen: ['/run/a'] })
  },
)
