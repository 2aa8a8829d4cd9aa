/**
 * What smith is for, with the programs of the unpacked packages and nothing else of ours: a coordinator, an agent with a
 * private package root, and a patch of one package from a small signed archive.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { createArchive } from '../archive/archive.ts'
import { buildPackage } from '../archive/builder.ts'
import { createRoot } from '../archive/root.ts'
import { serveArchive } from '../archive/server.ts'
import type { Status } from '../../protocol/status.ts'
import { type Ran, run0 } from './unpacked.ts'

const NAME = 'prod-dal10-web-1'
const ENV = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' }

export type Patched = {
  readonly enrolled: Ran
  readonly patched: Ran
  readonly version: string | undefined
  /** The CLI has the coordinator's program look into a database, which is in use. */
  readonly verified: Ran
  readonly logFile: string
  /** What the runner wrote down that it would start. */
  readonly commands: string
}

export async function patchWithPackages(t: Test, tree: string): Promise<Patched> {
  const dir = mkdtempSync(join(tmpdir(), 'smith-unpacked-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const coordinator = module(tree, 'smith-coordinator', 'coordinator/main.mjs')
  const cli = module(tree, 'smith-coordinator', 'cli/smith.mjs')
  const agent = module(tree, 'smith-agent', 'agent/main.mjs')
  const socket = join(dir, 'admin.sock')
  const machine = await makeMachine(t, dir)
  writeFileSync(
    join(dir, 'coordinator.toml'),
    `instance = "prod"\nlisten = "127.0.0.1:0"\nstate_dir = "${dir}/coordinator"\nadmin_socket = "${socket}"
[change]\nrequester_may_approve = true\nlocal_admin_may_approve = true\n`,
  )
  const listening = await serve(
    t,
    [...coordinator, 'run', '--config', join(dir, 'coordinator.toml')],
    '"msg":"listening"',
  )
  const url = `https://127.0.0.1:${(JSON.parse(listening) as { port: number }).port}`
  const smith = (...args: string[]) => call([...cli, '--socket', socket, ...args])

  const token = (await smith('enrol', 'new', '--name', NAME)).stdout.trim().split('\n')[0] ?? ''
  const enrolled = await call([...agent, 'enrol', '--config', machine.config, '--coordinator', url, '--token', token])
  await serve(t, [...agent, 'run', '--config', machine.config], '"msg":"connected to the coordinator"')
  const asked = await smith('patch', '--yes', `prod machines: ${NAME} outage:0`)
  const change = /CHG\d{7}/.exec(asked.stdout)?.[0] ?? ''
  const status = async () => JSON.parse((await smith('status', change, '--json')).stdout) as Status
  const approved = await smith('approve', change, '--digest', (await status()).digest ?? '')
  const patched = approved.status === 0 ? await smith('status', '--watch', change) : approved
  const orders = join(dir, 'state/run/orders')
  const commands = existsSync(orders) ? readdirSync(orders).map((order) => readAll(join(orders, order))) : []
  const version = (await machine.root.status('hello'))?.version
  const verified = await smith('audit', 'verify', join(dir, 'coordinator/smith.db'))
  return { enrolled, patched, verified, version, logFile: machine.logFile, commands: commands.join('\n') }
}

/** The command of the install and apt's configuration, which names the hook. */
function readAll(order: string): string {
  return ['command.json', 'apt/smith.conf', 'apt/pre-install']
    .map((name) => join(order, name))
    .flatMap((path) => (existsSync(path) ? [readFileSync(path, 'utf8')] : []))
    .join('\n')
}

function module(tree: string, name: string, path: string): string[] {
  return [join(tree, 'usr/lib', name, 'node'), join(tree, 'usr/lib', name, path)]
}

function call([program = '', ...args]: readonly string[]): Promise<Ran> {
  return run0(program, args, { ...ENV, HOME: tmpdir() })
}

async function makeMachine(t: Test, dir: string) {
  const archive = await createArchive({ dir: join(dir, 'archive') })
  const server = await serveArchive({ dir: archive.dir })
  const before = await buildPackage({ name: 'hello', version: '1' }, join(dir, 'debs'))
  const after = await buildPackage({ name: 'hello', version: '2' }, join(dir, 'debs'))
  await archive.publish({ suite: 'prod', packages: [after], date: new Date(Date.now() - 60_000) })
  const root = await createRoot({
    dir,
    name: 'root',
    archiveUrl: server.url,
    keyFile: archive.keyFile,
    installed: [before],
  })
  t.teardown(async () => {
    await root.close()
    await server.close()
  })
  const logFile = join(dir, 'smith-agent.log')
  const config = join(dir, 'agent.toml')
  mkdirSync(join(dir, 'checks.d'))
  writeFileSync(
    config,
    `state_dir = "${dir}/state"\nlog_file = "${logFile}"\nrepos_dir = "${root.sourcesDir}"\nchecks_dir = "${dir}/checks.d"
[apt]\nroot = "${root.root}"\n[run]\nmode = "detached"\n`,
  )
  return { root, config, logFile }
}

/** Starts a program that stays, and waits for a line of its log; it ends with the test. */
function serve(t: Test, [program = '', ...args]: readonly string[], wanted: string): Promise<string> {
  const child = spawn(program, args, { cwd: '/', env: ENV, stdio: ['ignore', 'pipe', 'pipe'] })
  const said: string[] = []
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
  t.teardown(async () => {
    child.kill('SIGTERM')
    await ended
  })
  return new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        said.push(line)
        if (line.includes(wanted)) resolve(line)
      })
    }
    void ended.then(() => reject(new Error(`${args[0]} ended before it said ${wanted}:\n${said.join('\n')}`)))
  })
}
