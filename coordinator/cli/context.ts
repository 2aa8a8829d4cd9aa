/**
 * What every verb gets: the options that all share, the streams with their colours, and the coordinator that is
 * meant. Made in program.ts after the arguments were read. Verbs write through `out` and `note` only.
 */
import { CHANGE_PATTERN, ID_PATTERN, MACHINE_NAME_PATTERN } from '../../protocol/ids.ts'
import { type Client, createClient } from '../client/client.ts'
import { type Choice, candidatesOf, oneTarget, targetsOf } from './config.ts'
import { type Paint, type ShownRefusal, refusalLines, usageError } from '../client/failure.ts'
import { type Io, columnsOf, paintFor, write } from './io.ts'
import { jsonText, parseDuration } from '../client/text.ts'

export type GlobalOptions = {
  readonly instance?: string
  readonly socket?: string
  readonly config?: string
  readonly json?: boolean
  readonly color: boolean
  readonly timeout: string
}

export type Context = {
  readonly io: Io
  readonly options: GlobalOptions
  readonly choice: Choice
  readonly json: boolean
  readonly paint: Paint
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal
  /** The one coordinator that is meant. */
  readonly client: () => Client
  /** Those that a request may be for: one, where one is chosen or the default. */
  readonly candidates: () => Client[]
  /** Each coordinator that is meant, for what asks them in turn. */
  readonly clients: () => Client[]
  readonly out: (text: string) => Promise<void>
  /** For a person, on stderr. */
  readonly note: (text: string) => Promise<void>
  readonly outJson: (value: unknown) => Promise<void>
  readonly outRefusals: (refusals: readonly ShownRefusal[], asked: string | null) => Promise<void>
}

export function createContext(io: Io, options: GlobalOptions, signal: AbortSignal): Context {
  const timeoutMs = durationOption('--timeout', options.timeout)
  const choice = { instance: options.instance, socket: options.socket, config: options.config, timeoutMs }
  const errPaint = paintFor(io, io.stderr, options.color)
  const note = (text: string) => write(io.stderr, `${text}\n`)
  return {
    io,
    options,
    choice,
    json: options.json === true,
    paint: paintFor(io, io.stdout, options.color),
    signal,
    client: () => createClient(io, oneTarget(io, choice)),
    candidates: () => candidatesOf(io, choice).map((target) => createClient(io, target)),
    clients: () => targetsOf(io, choice).map((target) => createClient(io, target)),
    out: (text) => write(io.stdout, `${text}\n`),
    note,
    outJson: (value) => write(io.stdout, `${jsonText(value, 2)}\n`),
    outRefusals: async (refusals, asked) => {
      const view = { asked, columns: columnsOf(io.stderr), paint: errPaint }
      for (const refusal of refusals) await note(refusalLines(refusal, view).join('\n'))
    },
  }
}

export function durationOption(name: string, text: string): number {
  const spanMs = parseDuration(text)
  if (spanMs !== null && spanMs > 0) return spanMs
  throw usageError(`${name} ${text} is no duration`, 'Give it as 90s, 15m, 1h, 2d or 1h30m.')
}

/** A change as it is written, whatever the case it was typed in. */
export function changeArgument(text: string): string {
  const change = text.toUpperCase()
  if (CHANGE_PATTERN.test(change)) return change
  throw usageError(`${text} is no change`, 'A change is CHG and seven digits; list them with: smith status')
}

/** A change, or the id of the request of one that has no number yet. */
export function changeOrRequestArgument(text: string): string {
  return ID_PATTERN.test(text) ? text : changeArgument(text)
}

export function machineArgument(text: string): string {
  const name = text.toLowerCase()
  if (MACHINE_NAME_PATTERN.test(name)) return name
  throw usageError(`${text} is no machine's name`, 'List the machines with: smith machines')
}
