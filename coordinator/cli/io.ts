/**
 * The process around the CLI as ports (streams, environment, time, randomness) and what follows from them: whether
 * somebody sits there, how wide the terminal is, whether colour is wanted. Built once, in program.ts. The invariant:
 * nothing is coloured and nobody is asked when the stream is no terminal.
 */
import { randomBytes, randomInt } from 'node:crypto'
import type { ReadStream, WriteStream } from 'node:tty'
import type { Paint } from '../client/failure.ts'
import type { Timers } from '../client/target.ts'

export type Io = {
  readonly stdin: NodeJS.ReadStream | ReadStream
  readonly stdout: NodeJS.WriteStream | WriteStream
  readonly stderr: NodeJS.WriteStream | WriteStream
  readonly env: Readonly<Record<string, string | undefined>>
  readonly now: () => number
  readonly randomId: () => string
} & Timers

export function processIo(): Io {
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    now: () => Date.now(),
    after: (delayMs, callback) => {
      const timer = setTimeout(callback, delayMs)
      return () => clearTimeout(timer)
    },
    randomId: () => randomBytes(16).toString('hex'),
    randomBelow: (limit) => randomInt(limit),
  }
}

/** True when a person can be asked: both ways are a terminal. */
export function isInteractive(io: Io): boolean {
  return io.stdin.isTTY && io.stdout.isTTY
}

export function columnsOf(stream: Io['stdout']): number {
  return stream.isTTY && stream.columns > 0 ? stream.columns : 100
}

/** Writes and waits for room, so that a slow reader slows smith instead of filling its memory. */
export function write(stream: Io['stdout'], text: string | Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    if (stream.write(text)) resolve()
    else stream.once('drain', resolve)
  })
}

/** Colours for a stream, or none: no terminal, NO_COLOR (no-color.org), a dumb terminal or `--no-color`. */
export function paintFor(io: Io, stream: Io['stdout'], wanted: boolean): Paint {
  const on = wanted && stream.isTTY && (io.env['NO_COLOR'] ?? '') === '' && io.env['TERM'] !== 'dumb'
  const style = (code: string) => (text: string) => (on && text !== '' ? `\x1b[${code}m${text}\x1b[0m` : text)
  return {
    bad: style('31'),
    good: style('32'),
    warn: style('33'),
    busy: style('36'),
    strong: style('1'),
    faint: style('2'),
  }
}
