/** What may stand in the way of a run: told with the plan, looked at again before the latch; and what a run leaves. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { isOpen, nextOpening, parseWindow, runObjection, type Window } from '../../../agent/apt/allow.ts'
import { unitIn } from '../../../agent/apt/kernel.ts'
import {
  archiveWarnings,
  holderAdvice,
  holderText,
  readOnlyPaths,
  shortages,
  shortageText,
} from '../../../agent/apt/preflight.ts'
import { checkAgentConfig } from '../../../agent/config.ts'
import { createRealDisk, type Disk } from '../../../agent/disk/disk.ts'
import { conffileDebt, newDebt } from '../../../agent/runner/conffiles.ts'
import type { Install, Plan } from '../../../protocol/plan.ts'
import { play } from './booted.ts'
import { bytesOfRecords, createMachine, until } from './machine.ts'

const base = mkdtempSync(join(tmpdir(), 'smith-preflight-'))
t.teardown(() => rmSync(base, { recursive: true }))

const MB = 1_000_000
const install = (name: string, size = 1, from: string | null = '1.0'): Install => ({
  name,
  arch: 'all',
  version: '2.0',
  from,
  sha256: 'a'.repeat(64),
  size,
})
const planOf = (...installs: Install[]): Plan => ({
  v: 1,
  build: '725',
  arch: 'amd64',
  installs,
  removes: [],
  repairs: [],
  holds: [],
  rebootDue: false,
  conffiles: 'keep',
})

/** A disk on which each of these places is a filesystem of its own. */
function filesystems(
  free: Record<string, { bytes: number; inodes?: number }>,
  files: Record<string, number> = {},
): Disk {
  const placeOf = (path: string) =>
    Object.keys(free)
      .filter((place) => place === '/' || path === place || path.startsWith(`${place}/`))
      .toSorted((a, b) => b.length - a.length)[0] ?? '/'
  return {
    ...createRealDisk(),
    factsOf: (path) => ({ kind: 'file', size: files[path] ?? 0, mode: 0, uid: 0 }),
    list: (folder) =>
      Object.keys(files).flatMap((path) => (path.startsWith(`${folder}/`) ? [path.slice(folder.length + 1)] : [])),
    freeSpace: (path) => {
      const place = placeOf(path)
      return { device: place, freeBytes: free[place]?.bytes ?? 0, freeInodes: free[place]?.inodes ?? null }
    },
  }
}

const short = (disk: Disk, plan: Plan, unpackedBytes = 0, bytes = 0) =>
  shortages({
    disk,
    target: { root: null },
    plan,
    unpackedBytes,
    download: { folder: '/var/lib/smith', bytes },
    marginBytes: 64 * MB,
  }).map(shortageText)

t.test(
  '[PLN-7] space and inodes are counted on each filesystem that the plan touches, /boot only for kernels',
  async (t) => {
    t.same(short(filesystems({ '/': { bytes: 200 * MB } }), planOf(install('app', 10 * MB)), 50 * MB, 10 * MB), [])
    t.match(short(filesystems({ '/': { bytes: 120 * MB } }), planOf(install('app', 10 * MB)), 50 * MB, 10 * MB), [
      /^\/, \/usr, .*: 120 MB free, 164 MB needed$/,
    ])
    t.same(
      short(filesystems({ '/': { bytes: 1000 * MB }, '/var': { bytes: 70 * MB } }), planOf(install('app')), 0, 10 * MB),
      ['/var/lib/dpkg, /var/lib/smith: 70 MB free, 74 MB needed'],
    )
    const boot = { '/': { bytes: 1000 * MB }, '/boot': { bytes: 90 * MB } }
    const kernels = { '/boot/vmlinuz-6.1': 10 * MB, '/boot/initrd.img-6.1': 40 * MB }
    t.same(short(filesystems(boot, kernels), planOf(install('app'))), [], 'a full /boot is nobody else’s business')
    t.same(short(filesystems(boot, kernels), planOf(install('linux-image-6.1.0-10-amd64', 1, null))), [
      '/boot: 90 MB free, 100 MB needed; kernels there: 6.1',
    ])
    t.match(short(filesystems({ '/': { bytes: 1000 * MB, inodes: 1000 } }), planOf(install('new', 1, null))), [
      /1000 inodes free, \d+ inodes needed/,
    ])
  },
)

t.test('[PLN-7] filesystems that are read-only are told from those that only the sandbox shows so', async (t) => {
  const here = { root: null }
  const text = [
    '1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw,errors=remount-ro',
    '2 1 8:2 / /usr ro,relatime - ext4 /dev/b ro',
    '3 1 8:3 / /boot ro,nosuid - ext4 /dev/c rw',
    '4 1 0:5 / /mnt/with\\040space ro - tmpfs x ro',
  ].join('\n')
  t.same(readOnlyPaths(text, here, false), ['/usr', '/boot'])
  t.same(readOnlyPaths(text, here, true), ['/usr'])
  t.same(
    readOnlyPaths(`${text}\n9 1 8:2 / /usr rw - ext4 /dev/b rw`, here, false),
    ['/boot'],
    'what lies on top counts',
  )
  t.same(readOnlyPaths(text, { root: '/mnt/with space/r' }, false).length, 5)
  t.same(readOnlyPaths('', here, false), [])
  const broken = '1 0 8:1 / / ro,relatime - ext4 /dev/a ro,errors=remount-ro\n'
  t.same(readOnlyPaths(broken, here, true), ['/', '/usr', '/etc', '/var', '/boot'])
})

t.test('[PLN-7] an archive from the future and one that is about to expire are told', async (t) => {
  const lists = join(base, 'lists')
  mkdirSync(lists)
  const now = Date.UTC(2026, 0, 10)
  const release = (name: string, date: string, expiry: string) =>
    writeFileSync(join(lists, `h_dists_${name}_InRelease`), `Suite: ${name}\nDate: ${date}\n${expiry}`)
  release('good', 'Fri, 09 Jan 2026 00:00:00 UTC', 'Valid-Until: Sun, 18 Jan 2026 00:00:00 UTC\n')
  release('ahead', 'Sat, 10 Jan 2026 00:01:00 UTC', '')
  release('old', 'Fri, 09 Jan 2026 00:00:00 UTC', 'Valid-Until: Sun, 11 Jan 2026 00:00:00 UTC\n')
  t.same(archiveWarnings(createRealDisk(), lists, now), [
    'the Release file of h ahead is dated 60 s in the future: a clock is wrong',
    'the Release file of h old is valid until 2026-01-11T00:00:00.000Z only',
  ])
})

t.test(
  '[PLN-7] the warnings of a plan name the holder of a lock, closed windows and a reboot that is due',
  async (t) => {
    const machine = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0' }],
      limits: { free_bytes: 1e15 },
      tables: `[allow]\nwindows = [${closedNow()}]`,
    })
    t.teardown(machine.close)
    const lock = join(machine.root.root, 'var/lib/dpkg/lock-frontend')
    const holder = spawn('flock', ['-F', lock, 'sh', '-c', 'echo held; read line'], {
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    await new Promise((resolve) => holder.stdout.once('data', resolve))
    mkdirSync(join(machine.root.root, 'run'), { recursive: true })
    writeFileSync(join(machine.root.root, 'run/reboot-required'), '')
    const { warnings } = await machine.plan()
    holder.stdin.end()
    t.ok(warnings.some((one) => one.startsWith('too little space: ')))
    t.ok(warnings.some((one) => one === `process ${holder.pid} (sh -c echo held; read line) holds ${lock}`))
    t.ok(warnings.some((one) => /^runs are allowed here only in .*; the next opens /.test(one)))
    t.ok(warnings.includes('a reboot is due and stays pending with outage:0'))
  },
)

t.test('[RUN-60] who holds a lock is named with the unit that it belongs to', async (t) => {
  const controllers = '4:memory:/system.slice/wrong.service\n'
  for (const [text, unit] of [
    ['0::/system.slice/apt-daily-upgrade.service\n', 'apt-daily-upgrade.service'],
    [`${controllers}1:name=systemd:/system.slice/apt-daily.service\n0::/\n`, 'apt-daily.service'],
    ['0::/user.slice/user-1000.slice/session-3.scope\n', 'session-3.scope'],
    ['0::/user.slice/user-0.slice/user@0.service/app.slice/run-u7.service\n', 'run-u7.service'],
    ['0::/system.slice/a.service/payload\n', 'a.service'],
    [`${controllers}0::/init.scope\n`, null],
    ['', null],
  ] as const)
    t.equal(unitIn(text), unit, text)
  const holder = { pid: 7, command: 'dpkg -i \x1b[1m', unit: 'apt-daily.service', forMs: 0 }
  t.equal(holderText(holder), 'process 7 (dpkg -i \\x1b[1m) of apt-daily.service')
  t.match(holderAdvice(holder), /systemctl status apt-daily\.service/)
  t.equal(holderText({ ...holder, unit: null }), 'process 7 (dpkg -i \\x1b[1m)')
  t.match(holderAdvice({ ...holder, unit: null }), /ps -fp 7/)
})

t.test('[RUN-27] a machine without the space is refused before the latch, with nothing changed', async (t) => {
  const machine = await createMachine({
    installed: [{ name: 'app', version: '1.0' }],
    published: [{ name: 'app', version: '2.0' }],
    limits: { free_bytes: 1e15 },
  })
  t.teardown(machine.close)
  const { result } = await machine.run()
  t.match(result, { outcome: 'failed', cause: 'disk', step: 'pre-checks', latched: false, message: /too little space/ })
  t.equal((await machine.root.status('app'))?.version, '1.0')
})

const at = (day: number, hour: number, minute = 0) => ({ day, minute: hour * 60 + minute })
const windows = (...texts: string[]): Window[] => texts.flatMap((text) => parseWindow(text) ?? [])

/** A window of today that is not open now, whenever the test runs. */
function closedNow(): string {
  const hour = new Date().getHours()
  const two = (value: number) => String(value % 24).padStart(2, '0')
  return `"${two(hour + 6)}:00-${two(hour + 7)}:00"`
}

t.test('[RUN-28] windows are local times of the week, also over midnight, and the next opening is told', async (t) => {
  for (const text of ['22:00', '22:00-22:00', '25:00-26:00', '22:60-23:00', 'Foo 22:00-23:00', 'Mon-Fri-Sat 1:00-2:00'])
    t.equal(parseWindow(text), null, text)
  t.same(parseWindow('Fri-Mon,Wed 22:00-24:00'), {
    text: 'Fri-Mon,Wed 22:00-24:00',
    days: [0, 1, 3, 5, 6],
    from: 1320,
    to: 1440,
  })
  const night = windows('Mon-Fri 22:00-04:00')
  t.ok(isOpen(night, at(1, 22)) && isOpen(night, at(2, 3, 59)) && isOpen(night, at(6, 3)))
  t.notOk(
    isOpen(night, at(2, 4)) || isOpen(night, at(1, 3)) || isOpen(night, at(6, 23)) || isOpen(night, at(1, 21, 59)),
  )
  t.ok(isOpen([], at(0, 0)))
  t.equal(nextOpening(night, at(6, 5)), 'Mon 22:00')
  t.equal(nextOpening(windows('Sun 01:30-02:00', 'Wed 12:00-13:00'), at(0, 3)), 'Wed 12:00')
  const config = checkAgentConfig(
    'coordinator = "https://h"\n[allow]\nreboot = "never"\nwindows = ["22:00-04:00"]\nmin_days_between_runs = 7\n',
    'f',
  )
  t.match(config, { allow: { reboot: 'never', windows: [{ from: 1320, to: 240 }], daysBetweenRunsMin: 7 } })
  t.match(checkAgentConfig('coordinator = "https://h"\n[allow]\nwindows = ["soon"]\nreboot = "maybe"\n', 'f'), {
    refusals: [{ message: /^f:4: allow.reboot / }, { message: /^f:3: allow.windows.* must be like "22:00-04:00"/ }],
  })
})

t.test(
  '[RUN-28] outside its windows and too soon after another change the machine refuses before the latch',
  async (t) => {
    const allow = { reboot: 'as-ordered', windows: [], daysBetweenRunsMin: 7 } as const
    const day = 86_400_000
    const facts = (now: number, change: string) => ({
      now,
      local: at(1, 1),
      last: { at: 100 * day, change: 'CHG0000001' },
      change,
    })
    t.equal(runObjection(allow, facts(107 * day, 'CHG0000002')), null)
    t.match(runObjection(allow, facts(106 * day, 'CHG0000002')), /one run in 7 days; the last was for CHG0000001/)
    t.equal(runObjection(allow, facts(101 * day, 'CHG0000001')), null, 'a retry belongs to its change')
    t.equal(runObjection(allow, { ...facts(106 * day, 'CHG0000002'), last: null }), null)
    const free = { ...allow, daysBetweenRunsMin: 0 }
    t.equal(runObjection(free, facts(99 * day, 'CHG0000002')), null, 'without a rule a clock that went back is none')

    const machine = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0' }],
      tables: '[allow]\nmin_days_between_runs = 7',
    })
    t.teardown(machine.close)
    const planned = await machine.plan()
    t.match((await machine.run()).result, { outcome: 'succeeded' })
    const second = await machine.grantAndRun(planned, { change: 'CHG0000002' })
    t.match(second.result, {
      outcome: 'failed',
      cause: 'check',
      step: 'claim',
      latched: false,
      message: /one run in 7 days/,
    })
    const shut = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0' }],
      tables: `[allow]\nwindows = [${closedNow()}]`,
    })
    t.teardown(shut.close)
    const refused = await shut.run()
    t.match(refused.result, {
      outcome: 'failed',
      cause: 'check',
      step: 'claim',
      latched: false,
      message: /only in its windows/,
    })
    t.equal((await shut.root.status('app'))?.version, '1.0')
  },
)

t.test('[RUN-29] configuration files that the run kept are listed in the result, older ones are not', async (t) => {
  const conffiles = (text: string) => ({ '/etc/app.conf': text, '/etc/app.d/more.conf': text, '/etc/same.conf': text })
  const machine = await createMachine({
    installed: [{ name: 'app', version: '1.0', conffiles: conffiles('a\n') }],
    published: [{ name: 'app', version: '2.0', conffiles: conffiles('b\n') }],
  })
  t.teardown(machine.close)
  const etc = join(machine.root.root, 'etc')
  writeFileSync(join(etc, 'app.conf'), 'mine\n')
  writeFileSync(join(etc, 'app.d/more.conf'), 'mine too\n')
  writeFileSync(join(etc, 'years-ago.conf.dpkg-dist'), 'old\n')
  const { result, order } = await machine.run()
  t.match(result, { outcome: 'succeeded' })
  const kept = '/etc/app.conf.dpkg-dist, /etc/app.d/more.conf.dpkg-dist'
  t.match(result?.message, new RegExp(`; 2 configuration files were kept: ${kept}$`))
  t.same(
    result?.evidence,
    kept.split(', ').map((path) => `kept, with the package's version in ${path}`),
  )
  t.ok(machine.notesOf(order).some((note) => note.endsWith(kept)))
  t.equal(readFileSync(join(etc, 'app.conf.dpkg-dist'), 'utf8'), 'b\n')
  t.same(newDebt({ a: '1', b: '2' }, { a: '1', b: '3', c: '4' }), ['b', 'c'], 'one that was replaced is news')
  t.same(conffileDebt(machine.disk, join(base, 'nowhere')), {})
})

t.test(
  '[RUN-30] every failing check is named, and the time limit ends a check with what it started and nothing else',
  async (t) => {
    const machine = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0' }],
      limits: { check: 1 },
    })
    t.teardown(machine.close)
    const pids = join(base, 'pids')
    mkdirSync(pids)
    const quoted = (name: string) => `'${join(pids, name)}'`
    machine.check('pre', '10-drained', 'echo not drained; exit 3')
    machine.check(
      'pre',
      '20-hangs',
      `sleep 300 & echo $! > ${quoted('child')}\nsetsid sleep 300 & echo $! > ${quoted('own')}\necho waiting\nwait`,
    )
    machine.check('pre', '30-fine', 'echo fine')
    const { result, records } = await machine.run()
    const own = Number(readFileSync(join(pids, 'own'), 'utf8'))
    t.teardown(() => process.kill(own))
    t.match(result, { outcome: 'failed', cause: 'check', step: 'pre-checks', latched: false })
    t.equal(result?.message, 'check 10-drained ended with exit status 3; check 20-hangs took longer than 1 s')
    t.same(result?.evidence, ['not drained', 'waiting'])
    t.ok(bytesOfRecords(records).includes('fine\n'), 'the others were run all the same, and are in the log')
    const child = Number(readFileSync(join(pids, 'child'), 'utf8'))
    const isAlive = (pid: number) =>
      existsSync(`/proc/${pid}`) && !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
    await until('the end of the child', () => !isAlive(child))
    t.ok(isAlive(own), 'what has a session of its own is not the check’s')
  },
)

t.test(
  '[RUN-31] services that still run old code are reported by needrestart’s list, and none is restarted',
  async (t) => {
    const { result, notes } = play(join(base, 'needrestart'), { outageMinutes: 0, hasNeedrestart: true })
    t.match(result, {
      outcome: 'succeeded',
      advice: [/^These services still run what was replaced: systemctl restart cron.service$/],
    })
    t.ok(notes.some((note) => note === 'services that still run what was replaced (none is restarted): cron.service'))
    const without = play(join(base, 'without'), { outageMinutes: 0 })
    t.same(without.result.advice, [])
  },
)
