/**
 * The runner's logic, crashed at every single call to its disk, in one process: the real step machine on a real
 * folder, with programs, time and the wrapper played by the test. What a crash leaves is what the next runner finds.
 */
import { createHash } from 'node:crypto'
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { makePlan, isRefusal } from '../../../agent/apt/plan.ts'
import type { ProcessEnd, Processes } from '../../../agent/apt/processes.ts'
import { checkAgentConfig } from '../../../agent/config.ts'
import { createRealDisk, type Disk } from '../../../agent/disk/disk.ts'
import { makeStateFolders } from '../../../agent/disk/grant-key.ts'
import { layoutOf, orderFilesOf, orderLayoutOf } from '../../../agent/disk/layout.ts'
import { readCommand, readTry, takeLatch } from '../../../agent/runner/command-file.ts'
import type { Connected } from '../../../agent/runner/ports.ts'
import { createRunner } from '../../../agent/runner/runner.ts'
import type { Result, RunRecord } from '../../../protocol/files.ts'
import { bytesOfRecords, createSigner } from './machine.ts'

const SIMULATION =
  '1 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\nInst app [1.0] (2.0 t:725/725 [all])\n'
const SHOW = `Package: app\nVersion: 2.0\nArchitecture: all\nSize: 7\nSHA256: ${'a'.repeat(64)}\n`
const status = (version: string) =>
  `Package: app\nStatus: install ok installed\nArchitecture: all\nVersion: ${version}\n`
const WELL: ProcessEnd = { status: 0, signal: null, timedOut: false, problem: null }

class Crash extends Error {}
/** `wrapper`: what becomes of it: lives, is killed after the latch (apt goes on), or before. */
type Faults = {
  readonly crashAt: readonly number[]
  readonly wrapper: 'lives' | 'killed-after' | 'killed-before'
  readonly bootAt?: number
}

/** A world without real time: what is due next happens next. Entries of a runner that crashed never happen. */
function createWorld(folder: string, faults: Faults) {
  const real = createRealDisk()
  const root = join(folder, 'root')
  for (const path of ['root/var/lib/dpkg', 'root/var/log/apt', 'root/usr', 'repos'])
    mkdirSync(join(folder, path), { recursive: true })
  writeFileSync(join(root, 'var/lib/dpkg/status'), status('1.0'))
  writeFileSync(join(folder, 'repos/725.sources'), 'Types: deb\nURIs: http://h\nSuites: 725\n')
  const text = `coordinator="https://h"\nstate_dir="${folder}/state"\nlog_file="${folder}/log"\nrepos_dir="${folder}/repos"\nchecks_dir="${folder}/checks"\n[apt]\nroot="${root}"\n[limits]\nfree_bytes=1024\n`
  const config = checkAgentConfig(text, 'agent.toml')
  if ('refusals' in config) throw new Error(config.refusals[0]?.message)
  const world = {
    time: 1_000_000,
    generation: 0,
    calls: 0,
    crashes: 0,
    installs: 0,
    isLocked: false,
    boot: 'a',
    isIdle: false,
  }
  const queue: { at: number; generation: number | null; act: () => void }[] = []
  const later = (ms: number, generation: number | null, act: () => void) => {
    const entry = { at: world.time + ms, generation, act }
    queue.push(entry)
    return () => void queue.splice(queue.indexOf(entry), 1)
  }
  // Syncing is what the test of durable writes is about; here it would only take time.
  const disk: Disk = new Proxy(real, {
    get:
      (target, key: keyof Disk) =>
      (...args: never[]) => {
        world.calls += 1
        if (world.crashes < faults.crashAt.length && world.calls >= (faults.crashAt[world.crashes] ?? 0)) {
          // A write that is cut off leaves a part.
          if (key === 'write') tear(real, args as unknown as Parameters<Disk['write']>)
          throw new Crash()
        }
        return key === 'fsync' ? undefined : (target[key] as (...all: never[]) => unknown)(...args)
      },
  })
  return { world, queue, later, disk, real, config, root }
}
type World = ReturnType<typeof createWorld>

function createProcesses(w: World, faults: Faults, generation: number): Processes {
  const start: Processes['start'] = (spec, onEnd) => {
    const line = spec.argv.join(' ')
    const done = (ms = 1) => void w.later(ms, generation, () => onEnd(WELL))
    const print = (text: string) => w.real.write(spec.output, Buffer.from(text), 'append', 0o640)
    if (line.includes('wrapper.ts'))
      return startWrapper(w, faults, spec.argv.slice(-2), (end) => w.later(1, generation, () => onEnd(end)))
    if (spec.argv[0] === 'flock') {
      const wait = () => (w.world.isLocked ? void w.later(5, generation, wait) : done())
      return wait()
    }
    if (line.includes('-s dist-upgrade')) print(w.world.installs > 0 ? 'unexpected\n' : SIMULATION)
    else if (spec.argv[0] === 'apt-cache') print(SHOW)
    else if (!line.includes('--audit')) print(`${spec.argv.at(-1)} prints a line\n`)
    done()
  }
  return { start }
}

function tear(disk: Disk, [path, bytes, how, mode]: Parameters<Disk['write']>): void {
  disk.write(path, bytes.subarray(0, Math.floor(bytes.length / 2)), how, mode)
}

/** Between its start and the lock lies some time, in which the runner may crash and begin anew. */
function startWrapper(w: World, faults: Faults, args: readonly string[], onEnd: (end: ProcessEnd) => void): void {
  const lock = () => {
    if (w.world.isLocked) return void w.later(5, null, lock)
    w.world.isLocked = true
    runWrapper(w, faults, args, onEnd)
  }
  w.later(6, null, lock)
}

function runWrapper(
  w: World,
  faults: Faults,
  [folder = '', ownTry = '']: readonly string[],
  onEnd: (end: ProcessEnd) => void,
): void {
  const files = orderFilesOf(folder)
  const fails = (code: number) => onEnd({ ...WELL, status: code })
  const release = () => void (w.world.isLocked = false)
  w.later(10, null, () => {
    const command = readCommand(w.real, files)
    const isStale = command === null || command.try !== Number(ownTry) || readTry(w.real, files) !== command.try
    if (
      isStale ||
      faults.wrapper === 'killed-before' ||
      !takeLatch(w.real, files, { by: 'wrapper', at: w.world.time, try: Number(ownTry) })
    ) {
      release()
      return fails(76)
    }
    if (faults.wrapper === 'killed-after') onEnd({ ...WELL, status: null, signal: 'SIGKILL' })
    w.world.installs += 1
    appendFileSync(files.output, 'Setting up app')
    w.later(3000, null, () => {
      appendFileSync(files.output, ' (2.0) ...\n\xff binary \0\n', 'latin1')
      writeFileSync(join(w.root, 'var/lib/dpkg/status'), status('2.0'))
      writeFileSync(
        join(w.root, 'var/log/apt/history.log'),
        `Start-Date: x\nCommandline: ${command.install.join(' ')}\nEnd-Date: y\n`,
      )
      if (faults.wrapper === 'lives') {
        writeFileSync(
          files.exit,
          JSON.stringify({ status: 0, signal: null, problem: null, repairStatus: null, startedAt: 1, endedAt: 2 }),
        )
        onEnd(WELL)
      }
      release()
    })
  })
}

function startRunner(w: World, faults: Faults): void {
  const { world } = w
  const generation = world.generation
  const ports = {
    disk: w.disk,
    now: () => world.time,
    after: (ms: number, then: () => void) => w.later(ms, generation, then),
    processes: createProcesses(w, faults, generation),
    machine: { canRead: () => true, kernel: 'k', bootId: world.boot, textOf: () => null, lockHolder: () => null },
    lockHolder: () => null,
    processesOf: () => [],
    connect: (_to: object, _ms: number, then: (connected: Connected) => void) =>
      void w.later(1, generation, () => then({ how: 'connected', problem: null })),
  }
  const programs = { node: 'node', wrapper: 'wrapper.ts', hook: 'hook.ts' }
  createRunner(ports, w.config, programs, () => void (world.isIdle = true)).start()
}

/** Runs one world to its end: a crash drops what the runner had in hand, and a new one starts. */
function play(folder: string, faults: Faults) {
  const w = createWorld(folder, faults)
  const layout = layoutOf(w.config.stateDir)
  makeStateFolders(w.real, layout)
  const planned = makePlan({
    build: '725',
    arch: 'amd64',
    rebootDue: false,
    releases: [],
    madeAt: 0,
    simulation: SIMULATION,
    archives: SHOW,
    dpkgStatus: status('1.0'),
  })
  if (isRefusal(planned)) throw new Error(planned.message)
  const { grantFor, drop } = createSigner(w.real, layout)
  const { order, grant } = grantFor(planned, { order: 'e'.repeat(32), issuedAt: 1_000_000, startBy: 1_500_000 })
  drop(order, grant)
  w.later(0, 0, () => startRunner(w, faults))
  for (let turns = 0; !w.world.isIdle || w.queue.some((one) => one.generation === null); turns += 1) {
    if (turns > 20_000) throw new Error('the run does not end')
    w.queue.sort((a, b) => a.at - b.at)
    const next = w.queue.shift()
    if (next === undefined) throw new Error('nothing is left to happen and the runner is not done')
    w.world.time = Math.max(w.world.time, next.at)
    if (next.generation !== null && next.generation !== w.world.generation) continue
    try {
      next.act()
    } catch (error) {
      if (!(error instanceof Crash)) throw error
      w.world.crashes += 1
      w.world.generation += 1
      if (faults.bootAt === w.world.crashes) w.world.boot = 'b'
      w.later(1, w.world.generation, () => startRunner(w, faults))
    }
  }
  const files = orderLayoutOf(layout, order)
  const records = readFileSync(files.records, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as RunRecord)
  return { w, files, records, result: records.find((one): one is Result => one.type === 'result') }
}

function check(t: Test, played: ReturnType<typeof play>, label: string): boolean {
  const { w, files, records, result } = played
  const bytes = bytesOfRecords(records)
  const problems = [
    w.world.installs > 1 ? 'apt ran twice' : '',
    records.filter((one) => one.type === 'result').length === 1 && records.at(-1) === result
      ? ''
      : 'not exactly one result at the end',
    bytes.equals(readFileSync(files.output)) ? '' : 'the records are not the output',
    createHash('sha256').update(bytes).digest('hex') === result?.outputSha256 ? '' : 'the hash is wrong',
    result?.latched === (w.world.installs === 1) ? '' : 'latched is a lie',
    result?.outcome === (w.world.installs === 1 ? 'succeeded' : 'failed')
      ? ''
      : `outcome ${result?.outcome}: ${result?.message}`,
  ].filter((one) => one !== '')
  return problems.length === 0 || t.fail(`${label}: ${problems.join('; ')}`)
}

for (const [wrapper, stride] of [
  ['lives', 1],
  ['killed-after', 4],
  ['killed-before', 4],
] as const) {
  t.test(
    `[RUN-25] a crash of the runner at any call to its disk changes nothing of the outcome (the wrapper ${wrapper})`,
    async (t) => {
      const base = mkdtempSync(join(tmpdir(), 'smith-calls-'))
      t.teardown(() => rmSync(base, { recursive: true }))
      const calm = play(join(base, 'calm'), { crashAt: [], wrapper })
      t.ok(check(t, calm, 'without a crash'))
      const total = calm.w.world.calls
      let held = 0
      for (let at = 1; at <= total; at += stride) {
        const folder = join(base, String(at))
        // Every third time a second crash follows soon, in the midst of what the restarted runner does first.
        const crashAt = at % 3 === 0 ? [at, at + 1 + (at % 41)] : [at]
        const played = play(folder, { crashAt, wrapper, ...(at % 5 === 0 ? { bootAt: 1 } : {}) })
        if (check(t, played, `crash at call ${crashAt.join(' and ')}`)) held += 1
        rmSync(folder, { recursive: true })
      }
      t.equal(held, Math.ceil(total / stride), `${held} crashes`)
      t.ok(total > 100)
    },
  )
}
