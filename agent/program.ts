/**
 * The verbs of `smith-agent`: run, enrol, status, figures. Exit status 0 done, 1 refused or failed, 2 usage, 3 coordinator
 * out of reach; an error is one line what and one line what to do, on stderr.
 */
import { Command, CommanderError, InvalidArgumentError } from 'commander'
import type { Writable } from 'node:stream'
import { type Refusal, RefusedError } from '../protocol/errors.ts'
import { AGENT_CONFIG_FILE } from './config.ts'
import { packageVersion } from './facts.ts'

export const EXIT = { done: 0, failed: 1, usage: 2, outOfReach: 3 } as const

const CONFIG_OPTION = ['--config <file>', 'the configuration', AGENT_CONFIG_FILE] as const

export async function main(argv: readonly string[]): Promise<void> {
  process.exitCode = await runProgram(argv, process.stdout, process.stderr)
}

/** The exit status; what is imported late is not needed by the other verbs, and the agent's memory counts. */
export async function runProgram(argv: readonly string[], out: Writable, err: Writable): Promise<number> {
  const end: { status: number } = { status: EXIT.done }
  const program = buildProgram(out, end).configureOutput({
    writeOut: (text) => void out.write(text),
    writeErr: (text) => void err.write(text),
  })
  for (const command of program.commands) command.exitOverride().configureOutput(program.configureOutput())

  try {
    await program.parseAsync(argv, { from: 'user' })
    return end.status
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage
    if (!(error instanceof RefusedError)) throw error
    for (const refusal of error.refusals) err.write(refusalText(refusal))
    return error.refusals.some((refusal) => refusal.kind === 'unavailable') ? EXIT.outOfReach : EXIT.failed
  }
}

/** The command tree; its man page is made of it too. The verb that ran leaves its exit status in `end`. */
export function buildProgram(out: Writable, end: { status: number }): Command {
  const program = new Command('smith-agent')
    .description('The agent of smith on a machine: plans, ships the log of runs, and passes grants to the runner.')
    .version(packageVersion())
    .exitOverride()

  program
    .command('run')
    .description('Keep the connection to the coordinator. Ends on SIGTERM; a patch run under way goes on.')
    .option(...CONFIG_OPTION)
    .action(async (options: { readonly config: string }) => {
      const { run } = await import('./run.ts')
      end.status = await run(options.config)
    })
  program
    .command('enrol')
    .description(
      'Give this machine an identity with a coordinator. As root, once; the token comes from `smith enrol new`.',
    )
    .requiredOption('--coordinator <url>', 'as in https://smith.example:7600', httpsUrl)
    .requiredOption('--token <token>', 'the single-use token; - reads it from the standard input')
    .option('--force', 'replace the identity that this machine has')
    .option(...CONFIG_OPTION)
    .action(
      async (options: {
        readonly config: string
        readonly coordinator: string
        readonly token: string
        readonly force?: true
      }) => {
        const { enrol } = await import('./enrol.ts')
        const enrolled = await enrol({ ...options, force: options.force === true })
        out.write(`Enrolled as ${enrolled.name} with instance ${enrolled.instance}.\n`)
        for (const line of enrolled.notes) out.write(`${line}\n`)
      },
    )
  program
    .command('status')
    .description('Say whether this machine is enrolled and connected, and which orders it has in hand.')
    .option(...CONFIG_OPTION)
    .option('--json', 'as JSON')
    .action(async (options: { readonly config: string; readonly json?: true }) => {
      const { readStatus, statusText } = await import('./status.ts')
      const found = readStatus(options.config)
      out.write(options.json === true ? `${JSON.stringify(found, null, 2)}\n` : statusText(found))
      if (!found.enrolled) end.status = EXIT.failed
    })
  addFigures(program, out)
  return program
}

function addFigures(program: Command, out: Writable): void {
  program
    .command('figures')
    .description('Say what the running agent costs: memory, processor time, wake-ups, disk. As root; do nothing else.')
    .option(...CONFIG_OPTION)
    .option('--minutes <number>', 'how long to look on', minutesOf, 10)
    .option('--json', 'as JSON')
    .action(async (options: { readonly config: string; readonly minutes: number; readonly json?: true }) => {
      const { figuresText, readFigures } = await import('./figures.ts')
      const found = await readFigures(options.config, options.minutes, (pid) => {
        if (options.json !== true) out.write(`Looking at process ${pid} for ${options.minutes} minutes.\n`)
      })
      out.write(options.json === true ? `${JSON.stringify(found, null, 2)}\n` : figuresText(found))
    })
}

function refusalText(refusal: Refusal): string {
  return `error: ${refusal.message}\n   do: ${refusal.remedy}\n`
}

function minutesOf(text: string): number {
  const minutes = Number(text)
  if (!(minutes > 0 && minutes <= 1440)) throw new InvalidArgumentError('A number of minutes is needed, at most 1440.')
  return minutes
}

function httpsUrl(text: string): string {
  if (!URL.canParse(text) || new URL(text).protocol !== 'https:')
    throw new InvalidArgumentError('An https URL is needed, as in https://smith.example:7600.')
  return text
}
