/**
 * `npm run hosts -- up N | list | shell NAME | down`: a site of booted hosts for people, kept in the background by a
 * process of its own. Exit status 0 done, 1 failed, 2 usage; an error is one line what and one line what to do.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { INSTALLED, PUBLISHED, BUILD } from '../demo/packages.ts'
import { SUITES, type Suite, whyNoHosts } from './base.ts'
import { enterShell } from './host.ts'
import { startOf, sweep } from './network.ts'
import { type HostSite, createHostSite } from './site.ts'

/** What the process that keeps a site writes down for the others. */
type Kept = {
  readonly pid: number
  readonly startedAt: string
  readonly dir: string
  readonly log: string
  readonly socket: string
  readonly url: string
  readonly hosts: readonly { readonly name: string; readonly address: string; readonly init: number | null }[]
  /** Set when everything is up. */
  readonly ready: boolean
  readonly problem: string | null
}
type UpOptions = { readonly suite: Suite; readonly coordinator: 'process' | 'host' }

const KEPT = '/run/smith-hosts-up.json'
const HOSTS_MAX = 20
const WAIT_MS = 900_000

class Failure extends Error {
  readonly remedy: string
  constructor(message: string, remedy: string) {
    super(message)
    this.remedy = remedy
  }
}

async function main(): Promise<number> {
  const program = new Command('hosts')
    .description('Real Debian hosts on this computer, each with the built agent, enrolled with a coordinator.')
    .exitOverride()
  program
    .command('up')
    .description(
      'Boot a coordinator and N hosts, install and enrol the agent on each, and keep them in the background.',
    )
    .argument('<n>', 'how many hosts', hostCount)
    .addOption(new Option('--suite <suite>', 'the Debian of the hosts').choices([...SUITES]).default('bookworm'))
    .addOption(
      new Option('--coordinator <where>', 'as a process here, or from its package on a host of its own')
        .choices(['process', 'host'])
        .default('process'),
    )
    .action(up)
  program.command('list').description('Show the hosts that are up.').action(list)
  program
    .command('shell')
    .description('Open a root shell on a host, or run one command line there.')
    .argument('<name>', 'of `list`')
    .argument('[command...]', 'after --')
    .action(shell)
  program.command('down').description('Switch everything off and remove it.').action(down)
  program
    .command('keep', { hidden: true })
    .argument('<n>', '', hostCount)
    .requiredOption('--dir <dir>')
    .requiredOption('--suite <suite>')
    .requiredOption('--coordinator <where>')
    .action(keep)
  for (const command of program.commands) command.exitOverride()
  try {
    await program.parseAsync()
    return Number(process.exitCode ?? 0)
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    const remedy =
      error instanceof Failure
        ? error.remedy
        : 'see the log that stands above, or start again after: npm run hosts -- down'
    process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n   do: ${remedy}\n`)
    return 1
  }
}

function hostCount(text: string): number {
  const count = Number(text)
  if (!Number.isInteger(count) || count < 1 || count > HOSTS_MAX)
    throw new InvalidArgumentError(`A whole number from 1 to ${HOSTS_MAX} is needed.`)
  return count
}

function kept(): Kept | null {
  if (!existsSync(KEPT)) return null
  const found = JSON.parse(readFileSync(KEPT, 'utf8')) as Kept
  return startOf(found.pid) === found.startedAt ? found : null
}

function keptOrFail(): Kept {
  const found = kept()
  if (found === null) throw new Failure('no hosts are up', 'npm run hosts -- up 3')
  return found
}

async function up(count: number, options: UpOptions): Promise<void> {
  if (kept() !== null)
    throw new Failure('hosts are up already', 'npm run hosts -- list, or first: npm run hosts -- down')
  const bare = whyNoHosts()
  if (bare !== null) throw new Failure(bare, 'install or grant what is missing, as root on Debian or Ubuntu')
  mkdirSync('/var/tmp', { recursive: true })
  const dir = mkdtempSync('/var/tmp/smith-hosts-')
  const log = join(dir, 'log')
  rmSync(KEPT, { force: true })
  const out = openSync(log, 'a')
  const args = ['keep', String(count), '--dir', dir, '--suite', options.suite, '--coordinator', options.coordinator]
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), ...args], {
    detached: true,
    stdio: ['ignore', out, out],
    cwd: '/',
  })
  child.unref()
  const found = await followUntilReady(log, child.pid ?? 0)
  process.stdout.write(
    `\n${listText(found)}\nnpm run hosts -- shell ${found.hosts[0]?.name ?? 'NAME'}\n${smithLine(found)} machines\n${smithLine(found)} patch --yes prod machines: prod-dal10-* outage:0\nnpm run hosts -- down\n`,
  )
}

function smithLine(found: Kept): string {
  return `npm run -s smith -- --socket ${found.socket}`
}

/** Shows what the keeper says until everything is up, or it gives up. */
async function followUntilReady(log: string, pid: number): Promise<Kept> {
  const end = performance.now() + WAIT_MS
  let shown = 0
  for (;;) {
    const text = readFileSync(log, 'utf8')
    process.stdout.write(text.slice(shown))
    shown = text.length
    const found = kept()
    if (found?.problem != null) throw new Failure(found.problem, `see ${log}`)
    if (found?.ready === true) return found
    if (startOf(pid) === null) throw new Failure('the process that keeps the hosts ended', `see ${log}`)
    if (performance.now() > end)
      throw new Failure('the hosts did not come up', `see ${log}, then: npm run hosts -- down`)
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}

function listText(found: Kept): string {
  const width = Math.max(...found.hosts.map((host) => host.name.length), 4)
  const lines = found.hosts.map(
    (host) => `${host.name.padEnd(width)}  ${host.address.padEnd(14)}  ${host.init === null ? 'off' : 'up'}\n`,
  )
  return `${lines.join('')}coordinator ${found.url}, admin socket ${found.socket}\neverything lies in ${found.dir}\n`
}

function list(): void {
  const found = kept()
  process.stdout.write(found === null ? 'no hosts are up\n' : listText(found))
}

async function shell(name: string, command: readonly string[]): Promise<void> {
  const found = keptOrFail()
  const host = found.hosts.find((one) => one.name === name) ?? found.hosts.find((one) => one.name.endsWith(`-${name}`))
  if (host === undefined)
    throw new Failure(`there is no host ${name}`, `one of: ${found.hosts.map((one) => one.name).join(', ')}`)
  if (host.init === null)
    throw new Failure(`${host.name} is off or just starting`, 'wait a moment, or: npm run hosts -- list')
  process.exitCode = await enterShell(host.init, command)
}

async function down(): Promise<void> {
  const found = kept()
  if (found !== null) {
    process.kill(found.pid, 'SIGTERM')
    const end = performance.now() + WAIT_MS
    while (startOf(found.pid) === found.startedAt) {
      if (performance.now() > end) throw new Failure(`process ${found.pid} does not end`, `see ${found.log}`)
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  const swept = await sweep()
  rmSync(KEPT, { force: true })
  for (const name of readdirSync('/var/tmp'))
    if (found !== null && join('/var/tmp', name) === found.dir) rmSync(found.dir, { recursive: true, force: true })
  process.stdout.write(found === null && swept.length === 0 ? 'no hosts were up\n' : 'all hosts are down\n')
}

/** The process behind `up`. */
async function keep(count: number, options: UpOptions & { readonly dir: string }): Promise<void> {
  const say = (line: string) => process.stdout.write(`${line}\n`)
  let site: HostSite | null = null
  let problem: string | null = null
  let ready = false
  const writeDown = () => {
    const state: Kept = {
      pid: process.pid,
      startedAt: startOf(process.pid) ?? '',
      dir: options.dir,
      log: join(options.dir, 'log'),
      socket: site?.socket ?? '',
      url: site?.url ?? '',
      hosts: (site?.hosts() ?? []).map((host) => ({
        name: host.name,
        address: host.address,
        init: host.isUp() ? host.init() : null,
      })),
      ready,
      problem,
    }
    writeFileSync(`${KEPT}.new`, JSON.stringify(state))
    writeFileSync(KEPT, JSON.stringify(state))
  }
  writeDown()
  const ended = Promise.withResolvers<void>()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ended.resolve())
  try {
    site = await createHostSite({ dir: options.dir, coordinator: options.coordinator, say })
    await fill(site, count, options.suite, say)
    ready = true
    writeDown()
    // A host that rebooted has another init.
    const timer = setInterval(writeDown, 1000)
    await ended.promise
    clearInterval(timer)
  } catch (error) {
    problem = error instanceof Error ? error.message : String(error)
    say(problem)
    writeDown()
    process.exitCode = 1
    // Long enough for `up` to read it.
    await new Promise((resolve) => setTimeout(resolve, 1000))
  }
  await site?.stop()
}

async function fill(site: HostSite, count: number, suite: Suite, say: (line: string) => void): Promise<void> {
  const installed = await Promise.all(INSTALLED.map((spec) => site.build(spec)))
  const published = await Promise.all(PUBLISHED.map((spec) => site.build(spec)))
  for (const name of ['prod', BUILD])
    await site.archive.publish({ suite: name, packages: published, build: BUILD, date: new Date() })
  await site.startCoordinator()
  say('the coordinator is up')
  for (let number = 1; number <= count; number += 1) {
    const host = await site.addHost(`prod-dal10-carrier3-worker-${number}`, { suite, installed })
    say(`${host.name} is up and enrolled`)
  }
}

process.exit(await main())
