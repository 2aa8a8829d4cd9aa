/**
 * `audit`: who did what, when, on what and why, from the coordinator's journal; and `audit verify`, which looks whether
 * the journal is as it was written: asked of the coordinator, or in a file by the coordinator's own program.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, openSync, readSync, realpathSync } from 'node:fs'
import { basename, dirname, extname, join, resolve } from 'node:path'
import type { Command } from 'commander'
import { type Act, verdictLines } from '../../../protocol/audit.ts'
import { type Context, changeArgument, durationOption, machineArgument } from '../context.ts'
import { ClientError, EXIT, usageError } from '../../client/failure.ts'
import { countText, dayText, parseDuration, visible } from '../../client/text.ts'
import { readSecret } from '../prompt.ts'
import { type Run, acting, example } from './verb.ts'

const PAGE = 1000
const SQLITE_HEAD = 'SQLite format 3\0'

type AuditOptions = {
  readonly person?: string
  readonly change?: string
  readonly machine?: string
  readonly since?: string
  readonly until?: string
  readonly limit: string
}

export function addAudit(parent: Command, run: Run): void {
  const audit = parent
    .command('audit')
    .description('who did what, when, on what and why; the newest stands last')
    .option('--person <name>', 'what this person did, or a bot for them')
    .option('--change <change>', 'what was done about this change')
    .option('--machine <name>', 'what was done about this machine')
    .option('--since <time>', 'a duration back from now (1h, 2d), or a time: 2026-11-22 or 2026-11-22T03:00')
    .option('--until <time>', 'the same')
    .option('--limit <count>', 'at most so many, the newest', '100')
    .action(acting(run, auditVerb))
  example(audit, 'smith audit --change CHG0268453', 'smith audit --person ann --since 7d --json')
  const verify = audit
    .command('verify')
    .description('whether any row of the journal was edited, removed or moved, here or in a file')
    .argument('[file]', 'a backup, or the database of a coordinator that is stopped')
    .option('--head <hash>', 'the head that an earlier check or backup showed: rows removed at the end are seen then')
    .action(acting(run, verifyVerb))
  example(verify, 'smith audit verify', 'smith audit verify /srv/backup/smith-monday --head HASH < PASSPHRASE-FILE')
}

async function auditVerb(context: Context, options: AuditOptions): Promise<number> {
  const limit = Number(options.limit)
  if (!/^[1-9][0-9]{0,8}$/.test(options.limit))
    throw usageError(`--limit ${options.limit} is no count`, 'Give a number.')
  const asked = {
    ...(options.person === undefined ? {} : { person: options.person }),
    ...(options.change === undefined ? {} : { change: changeArgument(options.change) }),
    ...(options.machine === undefined ? {} : { machine: machineArgument(options.machine) }),
    ...(options.since === undefined ? {} : { since: String(timeOption(context, '--since', options.since)) }),
    ...(options.until === undefined ? {} : { until: String(timeOption(context, '--until', options.until)) }),
  }
  const client = context.client()
  const acts: Act[] = []
  let next: number | null = null
  do {
    const page: { readonly acts: readonly Act[]; readonly next: number | null } = await client.call('audit', {
      query: {
        ...asked,
        limit: String(Math.min(PAGE, limit - acts.length)),
        ...(next === null ? {} : { before: String(next) }),
      },
    })
    acts.push(...page.acts)
    next = page.next
    if (context.signal.aborted) return 130
  } while (next !== null && acts.length < limit)
  // One row of the journal can have several acts, and a page has whole rows.
  const shown = acts.slice(0, limit).toReversed()
  if (context.json) await context.outJson(shown)
  else await context.out(shown.length === 0 ? 'Nothing.' : shown.map(lineOf).join('\n'))
  if (next !== null || acts.length > limit)
    await context.note(`These are the newest ${countText(shown.length, 'act')}; --limit and --until show older ones.`)
  return EXIT.done
}

function lineOf({ rev, at, who, what, change, machine, about, reason }: Act): string {
  const on = [change, machine].filter((word) => word !== null).map(visible)
  const words = [about, reason].filter((word) => word !== null && word !== '').map((word) => visible(word ?? ''))
  return `${dayText(at)} ${rev} ${visible(who)} ${what}${on.length === 0 ? '' : ` ${on.join(' ')}`}${words.length === 0 ? '' : `: ${words.join('; ')}`}`
}

function timeOption({ io }: Context, name: string, text: string): number {
  const span = parseDuration(text)
  if (span !== null) return Math.max(0, io.now() - durationOption(name, text))
  // A day alone would be read as of UTC, a time without a zone as of here.
  const at = Date.parse(/^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00` : text)
  if (/^\d{4}-/.test(text) && Number.isFinite(at)) return Math.max(0, at)
  throw usageError(`${name} ${visible(text)} is no time`, 'Give a duration (1h, 2d), a day, or 2026-11-22T03:00.')
}

async function verifyVerb(context: Context, file: string | undefined, options: { head?: string }): Promise<number> {
  const { head } = options
  if (head !== undefined && !/^[0-9a-f]{64}$/.test(head))
    throw usageError('--head is no SHA-256', 'Give the head that a check or a backup showed.')
  if (file !== undefined) return verifyInFile(context, resolve(file), head)
  const verdict = await context.client().call('auditVerify', { query: head === undefined ? {} : { head } })
  if (context.json) await context.outJson(verdict)
  else await context.out(verdictLines(verdict).join('\n'))
  return verdict.problems.length === 0 ? EXIT.done : EXIT.refused
}

/** The coordinator's program lies beside the CLI, and knows its files; nothing of a running coordinator is needed. */
async function verifyInFile(context: Context, file: string, head: string | undefined): Promise<number> {
  const program = coordinatorProgram()
  const passphrase = isSealed(file) ? await readSecret(context.io, 'passphrase') : null
  const args = [
    ...[program, 'verify', file],
    ...(passphrase === null ? [] : ['--passphrase-file', '-']),
    ...(head === undefined ? [] : ['--head', head]),
    ...(context.json ? ['--json'] : []),
  ]
  const { error, status, stdout, stderr } = spawnSync(process.execPath, args, {
    input: passphrase ?? '',
    encoding: 'utf8',
    maxBuffer: 10_000_000,
  })
  if (stdout) await context.out(stdout.trimEnd())
  if (stderr) await context.note(stderr.trimEnd())
  if (status !== null) return status
  const why = `${basename(program)} did not end in order${error === undefined ? '' : `: ${error.message}`}`
  throw new ClientError(EXIT.refused, why, `Type on the coordinator's machine: smith-coordinator verify ${file}`, error)
}

/** In the checkout it lies above the CLI, in the package beside it. */
function coordinatorProgram(): string {
  const self = realpathSync(process.argv[1] ?? '')
  const name = `main${extname(self)}`
  const beside = join(dirname(self), '..', 'coordinator', name)
  return existsSync(beside) ? beside : join(dirname(self), '..', name)
}

function isSealed(file: string): boolean {
  try {
    const descriptor = openSync(file, 'r')
    try {
      const head = Buffer.alloc(SQLITE_HEAD.length)
      readSync(descriptor, head, 0, head.length, 0)
      return head.toString('latin1') !== SQLITE_HEAD
    } finally {
      closeSync(descriptor)
    }
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new ClientError(EXIT.refused, `${file} can't be read: ${why}`, 'Name a backup file that can be read.', error)
  }
}
