/**
 * `smith-agent run`: puts the agent together from its configuration and the real ports, and keeps it until SIGTERM
 * or SIGINT. Nothing here decides anything.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { destination, pino } from 'pino'
import { RefusedError } from '../protocol/errors.ts'
import { createAgent } from './agent.ts'
import { readAgentConfig } from './config.ts'
import { createRealDisk, writeFileDurably } from './disk/disk.ts'
import { type Layout, layoutOf } from './disk/layout.ts'
import { becomeHolder, isHolder } from './disk/own-lock.ts'
import { createDescribe, packageVersion } from './facts.ts'
import { readIdentity } from './identity.ts'
import { createOwnFiles, ownFolder } from './own-files.ts'
import type { AgentPorts, Clock, Log } from './ports.ts'
import type { ConnectionState } from './session/connection.ts'
import { guard } from './session/guard.ts'
import { createWebSocketConnect } from './websocket-link.ts'
import { createWork } from './work.ts'

/** The monotonic clock, and timers that keep the process alive: the agent has nothing else to wait for when idle. */
export function createRealClock(): Clock {
  return {
    wallNow: () => Date.now(),
    monotonicNow: () => Math.floor(performance.now()),
    after: (delayMs, callback) => {
      const timer = setTimeout(callback, delayMs)
      return () => clearTimeout(timer)
    },
  }
}

/** Resolves with the exit status when a signal has ended the agent. */
export async function run(configFile: string): Promise<number> {
  const config = readAgentConfig(configFile)
  const disk = createRealDisk()
  const layout = layoutOf(config.stateDir)
  const { identity, stored } = readIdentity(disk, layout)
  await beAlone(layout)
  const coordinator = config.coordinator ?? stored.coordinator
  const folder = ownFolder()
  const log = createLog()
  const ended = Promise.withResolvers<number>()
  const agent = createAgent(
    {
      clock: createRealClock(),
      random: { bytes: (count) => randomBytes(count) },
      disk,
      layout,
      log,
      identity,
      limits: config.limits,
      connect: createWebSocketConnect({ url: coordinator, pin: stored.pin, timeoutMs: config.limits.connectMs }),
      describe: createDescribe(config, disk),
      ...createWork({ config, disk, layout, log }),
      ...createRest(),
      // Only systemd starts it again.
      ...(config.runMode === 'systemd' && folder !== null ? { ownFiles: createOwnFiles(folder) } : {}),
    },
    (state) =>
      guard(log, 'keeping the state of the connection', {}, () =>
        writeState(join(layout.agent, 'connection.json'), state),
      ),
    end,
  )
  function end(): void {
    agent.stop()
    ended.resolve(0)
  }
  let kept: string | null = null
  function writeState(path: string, state: ConnectionState): void {
    // Only whether it is connected and why not: an agent that tries in vain must not write at each try.
    const phase = state.phase === 'open' ? 'open' : 'waiting'
    const problem = phase === 'open' ? null : state.problem
    const text = JSON.stringify({ phase, problem })
    if (kept === text) return
    kept = text
    writeFileDurably(disk, path, `${JSON.stringify({ phase, problem, since: state.since, pid: process.pid })}\n`, {
      mode: 0o640,
    })
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      log.info({ signal }, 'the agent is ending; a run under way goes on')
      end()
    })
  }
  log.info({ machine: identity.machine, name: identity.name, coordinator, version: packageVersion() }, 'agent started')
  agent.start()
  return ended.promise
}

/** Two agents of one identity would read as a copied machine, and the coordinator would shut both out. */
async function beAlone({ agent }: Layout): Promise<void> {
  if (isHolder(agent)) return
  // Loaded here alone: what holds the lock begins anew, and an idle agent would keep execa in memory for nothing.
  const { execaSync } = await import('execa')
  // The folder itself is locked, so that whoever tries it as root leaves no file behind that the agent can't open.
  if (execaSync('flock', ['-n', agent, 'true'], { reject: false }).exitCode === 1)
    throw new RefusedError([
      {
        kind: 'conflict',
        message: `another smith-agent is at work in ${agent}`,
        remedy:
          'See what it does with `smith-agent status`; to run one by hand, stop it first: systemctl stop smith-agent',
      },
    ])
  becomeHolder(agent, 1, process.argv.slice(1))
}

/** Node collects its garbage when it needs room, which an idle agent never does; --expose-gc lets it be asked. */
function createRest(): Pick<AgentPorts, 'rest'> {
  const { gc } = globalThis
  return gc === undefined ? {} : { rest: () => gc({ type: 'major', execution: 'sync', flavor: 'last-resort' }) }
}

/** Synchronous, without a transport: nothing is lost when the process is killed, and no thread is started. */
function createLog(): Log {
  const logger = pino({ base: { program: 'smith-agent' } }, destination({ dest: 1, sync: true }))
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => logger.error(fields, message),
  }
}
