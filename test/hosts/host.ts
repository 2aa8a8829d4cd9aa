/**
 * One real host: a tree of its own over the shared base, booted by systemd-nspawn with its own systemd, network and
 * package state. Called by site.ts, hosts.ts and the tests. Its state survives a reboot and the plug; what a reboot
 * would leave behind in a real machine's /run and /tmp is gone here too.
 * Invariants: a host that asks for a reboot gets one, whoever asked; nothing of it outlives `stop`, or its owner: the
 * kernel ends it with the owner, and the next owner sweeps the rest.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { cgroupRoots } from './base.ts'
import { BARE_ENVIRONMENT, type Ran, type RunOptions, must, run, until } from './commands.ts'
import { type Network, endGroup, killIfThere, unmountOf } from './network.ts'

export type HostOptions = {
  /** The tree to start from; never written to. */
  readonly base: string
  /** Its host name. */
  readonly name: string
  /** Where its own files lie; on a filesystem that overlayfs can write to. */
  readonly dir: string
  readonly network: Network
  /** From 1, one for each host of the network. */
  readonly number: number
  /** Files to be there at the first boot, by path. */
  readonly files?: Readonly<Record<string, string>>
}

export type Host = {
  readonly name: string
  readonly address: string
  readonly dir: string
  /** How often it has come up. */
  readonly boots: () => number
  readonly isUp: () => boolean
  /** The process of its init, seen from outside. */
  readonly init: () => number
  /** Switches it on and waits until its systemd has started everything. */
  readonly boot: () => Promise<void>
  /** Waits until it has come up more than so often. */
  readonly untilBooted: (boots: number) => Promise<void>
  readonly run: (argv: readonly string[], options?: RunOptions) => Promise<Ran>
  /** As `run`, and throws unless the status is 0; gives the output. */
  readonly must: (argv: readonly string[], options?: RunOptions) => Promise<string>
  /** A shell on the terminal of whoever calls. */
  readonly shell: () => Promise<number>
  /** Asks its systemd for a reboot and waits until it is up again. */
  readonly reboot: () => Promise<void>
  /** Everything on it stops at once, without a word to anyone. */
  readonly pullPlug: () => Promise<void>
  readonly cutNetwork: () => Promise<void>
  readonly joinNetwork: () => Promise<void>
  readonly copyIn: (from: string, to: string) => Promise<void>
  readonly write: (path: string, text: string | Uint8Array, mode?: number) => Promise<void>
  /** Also of a host that is off. */
  readonly read: (path: string) => Promise<string>
  readonly has: (path: string) => Promise<boolean>
  readonly journal: (unit: string) => Promise<string>
  /** Where a path of the host can be reached from outside while it is up. */
  readonly outside: (path: string) => string
  /** Off, and nothing is left but its folder. */
  readonly stop: () => Promise<void>
}

/** systemd-nspawn's status when the host asked for a reboot. */
const REBOOT_STATUS = 133
const BOOT_MS = 300_000

type State = {
  readonly options: HostOptions
  /** Short, so that the name of its link fits into the kernel's 15 bytes. */
  readonly id: string
  readonly root: string
  nspawn: ChildProcess | null
  ended: Promise<void>
  init: number | null
  boots: number
  isCut: boolean
  isStopping: boolean
  /** Why it can't come up any more. */
  problem: Error | null
}

/** Makes the host and boots it. */
export async function startHost(options: HostOptions): Promise<Host> {
  const s: State = {
    options,
    id: `${options.network.name}-${options.number}`,
    root: join(options.dir, 'root'),
    nspawn: null,
    ended: Promise.resolve(),
    init: null,
    boots: 0,
    isCut: false,
    isStopping: false,
    problem: null,
  }
  await mountTree(s)
  const host = hostOf(s)
  try {
    await host.boot()
  } catch (error) {
    await host.stop()
    throw error
  }
  return host
}

async function mountTree(s: State): Promise<void> {
  const { base, dir, name, network, number } = s.options
  const [upper, work] = [join(dir, 'upper'), join(dir, 'work')]
  const mount = () => {
    for (const folder of [upper, work, s.root]) mkdirSync(folder, { recursive: true })
    return run(['mount', '-t', 'overlay', s.id, '-o', `lowerdir=${base},upperdir=${upper},workdir=${work}`, s.root])
  }
  if ((await mount()).status !== 0) {
    // The folder lies on an overlay itself, as in a container, and overlayfs writes to none: into memory then.
    await must(['mount', '-t', 'tmpfs', s.id, dir])
    const again = await mount()
    if (again.status !== 0) throw new Error(`no tree of its own for ${name}: ${again.stderr.trim()}`)
  }
  const files: Record<string, string> = {
    '/etc/hostname': `${name}\n`,
    '/etc/hosts': `127.0.0.1 localhost\n127.0.1.1 ${name}\n`,
    '/etc/systemd/network/10-host0.network': `[Match]\nName=host0\n\n[Network]\nAddress=${network.addressOf(number)}/24\nGateway=${network.address}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n`,
    ...s.options.files,
  }
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(s.root, path)), { recursive: true })
    writeFileSync(join(s.root, path), text)
  }
}

function hostOf(s: State): Host {
  const link = `vb-${s.id}`
  const runInside = (argv: readonly string[], options: RunOptions = {}) =>
    run(inside(initOf(s), argv, options), options)
  const mustInside = (argv: readonly string[], options: RunOptions = {}) =>
    must(inside(initOf(s), argv, options), options)
  const host: Host = {
    name: s.options.name,
    address: s.options.network.addressOf(s.options.number),
    dir: s.options.dir,
    boots: () => s.boots,
    isUp: () => s.init !== null,
    init: () => initOf(s),
    boot: async () => {
      const { boots } = s
      if (s.nspawn === null) switchOn(s)
      await host.untilBooted(boots)
    },
    untilBooted: (boots) =>
      until(
        `${s.options.name} to come up (see ${consoleOf(s)})`,
        () => {
          if (s.problem !== null) throw s.problem
          return s.boots > boots
        },
        BOOT_MS,
      ).then(() => undefined),
    run: runInside,
    must: mustInside,
    shell: () => enterShell(initOf(s)),
    reboot: async () => {
      const { boots } = s
      await runInside(['systemctl', 'reboot'])
      await host.untilBooted(boots)
    },
    pullPlug: async () => {
      s.isStopping = true
      if (s.nspawn !== null) killIfThere(await until('the init', () => s.init ?? findInit(s)))
      await s.ended
      s.isStopping = false
    },
    cutNetwork: async () => {
      s.isCut = true
      await must(['ip', 'link', 'set', link, 'down'])
    },
    joinNetwork: async () => {
      s.isCut = false
      await must(['ip', 'link', 'set', link, 'up'])
    },
    copyIn: async (from, to) => host.write(to, await readFile(from)),
    write: async (path, text, mode = 0o644) => {
      const script = 'mkdir -p "$(dirname "$1")" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
      await mustInside(['sh', '-c', script, 'sh', path, mode.toString(8)], { input: text })
    },
    read: (path) => (s.init === null ? readFile(join(s.root, path), 'utf8') : mustInside(['cat', path])),
    has: async (path) =>
      s.init === null ? existsSync(join(s.root, path)) : (await runInside(['test', '-e', path])).status === 0,
    journal: (unit) => mustInside(['journalctl', '--no-pager', '--output=short-iso', '--unit', unit]),
    outside: (path) => `/proc/${initOf(s)}/root${path}`,
    stop: () => stop(s, host),
  }
  return host
}

/** The command line that runs another beside a host's init. */
function inside(init: number, argv: readonly string[], options: RunOptions = {}): string[] {
  const enter = ['nsenter', '--target', String(init), '--all']
  // What runs in there is no child of nsenter's killer, so the bound must hold in there too.
  if (options.timeoutMs === undefined) return [...enter, ...argv]
  return [...enter, 'timeout', '--signal=KILL', String(options.timeoutMs / 1000), ...argv]
}

function consoleOf(s: State): string {
  return join(s.options.dir, 'console')
}

function initOf(s: State): number {
  if (s.init === null) throw new Error(`${s.options.name} is off`)
  return s.init
}

/** Each host in a control group of its own in every hierarchy: hosts that share one disturb each other. */
function makeGroups(s: State): string[] {
  return cgroupRoots().map((root) => {
    const group = join(root, s.id)
    mkdirSync(group, { recursive: true })
    for (const file of ['cpuset.cpus', 'cpuset.mems'])
      // Version 1 takes no process into a set that is empty.
      if (
        existsSync(join(root, file)) &&
        readFileSync(join(group, file), 'utf8').trim() === '' &&
        root !== '/sys/fs/cgroup'
      )
        writeFileSync(join(group, file), readFileSync(join(root, file), 'utf8'))
    return join(group, 'cgroup.procs')
  })
}

function switchOn(s: State): void {
  const { network } = s.options
  const groups = makeGroups(s)
  const enter = 'while [ "$1" != -- ]; do echo $$ > "$1" || exit 1; shift; done; shift; exec "$@"'
  const nspawn = [
    'systemd-nspawn',
    '--quiet',
    '--boot',
    '--register=no',
    '--keep-unit',
    `--directory=${s.root}`,
    `--machine=${s.id}`,
    `--hostname=${s.options.name}`,
    `--network-bridge=${network.name}`,
    '--link-journal=no',
    '--resolv-conf=off',
    '--timezone=off',
    '--console=pipe',
  ]
  // The kernel ends nspawn, and with it the host, when this process dies.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'sh', '-c', enter, 'sh', ...groups, '--', ...nspawn], {
    cwd: '/',
    // Version 2 inside, also where this machine has version 1: newer systemd boots with nothing else.
    env: { ...BARE_ENVIRONMENT, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const log = createWriteStream(consoleOf(s), { flags: 'a' })
  child.stdout.pipe(log, { end: false })
  child.stderr.pipe(log, { end: false })
  s.nspawn = child
  s.ended = new Promise((resolve) => {
    child.once('error', (error) => {
      s.problem = error
    })
    child.once('close', (status) => {
      log.end()
      s.init = null
      s.nspawn = null
      if (status === REBOOT_STATUS && !s.isStopping) switchOn(s)
      else if (!s.isStopping && status !== 0)
        s.problem = new Error(`${s.options.name} ended with status ${status}: ${lastLines(consoleOf(s))}`)
      resolve()
    })
  })
  void watchBoot(s, child)
}

/** Sets `init` as soon as commands can be run, and counts the boot when systemd has started everything. */
async function watchBoot(s: State, child: ChildProcess): Promise<void> {
  const isGone = () => s.nspawn !== child
  try {
    const init = await until('the init', () => isGone() || findInit(s), BOOT_MS)
    if (init === true) return
    // Before networkd in there is up.
    if (s.isCut) await must(['ip', 'link', 'set', `vb-${s.id}`, 'down'])
    await until(
      `${s.options.name} to start its services`,
      async () => {
        if (isGone()) return true
        const state = (await run(inside(init, ['systemctl', 'is-system-running']))).stdout.trim()
        return state === 'running' || state === 'degraded'
      },
      BOOT_MS,
    )
    if (isGone()) return
    s.init = init
    s.boots += 1
  } catch (error) {
    if (!isGone()) s.problem = error as Error
  }
}

/** The child of nspawn that is process 1 of its own namespace. */
function findInit(s: State): number | null {
  const parent = s.nspawn?.pid
  if (parent === undefined) return null
  for (const name of readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(name)) continue
    try {
      const status = readFileSync(`/proc/${name}/status`, 'utf8')
      if (new RegExp(`^PPid:\\t${parent}$`, 'm').test(status) && /^NSpid:\t[0-9]+\t1$/m.test(status))
        return Number(name)
    } catch (error) {
      // It ended while we looked.
      if (!['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    }
  }
  return null
}

function lastLines(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n').slice(-5).join(' | ') : 'it said nothing'
}

/** A login shell, or one command, beside the process of a host's init. */
export function enterShell(init: number, command: readonly string[] = []): Promise<number> {
  const [program = '', ...args] = inside(init, command.length > 0 ? command : ['sh', '-c', 'cd && exec bash --login'])
  const child = spawn(program, args, {
    env: { ...BARE_ENVIRONMENT, TERM: process.env['TERM'] ?? 'dumb' },
    stdio: 'inherit',
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (status) => resolve(status ?? 1))
  })
}

async function stop(s: State, host: Host): Promise<void> {
  if (s.nspawn !== null) {
    await host.pullPlug().catch(async () => {
      // It has no init yet, or none any more.
      s.nspawn?.kill('SIGKILL')
      await s.ended
    })
  }
  for (const root of cgroupRoots()) await endGroup(join(root, s.id))
  await unmountOf(s.id)
}
