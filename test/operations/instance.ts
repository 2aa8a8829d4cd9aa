/**
 * A coordinator as it is composed and started, with a database and keys of its own, whose clock a test can move on;
 * people with a home and a configuration of the CLI each; machines that a test speaks for.
 */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { pino } from 'pino'
import type { Test } from 'tap'
import { type Coordinator, openCoordinator, openServiceLog } from '../../coordinator/app.ts'
import { type CoordinatorConfig, parseConfig } from '../../coordinator/config.ts'
import type { Driver } from '../../coordinator/driver.ts'
import type { Clock } from '../../coordinator/ports.ts'
import { cleanStream } from '../../coordinator/secrets.ts'
import type { Facts } from '../../protocol/agent.ts'
import type { RequestView, Role } from '../../protocol/http.ts'
import type { Status } from '../../protocol/status.ts'
import { type Runs, withRuns } from '../api/runs.ts'
import { COMPILED, type Ended, type Home, makeHome } from '../cli/run-cli.ts'
import { CHECKOUT } from '../demo/process.ts'
import { call, machinesOf, until } from '../site/harness.ts'
import { type Enrol, ScriptedMachine } from './machine.ts'

export type Machine = ScriptedMachine & Runs
export type Person = 'ana' | 'bo' | 'cy'
const PEOPLE: Readonly<Record<Person, readonly Role[]>> = { ana: ['requester'], bo: ['approver'], cy: ['admin'] }

/** Real time, which a test moves on at will: what is due by then happens at once. */
export function createMovableClock(): Clock & { readonly move: (ms: number) => void } {
  const timers = new Set<{ readonly dueAt: number; readonly fire: () => void }>()
  let ahead = 0
  const now = () => performance.now() + ahead
  return {
    wallNow: () => Date.now() + ahead,
    monotonicNow: now,
    after: (delayMs, callback) => {
      const timer = {
        dueAt: now() + delayMs,
        fire: () => {
          clearTimeout(handle)
          if (timers.delete(timer)) callback()
        },
      }
      const handle = setTimeout(timer.fire, delayMs)
      timers.add(timer)
      return () => {
        clearTimeout(handle)
        timers.delete(timer)
      }
    },
    move: (ms) => {
      ahead += ms
      // What fires may arm others, which wait for their own time.
      for (const timer of [...timers].toSorted((a, b) => a.dueAt - b.dueAt)) if (timer.dueAt <= now()) timer.fire()
    },
  }
}

export function newFolder(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'smith-operations-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

export function configOf(text: string): CoordinatorConfig {
  const answer = parseConfig(text, 'coordinator.toml')
  if (!answer.ok) throw new Error(JSON.stringify(answer.refusals))
  return answer.config
}

type Options = {
  /** What stands in the configuration after its first lines. */
  readonly lines?: string
  readonly dir?: string
  readonly machines?: readonly string[]
  readonly people?: Readonly<Record<string, readonly Role[]>>
}

export type Instance = Awaited<ReturnType<typeof startInstance>>
type Ask = <Body>(method: string, path: string, body?: unknown, by?: string) => Promise<Body>

/** The coordinator alone, on a state folder that may be there already. */
async function startCoordinator(t: Test, dir: string, clock: Clock, lines: string) {
  const socket = join(dir, 'admin.sock')
  const text = `instance = "test"\nlisten = "127.0.0.1:0"\nstate_dir = "${dir}/state"\nadmin_socket = "${socket}"\n${lines}`
  const config = configOf(text)
  const serviceLog = openServiceLog(config)
  const log = pino({ level: 'info', base: null }, cleanStream([serviceLog]))
  const { coordinator, pin } = await openCoordinator({
    ...{ config, clock, log, serviceLog: serviceLog.read, version: '0.1.0', names: [] },
    random: { bytes: (count) => new Uint8Array(randomBytes(count)) },
    onFatal: (error) => t.fail(error.message),
  })
  const { port } = await coordinator.start()
  return { coordinator, driver: coordinator.driver, pin, port, socket, url: `https://127.0.0.1:${port}` }
}

export async function startInstance(t: Test, options: Options = {}) {
  const dir = options.dir ?? newFolder(t)
  const clock = createMovableClock()
  const started = await startCoordinator(t, dir, clock, options.lines ?? '')
  const { coordinator, driver } = started
  const people = peopleOf(started)
  const machines: ScriptedMachine[] = []
  const stop = stopper(coordinator, machines)
  t.teardown(async () => {
    await stop()
    people.remove()
  })
  const { ask } = people
  const instance = {
    ...{ ...started, dir, clock, stop, ask, home: people.home },
    ...projectsOf(ask),
    machine: async (name: string, facts: Partial<Facts> = {}): Promise<Machine> => {
      const machine = new ScriptedMachine(name, () => ({ port: started.port, now: () => driver.now() }), facts)
      machines.push(machine)
      await machine.enrol(enrolling(ask, name))
      await connected(driver, machine)
      return withRunsOf(driver, machine)
    },
    online: (machine: ScriptedMachine) => connected(driver, machine),
    offline: (machine: ScriptedMachine) => gone(driver, machine),
    /** Lets time go by, with nobody connected meanwhile: a connection that is silent for so long is closed. */
    move: async (ms: number) => {
      const online = machines.filter(({ id }) => driver.view.get('sessions', id) !== undefined)
      for (const machine of online) await gone(driver, machine)
      clock.move(ms)
      for (const machine of online) await connected(driver, machine)
    },
    /** The grant of this machine's nth try. */
    granted: (machine: ScriptedMachine, count = 1) =>
      until(`${machine.name} is granted`, () => machine.grants.length >= count),
  }
  for (const [name, roles] of Object.entries(options.people ?? PEOPLE)) await people.add(name, roles)
  for (const name of options.machines ?? []) await instance.machine(name)
  return instance
}

/** Each with a token of their own, and a home whose configuration names the coordinator. */
function peopleOf({ socket, url, pin }: { readonly socket: string; readonly url: string; readonly pin: string }) {
  const homes = new Map<string, Home>()
  const tokens = new Map<string, string>()
  const ask: Ask = async <Body>(method: string, path: string, body?: unknown, by?: string): Promise<Body> => {
    const answer = await call<Body>({ socket }, method, path, body, by === undefined ? undefined : tokens.get(by))
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${JSON.stringify(answer.body)}`)
    return answer.body
  }
  return {
    /** On the admin socket, as a person when one is named. */
    ask,
    add: async (name: string, roles: readonly Role[]) => {
      const { token } = await ask<{ token: string }>('POST', '/users', { name, roles })
      tokens.set(name, token)
      homes.set(name, makeHome({ test: { url, pin, token } }))
    },
    home: (name: string): Home => {
      const home = homes.get(name)
      if (home === undefined) throw new Error(`there is no ${name} here`)
      return home
    },
    remove: () => {
      for (const home of homes.values()) home.remove()
    },
  }
}

function projectsOf(ask: Ask) {
  const text = async (change: string) => (await ask<{ text: string }>('GET', `/projects/${change}`)).text
  const status = async (change: string) => (await ask<{ status: Status }>('GET', `/projects/${change}`)).status
  const refusalsOrChange = async (words: string): Promise<RequestView> => {
    const { request } = await ask<{ request: string }>('POST', '/requests', { text: words }, 'ana')
    return ask<RequestView>('GET', `/requests/${request}?wait=30`, undefined, 'ana')
  }
  /** Asks in ana's name; the number of the change. */
  const raise = async (words: string): Promise<string> => {
    const view = await refusalsOrChange(words)
    if (view.change === null) throw new Error(`no change: ${JSON.stringify(view.refusals)}`)
    return view.change
  }
  return {
    ...{ text, status, raise },
    /** Why it is not done what ana asks for. */
    refusalOf: async (words: string) =>
      (await refusalsOrChange(words)).refusals.map(({ message }) => message).join('\n'),
    /** And bo approves. */
    begin: async (words: string): Promise<string> => {
      const change = await raise(words)
      const { digest } = await status(change)
      await ask('POST', `/projects/${change}/approve`, { digest }, 'bo')
      return change
    },
    stateOf: async (change: string, name: string) =>
      machinesOf(await status(change)).find((one) => one.name === name)?.state,
    /** The text of the status as soon as it has these words. */
    shows: (change: string, words: RegExp): Promise<string> =>
      until(`${change} shows ${words.source}`, async () => {
        const shown = await text(change)
        return words.test(shown) ? shown : undefined
      }),
  }
}

/** Ends it once, however often it is asked to. */
function stopper(coordinator: Coordinator, machines: readonly ScriptedMachine[]) {
  let stopped: Promise<void> | null = null
  return () => {
    for (const machine of machines) machine.leave()
    return (stopped ??= coordinator.stop())
  }
}

function enrolling(ask: Ask, name: string): Enrol {
  return async (body) => {
    const made = await ask<{ tokens: { token: string }[] }>('POST', '/enrolments', { names: [name], ttlSeconds: 600 })
    return ask('POST', '/enrol', { token: made.tokens[0]?.token, ...body })
  }
}

async function connected(driver: Driver, machine: ScriptedMachine) {
  machine.connect()
  await until(`${machine.name} is connected`, () => driver.view.get('sessions', machine.id) !== undefined)
}

async function gone(driver: Driver, machine: ScriptedMachine) {
  machine.leave()
  await until(`${machine.name} is gone`, () => driver.view.get('sessions', machine.id) === undefined)
}

/** The methods stay the machine's own. */
function withRunsOf(driver: Driver, machine: ScriptedMachine): Machine {
  const say: ScriptedMachine['say'] = (news) => machine.say(news)
  const { records, end, succeed, fail } = withRuns({ driver }, { say, grants: machine.grants })
  return Object.assign(machine, { records, end, succeed, fail })
}

const PROGRAM_FILES: Readonly<Record<string, string>> = {
  smith: 'coordinator/cli/smith.ts',
  'smith-agent': 'agent/main.ts',
  'smith-coordinator': 'coordinator/main.ts',
}

/** What is done to a program that stays once it has said these words. */
export type Until = { readonly words: RegExp; readonly act: 'kill' | 'Ctrl-C' }

/** Runs one of our programs, or another, as a person with this home; one that gets Ctrl-C has a terminal (script(1)). */
export async function runProgram(
  home: string,
  words: readonly string[],
  { input = '', ends }: { readonly input?: string; readonly ends?: Until } = {},
): Promise<Ended> {
  const [program = '', ...rest] = commandOf(words)
  const typed = [program, ...rest].map((word) => `'${word}'`).join(' ')
  const [file, ...args] =
    ends?.act === 'Ctrl-C' ? ['script', '-qefc', `stty cols 100; exec ${typed}`, '/dev/null'] : [program, ...rest]
  const child = execa(file, args, {
    ...{ reject: false, stripFinalNewline: false, extendEnv: false, timeout: 60_000, cwd: home },
    ...(ends === undefined ? { input } : { stdin: 'pipe' as const }),
    env: {
      ...{ HOME: home, PATH: process.env['PATH'] ?? '', TZ: 'UTC', LANG: 'C.UTF-8', TERM: 'xterm' },
      ...COMPILED,
    },
  })
  let said = ''
  if (ends !== undefined)
    child.stdout.on('data', (data: Buffer) => {
      const isSaid = ends.words.test(said)
      said += data.toString()
      if (isSaid || !ends.words.test(said)) return
      if (ends.act === 'kill') child.kill()
      else child.stdin?.write('\x03')
    })
  const { exitCode, stdout, stderr } = await child
  return { status: exitCode ?? (ends === undefined ? undefined : 0), out: stdout, err: stderr }
}

function commandOf([program = '', ...rest]: readonly string[]): string[] {
  const file = PROGRAM_FILES[program]
  return file === undefined ? [program, ...rest] : [process.execPath, `${CHECKOUT}${file}`, ...rest]
}
