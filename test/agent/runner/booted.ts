/**
 * A whole machine played in one process: the real step machine of the runner on a real folder that stands for the
 * machine's disk, without a private root; apt, systemd, the wrapper, the agent's acknowledgements, the boots and
 * time are the test's. A crash can be put at any call to the disk.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isRefusal, makePlan } from '../../../agent/apt/plan.ts'
import type { ProcessEnd, Processes } from '../../../agent/apt/processes.ts'
import { checkAgentConfig } from '../../../agent/config.ts'
import { createRealDisk, type Disk } from '../../../agent/disk/disk.ts'
import { makeStateFolders } from '../../../agent/disk/grant-key.ts'
import { layoutOf, orderFilesOf, orderLayoutOf } from '../../../agent/disk/layout.ts'
import { readCommand, takeLatch } from '../../../agent/runner/command-file.ts'
import type { Connected } from '../../../agent/runner/ports.ts'
import { createRunner } from '../../../agent/runner/runner.ts'
import type { GrantPayload, Result, RunRecord } from '../../../protocol/files.ts'
import { createSigner } from './machine.ts'

export const OLD_KERNEL = '6.1.0-9-amd64'
export const NEW_KERNEL = '6.1.0-10-amd64'
const NOTHING = '0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n'
const SIMULATION =
  '1 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\nInst app [1.0] (2.0 t:725/725 [all])\n'
const SHOW = `Package: app\nVersion: 2.0\nArchitecture: all\nSize: 7\nSHA256: ${'a'.repeat(64)}\n`
const status = (version: string) =>
  `Package: app\nStatus: install ok installed\nArchitecture: all\nVersion: ${version}\n`
const WELL: ProcessEnd = { status: 0, signal: null, timedOut: false, problem: null }

class Crash extends Error {}

export type Story = {
  readonly outageMinutes: number
  /** Nothing to install. */
  readonly isEmpty?: boolean
  /** The package makes /run/reboot-required. */
  readonly wantsReboot?: boolean
  /** The package brings NEW_KERNEL. */
  readonly bringsKernel?: boolean
  readonly isRebootDueBefore?: boolean
  /** The boot loader still starts the old kernel. */
  readonly startsOldKernel?: boolean
  /** The agent tells what is acknowledged. */
  readonly acks?: boolean
  /** `systemctl reboot`: works, does nothing, or fails. */
  readonly reboot?: 'works' | 'does-nothing' | 'fails'
  /** The state of unit `web.service`, by what the machine has gone through. */
  readonly web?: (at: { readonly boot: number; readonly sinceMs: number; readonly isInstalled: boolean }) => string
  /** Whether a new connection to the coordinator comes about. */
  readonly isReached?: (at: { readonly sinceMs: number; readonly isInstalled: boolean }) => boolean
  readonly check?: (at: { readonly boot: number }) => number
  readonly hasNeedrestart?: boolean
  /** The agent.toml, from [limits] on. */
  readonly tables?: string
  readonly crashAt?: readonly number[]
}

/** The machine's paths lie under a folder; smith's own files lie where they say. */
function rooted(folder: string): Disk {
  const real = createRealDisk()
  const to = (path: string) => (path.startsWith(folder) ? path : join(folder, 'machine', path))
  return {
    factsOf: (path) => real.factsOf(to(path)),
    list: (path) => real.list(to(path)),
    nameAll: (path) => real.nameAll(to(path)),
    read: (path, offset, max) => real.read(to(path), offset, max),
    write: (path, bytes, how, mode) => real.write(to(path), bytes, how, mode),
    truncate: (path, size) => real.truncate(to(path), size),
    fsync: () => undefined,
    rename: (from, path) => real.rename(to(from), to(path)),
    link: (from, path) => real.link(to(from), to(path)),
    unlink: (path) => real.unlink(to(path)),
    remove: (path) => real.remove(to(path)),
    makeFolder: (path, mode) => real.makeFolder(to(path), mode),
    freeSpace: () => ({ device: 'disk', freeBytes: 1e12, freeInodes: null }),
  }
}

function createWorld(folder: string, story: Story) {
  const machine = join(folder, 'machine')
  for (const path of ['var/lib/dpkg', 'var/log/apt', 'usr/sbin', 'etc', 'boot', 'run/systemd/system'])
    mkdirSync(join(machine, path), { recursive: true })
  mkdirSync(join(folder, 'checks/post'), { recursive: true })
  mkdirSync(join(folder, 'repos'))
  writeFileSync(join(machine, 'var/lib/dpkg/status'), status(story.isEmpty === true ? '2.0' : '1.0'))
  writeFileSync(join(machine, `boot/vmlinuz-${OLD_KERNEL}`), '')
  if (story.isRebootDueBefore === true) writeFileSync(join(machine, 'run/reboot-required'), '')
  if (story.check !== undefined) writeFileSync(join(folder, 'checks/post/serves'), '', { mode: 0o755 })
  if (story.hasNeedrestart === true) writeFileSync(join(machine, 'usr/sbin/needrestart'), '')
  writeFileSync(join(folder, 'repos/725.sources'), 'Types: deb\nURIs: http://h\nSuites: 725\n')
  const text = `coordinator="https://h"\nstate_dir="${folder}/state"\nlog_file="${folder}/log"\nrepos_dir="${folder}/repos"\nchecks_dir="${folder}/checks"\n${story.tables ?? ''}`
  const config = checkAgentConfig(text, 'agent.toml')
  if ('refusals' in config) throw new Error(config.refusals[0]?.message)
  const world = {
    time: 1_000_000,
    generation: 0,
    calls: 0,
    crashes: 0,
    installs: 0,
    boot: 1,
    bootAt: 0,
    kernel: OLD_KERNEL,
    isDown: false,
    isIdle: false,
    isLocked: false,
    /** The number of the last acknowledged record at each reboot command that did something. */
    reboots: [] as number[],
    acked: 0,
    /** At each install and reboot: whether systemd would wait for ever before it forces a shutdown. */
    waitsForEver: [] as boolean[],
  }
  const queue: { at: number; generation: number | null; act: () => void }[] = []
  const later = (ms: number, generation: number | null, act: () => void) => {
    const entry = { at: world.time + ms, generation, act }
    queue.push(entry)
    return () => void queue.splice(queue.indexOf(entry), 1)
  }
  const plain = rooted(folder)
  const crashAt = story.crashAt ?? []
  const disk: Disk = new Proxy(plain, {
    get:
      (target, key: keyof Disk) =>
      (...args: never[]) => {
        world.calls += 1
        if (world.crashes < crashAt.length && world.calls >= (crashAt[world.crashes] ?? 0)) throw new Crash()
        return (target[key] as (...all: never[]) => unknown)(...args)
      },
  })
  return { folder, machine, world, queue, later, disk, plain, config, story }
}
type World = ReturnType<typeof createWorld>

function unitsOf({ world, story }: World): string {
  const state = story.web?.({
    boot: world.boot,
    sinceMs: world.time - world.bootAt,
    isInstalled: world.installs > 0,
  })
  const block = (id: string, active: string, file: string) =>
    `Id=${id}\nTriggeredBy=\nLoadState=loaded\nActiveState=${active}\nSubState=x\nUnitFileState=${file}\n`
  return [block('web.service', state ?? 'active', 'enabled'), block('old.service', 'failed', 'enabled')].join('\n')
}

const DROP_IN = 'run/systemd/system/reboot.target.d/zz-smith-run.conf'
export function isLimitLifted({ machine }: World): boolean {
  return existsSync(join(machine, DROP_IN))
}

/** What `systemctl reboot` does: the machine goes down, and comes up half a minute later. */
function goDown(w: World): void {
  const { world, machine, story } = w
  world.reboots.push(world.acked)
  world.waitsForEver.push(isLimitLifted(w))
  world.isDown = true
  world.generation += 1
  w.later(30_000, null, () => {
    world.isDown = false
    world.boot += 1
    world.bootAt = world.time
    rmSync(join(machine, 'run/reboot-required'), { force: true })
    rmSync(join(machine, DROP_IN), { force: true })
    const hasNew = existsSync(join(machine, `boot/vmlinuz-${NEW_KERNEL}`))
    world.kernel = hasNew && story.startsOldKernel !== true ? NEW_KERNEL : OLD_KERNEL
    w.later(1000, world.generation, () => startRunner(w))
  })
}

function createProcesses(w: World, generation: number): Processes {
  const { world, story } = w
  const start: Processes['start'] = (spec, onEnd) => {
    const line = spec.argv.join(' ')
    const done = (end: ProcessEnd = WELL) => void w.later(1, generation, () => onEnd(end))
    const print = (text: string) => w.plain.write(spec.output, Buffer.from(text), 'append', 0o640)
    if (line.includes('wrapper.ts')) return install(w, spec.argv.slice(-2), () => done())
    if (spec.argv[0] === 'flock') {
      const wait = () => (world.isLocked ? void w.later(5, generation, wait) : done())
      return wait()
    }
    if (line.startsWith('systemctl show')) {
      print(unitsOf(w))
      return done()
    }
    if (line === 'systemctl reboot') {
      if (story.reboot === 'fails') print('Access denied\n')
      else if (story.reboot !== 'does-nothing') w.later(20, null, () => (world.isDown ? undefined : goDown(w)))
      return done(story.reboot === 'fails' ? { ...WELL, status: 1 } : WELL)
    }
    if (line.startsWith('systemd-inhibit --list')) {
      print('WHO UID USER PID COMM WHAT WHY MODE\nbackup 0 root 61 systemd-inhibit shutdown nightly block\n')
      return done()
    }
    if (line.includes('/checks/')) return done({ ...WELL, status: story.check?.({ boot: world.boot }) ?? 0 })
    if (spec.argv[0]?.endsWith('/needrestart') === true)
      print('NEEDRESTART-VER: 3.6\nNEEDRESTART-KSTA: 1\nNEEDRESTART-SVC: cron.service\n')
    else if (line.includes('-s dist-upgrade')) print(story.isEmpty === true ? NOTHING : SIMULATION)
    else if (spec.argv[0] === 'apt-cache') print(SHOW)
    else if (!line.includes('--audit')) print(`${spec.argv.at(-1)} prints a line\n`)
    done()
  }
  return { start }
}

function install(w: World, [folder = '', ownTry = '']: readonly string[], onEnd: () => void): void {
  const { world, machine, story } = w
  const files = orderFilesOf(folder)
  const command = readCommand(w.plain, files)
  const isTaken = takeLatch(w.plain, files, { by: 'wrapper', at: world.time, try: Number(ownTry) })
  if (command === null || !isTaken) return onEnd()
  world.installs += 1
  world.waitsForEver.push(isLimitLifted(w))
  world.isLocked = true
  w.later(3000, null, () => {
    appendFileSync(files.output, 'Setting up app (2.0) ...\n')
    writeFileSync(join(machine, 'var/lib/dpkg/status'), status('2.0'))
    if (story.wantsReboot === true) writeFileSync(join(machine, 'run/reboot-required'), '')
    if (story.bringsKernel === true) writeFileSync(join(machine, `boot/vmlinuz-${NEW_KERNEL}`), '')
    const exit = { status: 0, signal: null, problem: null, repairStatus: null, startedAt: 1, endedAt: 2 }
    writeFileSync(files.exit, JSON.stringify(exit))
    world.isLocked = false
    onEnd()
  })
}

function startRunner(w: World): void {
  const { world } = w
  const generation = world.generation
  const ports = {
    disk: w.disk,
    now: () => world.time,
    after: (ms: number, then: () => void) => w.later(ms, generation, then),
    processes: createProcesses(w, generation),
    machine: {
      canRead: () => true,
      kernel: world.kernel,
      bootId: `boot-${world.boot}`,
      textOf: () => null,
      lockHolder: () => null,
    },
    lockHolder: () => null,
    processesOf: () => [],
    connect: (_to: object, _ms: number, then: (connected: Connected) => void) =>
      void w.later(1, generation, () => {
        const isReached = w.story.isReached?.({ sinceMs: world.time - world.bootAt, isInstalled: world.installs > 0 })
        then(
          isReached === false ? { how: 'unreachable', problem: 'EHOSTUNREACH' } : { how: 'connected', problem: null },
        )
      }),
  }
  const programs = { node: 'node', wrapper: 'wrapper.ts', hook: 'hook.ts' }
  createRunner(ports, w.config, programs, () => void (world.isIdle = true)).start()
}

/** The agent's part: what stands in the records is acknowledged a little later, while the machine is up. */
function acknowledge(w: World, order: string, records: string): void {
  if (w.world.isIdle) return
  w.later(70, null, () => acknowledge(w, order, records))
  if (w.world.isDown || !existsSync(records)) return
  w.world.acked = readFileSync(records, 'utf8').split('\n').length - 1
  const folder = layoutOf(w.config.stateDir).acked
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, order), `${w.world.acked}\n`)
}

/** Plays a story to the result of its order. */
export function play(folder: string, story: Story) {
  mkdirSync(folder, { recursive: true })
  const w = createWorld(folder, story)
  const layout = layoutOf(w.config.stateDir)
  makeStateFolders(w.plain, layout)
  const isEmpty = story.isEmpty === true
  const planned = makePlan({
    build: '725',
    arch: 'amd64',
    rebootDue: story.isRebootDueBefore === true,
    releases: [],
    madeAt: 0,
    simulation: isEmpty ? NOTHING : SIMULATION,
    archives: isEmpty ? '' : SHOW,
    dpkgStatus: status('1.0'),
  })
  if (isRefusal(planned)) throw new Error(planned.message)
  const { grantFor, drop } = createSigner(w.plain, layout)
  const changes: Partial<GrantPayload> = { issuedAt: 1_000_000, startBy: 1_500_000, outageMinutes: story.outageMinutes }
  const { order, grant } = grantFor(planned, { ...changes, order: 'e'.repeat(32) })
  drop(order, grant)
  const files = orderLayoutOf(layout, order)
  w.later(0, 0, () => startRunner(w))
  if (story.acks !== false) acknowledge(w, order, files.records)
  for (let turns = 0; !w.world.isIdle; turns += 1) {
    if (turns > 200_000) throw new Error('the run does not end')
    w.queue.sort((a, b) => a.at - b.at)
    const next = w.queue.shift()
    if (next === undefined) throw new Error('nothing is left to happen and the runner is not done')
    w.world.time = Math.max(w.world.time, next.at)
    if (next.generation !== null && (next.generation !== w.world.generation || w.world.isDown)) continue
    try {
      next.act()
    } catch (error) {
      if (!(error instanceof Crash)) throw error
      w.world.crashes += 1
      w.world.generation += 1
      w.later(1000, w.world.generation, () => startRunner(w))
    }
  }
  const records = readFileSync(files.records, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as RunRecord)
  const result = records.at(-1)
  if (result?.type !== 'result') throw new Error('the last record is no result')
  return {
    world: w.world,
    isLimitLifted: isLimitLifted(w),
    records,
    result: result satisfies Result,
    steps: records.flatMap((one) => (one.type === 'step' ? [one.step] : [])),
    notes: records.flatMap((one) => (one.type === 'note' ? [one.text] : [])),
    log: readFileSync(join(folder, 'log'), 'utf8'),
  }
}
