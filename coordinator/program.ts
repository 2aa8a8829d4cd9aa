/**
 * The verbs of `smith-coordinator`: run, restore, config. It gives the composition the real clock, randomness and log.
 * Exit status 0 done, 1 refused or failed, 2 usage; an error is one line what and one line what to do, on stderr.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { Command, CommanderError } from 'commander'
import { pino } from 'pino'
import { type Refusal, RefusedError } from '../protocol/errors.ts'
import { openCoordinator, openServiceLog, restoreBackup, verifyJournal } from './app.ts'
import { verdictLines } from '../protocol/audit.ts'
import { CONFIG_PATH, configReferenceText, loadConfig } from './config.ts'
import { openDashboardFiles } from './dashboard-files.ts'
import type { Clock, Random } from './ports.ts'
import { cleanStream } from './secrets.ts'

const EXIT = { done: 0, failed: 1, usage: 2 } as const
const STOP_MS_MAX = 10_000

const clock: Clock = {
  wallNow: () => Date.now(),
  monotonicNow: () => performance.now(),
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs)
    return () => clearTimeout(timer)
  },
}
const random: Random = { bytes: (count) => randomBytes(count) }

/** The command tree; its man page is made of it too. */
export function buildProgram(): Command {
  const program = new Command('smith-coordinator')
    .description('The coordinator of smith: owns the serial order of patching, and everything that is known about it.')
    .version(packageVersion())
    .exitOverride()
  program
    .command('run', { isDefault: true })
    .description('Serve. Ends on SIGTERM; runs on machines go on and are taken up again at the next start.')
    .option('--config <file>', 'the configuration', CONFIG_PATH)
    .option('--log-level <level>', 'debug, info, warn or error', 'info')
    .action((options: { readonly config: string; readonly logLevel: string }) => run(options.config, options.logLevel))
  program
    .command('restore <file>')
    .description('Put a sealed backup into an empty state folder. The coordinator must not run; it starts frozen.')
    .requiredOption('--state-dir <dir>', 'the empty folder')
    .requiredOption('--passphrase-file <file>', 'a file with the passphrase; - reads it from the standard input')
    .action(async (file: string, options: { readonly stateDir: string; readonly passphraseFile: string }) => {
      const passphrase = readPassphrase(options.passphraseFile)
      const restored = await restoreBackup({
        file,
        passphrase,
        stateDir: options.stateDir,
        at: clock.wallNow(),
        program: packageVersion(),
        random,
      })
      process.stdout.write(
        `Restored the state of ${new Date(restored.madeAt).toISOString()} (journal row ${restored.rev}) into ${options.stateDir}.\n`,
      )
      process.stdout.write(
        'The instance is frozen. Start the coordinator, see what the machines did since, then: smith unfreeze\n',
      )
    })
  program
    .command('verify <file>')
    .description(
      'Look whether the journal in a backup, or in the database of a stopped coordinator, is as it was written.',
    )
    .option('--passphrase-file <file>', 'for a backup: a file with the passphrase; - reads it from the standard input')
    .option('--head <hash>', 'the head that an earlier check or backup showed: rows removed at the end are seen then')
    .option('--json', 'for programs: JSON on stdout')
    .action(verify)
  program
    .command('config')
    .description('Print every key of the configuration with its meaning, values and default.')
    .action(() => void process.stdout.write(configReferenceText()))
  for (const command of program.commands) command.exitOverride()
  return program
}

export async function main(argv: readonly string[]): Promise<void> {
  try {
    await buildProgram().parseAsync(argv, { from: 'user' })
  } catch (error) {
    process.exitCode = exitStatusOf(error)
  }
}

function readPassphrase(file: string): string {
  return readFileSync(file === '-' ? 0 : file, 'utf8').replace(/\n$/, '')
}

type VerifyOptions = { readonly passphraseFile?: string; readonly head?: string; readonly json?: boolean }

async function verify(file: string, { passphraseFile, head, json }: VerifyOptions): Promise<void> {
  const passphrase = () => {
    if (passphraseFile !== undefined) return readPassphrase(passphraseFile)
    const refusal = { kind: 'bad-value' as const, message: `${file} is sealed`, remedy: 'give --passphrase-file FILE' }
    throw new RefusedError([refusal])
  }
  if (head !== undefined && !/^[0-9a-f]{64}$/.test(head)) {
    const remedy = 'give the head that a check or a backup showed'
    throw new RefusedError([{ kind: 'bad-value', message: `--head ${head} is no SHA-256`, remedy }])
  }
  const verdict = await verifyJournal({ file, head: head ?? null, passphrase })
  const lines = json === true ? [JSON.stringify(verdict, null, 2)] : verdictLines(verdict)
  process.stdout.write(`${lines.join('\n')}\n`)
  if (verdict.problems.length > 0) process.exitCode = EXIT.failed
}

function exitStatusOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage
  if (!(error instanceof RefusedError)) throw error
  for (const refusal of error.refusals) process.stderr.write(refusalText(refusal))
  return EXIT.failed
}

function refusalText(refusal: Refusal): string {
  return `error: ${refusal.message}\n   do: ${refusal.remedy}\n`
}

async function run(file: string, level: string): Promise<void> {
  const answer = loadConfig(file)
  if (!answer.ok) throw new RefusedError(answer.refusals)
  const { config } = answer
  const serviceLog = openServiceLog(config)
  const log = pino({ level, base: null }, cleanStream([pino.destination({ sync: true }), serviceLog]))
  const { coordinator, pin, head } = await openCoordinator({
    config,
    clock,
    random,
    log,
    serviceLog: serviceLog.read,
    dashboard: openDashboardFiles(),
    version: packageVersion(),
    names: [
      hostname(),
      ...(config.listen.host === '0.0.0.0' || config.listen.host === '::' ? [] : [config.listen.host]),
    ],
    // What is on disk is good and what is in memory no longer counts: whoever supervises starts it again.
    onFatal: () => process.exit(EXIT.failed),
  })
  process.on('unhandledRejection', (error) => {
    log.error({ err: error }, 'a promise was left without a handler; the coordinator ends')
    process.exit(EXIT.failed)
  })
  const { port } = await coordinator.start().catch(async (error: unknown) => {
    // What has begun would keep a coordinator alive that serves nobody, and no supervisor would start another.
    await coordinator.stop().catch((problem: unknown) => log.error({ err: problem }, 'it did not stop in order'))
    throw startRefusal(error, config.listen)
  })
  log.info(
    {
      instance: config.instance,
      host: config.listen.host,
      port,
      pin,
      adminSocket: config.adminSocket,
      version: packageVersion(),
      head: head(),
    },
    'listening',
  )
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      log.info({ signal }, 'stopping')
      setTimeout(() => process.exit(EXIT.failed), STOP_MS_MAX).unref()
      coordinator.stop().then(
        () => process.exit(EXIT.done),
        (error: unknown) => {
          log.error({ err: error }, 'it did not stop in order')
          process.exit(EXIT.failed)
        },
      )
    })
  }
}

function startRefusal(error: unknown, listen: { readonly host: string; readonly port: number }): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error
  const where = `port ${listen.port} of ${listen.host}`
  const remedy = 'give another place in listen = "HOST:PORT" of the configuration'
  const refuse = (message: string, first: string) =>
    new RefusedError([{ kind: 'unavailable', message, remedy: `${first}, or ${remedy}` }])
  switch (error.code) {
    case 'EADDRINUSE':
      return refuse(`${where} is in use by another program`, 'stop that program (ss -ltnp names it)')
    case 'EADDRNOTAVAIL':
      return refuse(
        `${where} can't be had: this machine has no such address now`,
        'bring its interface up (ip address)',
      )
    case 'EACCES':
      return refuse(`${where} can't be had: permission denied`, 'give the coordinator the right to it')
    default:
      return error
  }
}

function packageVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
