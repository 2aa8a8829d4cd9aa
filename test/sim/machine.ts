/**
 * A simulated machine: a disk, processes, boots. Its agent and its runner are the real ones, over ports that may end
 * them at any call; apt and the rest are in programs.ts. What is on its disk survives as the disk says, what is in
 * memory does not.
 */
import { join } from 'node:path'
import { createAgent } from '../../agent/agent.ts'
import type { LockHolder } from '../../agent/apt/kernel.ts'
import type { Processes } from '../../agent/apt/processes.ts'
import type { Disk } from '../../agent/disk/disk.ts'
import { makeStateFolders, writeGrantKeys } from '../../agent/disk/grant-key.ts'
import { type Layout, layoutOf, orderLayoutOf } from '../../agent/disk/layout.ts'
import { ordersOnDisk } from '../../agent/session/evidence.ts'
import { RUNNER_BUSY_STATUS } from '../../agent/disk/runner-command.ts'
import { writeIdentity } from '../../agent/identity.ts'
import { createRunner } from '../../agent/runner/runner.ts'
import type { RunRecord } from '../../protocol/files.ts'
import { SimDisk, announced, plant, textAt } from './disk.ts'
import { TOKEN_TEXT } from './givens.ts'
import { agentPorts, runnerPorts } from './halves.ts'
import { begin } from './programs.ts'
import { Crash, type Doom, type Host, type Proc, type Surroundings } from './host.ts'
import { Clock } from './clock.ts'
import type { Dice } from './random.ts'
import { PACKAGES, type Packages, type Upgrade, statusText } from './repository.ts'

export type Enrolled = {
  readonly id: string
  readonly name: string
  readonly instance: string
  readonly keyPem: string
  readonly keys: Parameters<typeof writeGrantKeys>[2]['keys']
}

const PIN = 'x'.repeat(43)

/** Owns the disk, the processes and the boots of one machine. */
export class Machine implements Host {
  readonly id: string
  readonly name: string
  readonly disk = new SimDisk()
  readonly dice: Dice
  readonly world: Surroundings
  readonly packages: Packages = new Map()
  readonly isDetached: boolean
  isUp = false
  skewMs = 0
  readonly clock: Clock
  bootId = ''
  /** The next process of a kind ends after so many more calls. */
  readonly dooms = new Map<string, Doom>()
  readonly layout: Layout
  readonly #locks = new Map<string, Set<Proc>>()
  readonly #waiting: { readonly path: string; readonly proc: Proc; readonly act: () => void }[] = []
  readonly #procs = new Set<Proc>()
  #agent: Proc | null = null
  #runner: Proc | null = null
  #dpkg: Proc | null = null
  #boot = 0
  #isRetired = false
  readonly #enrolled: Enrolled

  constructor(world: Surroundings, dice: Dice, enrolled: Enrolled) {
    this.world = world
    this.#enrolled = enrolled
    this.dice = dice
    this.id = enrolled.id
    this.name = enrolled.name
    this.isDetached = dice.chance(0.3)
    this.clock = new Clock(world.time)
    this.clock.run(1 + (world.faults.driftMax * dice.between(-1000, 1000)) / 1000)
    this.layout = layoutOf(world.config.stateDir)
    const { port } = this.disk
    for (const folder of ['/var/lib/dpkg', '/var/log/apt', '/run', '/etc', '/checks']) port.makeFolder(folder, 0o755)
    plant(this.disk, '/repos/prod.sources', 'Types: deb\nURIs: http://repo\nSuites: prod\n')
    plant(this.disk, '/repos/build.sources.in', 'Types: deb\nURIs: http://repo\nSuites: {build}\n')
    for (const name of PACKAGES) this.packages.set(name, { version: '700.0', state: 'installed' })
    this.#writeStatus()
    makeStateFolders(port, this.layout)
    writeGrantKeys(port, this.layout, { machine: enrolled.id, keys: enrolled.keys })
    const { id: machine, name, instance } = enrolled
    writeIdentity(port, this.layout, enrolled.keyPem, {
      machine,
      name,
      instance,
      coordinator: TOKEN_TEXT.coordinator,
      pin: PIN,
    })
    this.disk.syncAll()
    this.disk.onNamed = (path) => this.#onNamed(path)
    this.disk.onSynced = (path) => this.#onSynced(path)
  }

  /** A second machine with the same disk, and so with the same identity. */
  clone(dice: Dice): Machine {
    const made = new Machine(this.world, dice, this.#enrolled)
    made.disk.copyFrom(this.disk)
    made.disk.syncAll()
    for (const [name, one] of this.packages) made.packages.set(name, { ...one })
    return made
  }

  /** Switched off for good. */
  retire(): void {
    this.pullPlug()
    this.#isRetired = true
  }

  // --- power ---------------------------------------------------------------------------------------------------

  boot(): void {
    if (this.isUp || this.#isRetired) return
    this.isUp = true
    this.bootId = this.dice.hex(32)
    this.world.trace(`${this.name} boots`)
    this.later(null, this.dice.between(200, 2000), () => this.#startAgent())
    // The unit is wanted by multi-user.target, so it runs at each boot.
    if (!this.isDetached) this.later(null, this.dice.between(200, 2000), () => this.#startRunner(() => {}))
  }

  /** No goodbye to anybody: the disk keeps what was synced. */
  pullPlug(): void {
    if (!this.isUp) return
    const lost = this.#goDown()
    this.world.trace(`${this.name} loses power, and with it ${lost}`)
  }

  #goDown(isOrderly = false): string {
    this.isUp = false
    this.#boot += 1
    for (const proc of [...this.#procs]) proc.alive = false
    this.#procs.clear()
    this.#agent = null
    this.#runner = null
    this.#dpkg = null
    this.#locks.clear()
    this.#waiting.length = 0
    this.world.disconnected(this, true)
    if (isOrderly) this.disk.syncAll()
    const lost = this.disk.powerCut(this.dice)
    if (this.disk.port.factsOf('/run/reboot-required') !== null) {
      this.disk.port.remove('/run/reboot-required')
      this.disk.syncAll()
    }
    this.world.ledger.wentDown(this)
    return `${lost.names} names and ${lost.bytes} bytes`
  }

  /** An orderly reboot, which waits for dpkg. */
  rebootSoon(): void {
    this.later(null, this.dice.between(100, 2000), () => {
      if (this.#dpkg !== null) return this.rebootSoon()
      this.#goDown(true)
      this.world.trace(`${this.name} goes down for a reboot`)
      this.world.time.after(this.dice.between(5000, 60_000), () => this.boot())
    })
  }

  // --- processes -----------------------------------------------------------------------------------------------

  spawn(parent: Proc | null, kind: string, diesWithParent: boolean): Proc {
    const proc: Proc = { kind, diesWithParent, children: [], alive: true, onDeath: () => {} }
    parent?.children.push(proc)
    this.#procs.add(proc)
    return proc
  }

  /** Every call of a process on its world comes through here first. */
  call(proc: Proc, what: string, path = ''): void {
    if (!proc.alive) throw new Crash()
    const doom = this.dooms.get(proc.kind)
    if (doom === undefined) return
    doom.calls -= 1
    if (doom.calls > 0) return
    this.dooms.delete(proc.kind)
    this.world.met(`${proc.kind} ${doom.how}`, this)
    this.world.trace(`${this.name}: ${doom.how} at ${what} ${path} of the ${proc.kind}`)
    if (doom.how === 'killed') this.kill(proc)
    else {
      this.pullPlug()
      this.world.time.after(this.dice.between(5000, 300_000), () => this.boot())
    }
    throw new Crash()
  }

  run(proc: Proc, act: () => void): void {
    if (!proc.alive || !this.isUp) return
    try {
      act()
    } catch (error) {
      // A crash may be wrapped by who met it; what a dead process throws says nothing.
      if (error instanceof Crash || !proc.alive) return
      const problem =
        error instanceof Error ? `${error.message} ${error.stack?.split('\n')[1]?.trim() ?? ''}` : String(error)
      this.world.trace(`${this.name}: the ${proc.kind} ends with an error: ${problem}`)
      if (!/^(ENOSPC|EIO)/.test(problem)) this.world.ledger.defect(`${this.name}: the ${proc.kind} threw: ${problem}`)
      this.kill(proc, 1)
    }
  }

  /** `delayMs` of time later, unless the process, or without one the boot, is over by then. */
  later(proc: Proc | null, delayMs: number, act: () => void): () => void {
    const boot = this.#boot
    return this.world.time.after(delayMs, () => {
      if (boot !== this.#boot || !this.isUp) return
      if (proc === null) act()
      else this.run(proc, act)
    })
  }

  /** The status is null for a signal. */
  kill(proc: Proc, status: number | null = null): void {
    if (!proc.alive) return
    this.gone(proc)
    for (const child of proc.children) if (child.diesWithParent) this.kill(child)
    if (proc.kind === 'apt') this.world.ledger.interrupted(this)
    proc.onDeath(status)
  }

  /** With all that it started, as a time limit does. */
  killTree(proc: Proc): void {
    for (const child of [...proc.children]) this.killTree(child)
    this.kill(proc)
  }

  gone(proc: Proc): void {
    proc.alive = false
    this.#procs.delete(proc)
    for (const [path, holders] of this.#locks) if (holders.delete(proc) && holders.size === 0) this.#unlocked(path)
  }

  killKind(kind: 'agent' | 'runner' | 'wrapper'): void {
    for (const proc of [...this.#procs]) if (proc.kind === kind) this.kill(proc)
  }

  // --- locks ---------------------------------------------------------------------------------------------------

  lock(proc: Proc, path: string, act: () => void): void {
    if ((this.#locks.get(path)?.size ?? 0) > 0) this.#waiting.push({ path, proc, act })
    else this.#take(path, proc, act)
  }

  holdAlso(proc: Proc, path: string): void {
    this.#locks.get(path)?.add(proc)
  }

  #take(path: string, proc: Proc, then: () => void): void {
    this.#locks.set(path, new Set([proc]))
    this.later(proc, 1, then)
  }

  #unlocked(path: string): void {
    this.#locks.delete(path)
    const index = this.#waiting.findIndex((one) => one.path === path && one.proc.alive)
    const [next] = index < 0 ? [] : this.#waiting.splice(index, 1)
    if (next !== undefined) this.#take(path, next.proc, next.act)
  }

  takeDpkg(proc: Proc): void {
    this.#dpkg = proc
  }
  freeDpkg(proc: Proc): void {
    if (this.#dpkg === proc) this.#dpkg = null
  }
  /** Who holds dpkg's locks. */
  lockHolder(path: string): LockHolder | null {
    const isHeld = this.#dpkg !== null && path.startsWith('/var/lib/dpkg/lock')
    return isHeld ? { pid: 7, command: 'dpkg', unit: null, forMs: 1000 } : null
  }
  isInDpkg(): boolean {
    return this.#dpkg !== null
  }

  // --- what programs see and do --------------------------------------------------------------------------------

  wallNow(): number {
    return Math.floor(this.world.time.now() + this.skewMs + this.clock.driftMs())
  }

  upgrades(build: string): Upgrade[] {
    return this.world.repository.upgrades(build, this.packages)
  }

  setPackage(name: string, version: string, state: 'installed' | 'unpacked' | 'half-configured'): void {
    this.packages.set(name, { version, state })
    this.#writeStatus()
  }

  #writeStatus(): void {
    plant(this.disk, '/var/lib/dpkg/status', statusText(this.packages))
  }

  /** What a program prints is lost on a disk that takes nothing. */
  print(path: string, text: string): void {
    if (this.disk.fault === null) this.disk.port.write(path, Buffer.from(text), 'append', 0o640)
  }

  diskOf(proc: Proc): Disk {
    return announced(this.disk.port, (call, path) => this.call(proc, call, path))
  }

  /** The claimed order of the highest fence that has no result yet. */
  orderAtWork(): string | null {
    return this.world.ledger.orderAtWork(this)
  }

  recordsOf(order: string): RunRecord[] {
    const text = textAt(this.disk, orderLayoutOf(this.layout, order).records)
    return text.split('\n').flatMap((line) => recordIn(line) ?? [])
  }

  outputOf(order: string): string {
    return textAt(this.disk, orderLayoutOf(this.layout, order).output)
  }

  /** How many records of an order no power cut could take. */
  safeRecordsOf(order: string): number {
    const bytes = this.disk.safeBytesOf(orderLayoutOf(this.layout, order).records)
    let count = 0
    for (let at = bytes?.indexOf(10) ?? -1; at >= 0; at = bytes?.indexOf(10, at + 1) ?? -1) count += 1
    return count
  }

  /** Whether anything of an order is safe from a power cut. */
  isGrantSafe(order: string): boolean {
    const { inbox, taken, refused } = this.layout
    const name = `grant-${order}.json`
    const files = orderLayoutOf(this.layout, order)
    // What is refused bears the time before its name; it says that there will be no run.
    const isRefused = this.disk.port.list(refused).some((entry) => entry.endsWith(`-${name}`))
    return (
      isRefused ||
      [join(inbox, name), join(taken, name), files.fate].some((path) => this.disk.safeBytesOf(path) !== null)
    )
  }

  /** What its next hello would name. */
  ordersInHand(): string[] {
    const { port } = this.disk
    const letGo = join(this.layout.agent, 'forgotten')
    return [...ordersOnDisk(port, this.layout)].filter((order) => port.factsOf(join(letGo, order)) === null)
  }

  /** Whether something waits for the runner. */
  hasInbox(): boolean {
    return [this.layout.inbox, this.layout.taken].some((folder) => this.disk.port.list(folder).length > 0)
  }

  hasClaim(order: string): boolean {
    return textAt(this.disk, orderLayoutOf(this.layout, order).fate).includes('"claim"')
  }

  #onNamed(path: string): void {
    const order = /\/orders\/([0-9a-f]{32})\/fate$/.exec(path)?.[1]
    if (order !== undefined) {
      const fate = JSON.parse(textAt(this.disk, path)) as { fate: string }
      if (fate.fate === 'claim')
        this.world.ledger.claimed(this, order, textAt(this.disk, orderLayoutOf(this.layout, order).grant))
    }
    if (!this.isDetached && path.startsWith(`${this.layout.inbox}/`)) {
      this.later(null, this.dice.between(10, 500), () => this.#startRunner(() => {}))
    }
  }

  #onSynced(path: string): void {
    const order = /\/orders\/([0-9a-f]{32})\/records$/.exec(path)?.[1]
    const last = order === undefined ? undefined : textAt(this.disk, path).trimEnd().split('\n').at(-1)
    if (order === undefined || last === undefined || !last.includes('"type":"result"')) return
    this.world.ledger.ended(this, order, JSON.parse(last) as RunRecord)
  }

  // --- the two halves of smith ---------------------------------------------------------------------------------

  #startAgent(): void {
    if (this.#agent?.alive === true) return
    const proc = this.spawn(null, 'agent', false)
    this.#agent = proc
    proc.onDeath = () => {
      this.world.disconnected(this, false)
      this.later(null, this.dice.between(1000, 3000), () => this.#startAgent())
    }
    const startRunner = (onExit: (status: number | null) => void) => this.#startDetached(proc, onExit)
    this.run(proc, () => createAgent(agentPorts(this, proc, startRunner)).start())
  }

  #startDetached(agent: Proc, onExit: (status: number | null) => void): void {
    this.call(agent, 'startRunner')
    this.later(null, 50, () => {
      if (this.#runner?.alive === true) this.run(agent, () => onExit(RUNNER_BUSY_STATUS))
      else this.#startRunner((status) => this.run(agent, () => onExit(status)))
    })
  }

  #startRunner(onExit: (status: number | null) => void): void {
    if (this.#runner?.alive === true) return
    const proc = this.spawn(null, 'runner', false)
    this.#runner = proc
    proc.onDeath = (status) => {
      // Restart=on-failure with RestartSec=1.
      if (!this.isDetached) this.later(null, 1000, () => this.#startRunner(() => {}))
      onExit(status)
    }
    const idle = () => {
      this.call(proc, 'exit')
      this.gone(proc)
      onExit(0)
      // The path unit looks again when the service has ended.
      const isLeft = this.disk.port.list(this.layout.inbox).some((name) => !name.startsWith('.'))
      if (!this.isDetached && isLeft) this.later(null, 10, () => this.#startRunner(() => {}))
    }
    const programs = { node: 'node', wrapper: 'wrapper.ts', hook: 'hook.ts' }
    this.run(proc, () => createRunner(runnerPorts(this, proc), this.world.config, programs, idle).start())
  }

  processesOf(parent: Proc): Processes {
    return {
      start: (spec, onEnd) => {
        this.call(parent, `start ${spec.argv[0] ?? ''} ${spec.argv.at(-1) ?? ''}`)
        const kind = spec.argv.some((word) => word === 'wrapper.ts') ? 'wrapper' : 'program'
        const child = this.spawn(parent, kind, spec.diesWithUs)
        let isOver = false
        const end: typeof onEnd = (how) => {
          if (isOver) return
          isOver = true
          if (child.alive) this.gone(child)
          this.world.stirred()
          this.run(parent, () => onEnd(how))
        }
        const killed = { status: null, signal: 'SIGKILL', timedOut: false, problem: null }
        child.onDeath = (status) => end({ ...killed, ...(status === null ? {} : { status, signal: null }) })
        if (spec.timeLimitMs !== null) {
          this.later(child, spec.timeLimitMs, () => {
            child.onDeath = () => end({ ...killed, timedOut: true })
            this.killTree(child)
          })
        }
        begin(this, child, spec, end)
      },
    }
  }
}

/** Null for a line that a crash tore. */
function recordIn(line: string): RunRecord | null {
  try {
    return JSON.parse(line) as RunRecord
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}
