/**
 * A program of smith as a real process, for the demo and the tests: started from the checkout, its log lines kept and
 * waited for, ended by a signal. Nothing here waits by the clock alone; a bound only says when to give up.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url))
const GIVE_UP_MS = 120_000

export type Program = {
  readonly pid: number
  readonly child: ChildProcess
  /** Resolves with the first line, printed already or later, for which the test holds; rejects when it ends before. */
  readonly line: (isWanted: (line: string) => boolean) => Promise<string>
  readonly ended: Promise<{ readonly status: number | null; readonly signal: NodeJS.Signals | null }>
  readonly stop: (signal?: NodeJS.Signals) => Promise<void>
}

export type ProgramOptions = {
  readonly log: string
  readonly env?: Readonly<Record<string, string>>
}

/** Starts `node FILE ARGS` of the checkout. The loaders of a test runner are not passed on. */
export function startProgram(file: string, args: readonly string[], options: ProgramOptions): Program {
  const { NODE_OPTIONS: _loaders, ...env } = process.env
  // However this process ends, the kernel ends what it has started.
  const died = ['--pdeathsig', 'KILL', '--', process.execPath]
  const child = spawn('setpriv', [...died, `${CHECKOUT}${file}`, ...args], {
    cwd: '/',
    env: { ...env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const lines: string[] = []
  const waiting = new Set<(line: string | null) => void>()
  const log = createWriteStream(options.log, { flags: 'a' })
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      log.write(`${line}\n`)
      lines.push(line)
      for (const tell of waiting) tell(line)
    })
  }
  const ended = new Promise<{ status: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (status, signal) => {
      for (const tell of waiting) tell(null)
      log.end()
      resolve({ status, signal })
    })
  })
  return {
    pid: child.pid ?? 0,
    child,
    ended,
    line: (isWanted) => {
      const found = lines.find(isWanted)
      if (found !== undefined) return Promise.resolve(found)
      return new Promise((resolve, reject) => {
        const giveUp = setTimeout(
          () =>
            settle(
              new Error(
                `${file} did not say it within ${GIVE_UP_MS / 1000} s; its last words:\n${lines.slice(-10).join('\n')}`,
              ),
            ),
          GIVE_UP_MS,
        )
        const tell = (line: string | null) => {
          if (line === null) settle(new Error(`${file} ended before it said it:\n${lines.slice(-10).join('\n')}`))
          else if (isWanted(line)) settle(line)
        }
        const settle = (answer: string | Error) => {
          clearTimeout(giveUp)
          waiting.delete(tell)
          if (answer instanceof Error) reject(answer)
          else resolve(answer)
        }
        waiting.add(tell)
      })
    },
    stop: async (signal = 'SIGTERM') => {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal)
      await ended
    },
  }
}
