/**
 * A whole site on booted hosts: a signed archive, a coordinator, and hosts on which the built packages were installed
 * and enrolled with nothing but the documented commands. Called by hosts.ts and the tests.
 * The archive and, when asked for, the coordinator run on this side of the bridge; `coordinator: 'host'` puts the
 * built smith-coordinator on a host of its own.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { PackageName } from '../../systemd/contents.ts'
import { DEFAULTS, type MadePackage, makePackages } from '../../systemd/package.ts'
import { type Archive, createArchive } from '../archive/archive.ts'
import { type BuiltPackage, type PackageSpec, buildPackage } from '../archive/builder.ts'
import { type ArchiveServer, serveArchive } from '../archive/server.ts'
import { CHECKOUT, type Program, startProgram } from '../demo/process.ts'
import { type Suite, ensureBase } from './base.ts'
import { type Ran, run, until } from './commands.ts'
import { type Host, startHost } from './host.ts'
import { type Network, createNetwork } from './network.ts'

export type HostSiteOptions = {
  /** Everything of the site lies there; on a filesystem that overlayfs can write to. */
  readonly dir: string
  readonly coordinator: 'process' | 'host'
  /** Lines of coordinator.toml's [limits]. */
  readonly limits?: string
  readonly say?: (line: string) => void
}

export type AddOptions = {
  readonly suite?: Suite
  /** Packages of the suite that a machine of its kind has besides the minimum. */
  readonly extra?: readonly string[]
  readonly installed?: readonly BuiltPackage[]
  /** Lines at the end of agent.toml. */
  readonly config?: string
  readonly replace?: boolean
  /** Files to be there before the agent is installed. */
  readonly files?: Readonly<Record<string, string>>
}

export type HostSite = {
  readonly dir: string
  readonly network: Network
  readonly archive: Archive
  readonly server: ArchiveServer
  /** The admin socket, as it can be reached from this side. */
  readonly socket: string
  readonly url: string
  readonly build: (spec: PackageSpec) => Promise<BuiltPackage>
  /** Boots a bare host of the site. */
  readonly bootHost: (
    name: string,
    suite?: Suite,
    files?: Readonly<Record<string, string>>,
    extra?: readonly string[],
  ) => Promise<Host>
  /** A host with the agent installed, configured, enrolled and connected. */
  readonly addHost: (name: string, options?: AddOptions) => Promise<Host>
  readonly host: (name: string) => Host
  readonly hosts: () => readonly Host[]
  readonly smith: (...args: string[]) => Promise<Ran>
  readonly startCoordinator: () => Promise<void>
  readonly stopCoordinator: (signal?: NodeJS.Signals) => Promise<void>
  readonly stop: () => Promise<void>
}

const COORDINATOR_PORT = 7600

let making: Promise<MadePackage[]> | null = null

/** The package, made of the sources as they are now, or found made of the same. */
export async function builtDeb(program: PackageName): Promise<string> {
  making ??= makePackages({ ...DEFAULTS, out: join(CHECKOUT, 'dist/fast'), level: 0 })
  const found = (await making).find((one) => one.name === program)
  if (found === undefined) throw new Error(`no ${program} was made`)
  return found.path
}

type State = {
  readonly options: HostSiteOptions
  readonly network: Network
  readonly archive: Archive
  readonly server: ArchiveServer
  readonly hosts: Map<string, Host>
  count: number
  program: Program | null
  /** The host of the coordinator, where it has one. */
  seat: Host | null
}

export async function createHostSite(options: HostSiteOptions): Promise<HostSite> {
  const { dir } = options
  mkdirSync(join(dir, 'debs'), { recursive: true })
  const network = await createNetwork()
  try {
    const archive = await createArchive({ dir: join(dir, 'archive') })
    const server = await serveArchive({ dir: archive.dir, host: network.address })
    const s: State = { options, network, archive, server, hosts: new Map(), count: 0, program: null, seat: null }
    return siteOf(s)
  } catch (error) {
    await network.close()
    throw error
  }
}

function siteOf(s: State): HostSite {
  const { dir } = s.options
  const site: HostSite = {
    dir,
    network: s.network,
    archive: s.archive,
    server: s.server,
    get socket() {
      return socketOf(s)
    },
    get url() {
      return urlOf(s)
    },
    build: (spec) => buildPackage(spec, join(dir, 'debs')),
    bootHost: async (name, suite = 'bookworm', files = {}, extra = []) => {
      s.count += 1
      const number = s.count
      const base = await ensureBase(suite, s.options.say, extra)
      const host = await startHost({ base, name, dir: join(dir, 'hosts', name), network: s.network, number, files })
      s.hosts.set(name, host)
      return host
    },
    addHost: (name, options = {}) => addHost(s, site, name, options),
    host: (name) => {
      const host = s.hosts.get(name)
      if (host === undefined) throw new Error(`the site has no host ${name}`)
      return host
    },
    hosts: () => [...s.hosts.values()],
    smith: (...args) =>
      run([process.execPath, `${CHECKOUT}coordinator/cli/smith.ts`, '--socket', socketOf(s), ...args]),
    startCoordinator: () => (s.options.coordinator === 'process' ? startProcess(s) : startSeat(s, site)),
    stopCoordinator: async (signal = 'SIGTERM') => {
      await s.program?.stop(signal)
      if (s.seat !== null)
        await s.seat.must([
          'systemctl',
          signal === 'SIGKILL' ? 'kill' : 'stop',
          ...(signal === 'SIGKILL' ? ['--signal=KILL'] : []),
          'smith-coordinator',
        ])
    },
    stop: async () => {
      await Promise.allSettled([...s.hosts.values(), ...(s.seat === null ? [] : [s.seat])].map((host) => host.stop()))
      await s.program?.stop('SIGKILL')
      await s.server.close()
      await s.network.close()
      rmSync(dir, { recursive: true, force: true })
    },
  }
  return site
}

function socketOf(s: State): string {
  return s.seat === null ? join(s.options.dir, 'admin.sock') : s.seat.outside('/run/smith-coordinator/admin.sock')
}

function urlOf(s: State): string {
  return `https://${s.seat === null ? s.network.address : s.seat.address}:${COORDINATOR_PORT}`
}

function coordinatorConfig(s: State, listen: string, places: string): string {
  return `instance = "hosts"
listen = "${listen}:${COORDINATOR_PORT}"
${places}
[change]
provider = "local"
# One person may do all here: ask and approve. Not for a site.
requester_may_approve = true
local_admin_may_approve = true

[limits]
${s.options.limits ?? ''}
`
}

async function startProcess(s: State): Promise<void> {
  const { dir } = s.options
  const file = join(dir, 'coordinator.toml')
  const places = `state_dir = "${join(dir, 'coordinator')}"\nadmin_socket = "${socketOf(s)}"\n`
  writeFileSync(file, coordinatorConfig(s, s.network.address, places))
  const program = startProgram('coordinator/main.ts', ['run', '--config', file], { log: join(dir, 'coordinator.log') })
  s.program = program
  await program.line((line) => line.includes('"msg":"listening"'))
}

async function startSeat(s: State, site: HostSite): Promise<void> {
  if (s.seat !== null) {
    await s.seat.must(['systemctl', 'start', 'smith-coordinator'])
  } else {
    const deb = await builtDeb('smith-coordinator')
    const host = await site.bootHost('coordinator')
    s.hosts.delete('coordinator')
    await host.write('/etc/smith/coordinator.toml', coordinatorConfig(s, '0.0.0.0', ''))
    await installDeb(host, deb)
    await host.must(['systemctl', 'start', 'smith-coordinator'])
    s.seat = host
  }
  await until('the coordinator to answer', async () => (await site.smith('machines')).status === 0)
}

async function installDeb(host: Host, path: string): Promise<void> {
  const there = `/var/tmp/${path.split('/').at(-1) ?? ''}`
  await host.copyIn(path, there)
  // As documented: a configuration that stands there already is kept.
  await host.must(['dpkg', '--install', '--force-confold', there], { env: { DEBIAN_FRONTEND: 'noninteractive' } })
  await host.must(['rm', there])
}

async function addHost(s: State, site: HostSite, name: string, options: AddOptions): Promise<Host> {
  const deb = await builtDeb('smith-agent')
  const host = await site.bootHost(name, options.suite, options.files, options.extra)
  for (const built of options.installed ?? []) await installDeb(host, built.path)
  await configure(s, site, host, options)
  await installDeb(host, deb)
  const made = await site.smith(
    'enrol',
    'new',
    '--name',
    name,
    ...(options.replace === true ? ['--replace'] : []),
    '--json',
  )
  if (made.status !== 0) throw new Error(`no enrolment for ${name}: ${made.stderr}`)
  const token = (JSON.parse(made.stdout) as { tokens: { token: string }[] }).tokens[0]?.token ?? ''
  await host.must(['smith-agent', 'enrol', '--coordinator', site.url, '--token', token])
  await host.must(['systemctl', 'start', 'smith-agent'])
  return host
}

/** What a person puts onto a machine by hand or by other means: the agent's file, the repository, its key. */
async function configure(s: State, site: HostSite, host: Host, options: AddOptions): Promise<void> {
  const stanza = (suite: string) =>
    `Types: deb\nURIs: ${s.server.url}\nSuites: ${suite}\nComponents: main\nSigned-By: /etc/smith/repos/prod.asc\n`
  await host.write(
    '/etc/smith/agent.toml',
    `coordinator = "${site.url}"\n\n[identity]\nname = "${host.name}"\n${options.config ?? ''}`,
  )
  await host.write('/etc/smith/repos/prod.asc', readFileSync(s.archive.keyFile, 'utf8'))
  await host.write('/etc/smith/repos/prod.sources', stanza('prod'))
  await host.write('/etc/smith/repos/build.sources.in', stanza('{build}'))
}

/** For whoever waits for a package's script on a host (the builder's `gate`). */
export function gateOn(
  host: Host,
  file: string,
): { readonly reached: () => Promise<number>; readonly open: () => Promise<void> } {
  return {
    reached: () =>
      until(
        `the gate ${file} on ${host.name}`,
        async () => Number((await host.run(['cat', `${file}.reached`])).stdout) || null,
      ),
    open: async () => void (await host.must(['touch', `${file}.open`])),
  }
}
