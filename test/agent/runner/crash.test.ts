/**
 * kill -9 of runner, wrapper and apt at each step, named by what holds the run there: a stalled archive, a check
 * that waits, a package that waits. Afterwards the result is true, apt ran at most once, no line is lost or doubled.
 */
import { createHash } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
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
  '[RUN-15] runner, wrapper and apt are killed: dpkg goes on, is waited for, and the answer is unknown, for ever',
  async (t) => {
    const machine = await createMachine(scenario)
    t.teardown(machine.close)
    const held = await holdAt(machine, 'install')
    process.kill(held.pid, 'SIGKILL')
    process.kill(pidOf(held.order, /wrapper\.ts/), 'SIGKILL')
    process.kill(pidOf(held.order, /^ *\d+ apt-get .*dist-upgrade/), 'SIGKILL')
    const again = machine.startRunner()
    await until('dpkg to be waited for', () =>
      machine
        .notesOf(held.order)
        .some((note) => /^apt is gone, and process \d+ \(.*dpkg.* is still at work/.test(note)),
    )
    t.equal(machine.resultOf(held.order), undefined, 'dpkg is still at work')
    await held.release()
    t.equal(await again.ended, 0)
    const result = machine.resultOf(held.order)
    t.match(result, { outcome: 'unknown', cause: 'internal', step: 'install', latched: true })
    t.equal(startsOf(machine.history(), held.order), 1)
    checkLog(t, machine, held.order)
    t.equal(await machine.startRunner().ended, 0)
    t.equal(startsOf(machine.history(), held.order), 1)
  },
)

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
  const lockIsFree = (path: string) => {
    try {
      execFileSync('flock', ['-n', path, 'true'])
      return true
    } catch {
      return false
    }
  }
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
  t.equal(await held.ended, 143, 'it stays until apt has ended, and leaves the rest to the next start')
  t.ok(existsSync(machine.files(held.order).exit), 'apt has ended')
  t.equal(machine.resultOf(held.order), undefined)
  t.equal(await machine.startRunner().ended, 0)
  t.match(machine.resultOf(held.order), { outcome: 'succeeded' })
})
