/**
 * `npm start`: does for real what smith is for, before the viewer's eyes. A coordinator, a small signed repository made
 * on the spot, and four agents with private package roots (real apt, real dpkg, nothing of this computer touched):
 * asks for a patch, approves it, patches the machines one after another, meets a failure, lifts the hold, and ends on
 * the status. On a terminal it then stays to be played with; elsewhere it exits 0, or 1 when anything went wrong.
 */
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ChildProcess, spawn } from 'node:child_process'
import { BUILD, FLAKY_INSTALLED, FLAKY_MACHINE, INSTALLED, MACHINES, PUBLISHED, REQUEST } from './packages.ts'
import { CHECKOUT } from './process.ts'
import { heading, say, typed } from './screen.ts'
import { type Site, createSite } from './site.ts'

const isInteractive = process.stdin.isTTY && process.stdout.isTTY
let site: Site | null = null
let shown: ChildProcess | null = null
let isEnding = false

async function main(): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'smith-'))
  heading('smith: machines patched strictly one after another, under an approved change')
  say(`Everything of this demonstration lies in ${dir}; nothing else of this computer is touched.`)
  heading('A signed repository, a coordinator, and four machines')
  const made = await prepare(dir)
  await run(made, ['machines'])
  heading('One line asks')
  const change = await ask(made)
  heading('Approved, they are patched in series')
  await approve(made, change)
  await follow(made, change)
  heading('One machine failed, and the line stopped before the next')
  await run(made, ['status', change])
  await explain(made, change)
  heading('The script of that package works the second time, so the machine is tried again')
  await run(made, ['retry', change, FLAKY_MACHINE])
  await follow(made, change)
  heading('Done')
  await run(made, ['status', change])
  await judge(made, change)
  await stay(made, dir, change)
}

async function prepare(dir: string): Promise<Site> {
  const made = await createSite({ dir })
  // Known from here on, so that an error or Ctrl-C in the middle of what follows stops what was started.
  site = made
  const installed = await Promise.all(INSTALLED.map((spec) => made.build(spec)))
  const flaky = await made.build(FLAKY_INSTALLED)
  const published = await Promise.all(PUBLISHED.map((spec) => made.build(spec)))
  await made.archive.publish({ suite: 'prod', packages: published, build: BUILD, date: new Date() })
  await made.archive.publish({ suite: BUILD, packages: published, build: BUILD, date: new Date() })
  await made.startCoordinator()
  await Promise.all(
    MACHINES.map((name) => made.addMachine(name, name === FLAKY_MACHINE ? [...installed, flaky] : installed)),
  )
  await untilOnline(made)
  return made
}

async function untilOnline(made: Site): Promise<void> {
  for (;;) {
    const listed = await made.smith('machines', '--json')
    const machines = JSON.parse(listed.stdout) as { online: boolean }[]
    if (machines.filter((machine) => machine.online).length === MACHINES.length) return
  }
}

/** Runs `smith ARGS` with its output on the screen; the words that the viewer would type stand above it. */
async function run(
  made: Site,
  args: readonly string[],
  options: { readonly show?: readonly string[] } = {},
): Promise<number> {
  typed(`smith ${(options.show ?? args).join(' ')}`)
  const { NODE_OPTIONS: _loaders, ...env } = process.env
  shown = spawn(process.execPath, [`${CHECKOUT}coordinator/cli/smith.ts`, '--socket', made.socket, ...args], {
    stdio: ['ignore', 'inherit', 'inherit'],
    env,
  })
  const child = shown
  const status = await new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
  shown = null
  return status
}

async function ask(made: Site): Promise<string> {
  const status = await run(made, ['patch', '--yes', ...REQUEST.split(' ')], { show: ['patch', ...REQUEST.split(' ')] })
  if (status !== 0) throw new Error('the request was refused')
  const listed = await made.smith('status', '--json')
  const [list] = JSON.parse(listed.stdout) as { projects: { change: string }[] }[]
  const change = list?.projects[0]?.change
  if (change === undefined) throw new Error('there is no project')
  return change
}

async function statusOf(made: Site, change: string) {
  const shownStatus = await made.smith('status', change, '--json')
  return JSON.parse(shownStatus.stdout) as {
    state: string
    digest: string
    stop: { kind: string } | null
    totals: { pass: number; fail: number }
    phases: {
      bags: {
        machines: { name: string; cause: string | null; message: string | null; evidence: string[]; advice: string[] }[]
      }[]
    }[]
  }
}

async function approve(made: Site, change: string): Promise<void> {
  const { digest } = await statusOf(made, change)
  const status = await run(made, ['approve', change, '--digest', digest])
  if (status !== 0) throw new Error('the approval was refused')
}

/** Lines streaming by, until the project ends or stops for a person. */
async function follow(made: Site, change: string): Promise<void> {
  typed(`smith logs ${change} --follow`)
  const { NODE_OPTIONS: _loaders, ...env } = process.env
  shown = spawn(
    process.execPath,
    [`${CHECKOUT}coordinator/cli/smith.ts`, '--socket', made.socket, 'logs', change, '--follow', '--since', '1s'],
    { stdio: ['ignore', 'inherit', 'inherit'], env },
  )
  const child = shown
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  for (;;) {
    const status = await statusOf(made, change)
    if (status.stop?.kind === 'hold' || ['complete', 'failed', 'cancelled'].includes(status.state)) break
    if (isEnding) return
  }
  child.kill('SIGINT')
  await gone
  shown = null
}

async function explain(made: Site, change: string): Promise<void> {
  const { phases } = await statusOf(made, change)
  for (const machine of phases.flatMap((phase) => phase.bags.flatMap((bag) => bag.machines))) {
    if (machine.cause === null) continue
    say(`\n${machine.name}: ${machine.cause}: ${machine.message ?? ''}`)
    for (const line of machine.evidence) say(`  | ${line}`)
    for (const line of machine.advice) say(`  > ${line}`)
  }
}

/** The demonstration fails when what it showed is not what it promised. */
async function judge(made: Site, change: string): Promise<void> {
  const { state, totals } = await statusOf(made, change)
  if (state !== 'complete' || totals.pass !== MACHINES.length)
    throw new Error(`the project ended ${state} with ${totals.pass} of ${MACHINES.length} machines patched`)
}

async function stay(made: Site, dir: string, change: string): Promise<void> {
  if (isInteractive) {
    heading('It stays, to be played with, until Ctrl-C. In another terminal, in this folder:')
    say(`  alias smith='npm run -s smith -- --socket ${made.socket}'`)
    say(`  smith status ${change}      smith logs ${change}      smith machines      smith feed --since 0`)
    say(`  smith plan ${REQUEST}`)
    say(
      `The dashboard: https://127.0.0.1:${made.port()}/ with the token of: smith user add me --role admin approver requester`,
    )
    say(`The logs of the machines: ${join(dir, 'machines', '*', 'smith-agent.log')}`)
    await new Promise(() => {})
  }
  await end(dir, 0)
}

async function end(dir: string | null, status: number): Promise<never> {
  isEnding = true
  shown?.kill('SIGINT')
  await site?.stop()
  if (dir !== null) say(`\nAll stopped. What is left is ${dir}; remove it when you like.`)
  process.exit(status)
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  // npm passes on a signal that the terminal has sent to all: a second one must not cut the ending short.
  process.on(signal, () => {
    if (!isEnding) void end(site?.dir ?? null, signal === 'SIGINT' && isInteractive ? 0 : 130)
  })
}
main().catch(async (error: unknown) => {
  if (isEnding) return
  process.stderr.write(`\nerror: ${error instanceof Error ? error.message : String(error)}\n`)
  process.stderr.write(`   do: see the logs in ${site?.dir ?? 'the folder named above'}\n`)
  await end(site?.dir ?? null, 1)
})
