/** Whole runs on real apt and dpkg in a private root, each with the real runner, wrapper and hook. */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { aptFoldersOf } from '../../../agent/apt/command.ts'
import { RAW_BYTES } from '../../archive/behaviours.ts'
import { bytesOfRecords, createMachine, startsOf, until } from './machine.ts'

t.test('[RUN-1] a granted plan is installed, every line is recorded, and apt ran once', async (t) => {
  const machine = await createMachine({
    installed: [
      { name: 'app', version: '1.0' },
      { name: 'liba', version: '1.0' },
    ],
    published: [
      { name: 'app', version: '2.0', depends: 'liba (>= 2.0), libnew' },
      { name: 'liba', version: '2.0' },
      { name: 'libnew', version: '1.0' },
    ],
    auto: ['liba'],
  })
  t.teardown(machine.close)
  const planned = await machine.plan()
  t.equal(planned.plan.build, '725')
  t.same(
    planned.plan.installs.map((one) => [one.name, one.from, one.version]),
    [
      ['app', '1.0', '2.0'],
      ['liba', '1.0', '2.0'],
      ['libnew', null, '1.0'],
    ],
  )
  const { status, result, records, files, order } = await machine.run()
  t.equal(status, 0)
  t.match(result, { outcome: 'succeeded', cause: null, step: 'verify', latched: true, rebootPending: false })
  t.same(result?.installed, ['app:all=2.0', 'liba:all=2.0', 'libnew:all=1.0'])
  t.same(
    records.flatMap((one) => (one.type === 'step' ? [one.step] : [])),
    ['claim', 'update', 'replan', 'fetch', 'pre-checks', 'latch', 'install', 'post-checks', 'verify'],
  )
  const output = readFileSync(files.output)
  t.ok(bytesOfRecords(records).equals(output))
  t.equal(result?.outputBytes, output.length)
  t.equal(result?.outputSha256, createHash('sha256').update(output).digest('hex'))
  t.equal(startsOf(machine.history(), order), 1)
  t.same(await machine.root.autoPackages(), ['liba', 'libnew'])
  t.match(machine.log(), new RegExp(`${order} install Setting up app \\(2.0\\)`))
  t.ok(records.some((one) => one.type === 'progress'))
})

t.test('[RUN-2] output is recorded byte for byte, whatever a package prints', async (t) => {
  const machine = await createMachine({
    installed: ['chatty', 'raw', 'long', 'daemon', 'asker'].map((name) => ({ name, version: '1.0' })),
    published: [
      { name: 'chatty', version: '2.0', behaviours: [{ type: 'chatty', lines: 20_000 }] },
      { name: 'raw', version: '2.0', behaviours: [{ type: 'raw-bytes' }] },
      { name: 'long', version: '2.0', behaviours: [{ type: 'long-line', bytes: 200_000 }] },
      { name: 'daemon', version: '2.0', behaviours: [{ type: 'daemon', file: '/run/daemon.pid' }] },
      { name: 'asker', version: '2.0', behaviours: [{ type: 'prompt' }] },
    ].map(
      (spec) =>
        ({
          ...spec,
          behaviours: spec.behaviours.map((one) => ('file' in one ? { ...one, file: 'run/daemon.pid' } : one)),
        }) as never,
    ),
  })
  t.teardown(machine.close)
  const { result, records, files } = await machine.run()
  t.match(result, { outcome: 'succeeded' }, result?.message ?? 'no result')
  const output = readFileSync(files.output)
  const bytes = bytesOfRecords(records)
  t.equal(bytes.length, result?.outputBytes)
  t.ok(bytes.equals(output.subarray(0, bytes.length)))
  t.equal(createHash('sha256').update(bytes).digest('hex'), result?.outputSha256)
  t.ok(bytes.includes(RAW_BYTES))
  t.ok(bytes.includes(Buffer.alloc(200_000, 'x')))
  t.ok(bytes.includes('chatty: line 20000 of 20000'))
  t.ok(records.some((one) => one.type === 'line' && 'base64' in one))
})

t.test(
  '[RUN-3] a failing script is named with its lines, and a second order repairs what the first left',
  async (t) => {
    const machine = await createMachine({
      installed: [
        { name: 'app', version: '1.0' },
        { name: 'web', version: '1.0' },
      ],
      published: [
        { name: 'app', version: '2.0' },
        {
          name: 'web',
          version: '2.0',
          behaviours: [{ type: 'fail-once', marker: 'run/once', message: 'web: port 80 is taken' }],
        },
      ],
    })
    t.teardown(machine.close)
    const planned = await machine.plan()
    const first = machine.grantFor(planned)
    machine.drop(first.order, first.grant)
    t.equal(await machine.startRunner().ended, 0)
    const failed = machine.resultOf(first.order)
    t.match(failed, { outcome: 'failed', cause: 'maintainer-script', step: 'install', latched: true })
    t.match(failed?.message, /postinst|post-installation script of web/)
    t.ok(
      failed?.evidence.some((line) => line.includes('web: port 80 is taken')),
      JSON.stringify(failed?.evidence),
    )
    t.match((await machine.root.status('web'))?.state, /half-configured/)
    const second = await machine.run({ attempt: 2 })
    t.match(second.result, { outcome: 'succeeded', cause: null })
    t.equal((await machine.root.status('web'))?.state, 'install ok installed')
    t.equal(await machine.root.audit(), '')
  },
)

t.test('[PLN-11] what another program is in the middle of is no repair when it ends in time', async (t) => {
  const machine = await createMachine({
    installed: [
      { name: 'app', version: '1.0' },
      { name: 'web', version: '1.0' },
    ],
    published: [{ name: 'app', version: '2.0' }],
  })
  t.teardown(machine.close)
  const database = join(machine.root.root, 'var/lib/dpkg')
  const [status, whole] = [join(database, 'status'), join(database, 'whole')]
  const text = readFileSync(status, 'utf8')
  writeFileSync(whole, text)
  writeFileSync(status, text.replace(/(Package: web\nStatus: install ok )installed/, '$1half-configured'))
  const other = spawn('flock', [join(database, 'lock'), 'sh', '-c', 'echo; sleep 2; mv "$1" "$2"', 'sh', whole, status])
  await new Promise((resolve) => other.stdout.once('data', resolve))
  const { plan } = await machine.plan()
  t.same(plan.repairs, [])
  t.same(
    plan.installs.map((one) => one.name),
    ['app'],
  )
})

t.test('[RUN-51] what dpkg had no time to merge into its status counts, and alone stops no run', async (t) => {
  for (const state of ['half-configured', 'installed']) {
    const machine = await createMachine({
      installed: [
        { name: 'app', version: '1.0' },
        { name: 'web', version: '1.0' },
      ],
      published: [
        { name: 'app', version: '2.0' },
        { name: 'web', version: '1.0' },
      ],
    })
    t.teardown(machine.close)
    const database = join(machine.root.root, 'var/lib/dpkg')
    const stanza = /^Package: web\n(?:.+\n)*/m.exec(readFileSync(join(database, 'status'), 'utf8'))?.[0] ?? ''
    // As the plug leaves it: the newest word on a package stands in a file of its own (dpkg's lib/dpkg/dbmodify.c).
    writeFileSync(join(database, 'updates/0007'), stanza.replace(/^Status: .*$/m, `Status: install ok ${state}`))
    writeFileSync(join(database, 'updates/tmp.i'), '')
    const { plan } = await machine.plan()
    t.same(
      plan.repairs.map((one) => `${one.name} ${one.state}`),
      state === 'installed' ? [] : ['web half-configured'],
    )
    const { result } = await machine.run()
    t.match(result, { outcome: 'succeeded', cause: null })
    t.equal((await machine.root.status('app'))?.version, '2.0')
    t.equal((await machine.root.status('web'))?.state, 'install ok installed')
    t.equal(await machine.root.audit(), '')
  }
})
t.test(
  '[RUN-3] a repair that fails: a new version is tried as the cure, and with none the script runs once',
  async (t) => {
    const count = 'echo ran >> "$DPKG_ROOT/run/count"'
    const broken = (version: string) => ({ name: 'app', version, postinst: `${count}; exit 3` })
    const machine = await createMachine({ installed: [{ name: 'app', version: '1.0' }], published: [broken('2.0')] })
    t.teardown(machine.close)
    const counts = () => readFileSync(join(machine.root.root, 'run/count'), 'utf8').split('\n').length - 1
    const planned = await machine.plan()
    t.match((await machine.grantAndRun(planned)).result, { outcome: 'failed', cause: 'maintainer-script' })
    t.equal(counts(), 1)
    const again = await machine.grantAndRun(planned, { attempt: 2 })
    t.match(again.result, {
      outcome: 'failed',
      cause: 'maintainer-script',
      message: /post-installation script of app/,
      latched: true,
    })
    t.equal(counts(), 2, 'apt would only have run the same script once more')
    await machine.publish([{ name: 'app', version: '3.0' }])
    const cured = await machine.run()
    t.match(cured.result, { outcome: 'succeeded' }, JSON.stringify(cured.result))
    t.equal(counts(), 3, 'the broken script was tried before its cure')
    t.equal((await machine.root.status('app'))?.version, '3.0')
  },
)

t.test('[RUN-4] a retry of the approved plan may be smaller, a first try may not', async (t) => {
  const machine = await createMachine({
    installed: [
      { name: 'app', version: '1.0' },
      { name: 'web', version: '1.0' },
    ],
    published: [
      { name: 'app', version: '2.0' },
      { name: 'web', version: '2.0' },
    ],
  })
  t.teardown(machine.close)
  const planned = await machine.plan()
  const app = await machine.build([{ name: 'app', version: '2.0' }])
  await machine.root.dpkg(['--install', app[0]?.path ?? ''])
  const first = machine.grantFor(planned)
  machine.drop(first.order, first.grant)
  await machine.startRunner().ended
  t.match(machine.resultOf(first.order), { outcome: 'failed', cause: 'plan-drift', step: 'replan', latched: false })
  t.equal((await machine.root.status('web'))?.version, '1.0')
  const second = machine.grantFor(planned, { attempt: 2 })
  machine.drop(second.order, second.grant)
  await machine.startRunner().ended
  t.match(machine.resultOf(second.order), { outcome: 'succeeded', latched: true })
  t.equal((await machine.root.status('web'))?.version, '2.0')
  const third = machine.grantFor(planned, { attempt: 3 })
  machine.drop(third.order, third.grant)
  await machine.startRunner().ended
  t.match(machine.resultOf(third.order), { outcome: 'succeeded', latched: false, message: 'nothing was left to do' })
  const newer = await machine.build([{ name: 'web', version: '3.0' }])
  await machine.root.dpkg(['--install', newer[0]?.path ?? ''])
  const fourth = machine.grantFor(planned, { attempt: 4 })
  machine.drop(fourth.order, fourth.grant)
  await machine.startRunner().ended
  const overtaken = { outcome: 'failed', cause: 'plan-drift', step: 'replan', latched: false }
  t.match(machine.resultOf(fourth.order), overtaken, 'what another hand installed is not what was approved')
})

t.test(
  '[RUN-5] a version published after the approval is drift and nothing is installed; a new signature is none',
  async (t) => {
    const machine = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0' }],
    })
    t.teardown(machine.close)
    const planned = await machine.plan()
    await machine.publish([{ name: 'app', version: '3.0' }])
    const first = machine.grantFor(planned)
    machine.drop(first.order, first.grant)
    await machine.startRunner().ended
    t.match(machine.resultOf(first.order), {
      outcome: 'failed',
      cause: 'plan-drift',
      latched: false,
      evidence: [/app:all is at 3.0 now, approved was 2.0/],
    })
    t.equal((await machine.root.status('app'))?.version, '1.0')
    t.equal(machine.history(), '')
    const again = await machine.plan()
    await machine.archive.resign('725', { date: new Date() })
    const second = machine.grantFor(again)
    machine.drop(second.order, second.grant)
    await machine.startRunner().ended
    t.match(machine.resultOf(second.order), { outcome: 'succeeded' })
  },
)

t.test('[RUN-6] an archive swapped after the download is caught by the hook and nothing is unpacked', async (t) => {
  const machine = await createMachine({
    installed: [{ name: 'app', version: '1.0' }],
    published: [{ name: 'app', version: '2.0' }],
  })
  t.teardown(machine.close)
  const planned = await machine.plan()
  const { order, grant } = machine.grantFor(planned)
  // A check of the administrator is the last thing before the latch: here it plays the thief, and keeps the size.
  const archive = join(machine.files(order).apt, 'cache/archives/app_2.0_all.deb')
  machine.check('pre', 'swap', `size=$(stat -c %s ${archive}); head -c $size /dev/zero > ${archive}`)
  machine.drop(order, grant)
  await machine.startRunner().ended
  const result = machine.resultOf(order)
  t.match(result, { outcome: 'failed', cause: 'plan-drift', step: 'install', latched: true })
  t.match(result?.message, /app:all=2.0 has other content/)
  t.equal((await machine.root.status('app'))?.version, '1.0')
  t.equal(await machine.root.audit(), '')
})

t.test('[RUN-7] checks before and after: a failing one before leaves the machine as it is', async (t) => {
  const machine = await createMachine({
    installed: [{ name: 'app', version: '1.0' }],
    published: [{ name: 'app', version: '2.0' }],
    limits: { check: 0.3 },
  })
  t.teardown(machine.close)
  machine.check('pre', '10-drained', 'echo "node is not drained"; exit 1')
  const first = await machine.run()
  t.match(first.result, {
    outcome: 'failed',
    cause: 'check',
    step: 'pre-checks',
    latched: false,
    evidence: ['node is not drained'],
  })
  machine.check('pre', '10-drained', 'echo "$SMITH_CHANGE $SMITH_ROOT"')
  machine.check('post', 'hangs', 'sleep 600')
  const second = await machine.run()
  t.match(second.result, {
    outcome: 'failed',
    cause: 'check',
    step: 'post-checks',
    latched: true,
    message: /hangs took longer than/,
  })
  t.ok(bytesOfRecords(second.records).includes(`CHG0000001 ${machine.root.root}\n`))
})

t.test(
  '[RUN-8] an archive that the agent prefetched is used when its copy has the right content, and only then',
  async (t) => {
    const machine = await createMachine({
      installed: ['app', 'bad', 'link'].map((name) => ({ name, version: '1.0' })),
      published: ['app', 'bad', 'link'].map((name) => ({ name, version: '2.0' })),
    })
    t.teardown(machine.close)
    const { order, grant } = machine.grantFor(await machine.plan())
    const folder = aptFoldersOf(join(machine.layout.prefetch, order)).archives
    mkdirSync(folder, { recursive: true })
    const [app, bad, link] = await machine.build(['app', 'bad', 'link'].map((name) => ({ name, version: '2.0' })))
    copyFileSync(app?.path ?? '', join(folder, 'app_2.0_all.deb'))
    writeFileSync(join(folder, 'bad_2.0_all.deb'), Buffer.alloc(bad?.size ?? 0))
    symlinkSync(link?.path ?? '', join(folder, 'link_2.0_all.deb'))
    machine.drop(order, grant)
    await machine.startRunner().ended
    t.match(machine.resultOf(order), { outcome: 'succeeded' })
    const fetched = machine.server.requests
      .filter((one) => one.path.endsWith('.deb'))
      .map((one) => one.path.replace(/.*\//, ''))
    t.same(fetched.toSorted(), ['bad_2.0_all.deb', 'link_2.0_all.deb'])
    const notes = machine.notesOf(order)
    t.ok(notes.includes('prefetched bad_2.0_all.deb is not used: its content is not what the index says'))
    t.ok(notes.includes('prefetched link_2.0_all.deb is not used: it is no regular file'))
  },
)

t.test(
  '[RUN-9] a removal that was approved is done, conffiles of the administrator and apt holds are kept',
  async (t) => {
    const machine = await createMachine({
      installed: [
        { name: 'app', version: '1.0', conffiles: { '/etc/app.conf': 'a\n' } },
        { name: 'gone', version: '1.0' },
        { name: 'held', version: '1.0' },
      ],
      published: [
        { name: 'app', version: '2.0', conflicts: 'gone', replaces: 'gone', conffiles: { '/etc/app.conf': 'b\n' } },
        { name: 'held', version: '2.0' },
      ],
    })
    t.teardown(machine.close)
    await machine.root.hold('held')
    writeFileSync(join(machine.root.root, 'etc/app.conf'), 'mine\n')
    const planned = await machine.plan()
    t.same(planned.plan.removes, [{ name: 'gone', arch: 'all', version: '1.0' }])
    t.same(planned.plan.holds, ['held'])
    const { result } = await machine.run()
    t.match(result, { outcome: 'succeeded' }, result?.message ?? '')
    t.equal(readFileSync(join(machine.root.root, 'etc/app.conf'), 'utf8'), 'mine\n')
    t.equal((await machine.root.status('held'))?.version, '1.0')
    t.not((await machine.root.status('gone'))?.state, 'install ok installed')
  },
)

t.test(
  '[RUN-10] a reboot that is due is reported as pending with outage:0, and refused where it can not be done',
  async (t) => {
    const machine = await createMachine({
      installed: [{ name: 'app', version: '1.0' }],
      published: [{ name: 'app', version: '2.0', behaviours: [{ type: 'reboot' }] }],
    })
    t.teardown(machine.close)
    const { result } = await machine.run()
    t.match(result, { outcome: 'succeeded', rebootPending: true })
    t.equal((await machine.plan()).plan.rebootDue, true)
    t.match(await machine.ask('prod', 15), {
      kind: 'cannot-plan',
      message: /private package root can't be rebooted/,
    })
  },
)

t.test('[RUN-11] output beyond the bound is dropped with a record that says so, and its end is kept', async (t) => {
  const machine = await createMachine({
    installed: [{ name: 'app', version: '1.0' }],
    published: [{ name: 'app', version: '2.0', behaviours: [{ type: 'chatty', lines: 30_000 }] }],
    limits: { output_bytes: 65_536 },
  })
  t.teardown(machine.close)
  const { result, records, files } = await machine.run()
  t.match(result, { outcome: 'succeeded' })
  const hole = records.find((one) => one.type === 'hole')
  t.match(hole, { reason: 'bound', offset: 65_536 })
  const output = readFileSync(files.output)
  t.equal(result?.outputBytes, output.length)
  const lines = records.filter((one) => one.type === 'line')
  const kept = Buffer.concat(
    lines.map((one) => ('text' in one ? Buffer.from(one.text) : Buffer.from(one.base64, 'base64'))),
  )
  t.equal(kept.length + (hole?.type === 'hole' ? hole.bytes : 0), output.length)
  t.ok(kept.subarray(-1000).equals(output.subarray(-1000)))
})

t.test('[RUN-12] a repository that went back to an older state is refused before the latch', async (t) => {
  const machine = await createMachine({
    installed: [{ name: 'app', version: '1.0' }],
    published: [{ name: 'app', version: '2.0' }],
  })
  t.teardown(machine.close)
  await machine.publish([
    { name: 'app', version: '2.0' },
    { name: 'other', version: '1.0' },
  ])
  const planned = await machine.plan()
  await machine.archive.rollBack('725')
  const { order, grant } = machine.grantFor(planned)
  machine.drop(order, grant)
  await machine.startRunner().ended
  t.match(machine.resultOf(order), {
    outcome: 'failed',
    cause: 'repo',
    step: 'update',
    latched: false,
    message: /went back/,
  })
})

t.test(
  '[RUN-26] a package that hangs is shown with its processes and left alone; so is the holder of a lock',
  async (t) => {
    const machine = await createMachine({
      installed: [
        { name: 'app', version: '1.0' },
        { name: 'other', version: '1.0' },
      ],
      published: [
        { name: 'app', version: '2.0', behaviours: [{ type: 'hang', file: 'run/gate' }] },
        { name: 'other', version: '1.0' },
      ],
      limits: { quiet: 1, lock_wait: 0.3 },
    })
    t.teardown(machine.close)
    const lock = join(machine.root.root, 'var/lib/dpkg/lock-frontend')
    const holder = spawn('flock', ['-F', lock, 'sh', '-c', 'echo held; read line'], {
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    await new Promise((resolve) => holder.stdout.once('data', resolve))
    const first = await machine.run()
    t.match(first.result, { outcome: 'failed', cause: 'lock', step: 'replan', latched: false })
    t.match(
      first.result?.message,
      new RegExp(`process ${holder.pid} \\(sh -c echo held; read line\\), running for [0-9]+ s, holds ${lock}`),
    )
    t.ok(machine.notesOf(first.order).some((note) => note.startsWith(`waiting: process ${holder.pid} `)))
    holder.stdin.end()
    const second = machine.grantFor(await machine.plan())
    machine.drop(second.order, second.grant)
    const runner = machine.startRunner()
    await until('the note', () => machine.notesOf(second.order).some((note) => /no output for .*postinst/.test(note)))
    await machine.root.gate('run/gate').open()
    t.equal(await runner.ended, 0)
    t.match(machine.resultOf(second.order), { outcome: 'succeeded' })
  },
)
