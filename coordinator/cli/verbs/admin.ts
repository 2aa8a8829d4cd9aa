/**
 * The verbs of whoever keeps the instance: enrolment of machines, people and their tokens, backup and restore. The
 * invariants: a secret is shown once, on stdout and alone on its line; a passphrase never stands in argv.
 */
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { type DoctorView, type Role, ROLES } from '../../../protocol/http.ts'
import type { Client } from '../../client/client.ts'
import { type Context, durationOption, machineArgument } from '../context.ts'
import { ClientError, EXIT, usageError } from '../../client/failure.ts'
import type { Paint } from '../../client/failure.ts'
import { isInteractive } from '../io.ts'
import { readSecret } from '../prompt.ts'
import { shellWord } from '../../../protocol/shell-word.ts'
import { dayText, sizeText, tableLines, visible } from '../../client/text.ts'
import { type Run, acting, example } from './verb.ts'

/** So many of the longest names fit into one request. */
const NAMES_MAX = 200
type Finding = DoctorView['findings'][number]
type EnrolOptions = { readonly name?: string; readonly from?: string; readonly replace?: boolean; readonly ttl: string }

export function addAdmin(parent: Command, run: Run): void {
  addEnrol(parent, run)
  addUser(parent, run)
  const backup = parent
    .command('backup')
    .description('write a sealed backup, keys included; asks for a passphrase (admin socket only)')
    .argument('<file>', "a new file on the coordinator's machine")
    .action(acting(run, backupVerb))
  example(backup, 'smith backup /srv/backup/smith-monday', 'smith backup /srv/backup/smith-monday < PASSPHRASE-FILE')
  const doctor = parent
    .command('doctor')
    .description('what differs from how it should be: coordinator, machines, change provider; changes nothing')
    .action(acting(run, doctorVerb))
  example(doctor, 'smith doctor')
  const restore = parent
    .command('restore')
    .description('how a backup is restored: by the coordinator itself, which must be stopped')
    .argument('<file>', 'the backup')
    .requiredOption('--state-dir <dir>', "the coordinator's new state directory")
    .action(acting(run, restoreVerb))
  example(restore, 'smith restore /srv/backup/smith-monday --state-dir /var/lib/smith-coordinator')
}

async function doctorVerb(context: Context): Promise<number> {
  const { findings } = await context.client().call('doctor')
  const isBad = findings.some((finding) => finding.level === 'bad')
  if (context.json) await context.outJson(findings)
  else await context.out(findings.flatMap((finding) => findingLines(finding, context.paint)).join('\n'))
  return isBad ? EXIT.refused : EXIT.done
}

function findingLines({ subject, level, text, remedy }: Finding, paint: Paint): string[] {
  const line = `${level === 'good' ? 'ok' : level}: ${visible(subject)}: ${visible(text)}`
  const shown = level === 'good' ? line : level === 'bad' ? paint.bad(line) : paint.warn(line)
  return remedy === null ? [shown] : [shown, `   do: ${visible(remedy)}`]
}

function addEnrol(parent: Command, run: Run): void {
  const enrol = parent.command('enrol').description('tokens with which machines join')
  const make = enrol
    .command('new')
    .description('make a token for a machine: single use, bound to its name')
    .option('--name <name>', 'the name of the machine')
    .option('--from <file>', 'a file with one name a line; - is stdin')
    .option('--replace', 'retire the machine that bears the name now (a reinstalled host)')
    .option('--ttl <duration>', 'how long the token is good', '1h')
    .action(acting(run, enrolNew))
  example(make, 'smith enrol new --name prod-dal10-carrier3-worker-11', 'smith enrol new --from NAMES --ttl 2h')
  const list = enrol.command('list').description('the tokens that were made').action(acting(run, enrolList))
  example(list, 'smith enrol list')
  const revoke = enrol
    .command('revoke')
    .description('make the unused tokens of a name worthless')
    .argument('<name>', 'the name of the machine')
    .action(
      acting(run, async (context, name: string) => {
        const done = await context.client().call('enrolRevoke', { body: { name: machineArgument(name) } })
        return said(context, done, `The enrolment of ${name.toLowerCase()} is revoked.`)
      }),
    )
  example(revoke, 'smith enrol revoke prod-dal10-carrier3-worker-11')
}

async function enrolNew(context: Context, options: EnrolOptions): Promise<number> {
  const names = namesOf(options)
  const ttlSeconds = Math.ceil(durationOption('--ttl', options.ttl) / 1000)
  const client = context.client()
  const made: { id: string; name: string; token: string; expiresAt: number }[] = []
  for (let from = 0; from < names.length; from += NAMES_MAX) {
    const body = { names: names.slice(from, from + NAMES_MAX), ttlSeconds, replace: options.replace === true }
    const { tokens } = await client.call('enrolNew', { body })
    made.push(...tokens)
    // Shown at once: a token that was made and not shown is lost.
    if (context.json) continue
    for (const one of tokens) await context.out(options.from === undefined ? one.token : `${one.name} ${one.token}`)
  }
  if (context.json) await context.outJson({ tokens: made })
  const { url } = await addressOf(client)
  const until = made[0] === undefined ? '' : ` (until ${dayText(made[0].expiresAt)})`
  await context.note(`On the machine, as root${until}: smith-agent enrol --coordinator ${url} --token TOKEN`)
  return EXIT.done
}

/** Where others reach this coordinator. On the admin socket this is its own machine, so that its name is known here. */
async function addressOf(client: Client): Promise<{ readonly url: string; readonly pin: string }> {
  const { reach } = client.target
  if (reach.kind === 'tls') return { url: urlOf(reach.host, reach.port), pin: reach.pin }
  const { pin, host, port } = await client.call('who')
  return { url: urlOf(host ?? hostname(), port ?? 7600), pin }
}

function urlOf(host: string, port: number): string {
  return `https://${host.includes(':') ? `[${host}]` : host}:${port}`
}

function namesOf(options: EnrolOptions): string[] {
  if ((options.name === undefined) === (options.from === undefined)) {
    throw usageError('give either --name or --from', 'Type: smith enrol new --name MACHINE')
  }
  if (options.name !== undefined) return [machineArgument(options.name)]
  const file = options.from ?? ''
  let text: string
  try {
    text = readFileSync(file === '-' ? 0 : file, 'utf8')
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new ClientError(EXIT.refused, `${file} can't be read: ${why}`, 'Name a file with one machine a line.', error)
  }
  const names = text
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => line !== '')
  if (names.length === 0) throw usageError(`${file} names no machine`, 'Write one name a line.')
  return names.map(machineArgument)
}

async function enrolList(context: Context): Promise<number> {
  const answer = await context.client().call('enrolList')
  if (context.json) {
    await context.outJson(answer.enrolments)
    return EXIT.done
  }
  const now = context.io.now()
  const rows = answer.enrolments.map((one) => [
    one.name,
    one.revokedAt !== null ? 'revoked' : one.usedAt !== null ? 'used' : one.expiresAt <= now ? 'expired' : 'open',
    dayText(one.expiresAt),
    one.by,
    one.replace ? 'replaces' : '',
  ])
  const lines = tableLines(['MACHINE', 'STATE', 'GOOD UNTIL', 'BY', ''], rows)
  await context.out(rows.length === 0 ? 'No tokens.' : lines.join('\n'))
  return EXIT.done
}

function addUser(parent: Command, run: Run): void {
  const user = parent.command('user').description('the people who may use smith')
  const add = user
    .command('add')
    .description('add a person and show the token, this once')
    .argument('<name>', "the person's name")
    .requiredOption('--role <role...>', ROLES.join(', '))
    .option('--ttl <duration>', 'how long the token is good, in whole days; without it, for ever')
    .action(acting(run, userAdd))
  example(add, 'smith user add ann --role requester approver')
  const list = user.command('list').description('the people and their roles').action(acting(run, userList))
  example(list, 'smith user list')
  const revoke = user
    .command('revoke')
    .description("make a person's token worthless, at once")
    .argument('<name>', "the person's name")
    .action(
      acting(run, async (context, name: string) => {
        const done = await context.client().call('userRevoke', { body: { name } })
        return said(context, done, `The token of ${visible(name)} is revoked.`)
      }),
    )
  example(revoke, 'smith user revoke ann')
}

async function userAdd(context: Context, name: string, options: { role: string[]; ttl?: string }): Promise<number> {
  const roles = options.role
    .flatMap((text) => text.split(','))
    .map((text): Role => {
      const role = ROLES.find((one) => one === text)
      if (role === undefined) throw usageError(`${text} is no role`, `The roles are ${ROLES.join(', ')}.`)
      return role
    })
  const ttlDays = options.ttl === undefined ? undefined : Math.ceil(durationOption('--ttl', options.ttl) / 86_400_000)
  const client = context.client()
  const made = await client.call('userAdd', { body: { name, roles, ...(ttlDays === undefined ? {} : { ttlDays }) } })
  if (context.json) await context.outJson(made)
  else await context.out(made.token)
  const { url, pin } = await addressOf(client)
  await context.note(`Shown this once. ${visible(made.name)} types: smith login --url ${url} --pin ${pin}`)
  return EXIT.done
}

async function userList(context: Context): Promise<number> {
  const { users } = await context.client().call('userList')
  if (context.json) {
    await context.outJson(users)
    return EXIT.done
  }
  const now = context.io.now()
  const rows = users.map((user) => [
    user.name,
    user.roles.join(', '),
    user.revokedAt !== null ? 'revoked' : user.expiresAt !== null && user.expiresAt <= now ? 'expired' : 'active',
    user.expiresAt === null ? 'never' : dayText(user.expiresAt),
    dayText(user.createdAt),
  ])
  await context.out(
    rows.length === 0 ? 'No people.' : tableLines(['NAME', 'ROLES', 'STATE', 'ENDS', 'ADDED'], rows).join('\n'),
  )
  return EXIT.done
}

async function backupVerb(context: Context, file: string): Promise<number> {
  const client = context.client()
  const passphrase = await readSecret(context.io, 'passphrase')
  if (isInteractive(context.io) && (await readSecret(context.io, 'the same again')) !== passphrase) {
    throw new ClientError(EXIT.refused, 'the two passphrases differ', 'Nothing was written; try again.')
  }
  const answer = await client.call('backup', { body: { path: resolve(file), passphrase } })
  if (context.json) await context.outJson(answer)
  else {
    await context.out(
      `Written: ${visible(answer.path)}, ${sizeText(answer.bytes)}, up to revision ${answer.rev}\nSHA-256: ${answer.sha256}\nHead of the journal: ${answer.head}`,
    )
  }
  return EXIT.done
}

/** A restored state directory must have no coordinator on it, so it is the coordinator's program that does it. */
async function restoreVerb(_context: Context, file: string, options: { stateDir: string }): Promise<number> {
  const command = `smith-coordinator restore ${shellWord(resolve(file))} --state-dir ${shellWord(resolve(options.stateDir))} --passphrase-file PASSPHRASE-FILE`
  return Promise.reject(
    new ClientError(
      EXIT.refused,
      "a backup is restored by the coordinator's own program, on its machine, while it is stopped; nothing was done",
      `Type: ${command}`,
    ),
  )
}

async function said(context: Context, done: { readonly rev: number }, text: string): Promise<number> {
  if (context.json) await context.outJson(done)
  else await context.out(text)
  return EXIT.done
}
