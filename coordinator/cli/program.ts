/**
 * The command tree and the one place where a run of the CLI ends: arguments in, exit status out. Loaded by smith,
 * smith-patch and smith-status after the version of Node was checked. The invariant: whatever is thrown becomes one
 * line what and one line what to do on stderr, and a status of 0, 1, 2 or 3.
 */
import { Command, CommanderError, Option } from 'commander'
import { type Context, type GlobalOptions, createContext } from './context.ts'
import { EXIT, failureOf } from '../client/failure.ts'
import { type Io, columnsOf, paintFor, processIo } from './io.ts'
import { addAdmin } from './verbs/admin.ts'
import { addAudit } from './verbs/audit.ts'
import { addCompletion } from './verbs/completion.ts'
import { addDecide } from './verbs/decide.ts'
import { addLogin } from './verbs/login.ts'
import { addLogs } from './verbs/logs.ts'
import { addPatch } from './verbs/patch.ts'
import { addReport } from './verbs/report.ts'
import { addSchedule } from './verbs/schedule.ts'
import { addStatus } from './verbs/status.ts'
import type { Run } from './verbs/verb.ts'

const INTERRUPTED = 130
/** How long after Ctrl-C a verb may take to say good-bye. */
const GOODBYE_MS = 1000

export function buildProgram(run: Run): Command {
  const program = new Command('smith')
    .description('Patches Debian and Ubuntu machines one after another, under an approved change.')
    .option('--instance <name>', 'the coordinator to ask, of those in the configuration')
    .option('--socket <path>', "ask over the coordinator's admin socket")
    .option('--config <file>', 'instead of ~/.config/smith/config.toml')
    .option('--json', 'for programs: JSON on stdout')
    .option('--no-color', 'no colours (NO_COLOR is obeyed too)')
    .addOption(new Option('--timeout <duration>', 'how long an answer may take').default('30s'))
    .configureHelp({ showGlobalOptions: true })
    .helpCommand(false)
    .exitOverride()
    .showSuggestionAfterError(true)
  addLogin(program, run)
  addPatch(program, run)
  addStatus(program, run)
  addDecide(program, run)
  addLogs(program, run)
  addReport(program, run)
  addSchedule(program, run)
  addAudit(program, run)
  addAdmin(program, run)
  addCompletion(program, run)
  program.addHelpText('after', "\nExample:\n  smith patch 'prod machines: prod-dal10-carrier3-worker-* outage:0'")
  return program
}

export async function main(args: readonly string[]): Promise<void> {
  const io = processIo()
  for (const stream of [io.stdout, io.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      // Whoever read us has left (`| head`): there is nobody to tell.
      process.exit(error.code === 'EPIPE' ? EXIT.done : EXIT.refused)
    })
  }
  const interrupt = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (interrupt.signal.aborted) process.exit(INTERRUPTED)
      interrupt.abort()
      setTimeout(() => process.exit(INTERRUPTED), GOODBYE_MS).unref()
    })
  }
  const status = await runProgram(io, args, interrupt.signal)
  await Promise.all([io.stdout, io.stderr].map((stream) => new Promise((resolve) => stream.write('', resolve))))
  process.exit(interrupt.signal.aborted ? INTERRUPTED : status)
}

async function runProgram(io: Io, args: readonly string[], signal: AbortSignal): Promise<number> {
  let context: Context | null = null
  const run: Run = {
    status: EXIT.done,
    context: () => (context ??= createContext(io, program.opts<GlobalOptions>(), signal)),
  }
  const program = buildProgram(run)
  const usage: string[] = []
  for (const command of everyCommand(program)) {
    command.exitOverride().configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void usage.push(text),
    })
  }
  try {
    await program.parseAsync([...args], { from: 'user' })
    return run.status
  } catch (error) {
    const colored = !args.includes('--no-color')
    const view = { asked: null, columns: columnsOf(io.stderr), paint: paintFor(io, io.stderr, colored) }
    if (error instanceof CommanderError) return endOfParsing(io, error, usage.join(''), args)
    const failure = failureOf(error, view)
    io.stderr.write(`${failure.lines.join('\n')}\n`)
    return failure.status
  }
}

/** Commander says what is wrong; what to do is the help of the verb. */
function endOfParsing(io: Io, error: CommanderError, said: string, args: readonly string[]): number {
  if (error.exitCode === 0) return EXIT.done
  if (error.code === 'commander.help') {
    // A group without its verb, or nothing at all: the help is the answer, though nothing was done.
    io.stderr.write(said)
    return EXIT.usage
  }
  const first = args.find((word) => !word.startsWith('-'))
  const verb =
    first !== undefined && /^[a-z]+$/.test(first) && error.code !== 'commander.unknownCommand' ? ` ${first}` : ''
  const what = (said.trim() || error.message).replace(/\n\(?/g, ' (')
  io.stderr.write(`${what.startsWith('error:') ? what : `error: ${what}`}\n   do: Type: smith${verb} --help\n`)
  return EXIT.usage
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyCommand)]
}
