/**
 * A whole site on one computer: a signed archive, a coordinator, and agents with private package roots, all as the
 * real programs in processes of their own. The demo, `npm run dev` and the tests with real processes stand on it.
 */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { type Archive, createArchive } from '../archive/archive.ts'
import { type BuiltPackage, type PackageSpec, buildPackage } from '../archive/builder.ts'
import { type PackageRoot, createRoot } from '../archive/root.ts'
import { type ArchiveServer, serveArchive } from '../archive/server.ts'
import { CHECKOUT, type Program, startProgram } from './process.ts'

export type SiteMachine = {
  readonly name: string
  readonly root: PackageRoot
  readonly dir: string
  readonly configFile: string
  readonly stateDir: string
  readonly logFile: string
  agent: Program | null
  readonly startAgent: () => Promise<void>
}

export type Ran = { readonly status: number; readonly stdout: string; readonly stderr: string }

export type Site = {
  readonly dir: string
  readonly archive: Archive
  readonly server: ArchiveServer
  readonly socket: string
  readonly coordinatorLog: string
  coordinator: Program | null
  readonly port: () => number
  readonly pin: () => string
  readonly startCoordinator: () => Promise<void>
  readonly build: (spec: PackageSpec) => Promise<BuiltPackage>
  /** Makes a machine with these packages installed, enrols it and starts its agent. */
  readonly addMachine: (
    name: string,
    installed: readonly BuiltPackage[],
    options?: MachineOptions,
  ) => Promise<SiteMachine>
  readonly machine: (name: string) => SiteMachine
  /** `smith ARGS` over the admin socket; never throws for an exit status. */
  readonly smith: (...args: string[]) => Promise<Ran>
  readonly stop: () => Promise<void>
}

export type MachineOptions = {
  readonly auto?: readonly string[]
  /** Lines of agent.toml besides the usual ones. */
  readonly config?: string
  readonly replace?: boolean
  /** Elsewhere than in the machine's own folder, as on another disk. */
  readonly stateDir?: string
}

export type SiteOptions = {
  readonly dir: string
  /** Lines of coordinator.toml's [limits]. */
  readonly limits?: string
  readonly change?: string
  /** Sections of coordinator.toml besides the usual ones, asked for at each start of the coordinator. */
  readonly sections?: () => string
}

export async function createSite(options: SiteOptions): Promise<Site> {
  const { dir } = options
  await mkdir(join(dir, 'debs'), { recursive: true })
  const archive = await createArchive({ dir: join(dir, 'archive') })
  const server = await serveArchive({ dir: archive.dir })
  const socket = join(dir, 'admin.sock')
  const configFile = join(dir, 'coordinator.toml')
  const coordinatorLog = join(dir, 'coordinator.log')
  const machines = new Map<string, SiteMachine>()
  let endpoint = { port: 0, pin: '' }
  const site: Site = {
    dir,
    archive,
    server,
    socket,
    coordinatorLog,
    coordinator: null,
    port: () => endpoint.port,
    pin: () => endpoint.pin,
    startCoordinator: async () => {
      await writeFile(configFile, coordinatorConfig(options, { socket, port: endpoint.port }))
      const program = startProgram('coordinator/main.ts', ['run', '--config', configFile], { log: coordinatorLog })
      site.coordinator = program
      const line = await program.line((text) => text.includes('"msg":"listening"'))
      const said = JSON.parse(line) as { port: number; pin: string }
      // The port stays the same over restarts: the agents know it.
      endpoint = { port: said.port, pin: said.pin }
    },
    build: (spec) => buildPackage(spec, join(dir, 'debs')),
    addMachine: async (name, installed, machineOptions = {}) => {
      const machine = await createMachine(site, name, installed, machineOptions)
      machines.set(name, machine)
      await enrol(site, machine, machineOptions)
      await machine.startAgent()
      return machine
    },
    machine: (name) => {
      const machine = machines.get(name)
      if (machine === undefined) throw new Error(`the site has no machine ${name}`)
      return machine
    },
    smith: async (...args) => {
      const ran = await execa(process.execPath, [`${CHECKOUT}coordinator/cli/smith.ts`, '--socket', socket, ...args], {
        reject: false,
        stdin: 'ignore',
        env: { NODE_OPTIONS: '' },
      })
      return { status: ran.exitCode ?? -1, stdout: ran.stdout, stderr: ran.stderr }
    },
    stop: async () => {
      for (const machine of machines.values()) await machine.agent?.stop()
      for (const machine of machines.values()) await endRunner(machine)
      await site.coordinator?.stop()
      for (const machine of machines.values()) await machine.root.close()
      await server.close()
    },
  }
  return site
}

function coordinatorConfig(options: SiteOptions, at: { readonly socket: string; readonly port: number }): string {
  return `instance = "demo"
listen = "127.0.0.1:${at.port}"
state_dir = "${join(options.dir, 'coordinator')}"
admin_socket = "${at.socket}"

[change]
${options.change?.includes('provider =') === true ? '' : 'provider = "local"'}
${options.change ?? '# One person may do all here: ask and approve. Not for a site.\nrequester_may_approve = true\nlocal_admin_may_approve = true'}

[limits]
${options.limits ?? ''}
${options.sections?.() ?? ''}
`
}

async function createMachine(
  site: Site,
  name: string,
  installed: readonly BuiltPackage[],
  options: MachineOptions,
): Promise<SiteMachine> {
  const dir = join(site.dir, 'machines', name)
  await rm(dir, { recursive: true, force: true })
  await mkdir(join(dir, 'checks.d'), { recursive: true })
  const root = await createRoot({
    dir,
    name: 'root',
    archiveUrl: site.server.url,
    keyFile: site.archive.keyFile,
    installed: [...installed],
    ...(options.auto === undefined ? {} : { auto: [...options.auto] }),
  })
  const machine: SiteMachine = {
    name,
    root,
    dir,
    configFile: join(dir, 'agent.toml'),
    stateDir: options.stateDir ?? join(dir, 'state'),
    logFile: join(dir, 'smith-agent.log'),
    agent: null,
    startAgent: async () => {
      const program = startProgram('agent/main.ts', ['run', '--config', machine.configFile], {
        log: join(dir, 'agent.out'),
      })
      machine.agent = program
      await program.line((line) => line.includes('"msg":"agent started"'))
    },
  }
  await writeFile(
    machine.configFile,
    `coordinator = "https://127.0.0.1:${site.port()}"
state_dir = "${machine.stateDir}"
log_file = "${machine.logFile}"
repos_dir = "${root.sourcesDir}"
checks_dir = "${join(dir, 'checks.d')}"

[apt]
root = "${root.root}"

[identity]
name = "${name}"

[run]
mode = "detached"
${options.config ?? ''}
`,
  )
  return machine
}

async function enrol(site: Site, machine: SiteMachine, options: MachineOptions): Promise<void> {
  const made = await site.smith(
    'enrol',
    'new',
    '--name',
    machine.name,
    ...(options.replace === true ? ['--replace'] : []),
    '--json',
  )
  if (made.status !== 0) throw new Error(`no enrolment for ${machine.name}: ${made.stderr}`)
  const token = (JSON.parse(made.stdout) as { tokens: { token: string }[] }).tokens[0]?.token ?? ''
  const enrolled = await execa(
    process.execPath,
    [
      `${CHECKOUT}agent/main.ts`,
      'enrol',
      '--config',
      machine.configFile,
      '--coordinator',
      `https://127.0.0.1:${site.port()}`,
      '--token',
      token,
    ],
    { reject: false, env: { NODE_OPTIONS: '' } },
  )
  if (enrolled.exitCode !== 0) throw new Error(`${machine.name} was not enrolled: ${enrolled.stderr}`)
}

/** A runner that is still at work outlives its agent by design; a site that ends must end it too. */
async function endRunner(machine: SiteMachine): Promise<void> {
  const processes = await execa('ps', ['-eo', 'pid=,args='], { reject: false })
  for (const line of processes.stdout.split('\n')) {
    const [, pid, args] = /^\s*([0-9]+) (.*)$/.exec(line) ?? []
    if (pid === undefined || args === undefined || !args.includes(machine.dir)) continue
    try {
      process.kill(Number(pid), 'SIGKILL')
    } catch (error) {
      // It ended by itself in the meantime.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }
}

export function readText(path: string): Promise<string> {
  return readFile(path, 'utf8')
}
