/**
 * What programs do on a simulated machine: apt, dpkg, flock(1), systemctl(1) and smith's own wrapper. They take
 * their time, fail, hang, are killed or lie as the faults of the seed say, and tell the ledger what they really did.
 */
import { dirname, join } from 'node:path'
import { archiveNameOf } from '../../agent/apt/command.ts'
import { DRIFT_MARK } from '../../agent/apt/diagnosis.ts'
import type { ProcessEnd, ProcessSpec } from '../../agent/apt/processes.ts'
import { orderFilesOf } from '../../agent/disk/layout.ts'
import type { InstallCommand } from '../../agent/runner/command-file.ts'
import { wrap } from '../../agent/runner/wrap.ts'
import { plant, textAt } from './disk.ts'
import type { Host, Proc } from './host.ts'
import { archiveHash, archivesText, simulationText, type Upgrade } from './repository.ts'

const WELL: ProcessEnd = { status: 0, signal: null, timedOut: false, problem: null }
const KILLED: ProcessEnd = { ...WELL, status: null, signal: 'SIGKILL' }
const failing = (status: number): ProcessEnd => ({ ...WELL, status })

type Done = (end: ProcessEnd) => void

/** Lets a program begin; `done` is called when it has ended by itself. */
export function begin(machine: Host, child: Proc, spec: ProcessSpec, done: Done): void {
  const { argv } = spec
  const line = argv.join(' ')
  if (argv[0] === 'flock' && argv.at(-1) === 'true') return machine.lock(child, argv[1] ?? '', () => done(WELL))
  if (argv[0] === 'flock') return wrapper(machine, child, argv, done)
  if (line === 'systemctl reboot') return reboot(machine, child, done)
  const say = (text: string) => machine.print(spec.output, text)
  const later = (then: () => void) =>
    machine.later(child, machine.dice.between(20, machine.world.faults.aptMsMax), then)
  later(() => {
    if (argv.at(-1) === 'update') return update(machine, child, argv, say, done)
    if (argv.includes('-s')) say(simulationText(machine.upgrades(buildOf(machine, argv))))
    else if (argv[0] === 'apt-cache') say(archivesText(machine.upgrades(buildOf(machine, argv))))
    else if (argv.includes('-d')) return fetch(machine, argv, say, done)
    else if (argv.includes('--audit')) say(auditText(machine))
    else if (argv.includes('--print-architecture')) say('amd64\n')
    else if (argv[0] === 'apt-config' || argv[0] === 'sleep') say('')
    else throw new Error(`the simulator has no program for ${line}`)
    done(WELL)
  })
}

function folderOf(argv: readonly string[]): string {
  return dirname(argv[argv.indexOf('-c') + 1] ?? '')
}

function buildOf(machine: Host, argv: readonly string[]): string {
  return /^Suites: (\S+)$/m.exec(textAt(machine.disk, folderOf(argv), 'smith.sources'))?.[1] ?? 'prod'
}

function update(machine: Host, child: Proc, argv: readonly string[], say: (text: string) => void, done: Done): void {
  const { world, dice } = machine
  if (dice.chance(world.faults.aptFails)) {
    world.met('apt fails', machine)
    say('E: Failed to fetch http://repo/InRelease  503  Service Unavailable\n')
    return done(failing(100))
  }
  if (dice.chance(world.faults.aptHangs)) {
    world.met('apt hangs', machine)
    return void machine.later(child, 3_600_000, () => done(failing(100)))
  }
  const build = buildOf(machine, argv)
  plant(machine.disk, join(folderOf(argv), 'lists', `repo_dists_${build}_InRelease`), world.repository.release(build))
  say(`Get:1 http://repo ${build} InRelease\n`)
  done(WELL)
}

function fetch(machine: Host, argv: readonly string[], say: (text: string) => void, done: Done): void {
  const { world, dice } = machine
  if (dice.chance(world.faults.aptFails)) {
    world.met('apt fails', machine)
    say('E: Failed to fetch http://repo/app.deb  Connection reset by peer\n')
    return done(failing(100))
  }
  for (const { name, version } of machine.upgrades(buildOf(machine, argv))) {
    const archive = archiveNameOf({ name, version, arch: 'amd64' })
    say(`Get:1 http://repo ${archive}\n`)
  }
  done(WELL)
}

function auditText(machine: Host): string {
  const unclean = [...machine.packages].filter(([, one]) => one.state !== 'installed')
  return unclean.map(([name, { state }]) => `${name} is ${state}\n`).join('')
}

/** systemd takes everything down in order; a runner with apt at work keeps it from going on until apt has ended. */
function reboot(machine: Host, child: Proc, done: Done): void {
  const order = machine.orderAtWork()
  machine.world.ledger.rebooted(machine, order)
  if (machine.dice.chance(machine.world.faults.rebootFails)) {
    machine.world.met('reboot does nothing', machine)
    return void machine.later(child, 20, () => done(WELL))
  }
  machine.later(child, 20, () => done(WELL))
  machine.rebootSoon()
}

function wrapper(machine: Host, child: Proc, argv: readonly string[], done: Done): void {
  const [folder = '', ownTry = ''] = argv.slice(-2)
  const files = orderFilesOf(folder)
  machine.lock(child, files.lock, () => {
    machine.later(child, machine.dice.between(50, machine.dice.pick([100, 500, 8000])), () =>
      wrap(
        {
          disk: machine.diskOf(child),
          now: () => machine.wallNow(),
          open: () => machine.call(child, 'open'),
          start: (aptArgv, command, then) => {
            machine.call(child, 'start')
            const apt = machine.spawn(child, 'apt', false)
            machine.holdAlso(apt, files.lock)
            const ended = (end: ProcessEnd) => {
              machine.gone(apt)
              machine.run(child, () => then({ status: end.status, signal: end.signal, problem: end.problem }))
            }
            if (aptArgv[0] === 'sh') repair(machine, apt, ended)
            else install(machine, apt, { argv: aptArgv, command, output: files.output, status: files.status }, ended)
          },
        },
        files,
        Number(ownTry),
        (status) => done(failing(status)),
      ),
    )
  })
}

/** `dpkg --configure -a`. */
function repair(machine: Host, apt: Proc, done: Done): void {
  machine.takeDpkg(apt)
  machine.later(apt, machine.dice.between(50, 2000), () => {
    for (const [name, one] of machine.packages)
      if (one.state !== 'installed') machine.setPackage(name, one.version, 'installed')
    machine.freeDpkg(apt)
    done(WELL)
  })
}

type Install = {
  readonly argv: readonly string[]
  readonly command: InstallCommand
  readonly output: string
  readonly status: string
}

/** `apt-get dist-upgrade`, with smith's hook under apt's own lock. */
function install(machine: Host, apt: Proc, run: Install, done: Done): void {
  const { world, dice } = machine
  const order = run.command.order
  const say = (text: string) => machine.print(run.output, text)
  const upgrades = machine.upgrades(buildOf(machine, run.argv))
  world.ledger.aptStarted(machine, order)
  const strange = upgrades.filter((one) => !isPlanned(run.command, one))
  if (strange.length > 0) {
    say(strange.map((one) => `${DRIFT_MARK}${one.name}:amd64=${one.version} would be unpacked\n`).join(''))
    say('E: Sub-process pre-install returned an error code (1)\n')
    return void machine.later(apt, 20, () => done(failing(100)))
  }
  machine.takeDpkg(apt)
  const history = (text: string) => machine.print('/var/log/apt/history.log', text)
  history(`\nStart-Date: now\nCommandline: ${run.argv.join(' ')}\n`)
  const end = (status: number) => {
    history(
      status === 0 ? 'End-Date: now\n' : 'Error: Sub-process /usr/bin/dpkg returned an error code (1)\nEnd-Date: now\n',
    )
    machine.freeDpkg(apt)
    done(failing(status))
  }
  if (dice.chance(world.faults.aptLies)) {
    world.met('apt lies', machine)
    return void machine.later(apt, 100, () => end(0))
  }
  const wantsReboot = world.repository.wantsReboot(run.command.plan.build)
  each(
    machine,
    apt,
    { ...run, upgrades, say },
    (isWell) => {
      if (isWell && wantsReboot && upgrades.length > 0) plant(machine.disk, '/run/reboot-required', '')
      end(isWell ? 0 : 100)
    },
    () => done(KILLED),
  )
}

function isPlanned(command: InstallCommand, { name, version }: Upgrade): boolean {
  return command.plan.installs.some(
    (one) => one.name === name && one.version === version && one.sha256 === archiveHash(name, version),
  )
}

type Unpacking = Install & { readonly upgrades: readonly Upgrade[]; readonly say: (text: string) => void }

/** One package after another, with dpkg's states in between. */
function each(machine: Host, apt: Proc, run: Unpacking, end: (isWell: boolean) => void, killed: () => void): void {
  const { world, dice } = machine
  const { faults, ledger } = world
  const next = (index: number): void => {
    const one = run.upgrades[index]
    if (one === undefined) return end(true)
    machine.setPackage(one.name, one.version, 'unpacked')
    ledger.installed(machine, run.command.order, one)
    run.say(`Unpacking ${one.name} (${one.version}) over (${one.from}) ...\n`)
    machine.print(
      run.status,
      `pmstatus:${one.name}:${Math.round((100 * index) / run.upgrades.length)}:Unpacking ${one.name}\n`,
    )
    let pauseMs = dice.between(50, faults.aptMsMax * 3)
    if (dice.chance(faults.aptHangs)) {
      world.met('script hangs', machine)
      pauseMs += 1_200_000
    }
    machine.later(apt, pauseMs, () => {
      machine.setPackage(one.name, one.version, 'half-configured')
      if (dice.chance(faults.aptKilled)) {
        world.met('apt killed', machine)
        return killApt(machine, apt, killed)
      }
      if (dice.chance(faults.aptFails)) {
        world.met('script fails', machine)
        run.say(`dpkg: error processing package ${one.name} (--configure):\n subprocess returned error exit status 1\n`)
        return end(false)
      }
      run.say(`Setting up ${one.name} (${one.version}) ...\n`)
      machine.setPackage(one.name, one.version, 'installed')
      next(index + 1)
    })
  }
  next(0)
}

/** The kernel ends apt; dpkg goes on with what it is at, and keeps its lock meanwhile. */
function killApt(machine: Host, apt: Proc, killed: () => void): void {
  machine.later(null, machine.dice.between(500, 20_000), () => machine.freeDpkg(apt))
  killed()
}
