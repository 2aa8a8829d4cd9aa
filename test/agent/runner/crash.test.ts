/**
 * kill -9 of runner, wrapper and apt at each step, named by what holds the run there: a stalled archive, a check
 * that waits, a package that waits. Afterwards the result is true, apt ran at most once, no line is lost or doubled.
 */
import { createHash } from 'node:crypto'
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Step } from '../../../protocol/files.ts'
import { bytesOfRecords, createMachine, type Machine, startsOf, until } from './machine.ts'

const scenario = {
  installed: [
    { name: 'app', version: '1.0' },
    { name: 'gate', version: '1.0' },
  ],
  published: [
    { name: 'app', version: '2.0' },
    { name: 'gate', version: '2.0', behaviours: [{ type: 'gate', file: 'run/gate' }] },
  ],
} as const

/** Everything that must hold of a run that has ended, however it was treated. */
function checkLog(t: Test, machine: Machine, order: string): void {
  const records = machine.recordsOf(order)
  const bytes = bytesOfRecords(records)
  const result = machine.resultOf(order)
  t.ok(bytes.equals(readFileSync(machine.files(order).output).subarray(0, bytes.length)), 'the records are the output')
  t.equal(createHash('sha256').update(bytes).digest('hex'), result?.outputSha256)
  t.equal(records.filter((one) => one.type === 'result').length, 1)
  t.equal(records.at(-1)?.type, 'result')
}

/** Starts a run that is held in the given step, and tells how to let it go on. */
async function holdAt(
  machine: Machine,
  step: Step,
): Promise<{ order: string; pid: number; ended: Promise<number | string>; release: () => Promise<void> }> {
  const gate = machine.root.gate('run/gate')
  const file = join(machine.dir, 'go')
  const { order, grant } = machine.grantFor(await machine.plan())
  let release = async () => gate.open()
  const also = async (act: () => void) => {
    act()
    await gate.open()
  }
  if (step === 'update' || step === 'fetch') {
    const path = step === 'update' ? 'InRelease' : '.deb'
    const lift = machine.server.misbehave({ kind: 'stall', path, afterBytes: 10 })
    release = () => also(lift)
    machine.drop(order, grant)
    const runner = machine.startRunner()
    await lift.reached
    await until(step, () => machine.step(order) === step)
    return { order, ...runner, release }
  }
  if (step === 'pre-checks' || step === 'post-checks') {
    machine.check(
      step === 'pre-checks' ? 'pre' : 'post',
      'wait',
      `echo waiting; touch ${file}.reached; while [ ! -e ${file} ]; do sleep 0.05; done`,
    )
    release = () => also(() => writeFileSync(file, ''))
    machine.drop(order, grant)
    const runner = machine.startRunner()
    if (step === 'post-checks') await gate.open()
    await until(step, () => existsSync(`${file}.reached`) && machine.step(order) === step)
    return { order, ...runner, release }
  }
  machine.drop(order, grant)
  const runner = machine.startRunner()
  await gate.reached()
  await until(step, () => machine.step(order) === 'install')
  return { order, ...runner, release }
}

for (const step of ['update', 'fetch', 'pre-checks', 'install', 'post-checks'] as const) {
  t.test(`[RUN-13] the runner is killed in ${step} and started again: the run ends with its true result`, async (t) => {
    const machine = await createMachine(scenario)
    t.teardown(machine.close)
    const held = await holdAt(machine, step)
    process.kill(held.pid, 'SIGKILL')
    t.equal(await held.ended, 'SIGKILL')
    const isLatched = step === 'install' || step === 'post-checks'
    t.equal(existsSync(machine.files(held.order).latch), isLatched)
    t.equal(machine.resultOf(held.order), undefined)
    const again = machine.startRunner()
    await held.release()
    t.equal(await again.ended, 0)
    t.match(
      machine.resultOf(held.order),
      { outcome: 'succeeded', latched: true },
      JSON.stringify(machine.resultOf(held.order)),
    )
    t.equal(startsOf(machine.history(), held.order), 1)
    checkLog(t, machine, held.order)
  })
}

function lockIsFree(path: string): boolean {
  try {
    execFileSync('flock', ['-n', path, 'true'])
    return true
  } catch {
    return false
  }
}

/** The pid of a program of the order, by a word of its command line. */
function pidOf(order: string, word: RegExp): number {
  const lines = execFileSync('ps', ['-eo', 'pid=,args='], { encoding: 'utf8' }).split('\n')
  const line = lines.find((one) => one.includes(order) && word.test(one))
  if (line === undefined) throw new Error(`no process of ${order} matches ${word}:\n${lines.join('\n')}`)
  return Number(line.trim().split(' ')[0])
}

t.test('[RUN-14] the wrapper is killed: apt goes on, and its success is settled by evidence', async (t) => {
  const machine = await createMachine(scenario)
  t.teardown(machine.close)
  const held = await holdAt(machine, 'install')
  process.kill(pidOf(held.order, /wrapper\.ts/), 'SIGKILL')
  await held.release()
  t.equal(await held.ended, 0)
  t.match(machine.resultOf(held.order), { outcome: 'succeeded', message: /settled by evidence/ })
  t.equal(existsSync(machine.files(held.order).exit), false)
  t.equal(startsOf(machine.history(), held.order), 1)
  checkLog(t, machine, held.order)
})

t.test(
  '[RUN-15] nothing proves how apt ended: the answer is unknown, for ever, and apt is not started again',
  async (t) => {
    const machine = await createMachine(scenario)
    t.teardown(machine.close)
    const held = await holdAt(machine, 'install')
    process.kill(held.pid, 'SIGKILL')
    process.kill(pidOf(held.order, /wrapper\.ts/), 'SIGKILL')
    await held.release()
    execFileSync('flock', [machine.files(held.order).lock, 'true'])
    t.equal(startsOf(machine.history(), held.order), 1)
    // All that is left is what apt did: it might have been killed right after.
    rmSync(join(machine.root.root, 'var/log/apt/history.log'))
    t.equal(await machine.startRunner().ended, 0)
    t.match(machine.resultOf(held.order), {
      outcome: 'unknown',
      cause: 'internal',
      step: 'install',
      latched: true,
      installed: ['app:all=2.0', 'gate:all=2.0'],
      evidence: [/no entry of this order/],
    })
    checkLog(t, machine, held.order)
    t.equal(await machine.startRunner().ended, 0)
    t.equal(startsOf(machine.history(), held.order), 0)
  },
)

/** kill -9 of the runner and of everything of the order, as the end of a machine is: nothing has time to say a word. */
async function killAll(machine: Machine, held: Awaited<ReturnType<typeof holdAt>>): Promise<void> {
  const lines = execFileSync('ps', ['-eo', 'pid=,args='], { encoding: 'utf8' }).split('\n')
  const pids = lines.flatMap((line) =>
    line.includes(held.order) || line.includes(machine.root.root) ? [Number(line.trim().split(' ')[0])] : [],
  )
  for (const pid of [held.pid, ...pids]) process.kill(pid, 'SIGKILL')
  await held.ended
}

for (const [script, says] of [
  ['prerm', 'gate:all 1.0 is half configured, and 2.0 is planned'],
  ['preinst', 'gate:all 1.0 is half installed, and 2.0 is planned'],
  ['postinst', 'gate:all 2.0 is half configured'],
] as const) {
  t.test(
    `[RUN-50] all is killed in a ${script}, dpkg too: the order has failed, and the retry alone repairs`,
    async (t) => {
      const gate = { name: 'gate', behaviours: [{ type: 'gate', script, file: 'run/gate' }] } as const
      const machine = await createMachine({
        installed: [
          { name: 'app', version: '1.0' },
          script === 'prerm' ? { ...gate, version: '1.0' } : { name: 'gate', version: '1.0' },
        ],
        published: [
          { name: 'app', version: '2.0' },
          script === 'prerm' ? { name: 'gate', version: '2.0' } : { ...gate, version: '2.0' },
        ],
      })
      t.teardown(machine.close)
      const approved = await machine.plan()
      const held = await holdAt(machine, 'install')
      await killAll(machine, held)
      await held.release()
      t.equal(await machine.startRunner().ended, 0)
      const result = machine.resultOf(held.order)
      t.match(result, { outcome: 'failed', cause: 'dpkg-interrupted', step: 'install', latched: true })
      t.ok(result?.evidence.includes(says), JSON.stringify(result?.evidence))
      t.ok(result?.evidence.includes('app:all 2.0 is unpacked and not configured'), JSON.stringify(result?.evidence))
      t.match(result?.advice.join(), /retry/i)
      checkLog(t, machine, held.order)
      const again = await machine.grantAndRun(approved, { attempt: 2 })
      t.match(again.result, { outcome: 'succeeded' }, JSON.stringify(again.result))
      t.equal((await machine.root.status('gate'))?.version, '2.0')
      t.equal(await machine.root.audit(), '')
      t.equal((await machine.root.apt(['check'])).exitCode, 0, 'apt finds no interrupted dpkg')
    },
  )
}

t.test('[RUN-51] a machine on which dpkg was killed plans with what its journal says, and is repaired', async (t) => {
  const machine = await createMachine({ ...scenario, published: scenario.installed })
  t.teardown(machine.close)
  const journal = join(machine.root.root, 'var/lib/dpkg/updates')
  const stanza = (await machine.root.dpkg(['--status', 'gate'])).output
  const write = (status: string) =>
    writeFileSync(join(journal, '0000'), stanza.replace(/^Status: .*$/m, `Status: ${status}`))
  write('install ok half-configured')
  t.match((await machine.plan()).plan.repairs, [{ name: 'gate', version: '1.0', state: 'half-configured' }])
  write('install ok installed')
  const planned = await machine.plan()
  t.match(planned.warnings.join(), /dpkg was interrupted/)
  // Nothing is left to repair but the journal, without which apt does nothing on this machine.
  const { result } = await machine.grantAndRun(planned)
  t.match(result, { outcome: 'succeeded' }, JSON.stringify(result))
  t.strictSame(
    readdirSync(journal).filter((name) => /^[0-9]+$/.test(name)),
    [],
  )
})

t.test('[RUN-52] the wrapper is killed and a script then fails: apt said so, and the failure is named', async (t) => {
  const machine = await createMachine({
    ...scenario,
    published: [
      { name: 'app', version: '2.0' },
      {
        name: 'gate',
        version: '2.0',
        behaviours: [
          { type: 'gate', file: 'run/gate' },
          { type: 'fail', message: 'the gate is stuck' },
        ],
      },
    ],
  })
  t.teardown(machine.close)
  const held = await holdAt(machine, 'install')
  process.kill(pidOf(held.order, /wrapper\.ts/), 'SIGKILL')
  await held.release()
  t.equal(await held.ended, 0)
  const result = machine.resultOf(held.order)
  t.match(result, { outcome: 'failed', cause: 'maintainer-script', latched: true }, JSON.stringify(result))
  t.match(result?.evidence.join('\n'), /the gate is stuck/)
  checkLog(t, machine, held.order)
})

t.test(
  '[RUN-53] apt alone is killed: dpkg is waited for, and the order has failed with dpkg-interrupted',
  async (t) => {
    const machine = await createMachine(scenario)
    t.teardown(machine.close)
    const held = await holdAt(machine, 'install')
    process.kill(pidOf(held.order, /^ *\d+ apt-get .*dist-upgrade/), 'SIGKILL')
    await until('dpkg to be waited for', () =>
      machine
        .notesOf(held.order)
        .some((note) => /^apt is gone, and process \d+ \(.*dpkg.* is still at work/.test(note)),
    )
    t.equal(machine.resultOf(held.order), undefined, 'dpkg is still at work')
    await held.release()
    t.equal(await held.ended, 0)
    t.match(machine.resultOf(held.order), {
      outcome: 'failed',
      cause: 'dpkg-interrupted',
      message: /SIGKILL/,
      latched: true,
    })
    checkLog(t, machine, held.order)
  },
)

t.test('[RUN-53] dpkg is killed and its script lives on: the script is waited for', async (t) => {
  const machine = await createMachine(scenario)
  t.teardown(machine.close)
  const held = await holdAt(machine, 'install')
  process.kill(pidOf(held.order, /wrapper\.ts/), 'SIGKILL')
  const pids = execFileSync('pgrep', ['-f', `(dpkg|apt-get) .*${machine.dir}`], { encoding: 'utf8' })
    .trim()
    .split('\n')
  for (const pid of pids) process.kill(Number(pid), 'SIGKILL')
  await until('the script to be waited for', () =>
    machine
      .notesOf(held.order)
      .some((note) => /^apt is gone, and process \d+ \(.*gate\.postinst.* is still at work/.test(note)),
  )
  await held.release()
  t.equal(await held.ended, 0)
  t.match(machine.resultOf(held.order), { outcome: 'failed', cause: 'dpkg-interrupted' })
})

t.test("[RUN-16] a daemon that a package leaves behind does not hold the order's lock", async (t) => {
  const machine = await createMachine({
    installed: [{ name: 'daemon', version: '1.0' }],
    published: [
      {
        name: 'daemon',
        version: '2.0',
        behaviours: [
          { type: 'daemon', file: 'run/daemon.pid' },
          { type: 'fail-once', marker: 'run/once' },
        ],
      },
    ],
  })
  t.teardown(machine.close)
  const first = await machine.run()
  t.match(first.result, { outcome: 'failed', cause: 'maintainer-script' })
  const pid = Number(readFileSync(join(machine.root.root, 'run/daemon.pid'), 'utf8'))
  t.ok(existsSync(`/proc/${pid}`), 'the daemon lives')
  t.ok(lockIsFree(first.files.lock))
  // The second run starts it from dpkg --configure -a, which apt does not stand between.
  const second = await machine.run({ attempt: 2 })
  t.match(second.result, { outcome: 'succeeded' })
  t.ok(lockIsFree(second.files.lock))
  process.kill(pid)
})

t.test('[RUN-17] a torn record is cut again and a damaged output is put back from the records', async (t) => {
  const machine = await createMachine(scenario)
  t.teardown(machine.close)
  const held = await holdAt(machine, 'pre-checks')
  process.kill(held.pid, 'SIGKILL')
  await held.ended
  const files = machine.files(held.order)
  const records = readFileSync(files.records, 'utf8')
  writeFileSync(files.records, records.slice(0, -20))
  rmSync(files.output)
  const again = machine.startRunner()
  await held.release()
  t.equal(await again.ended, 0)
  t.match(machine.resultOf(held.order), { outcome: 'succeeded' })
  checkLog(t, machine, held.order)
})

t.test('[RUN-18] a second runner ends at once and harms nothing', async (t) => {
  const machine = await createMachine(scenario)
  t.teardown(machine.close)
  const held = await holdAt(machine, 'install')
  t.equal(await machine.startRunner().ended, 75)
  process.kill(held.pid, 'SIGTERM')
  await held.release()
  await held.ended
  t.ok(existsSync(machine.files(held.order).exit), 'after the latch it stays until apt has ended')
  t.equal(await machine.startRunner().ended, 0)
  t.match(machine.resultOf(held.order), { outcome: 'succeeded' })
  t.equal(startsOf(machine.history(), held.order), 1)
})

for (const step of ['pre-checks', 'post-checks'] as const) {
  t.test(`[RUN-41] told to end in ${step}, the runner goes at once and the run is taken up again`, async (t) => {
    const machine = await createMachine(scenario)
    t.teardown(machine.close)
    const held = await holdAt(machine, step)
    process.kill(held.pid, 'SIGTERM')
    t.equal(await held.ended, 143, 'the check that waits does not hold it up')
    t.equal(machine.resultOf(held.order), undefined)
    t.equal(existsSync(machine.files(held.order).boot), false, 'the next boot need not say that output may be lost')
    const again = machine.startRunner()
    await held.release()
    t.equal(await again.ended, 0)
    t.match(machine.resultOf(held.order), { outcome: 'succeeded', latched: true })
    t.equal(startsOf(machine.history(), held.order), 1)
    checkLog(t, machine, held.order)
  })
}

t.test('[RUN-42] told to end while the wrapper is about to begin, nothing is begun behind the runner', async (t) => {
  const machine = await createMachine(scenario)
  t.teardown(machine.close)
  const held = await holdAt(machine, 'pre-checks')
  const files = machine.files(held.order)
  // What holds the order's lock may be a wrapper: it either takes the latch and is waited for, or finds a newer try.
  const lock = spawn('flock', [files.lock, 'cat'], { stdio: ['pipe', 'ignore', 'inherit'] })
  const unlocked = new Promise((resolve) => lock.once('close', resolve))
  await until('the lock', () => !lockIsFree(files.lock))
  process.kill(held.pid, 'SIGTERM')
  await until('the newer try', () => readFileSync(files.tries, 'utf8').trim() === '2')
  t.ok(existsSync(`/proc/${held.pid}`), 'the runner waits for who may begin')
  lock.stdin.end()
  await unlocked
  t.equal(await held.ended, 143)
  const again = machine.startRunner()
  await held.release()
  t.equal(await again.ended, 0)
  t.match(machine.resultOf(held.order), { outcome: 'succeeded' })
})
